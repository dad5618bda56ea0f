"""Finds the feature maps of any network, and where their cells lie in the image.

timm's ``forward_intermediates`` returns the feature maps, but as copies, through which no gradient flows. So the module that
made each of them is searched: the one whose output, in one of the usual layouts, has the same values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from haloformer.models.native_size import PaddedInput
from haloformer.models.places import Grid, Places

Order = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True)
class Stage:
    """A layer with a feature map.

    Attributes:
        name: The module's path in the network.
        module: The module whose output it is.
        part: Which part of its output, where that is a tuple.
        order: How the output is laid out; ``tokens``: (B, N, D), those at no place first.
        grid: Rows and columns of the map.
        rows: (H, h): how much of a cell in row i lies on pixels in row p, see :meth:`~haloformer.models.places.Places.shares`.
        columns: (W, w): the same for columns.
    """

    name: str
    module: nn.Module
    part: int | None
    order: Order
    grid: Grid
    rows: Tensor
    columns: Tensor

    @contextmanager
    def passing(self, through: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Sends the feature map (B, D, h, w) through a function whenever the network runs."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            whole = output if self.part is None else output[self.part]
            changed = _from_map(through(_to_map(whole, self.order, self.grid)), whole, self.order)
            if self.part is None:
                return changed
            return type(output)([*output[: self.part], changed, *output[self.part + 1 :]])

        handle = self.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def find_stages(model: nn.Module, images: Tensor) -> tuple[list[Stage], list[Stage]]:
    """Returns the layers whose feature maps can be reached, from the first to the last, and all convolutions, to fall back on.

    Args:
        model: In evaluation mode.
        images: (B, C, H, W), prepared for the model; one is enough.
    """
    modules = dict(model.named_modules())
    with torch.no_grad(), _followed(model, images[:1]) as cells:
        outputs, runs = _recorded(model, images[:1])
        maps: list[Tensor] = []
        if hasattr(model, "forward_intermediates"):
            maps = model.forward_intermediates(images[:1], intermediates_only=True)  # type: ignore[operator]
    # A module that runs twice has two outputs.
    once = [each for each in outputs if runs[each[0]] == 1]
    makers = [each for each in once if not isinstance(modules[each[0]], _SAME)]
    stages: list[Stage] = []
    for wanted in maps:
        free = [each for each in makers if all(stage.name != each[0] for stage in stages)]
        if (found := _maker_of(wanted, free)) is not None:
            name, part, order = found
            grid = (wanted.shape[-2], wanted.shape[-1])
            stages.append(Stage(name, modules[name], part, order, grid, *cells(grid)))
    convolutions = [
        Stage(name, modules[name], None, "NCHW", grid, *cells(grid))
        for name, _, output in once
        if isinstance(modules[name], nn.Conv2d) and len(output) == 1
        for grid in [(output.shape[-2], output.shape[-1])]
    ]
    return stages, convolutions


Output = tuple[str, int | None, Tensor]
"""Path of a module, part of its output where that is a tuple, and the output."""


def _recorded(model: nn.Module, images: Tensor) -> tuple[list[Output], dict[str, int]]:
    """Runs the network; returns the outputs of all modules, and how often each module ran."""
    outputs: list[Output] = []
    runs: dict[str, int] = {}
    handles = [
        module.register_forward_hook(_note(name, outputs, runs))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, runs


def _maker_of(wanted: Tensor, outputs: Sequence[Output]) -> tuple[str, int | None, Order] | None:
    """Returns the module that made a feature map: path, part of the output and layout."""
    # The last that has it: earlier outputs may be changed in place afterwards.
    for name, part, output in reversed(outputs):
        order = _order_of(output, wanted)
        if order is not None:
            return name, part, order
    return None


# What passes on what it gets; the layer inside, or before, is the one to name.
_SAME = (nn.Identity, nn.Dropout, nn.Sequential)


def spread(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns what is said of cells (…, h, w) of the pixels in them, (…, H, W): a cell's value, not shared out among them."""
    even = (
        rows.sum(1, keepdim=True) @ columns.sum(1, keepdim=True).T
    )  # what cells that are all 1 give
    return rows @ maps.to(rows) @ columns.T / even


class _Following(TorchFunctionMode):
    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.places.follow(function, args, kwargs or {}, result)
        return result


@contextmanager
def _followed(
    model: nn.Module, images: Tensor
) -> Iterator[Callable[[Grid], tuple[Tensor, Tensor]]]:
    """Watches a run of the network; yields a function that returns ``rows`` and ``columns`` of a :class:`Stage` for a grid."""
    padded = next((module for module in model.modules() if isinstance(module, PaddedInput)), None)
    left, right, top, bottom = (0, 0, 0, 0) if padded is None else padded.padding
    places = Places((images.shape[-2] + top + bottom, images.shape[-1] + left + right), len(images))

    def cells(grid: Grid) -> tuple[Tensor, Tensor]:
        rows, columns = (share.to(images) for share in places.shares(grid))
        return rows[top : len(rows) - bottom], columns[left : len(columns) - right]

    with _Following(places):
        yield cells


def place_grid(model: nn.Module, images: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Returns where the cells of a grid lie, as ``rows`` and ``columns`` of a :class:`Stage`."""
    with torch.no_grad(), _followed(model, images[:1]) as cells:
        model(images[:1])
    return cells(grid)


def _note(name: str, outputs: list[Output], runs: dict[str, int]) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        runs[name] = runs.get(name, 0) + 1
        if isinstance(output, Tensor):
            outputs.append((name, None, output))
        elif type(output) in (tuple, list):
            outputs.extend(
                (name, i, part) for i, part in enumerate(output) if isinstance(part, Tensor)
            )

    return note


def _order_of(output: Tensor, wanted: Tensor) -> Order | None:
    """Returns how a module's output holds the feature map (B, D, h, w), or None if it does not."""
    batch, width, *grid = wanted.shape
    orders: list[Order] = []
    if output.ndim == 4:
        orders += ["NCHW"] if output.shape == wanted.shape else []
        orders += ["NHWC"] if output.shape == (batch, *grid, width) else []
    elif (
        output.ndim == 3
        and len(output) == batch
        and output.shape[2] == width
        and output.shape[1] >= grid[0] * grid[1]
    ):
        orders = ["tokens"]
    return next(
        (o for o in orders if torch.equal(_to_map(output, o, (grid[0], grid[1])), wanted)), None
    )


def _to_map(output: Tensor, order: Order, grid: Grid) -> Tensor:
    if order == "tokens":
        result: Tensor = (
            output[:, output.shape[1] - grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        )
        return result
    return output.permute(0, 3, 1, 2) if order == "NHWC" else output


def _from_map(maps: Tensor, output: Tensor, order: Order) -> Tensor:
    if order == "tokens":
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : output.shape[1] - tokens.shape[1]], tokens], 1)
    return maps.permute(0, 2, 3, 1) if order == "NHWC" else maps
