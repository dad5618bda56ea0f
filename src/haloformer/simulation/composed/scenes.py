"""Draws of a composed survey's parameters for a batch of images."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special

from haloformer.simulation import rng
from haloformer.simulation.components.component import MassComponent
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.composed.lens_galaxy import LensGalaxyLight, component_prefix
from haloformer.simulation.composed.matching import matched
from haloformer.simulation.composed.survey import (
    ComposedSurvey,
    prefix,
    source_prefix,
)
from haloformer.simulation.distributions import Quantity, check_members, draw
from haloformer.simulation.instruments import magnitude_to_counts
from haloformer.simulation.sources import sersic_flux


@dataclass(frozen=True)
class RandomDraws:
    """Draws of B images; see :class:`~haloformer.simulation.components.component.Draws`.

    Attributes:
        seed: The dataset's seed.
        stream: (B,) what survey and class stand for in the random numbers.
        index: (B,) numbers of the images within their class.
        prefix: Stands before all names, so that components draw on their own.
    """

    seed: int
    stream: np.ndarray
    index: np.ndarray
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.index)

    def draw(self, quantity: Quantity, name: str, size: int | None = None) -> np.ndarray:
        """Draws a number or a distribution: (B,), or (B, size)."""
        shape = (len(self),) if size is None else (len(self), size)
        return draw(quantity, lambda: self.uniform(name, size), shape)

    def shared(self, quantity: Quantity, name: str) -> np.ndarray:
        """Draws a number or a distribution (B,), the same for all components of a class that ask for this name."""
        return dataclasses.replace(self, prefix="shared_").draw(quantity, name)

    def uniform(self, name: str, size: int | None = None) -> np.ndarray:
        """Draws between 0 and 1: (B,), or (B, size)."""
        check_members(len(self), size or 1, self.prefix.rstrip("_"))
        drawn = rng.uniform(self.seed, self.stream, self.index, self.prefix + name, size or 1)
        return drawn[:, 0] if size is None else drawn[:, :size]

    def normal(self, name: str, size: int | None = None) -> np.ndarray:
        """Draws from the standard normal distribution: (B,), or (B, size)."""
        drawn: np.ndarray = special.ndtri(self.uniform(name, size))
        return drawn

    def of(self, prefix: str, rows: np.ndarray | slice = slice(None)) -> "RandomDraws":
        """Returns the draws of a component of some of the images."""
        return RandomDraws(self.seed, self.stream[rows], self.index[rows], self.prefix + prefix)


@dataclass(frozen=True)
class ComposedScenes:
    """Everything that fixes a batch of noise-free images, but for the flux where it follows from the signal to noise.

    Attributes:
        label: (B,) int64, the class as an index into the class names.
        index: (B,) int64, the image's number within its class.
        noise_word: (B,) uint64, from which the noise is drawn; (B, bands) of a survey with bands.
        parameters: Arrays (B,) or (B, n) by name; NaN where a parameter does not apply.
    """

    label: np.ndarray
    index: np.ndarray
    noise_word: np.ndarray
    parameters: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.label)


def draw_scenes(
    survey: ComposedSurvey,
    labels: np.ndarray,
    index: np.ndarray,
    seed: int,
    class_names: tuple[str, ...],
    *,
    paired: bool = False,
    lens_index: np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> ComposedScenes:
    """Draws the parameters of images.

    Args:
        survey: The recipe.
        labels: (B,) classes as indices into ``class_names``.
        index: (B,) numbers of the images within their class.
        seed: The dataset's seed.
        class_names: Classes of the survey, in the order of the labels.
        paired: Images of one number have the same lens, source and noise in all classes.
        lens_index: (B,) numbers from which lens, source and noise are drawn, where they are others than those of the substructure: many
            realisations of it in one lens.
        device: Where to compute what lenses give up for their substructure, the one part that takes long.

    Returns:
        The scenes. Those of one (survey, class, seed, index) are always the same.
    """
    words = np.array([rng.name_word(f"{survey.name}/{n}") for n in class_names], np.uint64)
    own = words[labels]
    common = np.full_like(own, rng.name_word(f"{survey.name}/")) if paired else own
    around = index if lens_index is None else lens_index
    shared, of_class = RandomDraws(seed, common, around), RandomDraws(seed, own, index)
    setting = lens_setting(survey, shared)
    parameters = {"z_lens": setting.z_lens, "z_source": setting.z_source}
    lens: Mapping[str, np.ndarray] = {}
    for number, part in enumerate(survey.lens):
        drawn = part.draw(shared.of(prefix(part) or part.kind), setting, lens)
        for label, class_name in enumerate(class_names):
            own_part = survey.lens_parts(class_name)[number]
            rows = np.flatnonzero(labels == label)
            if own_part is part or not len(rows):
                continue
            of_lens = {name: values[rows] for name, values in lens.items()}
            drawn = {name: np.array(values) for name, values in drawn.items()}
            own_draws = shared.of(prefix(part) or part.kind, rows)
            for name, values in own_part.draw(own_draws, rows_of(setting, rows), of_lens).items():
                drawn[name][rows] = values
        lens = lens or drawn
        parameters |= {prefix(part) + name: values for name, values in drawn.items()}
    parameters |= _substructure(survey, of_class, labels, setting, lens, class_names)
    parameters |= matched(survey, parameters, device)
    parameters |= _source(survey, shared, setting, lens)
    if isinstance(survey.lens_light, LensGalaxyLight):
        parameters |= _lens_galaxy(survey, survey.lens_light, shared, setting, lens)
    elif survey.lens_light is not None:
        light = survey.lens_light.draw(shared.of("lens_light_"), setting, lens)
        parameters |= {f"lens_light_{name}": values for name, values in light.items()}
    parameters["exposure_time"] = shared.draw(survey.instrument.exposure_time, "exposure_time")
    if (correlation := survey.instrument.noise_correlation) is not None:
        parameters["noise_correlation"] = shared.draw(correlation, "noise_correlation")
    each = [rng.noise_words(seed, common, around, k) for k in range(max(1, len(survey.bands)))]
    words = np.stack(each, axis=1) if survey.bands else each[0]
    return ComposedScenes(labels, index, words, parameters)


def _substructure(
    survey: ComposedSurvey,
    draws: RandomDraws,
    labels: np.ndarray,
    setting: Setting,
    lens: Mapping[str, np.ndarray],
    class_names: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """Draws what the classes add to the lens; of each kind one table for all images, as wide whatever classes are among them."""
    tables: dict[str, dict[str, np.ndarray]] = {}

    def put(part: MassComponent, rows: np.ndarray) -> None:
        some = rows if len(rows) else np.zeros(1, dtype=int)  # one is drawn, to see its shape
        own = draws.of(prefix(part) or part.kind, some)
        around = {name: values[some] for name, values in lens.items()}
        drawn = part.draw(own, rows_of(setting, some), around)
        drawn = {name: values[: len(rows)] for name, values in drawn.items()}
        _put(tables.setdefault(part.kind, {}), drawn, rows, len(labels))

    for label, class_name in enumerate(class_names):
        for part in survey.substructure[class_name]:
            put(part, np.flatnonzero(labels == label))
    found: dict[str, np.ndarray] = {}
    for part in survey.added:
        if part.kind not in tables:  # of a class that is left out
            put(part, np.zeros(0, dtype=int))
        found |= {prefix(part) + name: values for name, values in tables[part.kind].items()}
    return found


def rows_of(setting: Setting, rows: np.ndarray) -> Setting:
    """Returns the setting of some of the lenses."""
    return Setting(
        setting.cosmology,
        *(
            getattr(setting, name)[rows]
            for name in ("z_lens", "z_source", "sigma_crit", "kpc_per_arcsec")
        ),
    )


def lens_setting(survey: ComposedSurvey, draws: RandomDraws) -> Setting:
    """Draws the redshifts of lenses and sources."""
    z_lens, z_source = drawn_redshifts(survey, draws)
    z_source = np.maximum(z_source, z_lens + survey.z_behind)
    return Setting.of(survey.cosmology, z_lens, z_source, survey.distances)


def drawn_redshifts(survey: ComposedSurvey, draws: RandomDraws) -> tuple[np.ndarray, np.ndarray]:
    """Draws the redshifts (B,) of lenses and sources, wherever the source would lie."""
    z_lens = draws.draw(survey.z_lens, "z_lens")
    if survey.z_source is not None:
        z_source = draws.draw(survey.z_source, "z_source")
    else:
        assert survey.z_beyond is not None  # the survey checks it
        z_source = z_lens + draws.draw(survey.z_beyond, "z_beyond")
    return z_lens, z_source


def _put(
    table: dict[str, np.ndarray], drawn: Mapping[str, np.ndarray], rows: np.ndarray, count: int
) -> None:
    """Puts a class's draws into the rows of all images; populations of other sizes get more columns of NaN."""
    for name, values in drawn.items():
        before = table.get(name)
        if values.ndim == 1:
            new = np.full(count, np.nan) if before is None else before
        else:
            columns = max(values.shape[1], 0 if before is None else before.shape[1])
            new = np.full((count, columns), np.nan)
            if before is not None:
                new[:, : before.shape[1]] = before
            values = np.pad(values, ((0, 0), (0, columns - values.shape[1])), constant_values=np.nan)  # fmt: skip
        new[rows] = values
        table[name] = new


def source_place(
    survey: ComposedSurvey, draws: RandomDraws, lens: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws where the source lies, (B,) x and y in arcsec, by the source's own draws."""
    source = survey.source
    if source.x is not None and source.y is not None:
        return draws.draw(source.x, "x"), draws.draw(source.y, "y")
    if source.radius is not None:
        radius = draws.draw(source.radius, "radius")
    else:
        radius = source.within * lens["theta_E"] * np.sqrt(draws.uniform("radius"))
    angle = 2 * np.pi * draws.uniform("angle")
    return lens["x"] + radius * np.cos(angle), lens["y"] + radius * np.sin(angle)


def _source(
    survey: ComposedSurvey, draws: RandomDraws, setting: Setting, lens: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Draws the source: its place, its components, their shares of the flux, and the flux or the signal to noise."""
    source, own = survey.source, draws.of("source_")
    x, y = source_place(survey, own, lens)
    drawn = {"source_x": x, "source_y": y}
    shares = source.shares or (1.0,) * len(source.light)
    parts = np.stack([own.draw(share, f"share_{k}") for k, share in enumerate(shares)])
    for number, part in enumerate(source.light):
        name = source_prefix(number, part)
        found = part.draw(draws.of(name), setting)
        drawn |= {name + key: values for key, values in found.items()}
        drawn[f"{name}share"] = parts[number] / parts.sum(0)
    nothing = np.full(len(draws), np.nan)
    drawn["snr"] = nothing if source.snr is None else own.draw(source.snr, "snr")
    drawn["source_flux"] = nothing
    if source.flux is not None:
        drawn["source_flux"] = _in_bands(survey, own.draw(source.flux, "flux"))
    elif source.amp is not None:
        name = source_prefix(0, source.light[0])
        unit = sersic_flux(drawn[f"{name}R_sersic"], drawn[f"{name}n_sersic"])
        drawn["source_flux"] = _in_bands(survey, own.draw(source.amp, "amp") * unit)
    elif source.snr is None:
        drawn["source_flux"] = _fluxes(survey, own, survey.source_magnitudes(), "magnitude")
    return drawn


def _in_bands(survey: ComposedSurvey, flux: np.ndarray) -> np.ndarray:
    """Returns fluxes (B,) as those of each band, (B, bands); as they are of a survey without bands."""
    return np.stack([flux] * len(survey.bands), axis=1) if survey.bands else flux


def _lens_galaxy(
    survey: ComposedSurvey,
    light: LensGalaxyLight,
    draws: RandomDraws,
    setting: Setting,
    lens: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Draws the light of the lens galaxy: its place, its components, and their fluxes."""
    own, magnitudes = draws.of("lens_light_"), survey.lens_light_magnitudes()
    drawn = {f"lens_light_{k}": lens[k] + own.draw(getattr(light, k), k) for k in ("x", "y")}
    for number, part in enumerate(light.light):
        name = f"lens_light_{component_prefix(number, part)}"
        found = part.draw(draws.of(name), setting)
        drawn |= {name + key: values for key, values in found.items()}
        each = [band[number] for band in magnitudes]
        drawn[f"{name}flux"] = _fluxes(survey, draws.of(name), each, "magnitude")
    return drawn


def _fluxes(
    survey: ComposedSurvey,
    draws: RandomDraws,
    magnitudes: Sequence[Quantity | None],
    name: str,
) -> np.ndarray:
    """Returns the fluxes (B, bands) in counts/s of magnitudes that are drawn, one of each band; (B,) of a survey without bands."""
    zero_point = survey.instrument.magnitude_zero_point
    found = []
    for band, magnitude in zip(survey.band_names or ("",), magnitudes, strict=True):
        assert zero_point is not None  # the survey checks both
        assert magnitude is not None
        drawn = draws.draw(magnitude, f"{name}_{band}" if band else name)
        found.append(np.asarray(magnitude_to_counts(drawn, zero_point)))
    return np.stack(found, axis=1) if survey.bands else found[0]
