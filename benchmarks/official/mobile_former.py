"""Mobile-Former's reference code (by others than the paper's authors, who published none), for comparison."""

import importlib
import sys
import types
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import timm.layers
from torch import nn

REPOSITORY = "https://github.com/AAboys/MobileFormer"
COMMIT = "f44731062abb22a87962f0783467393dae23a9c5"
VARIANTS = tuple(f"mobile_former_{flops}m_224" for flops in (26, 52, 96, 151, 214, 294, 508))


def build(folder: Path, variant: str) -> nn.Module:
    """Builds the reference's model of one of our names."""
    # The files are meant to lie in timm's own folder: they become a package, beside the parts of timm they ask for.
    package: Any = types.ModuleType("mobile_former_reference")
    package.__path__ = [str(folder)]
    helpers: Any = types.ModuleType("mobile_former_reference.helpers")
    helpers.build_model_with_cfg = lambda model, name, pretrained, default_cfg, **kwargs: model(
        **kwargs
    )
    helpers.default_cfg_for_features = None
    sys.modules |= {
        "mobile_former_reference": package,
        "mobile_former_reference.layers": timm.layers,
        "mobile_former_reference.helpers": helpers,
    }
    with redirect_stdout(StringIO()):  # it prints every layer
        official = importlib.import_module("mobile_former_reference.mobile_former")
        return getattr(official, variant.removesuffix("_224"))()
