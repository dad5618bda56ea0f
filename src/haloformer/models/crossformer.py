"""A pyramid whose tokens see several scales, and attend in turn to near and to far ones.

Wang et al. 2022, "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention"
(https://arxiv.org/abs/2108.00154). Each token is put together from patches of several sizes around
the same place. The blocks of a stage alternate between attention over short distance (SDA), within
groups of G×G neighbours, and over long distance (LDA), within groups of G×G tokens that lie at
equal intervals over the whole map. A small MLP makes the position bias of any offset (DPB), so
groups may have any size.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, Mlp, trunc_normal_
from timm.layers.pos_embed_rel import gen_relative_position_index
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
from haloformer.models.tokens import TokenLayout, cell_numbers, window_layout


def groups_along(side: int, group_size: int) -> tuple[int, int]:
    """Returns the number of groups n along a side of a map, and their size.

    There are as few groups as their size allows, and they are then as small as their number allows:
    16 tokens in groups of at most 7 are 3 groups of 6. For long distance the interval is n; at 224
    pixels these are the paper's 8, 4, 2, 1.
    """
    n = -(-side // group_size)
    return n, -(-side // n)


def to_groups(maps: Tensor, group_size: int, long: bool, fill: float = 0.0) -> Tensor:
    """Cuts maps (B, h, w, D) into groups (B·W, N, D).

    Neighbours, or with ``long`` tokens at equal intervals.

    The maps are padded below and on the right with ``fill`` to whole groups; no group is all
    padding.
    """
    batch, height, width, channels = maps.shape
    (rows, row_size), (columns, column_size) = (
        groups_along(height, group_size),
        groups_along(width, group_size),
    )
    maps = F.pad(
        maps, (0, 0, 0, columns * column_size - width, 0, rows * row_size - height), value=fill
    )
    if long:
        maps = maps.reshape(batch, row_size, rows, column_size, columns, channels).permute(
            0, 2, 4, 1, 3, 5
        )
    else:
        maps = maps.reshape(batch, rows, row_size, columns, column_size, channels).permute(
            0, 1, 3, 2, 4, 5
        )
    return maps.reshape(-1, row_size * column_size, channels)


def from_groups(groups: Tensor, grid: tuple[int, int], group_size: int, long: bool) -> Tensor:
    """Puts groups (B·W, N, D) back into maps (B, h, w, D), without the padding."""
    (rows, row_size), (columns, column_size) = (groups_along(side, group_size) for side in grid)
    maps = groups.reshape(-1, rows, columns, row_size, column_size, groups.shape[-1])
    maps = maps.permute(0, 3, 1, 4, 2, 5) if long else maps.permute(0, 1, 3, 2, 4, 5)
    maps = maps.reshape(-1, rows * row_size, columns * column_size, groups.shape[-1])
    return maps[:, : grid[0], : grid[1]]


class DynamicPositionBias(nn.Module):
    """An MLP from the offset between two tokens (in steps of their group) to a logit's bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.pos_proj = nn.Linear(2, dim)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out))
            for out in (dim, dim, num_heads)
        )

    def forward(self, group: tuple[int, int]) -> Tensor:
        """Returns the biases (heads, N, N) of all pairs in a group of (rows, columns) tokens."""
        weight = self.pos_proj.weight
        rows, columns = (
            torch.arange(1 - size, size, device=weight.device, dtype=weight.dtype) for size in group
        )
        biases = self.pos_proj(
            torch.cartesian_prod(rows, columns)
        )  # query minus key, as the index counts them
        for layer in self.layers:
            biases = layer(biases)
        index = gen_relative_position_index(group, device=weight.device)
        out: Tensor = biases[index.reshape(-1)].unflatten(0, tuple(index.shape)).permute(2, 0, 1)
        return out


class GroupAttention(nn.Module):
    """Self-attention within the groups of a map; the attention weights are (B·W, heads, N, N)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        group_size: int,
        long: bool,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.group_size = group_size
        self.long = long
        self.attn_drop = attn_drop
        # The official width of the MLP; no paper variant has one narrower than 4.
        self.pos = DynamicPositionBias(max(4, dim // 16), num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (B, h, w, D) of maps (B, h, w, D)."""
        height, width, dim = maps.shape[1:]
        qkv = to_groups(self.qkv(maps), self.group_size, self.long)
        n, length = qkv.shape[:2]
        qkv = qkv.reshape(n, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_drop if self.training else 0.0
        bias = self._bias((height, width), n)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        groups = mixed.transpose(1, 2).reshape(n, length, dim)
        out: Tensor = self.proj_drop(
            self.proj(from_groups(groups, (height, width), self.group_size, self.long))
        )
        return out

    def token_layout(self, maps: Tensor) -> TokenLayout:
        """Returns where the tokens of :meth:`forward` lie."""
        grid = (maps.shape[1], maps.shape[2])
        return window_layout(grid, self._cells(grid))

    def _bias(self, grid: tuple[int, int], n: int) -> Tensor:
        """Returns the bias (1 or n, heads, N, N) of the logits of n groups, -inf at padded keys."""
        (_, rows), (_, columns) = (groups_along(side, self.group_size) for side in grid)
        bias: Tensor = self.pos((rows, columns))[None]
        if all(math.prod(groups_along(side, self.group_size)) == side for side in grid):
            return bias
        hidden = self._cells(grid).to(bias.device) < 0
        masked = bias.masked_fill(hidden[:, None, None, :], -math.inf)
        return masked.repeat(n // len(hidden), 1, 1, 1)

    def _cells(self, grid: tuple[int, int]) -> Tensor:
        """The number of the cell of the map at each place of each group, -1 for padding: (W, N)."""
        return to_groups(cell_numbers(grid)[None, :, :, None], self.group_size, self.long, fill=-1)[
            ..., 0
        ].long()


class CrossFormerBlock(nn.Module):
    """Attention over short or long distance, then the MLP."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        group_size: int,
        long: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = GroupAttention(dim, num_heads, group_size, long, qkv_bias, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (B, h, w, D) of maps (B, h, w, D)."""
        maps = maps + self.drop_path(self.attn(self.norm1(maps)))
        out: Tensor = maps + self.drop_path(self.mlp(self.norm2(maps)))
        return out


class CrossScaleConvs(nn.Module):
    """Convolutions of one stride whose kernels grow around the same centre, side by side.

    Wide kernels make fewer channels.

    The first kernel is as wide as the stride. The channels halve from one kernel to the next; the
    last two have as many.
    """

    def __init__(self, in_chans: int, dim: int, kernel_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = kernel_sizes[0]
        widths = [dim >> min(i + 1, len(kernel_sizes) - 1) for i in range(len(kernel_sizes))]
        self.convs = nn.ModuleList(
            nn.Conv2d(
                in_chans, width, kernel, stride=self.stride, padding=(kernel - self.stride) // 2
            )
            for kernel, width in zip(kernel_sizes, widths)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (B, D', h/stride, w/stride) of maps (B, D, h, w)."""
        return torch.cat([conv(maps) for conv in self.convs], dim=1)


class PatchEmbed(nn.Module):
    """Makes tokens of patches of several sizes."""

    def __init__(
        self, in_chans: int, dim: int, kernel_sizes: tuple[int, ...], batch_norm: bool
    ) -> None:
        super().__init__()
        self.patch_size = kernel_sizes[0]
        self.proj = CrossScaleConvs(in_chans, dim, kernel_sizes)
        self.norm = _map_norm(dim, batch_norm)

    def forward(self, images: Tensor) -> Tensor:
        """Returns maps (B, D, h, w) of images (B, C, H, W)."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            sides = f"multiples of {self.patch_size}, not {height}×{width}"
            raise InputError(f"this CrossFormer takes images whose sides are {sides}")
        out: Tensor = self.norm(self.proj(images))
        return out


class PatchMerging(nn.Module):
    """Halves a map and doubles its width by patches of several sizes."""

    def __init__(
        self, dim: int, out_dim: int, kernel_sizes: tuple[int, ...], batch_norm: bool
    ) -> None:
        super().__init__()
        self.norm = _map_norm(dim, batch_norm)
        self.proj = CrossScaleConvs(dim, out_dim, kernel_sizes)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps (B, 2D, ⌈h/2⌉, ⌈w/2⌉) of maps (B, D, h, w)."""
        height, width = maps.shape[-2:]
        out: Tensor = self.proj(F.pad(self.norm(maps), (0, width % 2, 0, height % 2)))
        return out


def _map_norm(dim: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(dim) if batch_norm else LayerNorm2d(dim, eps=1e-5)


class CrossFormer(Backbone):
    """CrossFormer; the defaults are CrossFormer-T.

    No weight depends on the image's size. The official code keeps the intervals 8, 4, 2, 1 at every
    size, so that small maps are mostly padding; here the interval follows from the map and a
    long-distance group always spans it.

    Args:
        img_size: Height and width in pixels, multiples of the smallest patch; kept for timm's
            protocol, any other size runs as well.
        in_chans: Channels of the image.
        num_classes: Length of the output.
        embed_dim: Width of the first stage; each further one is twice as wide.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        group_size: Rows and columns of tokens in a group, at most.
        patch_sizes: Widths in pixels of the patches of a token; the first is also their distance.
        merge_sizes: The same for the tokens of the next stage, in tokens.
        mlp_ratio: Width of the MLP's hidden layer over the stage's.
        qkv_bias: Whether queries, keys and values have a bias.
        batch_norm: Norm the maps of the embedding and between stages by batch instead of layer
            norm, which the paper has. A layer norm makes dark pixels as large as bright ones; small
            models then hardly begin to learn faint arcs.
        drop_rate: Dropout of tokens, projections and MLPs.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        global_pool: ``avg``, or empty.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 64,
        depths: tuple[int, ...] = (1, 1, 8, 6),
        num_heads: tuple[int, ...] = (2, 4, 8, 16),
        group_size: int = 7,
        patch_sizes: tuple[int, ...] = (4, 8, 16, 32),
        merge_sizes: tuple[int, ...] = (2, 4),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        batch_norm: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads):
            raise InputError("CrossFormer: depths and num_heads must be of the same length")
        dims = [embed_dim * 2**stage for stage in range(len(depths))]
        self.num_classes = num_classes
        self.num_features = dims[-1]
        self.global_pool = global_pool
        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_sizes, batch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = iter(
            torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        )  # numbers, on "meta" too
        self.merges = nn.ModuleList(
            PatchMerging(dim, 2 * dim, merge_sizes, batch_norm) for dim in dims[:-1]
        )
        self.stages = nn.ModuleList()
        for dim, heads, depth in zip(dims, num_heads, depths):
            numbers = (mlp_ratio, qkv_bias, drop_rate, attn_drop_rate)
            self.stages.append(
                nn.ModuleList(
                    CrossFormerBlock(dim, heads, group_size, i % 2 == 1, *numbers, next(rates))
                    for i in range(depth)
                )
            )
        self.norm = nn.LayerNorm(self.num_features)
        self.apply(_init_weights)
        self.head = linear_head(self.num_features, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns a map (B, D, h, w); ``maps`` are those after each stage."""
        features = self.pos_drop(self.patch_embed(images))
        for stage, blocks in enumerate(self.stages):
            if stage:
                features = self.merges[stage - 1](features)
            features = features.permute(0, 2, 3, 1)
            for block in cast(nn.ModuleList, blocks):
                features = self.run(block, features)
            features = features.permute(0, 3, 1, 2)
            if maps is not None:
                maps.append(features)
        out: Tensor = self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns layers that are blocks, or with ``coarse`` stages."""
        if coarse:
            return {"stem": r"^patch_embed", "blocks": r"^(?:merges|stages)\.(\d+)"}
        return {
            "stem": r"^patch_embed",
            "blocks": [
                (r"^stages\.(\d+)\.(\d+)", None),
                (r"^merges\.(\d+)", (99998,)),
                (r"^norm", (99999,)),
            ],
        }


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes official weights (or ours) to our names.

    What only says where tokens lie (offsets, their indices, masks; earlier official code saved
    them) is left out.
    """
    converted = {}
    for name, tensor in state_dict.get("model", state_dict).items():  # type: ignore[union-attr]
        if name.endswith((".biases", ".relative_position_index", ".attn_mask")):
            continue
        name = renamed(name, _OFFICIAL_NAMES)
        converted[name] = tensor
    return converted


_OFFICIAL_NAMES = (
    (r"^patch_embed\.projs\.", "patch_embed.proj.convs."),
    (r"^layers\.(\d+)\.downsample\.reductions\.", r"merges.\1.proj.convs."),
    (r"^layers\.(\d+)\.downsample\.", r"merges.\1."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.attn\.pos\.pos(\d)\.", lambda match: f".attn.pos.layers.{int(match[1]) - 1}."),
)

_FIRST_CONVS = tuple(f"patch_embed.proj.convs.{i}" for i in range(4))

default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": weights_cfg(first_conv=_FIRST_CONVS)
        for name in (
            "crossformer_tiny_224",
            "crossformer_small_224",
            "crossformer_base_224",
            "crossformer_large_224",
            "crossformer_nano",
            "crossformer_tiny",
        )
    }
)


@register_model
def crossformer_tiny_224(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer-T: 27.8 M parameters."""
    return build(CrossFormer, "crossformer_tiny_224", pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def crossformer_small_224(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer-S: 30.7 M parameters."""
    numbers: dict[str, Any] = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    return build(
        CrossFormer,
        "crossformer_small_224",
        pretrained,
        checkpoint_filter_fn,
        **{**numbers, **kwargs},
    )


@register_model
def crossformer_base_224(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer-B: 52.0 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dim": 96,
        "depths": (2, 2, 18, 2),
        "num_heads": (3, 6, 12, 24),
    }
    return build(
        CrossFormer,
        "crossformer_base_224",
        pretrained,
        checkpoint_filter_fn,
        **{**numbers, **kwargs},
    )


@register_model
def crossformer_large_224(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """CrossFormer-L: 92 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
    }
    return build(
        CrossFormer,
        "crossformer_large_224",
        pretrained,
        checkpoint_filter_fn,
        **{**numbers, **kwargs},
    )


@register_model
def crossformer_nano(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """Three stages in groups of 8×8: 64 pixels give 2×2, one and one of them; 1.4 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dim": 48,
        "depths": (2, 2, 2),
        "num_heads": (2, 4, 8),
        "group_size": 8,
        "batch_norm": True,
    }
    return build(
        CrossFormer, "crossformer_nano", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def crossformer_tiny(pretrained: bool = False, **kwargs: Any) -> CrossFormer:
    """The same, wider and deeper: 4.9 M parameters."""
    numbers: dict[str, Any] = {
        "embed_dim": 64,
        "depths": (2, 2, 5),
        "num_heads": (2, 4, 8),
        "group_size": 8,
        "batch_norm": True,
    }
    return build(
        CrossFormer, "crossformer_tiny", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


_PAPER = "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention (arXiv:2108.00154)"


def _info(name: str, size: Size, notes: str) -> ModelInfo:
    return our_model("CrossFormer", _PAPER, name, size, notes, small_head(size))


MODELS: tuple[ModelInfo, ...] = (
    _info(
        "crossformer_nano",
        "nano",
        "three stages in groups of 8×8 tokens of 4 pixels, batch norm between stages",
    ),
    _info("crossformer_tiny", "tiny", "the same, wider and deeper"),
    _info("crossformer_tiny_224", "paper", "CrossFormer-T: groups of 7×7 tokens of 4 pixels"),
    _info("crossformer_small_224", "paper", "CrossFormer-S"),
    _info("crossformer_base_224", "paper", "CrossFormer-B"),
    _info("crossformer_large_224", "paper", "CrossFormer-L"),
)
