"""Architectures: one factory over timm's models and our own, at the image's native size."""

from haloformer.models.attention_maps import AttentionMap, attention, has_attention
from haloformer.models.factory import create_model
from haloformer.models.info import ModelInfo
from haloformer.models.registry import find_model, list_models

__all__ = ["AttentionMap", "ModelInfo", "attention", "create_model", "find_model", "has_attention", "list_models"]
