"""The lens's mass: which parameters it has, what they are expected to be, and the deflection with its derivatives.

Deflections are those of the simulation's own components, in float64; their derivatives are central differences, which are as good as forward-mode
differentiation by torch (1e-9) and several times faster.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components import halos
from haloformer.simulation.components.epl import EPL, terms_of
from haloformer.simulation.components.multipoles import Multipoles
from haloformer.simulation.components.pseudo_jaffe import PseudoJaffe
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.components.shear import Shear
from haloformer.simulation.cosmology import Cosmology

PROFILES = ("pseudo_jaffe", "tnfw", "point")

_LENS = ("theta_E", "gamma", "e1", "e2", "x", "y")
_SHEAR = ("gamma1", "gamma2")
_MULTIPOLES = ("a1_cos", "a1_sin", "a3_cos", "a3_sin", "a4_cos", "a4_sin")
_PERTURBER = ("perturber_m", "perturber_x", "perturber_y")
_CORE = 1e-3  # arcsec, of a pseudo-Jaffe profile
_TAU = 6.0  # truncation radius of a subhalo in scale radii, median of those in simulations
_STEP = 1e-5  # of central differences, which are good to 1e-9 with float64
_STEEPEST = 100.0  # slope of a deflection that counts; in the very middle of a lens it has no bound
_LEAST_M = 1e-7  # arcsec²: keeps slopes finite
LARGEST_M = 0.1
"""arcsec², of a perturber: what has more is a second lens, and its mass is uniform before from 0 to there."""

UNITS = {
    **dict.fromkeys(("theta_E", "x", "y", "perturber_x", "perturber_y"), "arcsec"),
    "perturber_m": "arcsec^2",
}


@dataclass(frozen=True)
class Prior:
    """A normal distribution, cut at ``low`` and ``high``."""

    mean: float
    sd: float
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        numbers = (self.mean, self.sd, self.low, self.high)
        real = all(isinstance(n, int | float | np.integer | np.floating) for n in numbers)
        if not real or not (np.isfinite(self.mean) and self.sd > 0 and self.low < self.high):
            raise InputError(
                f"a prior needs a mean, a standard deviation above 0, and low below high, not {numbers}"
            )


# As in the simulation's surveys of SLACS-like lenses, a little wider: the slopes of Auger et al. (2010), multipoles of isophotes.
PRIORS: Mapping[str, Prior] = {
    "theta_E": Prior(1.2, 1.0, 0.05, 10.0),
    "gamma": Prior(2.08, 0.16, 1.3, 2.8),
    "e1": Prior(0.0, 0.12, -0.42, 0.42),
    "e2": Prior(0.0, 0.12, -0.42, 0.42),
    "x": Prior(0.0, 0.05),
    "y": Prior(0.0, 0.05),
    "gamma1": Prior(0.0, 0.08, -0.5, 0.5),
    "gamma2": Prior(0.0, 0.08, -0.5, 0.5),
    **{name: Prior(0.0, 0.007) for name in _MULTIPOLES},
    "a4_cos": Prior(0.0, 0.012),
    "perturber_m": Prior(0.0, 0.3, _LEAST_M, LARGEST_M),
    "perturber_x": Prior(0.0, 1e3),
    "perturber_y": Prior(0.0, 1e3),
}


@dataclass(frozen=True)
class Mass:
    """A lens's mass model: power-law ellipsoid and shear, with or without multipoles and one perturber.

    Attributes:
        multipoles: Whether those of orders 1, 3 and 4 are free.
        perturber: Profile of :data:`PROFILES`; None: there is none.
        priors: Name → what is expected of a parameter.
        z_lens: Redshift of the lens; needed for tNFW profiles and for masses in M_sun.
        z_source: Redshift of the source.
        r_trunc: Truncation radius in arcsec of a pseudo-Jaffe or tNFW perturber; None: the tidal radius, or 6 scale radii.
    """

    multipoles: bool = False
    perturber: str | None = None
    priors: Mapping[str, Prior] = field(default_factory=lambda: dict(PRIORS))
    z_lens: float | None = None
    z_source: float | None = None
    r_trunc: float | None = None

    def __post_init__(self) -> None:
        if self.perturber not in (None, *PROFILES):
            raise InputError(f"perturber is '{self.perturber}': known are {', '.join(PROFILES)}")
        if self.perturber == "tnfw" and self.setting is None:
            raise InputError("a tnfw perturber needs the redshifts z_lens and z_source")

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order of vectors."""
        return (
            *_LENS,
            *_SHEAR,
            *(_MULTIPOLES if self.multipoles else ()),
            *(_PERTURBER if self.perturber else ()),
        )

    @functools.cached_property
    def setting(self) -> Setting | None:
        """Where lens and source are; None if unknown."""
        if self.z_lens is None or self.z_source is None:
            return None
        return Setting.of(Cosmology(), np.array([self.z_lens]), np.array([self.z_source]))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest values of the parameters, each (K,)."""
        priors = [self.priors[name] for name in self.names]
        return np.array([p.low for p in priors]), np.array([p.high for p in priors])

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the priors, each (K,)."""
        priors = [self.priors[name] for name in self.names]
        return np.array([p.mean for p in priors]), np.array([p.sd for p in priors])

    def solar_masses(self, m: float) -> float | None:
        """Returns a perturber's total mass in M_sun; of a tNFW its M_200. None without redshifts.

        Args:
            m: M / (π Σ_crit) in arcsec², the squared Einstein radius of that mass as a point.
        """
        if self.setting is None:
            return None
        return float(np.pi * self.setting.sigma_crit[0] * m)

    def mass_within(self, kpc: float, vector: np.ndarray) -> float | None:
        """Returns a perturber's mass in M_sun within a projected radius of it; None without redshifts.

        Images tell it better than the total mass, most of which lies where nothing is seen of it, and which depends on where the profile is
        truncated (Minor et al. 2021, arXiv:2011.10627). Of round profiles it is π Σ_crit R α(R).

        Args:
            kpc: The radius R in proper kpc.
            vector: (K,) parameters.
        """
        if self.setting is None:
            return None
        radius = kpc / float(self.setting.kpc_per_arcsec[0])
        own = {name: float(value) for name, value in zip(self.names, vector)}
        at, nowhere = np.array([radius]), np.zeros(1)
        alpha, _ = self.perturbation(at, nowhere, own["perturber_m"], (0.0, 0.0), own["theta_E"])
        return self.solar_masses(radius * float(alpha[0]))

    def deflection(
        self, x: np.ndarray, y: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the deflection (α_x, α_y) in arcsec, each (R,), at positions (R,) in arcsec; of parameters (V, K) each (V, R)."""
        alpha = self._alpha(torch.from_numpy(x.copy()), torch.from_numpy(y.copy()))
        with torch.no_grad():
            found = alpha(torch.from_numpy(np.asarray(vector, float))).numpy()
        return found[0], found[1]

    def jacobian(
        self, x: np.ndarray, y: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the derivatives of α_x and α_y by the parameters, each (R, K), at positions (R,)."""
        here = (torch.from_numpy(x.copy()), torch.from_numpy(y.copy()))
        found = np.empty((2, len(x), len(self.names)))
        for k, name in enumerate(self.names):
            alpha = self._alpha(*here, moving=name)
            step = max(1e-7, 1e-4 * float(vector[k])) if name == "perturber_m" else _STEP
            ends = []
            for way in (step, -step):
                moved = np.asarray(vector, float).copy()
                moved[k] += way
                ends.append(alpha(torch.from_numpy(moved)).numpy())
            found[:, :, k] = (ends[0] - ends[1]) / (2 * step)
        found = found.clip(-_STEEPEST, _STEEPEST)
        return found[0], found[1]

    def scale(self, vector: np.ndarray) -> float:
        """Returns the scale of the source of a lens of this slope, in units of that of an isothermal one: γ − 1.

        A steeper lens magnifies less, so that the same image comes from a larger source: near the Einstein ring β changes by γ − 1 times
        the image's distance from it. A grid of fixed size would see less of the image, and have less to explain, the steeper the lens is,
        which the evidence would reward. In units of this scale it sees the same.
        """
        return float(vector[self.names.index("gamma")]) - 1

    def source_positions(
        self, x: np.ndarray, y: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the light at positions (R,) in arcsec comes from, each (R,), in the source's own coordinates.

        Those are in arcsec × :meth:`scale` about where light from the lens's centre seems to come from if only the shear deflects it,
        which has the coordinates of the lens's centre. So a change of slope or shear, and what makes up for it, does not move a source
        on its grid, wherever the lens lies: that would tell them more surely than the image does.
        """
        alpha_x, alpha_y = self.deflection(x, y, vector)
        scale, place, middle = self.scale(vector), self._place(vector), self._behind(vector)
        return (
            place[0] + (x - alpha_x - middle[0]) / scale,
            place[1] + (y - alpha_y - middle[1]) / scale,
        )

    def source_slopes(
        self, x: np.ndarray, y: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the derivatives of :meth:`source_positions` by the parameters, each (R, K)."""
        by_x, by_y = self.jacobian(x, y, vector)
        here_x, here_y = self.source_positions(x, y, vector)
        scale, (place_x, place_y) = self.scale(vector), self._place(vector)
        slope_x, slope_y = -by_x / scale, -by_y / scale
        k = self.names.index("gamma")
        slope_x[:, k] -= (here_x - place_x) / scale
        slope_y[:, k] -= (here_y - place_y) / scale
        gamma1, gamma2 = (float(vector[self.names.index(name)]) for name in _SHEAR)
        for name, in_x, in_y in (
            ("x", scale - 1 + gamma1, gamma2),
            ("y", gamma2, scale - 1 - gamma1),
            ("gamma1", place_x, -place_y),
            ("gamma2", place_y, place_x),
        ):
            k = self.names.index(name)
            slope_x[:, k] += in_x / scale
            slope_y[:, k] += in_y / scale
        return slope_x, slope_y

    def source_place(self, u_x: float, u_y: float, vector: np.ndarray) -> tuple[float, float]:
        """Returns where in arcsec a place in the source's own coordinates is: the other way round than :meth:`source_positions`."""
        scale, place, middle = self.scale(vector), self._place(vector), self._behind(vector)
        return middle[0] + scale * (u_x - place[0]), middle[1] + scale * (u_y - place[1])

    def _place(self, vector: np.ndarray) -> tuple[float, float]:
        """Returns the lens's centre in arcsec."""
        x, y = (float(vector[self.names.index(name)]) for name in ("x", "y"))
        return x, y

    def _behind(self, vector: np.ndarray) -> tuple[float, float]:
        """Returns where light from the lens's centre comes from if only the shear deflects it, in arcsec."""
        x, y = self._place(vector)
        gamma1, gamma2 = (float(vector[self.names.index(name)]) for name in _SHEAR)
        return x - (gamma1 * x + gamma2 * y), y - (gamma2 * x - gamma1 * y)

    def perturbation(
        self, x: np.ndarray, y: np.ndarray, m: float, place: tuple[float, float], theta_E: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the deflection by a perturber alone, each (R,), at positions (R,)."""
        p = {
            name: torch.tensor([value], dtype=torch.float64)
            for name, value in zip((*_PERTURBER, "theta_E"), (m, *place, theta_E))
        }
        at_x, at_y = (torch.from_numpy(each.copy()).reshape(1, 1, -1) for each in (x, y))
        alpha_x, alpha_y = _PROFILE_OF[self.perturber or ""](at_x, at_y, p, self)
        return alpha_x.reshape(-1).numpy(), alpha_y.reshape(-1).numpy()

    def _alpha(self, x: Tensor, y: Tensor, moving: str = "") -> Callable[[Tensor], Tensor]:
        """The deflection (2, R) as a function of the parameters (K,), or (2, V, R) of (V, K); if one is named, only of the components that it moves."""
        x, y = x.reshape(1, 1, -1), y.reshape(1, 1, -1)

        def alpha(vector: Tensor) -> Tensor:
            p = {name: vector[..., k].reshape(-1) for k, name in enumerate(self.names)}
            parts = []
            if not moving or moving in _LENS:
                parts.append(EPL.deflection(x, y, p, terms_of(p["e1"], p["e2"])))
            if not moving or moving in _SHEAR:
                parts.append(Shear.deflection(x, y, p))
            if self.multipoles and (not moving or moving in _LENS or moving in _MULTIPOLES):
                parts.append(Multipoles.deflection(x, y, p))
            if self.perturber and (not moving or moving in (*_PERTURBER, "theta_E")):
                parts.append(_PROFILE_OF[self.perturber](x, y, p, self))
            shape = (*vector.shape[:-1], -1)
            return torch.stack([sum(part[i] for part in parts).reshape(shape) for i in (0, 1)])  # type: ignore[union-attr]

        return alpha


def tidal_radius(m: Tensor, theta_E: Tensor) -> Tensor:
    """Returns the truncation radius √(b θ_E) in arcsec of a pseudo-Jaffe subhalo m = b r_t that is at the lens's Einstein radius.

    As in Vegetti et al. (2010, arXiv:0910.0760), after Metcalf & Madau (2001, arXiv:astro-ph/0108224).
    """
    return torch.clamp((m * theta_E) ** (1 / 3), min=3 * _CORE)


def _pseudo_jaffe(
    x: Tensor, y: Tensor, p: Mapping[str, Tensor], mass: Mass
) -> tuple[Tensor, Tensor]:
    m = torch.clamp(p["perturber_m"], min=_LEAST_M)
    fixed = mass.r_trunc
    own = {
        "theta_E": torch.sqrt(m),
        "r_core": torch.full_like(m, _CORE),
        "r_trunc": torch.full_like(m, fixed) if fixed else tidal_radius(m, p["theta_E"]),
        "x": p["perturber_x"],
        "y": p["perturber_y"],
    }
    return PseudoJaffe.deflection(x, y, own)


def _point(x: Tensor, y: Tensor, p: Mapping[str, Tensor], mass: Mass) -> tuple[Tensor, Tensor]:
    dx, dy = x - p["perturber_x"], y - p["perturber_y"]
    share = p["perturber_m"] / torch.clamp(dx**2 + dy**2, min=_CORE**2)
    return share * dx, share * dy


def _tnfw(x: Tensor, y: Tensor, p: Mapping[str, Tensor], mass: Mass) -> tuple[Tensor, Tensor]:
    values = {name: value.reshape(1, 1, 1, 1) for name, value in _tnfw_scales(p, mass).items()}
    dx, dy = (x - p["perturber_x"])[:, None], (y - p["perturber_y"])[:, None]
    alpha_x, alpha_y = halos.halo_deflection(dx, dy, values)
    return alpha_x[:, 0], alpha_y[:, 0]


def _tnfw_scales(p: Mapping[str, Tensor], mass: Mass) -> dict[str, Tensor]:
    """Those of the median concentration at its mass, where it would have that without the lens's tides, truncated at 6 scale radii."""
    setting = mass.setting
    assert setting is not None
    m = torch.clamp(p["perturber_m"], min=_LEAST_M)
    unit = np.pi * setting.sigma_crit[0]
    pivot = 1e9
    c_pivot = float(halos.median_concentration(np.array(pivot), setting.z_lens)[0])
    slope = np.log(halos.median_concentration(np.array(10 * pivot), setting.z_lens)[0] / c_pivot)
    slope = float(slope / np.log(10))
    Rs_pivot = halos.lensing_scales(np.array([[pivot]]), np.array([[1.0]]), setting)[0].item()
    share = m * unit / pivot
    c = c_pivot * share**slope
    Rs = Rs_pivot * share ** (1 / 3) / c
    inner = torch.log1p(c) - c / (1 + c)
    return {
        "Rs": Rs,
        "alpha_Rs": m * halos.UNTRUNCATED / (Rs * inner),
        "r_trunc": torch.full_like(m, mass.r_trunc) if mass.r_trunc else _TAU * Rs,
    }


_Profile = Callable[[Tensor, Tensor, Mapping[str, Tensor], Mass], tuple[Tensor, Tensor]]
_PROFILE_OF: Mapping[str, _Profile] = {
    "pseudo_jaffe": _pseudo_jaffe,
    "tnfw": _tnfw,
    "point": _point,
}


def mass_profiles(mass: Mass, vector: np.ndarray) -> list[tuple[str, dict[str, float]]]:
    """Returns lenstronomy's profiles of a mass model, and their keywords."""
    p: dict[str, float] = {name: float(value) for name, value in zip(mass.names, vector)}
    found = [*EPL.lenstronomy(p), *Shear.lenstronomy(p)]
    if mass.multipoles:
        found += Multipoles.lenstronomy(p)
    if mass.perturber == "pseudo_jaffe":
        at = torch.tensor([p["perturber_m"]]), torch.tensor([p["theta_E"]])
        own = {"theta_E": p["perturber_m"] ** 0.5, "r_core": _CORE}
        own["r_trunc"] = mass.r_trunc or float(tidal_radius(*(each.double() for each in at)))
        found += PseudoJaffe.lenstronomy({**own, "x": p["perturber_x"], "y": p["perturber_y"]})
    elif mass.perturber:
        where = {"center_x": p["perturber_x"], "center_y": p["perturber_y"]}
        given = {"perturber_m": torch.tensor([p["perturber_m"]], dtype=torch.float64)}
        if mass.perturber == "point":
            found.append(("POINT_MASS", {"theta_E": p["perturber_m"] ** 0.5, **where}))
        else:
            scales = {name: float(value) for name, value in _tnfw_scales(given, mass).items()}
            found.append(("TNFW", {**scales, **where}))
    # The order of a multipole is a whole number.
    return [
        (name, {k: v if isinstance(v, int) else float(v) for k, v in keywords.items()})
        for name, keywords in found
    ]
