"""A smooth elliptical galaxy or disc: the Sérsic profile."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.component import (
    AtRays,
    Draws,
    LightComponent,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.populations import limits
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import (
    Quantity,
    check_ellipticity,
    check_not_negative,
    check_sersic_index,
    describe_quantity,
)
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b, sersic_ellipse, sersic_flux
from haloformer.validation import checked

LEAST_AXIS_RATIO = 0.1
"""Flatter than this no galaxy is drawn."""


@checked
@dataclass(frozen=True)
class Sersic(LightComponent):
    """An elliptical Sérsic profile. Each number may be a distribution.

    Attributes:
        kind: Its name in YAML.
        R_sersic: Half-light radius in arcsec, along the product-average axis.
        n_sersic: Sérsic index: 1 for a disc, 4 for an elliptical galaxy.
        e1: Ellipticity (1−q)/(1+q) cos 2φ.
        e2: Ellipticity (1−q)/(1+q) sin 2φ.
        q: Axis ratio, minor to major, with ``angle`` in place of the ellipticities.
        angle: Direction φ of the major axis in radian from the x axis to the y axis.
        x: Centre in arcsec, relative to the galaxy's.
        y: See ``x``.
    """

    kind: Literal["sersic"] = field(default="sersic", kw_only=True)
    R_sersic: Quantity = 0.25
    n_sersic: Quantity = 1.0
    e1: Quantity | None = None
    e2: Quantity | None = None
    x: Quantity = 0.0
    y: Quantity = 0.0
    q: Quantity | None = None
    angle: Quantity | None = None

    UNITS: ClassVar[Mapping[str, str]] = {
        "R_sersic": "arcsec",
        "n_sersic": "",
        "e1": "",
        "e2": "",
        "x": "arcsec",
        "y": "arcsec",
    }

    def __post_init__(self) -> None:
        check_not_negative("R_sersic", self.R_sersic, zero=False)
        check_not_negative("n_sersic", self.n_sersic, zero=False)
        check_sersic_index(self.n_sersic)
        check_not_negative("q", self.q, zero=False, clipped=True)
        check_ellipticity(self.e1, self.e2, LEAST_AXIS_RATIO)
        if (self.q is None) != (self.angle is None):
            raise InputError("sersic takes q and angle together")
        if self.q is not None and (self.e1 is not None or self.e2 is not None):
            raise InputError("sersic takes q and angle, or e1 and e2, not both")
        if self.q is not None and limits(self.q)[1] > 1:
            raise InputError(
                f"q is an axis ratio, minor to major: at most 1, not {describe_quantity(self.q)}"
            )

    def draw(self, draws: Draws, setting: Setting) -> dict[str, np.ndarray]:
        """Draws the parameters; ellipticities beyond :data:`LEAST_AXIS_RATIO` are shortened to it."""
        given = {name: getattr(self, name) for name in self.UNITS}
        drawn = {
            name: draws.draw(0.0 if value is None else value, name) for name, value in given.items()
        }
        if self.q is not None and self.angle is not None:
            q, twice = draws.draw(self.q, "q"), 2 * draws.draw(self.angle, "angle")
            size = (1 - q) / (1 + q)
            drawn |= {"e1": size * np.cos(twice), "e2": size * np.sin(twice)}
        return {**drawn, **shortened(drawn["e1"], drawn["e2"])}

    def brightness(self, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """Sérsic (1963), constant within :data:`~haloformer.simulation.sources.SERSIC_R_MIN`."""
        R, n = parameters["R_sersic"], parameters["n_sersic"]
        dx = (x - column(parameters["x"])).to(R.dtype)
        dy = (y - column(parameters["y"])).to(R.dtype)
        nowhere = torch.zeros((), dtype=R.dtype, device=R.device)
        amp, R, n, e1, e2 = (
            column(values) for values in (unit_amp(R, n), R, n, parameters["e1"], parameters["e2"])
        )
        return sersic_ellipse(dx, dy, amp, R, n, e1, e2, nowhere, nowhere)

    def at_rays(self, parameters: Parameters, share: np.ndarray) -> AtRays:
        """The compiled kernel."""
        from haloformer.simulation.components import ray_kernels

        R, n = (torch.as_tensor(parameters[name]) for name in ("R_sersic", "n_sersic"))
        names = ("R_sersic", "n_sersic", "e1", "e2", "x", "y")
        columns = [share * unit_amp(R, n).numpy(), *(parameters[name] for name in names)]
        shape = np.stack(columns, axis=1).astype(np.float32)
        return functools.partial(ray_kernels.add_sersic, shape, SERSIC_R_MIN)

    def lenstronomy(self, parameters: Mapping[str, Any]) -> list[Profile]:
        """``SERSIC_ELLIPSE``."""
        named = {name: parameters[name] for name in ("R_sersic", "n_sersic", "e1", "e2")}
        amp = 1 / sersic_flux(parameters["R_sersic"], parameters["n_sersic"])
        centre = {"center_x": parameters["x"], "center_y": parameters["y"]}
        return [("SERSIC_ELLIPSE", {"amp": amp, **named, **centre})]


def unit_amp(R_sersic: Tensor, n_sersic: Tensor) -> Tensor:
    """Returns the brightness at R_sersic of a profile whose total flux is 1, in 1/arcsec²: the inverse of :func:`sersic_flux`."""
    R, n = R_sersic.double(), n_sersic.double()
    b = sersic_b(n)
    log_flux = math.log(2 * math.pi) + torch.log(n) + 2 * torch.log(R) + b
    log_flux = log_flux - 2 * n * torch.log(b) + torch.lgamma(2 * n)
    return torch.exp(-log_flux).to(R_sersic.dtype)


def shortened(
    e1: np.ndarray, e2: np.ndarray, least: float = LEAST_AXIS_RATIO
) -> dict[str, np.ndarray]:
    """Returns ellipticities ``e1`` and ``e2`` (B,), those of an axis ratio below ``least`` shortened to it."""
    most = (1 - least) / (1 + least)
    shorter = np.minimum(1.0, most / np.maximum(np.hypot(e1, e2), 1e-12))
    return {"e1": e1 * shorter, "e2": e2 * shorter}
