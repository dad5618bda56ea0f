"""T2T-ViT: a ViT whose tokens are gathered step by step from overlapping patches.

Yuan et al. 2021, "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet"
(https://arxiv.org/abs/2101.11986). Instead of cutting the image once into disjoint patches, a "soft
split" unfolds it into overlapping ones, a small transformer lets them see each other, the result is
laid out as a map and split again: each step has fewer, richer tokens, and neighbours share pixels.
A narrow, deep ViT follows.

The small transformers work on hundreds to thousands of tokens, so by default they are Performers
(Choromanski et al. 2020, https://arxiv.org/abs/2009.14794), whose cost is linear in the number of
tokens. A Performer never forms weights over keys, thus has no attention map; the ViT's blocks, and
the ``t2t_vit_t_*`` variants throughout, have.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from timm.layers import (
    ConvNormAct,
    Mlp,
    calculate_drop_path_rates,
    resample_abs_pos_embed,
    to_2tuple,
)
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import Block
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


class T2TViT(Backbone):
    """Tokens-to-token module, class token, fixed sinusoidal position embedding, pre-norm ViT.

    Args:
        img_size: Height and width in pixels. Any size will do: windows that hang over the edge see
            zeros there.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        embed_dim: Width D of the ViT's tokens.
        depth: Number of its blocks.
        num_heads: Attention heads per block; divides ``embed_dim``.
        mlp_ratio: Width of a block's hidden layer over D.
        qkv_bias: Whether the blocks' queries, keys and values have a bias.
        token_attention: Of the tokens-to-token module: ``performer``, or ``transformer`` for
            softmax attention.
        token_dim: Width of the tokens within that module.
        stem_channels: Before the first soft split, a 3×3 convolution of stride 2 with batch norm
            and GELU for each number. None in the paper: there, what is first normalised is each
            window of pixels by itself, which makes the noise of an empty window as large as a
            lensed arc.
        kernel_sizes: Sides of the windows of the three soft splits.
        strides: Distances between them; their product and the stem's stride is the distance of the
            ViT's tokens in pixels.
        token_drop_rate: Dropout in the Performers; the official code fixes it.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout after the position embedding.
        proj_drop_rate: Dropout after the blocks' projections.
        attn_drop_rate: Dropout of the blocks' attention weights.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        global_pool: ``token`` (class token), ``avg`` (mean of the others) or empty.
        init_std: Standard deviation of the linear layers' first weights; None for one over the root
            of their inputs. At the paper's 0.02 the narrow layers before the ViT leave a twentieth
            of the signal beside the position embedding.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = False,
        token_attention: Literal["performer", "transformer"] = "performer",
        token_dim: int = 64,
        stem_channels: tuple[int, ...] = (),
        kernel_sizes: tuple[int, int, int] = (7, 3, 3),
        strides: tuple[int, int, int] = (4, 2, 2),
        token_drop_rate: float = 0.1,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "token",
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads or embed_dim % 2:
            raise InputError(
                f"T2T-ViT: embed_dim={embed_dim} must be even and a multiple of num_heads={num_heads}"
            )
        self.num_classes = num_classes
        self.num_features = embed_dim
        self.global_pool = global_pool
        self.patch_embed = TokensToToken(
            img_size,
            in_chans,
            embed_dim,
            token_attention,
            token_dim,
            stem_channels,
            kernel_sizes,
            strides,
            token_drop_rate,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        # A frozen parameter rather than a buffer, as in the official code: it belongs to the
        # published weights.
        table = sinusoids(1 + self.patch_embed.num_patches, embed_dim)[None]
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias=qkv_bias,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
                norm_layer=nn.LayerNorm,
            )
            for rate in cast(list[float], calculate_drop_path_rates(drop_path_rate, depth))
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.head = linear_head(embed_dim, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the tokens (B, 1 + h·w, D), the class token first; see :meth:`Backbone.trunk`."""
        tokens = self.patch_embed(images, self.run)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.pos_drop(tokens + self.pos_embed)
        for block in self.blocks:
            tokens = self.run(block, tokens)
            if maps is not None:
                maps.append(_as_map(tokens[:, 1:], self.patch_embed.grid_size))
        out: Tensor = self.norm(tokens)
        return out

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the class token."""
        return {"cls_token"}

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's layers: what makes the tokens, then each block.

        See :meth:`Backbone.group_matcher`.
        """
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


class TokensToToken(nn.Module):
    """Three soft splits with a token transformer after each of the first two, then a projection.

    A stem before, if any.

    Attributes:
        img_size: Height and width that it was built for.
        patch_size: Distances of its tokens in pixels: the product of all strides.
        grid_size: Rows and columns of its tokens.
        num_patches: How many these are.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        in_chans: int,
        embed_dim: int,
        attention: str,
        token_dim: int,
        stem_channels: tuple[int, ...],
        kernel_sizes: tuple[int, int, int],
        strides: tuple[int, int, int],
        drop: float,
    ) -> None:
        super().__init__()
        if any(kernel < stride for kernel, stride in zip(kernel_sizes, strides, strict=True)):
            raise InputError(
                f"T2T-ViT: windows of {kernel_sizes} at distances of {strides} leave gaps"
            )
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        self.patch_size: tuple[int, int] = to_2tuple(2 ** len(stem_channels) * math.prod(strides))
        self.kernel_sizes, self.strides = tuple(kernel_sizes), tuple(strides)
        stem = []
        for channels in stem_channels:
            stem.append(ConvNormAct(in_chans, channels, 3, stride=2, act_layer=nn.GELU))
            in_chans = channels
        self.stem = nn.Sequential(*stem)
        height, width = self.img_size
        for stride in (*(2 for _ in stem_channels), *strides):
            height, width = -(-height // stride), -(-width // stride)
        self.grid_size = (height, width)
        self.num_patches = height * width
        widths = [
            channels * kernel**2
            for channels, kernel in zip((in_chans, token_dim, token_dim), kernel_sizes)
        ]
        self.blocks = nn.ModuleList(
            TokenBlock(width, token_dim, attention, drop) for width in widths[:-1]
        )
        self.proj = nn.Linear(widths[-1], embed_dim)

    def forward(
        self, images: Tensor, run: Callable[..., Any] = lambda block, *args: block(*args)
    ) -> Tensor:
        """Returns the tokens (B, N, D) of images (B, C, H, W).

        Args:
            images: Of the size that this was built for.
            run: What calls the blocks, so that they can be checkpointed; the stem never is, for its
                running statistics would be taken twice.
        """
        if (
            tuple(images.shape[-2:]) != self.img_size
        ):  # another shape could have as many tokens at other places
            raise ValueError(
                f"T2T-ViT was built for images of {self.img_size} pixels, not {tuple(images.shape[-2:])}"
            )
        maps = self.stem(images)
        for block, kernel, stride in zip(self.blocks, self.kernel_sizes, self.strides):
            tokens, grid = soft_split(maps, kernel, stride)
            maps = _as_map(run(block, tokens, grid), grid)
        out: Tensor = self.proj(soft_split(maps, self.kernel_sizes[-1], self.strides[-1])[0])
        return out


class TokenBlock(nn.Module):
    """A transformer block that narrows its tokens.

    Attention takes them from ``dim`` to ``token_dim``.
    """

    def __init__(self, dim: int, token_dim: int, attention: str, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        if attention == "performer":
            self.attn: nn.Module = PerformerAttention(dim, token_dim, drop=drop)
        elif attention == "transformer":
            self.attn, drop = NarrowingAttention(dim, token_dim), 0.0
        else:
            raise InputError(
                f"T2T-ViT: token_attention must be performer or transformer, not '{attention}'"
            )
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp = Mlp(token_dim, token_dim, drop=(0.0, drop))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, token_dim) of tokens (B, N, dim) on a grid of N cells."""
        tokens = self.attn(self.norm1(tokens), grid)  # the shortcut is inside: widths differ here
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class NarrowingAttention(nn.Module):
    """Single-head softmax attention to fewer channels; the values stand in for the shortcut.

    The weights are of shape (B, 1, N, N).
    """

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.scale = (
            dim**-0.5
        )  # of the incoming width, as in the official code, though the keys are token_dim wide
        self.qkv = nn.Linear(dim, 3 * token_dim, bias=False)
        self.proj = nn.Linear(token_dim, token_dim)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, token_dim) of tokens (B, N, dim) on a grid of N cells."""
        queries, keys, values = self.qkv(tokens)[:, None].chunk(3, -1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        out: Tensor = (values + self.proj(mixed)).squeeze(1)
        return out

    def token_layout(self, tokens: Tensor, grid: tuple[int, int]) -> TokenLayout:
        """Returns the places of queries and keys: every token of the grid sees every other."""
        return global_layout(grid)


class PerformerAttention(nn.Module):
    """Single-head attention whose softmax kernel is replaced by random features.

    The values stand in for the shortcut.

    With Gaussian directions w, exp(q·k) is the mean over w of exp(w·q - |q|²/2) exp(w·k - |k|²/2).
    With m fixed directions the sum over keys can be done before the queries are looked at, so time
    and memory grow with N, not N². There are no weights over keys and hence no attention map.
    """

    def __init__(
        self, dim: int, token_dim: int, kernel_ratio: float = 0.5, drop: float = 0.0
    ) -> None:
        super().__init__()
        directions = max(1, int(token_dim * kernel_ratio))
        self.qkv = nn.Linear(dim, 3 * token_dim)
        self.proj = nn.Linear(token_dim, token_dim)
        self.drop = nn.Dropout(drop)
        # Drawn once and never learned, but part of the weights: other directions would be another
        # function.
        features = nn.init.orthogonal_(torch.empty(directions, token_dim)) * math.sqrt(directions)
        self.features = nn.Parameter(features, requires_grad=False)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, token_dim) of tokens (B, N, dim); the grid plays no part."""
        queries, keys, values = self.qkv(tokens).chunk(3, -1)
        out: Tensor = values + self.drop(
            self.proj(self.mix(queries, keys, values).to(values.dtype))
        )
        return out

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns each query's kernel-weighted mean of the values (B, N, D), at least in float32."""
        # The exponents decide everything and the sums run over thousands of tokens: half precision
        # is too coarse.
        dtype = torch.promote_types(queries.dtype, torch.float32)
        device = queries.device.type
        with (
            torch.autocast(device, enabled=False)
            if torch.amp.is_autocast_available(device)
            else nullcontext()
        ):
            queries, keys = self.kernel(queries.to(dtype)), self.kernel(keys.to(dtype))
            sums = keys.transpose(1, 2) @ values.to(dtype)  # (B, m, D)
            norm = queries @ keys.sum(1)[:, :, None]  # (B, N, 1)
            return (queries @ sums) / (norm + 1e-8)

    def kernel(self, vectors: Tensor) -> Tensor:
        """Returns the positive features (B, N, m) of vectors (B, N, D)."""
        directions = self.features.to(vectors.dtype)
        exponents = vectors @ directions.T - vectors.square().sum(-1, keepdim=True) / 2
        return exponents.exp() / math.sqrt(len(directions))


def soft_split(maps: Tensor, kernel: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Cuts maps into overlapping windows, one per ``stride`` pixels begun: no pixel is left out.

    Where the stride divides the size, this is ``Unfold`` with a padding of half the overlap.
    Elsewhere that would leave out the last pixels; here zeros are added behind until the last
    window is full.

    Args:
        maps: (B, C, H, W).
        kernel: Side of a window.
        stride: Distance between windows, at most ``kernel``.

    Returns:
        Tokens (B, h·w, C·kernel²), and h and w.
    """
    height, width = maps.shape[-2:]
    grid = (-(-height // stride), -(-width // stride))
    before = (kernel - stride + 1) // 2
    bottom, right = (
        stride * (count - 1) + kernel - before - side
        for count, side in zip(grid, (height, width), strict=True)
    )
    return F.unfold(F.pad(maps, (before, right, before, bottom)), kernel, stride=stride).transpose(
        1, 2
    ), grid


def sinusoids(length: int, dim: int) -> Tensor:
    """Sines and cosines, in turn, of places 0, 1, … along the sequence of tokens: (length, dim).

    The class token is at place 0, the grid follows row by row: rows are told apart by their order
    alone.
    """
    rates = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    out: Tensor = tokens.transpose(1, 2).unflatten(2, grid)
    return out


_OFFICIAL_KEYS = (
    (r"^tokens_to_token\.attention1\.", "patch_embed.blocks.0."),
    (r"^tokens_to_token\.attention2\.", "patch_embed.blocks.1."),
    (r"^tokens_to_token\.project\.", "patch_embed.proj."),
    (
        r"^(patch_embed\.blocks\.\d)\.(kqv|proj)\.",
        r"\1.attn.\2.",
    ),  # the Performer's layers lie bare in its block
    (r"^(patch_embed\.blocks\.\d)\.w$", r"\1.attn.features"),
    (r"^(patch_embed\.blocks\.\d)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"^(patch_embed\.blocks\.\d)\.mlp\.2\.", r"\1.mlp.fc2."),
)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes weights with official keys, or ours, to the model's keys, positions and channels.

    The published weights were tested with the usual scale of attention, (D/heads)^-½; the other one
    that the official file sets for ``pretrained=True`` is a leftover and not used.
    """
    assert isinstance(model, T2TViT)
    converted = {}
    for key, value in state_dict.items():
        key = renamed(key, _OFFICIAL_KEYS)
        if ".kqv." in key:
            keys, queries, values = value.chunk(3)
            key, value = key.replace(".kqv.", ".qkv."), torch.cat([queries, keys, values])
        converted[key] = value
    places = converted.get("pos_embed", model.pos_embed)
    if places.shape != model.pos_embed.shape:
        if math.isqrt(places.shape[1] - 1) ** 2 != places.shape[1] - 1:
            raise InputError(
                f"T2T-ViT: {places.shape[1] - 1} places are of no square image: they cannot be resized"
            )
        converted["pos_embed"] = resample_abs_pos_embed(places, list(model.patch_embed.grid_size))
    return _fit_channels(converted, model.patch_embed)


def _fit_channels(state_dict: dict[str, Tensor], embed: TokensToToken) -> dict[str, Tensor]:
    """Fits the first layers to the model's channels.

    A gray image gives what it gave as three equal channels.

    The windows are normalised before the first linear layer, and their statistics are the same for
    equal channels. The norm's gain is moved into the linear layer, whose filters can then be summed
    as timm sums those of a convolution.
    """
    weight, bias, gain, shift = (
        f"patch_embed.blocks.0.{name}"
        for name in ("attn.qkv.weight", "attn.qkv.bias", "norm1.weight", "norm1.bias")
    )
    pixels = embed.kernel_sizes[0] ** 2
    wanted = embed.blocks[0].norm1.weight.numel() // pixels  # type: ignore[union-attr, operator]
    if weight not in state_dict or state_dict[weight].shape[1] == wanted * pixels:
        return state_dict
    given = state_dict[weight].shape[1] // pixels
    filters = (state_dict[weight] * state_dict[gain]).unflatten(1, (given, pixels))
    offset = state_dict[weight] @ state_dict[shift]
    many = filters[:, torch.arange(wanted) % given].flatten(1) * (given / wanted)
    filters = filters.sum(1) if wanted == 1 else many
    fitted = {
        weight: filters,
        gain: filters.new_ones(filters.shape[1]),
        shift: filters.new_zeros(filters.shape[1]),
    }
    if bias in state_dict:
        fitted[bias] = state_dict[bias] + offset
    else:  # nothing else can hold the offset: the norm's shift, as nearly as it can
        fitted[shift] = torch.linalg.lstsq(filters, offset[:, None]).solution[:, 0]
    return {**state_dict, **fitted}


_PAPER = (
    "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet (arXiv:2101.11986)"
)
_NOTES: tuple[tuple[str, Size, str], ...] = (
    (
        "t2t_vit_nano",
        "nano",
        "convolutional stem, soft splits with Performers on 8-pixel tokens, four blocks of 128 channels",
    ),
    ("t2t_vit_tiny", "tiny", "the same with eight blocks of 256 channels"),
    ("t2t_vit_7_224", "paper", "T2T-ViT-7, a lite one: 4.3 M parameters"),
    ("t2t_vit_10_224", "paper", "T2T-ViT-10, a lite one: 5.9 M parameters"),
    ("t2t_vit_12_224", "paper", "T2T-ViT-12, a lite one: 6.9 M parameters"),
    ("t2t_vit_14_224", "paper", "T2T-ViT-14: 21.5 M parameters"),
    ("t2t_vit_19_224", "paper", "T2T-ViT-19: 39.2 M parameters"),
    ("t2t_vit_24_224", "paper", "T2T-ViT-24: 64.1 M parameters"),
    ("t2t_vit_t_14_224", "paper", "T2T-ViT_t-14: softmax attention among the tokens, too"),
    ("t2t_vit_t_19_224", "paper", "T2T-ViT_t-19: softmax attention among the tokens, too"),
    ("t2t_vit_t_24_224", "paper", "T2T-ViT_t-24: softmax attention among the tokens, too"),
    ("t2t_vit_14_resnext_224", "paper", "T2T-ViT-14 with 32 narrow heads, after ResNeXt"),
    ("t2t_vit_14_wide_224", "paper", "Four wide blocks, to compare with deep and narrow"),
)

# The paper's variants begin with no convolution: checkpoint_filter_fn fits their channels.
default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": weights_cfg(
            first_conv=None if size == "paper" else "patch_embed.stem.0.conv"
        )
        for name, size, _ in _NOTES
    }
)


# For small images: a stem of stride 4, and of the soft splits only the first strides: 64 pixels
# give 8×8 tokens.
_SMALL: dict[str, Any] = {
    "img_size": 64,
    "in_chans": 1,
    "num_classes": 3,
    "stem_channels": (16, 32),
    "kernel_sizes": (3, 3, 3),
    "strides": (2, 1, 1),
    "token_drop_rate": 0.0,
    "global_pool": "avg",
    "init_std": None,
}


@register_model
def t2t_vit_nano(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """Four blocks of D = 128 on 8-pixel tokens."""
    numbers = {
        **_SMALL,
        "embed_dim": 128,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "token_dim": 32,
    }
    return build(T2TViT, "t2t_vit_nano", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def t2t_vit_tiny(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """Eight blocks of D = 256 on 8-pixel tokens."""
    numbers = {**_SMALL, "embed_dim": 256, "depth": 8, "num_heads": 8, "mlp_ratio": 2.0}
    return build(T2TViT, "t2t_vit_tiny", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def t2t_vit_7_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-7, a lite one: 4.3 M parameters."""
    numbers = {"embed_dim": 256, "depth": 7, "num_heads": 4, "mlp_ratio": 2.0}
    return build(T2TViT, "t2t_vit_7_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def t2t_vit_10_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-10, a lite one: 5.9 M parameters."""
    numbers = {"embed_dim": 256, "depth": 10, "num_heads": 4, "mlp_ratio": 2.0}
    return build(
        T2TViT, "t2t_vit_10_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_12_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-12, a lite one: 6.9 M parameters."""
    numbers = {"embed_dim": 256, "depth": 12, "num_heads": 4, "mlp_ratio": 2.0}
    return build(
        T2TViT, "t2t_vit_12_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_14_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-14: 21.5 M parameters."""
    numbers = {"embed_dim": 384, "depth": 14, "num_heads": 6}
    return build(
        T2TViT, "t2t_vit_14_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_19_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-19: 39.2 M parameters."""
    numbers = {"embed_dim": 448, "depth": 19, "num_heads": 7}
    return build(
        T2TViT, "t2t_vit_19_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_24_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-24: 64.1 M parameters."""
    numbers = {"embed_dim": 512, "depth": 24, "num_heads": 8}
    return build(
        T2TViT, "t2t_vit_24_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_t_14_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT_t-14: softmax attention among the tokens, too."""
    numbers = {"embed_dim": 384, "depth": 14, "num_heads": 6, "token_attention": "transformer"}
    return build(
        T2TViT, "t2t_vit_t_14_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_t_19_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT_t-19: softmax attention among the tokens, too."""
    numbers = {"embed_dim": 448, "depth": 19, "num_heads": 7, "token_attention": "transformer"}
    return build(
        T2TViT, "t2t_vit_t_19_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_t_24_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT_t-24: softmax attention among the tokens, too."""
    numbers = {"embed_dim": 512, "depth": 24, "num_heads": 8, "token_attention": "transformer"}
    return build(
        T2TViT, "t2t_vit_t_24_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_14_resnext_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """T2T-ViT-14 with 32 narrow heads, after ResNeXt."""
    numbers = {"embed_dim": 384, "depth": 14, "num_heads": 32}
    return build(
        T2TViT, "t2t_vit_14_resnext_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def t2t_vit_14_wide_224(pretrained: bool = False, **kwargs: Any) -> T2TViT:
    """Four wide blocks, to compare with deep and narrow."""
    numbers = {"embed_dim": 768, "depth": 4, "num_heads": 12}
    return build(
        T2TViT, "t2t_vit_14_wide_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


MODELS: tuple[ModelInfo, ...] = tuple(
    our_model("T2T-ViT", _PAPER, name, size, notes, small_head(size))
    for name, size, notes in _NOTES
)
