"""How good a trained model is on images that it has not seen: numbers with intervals, figures, and a report."""

from haloformer.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
