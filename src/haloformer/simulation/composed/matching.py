"""Lenses that give up what their substructure brings on the whole, so that nothing but its detail tells that it is there.

Substructure adds mass: the ring grows with it. It also pulls to a side, shears, and makes the mass steeper or shallower as a whole, which
every lens does to some degree. A network would read the class from these, and say nothing of dark matter.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.epl import mass_factor
from haloformer.simulation.composed.planes import outside_lens_plane
from haloformer.simulation.composed.survey import (
    ComposedSurvey,
    component_parameters,
    has_it,
    no_correction,
)

RADII = np.linspace(0.5, 1.5, 9)
"""Of the circles, in Einstein radii, on which the mean pull and shear of the substructure are found."""

ANGLES = 96
"""Points on each circle."""

SLOPES = (1.2, 2.8)
"""Between which the slope of a lens stays that gives up some; one that is drawn beyond goes no farther."""

_LEAST_LEFT = {"mass": (0.0, "the lens"), "moments": (-1.0, "twice the lens")}
"""The share of a lens's mass that substructure must leave to it: of one with a lighter profile some; one that gives up a sheet may be outweighed
within the ring, as a light lens of `jwst` is once in tens of thousands."""


def matched(
    survey: ComposedSurvey,
    parameters: Mapping[str, np.ndarray],
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Returns what each lens gives up, by the names of ``MATCHED_UNITS``.

    Args:
        survey: Its ``matching`` says what is given up.
        parameters: All that is drawn of lens and substructure, each (B,) or (B, n).
        device: Where to compute.

    Raises:
        InputError: The substructure weighs more than the lens.
    """
    count = len(parameters["z_lens"])
    found = no_correction(count)
    if survey.matching == "none" or not survey.added:
        return found
    lens = component_parameters(survey.lens[0], parameters)
    x, y = (each.to(device) for each in _circles(lens))
    alpha_x, alpha_y = torch.zeros_like(x), torch.zeros_like(x)
    for part in survey.added:
        values = component_parameters(part, parameters)
        rows = np.flatnonzero(has_it(part, values))
        if len(rows) and part.IN_LENS_PLANE:
            # In float32 populations have fast tables, which are good to a thousandth.
            own = {name: array[rows] for name, array in values.items()}
            where = torch.from_numpy(rows).to(device)
            with torch.no_grad():
                more_x, more_y = part.at_points(x[where], y[where], own)
            alpha_x[where] += more_x
            alpha_y[where] += more_y
    outside = outside_lens_plane(survey, parameters, x, y, torch.float64)
    if outside is not None:
        rows, more_x, more_y = outside
        where = torch.from_numpy(rows).to(device)
        alpha_x[where] += more_x
        alpha_y[where] += more_y
    x, y, alpha_x, alpha_y = (each.cpu() for each in (x, y, alpha_x, alpha_y))
    center_x, center_y = (torch.from_numpy(lens[k])[:, None, None] for k in ("x", "y"))
    x, y = x - center_x, y - center_y
    fit = _moments if survey.matching == "moments" else _mass
    found |= fit(x, y, alpha_x, alpha_y, lens)
    least, weight = _LEAST_LEFT[survey.matching]
    if (_share_left(x, y, alpha_x, alpha_y, lens) <= least).any():
        raise InputError(
            f"survey {survey.name}: the substructure weighs more than {weight}; its mass cannot be matched"
        )
    return found


def _circles(lens: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Returns points (B, radii, angles) on circles about the lens."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    radius = lens["theta_E"][:, None, None] * RADII[None, :, None]
    x = lens["x"][:, None, None] + radius * np.cos(angle)
    y = lens["y"][:, None, None] + radius * np.sin(angle)
    return torch.from_numpy(x), torch.from_numpy(y)


def _mass(
    x: Tensor, y: Tensor, alpha_x: Tensor, alpha_y: Tensor, lens: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Gauss's theorem: the mean radial deflection on the ring is the mass inside, whatever its shape and place.

    A power law of θ_E' = θ_E (1 − κ/f)^(1/(γ − 1)), f the share of an ellipsoid's mass within the circle, weighs less by that.
    """
    theta_E, gamma = lens["theta_E"], _gamma(lens)
    share = np.clip(_share_left(x, y, alpha_x, alpha_y, lens), 0, None)
    return {"matched_theta_E": theta_E * (1 - share ** (1 / (gamma - 1)))}


def _share_left(
    x: Tensor, y: Tensor, alpha_x: Tensor, alpha_y: Tensor, lens: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Returns the share (B,) of a lens's mass within the ring that its substructure leaves to it."""
    ring, theta_E = len(RADII) // 2, lens["theta_E"]
    radial = (alpha_x * x + alpha_y * y)[:, ring] / torch.from_numpy(theta_E)[:, None]
    kappa = radial.mean(1).numpy() / theta_E
    e1, e2 = (lens.get(name, np.zeros(len(theta_E))) for name in ("e1", "e2"))
    left: np.ndarray = 1 - kappa / mass_factor(e1, e2, _gamma(lens))
    return left


def _gamma(lens: Mapping[str, np.ndarray]) -> np.ndarray:
    return lens.get("gamma", np.full(len(lens["theta_E"]), 2.0))


def _moments(
    x: Tensor, y: Tensor, alpha_x: Tensor, alpha_y: Tensor, lens: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Least squares over the annulus of a constant deflection, a sheet, a shear, and another slope of the lens: six numbers.

    On whole circles about the centre the patterns are orthogonal, so that each follows by a product with it alone; but for sheet and
    slope, which both deflect along the radius, as ρ and as ρ^(2 − γ) ln ρ, ρ the radius in θ_E.
    """
    square = (x**2 + y**2).sum((1, 2))
    sums = {
        "matched_x": alpha_x.mean((1, 2)),
        "matched_y": alpha_y.mean((1, 2)),
        "matched_gamma1": (alpha_x * x - alpha_y * y).sum((1, 2)) / square,
        "matched_gamma2": (alpha_x * y + alpha_y * x).sum((1, 2)) / square,
    }
    found = {name: values.numpy() for name, values in sums.items()}
    radial = ((alpha_x * x + alpha_y * y) / torch.hypot(x, y)).mean(2).numpy()
    radial = radial / lens["theta_E"][:, None]
    if "gamma" not in lens:
        return {**found, "matched_kappa": radial @ RADII / (RADII @ RADII)}
    gamma = lens["gamma"][:, None]
    patterns = np.stack([np.broadcast_to(RADII, radial.shape), RADII ** (2 - gamma) * np.log(RADII)], axis=1)  # fmt: skip
    products = patterns @ patterns.transpose(0, 2, 1)
    kappa, steeper = np.linalg.solve(products, patterns @ radial[:, :, None])[..., 0].T
    slope = gamma[:, 0]
    low, high = SLOPES
    left = np.clip(slope + steeper, np.minimum(low, slope), np.maximum(high, slope))
    return {**found, "matched_kappa": kappa, "matched_slope": slope - left}
