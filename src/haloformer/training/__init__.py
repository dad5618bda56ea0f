"""Training: one function from data to a run folder."""

from haloformer.training.engine import RunResult, train

__all__ = ["RunResult", "train"]
