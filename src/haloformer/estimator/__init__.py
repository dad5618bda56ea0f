"""The house's training and prediction as an estimator of scikit-learn's kind."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.estimator.classifier import LensClassifier

__all__ = ["LensClassifier"]


def __getattr__(name: str) -> Any:  # on first use: scikit-learn is imported by nothing else of ours
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.classifier"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
