"""When a fit has settled: shared by the tensor code and the compiled kernel."""

SETTLED = 0.02  # standard deviations: an image that a further step would move by less takes none
