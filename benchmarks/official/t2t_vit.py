"""The official T2T-ViT, built from its own clone."""

import importlib
import sys
import types
from pathlib import Path

import timm.models.helpers
from torch import nn

REPOSITORY = "https://github.com/yitu-opensource/T2T-ViT"
COMMIT = "0f63dc9558f4d192de926504dbddfa1b3f5db6ca"
VARIANTS = (
    "t2t_vit_7_224",
    "t2t_vit_10_224",
    "t2t_vit_12_224",
    "t2t_vit_14_224",
    "t2t_vit_19_224",
    "t2t_vit_24_224",
    "t2t_vit_t_14_224",
    "t2t_vit_t_19_224",
    "t2t_vit_t_24_224",
    "t2t_vit_14_resnext_224",
    "t2t_vit_14_wide_224",
)


def build(folder: Path, variant: str) -> nn.Module:
    """Returns the official model of our variant, with its initial weights."""
    # Imported by the file, called only to download weights, and no longer at this place in timm.
    timm.models.helpers.load_pretrained = None
    # The package's __init__ imports variants that are of no concern here: enter it without running it.
    package = types.ModuleType("official_t2t")
    package.__path__ = [str(folder / "models")]
    sys.modules["official_t2t"] = package
    official = importlib.import_module("official_t2t.t2t_vit")
    return getattr(official, variant.removesuffix("_224"))()
