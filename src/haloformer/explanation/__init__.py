"""Explains predictions: where the network looks, which pixels count, and whether substructure is there."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.explanation.attributions import attention_overlay, explain_images
    from haloformer.explanation.explained import Explained, Map
    from haloformer.explanation.interface import explain
    from haloformer.explanation.methods import METHODS
    from haloformer.explanation.scores import substructure_difference, substructure_region

_HOMES = {
    "METHODS": "methods",
    "Explained": "explained",
    "Map": "explained",
    "attention_overlay": "attributions",
    "explain": "interface",
    "explain_images": "attributions",
    "substructure_difference": "scores",
    "substructure_region": "scores",
}

__all__ = [
    "METHODS",
    "Explained",
    "Map",
    "attention_overlay",
    "explain",
    "explain_images",
    "substructure_difference",
    "substructure_region",
]

# On first use, so that importing the package imports no torch.
__getattr__, __dir__ = lazy(__name__, _HOMES)
