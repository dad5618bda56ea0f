"""Explains predictions: where the network looks, which pixels count, and whether substructure is there."""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:  # on first use, so that importing the package imports no torch
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
