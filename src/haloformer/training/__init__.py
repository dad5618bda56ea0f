"""Training: from an experiment to a run folder."""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(
    name: str,
) -> Any:  # on first use: prediction needs this package's small modules, but not Lightning
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
