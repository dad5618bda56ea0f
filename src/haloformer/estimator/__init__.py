"""The house's training and prediction as an estimator of scikit-learn's kind."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.estimator.classifier import LensClassifier

__all__ = ["LensClassifier"]

# On first use: it imports scikit-learn and Lightning.
__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "classifier"))
