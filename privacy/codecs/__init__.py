"""Few bits a parameter where no secure sum is taken: one codec a file, each with its paper."""
