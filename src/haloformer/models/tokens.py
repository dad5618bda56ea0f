"""Where the tokens of an attention layer lie in the image."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """The cells of the image that the queries and keys of one attention layer stand for.

    A layer's attention weights have the shape (B·W, heads, Nq, Nk): W windows per image (1 for
    global attention), the image varying slowest. A grid of (h, w) cells covers the whole (padded)
    image evenly; its cells are numbered row by row. Tokens that are at no place (class tokens,
    registers, padding) have the number -1.

    Attributes:
        query_grid: Rows and columns of the grid that the queries lie on.
        key_grid: The same for the keys; coarser where keys are spatially reduced.
        queries: (W, Nq) integers: the cell of each query in each window, or -1.
        keys: (W, Nk) integers: the cell of each key in each window, or -1.
        class_query: Index among the Nq queries of the token that is classified, if the layer has
            one.
    """

    query_grid: tuple[int, int]
    key_grid: tuple[int, int]
    queries: Tensor
    keys: Tensor
    class_query: int | None = None


def global_layout(
    grid: tuple[int, int],
    *,
    prefix: int = 0,
    key_grid: tuple[int, int] | None = None,
    key_prefix: int | None = None,
) -> TokenLayout:
    """The layout of global attention: every query sees every key.

    ``prefix`` tokens (the first a class token) precede.

    Args:
        grid: Rows and columns of the queries.
        prefix: Tokens before the queries of the grid.
        key_grid: Rows and columns of the keys, if they differ.
        key_prefix: Tokens before the keys of the grid, if not as many as before the queries.
    """
    keys = key_grid or grid
    return TokenLayout(
        grid,
        keys,
        _numbered(grid, prefix)[None],
        _numbered(keys, prefix if key_prefix is None else key_prefix)[None],
        0 if prefix else None,
    )


def window_layout(grid: tuple[int, int], cells: Tensor) -> TokenLayout:
    """The layout of self-attention within windows.

    Args:
        grid: Rows and columns of the feature map.
        cells: (W, N): the cell at each place of each window, -1 for padding. The surest way to it
            is to send :func:`cell_numbers` through the layer's own partition.
    """
    cells = cells.long()
    return TokenLayout(grid, grid, cells, cells)


def cell_numbers(grid: tuple[int, int]) -> Tensor:
    """The numbers of a grid's cells, (h, w), as float: to be padded, rolled and partitioned."""
    return torch.arange(grid[0] * grid[1], dtype=torch.float32).reshape(grid)


def _numbered(grid: tuple[int, int], prefix: int) -> Tensor:
    return torch.cat([torch.full((prefix,), -1), torch.arange(grid[0] * grid[1])])
