"""The smooth fit of composed surveys: lens, source and exposure vary, with priors from the survey."""

from haloformer.fitting.composed.fitter import ComposedFitter
from haloformer.fitting.composed.problem import ComposedProblem, as_named

__all__ = ["ComposedFitter", "ComposedProblem", "as_named"]
