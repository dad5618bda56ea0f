"""A fit in PyAutoLens's words: a tracer that ``al.from_json`` reads.

Conventions, checked against PyAutoLens 2026.7: its power law has κ = (3 − γ)/(1 + q) (b/ξ)^(γ − 1) with ξ² = x² + y²/q², ours
(3 − γ)/2 (θ_E/ζ)^(γ − 1) with ζ² = q x² + y²/q; ``ell_comps`` are (e2, e1); centres are (y, x); shear is the same. Its multipoles are
κ = (θ_E/r)^(γ − 1) k cos(m (φ − φ_m)) / 2, with ``multipole_comps`` k (sin(m φ_m), cos(m φ_m)); ours have γ = 2.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.reallens.masses import mass_profiles

if TYPE_CHECKING:
    from haloformer.fitting.reallens.result import RealLensFit

_MASS = "autogalaxy.profiles.mass"
_BESIDE = 1e-4  # of the slope 2, at which PyAutoLens has no multipole of order 1
UNKNOWN_REDSHIFTS = 0.5, 1.0
"""Of lens and source where nobody said them: a tracer needs some, and deflections do not depend on them."""


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
    if name == "POINT_MASS":
        kind = f"{_MASS}.point.point.PointMass"
        return {"perturber": _instance(kind, centre=centre, einstein_radius=given["theta_E"])}
    if name == "TNFW":
        # α at the scale radius of an NFW is 4 κ_s R_s (1 + ln ½).
        own = {
            "kappa_s": given["alpha_Rs"] / (4 * given["Rs"] * (1 - np.log(2))),
            "scale_radius": given["Rs"],
            "truncation_radius": given["r_trunc"],
        }
        kind = f"{_MASS}.dark.nfw_truncated.NFWTruncatedSph"
        return {"perturber": _instance(kind, centre=centre, **own)}
    if name == "MULTIPOLE":
        return _multipole(given, centre)
    raise InputError(f"format autolens: a {name} profile is not written")


def _multipole(given: dict[str, float], centre: dict[str, Any]) -> dict[str, Any]:
    """Returns a multipole of lenstronomy's, whose κ falls as 1/r, in PyAutoLens's profiles.

    Of order 1, PyAutoLens divides by 1 − (3 − γ)², which is 0 at γ = 2: a constant deflection without bound, which moves the source only.
    Two profiles of slopes 2 ± ε, of nearly equal strength, do not have it: their mean is the limit to order ε².
    """
    m, radius = int(given["m"]), given["r_E"]
    parts = [(f"multipole_{m}", 2.0, 1.0)]
    if m == 1:
        parts = [
            (f"multipole_{m}_{sign}", 2 + way * _BESIDE, 0.5 - way * _BESIDE / 4)
            for sign, way in (("steep", 1), ("flat", -1))
        ]
    found = {}
    for name, slope, share in parts:
        k, angle = share * given["a_m"] / radius, m * given["phi_m"]
        found[name] = _instance(
            f"{_MASS}.total.power_law_multipole.PowerLawMultipole",
            m=m,
            centre=centre,
            einstein_radius=radius,
            slope=slope,
            multipole_comps=_tuple(k * np.sin(angle), k * np.cos(angle)),
        )
    return found


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
