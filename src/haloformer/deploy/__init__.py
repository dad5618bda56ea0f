"""What leaves the laboratory: the trained model as one object that answers."""

from haloformer.deploy.predictor import PredictionSummary, Predictor, load, predict

__all__ = ["PredictionSummary", "Predictor", "load", "predict"]
