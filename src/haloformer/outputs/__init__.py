"""What a network's numbers mean: layout, targets, losses, intervals, temperature, out-of-distribution verdict."""
