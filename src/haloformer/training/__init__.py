"""Training: from an experiment to a run folder.

What carries it out is imported on first use, so that an experiment can be looked at (``--help``, ``--print_config``) at once.
"""

from typing import TYPE_CHECKING, Any

from haloformer.training.config import Experiment, compose, list_presets

if TYPE_CHECKING:
    from haloformer.training.engine import RunResult, run, train

__all__ = ["Experiment", "RunResult", "compose", "list_presets", "run", "train"]


def __getattr__(name: str) -> Any:
    if name in ("RunResult", "run", "train"):
        from haloformer.training import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'haloformer.training' has no attribute '{name}'")
