"""Architectures: one factory over timm's models and our own, at the image's native size."""

from haloformer.models import hybrid_vit as _hybrid_vit  # noqa: F401  registers its models with timm
from haloformer.models.factory import create_model
from haloformer.models.registry import ModelInfo, find_model, list_models

__all__ = ["ModelInfo", "create_model", "find_model", "list_models"]
