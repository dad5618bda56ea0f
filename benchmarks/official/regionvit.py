"""The official RegionViT (Apache-2.0), built from its clone."""

import importlib
import sys
import types
from pathlib import Path

import timm.layers
import timm.models
from torch import nn

REPOSITORY = "https://github.com/IBM/RegionViT"
COMMIT = "77000c2fcfbe9a5735d7a27a8a7821f69c0440ec"
VARIANTS = (
    "regionvit_tiny_224",
    "regionvit_small_224",
    "regionvit_medium_224",
    "regionvit_base_224",
)


def build(folder: Path, variant: str) -> nn.Module:
    """Builds a variant; the names of ours are those of the official functions."""
    # It was written for a timm of 2021, whose modules have moved. Its models must not replace ours in timm's registry.
    registry = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    sys.modules["timm.models.registry"] = registry
    sys.modules["timm.models.layers"] = timm.layers
    sys.path.insert(0, str(folder))
    return getattr(importlib.import_module("regionvit.regionvit"), variant)()
