"""What leaves the laboratory: the trained model as one object that answers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.prediction.interface import predict
    from haloformer.prediction.predictor import Predictor, load
    from haloformer.prediction.result import Predictions
    from haloformer.prediction.rows import PredictionSummary

_HOMES = {
    "PredictionSummary": "rows",
    "Predictor": "predictor",
    "load": "predictor",
    "Predictions": "result",
    "predict": "interface",
}

__all__ = ["PredictionSummary", "Predictions", "Predictor", "load", "predict"]


def __getattr__(name: str) -> Any:  # on first use: worker processes that simulate need none of it
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
