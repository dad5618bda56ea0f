"""What leaves the laboratory: the trained model as one object that answers."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.prediction.interface import predict
    from haloformer.prediction.predictor import Predictor, load
    from haloformer.prediction.result import Predictions, WrittenPredictions
    from haloformer.prediction.rows import PredictionSummary

_HOMES = {
    "PredictionSummary": "rows",
    "Predictor": "predictor",
    "load": "predictor",
    "Predictions": "result",
    "WrittenPredictions": "result",
    "predict": "interface",
}

__all__ = ["PredictionSummary", "Predictions", "Predictor", "WrittenPredictions", "load", "predict"]

# On first use: worker processes that simulate need none of it.
__getattr__, __dir__ = lazy(__name__, _HOMES)
