"""CSWin of its authors (the package einops must be installed)."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import timm.layers
import timm.models
from torch import nn

REPOSITORY = "https://github.com/microsoft/CSWin-Transformer"
COMMIT = "f111ae2f771df32006e7afd7916835dd67d4cb9d"
VARIANTS = (
    "cswin_tiny_224", "cswin_small_224", "cswin_base_224", "cswin_large_224", "cswin_base_384", "cswin_large_384",
)  # fmt: skip
IMG_SIZE = {"cswin_base_384": 384, "cswin_large_384": 384}

_ENTRIES = {
    "cswin_tiny_224": "CSWin_64_12211_tiny_224",
    "cswin_small_224": "CSWin_64_24322_small_224",
    "cswin_base_224": "CSWin_96_24322_base_224",
    "cswin_large_224": "CSWin_144_24322_large_224",
    "cswin_base_384": "CSWin_96_24322_base_384",
    "cswin_large_384": "CSWin_144_24322_large_384",
}


def build(folder: Path, variant: str) -> nn.Module:
    # The file of 2021 imports from timm by names that it no longer has.
    helpers, registry = ModuleType("timm.models.helpers"), ModuleType("timm.models.registry")
    helpers.load_pretrained = None  # type: ignore[attr-defined]  # imported there, but never called
    registry.register_model = timm.models.register_model  # type: ignore[attr-defined]
    sys.modules.update(
        {m.__name__: m for m in (helpers, registry)} | {"timm.models.layers": timm.layers}
    )
    sys.path.insert(0, str(folder))
    official = import_module("models.cswin")
    return getattr(official, _ENTRIES[variant])(img_size=IMG_SIZE.get(variant, 224))
