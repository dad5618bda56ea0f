"""CvT: tokens from overlapping convolutions, and queries, keys and values from depthwise ones.

Wu et al. 2021, "CvT: Introducing Convolutions to Vision Transformers"
(https://arxiv.org/abs/2103.15808). A pyramid of three stages; no position embedding, as the
convolutions know where they are. Keys and values are convolved with stride 2, so that a token sees
a map of a quarter as many places. A class token joins in the last stage.

Equal to the official code (microsoft/CvT), whose quirks are kept: the activation is x·sigmoid(1.702
x), and scores are scaled by the width of the stage instead of that of a head.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, DropPath, Mlp, QuickGELU, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from haloformer.models.backbone import (
    Backbone,
    build,
    jit_ignore,
    linear_head,
    renamed,
    weights_cfg,
)
from haloformer.models.info import ModelInfo, Size, our_model
from haloformer.models.tokens import TokenLayout, global_layout

Grid = tuple[int, int]


class ConvEmbed(nn.Module):
    """Makes tokens by a convolution whose windows overlap, and a layer norm."""

    def __init__(
        self,
        in_chans: int,
        embed_dim: int,
        kernel_size: int,
        stride: int,
        early: tuple[int, ...] = (),
    ) -> None:
        """Sizes the convolution.

        Args:
            in_chans: Channels of the map.
            embed_dim: Width D of the tokens.
            kernel_size: Side of the windows.
            stride: Places from one window to the next.
            early: Channels of 3×3 convolutions of stride 2 (with batch norm and GELU) that come
                before.
        """
        super().__init__()
        widths = (in_chans, *early)
        self.early = nn.Sequential(
            *(ConvNormAct(a, b, 3, stride=2, act_layer=nn.GELU) for a, b in pairwise(widths))
        )
        # Kernel 7 with stride 4 gets a padding of 2 and kernel 3 with stride 2 one of 1, as in the
        # official code.
        self.proj = nn.Conv2d(
            widths[-1], embed_dim, kernel_size, stride, padding=(kernel_size - stride + 1) // 2
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns tokens (B, h, w, D) of maps (B, C, H, W)."""
        out: Tensor = self.norm(self.proj(self.early(maps)).permute(0, 2, 3, 1))
        return out


class ConvAttention(nn.Module):
    """Attention with queries, keys and values from 3×3 depthwise convolutions and linear layers.

    A class token skips the convolutions. Weights: (B, heads, Nq, Nk) by
    ``scaled_dot_product_attention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kv_stride: int = 2,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kv_stride = kv_stride
        self.scale = dim**-0.5
        self.conv_q = _depthwise(dim, stride=1)
        self.conv_k = _depthwise(dim, kv_stride)
        self.conv_v = _depthwise(dim, kv_stride)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Returns (B, N, D) for tokens (B, N, D): the map's rows, after a class token or not.

        Args:
            tokens: (B, N, D), N = h·w or 1 + h·w.
            grid: Rows h and columns w of the map.
        """
        first, places = tokens.tensor_split([tokens.shape[1] - grid[0] * grid[1]], dim=1)
        maps = places.transpose(1, 2).unflatten(2, grid)
        q, k, v = (
            linear(torch.cat([first, conv(maps).flatten(2).transpose(1, 2)], 1))
            .unflatten(2, (self.num_heads, -1))
            .transpose(1, 2)
            for conv, linear in (
                (self.conv_q, self.q),
                (self.conv_k, self.k),
                (self.conv_v, self.v),
            )
        )
        dropout = self.attn_drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def token_layout(self, tokens: Tensor, grid: Grid) -> TokenLayout:
        """Returns where queries and keys lie; the arguments are those of :meth:`forward`."""
        keys = (-(-grid[0] // self.kv_stride), -(-grid[1] // self.kv_stride))
        return global_layout(grid, prefix=tokens.shape[1] - grid[0] * grid[1], key_grid=keys)


def _depthwise(dim: int, stride: int) -> ConvNormAct:
    return ConvNormAct(dim, dim, 3, stride=stride, groups=dim, apply_act=False)


class Block(nn.Module):
    """A pre-norm transformer block with convolutional projections."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        kv_stride: int = 2,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ConvAttention(dim, num_heads, kv_stride, attn_drop, proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=QuickGELU, drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Returns (B, N, D) for tokens (B, N, D) on a map of ``grid`` rows and columns."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


class Stage(nn.Module):
    """Blocks at one resolution, after a convolution that halves it (but in the first stage)."""

    def __init__(self, downsample: nn.Module, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)


def final_norm_layer(kind: str, dim: int) -> nn.Module:
    """Makes the norm before pooling, for tokens (n, D) of all images.

    A new transformer gives all images nearly the same pooled features: what they share is ten times
    what distinguishes them. Layer norm keeps that, and small models stay at chance for long; batch
    norm takes off what is shared.

    Args:
        kind: ``layer`` or ``batch``.
        dim: Width D of the tokens.
    """
    kinds: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    if kind not in kinds:
        raise ValueError(f"final_norm must be one of {', '.join(kinds)}, not '{kind}'")
    return kinds[kind](dim)


class CvT(Backbone):
    """A convolutional vision transformer. The defaults are CvT-13 of the paper."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: tuple[int, ...] = (64, 192, 384),
        depths: tuple[int, ...] = (1, 2, 10),
        num_heads: tuple[int, ...] = (1, 3, 6),
        mlp_ratio: float = 4.0,
        kv_stride: int = 2,
        patch_kernel: int = 7,
        patch_stride: int = 4,
        stem_channels: tuple[int, ...] = (),
        class_token: bool = True,
        global_pool: str = "token",
        final_norm: str = "layer",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Builds the stages.

        Args:
            img_size: Height and width in pixels. Nothing depends on it: any size runs.
            in_chans: Channels of the images.
            num_classes: Length of the output; 0 for the pooled features.
            embed_dims: Width of the tokens of each stage.
            depths: Blocks of each stage.
            num_heads: Attention heads of each stage.
            mlp_ratio: Width of a block's hidden layer over that of the tokens.
            kv_stride: Stride of the convolutions that make keys and values.
            patch_kernel: Side of the convolution that makes the first tokens.
            patch_stride: Its stride.
            stem_channels: Channels of stride-2 convolutions before it.
            class_token: Whether a class token joins in the last stage.
            global_pool: What the classifier sees: ``token``, ``avg`` (over the map) or empty for
                all tokens.
            final_norm: ``layer`` as in the paper, or ``batch`` to learn faster (see
                :func:`final_norm_layer`).
            drop_rate: Dropout before the classifier.
            proj_drop_rate: Dropout after attention and in the hidden layers.
            attn_drop_rate: Dropout of attention weights.
            drop_path_rate: Stochastic depth of the last block. It rises from 0 over the blocks of
                the last stage alone, as in all published configurations.
        """
        super().__init__()
        if global_pool == "token" and not class_token:
            raise ValueError("cvt: global_pool='token' needs class_token=True")
        self.num_classes = num_classes
        self.num_features = embed_dims[-1]
        self.global_pool = global_pool
        self.num_prefix_tokens = int(class_token)
        self.patch_embed = ConvEmbed(
            in_chans, embed_dims[0], patch_kernel, patch_stride, stem_channels
        )
        drops = (attn_drop_rate, proj_drop_rate)
        last = torch.linspace(0, drop_path_rate, depths[-1], device="cpu").tolist()
        rates = [[0.0] * depth for depth in depths[:-1]] + [last]
        self.stages = nn.ModuleList()
        for i, (dim, heads, stage_rates) in enumerate(
            zip(embed_dims, num_heads, rates, strict=True)
        ):
            blocks = [Block(dim, heads, mlp_ratio, kv_stride, *drops, r) for r in stage_rates]
            step = ConvEmbed(embed_dims[i - 1], dim, 3, 2) if i else nn.Identity()
            self.stages.append(Stage(step, blocks))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.num_features)) if class_token else None
        self.norm = final_norm_layer(final_norm, self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.apply(init_weights_vit_timm)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        self.head = linear_head(self.num_features, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the tokens (B, N, D) of the last stage, the class token first.

        ``maps`` gets a map per stage.
        """
        features = self.patch_embed(images)  # (B, h, w, D), as between the stages
        tokens = features
        for i, stage in enumerate(cast("Iterable[Stage]", self.stages)):
            if i:
                features = stage.downsample(features.permute(0, 3, 1, 2))
            grid = (features.shape[1], features.shape[2])
            tokens = features.flatten(1, 2)
            if self.cls_token is not None and i == len(self.stages) - 1:
                tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
            for block in stage.blocks:
                tokens = self.run(block, tokens, grid)
            features = tokens[:, tokens.shape[1] - grid[0] * grid[1] :].unflatten(1, grid)
            if maps is not None:
                maps.append(features.permute(0, 3, 1, 2))
        out: Tensor = self.norm(tokens.flatten(0, 1)).reshape(tokens.shape)
        return out

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of parameter names by which timm forms layers."""
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^(?:cls_token|norm)", (99999,)),
            ]
        )
        return {"stem": r"^patch_embed", "blocks": blocks}

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the class token."""
        return set() if self.cls_token is None else {"cls_token"}


_OFFICIAL_KEYS = (
    (r"^stage0\.patch_embed\.", "patch_embed."),
    (r"^stage\d+\.cls_token$", "cls_token"),
    (r"^stage(\d+)\.patch_embed\.", r"stages.\1.downsample."),
    (r"^stage(\d+)\.", r"stages.\1."),
    (r"\.attn\.conv_proj_([qkv])\.", r".attn.conv_\1."),
    (r"\.attn\.proj_([qkv])\.", r".attn.\1."),
)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns a state dict with our keys, from one with those of the official code or ours.

    Nothing depends on size.
    """
    converted = {}
    for key, value in state_dict.items():
        key = renamed(key, _OFFICIAL_KEYS)
        converted[key] = value
    return converted


default_cfgs = generate_default_cfgs(
    {
        "cvt_nano": weights_cfg(64, first_conv="patch_embed.early.0.conv"),
        "cvt_tiny": weights_cfg(64, first_conv="patch_embed.early.0.conv"),
        "cvt_13_224.in1k": weights_cfg(first_conv="patch_embed.proj"),
        "cvt_21_224.in1k": weights_cfg(first_conv="patch_embed.proj"),
        "cvt_w24_384.in22k_ft_in1k": weights_cfg(384, first_conv="patch_embed.proj", crop_pct=1.0),
    }
)


_SMALL_IMAGES = {
    "img_size": 64,
    "in_chans": 1,
    "num_classes": 3,
    "patch_kernel": 3,
    "patch_stride": 2,
    "class_token": False,  # learns faster without: 64 images by heart in 55 steps instead of 137
    "global_pool": "avg",
    "final_norm": "batch",
}


@register_model
def cvt_nano(pretrained: bool = False, **kwargs: Any) -> CvT:
    """For 64–150 pixels: tokens of 4 pixels from two convolutions, three stages."""
    numbers: dict[str, Any] = {
        **_SMALL_IMAGES,
        "stem_channels": (24,),
        "embed_dims": (32, 64, 128),
        "depths": (1, 1, 2),
        "num_heads": (1, 2, 4),
    }
    return build(CvT, "cvt_nano", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cvt_tiny(pretrained: bool = False, **kwargs: Any) -> CvT:
    """The same, wider and deeper."""
    numbers: dict[str, Any] = {
        **_SMALL_IMAGES,
        "stem_channels": (32,),
        "embed_dims": (64, 128, 256),
        "depths": (1, 2, 5),
        "num_heads": (1, 2, 4),
    }
    return build(CvT, "cvt_tiny", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cvt_13_224(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-13: 20.00 M parameters."""
    return build(CvT, "cvt_13_224", pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def cvt_21_224(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-21: 31.62 M parameters."""
    return build(
        CvT, "cvt_21_224", pretrained, checkpoint_filter_fn, **{"depths": (1, 4, 16), **kwargs}
    )


@register_model
def cvt_w24_384(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-W24: 277 M parameters."""
    numbers: dict[str, Any] = {
        "img_size": 384,
        "embed_dims": (192, 768, 1024),
        "depths": (2, 2, 20),
        "num_heads": (3, 12, 16),
    }
    return build(CvT, "cvt_w24_384", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


_PAPER = "CvT: Introducing Convolutions to Vision Transformers (arXiv:2103.15808)"


def _info(name: str, notes: str, size: Size) -> ModelInfo:
    return our_model("CvT", _PAPER, name, size, notes)


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "cvt_nano",
        "convolutional tokens and projections, 16×16 tokens of 64 pixels, three small stages",
        "nano",
    ),
    _info("cvt_tiny", "the same, wider and deeper", "tiny"),
    _info(
        "cvt_13_224",
        "the paper's CvT-13; any size of image, as it has no position embedding",
        "paper",
    ),
    _info("cvt_21_224", "the paper's CvT-21", "paper"),
    _info("cvt_w24_384", "the paper's widest, 277 M parameters", "paper"),
)
