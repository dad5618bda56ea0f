"""A fit in PyAutoLens's words: a tracer that ``al.from_json`` reads.

Conventions, checked against PyAutoLens 2026.7: its power law has κ = (3 − γ)/(1 + q) (b/ξ)^(γ − 1) with ξ² = x² + y²/q², ours
(3 − γ)/2 (θ_E/ζ)^(γ − 1) with ζ² = q x² + y²/q; ``ell_comps`` are (e2, e1); centres are (y, x); shear is the same.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.reallens.masses import mass_profiles

if TYPE_CHECKING:
    from haloformer.fitting.reallens.result import RealLensFit
    from haloformer.fitting.reallens.run import Options

_MASS = "autogalaxy.profiles.mass"
UNKNOWN_REDSHIFTS = 0.5, 1.0
"""Of lens and source where nobody said them: a tracer needs some, and deflections do not depend on them."""


def check_options(options: "Options") -> None:
    """Raises InputError for a fit that PyAutoLens has no words for, before it is done."""
    if options.multipoles:
        raise InputError(
            "format autolens: PyAutoLens has no multipole of order 1: fit without multipoles, or take lenstronomy"
        )
    if options.perturber == "tnfw":
        raise InputError("format autolens: a tnfw perturber is not written yet")


def to_autolens(fit: "RealLensFit") -> dict[str, Any]:
    """Returns a tracer of PyAutoLens as plain values: mass, perturber and lens light; the pixelised source is left out."""
    best = fit.best
    profiles = mass_profiles(best.problem.mass, best.vector)
    galaxy: dict[str, Any] = {}
    for name, keywords in profiles:
        galaxy |= autolens_profile(name, keywords)
    if fit.ready.basis.gaussians:
        galaxy["bulge"] = _instance(
            "autogalaxy.profiles.basis.Basis", profile_list=_list(_lens_light(fit))
        )
    mass = best.problem.mass
    front, back = (mass.z_lens, mass.z_source) if mass.setting else UNKNOWN_REDSHIFTS
    path = "autogalaxy.galaxy.galaxy.Galaxy"
    galaxies = [_instance(path, redshift=front, **galaxy), _instance(path, redshift=back)]
    return _instance("autolens.lens.tracer.Tracer", galaxies=_list(galaxies))


def einstein_radius(theta_E: float, gamma: float, q: float) -> float:
    """Returns PyAutoLens's ``einstein_radius`` of a power law for ours."""
    found: float = theta_E / q**0.5 * ((1 + q) / 2) ** (1 / (gamma - 1))
    return found


def theta_E(radius: float, slope: float, q: float) -> float:
    """Returns our Einstein radius for PyAutoLens's ``einstein_radius``."""
    return radius / einstein_radius(1.0, slope, q)


def axis_ratio(e1: float, e2: float) -> float:
    """Returns q for an ellipticity (1 − q) / (1 + q) as a vector."""
    size = float(np.hypot(e1, e2))
    return (1 - size) / (1 + size)


def autolens_profile(name: str, given: dict[str, float]) -> dict[str, Any]:
    """Returns a profile of lenstronomy's as PyAutoLens has it, by the name that it gets in its galaxy."""
    centre = _tuple(given.get("center_y", 0.0), given.get("center_x", 0.0))
    if name == "EPL":
        e1, e2, gamma = given["e1"], given["e2"], given["gamma"]
        own = {
            "ell_comps": _tuple(e2, e1),
            "einstein_radius": einstein_radius(given["theta_E"], gamma, axis_ratio(e1, e2)),
            "slope": gamma,
        }
        return {"mass": _instance(f"{_MASS}.total.power_law.PowerLaw", centre=centre, **own)}
    if name == "SHEAR":
        own = {"gamma_1": given["gamma1"], "gamma_2": given["gamma2"]}
        return {"shear": _instance(f"{_MASS}.sheets.external_shear.ExternalShear", **own)}
    if name == "PJAFFE":
        own = {"ra": given["Ra"], "rs": given["Rs"], "b0": 2 * given["sigma0"] * given["Ra"]}
        kind = f"{_MASS}.total.dual_pseudo_isothermal_mass.dPIEMassB0Sph"
        return {"perturber": _instance(kind, centre=centre, **own)}
    raise InputError(f"format autolens: a {name} profile is not written yet")


def _lens_light(fit: "RealLensFit") -> list[dict[str, Any]]:
    basis = fit.ready.basis
    amplitudes = fit.best.solution.light * basis.scale
    found = []
    for one, amplitude in zip(basis.gaussians, amplitudes[:-1]):
        size = (1 - one.q) / (1 + one.q)
        found.append(
            _instance(
                "autogalaxy.profiles.light.standard.gaussian.Gaussian",
                centre=_tuple(one.y, one.x),
                ell_comps=_tuple(size * np.sin(2 * one.angle), size * np.cos(2 * one.angle)),
                intensity=float(amplitude),
                sigma=one.sigma,
            )
        )
    return found


def _instance(path: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "instance", "class_path": path, "arguments": arguments}


def _tuple(*values: float) -> dict[str, Any]:
    return {"type": "tuple", "values": [float(value) for value in values]}


def _list(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "list", "values": values}
