"""RegionViT: every window of local tokens attends together with a coarse token of its region.

Chen et al. 2022, "RegionViT: Regional-to-Local Attention for Vision Transformers"
(https://arxiv.org/abs/2106.02689). The image is embedded twice: finely as local tokens (4×4 pixels)
and coarsely as regional tokens (a whole window of them). In each block the regional tokens of the
image first attend to each other; then each attends, together with the local tokens of its window,
to all of these. So what is seen far away reaches every local token through its region, at the cost
of windows. The class is read from the regional tokens.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, Mlp, trunc_normal_
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed_rel import gen_relative_position_index, resize_rel_pos_bias_table_simple
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
from haloformer.models.tokens import TokenLayout, cell_numbers, global_layout


@dataclass(frozen=True)
class Windows:
    """How a map of local tokens is cut into W windows of N tokens, one per region.

    Windows that hang over the lower or right edge are filled up with padding. Regions and windows
    stay aligned when a stride-2 convolution halves both: ⌈⌈h/2⌉/s⌉ = ⌈⌈h/s⌉/2⌉.

    Attributes:
        grid: Rows and columns of the map.
        size: Rows and columns of a window, at most those of the map.
    """

    grid: tuple[int, int]
    size: tuple[int, int]

    @property
    def regions(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return -(-self.grid[0] // self.size[0]), -(-self.grid[1] // self.size[1])

    @property
    def overhang(self) -> tuple[int, int]:
        """Rows and columns of padding."""
        return tuple(n * s - g for n, s, g in zip(self.regions, self.size, self.grid))  # type: ignore[return-value]

    def cut(self, maps: Tensor, fill: float = 0.0) -> Tensor:
        """Cuts maps (B, D, h, w) into windows (B·W, N, D)."""
        batch, channels = maps.shape[:2]
        (rows, columns), (height, width) = self.regions, self.size
        maps = F.pad(maps, (0, self.overhang[1], 0, self.overhang[0]), value=fill)
        maps = maps.reshape(batch, channels, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)
        return maps.reshape(-1, height * width, channels)

    def join(self, windows: Tensor) -> Tensor:
        """Puts windows (B·W, N, D) back into maps (B, D, h, w), without the padding."""
        (rows, columns), (height, width) = self.regions, self.size
        maps = windows.reshape(-1, rows, columns, height, width, windows.shape[-1]).permute(
            0, 5, 1, 3, 2, 4
        )
        maps = maps.reshape(-1, windows.shape[-1], rows * height, columns * width)
        return maps[..., : self.grid[0], : self.grid[1]]

    def cells(self, device: torch.device | None = None) -> Tensor:
        """The number of the cell of the map at each place of each window, -1 for padding: (W, N)."""
        return self.cut(cell_numbers(self.grid).to(device)[None, None], fill=-1)[..., 0].long()


class RegionalAttention(nn.Module):
    """One set of weights for both attentions of a block.

    Of the regional tokens, and of a region with its local tokens.

    Only pairs of local tokens have a position bias. The attention weights are (B, heads, R, R)
    between the R regional tokens of an image, and (B·W, heads, 1 + N, 1 + N) within windows, where
    the regional token comes first.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        index = gen_relative_position_index((window_size, window_size))
        self.register_buffer("relative_position_index", index, persistent=False)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor, windows: Windows, regional: bool) -> Tensor:
        """Returns tokens of the same shape.

        Args:
            tokens: (B, R, D) if ``regional``, else (B·W, 1 + N, D).
            windows: Those of the stage.
            regional: Whether the tokens are the regional ones of whole images.
        """
        n, length, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(n, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if regional else self._bias(windows, n)
        dropout = self.attn_drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(n, length, dim)))
        return out

    def token_layout(self, tokens: Tensor, windows: Windows, regional: bool) -> TokenLayout:
        """Returns where the tokens of :meth:`forward` lie.

        The regional token of a window is at no single place.
        """
        if regional:
            return global_layout(windows.regions)
        cells = F.pad(windows.cells(), (1, 0), value=-1)
        return TokenLayout(windows.grid, windows.grid, cells, cells, class_query=0)

    def _bias(self, windows: Windows, n: int) -> Tensor:
        """Returns what is added to the logits of n windows.

        (1 or n, heads, 1 + N, 1 + N), -inf at padded keys.
        """
        height, width = windows.size
        side = self.window_size
        # A map smaller than a window has a smaller one, with the same offsets between its tokens.
        index = self.relative_position_index.reshape(side, side, side, side)[
            :height, :width, :height, :width
        ]
        table = self.relative_position_bias_table[index.reshape(-1)]
        bias = table.reshape(height * width, height * width, self.num_heads).permute(2, 0, 1)
        bias = F.pad(bias, (1, 0, 1, 0))[None]
        if not any(windows.overhang):
            return bias
        hidden = F.pad(windows.cells(bias.device) < 0, (1, 0))
        return bias.masked_fill(hidden[:, None, None, :], -math.inf).repeat(
            n // len(hidden), 1, 1, 1
        )


class RegionViTBlock(nn.Module):
    """Regional self-attention, regional-to-local attention, and an MLP for both kinds of tokens."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(dim, eps=1e-6)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RegionalAttention(dim, num_heads, window_size, qkv_bias, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens: Tensor, windows: Windows) -> Tensor:
        """Returns tokens (B·W, 1 + N, D) of the same shape, each window's regional token first."""
        regions = tokens[:, 0].unflatten(0, (-1, math.prod(windows.regions)))
        regions = regions + self.drop_path(self.attn(self.norm0(regions), windows, True))
        tokens = torch.cat((regions.flatten(0, 1)[:, None], tokens[:, 1:]), dim=1)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), windows, False))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


class LocalEmbed(nn.Module):
    """Makes the local tokens, one for 4×4 pixels.

    Three 3×3 convolutions, or one 8×8 convolution of stride 4.
    """

    patch_size = 4

    def __init__(self, in_chans: int, dim: int, conv_stem: bool, batch_norm: bool) -> None:
        super().__init__()
        if not conv_stem:
            self.proj = nn.Sequential(nn.Conv2d(in_chans, dim, 8, stride=4, padding=3))
            return
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 4, 3, stride=2, padding=1),
            _map_norm(dim // 4, batch_norm),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 2, 3, stride=2, padding=1),
            _map_norm(dim // 2, batch_norm),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns maps (B, D, H/4, W/4) of images (B, C, H, W)."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"RegionViT takes images whose sides are multiples of 4, not {height}×{width}"
            )
        out: Tensor = self.proj(images)
        return out


class Downsample(nn.Module):
    """Halves the maps of both kinds of tokens with one depthwise 3×3 convolution.

    A layer norm is shared as well; batch norms are two, as regional and local tokens have
    statistics of their own.
    """

    def __init__(self, dim: int, out_dim: int, batch_norm: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            _map_norm(dim, batch_norm) for _ in range(2 if batch_norm else 1)
        )
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, groups=dim)

    def forward(self, regions: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Returns maps (B, D', ⌈h/2⌉, ⌈w/2⌉) of maps (B, D, h, w)."""
        return self.conv(F.gelu(self.norms[0](regions))), self.conv(F.gelu(self.norms[-1](local)))


def _map_norm(dim: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(dim) if batch_norm else LayerNorm2d(dim, eps=1e-5)


class RegionViT(Backbone):
    """RegionViT; the defaults are RegionViT-Ti.

    The image is embedded at a quarter of its size and halved before each stage but the first. No
    weight depends on the image's size.

    Args:
        img_size: Height and width in pixels, multiples of 4; kept for timm's protocol, any other
            size runs as well.
        in_chans: Channels of the image.
        num_classes: Length of the output.
        embed_dims: Width of each stage.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        window_size: Rows and columns of local tokens in a region.
        mlp_ratio: Width of the MLP's hidden layer over the stage's.
        qkv_bias: Whether queries, keys and values have a bias.
        conv_stem: Local tokens by three 3×3 convolutions instead of one 8×8.
        batch_norm: Norm the maps of the stem and between stages by batch instead of layer norm,
            which the paper has. A layer norm makes dark pixels as large as bright ones; small
            models then hardly begin to learn faint arcs.
        drop_rate: Dropout of local tokens, projections and MLPs.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        global_pool: ``avg`` over the regions, or empty.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (2, 2, 8, 2),
        num_heads: tuple[int, ...] = (2, 4, 8, 16),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        conv_stem: bool = True,
        batch_norm: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if not len(embed_dims) == len(depths) == len(num_heads):
            raise InputError(
                "RegionViT: embed_dims, depths and num_heads must be of the same length"
            )
        self.num_classes = num_classes
        self.num_features = embed_dims[-1]
        self.global_pool = global_pool
        self.window_size = window_size
        self.patch_embed = LocalEmbed(in_chans, embed_dims[0], conv_stem, batch_norm)
        region = LocalEmbed.patch_size * window_size
        self.region_embed = nn.Conv2d(in_chans, embed_dims[0], region, stride=region)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = iter(
            torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        )  # numbers, on "meta" too
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage, dim in enumerate(embed_dims):
            if stage:
                self.downsamples.append(Downsample(embed_dims[stage - 1], dim, batch_norm))
            numbers = (
                dim,
                num_heads[stage],
                window_size,
                mlp_ratio,
                qkv_bias,
                drop_rate,
                attn_drop_rate,
            )
            blocks = [RegionViTBlock(*numbers, next(rates)) for _ in range(depths[stage])]
            self.stages.append(nn.ModuleList(blocks))
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.apply(_init_weights)
        self.head = linear_head(self.num_features, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the regional tokens (B, R, D).

        ``maps`` are those of the local tokens after each stage.
        """
        local = self.pos_drop(self.patch_embed(images))
        regions = self._embed_regions(images, self._windows(local))
        for stage, blocks in enumerate(self.stages):
            if stage:
                regions, local = self.downsamples[stage - 1](regions, local)
            windows = self._windows(local)
            tokens = torch.cat(
                (
                    regions.flatten(2).transpose(1, 2).reshape(-1, 1, regions.shape[1]),
                    windows.cut(local),
                ),
                1,
            )
            for block in cast(nn.ModuleList, blocks):
                tokens = self.run(block, tokens, windows)
            regions = tokens[:, 0].unflatten(0, (-1, *windows.regions)).permute(0, 3, 1, 2)
            local = windows.join(tokens[:, 1:])
            if maps is not None:
                maps.append(local)
        out: Tensor = self.norm(regions.flatten(2).transpose(1, 2))
        return out

    def _windows(self, local: Tensor) -> Windows:
        height, width = local.shape[-2:]
        return Windows(
            (height, width), (min(self.window_size, height), min(self.window_size, width))
        )

    def _embed_regions(self, images: Tensor, windows: Windows) -> Tensor:
        """Returns a token (B, D, rows, columns) for each window; pixels over the edge are zero."""
        pixels = self.region_embed.stride[0]
        below, right = (pixels * n - side for n, side in zip(windows.regions, images.shape[-2:]))
        out: Tensor = self.region_embed(F.pad(images, (0, right, 0, below)))
        return out

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the position biases."""
        return {
            name
            for name, _ in self.named_parameters()
            if name.endswith("relative_position_bias_table")
        }

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns layers that are blocks, or with ``coarse`` stages."""
        stem = r"^patch_embed|^region_embed"
        if coarse:
            return {"stem": stem, "blocks": r"^(?:downsamples|stages)\.(\d+)"}
        return {
            "stem": stem,
            "blocks": [
                (r"^stages\.(\d+)\.(\d+)", None),
                (r"^downsamples\.(\d+)", (99998,)),
                (r"^norm", (99999,)),
            ],
        }


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes official weights (or ours) to our names and to the sizes of the model's windows.

    ``proj_cls`` goes: in the official code it is a second name of ``proj``, as both kinds of tokens
    share it.
    """
    converted = {}
    for name, tensor in state_dict.get("model", state_dict).items():  # type: ignore[union-attr]
        if ".proj_cls." in name:
            continue
        if name.endswith(".rel_pos"):
            name, tensor = (
                name.replace(".rel_pos", ".relative_position_bias_table"),
                _unwrap_offsets(tensor),
            )
        name = renamed(name, _OFFICIAL_NAMES)
        # Official norms of maps keep their weights as (1, C, 1, 1).
        is_norm = tensor.ndim == 4 and tensor.shape[0] == tensor.shape[2] == tensor.shape[3] == 1
        converted[name] = tensor.flatten() if is_norm else tensor
    return {name: _resized(name, tensor, model) for name, tensor in converted.items()}


_OFFICIAL_NAMES = (
    (r"^patch_embed\.proj\.(weight|bias)$", r"patch_embed.proj.0.\1"),
    (r"^cls_token\.proj\.", "region_embed."),
    (
        r"^layers\.(\d+)\.block\.0\.proj\.0\.",
        lambda match: f"downsamples.{int(match[1]) - 1}.norms.0.",
    ),
    (
        r"^layers\.(\d+)\.block\.0\.proj\.2\.",
        lambda match: f"downsamples.{int(match[1]) - 1}.conv.",
    ),
    (r"^layers\.(\d+)\.block\.(\d+)\.", lambda match: f"stages.{match[1]}.{int(match[2]) - 1}."),
)


def _unwrap_offsets(table: Tensor) -> Tensor:
    """Brings an official table (heads, S²), S = 2s - 1, into timm's order (S², heads).

    There the bias of the offset key minus query = d stands at d + ⌊s/2⌋, where negative numbers
    count from the end.
    """
    span = math.isqrt(table.shape[1])
    side = (span + 1) // 2
    order = (side // 2 + side - 1 - torch.arange(span)) % span
    return table.reshape(-1, span, span)[:, order][:, :, order].flatten(1).T.contiguous()


def _resized(name: str, tensor: Tensor, model: nn.Module) -> Tensor:
    if name.endswith(".relative_position_bias_table"):
        attention = model.get_submodule(name.rpartition(".")[0])
        side = int(attention.window_size)  # type: ignore[arg-type]
        shape = ((2 * side - 1) ** 2, tensor.shape[1])
        table: Tensor = resize_rel_pos_bias_table_simple(tensor, (side, side), shape)
        return table
    if name == "region_embed.weight":
        assert isinstance(model, RegionViT)
        filters: Tensor = resample_patch_embed(tensor, list(model.region_embed.kernel_size))
        return filters
    return tensor


default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": weights_cfg(first_conv=("patch_embed.proj.0", "region_embed"))
        for name in (
            "regionvit_tiny_224",
            "regionvit_small_224",
            "regionvit_medium_224",
            "regionvit_base_224",
            "regionvit_nano",
            "regionvit_tiny",
        )
    }
)


@register_model
def regionvit_tiny_224(pretrained: bool = False, **kwargs: Any) -> RegionViT:
    """RegionViT-Ti: 13.8 M parameters."""
    return build(RegionViT, "regionvit_tiny_224", pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def regionvit_small_224(pretrained: bool = False, **kwargs: Any) -> RegionViT:
    """RegionViT-S: 30.6 M parameters."""
    numbers: dict[str, Any] = {"embed_dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24)}
    return build(
        RegionViT, "regionvit_small_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def regionvit_medium_224(pretrained: bool = False, **kwargs: Any) -> RegionViT:
    """RegionViT-M: 41.2 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dims": (96, 192, 384, 768),
        "depths": (2, 2, 14, 2),
        "num_heads": (3, 6, 12, 24),
        "conv_stem": False,
    }
    return build(
        RegionViT, "regionvit_medium_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def regionvit_base_224(pretrained: bool = False, **kwargs: Any) -> RegionViT:
    """RegionViT-B: 72.7 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dims": (128, 256, 512, 1024),
        "depths": (2, 2, 14, 2),
        "num_heads": (4, 8, 16, 32),
        "conv_stem": False,
    }
    return build(
        RegionViT, "regionvit_base_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def regionvit_nano(pretrained: bool = False, **kwargs: Any) -> RegionViT:
    """Three stages with regions of 4×4 local tokens: 64 pixels give 4×4, 2×2 and one of them.

    1.1 M parameters.
    """
    numbers: dict[str, Any] = {
        "embed_dims": (48, 96, 192),
        "depths": (1, 1, 2),
        "num_heads": (2, 4, 8),
        "window_size": 4,
        "batch_norm": True,
    }
    return build(
        RegionViT, "regionvit_nano", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def regionvit_tiny(pretrained: bool = False, **kwargs: Any) -> RegionViT:
    """The same, wider and deeper: 4.4 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dims": (64, 128, 256),
        "depths": (1, 2, 5),
        "num_heads": (2, 4, 8),
        "window_size": 4,
        "batch_norm": True,
    }
    return build(
        RegionViT, "regionvit_tiny", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


_PAPER = "RegionViT: Regional-to-Local Attention for Vision Transformers (arXiv:2106.02689)"


def _info(name: str, size: Size, notes: str) -> ModelInfo:
    return our_model("RegionViT", _PAPER, name, size, notes, small_head(size))


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "regionvit_nano",
        "nano",
        "three stages, 4×4 local tokens of 4 pixels to a region, batch norm between stages",
    ),
    _info("regionvit_tiny", "tiny", "the same, wider and deeper"),
    _info("regionvit_tiny_224", "paper", "RegionViT-Ti: 7×7 local tokens of 4 pixels to a region"),
    _info("regionvit_small_224", "paper", "RegionViT-S"),
    _info("regionvit_medium_224", "paper", "RegionViT-M: local tokens by one 8×8 convolution"),
    _info("regionvit_base_224", "paper", "RegionViT-B: local tokens by one 8×8 convolution"),
)
