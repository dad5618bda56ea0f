"""Scenes: draws of a survey's parameters for a batch of images, before any pixel is made."""

from dataclasses import dataclass, fields, replace

import numpy as np

from haloformer.simulation import rng
from haloformer.simulation.distributions import Quantity, check_members, draw
from haloformer.simulation.instruments import magnitude_to_counts
from haloformer.simulation.sources import sersic_flux
from haloformer.simulation.substructure import PointSubhalos, Vortex, vortex_half_length
from haloformer.simulation.surveys import Survey

UNITS: dict[str, str] = {
    "source_x": "arcsec",
    "source_y": "arcsec",
    "source_R_sersic": "arcsec",
    "source_n_sersic": "",
    "source_e1": "",
    "source_e2": "",
    "source_amp": "counts/s/arcsec^2",
    "lens_theta_E": "arcsec",
    "lens_e1": "",
    "lens_e2": "",
    "lens_x": "arcsec",
    "lens_y": "arcsec",
    "gamma1": "",
    "gamma2": "",
    "exposure_time": "s",
    "log10_m_axion": "log10(eV)",
    "vortex_mass": "M_sun",
    "vortex_angle": "rad",
    "vortex_half_length": "arcsec",
    "vortex_x": "arcsec",
    "vortex_y": "arcsec",
    "subhalo_mass": "M_sun",
    "subhalo_x": "arcsec",
    "subhalo_y": "arcsec",
    "seed": "",
    "index": "",
}
"""Unit of every parameter that travels with an image. Einstein radii are the lens's own, before the survey's deflection scale."""


SUBSTRUCTURE_PARAMETERS = (
    "log10_m_axion",
    *(name for name in UNITS if name.startswith(("vortex_", "subhalo_"))),
)


@dataclass
class Scenes:
    """Everything that fixes a batch of noise-free images, one array per parameter; NaN where a parameter does not apply.

    Attributes:
        label: (B,) int64, the class as an index into the class names.
        index: (B,) int64, the image's number within its class.
        noise_word: (B,) uint64, from which the noise is drawn.
        source_x: (B,) and so on for all parameters of :data:`UNITS`; ``subhalo_*`` are (B, n_max).
        vortex_theta_E: (B,) Einstein radius of *each* of the vortex's masses, arcsec.
        vortex_n_masses: (B,) int64, 0 without a vortex.
        subhalo_theta_E: (B, n_max) arcsec, 0 for a subhalo that is not there.
    """

    label: np.ndarray
    index: np.ndarray
    noise_word: np.ndarray
    source_x: np.ndarray
    source_y: np.ndarray
    source_R_sersic: np.ndarray
    source_n_sersic: np.ndarray
    source_e1: np.ndarray
    source_e2: np.ndarray
    source_amp: np.ndarray
    lens_theta_E: np.ndarray
    lens_e1: np.ndarray
    lens_e2: np.ndarray
    lens_x: np.ndarray
    lens_y: np.ndarray
    gamma1: np.ndarray
    gamma2: np.ndarray
    exposure_time: np.ndarray
    log10_m_axion: np.ndarray
    vortex_mass: np.ndarray
    vortex_angle: np.ndarray
    vortex_half_length: np.ndarray
    vortex_x: np.ndarray
    vortex_y: np.ndarray
    vortex_theta_E: np.ndarray
    vortex_n_masses: np.ndarray
    subhalo_mass: np.ndarray
    subhalo_x: np.ndarray
    subhalo_y: np.ndarray
    subhalo_theta_E: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, which: slice | np.ndarray) -> "Scenes":
        """The scenes at these positions."""
        return Scenes(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def without_substructure(self) -> "Scenes":
        """The same sources behind the same smooth lenses, with the same noise words, but no vortex and no subhalos."""
        gone = {name: np.full_like(getattr(self, name), np.nan) for name in SUBSTRUCTURE_PARAMETERS}
        for name in ("vortex_theta_E", "vortex_n_masses", "subhalo_theta_E"):
            gone[name] = np.zeros_like(getattr(self, name))
        return replace(self, **gone)

    def parameters(self, seed: int) -> dict[str, np.ndarray]:
        """The parameters that travel with the images, by the names of :data:`UNITS`."""
        named = {name: getattr(self, name) for name in UNITS if name != "seed"}
        return {**named, "seed": np.full(len(self), seed, dtype=np.int64)}


@dataclass(frozen=True)
class _Images:
    """Images whose parameters are drawn; a draw depends on survey, class, seed, number and the parameter's name alone.

    Attributes:
        seed: The dataset's seed.
        label: (B,) classes as indices into the class names.
        stream: (B,) what survey and class stand for in the random numbers.
        index: (B,) numbers of the images within their class.
    """

    seed: int
    label: np.ndarray
    stream: np.ndarray
    index: np.ndarray

    def draw(
        self, quantity: Quantity, name: str, rows: np.ndarray | slice = slice(None), size: int = 1
    ) -> np.ndarray:
        """Draws a parameter of some of the images: (rows,), or (rows, size) for several values of each."""
        n_rows = len(self.stream[rows])
        shape = (n_rows,) if size == 1 else (n_rows, size)
        return draw(quantity, lambda: self.uniform(name, rows, size), shape)

    def uniform(self, name: str, rows: np.ndarray | slice, size: int) -> np.ndarray:
        """Draws uniformly between 0 and 1."""
        return rng.uniform(self.seed, self.stream[rows], self.index[rows], name, size)


def draw_scenes(
    survey: Survey, labels: np.ndarray, index: np.ndarray, seed: int, class_names: tuple[str, ...]
) -> Scenes:
    """Draws the parameters of images.

    Args:
        survey: The recipe.
        labels: (B,) classes as indices into ``class_names``.
        index: (B,) numbers of the images within their class.
        seed: The dataset's seed.
        class_names: Classes of the survey, in the order of the labels.

    Returns:
        The scenes. Those of one (survey, class, seed, index) are always the same.
    """
    labels, index = np.asarray(labels, dtype=np.int64), np.asarray(index, dtype=np.int64)
    words = np.array(
        [rng.name_word(f"{survey.name}/{name}") for name in class_names], dtype=np.uint64
    )
    images = _Images(seed, labels, words[labels], index)
    return Scenes(
        label=labels,
        index=index,
        noise_word=rng.noise_words(seed, images.stream, index),
        exposure_time=images.draw(survey.instrument.exposure_time, "exposure_time"),
        **_draw_source(survey, images),
        **_draw_lens(survey, images),
        **_draw_vortices(survey, images, class_names),
        **_draw_subhalos(survey, images, class_names),
    )


def _draw_source(survey: Survey, images: _Images) -> dict[str, np.ndarray]:
    """Draws the source's parameters; a magnitude becomes the surface brightness ``amp``."""
    source = survey.source
    names = ("x", "y", "R_sersic", "n_sersic", "e1", "e2")
    drawn = {
        f"source_{name}": images.draw(getattr(source, name), f"source_{name}") for name in names
    }
    if source.amp is not None:
        return {**drawn, "source_amp": images.draw(source.amp, "source_amp")}
    zero_point = survey.instrument.magnitude_zero_point
    assert source.magnitude is not None  # Survey checks it
    assert zero_point is not None
    counts = magnitude_to_counts(images.draw(source.magnitude, "source_magnitude"), zero_point)
    flux = sersic_flux(drawn["source_R_sersic"], drawn["source_n_sersic"])
    return {**drawn, "source_amp": np.asarray(counts / flux)}


def _draw_lens(survey: Survey, images: _Images) -> dict[str, np.ndarray]:
    """Draws the smooth lens's parameters; a mass becomes the Einstein radius ``theta_E``."""
    lens = survey.deflector
    if lens.theta_E is not None:
        theta_E = images.draw(lens.theta_E, "lens_theta_E")
    else:
        assert lens.mass is not None  # Survey checks it
        theta_E = survey.theta_E(images.draw(lens.mass, "lens_mass"))
    return {
        "lens_theta_E": theta_E,
        "lens_e1": images.draw(lens.e1, "lens_e1"),
        "lens_e2": images.draw(lens.e2, "lens_e2"),
        "lens_x": images.draw(lens.x, "lens_x"),
        "lens_y": images.draw(lens.y, "lens_y"),
        "gamma1": images.draw(lens.gamma1, "gamma1"),
        "gamma2": images.draw(lens.gamma2, "gamma2"),
    }


def _draw_vortices(
    survey: Survey, images: _Images, class_names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Draws the vortices of the classes that have one."""
    count = len(images.label)
    names = ("log10_m_axion", "mass", "angle", "x", "y", "half_length")
    drawn = {name: np.full(count, np.nan) for name in names}
    theta_E, n_masses = np.zeros(count), np.zeros(count, dtype=np.int64)
    for label, class_name in enumerate(class_names):
        rows = np.flatnonzero(images.label == label)
        for part in survey.substructure[class_name]:
            if not isinstance(part, Vortex) or not len(rows):
                continue
            for name in ("log10_m_axion", "mass", "angle", "x", "y"):
                drawn[name][rows] = images.draw(getattr(part, name), f"vortex_{name}", rows)
            drawn["half_length"][rows] = vortex_half_length(drawn["log10_m_axion"][rows])
            theta_E[rows] = survey.theta_E(drawn["mass"][rows] / part.n_masses)
            n_masses[rows] = part.n_masses
    log10_m_axion = drawn.pop("log10_m_axion")
    return {
        "log10_m_axion": log10_m_axion,
        **{f"vortex_{name}": values for name, values in drawn.items()},
        "vortex_theta_E": theta_E,
        "vortex_n_masses": n_masses,
    }


def _draw_subhalos(
    survey: Survey, images: _Images, class_names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Draws the subhalos of the classes that have some; as many columns as the class with most of them."""
    found = [
        (label, part)
        for label, name in enumerate(class_names)
        for part in survey.substructure[name]
        if isinstance(part, PointSubhalos)
    ]
    shape = (len(images.label), max((part.number for _, part in found), default=0))
    check_members(*shape, "point_subhalos")
    drawn = {name: np.full(shape, np.nan) for name in ("mass", "x", "y")}
    theta_E = np.zeros(shape)
    for label, part in found:
        rows = np.flatnonzero(images.label == label)
        if not len(rows) or not part.number:
            continue
        each, within = (len(rows), part.number), slice(0, part.number)
        radius = images.draw(part.radius, "subhalo_radius", rows, part.number).reshape(each)
        mass = images.draw(part.mass, "subhalo_mass", rows, part.number).reshape(each)
        angle = 2 * np.pi * images.uniform("subhalo_angle", rows, part.number)
        drawn["mass"][rows, within] = mass
        drawn["x"][rows, within] = radius * np.sin(angle)
        drawn["y"][rows, within] = radius * np.cos(angle)
        theta_E[rows, within] = survey.theta_E(mass)
    return {
        **{f"subhalo_{name}": values for name, values in drawn.items()},
        "subhalo_theta_E": theta_E,
    }
