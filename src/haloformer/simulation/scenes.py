"""Scenes: draws of a survey's parameters for a batch of images, before any pixel is made."""

from dataclasses import dataclass, fields, replace

import numpy as np

from haloformer.simulation import rng
from haloformer.simulation.distributions import Quantity, draw
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
    stream = words[labels]
    count = len(labels)

    def sample(
        quantity: Quantity, name: str, rows: np.ndarray | slice = slice(None), size: int = 1
    ) -> np.ndarray:
        chosen = stream[rows]
        shape = (len(chosen),) if size == 1 else (len(chosen), size)
        return draw(quantity, lambda: rng.uniform(seed, chosen, index[rows], name, size), shape)

    source, lens, instrument = survey.source, survey.deflector, survey.instrument
    R_sersic, n_sersic = (
        sample(source.R_sersic, "source_R_sersic"),
        sample(source.n_sersic, "source_n_sersic"),
    )
    if source.amp is not None:
        amp = sample(source.amp, "source_amp")
    else:
        assert source.magnitude is not None  # Survey checks it
        assert instrument.magnitude_zero_point is not None
        counts = magnitude_to_counts(
            sample(source.magnitude, "source_magnitude"), instrument.magnitude_zero_point
        )
        amp = np.asarray(counts / sersic_flux(R_sersic, n_sersic))
    if lens.theta_E is not None:
        theta_E = sample(lens.theta_E, "lens_theta_E")
    else:
        assert lens.mass is not None
        theta_E = survey.theta_E(sample(lens.mass, "lens_mass"))

    vortex = {
        name: np.full(count, np.nan)
        for name in ("log10_m_axion", "mass", "angle", "half_length", "x", "y")
    }
    vortex_theta_E, vortex_n_masses = np.zeros(count), np.zeros(count, dtype=np.int64)
    n_max = max(
        [
            p.number
            for name in class_names
            for p in survey.substructure[name]
            if isinstance(p, PointSubhalos)
        ],
        default=0,
    )
    subhalo = {name: np.full((count, n_max), np.nan) for name in ("mass", "x", "y")}
    subhalo_theta_E = np.zeros((count, n_max))
    for label, name in enumerate(class_names):
        rows = np.flatnonzero(labels == label)
        if not len(rows):
            continue
        for part in survey.substructure[name]:
            if isinstance(part, Vortex):
                for key in ("log10_m_axion", "mass", "angle"):
                    vortex[key][rows] = sample(getattr(part, key), f"vortex_{key}", rows)
                vortex["x"][rows] = sample(part.x, "vortex_x", rows)
                vortex["y"][rows] = sample(part.y, "vortex_y", rows)
                vortex["half_length"][rows] = vortex_half_length(vortex["log10_m_axion"][rows])
                vortex_theta_E[rows] = survey.theta_E(vortex["mass"][rows] / part.n_masses)
                vortex_n_masses[rows] = part.n_masses
            elif part.number:
                radius = sample(part.radius, "subhalo_radius", rows, part.number).reshape(
                    len(rows), part.number
                )
                angle = (
                    2
                    * np.pi
                    * rng.uniform(seed, stream[rows], index[rows], "subhalo_angle", part.number)
                )
                mass = sample(part.mass, "subhalo_mass", rows, part.number).reshape(
                    len(rows), part.number
                )
                within = slice(0, part.number)
                subhalo["mass"][rows, within] = mass
                subhalo["x"][rows, within] = radius * np.sin(angle)
                subhalo["y"][rows, within] = radius * np.cos(angle)
                subhalo_theta_E[rows, within] = survey.theta_E(mass)
    return Scenes(
        label=labels,
        index=index,
        noise_word=rng.noise_words(seed, stream, index),
        source_x=sample(source.x, "source_x"),
        source_y=sample(source.y, "source_y"),
        source_R_sersic=R_sersic,
        source_n_sersic=n_sersic,
        source_e1=sample(source.e1, "source_e1"),
        source_e2=sample(source.e2, "source_e2"),
        source_amp=amp,
        lens_theta_E=theta_E,
        lens_e1=sample(lens.e1, "lens_e1"),
        lens_e2=sample(lens.e2, "lens_e2"),
        lens_x=sample(lens.x, "lens_x"),
        lens_y=sample(lens.y, "lens_y"),
        gamma1=sample(lens.gamma1, "gamma1"),
        gamma2=sample(lens.gamma2, "gamma2"),
        exposure_time=sample(instrument.exposure_time, "exposure_time"),
        log10_m_axion=vortex["log10_m_axion"],
        vortex_mass=vortex["mass"],
        vortex_angle=vortex["angle"],
        vortex_half_length=vortex["half_length"],
        vortex_x=vortex["x"],
        vortex_y=vortex["y"],
        vortex_theta_E=vortex_theta_E,
        vortex_n_masses=vortex_n_masses,
        subhalo_mass=subhalo["mass"],
        subhalo_x=subhalo["x"],
        subhalo_y=subhalo["y"],
        subhalo_theta_E=subhalo_theta_E,
    )
