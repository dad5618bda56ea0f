"""Where a model looks: the attention of each layer, in pixels of the image.

The weights are taken while the model runs: every softmax over keys, and every fused attention
(whose weights are then computed openly), inside a layer that is known to be attention. Where its
queries and keys lie is told by the layer itself (``token_layout``, see
:mod:`haloformer.models.tokens`) or, for timm's, by :mod:`haloformer.models.timm_attention`; where
that is in the image by :mod:`haloformer.models.places`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from haloformer.errors import InputError
from haloformer.models.native_size import PaddedInput
from haloformer.models.places import Grid, Places
from haloformer.models.timm_attention import (
    KNOWN_LAYERS,
    NO_MAPS,
    Call,
    NotUnderstood,
    class_name,
    only_weights,
    sequence_layout,
)
from haloformer.models.tokens import TokenLayout


@dataclass(frozen=True)
class AttentionMap:
    """What one layer of attention looks at.

    Attributes:
        layer: The layer's path in the model.
        kind: ``global`` (all keys), ``spatially reduced`` (all, on a coarser grid), ``subsampled``
            (all, but queries on a coarser grid), ``windowed`` (keys of the query's own window, be
            it a square, a stripe or a strided grid), ``class attention`` (only the class token
            asks), ``pooling`` (queries at no place, shared by all tokens).
        maps: (B, heads, H, W): the attention that each pixel receives; each image's and head's sums
            to one.
        grid: Rows and columns of the keys.
        layout: Where queries and keys lie.
        rows: (H, h): how much of a cell of the keys' grid in row i lies on pixels in row p.
        columns: (W, w): the same for columns.
        weights: (B, W, heads, Nq, Nk): the weights themselves, if asked for; W windows per image.
    """

    layer: str
    kind: str
    maps: Tensor
    grid: Grid
    layout: TokenLayout
    rows: Tensor
    columns: Tensor
    weights: Tensor | None = None

    def in_image(self, per_key: Tensor) -> Tensor:
        """Returns values per key (B, W, heads, Nk), such as a row of ``weights``, in pixels.

        Keys at the same place add up; each is spread evenly over its pixels; those at no place are
        left out. Equal numbers make an even map.
        """
        return self.rows @ _by_cell(per_key, self.layout) @ self.columns.T


def attention(
    model: nn.Module,
    images: Tensor,
    *,
    query: tuple[int, int] | None = None,
    keep_weights: bool = False,
) -> list[AttentionMap]:
    """Returns the attention maps of all layers with weights between places, in running order.

    A layer's map is that of the class token, if it has one that is classified, else the mean over
    all its tokens. The attention that goes to tokens at no place (class tokens, registers) and to
    padding is left out.

    The model runs once, in evaluation mode and without gradients; it is left as it was.

    Args:
        model: A model of ``create_model``, or of timm's.
        images: (B, C, H, W), of the size that the model is for; prepared as for the model.
        query: Row and column of a pixel: the maps are then of the attention that the token there
            pays to its keys, and layers without a token at a place are left out.
        keep_weights: Return the weights, too: for every layer a number per window, head, query and
            key.

    Raises:
        InputError: The model has no attention, or none between places, or some that is not
            understood; or the images or the query do not fit.
    """
    _check(images, query)
    parameter = next(model.parameters(), images)
    images = images.to(parameter.device, parameter.dtype)
    model = getattr(model, "_orig_mod", model)  # without the wrapper of torch.compile
    recorder = _Recorder(model, images, query, keep_weights)
    recorder.run()
    name = _name(model)
    if recorder.not_understood:
        layers = "; ".join(f"{layer} {reason}" for layer, reason in recorder.not_understood.items())
        raise InputError(f"the attention of model {name} is not understood: {layers}")
    if not recorder.found:
        raise InputError(_why_none(name, recorder))
    return recorder.found


def has_attention(model: nn.Module) -> bool:
    """Returns whether a model has layers of which :func:`attention` gives maps. Nothing is run."""
    return any(
        _knows_its_tokens(module) or class_name(module) in KNOWN_LAYERS
        for module in model.modules()
    )


def _check(images: Tensor, query: tuple[int, int] | None) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images must be floats of shape (B, C, H, W), not {images.dtype} of {tuple(images.shape)}"
        )
    if query is not None and not all(
        0 <= place < side for place, side in zip(query, images.shape[-2:], strict=True)
    ):
        height, width = images.shape[-2:]
        raise InputError(f"query {query} is not a row and a column of a {height}×{width} image")


def _name(model: nn.Module) -> str:
    return type(
        next((module.model for module in model.modules() if isinstance(module, PaddedInput)), model)
    ).__name__


def _why_none(name: str, recorder: "_Recorder") -> str:
    if recorder.placeless:
        return f"no layer of model {name} has a token at a place that could be asked: give no query"
    if recorder.without_maps:
        reasons = "; ".join(recorder.without_maps)
        return f"model {name} has no attention between places: {reasons}"
    return f"model {name} has no attention: none of its layers weighs places against each other"


def _knows_its_tokens(module: nn.Module) -> bool:
    return callable(getattr(module, "token_layout", None))


class _Recorder(TorchFunctionMode):
    """Watches one forward pass: which module runs, and the weights that it forms.

    Weights are turned into maps as soon as their layer is done, so that those of one layer at a
    time are in memory.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, query: tuple[int, int] | None, keep_weights: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.images = images
        self.keep_weights = keep_weights
        padded = next(
            (module for module in model.modules() if isinstance(module, PaddedInput)), None
        )
        self.padding = (0, 0, 0, 0) if padded is None else padded.padding
        left, right, top, bottom = self.padding
        height, width = images.shape[-2:]
        self.places = Places((height + top + bottom, width + left + right), len(images))
        # The middle of the pixel.
        self.query = None if query is None else (query[0] + top + 0.5, query[1] + left + 0.5)
        self.call: Call | None = None
        self.found: list[AttentionMap] = []
        self.not_understood: dict[str, str] = {}
        self.without_maps: dict[str, None] = {}  # an ordered set
        self.placeless = False

    def run(self) -> None:
        modes = [(module, module.training) for module in self.model.modules()]
        hooks = []
        try:
            self.model.eval()
            for name, module in self.model.named_modules():
                hooks.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                hooks.append(module.register_forward_hook(self._leave))
            # Compiled code cannot be watched.
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), self:
                self.model(self.images)
        finally:
            for hook in hooks:
                hook.remove()
            for module, training in modes:
                module.training = training

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.call = Call(name, module, args, kwargs, outer=self.call)

        return enter

    def _leave(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        call = self.call
        assert call is not None
        self.call = call.outer
        try:
            self._finish(call)
        except NotUnderstood as error:
            self.not_understood[call.name] = str(error)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            weights, result = _open_attention(*args, **kwargs)
            self._take(weights)
            return result
        result = function(*args, **kwargs)
        if function in _SOFTMAX:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            # Of two dimensions it is no attention: class probabilities, gates over branches.
            if result.ndim > 2 and dim in (-1, result.ndim - 1):
                self._take(result)
        elif function is F.multi_head_attention_forward and self.call is not None:
            self.not_understood[self.call.name] = (
                "is PyTorch's own, which does not show its weights"
            )
        else:
            self.places.follow(function, args, kwargs, result)
        return result

    def _take(self, weights: Tensor) -> None:
        owner = self.call
        while owner is not None and not (
            _knows_its_tokens(owner.module) or class_name(owner.module) in KNOWN_LAYERS
        ):
            owner = owner.outer
        if owner is None:
            owner = (
                self.call.outer
                if self.call and isinstance(self.call.module, nn.Softmax)
                else self.call
            )
        if owner is not None:
            owner.weights.append(weights)

    def _finish(self, call: Call) -> None:
        """Turns what a module has formed into a map, if it is attention."""
        module = call.module
        name = class_name(module)
        layout: TokenLayout | None
        if _knows_its_tokens(module):
            layout = module.token_layout(*call.args, **call.kwargs)
            if layout is None:
                self.without_maps[f"the keys of {type(module).__name__} lie at no place"] = None
                return
            weights = only_weights(call)
        elif name in KNOWN_LAYERS:
            weights, layout = (
                KNOWN_LAYERS[name].weights(call),
                KNOWN_LAYERS[name].layout(call, self.places),
            )
        elif name in NO_MAPS:
            self.without_maps[f"{NO_MAPS[name]} ({type(module).__name__})"] = None
            return
        elif call.weights:
            weights, layout = only_weights(call), sequence_layout(call, self.places)
        else:
            return
        by_window = _by_window(weights.float(), len(layout.keys), len(self.images))
        self._add(call.name, by_window, layout)

    def _add(self, layer: str, weights: Tensor, layout: TokenLayout) -> None:
        asking = self._asking(layout)
        if asking is None:
            self.placeless = True
            return
        rows, columns = (share.to(weights) for share in self.places.shares(layout.key_grid))
        left, right, top, bottom = self.padding
        rows, columns = rows[top : len(rows) - bottom], columns[left : len(columns) - right]
        received = torch.einsum("bwhqk,wq->bwhk", weights, asking.to(weights))
        maps = rows @ _by_cell(received, layout) @ columns.T
        maps = maps / maps.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        kept = weights if self.keep_weights else None
        self.found.append(
            AttentionMap(layer, _kind(layout), maps, layout.key_grid, layout, rows, columns, kept)
        )

    def _asking(self, layout: TokenLayout) -> Tensor | None:
        """Returns (W, Nq): the part that each query has in the map.

        None if none is at the place asked for.
        """
        placed = layout.queries >= 0
        if self.query is not None:
            chosen = layout.queries == self.places.cell_at(layout.query_grid, *self.query)
            if not chosen.any():
                return None
        elif layout.class_query is not None:
            chosen = torch.zeros_like(placed)
            chosen[:, layout.class_query] = True
        else:
            chosen = placed if placed.any() else ~placed
        return chosen / chosen.sum()


_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)


def _open_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """``F.scaled_dot_product_attention``, which returns its weights as well: (weights, result)."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = (
        query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    )
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill(
                ~attn_mask, -math.inf
            )
        scores = scores + attn_mask
    weights = scores.softmax(-1).nan_to_num(
        0.0
    )  # a query that may see no key gets nothing, as in the fused kernels
    return weights, weights @ value


def _by_window(weights: Tensor, windows: int, batch_size: int) -> Tensor:
    """Brings weights of any of the known layouts to (B, W, heads, Nq, Nk).

    Known are (B·W, heads, Nq, Nk), (B, W, heads, Nq, Nk) and (B, heads, W, Nq, Nk).
    """
    if weights.ndim == 4 and len(weights) == batch_size * windows:
        out: Tensor = weights.unflatten(0, (batch_size, windows))
        return out
    if weights.ndim == 5 and len(weights) == batch_size:
        if weights.shape[1] == windows:
            return weights
        if weights.shape[2] == windows:
            return weights.transpose(1, 2)
    raise NotUnderstood(
        f"formed weights of shape {tuple(weights.shape)} for {windows} windows in each image"
    )


def _by_cell(per_key: Tensor, layout: TokenLayout) -> Tensor:
    """Sums (B, W, heads, Nk) over the keys of each cell: (B, heads, h, w)."""
    rows, columns = layout.key_grid
    cells = layout.keys.to(per_key.device).flatten()
    nowhere = rows * columns
    per_key = per_key.transpose(1, 2).flatten(2)
    summed = per_key.new_zeros(*per_key.shape[:2], nowhere + 1)
    summed.index_add_(2, cells.where(cells >= 0, nowhere), per_key)
    out: Tensor = summed[..., :nowhere].unflatten(2, (rows, columns))
    return out


def _kind(layout: TokenLayout) -> str:
    if not (layout.queries >= 0).any():
        return "pooling" if layout.class_query is None else "class attention"
    if len(layout.queries) > 1:
        return "windowed"
    if layout.query_grid == layout.key_grid:
        return "global"
    return "subsampled" if layout.query_grid < layout.key_grid else "spatially reduced"
