"""What components of many members share: where they lie, how they are summed, and the mass that they bring into a circle."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from haloformer.errors import InputError
from haloformer.simulation.components.component import Draws, Parameters, Tensors
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import Normal, Quantity

CENTER_UNITS = {"center_x": "arcsec", "center_y": "arcsec"}
"""Centre of the lens that a component is placed around: circles of ``mass_within`` lie about it."""

_AT_ONCE = 2**21  # members times positions that are held at a time: some 0.1 GB
_SIGMAS = 6.0  # of a normal distribution, beyond which nothing is drawn in 10⁹ draws

Deflection = Callable[[Tensor, Tensor, Tensors], tuple[Tensor, Tensor]]
"""(x, y, parameters) → (α_x, α_y)."""


def centers(draws: Draws, lens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the lens's centre as :data:`CENTER_UNITS`; the origin where there is no lens."""
    nowhere = np.zeros(len(draws))
    return {"center_x": lens.get("x", nowhere), "center_y": lens.get("y", nowhere)}


def limits(quantity: Quantity) -> tuple[float, float]:
    """Returns the smallest and the largest value that a quantity takes; of a normal distribution, all but one draw in 10⁹."""
    if isinstance(quantity, Normal):
        return (
            quantity.mean - _SIGMAS * quantity.sigma,
            quantity.mean + _SIGMAS * quantity.sigma,
        )
    if isinstance(quantity, float | int):
        return quantity, quantity
    return quantity.low, quantity.high


def check_smaller(low_name: str, low: float, high_name: str, high: float) -> None:
    """Raises InputError unless low < high."""
    if not low < high:
        raise InputError(f"{low_name} must be below {high_name}, not {low:g} and {high:g}")


def poisson_counts(uniforms: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns Poisson numbers (B,) of these means, from one uniform draw each, by the inverse of the cumulative distribution."""
    counts = stats.poisson.ppf(uniforms, np.maximum(mean, 0.0))
    whole: np.ndarray = np.maximum(counts, 0).astype(np.int64)
    return whole


def largest_count(mean: float) -> int:
    """Returns the number that a Poisson variable of this mean exceeds with a probability below 10⁻⁹."""
    return int(stats.poisson.isf(1e-9, mean)) + 1


def sum_over_members(
    x: Tensor, y: Tensor, members: Tensors, one: Deflection
) -> tuple[Tensor, Tensor]:
    """Returns Σ_n α_n, with bounded memory.

    Args:
        x: (B or 1, H, W) positions in arcsec, as ``y``.
        y: See ``x``.
        members: Parameters (B, n), among them the positions ``x`` and ``y``; members that are missing have been made harmless.
        one: Deflection by each of some members, (B, k, H, W), at positions (B, k, H, W) relative to them, from their parameters (B, k, 1, 1).

    Returns:
        (α_x, α_y), each (B, H, W).
    """
    values = {name: value for name, value in members.items() if name not in ("x", "y")}
    dtype = next(iter(values.values())).dtype
    count, number = members["x"].shape
    shape = (max(count, x.shape[0]), *x.shape[1:])
    total_x = torch.zeros(shape, dtype=dtype, device=x.device)
    total_y = torch.zeros_like(total_x)
    step = max(1, _AT_ONCE // max(1, total_x.numel()))

    def part(first: int) -> tuple[Tensor, Tensor]:
        some = slice(first, first + step)
        dx = (x[:, None] - members["x"][:, some, None, None]).to(dtype)
        dy = (y[:, None] - members["y"][:, some, None, None]).to(dtype)
        alpha_x, alpha_y = one(dx, dy, {k: v[:, some, None, None] for k, v in values.items()})
        return alpha_x.sum(1), alpha_y.sum(1)

    differentiable = torch.is_grad_enabled() and any(
        value.requires_grad for value in (x, y, *members.values())
    )
    for first in range(0, number, step):
        if differentiable and number > step:  # recomputed in the backward pass rather than kept
            alpha_x, alpha_y = checkpoint(part, first, use_reentrant=False)
        else:
            alpha_x, alpha_y = part(first)
        total_x, total_y = total_x + alpha_x, total_y + alpha_y
    return total_x, total_y


def in_use(members: Tensors, key: str, harmless: Mapping[str, float]) -> dict[str, Tensor]:
    """Returns members (B, n) without the columns that no image uses, and with numbers for those that are missing.

    Args:
        members: Parameters (B, n), NaN for a member that is not there.
        key: The one that tells which are there.
        harmless: What stands for each parameter of a missing one, so that it deflects nothing.
    """
    there = ~torch.isnan(members[key])
    columns = torch.nonzero(there.any(0)).flatten()
    number = int(columns[-1]) + 1 if len(columns) else 0
    there = there[:, :number]
    return {
        name: torch.where(
            there, members[name][:, :number], torch.full_like(members[name][:, :number], value)
        )
        for name, value in harmless.items()
    }


def disc_deflection(dx: Tensor, dy: Tensor, kappa: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the deflection by a disc of uniform convergence: κ Δ inside, κ R²/|Δ|² Δ outside."""
    share = kappa * torch.clamp(radius**2 / torch.clamp(dx**2 + dy**2, min=1e-12), max=1.0)
    return share * dx, share * dy


def mass_by_gauss(
    deflection: Deflection,
    radius: np.ndarray,
    parameters: Parameters,
    setting: Setting,
    points: int = 256,
) -> np.ndarray:
    """Returns the mass (B,) in M_sun within circles about the lens's centre, by Gauss's theorem: π Σ_crit r ⟨α_r⟩.

    Args:
        deflection: Of the component.
        radius: (B,) in arcsec.
        parameters: Of the component, with :data:`CENTER_UNITS`.
        setting: Gives the critical density.
        points: Of the circle that the mean is taken over.
    """
    angle = torch.arange(points, dtype=torch.float64) * (2 * np.pi / points)
    cos, sin = torch.cos(angle)[None, None], torch.sin(angle)[None, None]
    tensors = {
        name: torch.as_tensor(values, dtype=torch.float64) for name, values in parameters.items()
    }
    r = torch.as_tensor(radius, dtype=torch.float64)[:, None, None]
    x = tensors["center_x"][:, None, None] + r * cos
    y = tensors["center_y"][:, None, None] + r * sin
    with torch.no_grad():
        alpha_x, alpha_y = deflection(x, y, tensors)
    radial = (alpha_x * cos + alpha_y * sin).mean((1, 2)).numpy()
    mass: np.ndarray = np.pi * setting.sigma_crit * radius * radial
    return mass
