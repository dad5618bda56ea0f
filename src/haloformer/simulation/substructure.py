"""Dark matter inside the lens: the named, recombinable parts that make the classes differ. Each number may be a distribution."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from haloformer.simulation.distributions import (
    PowerLaw,
    Quantity,
    Uniform,
    check_log10_m_axion,
    check_not_negative,
)
from haloformer.validation import WholeNumber, checked


def vortex_half_length(log10_m_axion: np.ndarray) -> np.ndarray:
    """Half-length of the vortex line in arcsec: λ = 0.06/(2 m) · 10⁻²², m in eV, as in the original simulator."""
    return 0.03 * 10.0 ** (-22.0 - log10_m_axion)


@checked
@dataclass(frozen=True)
class PointSubhalos:
    """Cold dark matter subhalos as point masses around the lens centre.

    Attributes:
        kind: Its name in YAML.
        number: How many; the same in every image.
        mass: Mass of each in M_sun. The original's slope is −0.9, not the −1.9 of its description.
        radius: Distance of each from the lens centre in arcsec; the angle is uniform.
    """

    kind: Literal["point_subhalos"] = field(default="point_subhalos", kw_only=True)
    number: Annotated[WholeNumber, Field(ge=0)] = 25
    mass: Quantity = PowerLaw(1e6, 1e10, -0.9)
    radius: Quantity = Uniform(0.25, 2.0)

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass)
        check_not_negative("radius", self.radius)


@checked
@dataclass(frozen=True)
class Vortex:
    """A vortex line of an ultralight-axion condensate: equal point masses on a line.

    Attributes:
        kind: Its name in YAML.
        mass: Total mass in M_sun.
        n_masses: Number of point masses that stand for the line.
        log10_m_axion: log10 of the axion mass in eV; sets the length, see :func:`vortex_half_length`.
        angle: Angle of the line to the x axis in radian.
        x: Centre of the line in arcsec, relative to the lens.
        y: Centre of the line in arcsec, relative to the lens.
    """

    kind: Literal["vortex"] = field(default="vortex", kw_only=True)
    mass: Quantity = 3e10
    n_masses: Annotated[WholeNumber, Field(ge=2)] = 100
    log10_m_axion: Quantity = Uniform(-24.0, -22.0)
    angle: Quantity = Uniform(0.0, 2 * np.pi)
    x: Quantity = 0.0
    y: Quantity = 0.0

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass)
        check_log10_m_axion(self.log10_m_axion)


Substructure = Annotated[PointSubhalos | Vortex, Field(discriminator="kind")]
"""One part of a lens's dark matter; ``kind`` says which."""
