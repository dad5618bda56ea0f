"""CPVT put together from its authors' parts.

CPVT's own repository (https://github.com/Meituan-AutoML/CPVT) holds no code but points to Twins, where ``CPVTV2`` is a
pyramid with a PEG after the first block of each stage. One stage of it, of 16-pixel patches and without spatial
reduction, is CPVT-GAP, but for a norm after the patches that DeiT does not have. With a class token, the PEG sees the
other tokens only.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

REPOSITORY = "https://github.com/Meituan-AutoML/Twins"
COMMIT = "c1ff6714969ad8ef330e75cf97bd310f7488f529"
VARIANTS = (
    "cpvt_tiny_224",
    "cpvt_small_224",
    "cpvt_base_224",
    "cpvt_tiny_gap_224",
    "cpvt_small_gap_224",
    "cpvt_base_gap_224",
)


class WithClassToken(nn.Module):
    """The official parts in the official order, with a class token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.patch_embeds, self.blocks, self.pos_block = (
            model.patch_embeds,
            model.blocks,
            model.pos_block,
        )
        self.norm, self.head = model.norm, model.head
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.norm.normalized_shape[0]))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits."""
        tokens, (height, width) = self.patch_embeds[0](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1)
        for index, block in enumerate(self.blocks[0]):
            tokens = block(tokens, height, width)
            if index == 0:
                places = self.pos_block[0](tokens[:, 1:], height, width)
                tokens = torch.cat([tokens[:, :1], places], dim=1)
        return self.head(self.norm(tokens)[:, 0])


def build(folder: Path, variant: str) -> nn.Module:
    """Returns the official model of our variant, with its initial weights."""
    official = _gvt(folder)
    width, heads = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}[variant.split("_")[1]]
    model = official.CPVTV2(
        patch_size=16,
        embed_dims=[width],
        num_heads=[heads],
        mlp_ratios=[4],
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        depths=[12],
        sr_ratios=[1],
    )
    model.patch_embeds[0].norm = nn.Identity()
    return model if "gap" in variant else WithClassToken(model)


def _gvt(folder: Path):
    """Imports the official file, whose models are not to take the names of timm's Twins."""
    import timm.models.registry

    register = timm.models.registry.register_model
    timm.models.registry.register_model = lambda function: function
    try:
        spec = importlib.util.spec_from_file_location("official_gvt", folder / "gvt.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["official_gvt"] = module
        spec.loader.exec_module(module)
    finally:
        timm.models.registry.register_model = register
    return module
