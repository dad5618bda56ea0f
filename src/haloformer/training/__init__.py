"""Training: from an experiment to a run folder."""

from haloformer.training.config import Experiment, compose, list_presets
from haloformer.training.engine import RunResult, run, train

__all__ = ["Experiment", "RunResult", "compose", "list_presets", "run", "train"]
