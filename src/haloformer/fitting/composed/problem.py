"""What is fitted of a composed survey's smooth lenses: free parameters, their priors and bounds, all from the survey's definition."""

import dataclasses
import functools
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.composed.names import FLUX, LENS, LOGARITHMIC, MULTIPOLES, NAMES, SECONDS
from haloformer.simulation.components import LensLight, Sersic
from haloformer.simulation.components.component import LightComponent
from haloformer.simulation.composed import ComposedSurvey, draw_scenes
from haloformer.simulation.composed.survey import source_prefix
from haloformer.simulation.distributions import LogNormal, Normal, TruncatedNormal
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.surveys import describe_survey, get_any_survey
from haloformer.vocabulary import unknown_name

DRAWS = 4096
"""Of each parameter, from which priors and bounds follow; the first of them are where fits may begin."""

_KINDS = ("epl", "shear", "multipoles")
_SEED = 2**62  # apart: starting points shall not be the truth of anybody's images
LEAST_SIDE = 16  # pixels; half of it is fitted first

# Standard deviations of what a survey holds fixed, where the detail of a residual is asked for: what real lenses have.
_NUISANCE = {
    "lens_theta_E": 0.25, "lens_gamma": 0.2, "lens_e1": 0.2, "lens_e2": 0.2, "lens_x": 0.1, "lens_y": 0.1, "gamma1": 0.1,
    "gamma2": 0.1, **dict(zip(MULTIPOLES, (0.005, 0.005, 0.005, 0.005, 0.01, 0.003))),
}  # fmt: skip

_STEPS = {"lens_theta_E": 0.15, "lens_gamma": 0.2, "lens_x": 0.05, "lens_y": 0.05, "gamma1": 0.05, "gamma2": 0.05, "lens_e1": 0.1,
          "lens_e2": 0.1, "source_x": 0.1, "source_y": 0.1, "source_R_sersic": 0.5, "source_n_sersic": 0.5, "source_e1": 0.25, "source_e2": 0.25,
          "source_flux": 2.0, "exposure_time": 0.5, **dict.fromkeys(MULTIPOLES, 0.02)}  # fmt: skip
"""Largest steps, of what is fitted."""

_LEAST = {"lens_gamma": 1.2, "source_R_sersic": math.log(0.01), "source_n_sersic": math.log(0.3)}
_MOST = {"lens_gamma": 2.8, "source_R_sersic": math.log(3.0), "source_n_sersic": math.log(6.0)}

_STRUCTURED = {
    "source_R_sersic": (math.log(0.03), math.log(1.5)),
    "source_n_sersic": (math.log(0.3), math.log(2.5)),
}
"""Bounds for sources that are no Sérsic profiles: a cusp that stands for a clump would be narrower than the rays."""


@dataclass(frozen=True)
class ComposedProblem:
    """The fit of one composed survey's smooth lenses.

    Attributes:
        survey: The survey.
        noise: Kind of noise: ``"instrument"`` or ``"double_poisson"``; that of the camera if the images have none.
        names: The P free parameters.
        free: (P,) their numbers among ``NAMES``.
        prior: (5, 22) of what is fitted (logarithms of positive parameters): mean, inverse variance (0: flat), lower and upper bounds,
            largest steps.
        loose: (14,) inverse variances of the lens's parameters where they are fixed, for the detail.
        draws: (n, 22) of what is fitted, from the survey; the flux is 1 where it follows from the images.
        linear: Whether the flux is solved for: the noise is Gaussian, and no prior holds it.
        exposures: Number of exposures that are added.
        seconds: Total exposure where it is not fitted.
        background: Variance of the background in (counts/s)² per pixel.
        correlation: Mean ``a`` of :mod:`haloformer.simulation.correlation`.
        scaling: How the images were scaled before they were released, one of :data:`~haloformer.simulation.composed.survey.Scaling`.
    """

    survey: ComposedSurvey
    noise: str
    names: tuple[str, ...]
    free: np.ndarray
    prior: np.ndarray
    loose: np.ndarray
    draws: np.ndarray
    linear: bool
    exposures: int
    seconds: float
    background: float
    correlation: float
    scaling: str = "none"

    @classmethod
    def of_survey(
        cls, survey: ComposedSurvey, *, noise: str = "original", exposure_known: bool = False
    ) -> "ComposedProblem":
        """Defines the fit of a survey.

        Args:
            survey: The survey.
            noise: ``"original"``, ``"instrument"`` or ``"none"``.
            exposure_known: The exposure times will be given with the images.

        Raises:
            InputError: The fit does not know something of this survey.
        """
        if noise not in NOISE_MODES:
            raise unknown_name("noise mode", noise, NOISE_MODES)
        _check(survey, noise)
        # Without substructure, which may be of components that no file can name.
        smooth = dataclasses.replace(survey, substructure={"no_sub": ()})
        drawn = _draws(json.dumps(describe_survey(smooth)))
        kind = survey.noise_kind(noise)
        counts = kind == "double_poisson"
        values = {name: drawn[name] for name in NAMES}
        free = [name for name in NAMES if np.ptp(values[name]) > 1e-12 or name == "source_flux"]
        if not counts or exposure_known:
            free = [name for name in free if name != "exposure_time"]
        logs = {
            name: np.log(v) if name in LOGARITHMIC else v for name, v in values.items()
        }  # fmt: skip
        columns = np.stack([logs[name] for name in NAMES], axis=1)
        prior = np.zeros((5, len(NAMES)))
        gaussian = _gaussian_names(survey)
        for number, name in enumerate(NAMES):
            prior[:, number] = _prior(name, columns[:, number], name in gaussian)
            if not has_sersic(survey) and name in _STRUCTURED:
                prior[2:4, number] = _STRUCTURED[name]
        flux = NAMES.index("source_flux")
        scaling = survey.scaling(noise)
        if survey.source.flux is None or scaling != "none":
            prior[:4, flux] = 0.0, 0.0, -60.0, 60.0
        camera = survey.instrument
        exposures = camera.num_exposures
        return cls(
            survey=survey,
            noise=kind if counts else "instrument",
            names=tuple(free),
            free=np.array([NAMES.index(name) for name in free]),
            prior=prior,
            loose=np.array([_NUISANCE[NAMES[k]] ** -2.0 for k in LENS]),
            draws=columns,
            linear=not counts and prior[1, flux] == 0,
            exposures=exposures,
            seconds=float(np.exp(np.log(values["exposure_time"]).mean())) * exposures,
            background=background_rms(camera) ** 2,
            correlation=float(drawn["correlation"].mean()) if kind == "instrument" else 0.0,
            scaling=scaling,
        )

    @property
    def log_flux(self) -> float:
        """Mean logarithm of what the survey's sources have in counts/s."""
        return float(self.draws[:, NAMES.index("source_flux")].mean())

    @property
    def subtracted(self) -> LensLight | None:
        """The light of the lens galaxy whose subtraction left noise and a mask; None where there is none."""
        light = self.survey.lens_light
        is_there = isinstance(light, LensLight) and light.mode == "subtracted"
        return light if is_there else None  # type: ignore[return-value]  # the check above

    def without_shape(self) -> "ComposedProblem":
        """Returns the same of which flux and exposure alone are free: what a fit has left is known without the derivatives by the others."""
        kept = [k for k, number in enumerate(self.free) if number in (FLUX, SECONDS)]
        return dataclasses.replace(
            self, names=tuple(self.names[k] for k in kept), free=self.free[kept]
        )

    def with_free_place(self, reach: float, free_place: Collection[str]) -> "ComposedProblem":
        """Returns the same for lenses whose centre may lie anywhere within ``reach`` arcsec of the survey's, along ``place_x`` and ``place_y``."""
        prior, names = self.prior.copy(), list(self.names)
        for axis in ("x", "y"):
            if f"place_{axis}" not in free_place:
                continue
            lens, source = f"lens_{axis}", f"source_{axis}"
            k, j = NAMES.index(lens), NAMES.index(source)
            prior[1, k] = 0.0
            prior[2:4, k] = prior[0, k] - reach, prior[0, k] + reach
            prior[2, j] -= reach
            prior[3, j] += reach
            prior[4, [k, j]] = 0.15
            names += [name for name in (lens, source) if name not in names]
        names.sort(key=NAMES.index)
        free = np.array([NAMES.index(name) for name in names])
        return dataclasses.replace(self, prior=prior, names=tuple(names), free=free)


def _check(survey: ComposedSurvey, noise: str) -> None:
    """Raises InputError if the fit does not know something of a survey."""
    if survey.bands:
        raise InputError(
            f"survey {survey.name} has bands {', '.join(survey.bands)}: the smooth fit is of images of one band"
        )
    if survey.scaling(noise) != "none" and (
        survey.source.snr is not None or survey.noise_kind(noise) != "instrument"
    ):
        raise InputError(
            f"survey {survey.name}: its images are scaled ({survey.scaled}), and their sources are of no known brightness, so that their noise is not known: the smooth fit needs noise: instrument"
        )
    for part in survey.lens:
        if part.kind not in _KINDS:
            raise InputError(
                f"survey {survey.name}: the smooth fit does not know {part.kind} as part of a lens: {', '.join(_KINDS)}"
            )
    if survey.lens_of_class:
        raise InputError(
            f"survey {survey.name}: its classes have different lenses, so that there is no smooth lens of the survey"
        )
    light = survey.lens_light
    if light is not None and light.mode == "present":
        raise InputError(
            f"survey {survey.name}: lens_light is present in the images: the smooth fit needs it subtracted, or none"
        )


@functools.lru_cache(maxsize=8)
def _draws(description: str) -> dict[str, np.ndarray]:
    """Draws (n,) of ``NAMES`` and of the noise's ``correlation`` from a survey without substructure."""
    survey = get_any_survey(json.loads(description))
    assert isinstance(survey, ComposedSurvey)
    zeros, index = np.zeros(DRAWS, np.int64), np.arange(DRAWS)
    drawn = draw_scenes(survey, zeros, index, _SEED, ("no_sub",)).parameters
    found = as_named(survey, drawn)
    if not has_sersic(survey):
        found |= _structured(found)
    found["source_flux"] = np.where(np.isfinite(found["source_flux"]), found["source_flux"], 1.0)
    found["correlation"] = drawn.get("noise_correlation", np.zeros(DRAWS))
    return found


def has_sersic(survey: ComposedSurvey) -> bool:
    """Returns whether a survey's sources are what is fitted: one Sérsic profile each."""
    return [type(part) for part in survey.source.light] == [Sersic]


def as_named(survey: ComposedSurvey, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the parameters (B,) of a survey's images by the names of what is fitted; of sources that are no Sérsic profile, the nearest.

    Args:
        survey: The survey.
        parameters: As they travel with the images.
    """
    count = len(parameters["lens_theta_E"])
    found = {name: parameters.get(name, np.zeros(count)) for name in NAMES}
    light: LightComponent = survey.source.light[0]
    own = source_prefix(0, light)
    if has_sersic(survey):
        found |= {f"source_{k}": parameters[own + k] for k in ("e1", "e2", "R_sersic", "n_sersic")}
        return found | {
            f"source_{k}": found[f"source_{k}"] + parameters[own + k] for k in ("x", "y")
        }
    sizes = [parameters[own + k] for k in ("R", "R_sersic") if own + k in parameters]
    found["source_R_sersic"] = sizes[0] if sizes else np.full(count, 0.2)
    found["source_n_sersic"] = parameters.get(f"{own}n_sersic", np.ones(count))
    if f"{own}q" in parameters:
        q, twice = parameters[f"{own}q"], 2 * parameters[f"{own}angle"]
        size = (1 - q) / (1 + q)
        return found | {"source_e1": size * np.cos(twice), "source_e2": size * np.sin(twice)}
    return found | {f"source_{k}": parameters.get(own + k, np.zeros(count)) for k in ("e1", "e2")}


def _structured(drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Widens draws: structure makes a galaxy look larger or smaller, steeper or flatter, and less round than its disc."""
    rng = np.random.default_rng(_SEED)
    spread = {"source_R_sersic": 0.3, "source_n_sersic": 0.3}
    found = {k: drawn[k] * np.exp(rng.normal(0, size, DRAWS)) for k, size in spread.items()}
    for name in ("source_e1", "source_e2"):
        round_ = np.ptp(drawn[name]) == 0
        found[name] = drawn[name] + rng.normal(0, 0.2 if round_ else 0.1, DRAWS)
    return found


def _gaussian_names(survey: ComposedSurvey) -> set[str]:
    """Returns the parameters whose draws are Gaussian, in what is fitted, and so have a prior; others are flat within bounds."""
    bell = (Normal, TruncatedNormal, LogNormal)
    found = set(MULTIPOLES)
    lens, source = survey.lens[0], survey.source
    found |= {f"lens_{k}" for k in ("gamma", "e1", "e2", "x", "y") if isinstance(getattr(lens, k, 0), bell)}  # fmt: skip
    if any(isinstance(getattr(lens, k, None), bell) for k in ("theta_E", "mass", "sigma_v")):
        found.add("lens_theta_E")
    for part in survey.lens[1:]:
        found |= {k for k in ("gamma1", "gamma2") if isinstance(getattr(part, k, None), bell)}
    if isinstance(source.flux, bell):
        found.add("source_flux")
    found |= {f"source_{k}" for k in ("x", "y") if isinstance(getattr(source, k), bell)}
    if isinstance(survey.instrument.exposure_time, bell):
        found.add("exposure_time")
    light = source.light[0]
    names = ("R_sersic", "n_sersic", "e1", "e2")
    if not has_sersic(survey):
        return found | {f"source_{k}" for k in names}
    return found | {f"source_{k}" for k in names if isinstance(getattr(light, k), bell)}


def _prior(name: str, values: np.ndarray, gaussian: bool) -> tuple[float, ...]:
    """Returns mean, inverse variance, bounds and largest step of what is fitted, of its draws (n,)."""
    mean, spread = float(values.mean()), float(values.std())
    wide = float(np.ptp(values))
    if spread <= 1e-12:
        return mean, 0.0, mean, mean, _STEPS[name]
    if gaussian:
        low, high = mean - 6 * spread, mean + 6 * spread
    else:
        # Beyond what is drawn, as an estimate may be
        beyond = 0.25 * wide + (1.0 if name == "exposure_time" else 0.1)
        low, high = float(values.min()) - beyond, float(values.max()) + beyond
    low, high = max(low, _LEAST.get(name, low)), min(high, _MOST.get(name, high))
    return mean, (spread**-2 if gaussian else 0.0), low, high, _STEPS[name]
