"""PVT v1's official code, for comparison."""

import importlib
import sys
import types
from pathlib import Path

import timm.layers
from torch import nn

REPOSITORY = "https://github.com/whai362/PVT"
COMMIT = "57e2dfaa5a46f9050d76f306a4fcd9a7c061f520"
VARIANTS = ("pvt_tiny_224", "pvt_small_224", "pvt_medium_224", "pvt_large_224")


def build(folder: Path, variant: str) -> nn.Module:
    """Builds the official model of one of our names."""
    # Where the official file looks for timm's parts; registering does nothing, so that our models stay registered.
    sys.modules["timm.models.layers"] = timm.layers
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    sys.modules["timm.models.registry"] = registry
    sys.path.insert(0, str(folder / "classification"))
    official = importlib.import_module("pvt")
    sys.path.pop(0)
    return getattr(official, variant.removesuffix("_224"))()
