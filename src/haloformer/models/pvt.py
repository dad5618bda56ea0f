"""PVT v1, the Pyramid Vision Transformer: a pyramid of global attention over ever fewer tokens.

Wang et al. 2021, "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without
Convolutions" (https://arxiv.org/abs/2102.12122). Attention stays affordable on the fine maps
because their keys are spatially reduced: one key stands for a square of cells.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
    ConvNormAct,
    DropPath,
    Mlp,
    calculate_drop_path_rates,
    resample_abs_pos_embed_nhwc,
    to_2tuple,
    trunc_normal_,
)
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.models.backbone import Backbone, build, jit_ignore, linear_head, weights_cfg
from haloformer.models.info import ModelInfo, Size, our_model, small_head
from haloformer.models.tokens import TokenLayout, global_layout

_PAPER = "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions (arXiv:2102.12122)"

Grid = tuple[int, int]
"""Rows and columns of a feature map."""


def pad_to_multiple(maps: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, H, W) with zeros, evenly on all sides, to whole squares of ``multiple`` cells."""
    extra_h, extra_w = (-side % multiple for side in maps.shape[-2:])
    if not extra_h and not extra_w:
        return maps
    return F.pad(maps, (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2))


class Attention(nn.Module):
    """Global attention whose keys are reduced in space.

    Its weights are (B, heads, N, N / sr_ratio²).

    Args:
        dim: Width D of the tokens.
        num_heads: Heads; divides D.
        sr_ratio: Side of the square of cells that one key stands for. A map that it does not divide
            is padded, so that every cell has a key: the keys' grid then reaches over the map's edge
            by less than one key.
        attn_drop: Dropout of the weights.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise InputError(f"pvt: {num_heads} heads do not divide the width {dim}")
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def token_layout(self, tokens: Tensor, grid: Grid) -> TokenLayout:
        """Returns where queries and (reduced) keys lie.

        In the last stage a class token precedes both.
        """
        prefix = tokens.shape[1] - grid[0] * grid[1]
        key_grid = (-(-grid[0] // self.sr_ratio), -(-grid[1] // self.sr_ratio))
        return global_layout(grid, prefix=prefix, key_grid=key_grid)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Maps tokens (B, N, D), or (B, 1 + N, D) if nothing is reduced, to the same shape."""
        q = self.q(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = (
            self.kv(self._reduced(tokens, grid))
            .unflatten(2, (2, self.num_heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attn_drop if self.training else 0.0
        )
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def _reduced(self, tokens: Tensor, grid: Grid) -> Tensor:
        if self.sr_ratio == 1:
            return tokens
        cells = pad_to_multiple(tokens.transpose(1, 2).unflatten(2, grid), self.sr_ratio)
        out: Tensor = self.norm(self.sr(cells).flatten(2).transpose(1, 2))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        sr_ratio: int,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, sr_ratio, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Maps tokens (B, N, D) to (B, N, D)."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


class PatchEmbed(nn.Module):
    """Cuts a map into patches, the paper's way, each of which becomes a token."""

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, H / patch, W / patch, D), rounded up."""
        out: Tensor = self.norm(
            self.proj(pad_to_multiple(maps, self.patch_size)).permute(0, 2, 3, 1)
        )
        return out


class ConvStem(nn.Module):
    """3×3 convolutions in place of image patches (Xiao et al. 2021, arXiv:2106.14881)."""

    def __init__(self, in_chans: int, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            *(
                ConvNormAct(before, after, 3, stride=stride)
                for before, after, stride in zip((in_chans, *channels), channels, strides)
            )
        )
        self.norm = nn.LayerNorm(channels[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, H / stride, W / stride, D), rounded up."""
        out: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return out


class Stage(nn.Module):
    """A level of the pyramid: tokens, their positions, and blocks."""

    def __init__(self, embed: nn.Module, grid: Grid, embed_dim: int, blocks: list[Block]) -> None:
        super().__init__()
        self.grid = grid
        self.embed = embed
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, embed_dim))
        self.blocks = nn.ModuleList(blocks)


class PyramidVisionTransformer(Backbone):
    """The pyramid vision transformer.

    Args:
        img_size: Height and width in pixels.
        in_chans: Channels of the image.
        num_classes: Length of the output; 0 for pooled features.
        patch_size: Side of the first stage's patches in pixels; each further stage halves the map.
        stem_channels: If given, the first stage's tokens come from 3×3 convolutions instead, with
            these channels and at last ``embed_dims[0]``.
        stem_strides: Stride of each of these convolutions, one more than ``stem_channels``.
        embed_dims: Width of each stage.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        mlp_ratios: Width of the hidden layer over that of the tokens, of each stage.
        sr_ratios: Side of the square of cells that share a key, of each stage; 1 in the last.
        drop_rate: Dropout of tokens, projections and hidden layers.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        global_pool: ``token`` (the paper's: a class token in the last stage), ``avg`` (without
            one), or empty for none.
    """

    def __init__(
        self,
        img_size: int | Grid = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        patch_size: int = 4,
        stem_channels: tuple[int, ...] = (),
        stem_strides: tuple[int, ...] = (),
        embed_dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (2, 2, 2, 2),
        num_heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[float, ...] = (8, 8, 4, 4),
        sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "token",
    ) -> None:
        super().__init__()
        if (
            len(
                {len(numbers) for numbers in (embed_dims, depths, num_heads, mlp_ratios, sr_ratios)}
            )
            > 1
        ):
            raise InputError(
                "pvt: embed_dims, depths, num_heads, mlp_ratios and sr_ratios must be of the same length"
            )
        if stem_channels and len(stem_strides) != len(stem_channels) + 1:
            raise InputError(
                f"pvt: stem_strides must be {len(stem_channels) + 1} numbers, one more than stem_channels"
            )
        if sr_ratios[-1] != 1:
            raise InputError(
                f"pvt: the last of sr_ratios must be 1, not {sr_ratios[-1]}: a class token has no square"
            )
        self.num_classes = num_classes
        self.num_features = embed_dims[-1]
        self.global_pool = global_pool
        self.num_prefix_tokens = int(global_pool == "token")

        stages = []
        drop_path: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        grid, channels = to_2tuple(img_size), in_chans
        for index, (dim, depth, heads, mlp_ratio, sr_ratio) in enumerate(
            zip(embed_dims, depths, num_heads, mlp_ratios, sr_ratios)
        ):
            embed: nn.Module
            if index == 0 and stem_channels:
                embed, stride = (
                    ConvStem(in_chans, (*stem_channels, dim), stem_strides),
                    math.prod(stem_strides),
                )
            else:
                stride = 2 if index else patch_size
                embed = PatchEmbed(channels, dim, stride)
            grid, channels = (-(-grid[0] // stride), -(-grid[1] // stride)), dim
            blocks = [
                Block(dim, heads, mlp_ratio, sr_ratio, drop_rate, attn_drop_rate, next(drop_path))
                for _ in range(depth)
            ]
            stages.append(Stage(embed, grid, dim, blocks))
        self.stages = nn.ModuleList(stages)
        self.pos_drop = nn.Dropout(drop_rate)
        if self.num_prefix_tokens:
            self.cls_token = nn.Parameter(torch.empty(1, 1, self.num_features))
            self.cls_pos_embed = nn.Parameter(torch.empty(1, 1, self.num_features))
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head = linear_head(self.num_features, num_classes)

        for name, parameter in self.named_parameters():
            if name.endswith(("pos_embed", "cls_token")):
                trunc_normal_(parameter, std=0.02)
        self.apply(_init_weights)

    @property
    def patch_embed(self) -> nn.Module:
        """How images become tokens; has a ``patch_size`` if by patches."""
        return self.stages[0].embed  # type: ignore[return-value]

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the tokens (B, N, D) of the last stage, after the class token if there is one."""
        stage: Any
        stage_map = tokens = images
        for stage in self.stages:
            tokens = (stage.embed(stage_map) + stage.pos_embed).flatten(1, 2)
            is_last = stage is self.stages[-1]
            if is_last and self.num_prefix_tokens:
                class_token = (self.cls_token + self.cls_pos_embed).expand(images.shape[0], -1, -1)
                tokens = torch.cat([class_token, tokens], dim=1)
            tokens = self.pos_drop(tokens)
            for block in stage.blocks:
                tokens = self.run(block, tokens, stage.grid)
            cells = tokens[:, self.num_prefix_tokens :] if is_last else tokens
            stage_map = cells.transpose(1, 2).unflatten(2, stage.grid)
            if maps is not None:
                maps.append(stage_map)
        out: Tensor = self.norm(tokens)
        return out

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the names of the class token and of the position embeddings."""
        return {
            name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "cls_token"))
        }

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of timm's layer groups."""
        last = len(self.stages) - 1
        fine = [
            (r"^stages\.(\d+)\.(?:embed|pos_embed)", (0,)),
            (r"^cls_", (last, 0)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {
            "stem": r"^stages\.0\.(?:embed|pos_embed)",
            "blocks": [(r"^stages\.(\d+)", None), (r"^cls_", (last,)), (r"^norm", (99999,))]
            if coarse
            else fine,
        }


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


_OFFICIAL = re.compile(r"^(patch_embed|pos_embed|block)(\d+)")
_OURS = {"patch_embed": "embed", "pos_embed": "pos_embed", "block": "blocks"}


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes weights under official names, or ours, to our names; resizes positions.

    Args:
        state_dict: Of the official code or of a model of this file, of any image size.
        model: The model that they are for.
    """
    stages: Any = model.stages
    converted = {}
    for name, tensor in state_dict.items():
        name = _OFFICIAL.sub(lambda match: f"stages.{int(match[2]) - 1}.{_OURS[match[1]]}", name)
        if name.endswith(".pos_embed"):
            stage = stages[int(name.split(".")[1])]
            if (
                tensor.ndim == 3
            ):  # official: (1, N, D) of a square image, in the last stage after the class token's
                side = int(tensor.shape[1] ** 0.5)
                if tensor.shape[1] > side * side:
                    converted["cls_pos_embed"] = tensor[:, :1]
                tensor = tensor[:, -side * side :].unflatten(1, (side, side))
            tensor = resample_abs_pos_embed_nhwc(tensor, stage.grid)
        converted[name] = tensor
    return converted


def _pvt(
    variant: str, pretrained: bool, numbers: dict[str, Any], kwargs: dict[str, Any]
) -> PyramidVisionTransformer:
    return build(
        PyramidVisionTransformer, variant, pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


# Ours have a convolutional stem, and end at 4×4 cells of a 64-pixel image, which are averaged: they
# learn faster so.
_SMALL = {
    "img_size": 64,
    "stem_strides": (2, 1, 2),
    "num_heads": (1, 2, 4),
    "mlp_ratios": (4, 4, 4),
    "sr_ratios": (4, 2, 1),
    "global_pool": "avg",
}

default_cfgs = generate_default_cfgs(
    {
        "pvt_nano": weights_cfg(64, first_conv="stages.0.embed.proj.0.conv"),
        "pvt_tiny": weights_cfg(64, first_conv="stages.0.embed.proj.0.conv"),
        "pvt_tiny_224.in1k": weights_cfg(first_conv="stages.0.embed.proj"),
        "pvt_small_224.in1k": weights_cfg(first_conv="stages.0.embed.proj"),
        "pvt_medium_224.in1k": weights_cfg(first_conv="stages.0.embed.proj"),
        "pvt_large_224.in1k": weights_cfg(first_conv="stages.0.embed.proj"),
    }
)


@register_model
def pvt_nano(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """Three stages of 16×16, 8×8 and 4×4 tokens of a 64-pixel image: 1.4 M parameters."""
    numbers = {"stem_channels": (24, 24), "embed_dims": (48, 96, 192), "depths": (1, 2, 2)}
    return _pvt("pvt_nano", pretrained, {**_SMALL, **numbers}, kwargs)


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """Three stages of 16×16, 8×8 and 4×4 tokens of a 64-pixel image: 4.4 M parameters."""
    numbers = {"stem_channels": (32, 32), "embed_dims": (64, 128, 256), "depths": (2, 3, 4)}
    return _pvt("pvt_tiny", pretrained, {**_SMALL, **numbers}, kwargs)


@register_model
def pvt_tiny_224(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Tiny."""
    return _pvt("pvt_tiny_224", pretrained, {"depths": (2, 2, 2, 2)}, kwargs)


@register_model
def pvt_small_224(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Small."""
    return _pvt("pvt_small_224", pretrained, {"depths": (3, 4, 6, 3)}, kwargs)


@register_model
def pvt_medium_224(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Medium."""
    return _pvt("pvt_medium_224", pretrained, {"depths": (3, 4, 18, 3)}, kwargs)


@register_model
def pvt_large_224(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Large."""
    return _pvt("pvt_large_224", pretrained, {"depths": (3, 8, 27, 3)}, kwargs)


def _info(name: str, size: Size, notes: str) -> ModelInfo:
    return our_model("PVT", _PAPER, name, size, notes, small_head(size))


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "pvt_nano", "nano", "three stages behind a convolutional stem of stride 4, averaged tokens"
    ),
    _info("pvt_tiny", "tiny", "the same with more and wider blocks"),
    _info("pvt_tiny_224", "paper", "four stages; an image of 64 pixels ends at 2×2 tokens"),
    _info("pvt_small_224", "paper", "four stages; an image of 64 pixels ends at 2×2 tokens"),
    _info("pvt_medium_224", "paper", "four stages; an image of 64 pixels ends at 2×2 tokens"),
    _info("pvt_large_224", "paper", "four stages; an image of 64 pixels ends at 2×2 tokens"),
)
