"""The attention layers of timm's models: where their tokens lie, and which weights they form.

A layer is known by the name of its class. It is told from the outside, by what it and the modules
around it were called with: timm's layers themselves do not know where their tokens come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haloformer.models.places import Grid, Places
from haloformer.models.tokens import TokenLayout, cell_numbers, global_layout, window_layout


class NotUnderstood(LookupError):
    """It cannot be told where the tokens of a layer lie, or which weights it forms."""


@dataclass
class Call:
    """A call of a module, while it runs.

    Attributes:
        name: The module's path in the model.
        module: The module.
        args: What it was called with.
        kwargs: The same.
        outer: The call of the module that it runs in.
        weights: The results of softmax, or of the softmax inside fused attention, in it so far.
    """

    name: str
    module: Any  # its class tells what attributes it has
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outer: "Call | None"
    weights: list[Tensor] = field(default_factory=list)

    def inside(self, *class_names: str) -> "Call | None":
        """Returns the call of the innermost enclosing module of these classes, itself included."""
        call: Call | None = self
        while call is not None and type(call.module).__name__ not in class_names:
            call = call.outer
        return call

    def attribute(self, name: str, default: Any) -> Any:
        """Returns an attribute of the innermost module that has it."""
        call: Call | None = self
        while call is not None:
            if hasattr(call.module, name):
                return getattr(call.module, name)
            call = call.outer
        return default


def only_weights(call: Call) -> Tensor:
    """Returns the weights of a layer that forms them once."""
    if len(call.weights) != 1:
        raise NotUnderstood(f"formed weights {len(call.weights)} times")
    return call.weights[0]


@dataclass(frozen=True)
class KnownLayer:
    """How to read a class of attention layers.

    Attributes:
        layout: Returns where the tokens of a finished call lie.
        weights: Returns its final weights (B·W, heads, Nq, Nk), or (B, W, heads, Nq, Nk).
    """

    layout: Callable[[Call, Places], TokenLayout]
    weights: Callable[[Call], Tensor] = only_weights


def class_name(module: nn.Module) -> str:
    """Returns the full name of a module's class, under which the tables have it."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


# Layouts.


def sequence_layout(call: Call, places: Places) -> TokenLayout:
    """Global attention over a map's cells in reading order, after tokens that are at no place.

    Or attention by such tokens alone.

    Which map it is is told by the number of keys: that of the latest map with so many cells.
    """
    shape = call.weights[0].shape
    if len(shape) != 4 or shape[0] != places.batch_size:
        raise NotUnderstood(
            f"weights of shape {tuple(shape)} instead of (images, heads, queries, keys)"
        )
    queries, keys = shape[-2:]
    grid, prefix = _grid_of(call, places, keys)
    if queries == keys:
        layout = global_layout(grid, prefix=prefix)
        # The first token is the class token, if there is one and the classifier reads it.
        reads_it = call.attribute("global_pool", "token") == "token"
        has_it = call.attribute("cls_token", True) is not None
        return layout if reads_it and has_it else _without_class(layout)
    if queries > 2 + prefix:
        raise NotUnderstood(f"{queries} queries of {keys} keys")
    nowhere = torch.full((1, queries), -1)
    return TokenLayout(grid, grid, nowhere, global_layout(grid, prefix=prefix).keys, class_query=0)


def _without_class(layout: TokenLayout) -> TokenLayout:
    return TokenLayout(layout.query_grid, layout.key_grid, layout.queries, layout.keys)


def _grid_of(call: Call, places: Places, tokens: int) -> tuple[Grid, int]:
    prefixes = (call.attribute("num_prefix_tokens", 0), 0, 1, 2)
    for prefix in dict.fromkeys(prefixes):
        for grid in places.grids():
            if grid[0] * grid[1] == tokens - prefix:
                return grid, prefix
    raise NotUnderstood(f"no feature map has as many cells as there are tokens, {tokens}")


def _attention(call: Call, places: Places) -> TokenLayout:
    """The usual attention of timm's.

    In a MobileViT it runs over the pixels at the same place of all patches.
    """
    block = call.inside("MobileVitBlock")
    return sequence_layout(call, places) if block is None else _patch_pixels(block, places)


def _map_attention(call: Call, places: Places) -> TokenLayout:
    return global_layout(_size(call.args[0]))


def _partitioned(call: Call, places: Places) -> TokenLayout:
    """MaxViT: blocks of neighbouring cells, or grids of distant ones.

    CoAtNet: the same layer over the whole map.
    """
    part = call.inside("PartitionAttentionCl", "ParallelPartitionAttention", "PartitionAttention2d")
    if part is None:
        return _map_attention(call, places)
    grid = _size(part.args[0], channels_last=type(part.module).__name__ != "PartitionAttention2d")
    if type(part.module).__name__ == "ParallelPartitionAttention":
        strided = call.module is part.module.attn_grid
    else:
        strided = not part.module.partition_block
    return _windows(grid, part.module.partition_size, strided=strided)


def _window_attention(channels_last: bool = True) -> Callable[[Call, Places], TokenLayout]:
    """Windows, perhaps shifted, as the block around the layer cuts them (Swin, TinyViT, DaViT)."""

    def layout(call: Call, places: Places) -> TokenLayout:
        block = call.outer
        assert block is not None
        grid = _size(block.args[0], channels_last)
        return _windows(grid, block.module.window_size, getattr(block.module, "shift_size", (0, 0)))

    return layout


def _context_windows(call: Call, places: Places) -> TokenLayout:
    """GCViT: windows; in every second layer they share queries for the whole map."""
    block = call.outer
    assert block is not None
    layout = _windows(_size(block.args[0], channels_last=True), block.module.window_size)
    if not call.module.use_global:
        return layout
    rows, columns = block.module.window_size
    shared = torch.arange(rows * columns).expand_as(layout.keys)
    return TokenLayout((rows, columns), layout.key_grid, shared, layout.keys)


def _group_windows(call: Call, places: Places) -> TokenLayout:
    """EfficientViT (MSRA): square windows, if the map is larger than one."""
    block = call.inside("LocalWindowAttention")
    assert block is not None
    return _windows(_size(block.args[0]), call.module.resolution)


def _local_groups(call: Call, places: Places) -> TokenLayout:
    """Twins: square windows."""
    return _windows(tuple(call.args[1]), call.module.ws)


def _nested_blocks(call: Call, places: Places) -> TokenLayout:
    """NesT: a square of square blocks."""
    blocks, tokens = call.args[0].shape[1:3]
    side = math.isqrt(tokens)
    return _windows((math.isqrt(blocks) * side,) * 2, side)


def _reduced(call: Call, places: Places) -> TokenLayout:
    """PVT v2 and Twins: keys of a map that a strided convolution, or pooling, has made smaller."""
    rows, columns = call.args[1]
    keys = (rows, columns)
    if getattr(call.module, "pool", None) is not None:
        keys = (7, 7)
    elif call.module.sr is not None:
        keys = (rows // call.module.sr.stride[0], columns // call.module.sr.stride[1])
    return global_layout((rows, columns), key_grid=keys)


def _averaged_runs(call: Call, places: Places) -> TokenLayout:
    """Next-ViT: keys are averages of runs of tokens in reading order.

    Their weight is shared out among these.
    """
    grid, _ = _grid_of(call, places, call.weights[0].shape[-2])
    layout = global_layout(grid)
    run = _run(call.module)
    return TokenLayout(grid, grid, layout.queries, layout.keys[:, : grid[0] * grid[1] // run * run])


def _multi_query(call: Call, places: Places) -> TokenLayout:
    """MobileNetV4: queries and keys of maps that may have been made smaller."""
    height, width = _size(call.args[0])
    (down, right), reduced = call.module.query_strides, call.module.kv_stride
    keys = (-(-height // reduced), -(-width // reduced))
    return global_layout((height // down, width // right), key_grid=keys)


def _resolution(call: Call, places: Places) -> TokenLayout:
    """LeViT, EfficientFormer v2.

    Attention over a whole map of the size that the layer was made for.
    """
    return global_layout(tuple(call.module.resolution))


def _subsampled(call: Call, places: Places) -> TokenLayout:
    """LeViT, EfficientFormer v2: only every second token, in rows and columns, asks.

    Their map is the next stage's.
    """
    keys = tuple(call.module.resolution)
    queries = (-(-keys[0] // 2), -(-keys[1] // 2))
    places.derive(queries, keys, kernel=(1, 1), stride=(2, 2))
    return global_layout(queries, key_grid=keys)


def _pixels_or_patches(call: Call, places: Places) -> TokenLayout:
    """TNT: the inner layers attend within each patch, the outer ones over all patches."""
    network = call.inside("TNT")
    if network is None or not call.name.endswith("attn_in"):
        return sequence_layout(call, places)
    embed = network.module.pixel_embed
    inner = tuple(embed.new_patch_size)
    grid = (embed.grid_size[0] * inner[0], embed.grid_size[1] * inner[1])
    proj = embed.proj
    places.derive(grid, places.image_size, proj.kernel_size, proj.stride, proj.padding)
    return _windows(grid, inner)


def _patch_pixels(block: Call, places: Places) -> TokenLayout:
    """MobileViT: a window for each place in a patch, of the cells at that place of all patches."""
    patch = block.module.patch_size
    height, width = _size(block.args[0])
    grid = (-(-height // patch[0]) * patch[0], -(-width // patch[1]) * patch[1])
    cells = cell_numbers(grid).unflatten(1, (-1, patch[1])).unflatten(0, (-1, patch[0]))
    return window_layout(grid, cells.permute(1, 3, 0, 2).flatten(2).flatten(0, 1))


def _separable(call: Call, places: Places) -> TokenLayout:
    """MobileViTv2: one score per token, the same for all queries."""
    block = call.inside("MobileVitV2Block")
    assert block is not None
    layout = _patch_pixels(block, places)
    nowhere = torch.full((len(layout.keys), 1), -1)
    return TokenLayout(layout.query_grid, layout.key_grid, nowhere, layout.keys)


def _mask_units(call: Call, places: Places) -> TokenLayout:
    """Hiera: tokens lie in the order that its ``Unroll`` gave them.

    Queries may be pooled by taking the largest.
    """
    network = call.inside("Hiera")
    assert network is not None
    rows, columns = network.module.tokens_spatial_shape
    grid: Grid = (rows, columns)
    cells = network.module.unroll(cell_numbers(grid).reshape(1, -1, 1)).flatten().long()
    stride: Grid = tuple(network.module.q_stride)
    while len(cells) > call.args[0].shape[1]:
        cells, grid = _pooled(cells, grid, stride)
    windows = 1
    if call.module.use_mask_unit_attn:
        windows = len(cells) // (call.module.q_stride * call.module.window_size)
    keys = cells.view(-1, windows).T
    if call.module.q_stride == 1:
        return window_layout(grid, keys)
    pooled, coarse = zip(*(_pooled(window, grid, stride) for window in keys))
    return TokenLayout(coarse[0], grid, torch.stack(pooled), keys)


def _pooled(cells: Tensor, grid: Grid, stride: Grid) -> tuple[Tensor, Grid]:
    """What is left of unrolled cells when the first axis of (q_stride, -1) is pooled."""
    kept = cells.view(stride[0] * stride[1], -1)[0]
    coarse = (grid[0] // stride[0], grid[1] // stride[1])
    return kept // grid[1] // stride[0] * coarse[1] + kept % grid[1] // stride[1], coarse


# Weights.


def _heads_first(call: Call) -> Tensor:
    weights = only_weights(call)
    return weights.transpose(1, 2) if weights.ndim == 5 else weights


def _unfolded_heads(call: Call) -> Tensor:
    out: Tensor = only_weights(call).unflatten(0, (-1, call.module.num_heads))
    return out


def _head_by_head(call: Call) -> Tensor:
    return torch.stack(call.weights, dim=1)  # each (B·W, Nq, Nk)


def _gated(call: Call) -> Tensor:
    """ConViT's mixture of what the tokens' contents and their positions say."""
    if len(call.weights) != 2:
        raise NotUnderstood(f"formed weights {len(call.weights)} times")
    content, position = call.weights
    gate = call.module.gating_param.sigmoid().view(1, -1, 1, 1)
    out: Tensor = (1 - gate) * content + gate * position
    return out


def _shared_out(call: Call) -> Tensor:
    run = _run(call.module)
    return only_weights(call).repeat_interleave(run, dim=-1) / run


def _scores(call: Call) -> Tensor:
    return only_weights(call).transpose(1, 2).unsqueeze(3)  # (B, 1, W, N) to (B, W, 1, 1, N)


def _run(module: Any) -> int:
    return 1 if module.sr is None else int(module.N_ratio)


# Small parts.


def _size(maps: Tensor, channels_last: bool = False) -> Grid:
    return (maps.shape[1], maps.shape[2]) if channels_last else (maps.shape[2], maps.shape[3])


def _windows(
    grid: Grid, window: int | Grid, shift: Grid = (0, 0), strided: bool = False
) -> TokenLayout:
    """Cuts a map, rolled back by ``shift`` and padded, into windows of neighbouring cells.

    With ``strided`` a "window" is a grid of ``window`` cells spread evenly over the map.
    """
    rows, columns = (window, window) if isinstance(window, int) else window
    cells = torch.roll(cell_numbers(grid), (-shift[0], -shift[1]), (0, 1))
    cells = F.pad(cells, (0, -grid[1] % columns, 0, -grid[0] % rows), value=-1)
    if strided:
        cells = cells.unflatten(1, (columns, -1)).unflatten(0, (rows, -1)).permute(1, 3, 0, 2)
    else:
        cells = cells.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).permute(0, 2, 1, 3)
    return window_layout(grid, cells.flatten(2).flatten(0, 1))


_SEQUENCE = KnownLayer(sequence_layout)
_MAP = KnownLayer(_map_attention)

KNOWN_LAYERS: dict[str, KnownLayer] = {
    "timm.layers.attention.Attention": KnownLayer(_attention),
    "timm.layers.attention.AttentionRope": _SEQUENCE,
    "timm.layers.attention2d.Attention2d": _MAP,
    "timm.layers.attention2d.MultiQueryAttention2d": KnownLayer(_multi_query),
    "timm.layers.attention_pool.AttentionPoolLatent": _SEQUENCE,
    "timm.layers.bottleneck_attn.BottleneckAttn": KnownLayer(_map_attention, _unfolded_heads),
    "timm.models.beit.Attention": _SEQUENCE,
    "timm.models.cait.ClassAttn": _SEQUENCE,
    "timm.models.cait.TalkingHeadAttn": _SEQUENCE,
    "timm.models.convit.GPSA": KnownLayer(sequence_layout, _gated),
    "timm.models.convit.MHSA": _SEQUENCE,
    "timm.models.crossvit.CrossAttention": _SEQUENCE,
    "timm.models.davit.WindowAttention": KnownLayer(_window_attention(channels_last=False)),
    "timm.models.efficientformer.Attention": _SEQUENCE,
    "timm.models.efficientformer_v2.Attention2d": KnownLayer(_resolution),
    "timm.models.efficientformer_v2.Attention2dDownsample": KnownLayer(_subsampled),
    "timm.models.efficientvit_msra.CascadedGroupAttention": KnownLayer(
        _group_windows, _head_by_head
    ),
    "timm.models.eva.EvaAttention": _SEQUENCE,
    "timm.models.fastvit.Attention": _MAP,
    "timm.models.gcvit.WindowAttentionGlobal": KnownLayer(_context_windows),
    "timm.models.hiera.MaskUnitAttention": KnownLayer(_mask_units, _heads_first),
    "timm.models.levit.Attention": KnownLayer(_resolution),
    "timm.models.levit.AttentionDownsample": KnownLayer(_subsampled),
    "timm.models.maxxvit.Attention2d": KnownLayer(_partitioned),
    "timm.models.maxxvit.AttentionCl": KnownLayer(_partitioned),
    "timm.models.metaformer.Attention": _SEQUENCE,
    "timm.models.mobilevit.LinearSelfAttention": KnownLayer(_separable, _scores),
    "timm.models.nest.Attention": KnownLayer(_nested_blocks),
    "timm.models.nextvit.EfficientAttention": KnownLayer(_averaged_runs, _shared_out),
    "timm.models.pvt_v2.Attention": KnownLayer(_reduced),
    "timm.models.shvit.SHSA": KnownLayer(_map_attention, _head_by_head),
    "timm.models.swin_transformer.WindowAttention": KnownLayer(_window_attention()),
    "timm.models.swin_transformer_v2.WindowAttention": KnownLayer(_window_attention()),
    "timm.models.tiny_vit.Attention": KnownLayer(_window_attention()),
    "timm.models.tnt.Attention": KnownLayer(_pixels_or_patches),
    "timm.models.twins.GlobalSubSampleAttn": KnownLayer(_reduced),
    "timm.models.twins.LocallyGroupedAttn": KnownLayer(_local_groups),
    "timm.models.vision_transformer_relpos.RelPosAttention": _SEQUENCE,
    "timm.models.visformer.Attention": _MAP,
}

_OVER_CHANNELS = "its softmax runs over channels: no place is weighed against another"
_LINEAR = "it is linear, keys are summed up before any query sees them: no weights are formed"

NO_MAPS: dict[str, str] = {
    "timm.models.coat.FactorAttnConvRelPosEnc": (
        "it is factorised, each channel sums up all tokens before any query sees them: no weights are formed"
    ),
    "timm.models.davit.ChannelAttention": _OVER_CHANNELS,
    "timm.models.davit.ChannelAttentionV2": _OVER_CHANNELS,
    "timm.models.edgenext.CrossCovarianceAttn": _OVER_CHANNELS,
    "timm.models.efficientvit_mit.LiteMLA": _LINEAR,
    "timm.models.swiftformer.EfficientAdditiveAttention": _LINEAR,
    "timm.models.xcit.XCA": _OVER_CHANNELS,
}
