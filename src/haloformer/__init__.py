"""haloformer: classifies dark matter in images of strong gravitational lenses.

The seven names that a notebook needs are here; each is imported on first use, so that
``import haloformer`` is instant.
"""

import importlib
from typing import TYPE_CHECKING

from haloformer._version import __version__

if TYPE_CHECKING:
    from haloformer.evaluation.command import evaluate
    from haloformer.fitting.reallens.run import fit
    from haloformer.models import create_model
    from haloformer.prediction.command import predict
    from haloformer.prediction.predictor import load
    from haloformer.simulation import simulate
    from haloformer.training import train

_HOMES = {
    "simulate": "haloformer.simulation",
    "create_model": "haloformer.models",
    "train": "haloformer.training",
    "evaluate": "haloformer.evaluation.command",
    "predict": "haloformer.prediction.command",
    "fit": "haloformer.fitting.reallens.run",
    "load": "haloformer.prediction.predictor",
}

__all__ = ["__version__", "create_model", "evaluate", "fit", "load", "predict", "simulate", "train"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'haloformer' has no attribute '{name}'")
