"""Small linear systems, batched: damped Gauss-Newton steps."""

import torch
from torch import Tensor


def damped_step(hessian: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """Solves (H + λ diag H) step = gradient for each image, in λ's precision; what cannot be solved gives 0."""
    hessian, gradient = hessian.to(damping.dtype), gradient.to(damping.dtype)
    diagonal = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=1e-20)
    matrix = hessian + torch.diag_embed((damping[:, None] + 1e-7) * diagonal)
    # ONNX knows no linear solver.
    step = (
        _eliminate(matrix, gradient)
        if torch.compiler.is_compiling()
        else torch.linalg.solve_ex(matrix, gradient)[0]
    )
    return torch.nan_to_num(step, nan=0.0, posinf=0.0, neginf=0.0)


def fitted_amounts(patterns: Tensor, residual: Tensor) -> Tensor:
    """Returns (B, P) how much of each pattern (B, P, N) is in a residual (B, N), by linear least squares.

    In float64, since some patterns are nearly sums of others, which rounding must not feel.
    """
    patterns, residual = patterns.double(), residual.double()
    products = patterns @ patterns.transpose(1, 2)
    overlap = (patterns @ residual[:, :, None])[:, :, 0]
    return damped_step(products, overlap, torch.full_like(overlap[:, 0], 1e-6))


def _eliminate(matrix: Tensor, right: Tensor) -> Tensor:
    """Solves positive definite systems (B, P, P) for (B, P) by elimination, which for these needs no pivoting."""
    # In units in which the diagonal is 1
    unit = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    rows = torch.cat(
        [matrix * unit[:, :, None] * unit[:, None, :], (right * unit)[:, :, None]], dim=2
    )
    number = torch.arange(right.shape[1], device=right.device)[None, :, None]
    for k in range(right.shape[1]):
        pivot = rows[:, k : k + 1] / rows[:, k : k + 1, k : k + 1]
        rows = torch.where(number == k, pivot, rows - rows[:, :, k : k + 1] * pivot)
    return rows[:, :, -1] * unit


def inverse(hessian: Tensor) -> Tensor:
    """Returns the inverses (B, P, P) of Hessians (B, P, P), computed in float64."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=1e-20)
    inverse, _ = torch.linalg.inv_ex(hessian.double() + torch.diag_embed(1e-9 * diagonal).double())
    result: Tensor = inverse.to(hessian.dtype)
    return result
