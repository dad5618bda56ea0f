"""How good a trained model is on new images: numbers with intervals, figures and a report."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.evaluation.command import calibrate, compare, evaluate

__all__ = ["calibrate", "compare", "evaluate"]


def __getattr__(name: str) -> Any:  # on first use, so that importing the package imports no torch
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.command"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
