"""Halos before and behind the lens: how many there are, and their effect to first order.

Every halo deflects a ray once. Foreground halos do so where the ray is seen; the lens, where they have moved it to; background halos,
where both have. Reduced deflections all refer to the source, so that of a ray that halo i deflected by α_i the position at redshift j is
θ − β_ij α_i, with β_ij = D_ij D_s / (D_j D_is); in a flat universe of comoving distances χ, β_ij = (1 − χ_i/χ_j) / (1 − χ_i/χ_s).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.component import (
    Deflection,
    Draws,
    MassComponent,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.halos import (
    PIVOT,
    deflection_at_scale,
    halo_deflection,
    median_concentration,
    scale_radius,
)
from haloformer.simulation.components.populations import (
    check_smaller,
    in_use,
    largest_count,
    mass_by_gauss,
    poisson_counts,
    sum_over_members,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.cosmology import einstein_radii
from haloformer.simulation.distributions import PowerLaw, check_members
from haloformer.validation import Number, WholeNumber, checked

# Sheth–Tormen mass function, Planck 2018: dn/dlnM = A(z) (M/10⁸)^−0.90 in comoving Mpc⁻³.
_REDSHIFTS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
_ABUNDANCES = (6.3, 6.6, 7.2, 8.1, 8.8, 9.4, 10.0)

FIELD_TRUNCATION = 1.6
"""Truncation radius of halos in the field, r_50, in parts of r_200."""

MASS_SLOPE = -1.9
"""Of the mass function, dN/dM."""

LARGEST_SCALE = 8.61
"""kpc per arcsec, at most: at redshift 1.6 in the usual cosmology."""

LARGEST_SIGMA = 0.36
"""Halos outside the lens plane in kpc⁻², as :func:`line_of_sight_Sigma` counts them, at most: of a lens at redshift 3 and a source at 8."""

_SIDES = ("foreground", "background")
_HALO_UNITS = {
    "mass": "M_sun",
    "z": "",
    "chi": "Mpc",
    "Rs": "arcsec",
    "alpha_Rs": "arcsec",
    "r_trunc": "arcsec",
    "x": "arcsec",
    "y": "arcsec",
}

_STEPS = 257  # of the integral over redshift
_HARMLESS = {"alpha_Rs": 0.0, "Rs": 1.0, "r_trunc": 1.0, "x": 0.0, "y": 0.0}


@dataclass(frozen=True)
class _Cone:
    """The double cone through a disc in the lens plane of B lenses, at steps of redshift from here to the source.

    Attributes:
        z: (B, steps)
        chi: Comoving distances in Mpc, (B, steps).
        chi_lens: (B, 1)
        share: Angular radius in the direction of the ray there, in parts of the disc's: 1 before the lens, falling to 0 at the source.
        density: Halos per comoving Mpc along the line of sight and per kpc² in the lens plane, for a mass function normalised like Σ_sub.
    """

    z: np.ndarray
    chi: np.ndarray
    chi_lens: np.ndarray
    share: np.ndarray
    density: np.ndarray

    @classmethod
    def of(cls, setting: Setting) -> "_Cone":
        cosmology = setting.cosmology
        z = setting.z_source[:, None] * np.linspace(0, 1, _STEPS)
        chi = cosmology.comoving_distances(z)
        chi_lens = cosmology.comoving_distances(setting.z_lens)[:, None]
        share = 1 - (1 - chi_lens / np.maximum(chi, chi_lens)) / (1 - chi_lens / chi[:, -1:])
        stretch = 1e-3 * chi * share * (1 + setting.z_lens[:, None]) / chi_lens  # Mpc/kpc
        density = np.interp(z, _REDSHIFTS, _ABUNDANCES) * stretch**2
        return cls(z, chi, chi_lens, share, density)

    def cumulated(self, here: np.ndarray | float) -> np.ndarray:
        """The density up to each step, summed over those steps (B, steps) that count."""
        density = self.density * here
        pieces = (density[:, 1:] + density[:, :-1]) / 2 * np.diff(self.chi, axis=1)
        start = np.zeros((len(pieces), 1))
        total: np.ndarray = np.cumsum(np.concatenate([start, pieces], axis=1), axis=1)
        return total


def line_of_sight_Sigma(setting: Setting) -> np.ndarray:
    """Returns the halos outside the lens plane as a density in it, (B,) in kpc⁻² like the Σ_sub of a mass function of slope −1.9.

    Those in the cone from here through a disc in the lens plane, and in its mirror image that ends in the source.
    """
    sigma: np.ndarray = _Cone.of(setting).cumulated(1.0)[:, -1]
    return sigma


@checked
@dataclass(frozen=True)
class LineOfSight(MassComponent):
    """Halos before and behind the lens, each in its own plane, to first order: of the mass function of :func:`line_of_sight_Sigma`.

    A :class:`~haloformer.simulation.components.tnfw.TNFW` with ``line_of_sight`` puts as many as deflect alike into the lens plane instead,
    which takes a tenth of the time.

    Attributes:
        kind: Its name in YAML.
        abundance: Of the halos, in parts of what is expected.
        mass_low: Least M_200 in M_sun.
        mass_high: Largest M_200 in M_sun.
        disc_radius: Of the double cone in the lens plane, in arcsec about the origin.
        concentration_scatter: Scatter of each halo's concentration in dex.
        n_max: Columns of the arrays of halos of either side; by default as many as no image exceeds.
    """

    kind: Literal["line_of_sight"] = field(default="line_of_sight", kw_only=True)
    abundance: Annotated[Number, Field(ge=0)] = 1.0
    mass_low: Annotated[Number, Field(gt=0)] = 1e8
    mass_high: Annotated[Number, Field(gt=0)] = 1e10
    disc_radius: Annotated[Number, Field(gt=0)] = 3.0
    concentration_scatter: Annotated[Number, Field(ge=0)] = 0.16
    n_max: Annotated[WholeNumber, Field(ge=1)] | None = None

    IN_LENS: ClassVar[bool] = False
    IN_LENS_PLANE: ClassVar[bool] = False
    UNITS: ClassVar[Mapping[str, str]] = {
        **{f"{side}_{name}": unit for side in _SIDES for name, unit in _HALO_UNITS.items()},
        "chi_lens": "Mpc",
        "chi_source": "Mpc",
    }

    def __post_init__(self) -> None:
        check_smaller("mass_low", self.mass_low, "mass_high", self.mass_high)

    def most(self) -> int:
        """Returns the number of columns of the arrays of either side: a number that an image exceeds with a probability below 10⁻⁹."""
        if self.n_max is not None:
            return self.n_max
        p = MASS_SLOPE + 1
        number = ((self.mass_high / PIVOT) ** p - (self.mass_low / PIVOT) ** p) / p
        area = np.pi * (self.disc_radius * LARGEST_SCALE) ** 2
        return largest_count(self.abundance * LARGEST_SIGMA * number * area)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the halos of both sides."""
        check_members(len(draws), self.most(), "line_of_sight")
        masses = PowerLaw(self.mass_low, self.mass_high, MASS_SLOPE)
        sides = draw_halos(
            draws, setting, masses, self.disc_radius, self.concentration_scatter, self.abundance
        )
        most, drawn = self.most(), {}
        for side, halos in zip(_SIDES, sides):
            if halos["mass"].shape[1] > most:
                raise InputError(
                    f"line_of_sight: an image has {halos['mass'].shape[1]} halos; n_max must be larger than {most}"
                )
            for name in _HALO_UNITS:
                padded = np.full((len(draws), most), np.nan)
                padded[:, : halos[name].shape[1]] = halos[name]
                drawn[f"{side}_{name}"] = padded
        distances = setting.cosmology.comoving_distances
        drawn["chi_lens"], drawn["chi_source"] = map(distances, (setting.z_lens, setting.z_source))
        return drawn

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """What they do where nothing lies in the lens plane."""

        def nothing(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(x), torch.zeros_like(y)

        return _beside(x, y, parameters, nothing)

    def beside(
        self, x: Tensor, y: Tensor, parameters: Tensors, lens: Deflection
    ) -> tuple[Tensor, Tensor]:
        """See :func:`source_positions`."""
        return _beside(x, y, parameters, lens)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """None: its lenses with several planes are other models than those with one.

        Raises:
            InputError: Always.
        """
        raise InputError("line_of_sight: halos outside the lens plane have no profile in one plane")

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """By Gauss's theorem: a mass in the lens plane that would deflect as they do where nothing else does."""
        nowhere = np.zeros(len(radius))
        placed = {**parameters, "center_x": nowhere, "center_y": nowhere}
        return mass_by_gauss(LineOfSight.deflection, radius, placed, setting)


def _beside(x: Tensor, y: Tensor, parameters: Tensors, lens: Deflection) -> tuple[Tensor, Tensor]:
    """Returns the deflection by lens and halos, less that by the lens."""
    before, behind = (
        {name: parameters[f"{side}_{name}"] for name in ("x", "y", "Rs", "alpha_Rs", "r_trunc", "chi")}
        for side in _SIDES
    )  # fmt: skip
    dtype = before["Rs"].dtype
    chi = parameters["chi_lens"], parameters["chi_source"]
    shape = (len(chi[0]), *x.shape[1:])
    x, y = x.expand(shape), y.expand(shape)
    found = source_positions(x, y, lens, before, behind, *chi)
    alone = lens(x, y)
    return x.to(dtype) - found[0] - alone[0], y.to(dtype) - found[1] - alone[1]


def draw_halos(
    draws: Draws,
    setting: Setting,
    masses: PowerLaw,
    disc_radius: float,
    scatter: float = 0.16,
    abundance: float = 1.0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draws the halos before and behind lenses, as :func:`source_positions` takes them.

    Args:
        draws: Of the B images.
        setting: Their redshifts.
        masses: Of the halos, dN/dM of slope −1.9.
        disc_radius: Radius in arcsec of the double cone in the lens plane, about the origin.
        scatter: Of the concentrations, in dex.
        abundance: Of the halos, in parts of what is expected.

    Returns:
        Foreground and background, each with (B, n) ``x``, ``y``, ``Rs``, ``alpha_Rs`` and ``r_trunc`` in arcsec, ``chi`` in Mpc, ``z``, ``mass``
        in M_sun; NaN for one that is not there.

    Raises:
        InputError: The slope is another.
    """
    if masses.slope != MASS_SLOPE:
        raise InputError(f"halos outside the lens plane have a slope of -1.9, not {masses.slope:g}")
    cone = _Cone.of(setting)
    given = (masses, disc_radius, scatter, abundance)
    return (
        _draw_side(draws, setting, cone, True, *given),
        _draw_side(draws, setting, cone, False, *given),
    )


def _draw_side(
    draws: Draws,
    setting: Setting,
    cone: _Cone,
    before: bool,
    masses: PowerLaw,
    disc_radius: float,
    scatter: float,
    abundance: float,
) -> dict[str, np.ndarray]:
    side = "foreground" if before else "background"
    cumulated = cone.cumulated((cone.chi < cone.chi_lens) == before)
    p = masses.slope + 1
    number_per_Sigma = ((masses.high / PIVOT) ** p - (masses.low / PIVOT) ** p) / p
    area = np.pi * (disc_radius * setting.kpc_per_arcsec) ** 2
    counts = poisson_counts(
        draws.uniform(f"{side}_number"), abundance * cumulated[:, -1] * number_per_Sigma * area
    )
    n = max(1, int(counts.max()))
    chi = _inverted(draws.uniform(f"{side}_place", n) * cumulated[:, -1:], cumulated, cone.chi)
    # A step of the integral may reach across the lens.
    chi = np.where(before, np.minimum(chi, cone.chi_lens), np.maximum(chi, cone.chi_lens))
    z, share = (_inverted(chi, cone.chi, values) for values in (cone.z, cone.share))
    mass = draws.draw(masses, f"{side}_mass", n)
    median = median_concentration(mass, z)
    c = np.maximum(median * 10 ** (scatter * draws.normal(f"{side}_concentration", n)), 1.0)
    cosmology, z_source = setting.cosmology, np.broadcast_to(setting.z_source[:, None], z.shape)
    kpc = cosmology.angular_diameter_distances(z) * 1e3 * np.deg2rad(1 / 3600)
    Rs = scale_radius(mass, c, z, cosmology) / kpc
    sigma_crit = 1 / (np.pi * einstein_radii(1.0, cosmology, z, z_source) ** 2)
    distance = disc_radius * share * np.sqrt(draws.uniform(f"{side}_radius", n))
    angle = 2 * np.pi * draws.uniform(f"{side}_angle", n)
    drawn = {
        "mass": mass,
        "z": z,
        "chi": chi,
        "Rs": Rs,
        "alpha_Rs": deflection_at_scale(mass, c, Rs, sigma_crit),
        "r_trunc": FIELD_TRUNCATION * c * Rs,
        "x": distance * np.cos(angle),
        "y": distance * np.sin(angle),
    }
    there = np.arange(n) < counts[:, None]
    return {name: np.where(there, values, np.nan) for name, values in drawn.items()}


def _inverted(at: np.ndarray, rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns values (B, n) at places ``at`` (B, n) of curves (B, steps), linear between their steps."""
    cell = (rising[:, None, 1:-1] < at[..., None]).sum(-1)
    low, high, first, last = (
        np.take_along_axis(curve, cell + step, axis=1)
        for curve in (rising, values)
        for step in (0, 1)
    )
    share = (at - low) / np.maximum(high - low, 1e-30)
    result: np.ndarray = first + np.clip(share, 0, 1) * (last - first)
    return result


def source_positions(
    x: Tensor,
    y: Tensor,
    lens: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    foreground: Tensors,
    background: Tensors,
    chi_lens: Tensor,
    chi_source: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns where the light that is seen at (x, y) comes from, to first order in the halos outside the lens plane.

    Args:
        x: (B or 1, H, W) positions in arcsec, as ``y``.
        y: See ``x``.
        lens: Reduced deflection (B, H, W) by all that lies in the lens plane.
        foreground: Halos (B, n) before the lens: ``x``, ``y``, ``Rs``, ``alpha_Rs``, ``r_trunc`` in arcsec, and the comoving distance ``chi``,
            in units of those below; NaN for one that is not there. ``alpha_Rs`` is reduced, to the source. They lie where they are seen.
        background: The same of those behind the lens. They lie in the direction that the ray has there, not where they are seen.
        chi_lens: (B,) comoving distance of the lens.
        chi_source: (B,) of the source.

    Returns:
        (β_x, β_y), each (B, H, W).
    """
    dtype = foreground["Rs"].dtype
    chi_l, chi_s = column(chi_lens), column(chi_source)

    def three_sums(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, ...]:
        alpha = halo_deflection(dx, dy, values)
        share = 1 / (1 - values["chi"] / chi_s[:, None])
        return (
            *alpha,
            *(share * one for one in alpha),
            *(share * values["chi"] * one for one in alpha),
        )

    before = in_use(foreground, "Rs", {**_HARMLESS, "chi": 0.0})
    all_x, all_y, u_x, u_y, v_x, v_y = sum_over_members(x, y, before, three_sums, 6)
    # Σ β_ij α_i of the foreground is u − v/χ_j in any plane j.
    bend_x, bend_y = lens(x - (u_x - v_x / chi_l), y - (u_y - v_y / chi_l))

    def behind(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, Tensor]:
        near = 1 / values["chi"]
        beta = (1 - chi_l[:, None] * near) / (1 - chi_l / chi_s)[:, None]
        return halo_deflection(
            dx - (beta * bend_x[:, None] + u_x[:, None] - v_x[:, None] * near),
            dy - (beta * bend_y[:, None] + u_y[:, None] - v_y[:, None] * near),
            values,
        )

    after = in_use(background, "Rs", {**_HARMLESS, "chi": 1.0})
    back_x, back_y = sum_over_members(x, y, after, behind)
    return x.to(dtype) - all_x - bend_x - back_x, y.to(dtype) - all_y - bend_y - back_y
