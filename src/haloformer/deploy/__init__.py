"""What leaves the laboratory: the trained model as one object that answers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.deploy.predictor import PredictionSummary, Predictor, load, predict

__all__ = ["PredictionSummary", "Predictor", "load", "predict"]


def __getattr__(name: str) -> Any:  # on first use: the workers of `scale` that simulate need none of it
    if name in __all__:
        from haloformer.deploy import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'haloformer.deploy' has no attribute '{name}'")
