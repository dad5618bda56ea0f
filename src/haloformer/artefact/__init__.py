"""What ships: weights with all that is needed to use them, as files that cannot hold code."""
