"""CCT's official code, for comparison."""

import importlib
import sys
from pathlib import Path

from torch import nn

REPOSITORY = "https://github.com/SHI-Labs/Compact-Transformers"
COMMIT = "cd11f0912749d376f7465cb83534e768b6701d7d"
VARIANTS = (
    "cct_2_3x2_32",
    "cct_4_3x2_32",
    "cct_6_3x1_32",
    "cct_7_3x1_32",
    "cct_7_7x2_224",
    "cct_14_7x2_224",
)
IMG_SIZE = {name: 32 for name in VARIANTS if name.endswith("_32")}


def build(folder: Path, variant: str) -> nn.Module:
    """Builds the official model of one of our names, with 1000 classes as all here are compared."""
    sys.modules["timm.models.registry"] = None  # type: ignore[assignment]  # it must not register its models over ours
    sys.path.insert(0, str(folder))
    official = importlib.import_module("src.cct")
    sys.path.remove(str(folder))
    return getattr(official, variant)(num_classes=1000)
