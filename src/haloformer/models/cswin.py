"""CSWin: attention within stripes, half of the heads in columns and half in rows.

Dong et al. 2021, "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped
Windows" (https://arxiv.org/abs/2107.00652). A pyramid: the stripes widen from stage to stage, and
the last stage attends globally. Instead of a position embedding, a depthwise convolution of the
values within each stripe is added to what attention makes of them (LePE, "locally-enhanced
positional encoding").

Equal to the official code (microsoft/CSWin-Transformer) where that runs, which is where stripes
divide the map. Elsewhere the map is padded to whole stripes, and no token attends to the padding.
"""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import init_weights_vit_timm
from torch import Tensor, nn

from haloformer.models.backbone import Backbone, build, linear_head, weights_cfg
from haloformer.models.cvt import ConvEmbed, Stage, final_norm_layer
from haloformer.models.info import ModelInfo, Size, our_model
from haloformer.models.tokens import TokenLayout, cell_numbers, window_layout


class StripeAttention(nn.Module):
    """Attention among the tokens of each window, plus a convolution of the window's values.

    Weights: (B·W, heads, N, N) by ``scaled_dot_product_attention``; the W windows are numbered row
    by row.

    Attributes:
        stripe: Rows and columns of a window; None is all that the map has.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        stripe: tuple[int | None, int | None],
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"cswin: {num_heads} heads do not divide {dim} channels")
        self.num_heads = num_heads
        self.stripe = stripe
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.attn_drop = attn_drop

    def forward(self, qkv: Tensor) -> Tensor:
        """Returns a map (B, h, w, D).

        Args:
            qkv: Maps of queries, keys and values, (3, B, h, w, D).
        """
        batch, height, width, dim = qkv.shape[1:]
        (rows, columns), (down, across) = self.windows(height, width)
        pad = (0, 0, 0, across * columns - width, 0, down * rows - height)
        # The values of padding are zero: a stripe's convolution sees there what it sees beyond any
        # edge.
        stripes = F.pad(qkv.flatten(0, 1), pad) if any(pad) else qkv.flatten(0, 1)
        stripes = _partition(stripes, rows, columns).unflatten(0, (3, -1))  # (3, B·W, N, D)
        q, k, v = stripes.unflatten(3, (self.num_heads, -1)).transpose(2, 3)
        dropout = self.attn_drop if self.training else 0.0
        mixed = (
            F.scaled_dot_product_attention(q, k, v, self.mask(qkv), dropout)
            .transpose(1, 2)
            .flatten(2)
        )
        images = stripes[2].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        mixed = mixed + self.lepe(images).flatten(2).transpose(1, 2)
        maps = mixed.reshape(batch, down, across, rows, columns, dim).transpose(2, 3)
        out: Tensor = maps.reshape(batch, down * rows, across * columns, dim)[:, :height, :width]
        return out

    def windows(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns rows and columns of a window, and how many windows lie down and across a map."""
        rows, columns = min(self.stripe[0] or height, height), min(self.stripe[1] or width, width)
        return (rows, columns), (-(-height // rows), -(-width // columns))

    def cells(self, height: int, width: int) -> Tensor:
        """Returns the cell of the map (by rows) at each place of each window, -1 for padding: (W, N)."""
        (rows, columns), (down, across) = self.windows(height, width)
        pad = (0, across * columns - width, 0, down * rows - height)
        return _partition(
            F.pad(cell_numbers((height, width)), pad, value=-1)[None, :, :, None], rows, columns
        )[..., 0]

    def mask(self, qkv: Tensor) -> Tensor | None:
        """Returns which keys are tokens, (B·W, 1, 1, N); None without padding: then all are."""
        batch, height, width = qkv.shape[1:4]
        (rows, columns), (down, across) = self.windows(height, width)
        if (down * rows, across * columns) == (height, width):
            return None
        return (self.cells(height, width) >= 0).to(qkv.device).repeat(batch, 1)[:, None, None]

    def token_layout(self, qkv: Tensor) -> TokenLayout:
        """Returns where queries and keys lie; the argument is that of :meth:`forward`."""
        grid = (qkv.shape[2], qkv.shape[3])
        return window_layout(grid, self.cells(*grid))


def _partition(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Cuts maps (B, h, w, D) into windows of ``rows`` by ``columns``: (B·W, N, D)."""
    windows = maps.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3)
    out: Tensor = windows.flatten(0, 2).flatten(1, 2)
    return out


class Block(nn.Module):
    """A pre-norm transformer block whose attention is cross-shaped, or global in the last stage."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        split_size: int | None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        """Builds the attention of columns and of rows, or of the whole map.

        Args:
            dim: Width D of the tokens.
            num_heads: Attention heads, half of them for each direction.
            split_size: Width of the stripes; None for global attention.
            mlp_ratio: Width of the hidden layer over D.
            qkv_bias: Whether queries, keys and values have a bias.
            proj_drop: Dropout after attention and in the hidden layer.
            attn_drop: Dropout of attention weights.
            drop_path: Probability that an image skips a branch (stochastic depth).
        """
        super().__init__()
        stripes = [(None, None)] if split_size is None else [(None, split_size), (split_size, None)]
        if num_heads % len(stripes):
            raise ValueError(f"cswin: {num_heads} heads cannot be halved between columns and rows")
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attns = nn.ModuleList(
            StripeAttention(dim // len(stripes), num_heads // len(stripes), stripe, attn_drop)
            for stripe in stripes
        )
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Returns a map (B, h, w, D) of a map (B, h, w, D)."""
        qkv = self.qkv(self.norm1(maps)).unflatten(3, (3, -1)).permute(3, 0, 1, 2, 4)
        parts = qkv.chunk(len(self.attns), -1)
        mixed = torch.cat([attention(part) for attention, part in zip(self.attns, parts)], -1)
        maps = maps + self.drop_path(self.proj_drop(self.proj(mixed)))
        out: Tensor = maps + self.drop_path(self.mlp(self.norm2(maps)))
        return out


class CSWinTransformer(Backbone):
    """A pyramid of cross-shaped windows. The defaults are CSWin-T of the paper."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 64,
        depths: tuple[int, ...] = (1, 2, 21, 1),
        num_heads: tuple[int, ...] = (2, 4, 8, 16),
        split_sizes: tuple[int | None, ...] = (1, 2, 7, None),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_kernel: int = 7,
        patch_stride: int = 4,
        stem_channels: tuple[int, ...] = (),
        global_pool: str = "avg",
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
            embed_dim: Width of the tokens of the first stage; it doubles from stage to stage.
            depths: Blocks of each stage.
            num_heads: Attention heads of each stage, half of them for columns and half for rows.
            split_sizes: Width of the stripes of each stage; None for global attention.
            mlp_ratio: Width of a block's hidden layer over that of the tokens.
            qkv_bias: Whether queries, keys and values have a bias.
            patch_kernel: Side of the convolution that makes the first tokens.
            patch_stride: Its stride.
            stem_channels: Channels of stride-2 convolutions before it.
            global_pool: What the classifier sees: ``avg``, or empty for the map.
            final_norm: ``layer`` as in the paper, or ``batch`` to learn faster (see
                ``cvt.final_norm_layer``).
            drop_rate: Dropout before the classifier.
            proj_drop_rate: Dropout after attention and in the hidden layers.
            attn_drop_rate: Dropout of attention weights.
            drop_path_rate: Stochastic depth of the last block; it rises from 0 over the blocks.
        """
        super().__init__()
        dims = [embed_dim * 2**i for i in range(len(depths))]
        self.num_classes = num_classes
        self.num_features = dims[-1]
        self.global_pool = global_pool
        self.patch_embed = ConvEmbed(in_chans, dims[0], patch_kernel, patch_stride, stem_channels)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for i, (dim, depth, heads, split, end) in enumerate(
            zip(dims, depths, num_heads, split_sizes, accumulate(depths), strict=True)
        ):
            blocks = [
                Block(dim, heads, split, mlp_ratio, qkv_bias, proj_drop_rate, attn_drop_rate, rate)
                for rate in rates[end - depth : end]
            ]
            self.stages.append(
                Stage(ConvEmbed(dims[i - 1], dim, 3, 2) if i else nn.Identity(), blocks)
            )
        self.norm = final_norm_layer(final_norm, self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.apply(init_weights_vit_timm)
        self.head = linear_head(self.num_features, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the map (B, D, h, w) of the last stage, normalised.

        ``maps`` gets a map per stage.
        """
        features = self.patch_embed(images)  # (B, h, w, D), as between the stages
        for i, stage in enumerate(cast("Iterable[Stage]", self.stages)):
            if i:
                features = stage.downsample(features.permute(0, 3, 1, 2))
            for block in stage.blocks:
                features = self.run(block, features)
            if maps is not None:
                maps.append(features.permute(0, 3, 1, 2))
        out: Tensor = self.norm(features.flatten(0, 2)).reshape(features.shape).permute(0, 3, 1, 2)
        return out

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of parameter names by which timm forms layers."""
        blocks: Any = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": r"^stages\.(\d+)" if coarse else blocks}


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns a state dict with our keys, from one with those of the official code or ours.

    Nothing depends on size.
    """

    def renamed(key: str) -> str:
        key = key.replace("stage1_conv_embed.0.", "patch_embed.proj.").replace(
            "stage1_conv_embed.2.", "patch_embed.norm."
        )
        # Official stages count from 1, and merge1 leads from the first to the second.
        key = re.sub(r"^stage(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.blocks.", key)
        key = re.sub(r"^merge(\d+)\.", r"stages.\1.downsample.", key).replace(
            ".downsample.conv.", ".downsample.proj."
        )
        return key.replace(".get_v.", ".lepe.")

    return {renamed(key): value for key, value in state_dict.items()}


default_cfgs = generate_default_cfgs(
    {
        "cswin_nano": weights_cfg(64, first_conv="patch_embed.early.0.conv"),
        "cswin_tiny": weights_cfg(64, first_conv="patch_embed.early.0.conv"),
        "cswin_tiny_224.in1k": weights_cfg(first_conv="patch_embed.proj"),
        "cswin_small_224.in1k": weights_cfg(first_conv="patch_embed.proj"),
        "cswin_base_224.in1k": weights_cfg(first_conv="patch_embed.proj"),
        "cswin_large_224.in22k_ft_in1k": weights_cfg(first_conv="patch_embed.proj"),
        "cswin_base_384.in22k_ft_in1k": weights_cfg(
            384, first_conv="patch_embed.proj", crop_pct=1.0
        ),
        "cswin_large_384.in22k_ft_in1k": weights_cfg(
            384, first_conv="patch_embed.proj", crop_pct=1.0
        ),
    }
)


def _cswin(
    name: str, pretrained: bool, numbers: dict[str, Any], given: dict[str, Any]
) -> CSWinTransformer:
    return build(CSWinTransformer, name, pretrained, checkpoint_filter_fn, **{**numbers, **given})


_SMALL_IMAGES = {
    "img_size": 64,
    "in_chans": 1,
    "num_classes": 3,
    "patch_kernel": 3,
    "patch_stride": 2,
    "split_sizes": (2, 2, None),
    "final_norm": "batch",
}


@register_model
def cswin_nano(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """For 64–150 pixels: tokens of 4 pixels from two convolutions, three stages."""
    numbers = {"stem_channels": (24,), "embed_dim": 32, "depths": (1, 1, 2), "num_heads": (2, 4, 4)}
    return _cswin("cswin_nano", pretrained, {**_SMALL_IMAGES, **numbers}, kwargs)


@register_model
def cswin_tiny(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """The same, wider and deeper."""
    numbers = {"stem_channels": (32,), "embed_dim": 64, "depths": (1, 2, 5), "num_heads": (2, 4, 8)}
    return _cswin("cswin_tiny", pretrained, {**_SMALL_IMAGES, **numbers}, kwargs)


@register_model
def cswin_tiny_224(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-T: 22.32 M parameters."""
    return _cswin("cswin_tiny_224", pretrained, {}, kwargs)


@register_model
def cswin_small_224(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-S: 34.64 M parameters."""
    return _cswin("cswin_small_224", pretrained, {"depths": (2, 4, 32, 2)}, kwargs)


@register_model
def cswin_base_224(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-B: 77.38 M parameters."""
    return _cswin("cswin_base_224", pretrained, _BASE, kwargs)


@register_model
def cswin_large_224(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-L: 173.26 M parameters."""
    return _cswin("cswin_large_224", pretrained, _LARGE, kwargs)


@register_model
def cswin_base_384(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-B with the wider stripes of 384-pixel images."""
    return _cswin(
        "cswin_base_384",
        pretrained,
        {**_BASE, "img_size": 384, "split_sizes": (1, 2, 12, None)},
        kwargs,
    )


@register_model
def cswin_large_384(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-L with the wider stripes of 384-pixel images."""
    return _cswin(
        "cswin_large_384",
        pretrained,
        {**_LARGE, "img_size": 384, "split_sizes": (1, 2, 12, None)},
        kwargs,
    )


_BASE = {"embed_dim": 96, "depths": (2, 4, 32, 2), "num_heads": (4, 8, 16, 32)}
_LARGE = {"embed_dim": 144, "depths": (2, 4, 32, 2), "num_heads": (6, 12, 24, 24)}

_PAPER = "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows (arXiv:2107.00652)"


def _info(name: str, notes: str, size: Size) -> ModelInfo:
    return our_model("CSWin", _PAPER, name, size, notes)


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "cswin_nano",
        "stripes of 2 tokens of 4 pixels, two convolutions as stem, three small stages",
        "nano",
    ),
    _info("cswin_tiny", "the same, wider and deeper", "tiny"),
    _info("cswin_tiny_224", "the paper's CSWin-T", "paper"),
    _info("cswin_small_224", "the paper's CSWin-S", "paper"),
    _info("cswin_base_224", "the paper's CSWin-B", "paper"),
    _info("cswin_large_224", "the paper's CSWin-L", "paper"),
    _info("cswin_base_384", "CSWin-B with stripes of 12 tokens", "paper"),
    _info("cswin_large_384", "CSWin-L with stripes of 12 tokens", "paper"),
)
