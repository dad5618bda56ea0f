"""Lenses that the page simulates: a shipped survey with the numbers of its sliders in place of its own."""

import dataclasses
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from haloformer.app.given import number
from haloformer.simulation import Simulator, get_survey, list_surveys
from haloformer.simulation.composed.survey import ComposedSurvey
from haloformer.simulation.distributions import Distribution, LogUniform, PowerLaw, Quantity
from haloformer.simulation.substructure import PointSubhalos, Vortex
from haloformer.simulation.surveys import Survey, get_any_survey
from haloformer.vocabulary import unknown_name

COMPOSED = ("hst", "euclid", "jwst", "roman", "rubin", "model_i_fair")
"""Surveys of components that have sliders."""


@dataclass(frozen=True)
class Lens:
    """A simulated lens and its twin without substructure.

    Attributes:
        survey: Its survey's name.
        image: (H, W) float32 with noise.
        smooth: (H, W) float32, the same without substructure, with the noise of the same draw.
        difference: (H, W) float32, with − without, free of noise.
        noise: The noise mode.
        pixel_scale: In arcsec.
        unit: Of ``image`` and ``smooth``; that of the difference is counts/s.
        told: What was drawn beside what the sliders say, in words.
    """

    survey: str
    image: np.ndarray
    smooth: np.ndarray
    difference: np.ndarray
    noise: str
    pixel_scale: float
    unit: str = "counts/s"
    told: str = ""


def simulate(
    survey: str = "model_i",
    class_name: str = "axion",
    *,
    source_x: float = 0.1,
    source_y: float = 0.0,
    log10_m_axion: float = -23.0,
    vortex_angle: float = 45.0,
    n_subhalos: int = 25,
    slope: float = -0.9,
    exposure: float | None = None,
    noise: str = "original",
    draw: int = 0,
) -> Lens:
    """Draws one lens of a survey with these parameters instead of the survey's own.

    Args:
        survey: Name of a shipped survey.
        class_name: One of its classes.
        source_x: Position of the source in arcsec, within 2.
        source_y: The same.
        log10_m_axion: log10 of the axion mass in eV, −24 … −22; for axion.
        vortex_angle: Angle of the vortex to the x axis in degrees; for axion.
        n_subhalos: 0 … 200; for cdm.
        slope: dN/dm ∝ m^slope of the subhalos; for cdm.
        exposure: Seconds per exposure, 10 … 100,000; the survey's if None.
        noise: ``"original"``, ``"instrument"`` or ``"none"``.
        draw: Seed of noise and subhalos.
    """
    limits = {
        "source_x": (source_x, -2, 2), "source_y": (source_y, -2, 2), "log10_m_axion": (log10_m_axion, -24, -22),
        "vortex_angle": (vortex_angle, -360, 360), "n_subhalos": (n_subhalos, 0, 200), "slope": (slope, -4, 2),
        "exposure": (1e3 if exposure is None else exposure, 10, 1e5), "draw": (draw, 0, 2**31),
    }  # fmt: skip
    for name, (value, low, high) in limits.items():
        number(value, name, low, high)  # a number field may be empty
    if survey not in list_surveys(composed=False):
        raise unknown_name("survey", survey, list_surveys(composed=False))
    recipe = get_survey(survey)
    changed: dict[type, dict[str, Any]] = {
        Vortex: {"log10_m_axion": log10_m_axion, "angle": math.radians(vortex_angle)},
        PointSubhalos: {"number": int(n_subhalos), "mass": _masses(slope)},
    }
    camera = recipe.instrument
    if exposure is not None:
        camera = dataclasses.replace(camera, exposure_time=exposure)
    recipe = dataclasses.replace(
        recipe,
        source=dataclasses.replace(recipe.source, x=float(source_x), y=float(source_y)),
        instrument=camera,
        substructure={
            name: tuple(dataclasses.replace(part, **changed[type(part)]) for part in parts)
            for name, parts in recipe.substructure.items()
        },
    )
    with _RENDERING:
        noisy, plain = (_images(recipe, class_name, kind, int(draw)) for kind in (noise, "none"))
    unit = str(Simulator(recipe, noise=noise).attributes["image_unit"])
    return Lens(survey, *noisy, plain[0] - plain[1], noise, recipe.instrument.pixel_scale, unit)


_RENDERING = threading.Lock()  # the compiled kernel is built once, on first use


def _images(
    recipe: Survey, class_name: str, noise: str, draw: int
) -> tuple[np.ndarray, np.ndarray]:
    simulator = Simulator(recipe, classes=[class_name], seed=draw, noise=noise)
    scenes = simulator.scenes([0])
    return simulator.images(scenes)[0].numpy(), simulator.images(scenes.without_substructure())[
        0
    ].numpy()


def compose(
    survey: str = "hst",
    class_name: str = "cdm",
    *,
    theta_E: float = 1.2,
    gamma: float = 2.08,
    shear: float = 0.05,
    shear_angle: float = 45.0,
    multipoles: float = 1.0,
    snr: float = 20.0,
    log10_Sigma_sub: float = -1.0,
    log10_m_axion: float = -23.0,
    vortex_angle: float = 45.0,
    n_subhalos: int = 25,
    slope: float = -0.9,
    noise: str = "original",
    draw: int = 0,
) -> Lens:
    """Draws one lens of a survey of components, and the same lens without substructure.

    What is not given here is drawn from the survey's own distributions: the source, the lens's
    ellipticity, the redshifts, each halo. What does not apply to a survey or class changes nothing.

    Args:
        survey: One of `COMPOSED`.
        class_name: One of its classes.
        theta_E: Einstein radius in arcsec, 0.3 … 2.
        gamma: Slope of the lens's mass, 1.5 … 2.6; 2 is isothermal.
        shear: Size of the external shear, 0 … 0.3.
        shear_angle: Direction that it stretches images along, in degrees from the x axis.
        multipoles: Multiplies the lens's multipoles, 0 … 4; 1 is as real lenses have them.
        snr: Signal to noise of the brightest pixel of the arcs, 1 … 200.
        log10_Sigma_sub: log10 of the normalisation of the mass function of halos in 1/kpc²,
            −3 … −0.3; for cdm.
        log10_m_axion: log10 of the axion mass in eV, −24 … −21.5; for axion.
        vortex_angle: Angle of a vortex to the x axis in degrees; for axion.
        n_subhalos: Number of point masses, 0 … 200; for cdm.
        slope: dN/dm ∝ m^slope of the point masses; for cdm.
        noise: ``"original"``, ``"instrument"`` or ``"none"``.
        draw: Seed of all that is drawn.
    """
    limits = {
        "theta_E": (theta_E, 0.3, 2), "gamma": (gamma, 1.5, 2.6), "shear": (shear, 0, 0.3),
        "shear_angle": (shear_angle, -360, 360), "multipoles": (multipoles, 0, 4), "snr": (snr, 1, 200),
        "log10_Sigma_sub": (log10_Sigma_sub, -3, -0.3), "log10_m_axion": (log10_m_axion, -24, -21.5),
        "vortex_angle": (vortex_angle, -360, 360), "n_subhalos": (n_subhalos, 0, 200), "slope": (slope, -4, 2),
        "draw": (draw, 0, 2**31),
    }  # fmt: skip
    for name, (value, low, high) in limits.items():
        number(value, name, low, high)
    if survey not in COMPOSED:
        raise unknown_name("survey", survey, COMPOSED)
    recipe = get_any_survey(survey)
    assert isinstance(recipe, ComposedSurvey)  # as all of these are
    given: dict[str, dict[str, Any]] = {
        "epl": {"theta_E": float(theta_E), "gamma": float(gamma)},
        "shear": {"gamma1": None, "gamma2": None, "gamma": float(shear), "angle": math.radians(shear_angle)},
        "multipoles": {"amplitude": float(multipoles)},
        "tnfw": {"Sigma_sub": 10.0**log10_Sigma_sub},
        "granules": {"log10_m_axion": float(log10_m_axion)},
        "vortex": {"log10_m_axion": float(log10_m_axion), "angle": math.radians(vortex_angle)},
        "point_masses": {"number": int(n_subhalos), "mass": _masses(slope)},
    }  # fmt: skip
    recipe = dataclasses.replace(
        recipe,
        lens=_with(recipe.lens, given),
        source=dataclasses.replace(recipe.source, flux=None, snr=float(snr)),
        substructure={name: _with(parts, given) for name, parts in recipe.substructure.items()},
    )
    return _paired(recipe, class_name, noise, int(draw))


def _with(parts: tuple[Any, ...], given: Mapping[str, dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(dataclasses.replace(part, **given.get(part.kind, {})) for part in parts)


def _masses(slope: float) -> Distribution:
    """Returns the distribution of point masses; slopes of −1 need the logarithm."""
    return LogUniform(1e6, 1e10) if abs(slope + 1) < 1e-6 else PowerLaw(1e6, 1e10, slope)


def _paired(recipe: ComposedSurvey, class_name: str, noise: str, draw: int) -> Lens:
    """Returns a lens and the one of the same number without substructure."""
    smooth = "no_sub"
    classes = list(dict.fromkeys([class_name, smooth]))
    with _RENDERING:
        simulators = [
            Simulator(recipe, classes=classes, seed=draw, noise=kind, paired=True)
            for kind in (noise, "none")
        ]
        # The first image of each class; there is one alone where nothing is to be compared.
        noisy, plain = (simulator.batch(range(len(classes))) for simulator in simulators)
    row = noisy.class_names.index(class_name)
    other = noisy.class_names.index(smooth)
    images, free = noisy.images[:, 0].numpy(), plain.images[:, 0].numpy()
    return Lens(
        recipe.name,
        images[row],
        images[other],
        free[row] - free[other],
        noise,
        recipe.instrument.pixel_scale,
        str(noisy.attributes["image_unit"]),
        _drawn(noisy.parameters, row),
    )


def _drawn(parameters: Mapping[str, np.ndarray], row: int) -> str:
    """Returns what was drawn, in words."""
    parts = [f"z = {parameters['z_lens'][row]:.2f} and {parameters['z_source'][row]:.2f}"]
    masses = parameters.get("tnfw_mass")
    if masses is not None and (n := int(np.isfinite(masses[row]).sum())):
        parts.append(f"{n} halos of 10⁸ to 10¹⁰ M☉ within 3″")
    return ", ".join(parts)


def dials_of(survey: str, class_name: str) -> set[str]:
    """Returns the names of the arguments of `compose` or `simulate` that change this lens."""
    common = {"noise", "draw"}
    if survey not in COMPOSED:
        own = {"axion": {"log10_m_axion", "vortex_angle"}, "cdm": {"n_subhalos", "slope"}}
        return common | {"source_x", "source_y", "exposure"} | own.get(class_name, set())
    recipe = get_any_survey(survey)
    assert isinstance(recipe, ComposedSurvey)  # as all of these are
    kinds = {part.kind for part in (*recipe.lens, *recipe.substructure.get(class_name, ()))}
    found = common | {"snr"}
    for kind in kinds:
        found |= _DIALS.get(kind, set())
    return found


_DIALS = {
    "epl": {"theta_E", "gamma"},
    "shear": {"shear", "shear_angle"},
    "multipoles": {"multipoles"},
    "tnfw": {"log10_Sigma_sub"},
    "granules": {"log10_m_axion"},
    "vortex": {"log10_m_axion", "vortex_angle"},
    "point_masses": {"n_subhalos", "slope"},
}
"""Kind of a component → arguments of `compose` that change it."""


def usual_dials(survey: str) -> dict[str, float]:
    """Returns where sliders begin for a survey: the medians of its own distributions."""
    if survey not in COMPOSED:
        return {"exposure": usual_exposure(survey)}
    recipe = get_any_survey(survey)
    assert isinstance(recipe, ComposedSurvey)  # as all of these are
    lens: Any = recipe.lens[0]
    found = {"theta_E": _median(lens.theta_E), "gamma": _median(lens.gamma)}
    found["snr"] = 20.0 if recipe.source.snr is None else _median(recipe.source.snr)
    return found


def _median(quantity: Quantity) -> float:
    if isinstance(quantity, Distribution):
        return float(quantity.quantile(np.array(0.5)))
    return float(quantity)


def usual_exposure(survey: str) -> float:
    """Returns a survey's exposure time in s; of a distribution, its median."""
    return _median(get_survey(survey).instrument.exposure_time)
