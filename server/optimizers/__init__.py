"""What the server makes of the mean change of a round: one optimizer a file, each with its paper."""
