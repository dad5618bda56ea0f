"""haloformer: a transformer that looks at an image and at what its best smooth lens cannot explain of it.

Ours. Substructure shows as small departures from a smooth lens, spread along the arcs: a few standard deviations in many pixels. A
convolutional stem with residual blocks (He et al. 2016, arXiv:1512.03385) gathers them where they are, at four and eight pixels; attention among
all 8-pixel cells then weighs one arc against the other, as only together do they tell a deflector from a source. Its further channels, the
residual of the smooth fit and the detail of that, are added outside (``physics: detail``, :mod:`haloformer.data.residual`), so that any other
network can have them, too.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.models.hybrid_vit import stem_embed
from haloformer.models.info import ModelInfo


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, beside a shortcut: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        nn.init.zeros_(self.norm2.weight)  # each block begins as the identity (Goyal et al. 2017, arXiv:1706.02677)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        return self.act(x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))


class ResidualStem(nn.Sequential):
    """Stages of a strided convolution and some residual blocks: (B, C, H, W) to (B, D, H/s, W/s), s the product of the strides.

    A stage of stride 2 has 3×3 filters, one of stride 4 7×7: cells overlap, so that no trace falls between two.
    """

    def __init__(
        self, in_chans: int, channels: Sequence[int], strides: Sequence[int], blocks: Sequence[int], embed_dim: int
    ) -> None:
        layers: list[nn.Module] = []
        width = in_chans
        for out, stride, count in zip(channels, strides, blocks, strict=True):
            convolution = nn.Conv2d(width, out, 2 * stride - 1, stride=stride, padding=stride - 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
            layers += [ResidualBlock(out) for _ in range(count)]
            width = out
        super().__init__(*layers, nn.Conv2d(width, embed_dim, 1))
        self.num_features = embed_dim  # where timm's HybridEmbed looks for it


class Haloformer(VisionTransformer):
    """A pre-norm ViT on a residual stem; with ``d4``, exactly invariant under the eight symmetries of the pixel grid."""

    def __init__(self, *, d4: bool = False, **kwargs: Any) -> None:
        """Builds the network.

        Args:
            d4: Average the logits of the eight turned and mirrored images: exact, for any weights, at eight times the cost.
            **kwargs: Of timm's ``VisionTransformer``.
        """
        super().__init__(**kwargs)
        self.d4 = d4

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Returns the logits (B, num_classes) of images (B, C, H, W)."""
        if not self.d4:
            return super().forward(x)
        if x.shape[-1] != x.shape[-2]:
            raise InputError(f"d4: quarter turns need square images, not {x.shape[-2]}×{x.shape[-1]}")
        views = [v for turned in (torch.rot90(x, k, (-2, -1)) for k in range(4)) for v in (turned, turned.flip(-1))]
        return super().forward(torch.cat(views)).unflatten(0, (8, -1)).mean(0)


def haloformer(
    *,
    img_size: int | tuple[int, int] = 96,
    in_chans: int = 2,
    num_classes: int = 3,
    stem_channels: Sequence[int] = (32, 64),
    stem_strides: Sequence[int] = (4, 2),
    stem_blocks: Sequence[int] = (1, 1),
    embed_dim: int = 96,
    depth: int = 3,
    num_heads: int = 3,
    mlp_ratio: float = 2.0,
    **kwargs: Any,
) -> Haloformer:
    """Builds the network.

    Args:
        img_size: Height and width in pixels.
        in_chans: Channels: the image and its residual, or the image alone.
        num_classes: Length of the output.
        stem_channels: Channels of each stage of the stem.
        stem_strides: Stride of each stage; their product is the side of a token's cell in pixels.
        stem_blocks: Residual blocks of each stage.
        embed_dim: Width D of the tokens.
        depth: Number of transformer blocks.
        num_heads: Attention heads per block; divides ``embed_dim``.
        mlp_ratio: Width of a block's hidden layer over D.
        **kwargs: ``d4``, and those of timm's ``VisionTransformer``.
    """
    if not len(stem_channels) == len(stem_strides) == len(stem_blocks):
        raise InputError("haloformer: stem_channels, stem_strides and stem_blocks must be of the same length")
    if embed_dim % num_heads:
        raise InputError(f"haloformer: num_heads={num_heads} does not divide embed_dim={embed_dim}")
    return Haloformer(
        img_size=img_size,
        patch_size=1,  # one token per pixel of the stem's feature map
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        class_token=False,
        global_pool="avg",
        embed_layer=partial(
            stem_embed,
            backbone=ResidualStem(in_chans, stem_channels, stem_strides, stem_blocks, embed_dim),
            stride=math.prod(stem_strides),
        ),
        **kwargs,
    )


@register_model
def haloformer_nano(pretrained: bool = False, **kwargs: Any) -> Haloformer:
    """Stem of 32 and 64 channels and stride 8, D = 96, three blocks."""
    if pretrained:
        raise InputError("there are no pretrained weights of this name to download: give a file")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm hands these to every entry
        kwargs.pop(key, None)
    return haloformer(**kwargs)


_PAPER = "haloformer, this package; its stem after Early Convolutions Help Transformers See Better (arXiv:2106.14881)"


def _info(name: str, notes: str, size: Any, **kwargs: Any) -> ModelInfo:
    return ModelInfo(
        name,
        "haloformer",
        _PAPER,
        "haloformer_nano",
        notes,
        {"head_norm": "batch", **kwargs},
        source="haloformer",
        size=size,
    )


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "haloformer_nano",
        "image and residual: residual stem of stride 8, three transformer blocks; trains on two CPU cores",
        "nano",
    ),
    _info(
        "haloformer_tiny",
        "the same, wider and deeper: stem of 64 and 192 channels, D = 192, eight blocks",
        "tiny",
        stem_channels=(64, 192),
        stem_blocks=(2, 2),
        embed_dim=192,
        depth=8,
        num_heads=6,
    ),
    _info(
        "haloformer_small",
        "for a GPU: three stages of 64, 128, 256 channels, D = 320, eight blocks",
        "other",
        stem_channels=(64, 128, 256),
        stem_strides=(2, 2, 2),
        stem_blocks=(1, 2, 2),
        embed_dim=320,
        depth=8,
        num_heads=8,
        mlp_ratio=3.0,
    ),
)
