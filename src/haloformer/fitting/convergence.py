"""What the tensor code and the compiled kernel share: when a fit has settled, and what it does not look at."""

SETTLED = 0.02  # standard deviations: an image that a further step would move by less takes none

UNSEEN = 2.0  # pixels about the lens's centre that do not count where its place is fitted
