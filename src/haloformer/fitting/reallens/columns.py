"""A fit as one row of a table, those of many lenses to be stacked: parameters, places on the sky, and what speaks for a perturber."""

import math
from typing import TYPE_CHECKING

import numpy as np

from haloformer.reporting.tabular import Column, texts

if TYPE_CHECKING:
    from haloformer.fitting.reallens.result import RealLensFit

_ABOUT = {
    "theta_E": "Einstein radius",
    "gamma": "slope of the power law: 2 is isothermal",
    "e1": "ellipticity of the mass along x",
    "e2": "ellipticity of the mass along the diagonal",
    "x": "the lens's centre, along columns from the middle of the image",
    "y": "the lens's centre, along rows from the middle of the image",
    "gamma1": "external shear along x",
    "gamma2": "external shear along the diagonal",
    "axis_ratio": "of the mass",
    "shear": "external shear",
    "source_radius": "within which half of the source's light is",
    "perturber_x": "the perturber, along columns from the middle of the image",
    "perturber_y": "the perturber, along rows from the middle of the image",
    "perturber_mass": "of the perturber, in all",
    "perturber_mass_1kpc": "of the perturber, within a projected kpc",
}


def columns_of(fit: "RealLensFit") -> list[Column]:
    """Returns each parameter and its error, places on the sky where the image has a WCS, the perturber's, and how good the fit is."""
    found = [Column("name", texts([fit.seen.name]))]
    for name, item in fit.parameters.items():
        found += _with_error(name, item["value"], item["error"], item["unit"])
    found += _on_sky("", fit.sky, "the lens's centre")
    for one in fit.perturbers:
        for k in "xy":
            found += _with_error(f"perturber_{k}", one[k], one[f"{k}_error"], "arcsec")
        found += _on_sky("perturber_", one, "the perturber")
        if one["mass"] is not None:
            for k in ("mass", "mass_1kpc"):
                found += _with_error(f"perturber_{k}", one[k], one[f"{k}_error"], "M_sun")
        found += [
            _one(f"perturber_{k}", one[k], "", about)
            for k, about in (
                ("delta_evidence", "by how much −2 ln evidence falls with the perturber, at the best parameters"),
                ("delta_evidence_marginal", "by how much it falls with all parameters integrated over"),
            )
        ]  # fmt: skip
    if fit.scan is not None:
        found.append(Column("verdict", texts([fit.verdict]), "", "on a perturber"))
    return [
        *found,
        _one("chi2", fit.chi2, "", "(image − model)ᵀ C⁻¹ (image − model) of the noise's covariance C"),
        _one("pixels", fit.pixels, "", "that count"),
        _one("evidence", fit.evidence, "", "−2 ln evidence"),
        _one("good_fit", not fit.flags, "", "; ".join(fit.flags)),
    ]  # fmt: skip


def _one(name: str, value: float, unit: str, about: str) -> Column:
    return Column(name, np.array([value]), unit, about)


def _with_error(name: str, value: float, error: float | None, unit: str) -> list[Column]:
    known = math.nan if error is None else error
    unit, _, about = unit.partition(" ")  # deg East of North
    return [
        _one(name, value, unit, about or _ABOUT.get(name, "")),
        _one(f"{name}_error", known, unit, f"error of {name}"),
    ]


def _on_sky(before: str, place: object, what: str) -> list[Column]:
    if not isinstance(place, dict) or "ra" not in place:
        return []
    return [
        _one(f"{before}{key}", place[key], "deg", f"{about} of {what} (ICRS)")
        for key, about in (("ra", "right ascension"), ("dec", "declination"))
    ]
