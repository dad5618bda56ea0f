"""CCT, the Compact Convolutional Transformer: tokens from convolutions and pooling, no class token.

Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers"
(https://arxiv.org/abs/2104.05704). The tokenizer keeps neighbouring pixels together, so that the
network learns from small data sets; the sequence is pooled by one learned attention over the
tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
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
from haloformer.models.backbone import (
    Backbone,
    build,
    jit_ignore,
    linear_head,
    renamed,
    weights_cfg,
)
from haloformer.models.info import ModelInfo, Size, our_model, small_head
from haloformer.models.tokens import TokenLayout, global_layout

_PAPER = "Escaping the Big Data Paradigm with Compact Transformers (arXiv:2104.05704)"

Grid = tuple[int, int]
"""Rows and columns of a feature map."""


class Attention(nn.Module):
    """Global self-attention; its weights are (B, heads, N, N)."""

    def __init__(
        self, dim: int, num_heads: int, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise InputError(f"cct: num_heads={num_heads} does not divide embed_dim={dim}")
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def token_layout(self, tokens: Tensor, grid: Grid) -> TokenLayout:
        """Returns where queries and keys lie: every cell sees every cell."""
        return global_layout(grid)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Maps tokens (B, N, D) of a grid to (B, N, D)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.attn_drop if self.training else 0.0
        )
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out


class SequencePool(nn.Module):
    """Averages the tokens with learned weights, (B, 1, 1, N).

    One query, at no place, over all cells.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def token_layout(self, tokens: Tensor, grid: Grid) -> TokenLayout:
        """Returns where the keys lie; the only query stands for the image."""
        cells = torch.arange(grid[0] * grid[1])[None]
        return TokenLayout(grid, grid, torch.full((1, 1), -1), cells, class_query=0)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Maps tokens (B, N, D) of a grid to (B, D)."""
        weights = self.score(tokens).transpose(1, 2)[:, None].softmax(-1)
        out: Tensor = (weights[:, 0] @ tokens)[:, 0]
        return out


class Block(nn.Module):
    """Attention with a norm before it, then the MLP with a norm before *both* its branches."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Maps tokens (B, N, D) to (B, N, D)."""
        tokens = self.norm2(tokens + self.drop_path(self.attn(self.norm1(tokens), grid)))
        out: Tensor = tokens + self.drop_path(self.mlp(tokens))
        return out


class CompactConvolutionalTransformer(Backbone):
    """The compact convolutional transformer.

    Args:
        img_size: Height and width in pixels.
        in_chans: Channels of the image.
        num_classes: Length of the output; 0 for pooled features.
        stem_channels: Channels after each layer of the tokenizer but the last, which has
            ``embed_dim``.
        kernel_size: Side of the tokenizer's convolutions, odd.
        stem_strides: Stride of each of the tokenizer's convolutions, or one number for all; a 3×3
            maximum of stride 2 follows each of them.
        stem_norm: Batch norm after each of the tokenizer's convolutions; the paper has none.
        embed_dim: Width D of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads per block; divides ``embed_dim``.
        mlp_ratio: Width of a block's hidden layer over D.
        drop_rate: Dropout of tokens, projections and hidden layers.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        global_pool: ``seq`` (attention over the tokens, the paper's), ``avg``, or empty for none.
    """

    def __init__(
        self,
        img_size: int | Grid = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        stem_channels: tuple[int, ...] = (64,),
        kernel_size: int = 7,
        stem_strides: int | tuple[int, ...] = 2,
        stem_norm: bool = False,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.1,
        drop_path_rate: float = 0.1,
        global_pool: str = "seq",
    ) -> None:
        super().__init__()
        layers = len(stem_channels) + 1
        strides = (stem_strides,) * layers if isinstance(stem_strides, int) else tuple(stem_strides)
        if len(strides) != layers:
            raise InputError(
                f"cct: stem_strides must be one number or {layers}, one more than stem_channels"
            )
        if kernel_size % 2 == 0:
            raise InputError(
                f"cct: kernel_size must be odd, not {kernel_size}: an even one would drop pixels"
            )
        self.num_classes = num_classes
        self.num_features = embed_dim
        self.global_pool = global_pool

        channels = (in_chans, *stem_channels, embed_dim)
        self.stem = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2, bias=False),
                    *([nn.BatchNorm2d(after)] if stem_norm else []),
                    nn.ReLU(),
                    nn.MaxPool2d(3, 2, 1),
                )
                for before, after, stride in zip(channels[:-1], channels[1:], strides)
            )
        )
        # Odd kernels padded by half their width round up: no pixel is left out.
        self.grid = to_2tuple(img_size)
        for stride in strides:
            self.grid = tuple(-(-side // (2 * stride)) for side in self.grid)
        self.pos_embed = nn.Parameter(torch.empty(1, *self.grid, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        drop_path_rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, drop_rate, attn_drop_rate, rate)
            for rate in drop_path_rates
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.seq_pool = SequencePool(embed_dim)
        self.head = linear_head(embed_dim, num_classes)
        trunc_normal_(self.pos_embed, std=0.2)
        self.apply(_init_weights)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the tokens (B, N, D) before pooling."""
        tokens = self.pos_drop(self.stem(images).permute(0, 2, 3, 1) + self.pos_embed).flatten(1, 2)
        for block in self.blocks:
            tokens = self.run(block, tokens, self.grid)
            if maps is not None:
                maps.append(tokens.transpose(1, 2).unflatten(2, self.grid))
        out: Tensor = self.norm(tokens)
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Returns (B, D), or the features as they are if ``global_pool`` is empty."""
        return (
            self.seq_pool(features, self.grid)
            if self.global_pool == "seq"
            else super().pool(features)
        )

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the position embedding's name."""
        return {"pos_embed"}

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of timm's layer groups."""
        return {
            "stem": r"^stem|^pos_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^seq_pool", (99999,))],
        }


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_OFFICIAL = (
    (r"^tokenizer\.conv_layers\.", "stem."),
    (r"^classifier\.positional_emb$", "pos_embed"),
    (r"^classifier\.attention_pool\.", "seq_pool.score."),
    (r"^classifier\.fc\.", "head."),
    (r"^classifier\.(blocks\.\d+)\.norm1\.", r"\1.norm2."),
    (r"^classifier\.(blocks\.\d+)\.pre_norm\.", r"\1.norm1."),
    (r"^classifier\.(blocks\.\d+)\.self_attn\.", r"\1.attn."),
    (r"^classifier\.(blocks\.\d+)\.linear([12])\.", r"\1.mlp.fc\2."),
    (r"^classifier\.", ""),
)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes weights under official names, or ours, to our names; resizes positions.

    Args:
        state_dict: Of the official code (learned or sinusoidal positions) or of a model of this
            file, of any image size.
        model: The model that they are for.
    """
    converted = {}
    for name, tensor in state_dict.items():
        name = renamed(name, _OFFICIAL)
        if name == "pos_embed":
            if tensor.ndim == 3:  # official: (1, N, D) of a square image
                side = round(tensor.shape[1] ** 0.5)
                tensor = tensor.unflatten(1, (side, side))
            tensor = resample_abs_pos_embed_nhwc(tensor, model.grid)
        converted[name] = tensor
    return converted


def _cct(
    variant: str, pretrained: bool, numbers: dict[str, Any], kwargs: dict[str, Any]
) -> CompactConvolutionalTransformer:
    return build(
        CompactConvolutionalTransformer,
        variant,
        pretrained,
        checkpoint_filter_fn,
        **{**numbers, **kwargs},
    )


_7X2 = {"kernel_size": 7, "stem_channels": (64,), "stem_strides": 2}
_3X2 = {"img_size": 32, "kernel_size": 3, "stem_channels": (64,), "stem_strides": 1}
_3X1 = {"img_size": 32, "kernel_size": 3, "stem_channels": (), "stem_strides": 1}
_CCT_2 = {"embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 1.0}
_CCT_4 = {"embed_dim": 128, "depth": 4, "num_heads": 2, "mlp_ratio": 1.0}
_CCT_6 = {"embed_dim": 256, "depth": 6, "num_heads": 4, "mlp_ratio": 2.0}
_CCT_7 = {"embed_dim": 256, "depth": 7, "num_heads": 4, "mlp_ratio": 2.0}
_CCT_14 = {"embed_dim": 384, "depth": 14, "num_heads": 6, "mlp_ratio": 3.0}
# A third convolution, at full resolution, and batch norm: without them the network takes far longer
# to start learning.
_SMALL = {
    "img_size": 64,
    "kernel_size": 3,
    "stem_strides": 1,
    "stem_norm": True,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
}

default_cfgs = generate_default_cfgs(
    {
        "cct_nano": weights_cfg(64, first_conv="stem.0.0"),
        "cct_tiny": weights_cfg(64, first_conv="stem.0.0"),
        "cct_14_7x2_224.in1k": weights_cfg(first_conv="stem.0.0"),
        "cct_7_7x2_224.flowers102": weights_cfg(first_conv="stem.0.0", num_classes=102),
        "cct_7_3x1_32.cifar10": weights_cfg(32, first_conv="stem.0.0", num_classes=10),
        "cct_6_3x1_32.cifar10": weights_cfg(32, first_conv="stem.0.0", num_classes=10),
        "cct_4_3x2_32.cifar10": weights_cfg(32, first_conv="stem.0.0", num_classes=10),
        "cct_2_3x2_32.cifar10": weights_cfg(32, first_conv="stem.0.0", num_classes=10),
    }
)


@register_model
def cct_nano(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """D = 128, four blocks, 8×8 tokens of a 64-pixel image: 0.6 M parameters."""
    numbers = {
        "stem_channels": (24, 64),
        "embed_dim": 128,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2.0,
    }
    return _cct("cct_nano", pretrained, {**_SMALL, **numbers}, kwargs)


@register_model
def cct_tiny(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """D = 256, six blocks, 8×8 tokens of a 64-pixel image: 4.2 M parameters."""
    numbers = {
        "stem_channels": (32, 96),
        "embed_dim": 256,
        "depth": 6,
        "num_heads": 4,
        "mlp_ratio": 3.0,
    }
    return _cct("cct_tiny", pretrained, {**_SMALL, **numbers}, kwargs)


@register_model
def cct_14_7x2_224(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """CCT-14/7×2 for ImageNet."""
    return _cct("cct_14_7x2_224", pretrained, {**_7X2, **_CCT_14}, kwargs)


@register_model
def cct_7_7x2_224(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """CCT-7/7×2 for 224 pixels."""
    return _cct("cct_7_7x2_224", pretrained, {**_7X2, **_CCT_7}, kwargs)


@register_model
def cct_7_3x1_32(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """CCT-7/3×1 for CIFAR."""
    return _cct("cct_7_3x1_32", pretrained, {**_3X1, **_CCT_7}, kwargs)


@register_model
def cct_6_3x1_32(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """CCT-6/3×1 for CIFAR."""
    return _cct("cct_6_3x1_32", pretrained, {**_3X1, **_CCT_6}, kwargs)


@register_model
def cct_4_3x2_32(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """CCT-4/3×2 for CIFAR."""
    return _cct("cct_4_3x2_32", pretrained, {**_3X2, **_CCT_4}, kwargs)


@register_model
def cct_2_3x2_32(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """CCT-2/3×2 for CIFAR."""
    return _cct("cct_2_3x2_32", pretrained, {**_3X2, **_CCT_2}, kwargs)


def _info(name: str, size: Size, notes: str) -> ModelInfo:
    return our_model("CCT", _PAPER, name, size, notes, small_head(size))


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "cct_nano",
        "nano",
        "8×8 tokens of a 64-pixel image, from three convolutions with pooling; learns fast",
    ),
    _info("cct_tiny", "tiny", "the same tokenizer with six blocks of twice the width"),
    _info("cct_2_3x2_32", "paper", "for 32 pixels; an image of 64 gives 256 tokens"),
    _info("cct_4_3x2_32", "paper", "for 32 pixels; an image of 64 gives 256 tokens"),
    _info(
        "cct_6_3x1_32",
        "paper",
        "for 32 pixels; an image of 64 gives 1024 tokens: slow and hungry for memory",
    ),
    _info(
        "cct_7_3x1_32",
        "paper",
        "for 32 pixels; an image of 64 gives 1024 tokens: slow and hungry for memory",
    ),
    _info("cct_7_7x2_224", "paper", "for 224 pixels; an image of 64 gives 4×4 tokens"),
    _info("cct_14_7x2_224", "paper", "for ImageNet; an image of 64 gives 4×4 tokens"),
)
