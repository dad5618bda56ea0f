"""Result of the fit of a real lens: parameters with errors, pictures, files, and how it shows itself in a notebook."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.linalg as sl

from haloformer._version import code_version
from haloformer.fitting.reallens.columns import columns_of
from haloformer.fitting.reallens.errors import joint_covariance
from haloformer.fitting.reallens.evidence import residual
from haloformer.fitting.reallens.masses import UNITS
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.optimise import Fit, covariance
from haloformer.fitting.reallens.perturbers import Detection, Scan
from haloformer.fitting.reallens.sampling import Samples
from haloformer.fitting.reallens.smooth import Prepared
from haloformer.io.tables import made_by
from haloformer.reporting.tabular import Column, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS = 40
_NEAR = 1e-4  # relative, by which parameters are changed for slopes
_UNUSUAL = 3.0  # standard deviations of the prior
_FEW_PIXELS = 5.0  # that an Einstein radius has at least where it is sure to be one
_OFF_MIDDLE = 0.45  # arcsec
_COMPACT = 0.5
"""Pixels, of the source's extent, below which its place and shape make errors larger, and errors are too small all the same: of simulated lenses slopes
and ellipticities are then off by 1 to 8 of them."""
_ALL_ENVELOPE = 4.0
"""Extents of the source, beyond which its correlation says that it is its envelope and nothing else: the envelope's place and shape are then as free
as the lens, and errors 1.3 to 1.6 times as large (galaxies with structure: 1.0 to 1.1)."""
_BETWEEN_RAYS = 0.6  # of the distance of rays, of the source's extent that they still see
_CORRELATED = 0.75
"""χ² per pixel below which noise is not what its map says: simulated lenses with correlated noise have 0.45 to 0.51, with independent noise 0.95 to 1."""
_TIE = (20.0, 0.2)
"""Differences of −2 ln evidence that count as a tie: up to 20, or a fifth of the gain. As much as that depends on the source's grid and the priors of
multipoles, which are not well known."""

Value = Mapping[str, Any]
"""``value``, ``error`` and ``unit`` of a parameter."""


@dataclass(frozen=True)
class Other:
    """Another lens that is nearly as probable.

    Attributes:
        parameters: Their names and values.
        delta_evidence: By how much its −2 ln evidence is above that of the best fit.
    """

    parameters: Mapping[str, float]
    delta_evidence: float


@dataclass(frozen=True, eq=False, repr=False)
class RealLensFit(Tabular):
    """The most probable lens, source and lens light of an image.

    Its table has one row, so that those of many lenses can be stacked (``astropy.table.vstack``).

    Attributes:
        ready: The image and what was made of it.
        smooth: Best fit without a perturber.
        scan: Where a perturber was looked for; None if it was not.
        detection: The most probable perturber; None if none was looked for, or no place had a positive mass.
        multipoles: Best fit with multipoles in place of the perturber; None if none was looked for, or they were free anyway.
        delta_multipoles: By how much −2 ln evidence falls with multipoles, their parameters integrated over.
        profile: Of the perturber.
        seconds: Of CPU time that the fit took.
        samples_smooth: Of the posterior without a perturber; None if it was not sampled.
        samples_perturber: Of that with one; None if it was not sampled, or there is none.
        resumed: Whether parts of it had been done before.
        others: Other smooth lenses that are nearly as probable, which the errors do not hold.
    """

    ready: Prepared
    smooth: Fit
    scan: Scan | None = None
    detection: Detection | None = None
    multipoles: Fit | None = None
    delta_multipoles: float | None = None
    profile: str | None = None
    seconds: float = math.nan
    samples_smooth: Samples | None = None
    samples_perturber: Samples | None = None
    resumed: bool = False
    others: tuple[Other, ...] = ()

    @property
    def seen(self) -> Observation:
        """The image; pixels in the core of the lens's light do not count."""
        return self.ready.seen

    @property
    def best(self) -> Fit:
        """The fit that is shown: with a perturber where one is needed, as the verdict has it."""
        detection = self.detection
        if detection is not None and detection.delta_marginal >= _TIE[0]:
            return detection.fit
        return self.smooth

    @property
    def samples(self) -> Samples | None:
        """Of the posterior of the fit that is shown; None if it was not sampled."""
        return self.samples_smooth if self.best is self.smooth else self.samples_perturber

    @cached_property
    def covariance(self) -> np.ndarray:
        """(K, K) of the mass's parameters, by Laplace's approximation; of a compact source, with its hyper-parameters integrated over."""
        source = self.best.smoothness
        all_envelope = not source.even and source.length > _ALL_ENVELOPE * source.extent
        if all_envelope or self._extent < _COMPACT * self.seen.pixel_scale:
            return joint_covariance(self.best)
        detection = self.detection
        if detection is not None and self.best is detection.fit:
            return detection.covariance
        return covariance(self.smooth)

    @property
    def _extent(self) -> float:
        """Radius in arcsec in which the source's brightness falls; infinite for an even one."""
        return self.best.smoothness.extent * self.best.scale

    @property
    def sky(self) -> dict[str, float]:
        """``ra`` and ``dec`` of the lens's centre in degrees (ICRS); nothing where the image has no WCS."""
        return dict(self.seen.sky(self.best.value("x"), self.best.value("y")))

    @property
    def evidence(self) -> float:
        """−2 ln evidence at the best parameters, their prior among it, but for a constant of the data."""
        return self.best.evidence

    @cached_property
    def residual(self) -> np.ndarray:
        """(H, W) image − model in units of each pixel's noise; NaN where no pixel counts."""
        return self._picture(self._white_residual)

    @cached_property
    def _white_residual(self) -> np.ndarray:
        return residual(self.best.problem, self.best.normal, self.best.solution)

    @cached_property
    def chi2(self) -> float:
        """(image − model)ᵀ C⁻¹ (image − model) with the covariance C of the noise: Σ ((image − model) / noise)² where that of neighbouring pixels is independent."""
        return float(self._white_residual @ self._white_residual)

    @property
    def pixels(self) -> int:
        """How many pixels count."""
        return int(self.seen.mask.sum())

    @cached_property
    def arcs(self) -> np.ndarray:
        """(H, W) the lensed source as the model has it, in the image's unit; NaN where no pixel counts."""
        fit = self.best
        lensed: np.ndarray = self._picture(fit.normal.A @ fit.solution.source) * self.seen.noise
        return lensed

    @cached_property
    def lens_light(self) -> np.ndarray:
        """(H, W) the lens's light and the background as the model has them; NaN where no pixel counts."""
        fit = self.best
        light: np.ndarray = self._picture(fit.problem.light @ fit.solution.light) * self.seen.noise
        return light

    @cached_property
    def source(self) -> tuple[np.ndarray, float]:
        """The source's brightness per image pixel, rows along y, and the size of its pixels in arcsec."""
        picture, scale = self.best.source.picture(self.best.solution.source)
        return picture, scale * self.best.scale

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Why numbers of this fit are not to be trusted; none where they are."""
        found = []
        low, high = self.best.problem.mass.bounds()
        at_limit = (self.best.vector <= low) | (self.best.vector >= high)
        stuck = [n for n, at in zip(self.best.problem.mass.names, at_limit) if at]
        if stuck:
            found.append(f"{', '.join(stuck)} ended at the limit of what is possible")
        if not self.best.converged:
            found.append("the fit has not converged")
        if self.chi2 > 1.5 * self.pixels:
            row, column = np.unravel_index(np.nanargmax(np.abs(self.residual)), self.residual.shape)
            x, y = self.seen.axes()
            noise = "check the noise map"
            if self.seen.noise_measured or np.ptp(self.seen.noise[self.seen.mask]) == 0:
                noise = "give a noise map that knows the photon noise of bright pixels"
            found.append(
                f"χ² is {self.chi2 / self.pixels:.2f} per pixel: the model does not describe the image, worst at x = {x[column]:.2f}″, "
                f"y = {y[row]:.2f}″; mask what is not the lens (a star, a neighbour), or {noise}"
            )
        if self.magnification < 1.5:
            found.append(
                f"the source is magnified {self.magnification:.1f} times only: what was fitted may be no lensed light{self._light_in_words()}"
            )
        return tuple(found)

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """What is to be kept in mind though the fit is good: errors that may be too small, and parameters that few lenses have."""
        found, share = list(filter(None, map(self._told, self.others))), self.chi2 / self.pixels
        if share < _CORRELATED:
            found.append(
                f"χ² is {share:.2f} per pixel: the noise map is larger than the scatter of pixels, as that of correlated noise often is; if so and how "
                "could not be told from the corners, or was said otherwise, and the slope may be off by several of its errors"
            )
        pixel = self.seen.pixel_scale
        spacing = pixel / self.ready.supersampling
        if self._extent < max(_COMPACT * pixel, _BETWEEN_RAYS * spacing):
            closer = f", and rays are {spacing:.3f}″ apart; --supersampling 4 or 5 looks closer"
            found.append(
                f"the source is compact: its light falls within {self._extent:.3f}″, {self._extent / pixel:.2f} pixels, so that other lenses and sources make nearly "
                "the same image: slope, shape and shear may be off by several of their errors"
                + (closer if self._extent < _BETWEEN_RAYS * spacing else "")
            )
        theta_E, wide = self.best.value("theta_E"), _FEW_PIXELS * self.seen.pixel_scale
        if theta_E < wide:
            found.append(
                f"the Einstein radius is {theta_E / self.seen.pixel_scale:.1f} pixels: what is left of the middle of a galaxy that is no lens can look so"
            )
        off = math.hypot(self.best.value("x"), self.best.value("y"))
        if off > _OFF_MIDDLE:
            found.append(
                f"the lens is {off:.2f}″ off the middle of the image, near which it is sought{self._light_in_words()}: if it lies elsewhere, cut the image out about it, or give --start"
            )
        mass = self.best.problem.mass
        for name, value, mean, sd in zip(mass.names, self.best.vector, *mass.expected()):
            if abs(value - mean) > _UNUSUAL * sd and name != "theta_E":
                found.append(
                    f"{name} is {value:.3g}, {abs(value - mean) / sd:.1f} standard deviations from what lenses have ({mean:.3g} ± {sd:.2g}): "
                    "look whether something in the image is neither lens nor arcs"
                )
        return tuple(found)

    def _light_in_words(self) -> str:
        """Returns what was taken for the lens galaxy, if anything was."""
        light = self.ready.light
        if not light.components:
            return ""
        return f" (the light about x = {light.x:.2f}″, y = {light.y:.2f}″ was taken for the lens galaxy's)"

    def _told(self, other: Other) -> str:
        """Returns another lens in words: how probable, and in what it differs; none where all of it is within the errors."""
        spread = self.covariance if self.best is self.smooth else covariance(self.smooth)
        error = np.sqrt(np.diag(spread))
        names = self.smooth.problem.mass.names
        here = {name: self.smooth.value(name) for name in names}
        differs = [
            f"{name} {value:.3g} (here {here[name]:.3g})"
            for name, value in other.parameters.items()
            if abs(value - here[name]) > 2 * error[names.index(name)]
        ]
        if not differs:
            return ""
        return (
            f"another lens is nearly as probable ({other.delta_evidence:.1f} in −2 ln evidence): {', '.join(differs)}; errors are those "
            "of the lens that is shown, and do not hold the other"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed about the data or mended, and what is to be kept in mind."""
        return (*self.seen.notes, *self.cautions)

    @cached_property
    def magnification(self) -> float:
        """Light of the arcs divided by that of the source."""
        picture, scale = self.source
        light = float(np.clip(picture, 0, None).sum()) * (scale / self.seen.pixel_scale) ** 2
        return float(np.nansum(np.clip(self.arcs, 0, None))) / light if light > 0 else 0.0

    @cached_property
    def parameters(self) -> dict[str, Value]:
        """Name → value, error and unit. Errors are None where the fit is flagged."""
        fit, spread = self.best, self.covariance
        names = fit.problem.mass.names
        error = np.sqrt(np.diag(spread))
        found = {
            name: self._value(fit.vector[k], error[k], UNITS.get(name, ""))
            for k, name in enumerate(names)
            if not name.startswith("perturber_")
        }
        found |= self._shapes(dict(zip(names, fit.vector)), names, spread)
        radius, scatter = self._source_radius()
        found["source_radius"] = self._value(radius, scatter, "arcsec")
        samples = self.samples
        if samples is not None and not self.flags:
            found = {name: {**item, **samples.percentiles(name)} for name, item in found.items()}
        return found

    @cached_property
    def perturbers(self) -> list[dict[str, Any]]:
        """The most probable perturber with what speaks for it; none where none is needed."""
        detection = self.detection
        if detection is None or detection.fit is not self.best:
            return []
        fit, mass = detection.fit, detection.fit.problem.mass
        names = mass.names
        k = names.index("perturber_m")
        error = np.sqrt(np.diag(self.covariance))
        m, x, y = (float(fit.vector[k + i]) for i in range(3))
        flagged = bool(self.flags)
        return [
            {
                "x": x,
                "y": y,
                "x_error": None if flagged else float(error[k + 1]),
                "y_error": None if flagged else float(error[k + 2]),
                **self.seen.sky(x, y),
                "mass": mass.solar_masses(m),
                "mass_error": None if flagged else mass.solar_masses(float(error[k])),
                **self._within_1_kpc(),
                "m": m,
                "m_error": None if flagged else float(error[k]),
                "profile": self.profile,
                "delta_evidence": detection.delta_evidence,
                "delta_evidence_marginal": detection.delta_marginal,
                "significance": detection.significance,
                "delta_evidence_multipoles": self.delta_multipoles,
                **self._sampled_perturber(mass.solar_masses(1.0)),
                "verdict": self.verdict,
            }
        ]

    def _within_1_kpc(self) -> dict[str, float | None]:
        """What of the perturber lies within a projected kpc of it, in M_sun, and its error; None without redshifts."""
        mass, vector = self.best.problem.mass, self.best.vector
        found, error = mass.mass_within(1.0, vector), None
        if found is not None and not self.flags:
            slope = np.zeros(len(vector))
            for name in ("perturber_m", "theta_E"):  # which the tidal radius depends on, too
                k = mass.names.index(name)
                moved = vector.copy()
                moved[k] *= 1 + _NEAR
                slope[k] = ((mass.mass_within(1.0, moved) or 0.0) - found) / (_NEAR * vector[k])
            error = float(np.sqrt(slope @ self.covariance @ slope))
        return {"mass_1kpc": found, "mass_1kpc_error": error}

    def _sampled_perturber(self, unit: float | None) -> dict[str, Any]:
        """What nested sampling says of the perturber: percentiles, and by how much −2 ln evidence falls."""
        smooth, both = self.samples_smooth, self.samples_perturber
        if smooth is None or both is None or self.flags:
            return {}
        found: dict[str, Any] = {
            f"{name}_samples": both.percentiles(f"perturber_{name}") for name in ("x", "y", "m")
        }
        if unit is not None:
            found["mass_samples"] = both.percentiles("perturber_m", unit)
        found["delta_evidence_nested"] = smooth.evidence - both.evidence
        found["delta_evidence_nested_error"] = math.hypot(
            smooth.evidence_error, both.evidence_error
        )
        return found

    @property
    def verdict(self) -> str:
        """What the evidence says of a perturber, in words."""
        detection = self.detection
        if self.scan is None:
            return "no perturber was looked for"
        if detection is None or detection.delta_marginal <= 0:
            return "no perturber: the smooth lens is as probable"
        other = self.delta_multipoles
        if detection.delta_marginal < _TIE[0] and (other is None or other < _TIE[0]):
            return f"no perturber is needed: the best one gains {detection.delta_marginal:.1f} in −2 ln evidence, less than {_TIE[0]:g}"
        margin = max(_TIE[0], _TIE[1] * max(detection.delta_marginal, other or 0.0))
        if other is None or other < detection.delta_marginal - margin:
            return "a perturber is more probable than a smooth lens" + (
                "" if other is None else " and than multipoles"
            )
        if other > detection.delta_marginal + margin:
            return "multipoles of the lens explain the image better than a perturber"
        return "a tie: multipoles of the lens explain the image as well as a perturber"

    def to_dict(self) -> dict[str, Any]:
        """Returns what ``fit.json`` holds."""
        return {
            "name": self.seen.name,
            **self.sky,
            "parameters": self.parameters,
            "evidence": self.evidence,
            "evidence_smooth": self.smooth.evidence,
            "chi2": self.chi2,
            "pixels": self.pixels,
            "perturbers": self.perturbers,
            "other_lenses": [
                {"parameters": dict(one.parameters), "delta_evidence": one.delta_evidence}
                for one in self.others
            ],
            "verdict": self.verdict,
            "good_fit": not self.flags,
            "flags": list(self.flags),
            "notes": list(self.notes),
            "source_smoothness": self.best.smoothness.stored(),
            "cpu_seconds": self.seconds,
            **self._about_samples(),
            "provenance": {
                **made_by(),
                "pixel_scale": self.seen.pixel_scale,
                "unit": self.seen.unit,
                "code_version": code_version(),
            },
        }

    def _about_samples(self) -> dict[str, Any]:
        samples = self.samples
        if samples is None:
            return {}
        about = {
            "sampler": "nested",
            "samples": len(samples.values),
            "effective": samples.effective,
            "evaluations": samples.evaluations,
            "evidence": samples.evidence,
            "evidence_error": samples.evidence_error,
            "cpu_seconds": samples.seconds,
        }
        return {"sampling": about}

    def rows(self) -> list[tuple[str, str]]:
        """Returns the table for people: names and values."""
        rows = []
        for name, item in self.parameters.items():
            rows.append((name, _in_words(item)))
        if self.sky:
            rows.append(("RA, Dec", _sky_in_words(self.sky)))
        for k, one in enumerate(self.perturbers):
            label = f"perturber {k + 1}" if len(self.perturbers) > 1 else "perturber"
            if one["mass"] is not None:
                rows.append((f"{label}: mass", _mass_in_words(one)))
                rows.append((f"{label}: within 1 kpc", _mass_in_words(one, "mass_1kpc")))
            place = {"value": one["x"], "error": one["x_error"], "unit": "arcsec"}
            rows.append((f"{label}: x", _in_words(place)))
            place = {"value": one["y"], "error": one["y_error"], "unit": "arcsec"}
            rows.append((f"{label}: y", _in_words(place)))
            if "ra" in one:
                rows.append((f"{label}: RA, Dec", _sky_in_words(one)))
            rows.append((f"{label}: Δ evidence", f"{one['delta_evidence']:.1f}"))
            rows.append((f"{label}: Δ evidence, marginal", f"{one['delta_evidence_marginal']:.1f}"))
            if "delta_evidence_nested" in one:
                gain, error = one["delta_evidence_nested"], one["delta_evidence_nested_error"]
                rows.append((f"{label}: Δ evidence, nested sampling", f"{gain:.1f} ± {error:.1f}"))
        if self.delta_multipoles is not None:
            rows.append(
                ("multipoles instead: Δ evidence, marginal", f"{self.delta_multipoles:.1f}")
            )
        rows.append(("χ² / pixels", f"{self.chi2:.0f} / {self.pixels}"))
        rows.append(("−2 ln evidence", f"{self.evidence:.1f}"))
        return rows

    def columns(self) -> list[Column]:
        """Returns each parameter and its error, places on the sky, the perturber's, and how good the fit is; one row."""
        return columns_of(self)

    def provenance(self) -> dict[str, Any]:
        """Returns the image's name and pixel scale, the verdict on a perturber, and the code version."""
        return {
            "name": self.seen.name,
            "pixel_scale": self.seen.pixel_scale,
            "verdict": self.verdict,
            "notes": "; ".join(self.notes) or None,
            "code_version": code_version(),
        }

    def summary(self) -> str:
        """Returns the main results in one line, and why they are not to be trusted."""
        from haloformer.fitting.reallens.page import headline

        return " ".join(
            [f"{self.seen.name}: {headline(self)}", *(f"Warning: {flag}." for flag in self.flags)]
        )

    def plot(self) -> "Figure":
        """Draws image, lens light subtracted, model, residual, source, and where a perturber helps."""
        from haloformer.fitting.reallens.figures import draw_fit

        return draw_fit(self)

    def save(
        self,
        folder: str | Path,
        overwrite: bool = False,
        format: Literal["lenstronomy", "autolens"] | None = None,
    ) -> Path:
        """Writes fit.json, fit.fits, fit.ecsv, fit.png, fit.html and fit.reg into a new folder, and returns it.

        Args:
            folder: Its name.
            overwrite: Whether an earlier fit there may go.
            format: Also write the model in the words of lenstronomy or PyAutoLens.
        """
        from haloformer.fitting.reallens.saving import save

        return save(self, Path(folder), overwrite=overwrite, format=format)

    def _repr_html_(self) -> str:
        from haloformer.fitting.reallens.page import fragment

        return str(fragment(self))

    def _picture(self, values: np.ndarray) -> np.ndarray:
        """(H, W) of what fitted pixels have in units of their noise, made white."""
        found = np.full(self.seen.mask.shape, np.nan)
        found[self.seen.mask] = self.best.problem.camera.in_pixels(values)
        return found

    def _value(self, value: float, error: float, unit: str) -> Value:
        known = not self.flags and math.isfinite(error)
        return {"value": float(value), "error": float(error) if known else None, "unit": unit}

    def _shapes(
        self, values: Mapping[str, float], names: Sequence[str], spread: np.ndarray
    ) -> dict[str, Value]:
        """Axis ratios and angles, with errors to first order."""
        found = {}
        pairs = {"": ("e1", "e2"), "shear": ("gamma1", "gamma2")}
        for label, pair in pairs.items():
            i, j = (names.index(name) for name in pair)
            u, v = values[pair[0]], values[pair[1]]
            size = max(math.hypot(u, v), 1e-9)
            along = np.array([u, v]) / size
            across = np.array([-v, u]) / (2 * size**2)
            part = spread[np.ix_([i, j], [i, j])]
            size_error = math.sqrt(along @ part @ along)
            angle = math.atan2(v, u) / 2
            angle_error = math.degrees(math.sqrt(across @ part @ across))
            if label:
                found["shear"] = self._value(size, size_error, "")
            else:
                slope = 2 / (1 + size) ** 2
                found["axis_ratio"] = self._value((1 - size) / (1 + size), slope * size_error, "")
            name = f"{label}_angle".lstrip("_")
            found[name] = self._value(math.degrees(angle) % 180, angle_error, "deg from x")
            east = self.seen.east_of_north(angle)
            if east is not None:
                name = f"{label}_position_angle".lstrip("_")
                found[name] = self._value(east, angle_error, "deg East of North")
        return found

    def _source_radius(self) -> tuple[float, float]:
        """The radius of half of the source's light in arcsec, and its scatter among sources that are as probable."""
        fit = self.best
        rng = np.random.default_rng(0)
        n = fit.source.size
        noise = rng.standard_normal((len(fit.solution.factor), _DRAWS))
        away = sl.solve_triangular(fit.solution.factor, noise, lower=True, trans=1)
        draws = fit.solution.source[:, None] + fit.solution.root @ away[:n]
        radii = [_half_light_radius(*fit.source.picture(draws[:, k], 60)) for k in range(_DRAWS)]
        radius = _half_light_radius(*fit.source.picture(fit.solution.source, 60))
        return radius * fit.scale, float(np.std(radii)) * fit.scale


def _half_light_radius(picture: np.ndarray, scale: float) -> float:
    light = np.where(picture > 0.1 * picture.max(), picture, 0.0)
    total = light.sum()
    if total <= 0:
        return math.nan
    y, x = np.indices(light.shape)
    r = np.hypot(x - (light * x).sum() / total, y - (light * y).sum() / total).ravel()
    order = np.argsort(r)
    share = np.cumsum(light.ravel()[order]) / total
    return float(r[order][np.searchsorted(share, 0.5)]) * scale


def _in_words(item: Value) -> str:
    unit = {"arcsec": "″", "deg from x": "° from x", "deg East of North": "° East of North"}
    after = unit.get(item["unit"], f" {item['unit']}" if item["unit"] else "")
    if item["error"] is None:
        return f"{item['value']:.3g}{after} (no error: see the warnings)"
    digits = max(0, 1 - math.floor(math.log10(item["error"]))) if item["error"] > 0 else 4
    text = f"{item['value']:.{digits}f} ± {item['error']:.{digits}f}{after}"
    if "median" not in item:
        return text
    up, down = item["p84"] - item["median"], item["median"] - item["p16"]
    return f"{text}; sampled {item['median']:.{digits}f} +{up:.{digits}f} −{down:.{digits}f}"


def _sky_in_words(place: Mapping[str, Any]) -> str:
    return f"{place['ra']:.6f}°, {place['dec']:+.6f}° (ICRS)"


def _mass_in_words(one: Mapping[str, Any], which: str = "mass") -> str:
    power, error = math.floor(math.log10(one[which])), one[f"{which}_error"]
    spread = "" if error is None else f" ± {error / 10**power:.2f}"
    profile = f", {one['profile']}" if which == "mass" else ""
    return f"({one[which] / 10**power:.2f}{spread}) × 10^{power} M_sun{profile}"
