"""What an answer rests on: where the network looks, which pixels count, and whether that is where substructure is."""

from haloformer.explain.attributions import METHODS, Explained, Map, explain_images
from haloformer.explain.explain import attention_overlay, explain
from haloformer.explain.scores import substructure_difference, substructure_region

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
