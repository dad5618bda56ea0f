"""RVT and RVT* as their authors wrote them, with the corrections of their EasyRobust repository."""

import importlib.util
import sys
import types
from pathlib import Path

import timm.layers
from timm.models import vision_transformer
from torch import nn

REPOSITORY = "https://github.com/alibaba/easyrobust"
COMMIT = "c8b6c085b38c6ebbbfde4cbed2cc1fa81dd29927"
VARIANTS = (
    "rvt_tiny_224",
    "rvt_small_224",
    "rvt_base_224",
    "rvt_star_tiny_224",
    "rvt_star_small_224",
    "rvt_star_base_224",
)


def build(folder: Path, variant: str) -> nn.Module:
    """Builds the official model of a variant; its attention masks are whatever memory held."""
    # timm has moved what the file imports; registering would only overwrite names.
    shims = {
        "timm.models.layers": {"DropPath": timm.layers.DropPath},
        "timm.models.vision_transformer": {"_cfg": vision_transformer._cfg},
        "timm.models.registry": {"register_model": lambda entry: entry},
    }
    before = {name: sys.modules.get(name) for name in shims}
    for name, members in shims.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    try:
        spec = importlib.util.spec_from_file_location(
            "official_rvt", folder / "easyrobust/models/rvt.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, earlier in before.items():
            if earlier is None:
                del sys.modules[name]
            else:
                sys.modules[name] = earlier
    size = variant.removesuffix("_224").split("_")[-1]
    return getattr(module, f"rvt_{size}_plus" if "star" in variant else f"rvt_{size}")(False)
