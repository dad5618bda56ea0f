"""How good a trained model is on new images: numbers with intervals, figures and a report."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.evaluation.command import calibrate, compare, evaluate

__all__ = ["calibrate", "compare", "evaluate"]

# On first use, so that importing the package imports no torch.
__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "command"))
