"""Training: from an experiment to a run folder."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.training.config import Experiment, compose, list_presets
    from haloformer.training.engine import run, train
    from haloformer.training.run_folder import RunResult

_HOMES = {
    "Experiment": "config",
    "compose": "config",
    "list_presets": "config",
    "RunResult": "run_folder",
    "run": "engine",
    "train": "engine",
}

__all__ = ["Experiment", "RunResult", "compose", "list_presets", "run", "train"]

# On first use: prediction needs this package's small modules, but not Lightning.
__getattr__, __dir__ = lazy(__name__, _HOMES)
