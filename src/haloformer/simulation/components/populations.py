"""What components of many members share: where they lie, how they are summed, and the mass that they bring into a circle."""

from collections.abc import Callable, Mapping
from typing import Any

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
    x: Tensor,
    y: Tensor,
    members: Tensors,
    one: Callable[[Tensor, Tensor, Tensors], tuple[Tensor, ...]],
    sums: int = 2,
) -> tuple[Tensor, ...]:
    """Returns Σ_n α_n, with bounded memory.

    Args:
        x: (B or 1, H, W) positions in arcsec, as ``y``.
        y: See ``x``.
        members: Parameters (B, n), among them the positions ``x`` and ``y``; members that are missing have been made harmless.
        one: α_x and α_y of some members, (B, k, H, W) each, at positions (B, k, H, W) relative to them, from their parameters (B, k, 1, 1).
        sums: Number of quantities that ``one`` returns, and that are summed.

    Returns:
        The sums, each (B, H, W).
    """
    values = {name: value for name, value in members.items() if name not in ("x", "y")}
    dtype = next(iter(values.values())).dtype
    number = members["x"].shape[1]
    shape = (len(members["x"]), *x.shape[1:])
    totals = [torch.zeros(shape, dtype=dtype, device=x.device) for _ in range(sums)]
    step = max(1, _AT_ONCE // max(1, totals[0].numel()))

    def part(first: int) -> list[Tensor]:
        some = slice(first, first + step)
        dx = (x[:, None] - members["x"][:, some, None, None]).to(dtype)
        dy = (y[:, None] - members["y"][:, some, None, None]).to(dtype)
        alphas = one(dx, dy, {k: v[:, some, None, None] for k, v in values.items()})
        return [alpha.sum(1) for alpha in alphas]

    differentiable = torch.is_grad_enabled() and any(
        value.requires_grad for value in (x, y, *members.values())
    )
    for first in range(0, number, step):
        if differentiable and number > step:  # computed again in the backward pass, not kept
            parts = checkpoint(part, first, use_reentrant=False)
        else:
            parts = part(first)
        totals = [total + more for total, more in zip(totals, parts)]
    return tuple(totals)


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


def profiles_of(
    kind: str, names: Mapping[str, str], parameters: Mapping[str, Any], key: str
) -> list[tuple[str, dict[str, Any]]]:
    """Returns lenstronomy's profile of each member that is there.

    Args:
        kind: Of the profile.
        names: lenstronomy's keyword → ours.
        parameters: Of one image, (n,) each.
        key: The one that tells by NaN which members are not there.
    """
    there = np.flatnonzero(~np.isnan(parameters[key]))
    return [(kind, {theirs: parameters[ours][i] for theirs, ours in names.items()}) for i in there]


def mass_by_gauss(
    deflection: Deflection,
    radius: np.ndarray,
    parameters: Parameters,
    setting: Setting,
    points: int = 128,
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
