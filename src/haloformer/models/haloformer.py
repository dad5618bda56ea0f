"""haloformer: a transformer that sees an image and what its best smooth lens cannot explain.

Ours. Substructure shows as small departures from a smooth lens, spread along the arcs: a few
standard deviations in many pixels. A convolutional stem gathers them where they are; attention
among all 8-pixel cells then weighs one arc against the other, as only together do they tell a
deflector from a source. The stem has residual blocks (He et al. 2016, arXiv:1512.03385), or group
convolutions (:mod:`haloformer.models.equivariant`): arcs run in all directions, and a filter that
is tied in all orientations need not learn each trace anew. The network's further channels, the
residual of the smooth fit and the detail of that, are added outside (``physics: detail``,
:mod:`haloformer.fitting.channels`), so that any other network can have them, too.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.models.equivariant import (
    GROUPS,
    ConvBlock,
    Downsample,
    FieldNorm,
    Group,
    GroupConv2d,
)
from haloformer.models.hybrid_vit import stem_embed
from haloformer.models.info import ModelInfo, Size
from haloformer.vocabulary import unknown_name


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, beside a shortcut: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        nn.init.zeros_(
            self.norm2.weight
        )  # each block begins as the identity (Goyal et al. 2017, arXiv:1706.02677)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        out: Tensor = self.act(x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))
        return out


class ResidualStem(nn.Sequential):
    """Stages of a strided convolution and some residual blocks.

    (B, C, H, W) to (B, D, H/s, W/s), s the product of the strides.

    A stage of stride 2 has 3×3 filters, one of stride 4 7×7: cells overlap, so that no trace falls
    between two.
    """

    def __init__(
        self,
        in_chans: int,
        channels: Sequence[int],
        strides: Sequence[int],
        blocks: Sequence[int],
        embed_dim: int,
    ) -> None:
        layers: list[nn.Module] = []
        width = in_chans
        for out, stride, count in zip(channels, strides, blocks, strict=True):
            convolution = nn.Conv2d(
                width, out, 2 * stride - 1, stride=stride, padding=stride - 1, bias=False
            )
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
            layers += [ResidualBlock(out) for _ in range(count)]
            width = out
        super().__init__(*layers, nn.Conv2d(width, embed_dim, 1))
        self.num_features = embed_dim  # where timm's HybridEmbed looks for it


class HalvedLifting(nn.Module):
    """A lifting group convolution and the blurred halving after it as one strided convolution.

    Then norm and ReLU.

    Both are linear, so that their filters can be convolved with one another beforehand: the maps
    that halving throws away are never made.

    Args:
        in_chans: Channels of the image.
        out_fields: Fields of the output.
        group: The group.
        kernel_size: Side of the lifting filters; the blur adds three or four pixels.
        blur: Standard deviation of the Gaussian in pixels.
    """

    def __init__(
        self, in_chans: int, out_fields: int, group: Group, kernel_size: int = 5, blur: float = 1.0
    ) -> None:
        super().__init__()
        self.conv = GroupConv2d(in_chans, out_fields, group, kernel_size, "rings", lifting=True)
        self.halve = Downsample(blur)
        self.norm = FieldNorm(out_fields)

    def forward(self, images: Tensor) -> Tensor:
        """Takes (B, C, H, W) to (B, |G|·F, ⌈H/2⌉, ⌈W/2⌉)."""
        taps = [self.halve.odd if side % 2 else self.halve.even for side in images.shape[-2:]]
        filters = self.conv.filters()
        side = filters.shape[-1]
        sides = [side + len(tap) - 1 for tap in taps]
        blur = (taps[0][:, None] * taps[1]).to(filters.dtype)[None, None]
        blurred = F.conv2d(
            filters.reshape(-1, 1, side, side), blur, padding=[len(tap) - 1 for tap in taps]
        )
        padding = [(len(tap) - 1) // 2 + side // 2 for tap in taps]
        maps = F.conv2d(
            images, blurred.reshape(*filters.shape[:2], *sides), stride=2, padding=padding
        )
        out: Tensor = self.norm(maps).relu()
        return out


class EquivariantStem(nn.Module):
    """Group convolutions, of whose last fields the largest map is taken at each place.

    (B, C, H, W) to (B, D, H/s, W/s).

    If the image is rotated by an element of the group that sends pixels to pixels, the output is
    rotated with it, and is else the same.

    Args:
        in_chans: Channels of the image.
        group: One of :data:`~haloformer.models.equivariant.GROUPS`.
        fields: Fields of each layer; the first lifts the image.
        strides: 1 or 2 for each layer; the first is 2.
        token_fields: Fields that a 1×1 group convolution makes for the tokens.
        embed_dim: D.
    """

    def __init__(
        self,
        in_chans: int,
        group: str,
        fields: Sequence[int],
        strides: Sequence[int],
        token_fields: int,
        embed_dim: int,
    ) -> None:
        super().__init__()
        self.group = GROUPS[group]
        layers: list[nn.Module] = [HalvedLifting(in_chans, fields[0], self.group)]
        for before, after, stride in zip(fields, fields[1:], strides[1:]):
            downsample = Downsample(1.0) if stride == 2 else nn.Identity()
            layers.append(ConvBlock(before, after, self.group, 5, "rings", downsample))
        self.layers = nn.Sequential(*layers)
        self.tokens = GroupConv2d(fields[-1], token_fields, self.group, 1, "rings")
        self.project = nn.Conv2d(token_fields, embed_dim, 1)
        self.num_features = embed_dim  # where timm's HybridEmbed looks for it

    def forward(self, images: Tensor) -> Tensor:
        """Returns the cells' features."""
        maps: Tensor = self.tokens(self.layers(images)).unflatten(1, (self.group.order, -1))
        out: Tensor = self.project(maps.amax(1))
        return out


class Haloformer(VisionTransformer):
    """A pre-norm ViT on a convolutional stem, invariant under symmetries of the grid if wanted."""

    def __init__(self, *, d4: bool = False, tied_positions: bool = False, **kwargs: Any) -> None:
        """Builds the network.

        Args:
            d4: Average the logits of the eight rotated and mirrored images: exact, for any weights,
                at eight times the cost.
            tied_positions: Give places that a turn or a mirror exchanges the same position
                embedding.
            **kwargs: Of timm's ``VisionTransformer``.
        """
        super().__init__(**kwargs)
        if tied_positions and (self.num_prefix_tokens or self.dynamic_img_size):
            raise InputError(
                "haloformer: symmetry goes with neither reg_tokens nor dynamic_img_size"
            )
        self.d4, self.tied_positions = d4, tied_positions

    def _pos_embed(self, x: Tensor) -> Tensor:
        if not self.tied_positions or self.pos_embed is None:
            return super()._pos_embed(x)
        rows, columns = self.patch_embed.grid_size
        grid = self.pos_embed.unflatten(1, (rows, columns))
        for axis in (1, 2):
            grid = (grid + grid.flip(axis)) / 2
        if rows == columns:
            grid = (grid + grid.transpose(1, 2)) / 2
        out: Tensor = self.pos_drop(x + grid.flatten(1, 2))
        return out

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Returns the logits (B, num_classes) of images (B, C, H, W)."""
        if not self.d4:
            return super().forward(x)
        if x.shape[-1] != x.shape[-2]:
            raise InputError(
                f"d4: quarter turns need square images, not {x.shape[-2]}×{x.shape[-1]}"
            )
        views = [
            v
            for rotated in (torch.rot90(x, k, (-2, -1)) for k in range(4))
            for v in (rotated, rotated.flip(-1))
        ]
        out: Tensor = super().forward(torch.cat(views)).unflatten(0, (8, -1)).mean(0)
        return out


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
    symmetry: str = "none",
    stem_fields: Sequence[int] = (6, 8, 12, 16),
    field_strides: Sequence[int] = (2, 2, 1, 2),
    token_fields: int = 48,
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
        symmetry: ``c4``, ``c8``, ``d4`` or ``d8``: a stem of group convolutions and tied positions.
            The logits of a square image do then not change with quarter turns and, of D4 and D8,
            mirrors; exactly, for any weights. ``none``: the residual stem.
        stem_fields: Fields of each layer of a stem of group convolutions, in place of
            ``stem_channels``.
        field_strides: 1 or 2 for each of these layers, the first being 2.
        token_fields: Fields that the tokens are made of.
        **kwargs: ``d4``, and those of timm's ``VisionTransformer``.
    """
    if embed_dim % num_heads:
        raise InputError(f"haloformer: num_heads={num_heads} does not divide embed_dim={embed_dim}")
    stem: nn.Module
    if symmetry == "none":
        if not len(stem_channels) == len(stem_strides) == len(stem_blocks):
            raise InputError(
                "haloformer: stem_channels, stem_strides and stem_blocks must be of the same length"
            )
        stem = ResidualStem(in_chans, stem_channels, stem_strides, stem_blocks, embed_dim)
        stride = math.prod(stem_strides)
    else:
        if symmetry not in GROUPS:
            raise unknown_name("haloformer: symmetry", str(symmetry), ("none", *GROUPS))
        if (
            len(stem_fields) != len(field_strides)
            or list(field_strides[:1]) != [2]
            or not {*field_strides} <= {1, 2}
        ):
            raise InputError(
                "haloformer: field_strides must be 1 or 2 for each of stem_fields, the first 2"
            )
        stem = EquivariantStem(
            in_chans, symmetry, stem_fields, field_strides, token_fields, embed_dim
        )
        stride = math.prod(field_strides)
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
        tied_positions=symmetry != "none",
        embed_layer=partial(stem_embed, backbone=stem, stride=stride),
        **kwargs,
    )


@register_model
def haloformer_nano(pretrained: bool = False, **kwargs: Any) -> Haloformer:
    """Stem of 32 and 64 channels and stride 8, D = 96, three blocks."""
    if pretrained:
        raise InputError("there are no pretrained weights of this name to download: give a file")
    for key in (
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
    ):  # timm hands these to every entry
        kwargs.pop(key, None)
    return haloformer(**kwargs)


_PAPER = "haloformer, this package; its stem after Early Convolutions Help Transformers See Better (arXiv:2106.14881)"


def _info(name: str, notes: str, size: Size, **kwargs: Any) -> ModelInfo:
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
        "haloformer_c8_nano",
        "learns most from few images: a stem of group convolutions, tied in eight orientations, before the same three blocks",
        "nano",
        symmetry="c8",
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
