"""The official CrossFormer (MIT), built from its clone."""

import importlib.util
import sys
from pathlib import Path

import timm.layers
from torch import nn

REPOSITORY = "https://github.com/cheerss/CrossFormer"
COMMIT = "795201075f0066e78408882617312084e25aef61"
VARIANTS = (
    "crossformer_tiny_224",
    "crossformer_small_224",
    "crossformer_base_224",
    "crossformer_large_224",
)

# What configs/crossformer/*.yaml say of each: width, depths, heads.
_NUMBERS: dict[str, tuple[int, list[int], list[int]]] = {
    "crossformer_tiny_224": (64, [1, 1, 8, 6], [2, 4, 8, 16]),
    "crossformer_small_224": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "crossformer_base_224": (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "crossformer_large_224": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
}


def build(folder: Path, variant: str) -> nn.Module:
    """Builds a variant; the names are ours, the numbers those of the official configurations."""
    sys.modules["timm.models.layers"] = timm.layers  # it was written for a timm of 2021
    spec = importlib.util.spec_from_file_location(
        "official_crossformer", folder / "models" / "crossformer.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    embed_dim, depths, num_heads = _NUMBERS[variant]
    return module.CrossFormer(
        patch_size=[4, 8, 16, 32],
        embed_dim=embed_dim,
        depths=depths,
        num_heads=num_heads,
        group_size=[7, 7, 7, 7],
        crs_interval=[8, 4, 2, 1],
        merge_size=[[2, 4], [2, 4], [2, 4]],
        mlp_ratio=[4.0, 4.0, 4.0, 4.0],
    )
