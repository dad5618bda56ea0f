"""haloformer: classifies dark matter in images of strong gravitational lenses.

The names that a notebook needs are here; each is imported on first use, so that
``import haloformer`` is instant. ``dir(haloformer)`` lists them.
"""

from typing import TYPE_CHECKING

from haloformer._version import __version__
from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.errors import InputError
    from haloformer.estimator import LensClassifier
    from haloformer.evaluation.command import evaluate
    from haloformer.explanation.interface import explain
    from haloformer.fitting.reallens.run import fit
    from haloformer.models import create_model, list_models
    from haloformer.oracle.command import limits
    from haloformer.prediction.interface import predict
    from haloformer.prediction.predictor import Predictor, load
    from haloformer.simulation import Survey, list_surveys, simulate
    from haloformer.training import train

_HOMES = {
    "InputError": "haloformer.errors",
    "LensClassifier": "haloformer.estimator",
    "Predictor": "haloformer.prediction.predictor",
    "Survey": "haloformer.simulation",
    "__version__": "haloformer._version",
    "create_model": "haloformer.models",
    "evaluate": "haloformer.evaluation.command",
    "explain": "haloformer.explanation.interface",
    "fit": "haloformer.fitting.reallens.run",
    "limits": "haloformer.oracle.command",
    "list_models": "haloformer.models",
    "list_surveys": "haloformer.simulation",
    "load": "haloformer.prediction.predictor",
    "predict": "haloformer.prediction.interface",
    "simulate": "haloformer.simulation",
    "train": "haloformer.training",
}

__all__ = [
    "InputError",
    "LensClassifier",
    "Predictor",
    "Survey",
    "__version__",
    "create_model",
    "evaluate",
    "explain",
    "fit",
    "limits",
    "list_models",
    "list_surveys",
    "load",
    "predict",
    "simulate",
    "train",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
