"""What may stand in the place of the mean where the server sees single updates: one rule a file."""
