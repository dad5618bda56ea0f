"""Architectures: one factory over timm's models and our own, at the image's native size."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.models.attention_maps import AttentionMap, attention, has_attention
    from haloformer.models.factory import create_model
    from haloformer.models.info import ModelInfo
    from haloformer.models.registry import find_model, list_models

_HOMES = {
    "AttentionMap": "attention_maps",
    "attention": "attention_maps",
    "has_attention": "attention_maps",
    "create_model": "factory",
    "ModelInfo": "info",
    "find_model": "registry",
    "list_models": "registry",
}

__all__ = [
    "AttentionMap",
    "ModelInfo",
    "attention",
    "create_model",
    "find_model",
    "has_attention",
    "list_models",
]

# On first use: the table of models needs neither torch nor timm.
__getattr__, __dir__ = lazy(__name__, _HOMES)
