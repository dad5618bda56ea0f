"""Where the cells of a network's feature maps lie in the image."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
_Pair = tuple[float, float]


class Places:
    """Follows the strided layers of one forward pass.

    The centre of what each cell of each map is made from.

    The cell in row i of a map lies at ``first + i * step`` pixels from the image's upper edge, and
    likewise for columns. A patch embedding leaves its cells in the middle of their patches. A 3×3
    convolution of stride 2 and padding 1 does not: its cell i looks at rows 2i-1 to 2i+1, so after
    four of them cell i of 16 pixels lies at row 16i, half a cell above the place that an even
    division of the image would give it.

    Maps are told apart by their size; the latest of a size counts, as a network's pyramid goes from
    fine to coarse. Where two layers make such a map of the same one (a strided convolution, and the
    pooling on its shortcut), cells lie midway. A map that no layer followed here has made (by
    slicing and reshaping) is taken for a merging of the cells of the next finer one.
    """

    def __init__(self, image_size: Grid, batch_size: int) -> None:
        self.image_size = image_size
        self.batch_size = batch_size
        self._centres: dict[Grid, tuple[_Pair, _Pair]] = {image_size: ((0.5, 1.0), (0.5, 1.0))}
        self._made: dict[Grid, tuple[Grid, set[tuple[_Pair, _Pair]]]] = {}

    def grids(self) -> list[Grid]:
        """Returns the sizes of the maps seen so far, the latest first."""
        return list(reversed(self._centres))

    def follow(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        """Notes a call of a torch function if it makes a map of another size from a known one."""
        if function not in _WINDOWS:
            return
        maps = args[0] if args else kwargs["input"]
        if maps.ndim != 4 or len(maps) != self.batch_size or not isinstance(result, Tensor):
            return  # windows or patches as a batch of their own
        before = (maps.shape[-2], maps.shape[-1])
        if before not in self._centres:
            return
        kernel, stride, padding = _WINDOWS[function](result, *args, **kwargs)
        if function is F.unfold:  # whose result is flat
            sides = [
                int((side + 2 * p - k) // s + 1)
                for side, k, s, p in zip(before, kernel, stride, padding)
            ]
        else:
            sides = [*result.shape[-2:]]
        after = (sides[0], sides[1])
        # Enlarging brings nothing new to a map that is known.
        if after != before and not (stride[0] < 1 and after in self._centres):
            self.derive(after, before, kernel, stride, padding)

    def derive(
        self, grid: Grid, origin: Grid, kernel: _Pair, stride: _Pair, padding: _Pair = (0, 0)
    ) -> None:
        """Notes that the cells of a grid are made from windows of another grid's cells."""
        rows, columns = (
            (first + step * ((k - 1) / 2 - p), step * s)
            for (first, step), k, s, p in zip(self.centres(origin), kernel, stride, padding)
        )
        made_of, ways = self._made.get(grid, (None, set()))
        if made_of != origin:
            ways = set()
        ways.add((rows, columns))
        self._made[grid] = (origin, ways)
        self._centres.pop(grid, None)
        self._centres[grid] = (
            _mean([rows for rows, _ in ways]),
            _mean([columns for _, columns in ways]),
        )

    def centres(self, grid: Grid) -> tuple[_Pair, _Pair]:
        """Returns (first, step) of the rows of a grid and of its columns, in pixels.

        The first pixel's centre is 0.5.
        """
        if grid in self._centres:
            return self._centres[grid]
        finer = [known for known in self._centres if known[0] >= grid[0] and known[1] >= grid[1]]
        origin = min(finer, key=lambda known: known[0] * known[1], default=self.image_size)
        rows, columns = (
            (first + step * (merged - 1) / 2, step * merged)
            for (first, step), merged in zip(self.centres(origin), map(_merged, origin, grid))
        )
        return rows, columns

    def shares(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Returns how the cells of a grid spread over the image: (H, h) and (W, w).

        Entry (p, i) of the first is how much of a cell in row i lies on pixels in row p. A cell is
        spread evenly over the pixels of one ``step`` around its centre, and reaches half-way to its
        neighbours; the outer cells are cut off at the edges of the image, or continued to them. So
        cells of equal weight make an even map, and a cell within the image has as much weight on
        its pixels as it has itself.
        """
        rows, columns = (
            _shares(first, step, cells, pixels)
            for (first, step), cells, pixels in zip(self.centres(grid), grid, self.image_size)
        )
        return rows, columns

    def cell_at(self, grid: Grid, row: float, column: float) -> int:
        """Returns the number of the cell nearest to a point (pixels from the upper left corner)."""
        i, j = (
            min(max(round((place - first) / step), 0), cells - 1)
            for (first, step), cells, place in zip(self.centres(grid), grid, (row, column))
        )
        return i * grid[1] + j


def _mean(axes: list[_Pair]) -> _Pair:
    return sum(first for first, _ in axes) / len(axes), sum(step for _, step in axes) / len(axes)


def _merged(fine: int, coarse: int) -> float:
    """How many cells become one.

    A whole number if that explains the coarser size, the last one being padded.
    """
    whole = -(-fine // coarse)
    return whole if -(-fine // whole) == coarse else fine / coarse


def _shares(first: float, step: float, cells: int, pixels: int) -> Tensor:
    middle = first + step * (torch.arange(cells - 1, dtype=torch.float64) + 0.5)
    edges = torch.cat([torch.zeros(1), middle.clamp(0, pixels), torch.full((1,), float(pixels))])
    pixel = torch.arange(pixels, dtype=torch.float64)[:, None]
    overlap = (torch.minimum(edges[1:], pixel + 1) - torch.maximum(edges[:-1], pixel)).clamp_min(0)
    return (overlap / step).float()


_Sides = float | tuple[float, ...] | list[float]
"""One number for rows and columns, or a number for each, as torch takes them."""


def _pair(value: _Sides) -> _Pair:
    return (value[0], value[-1]) if isinstance(value, tuple | list) else (value, value)


# What each function's windows are: kernel with its dilation, stride, padding above and to the left.
# The arguments are the function's result and what it was given.
def _of_convolution(
    result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: _Sides = 1,
    padding: _Sides | str = 0, dilation: _Sides = 1, groups: int = 1,
) -> tuple[_Pair, _Pair, _Pair]:  # fmt: skip
    kernel = _dilated(weight.shape[-2:], dilation)
    if isinstance(padding, str):
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2) if padding == "same" else 0
    return kernel, _pair(stride), _pair(padding)


def _of_pooling(
    result: Tensor,
    input: Tensor,
    kernel_size: _Sides,
    stride: _Sides | None = None,
    padding: _Sides = 0,
    *_: Any,
    **__: Any,
) -> tuple[_Pair, _Pair, _Pair]:
    return _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)


def _of_unfolding(
    result: Tensor,
    input: Tensor,
    kernel_size: _Sides,
    dilation: _Sides = 1,
    padding: _Sides = 0,
    stride: _Sides = 1,
) -> tuple[_Pair, _Pair, _Pair]:
    return _dilated(kernel_size, dilation), _pair(stride), _pair(padding)


def _of_padding(
    result: Tensor, input: Tensor, pad: list[int] | tuple[int, ...], *_: Any, **__: Any
) -> tuple[_Pair, _Pair, _Pair]:
    return (1, 1), (1, 1), (pad[2] if len(pad) == 4 else 0, pad[0])


def _of_resizing(result: Tensor, input: Tensor, *_: Any, **__: Any) -> tuple[_Pair, _Pair, _Pair]:
    scale = (input.shape[-2] / result.shape[-2], input.shape[-1] / result.shape[-1])
    return scale, scale, (0, 0)


def _dilated(kernel: _Sides, dilation: _Sides) -> _Pair:
    rows, columns = (d * (k - 1) + 1 for k, d in zip(_pair(kernel), _pair(dilation)))
    return rows, columns


_WINDOWS: dict[Callable[..., Any], Callable[..., tuple[_Pair, _Pair, _Pair]]] = {
    F.conv2d: _of_convolution,
    F.max_pool2d: _of_pooling,
    F.avg_pool2d: _of_pooling,
    F.unfold: _of_unfolding,
    F.pad: _of_padding,
    F.interpolate: _of_resizing,
    F.adaptive_avg_pool2d: _of_resizing,
}
