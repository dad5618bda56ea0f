"""Surveys that are put together from components: any lens, any source, redshifts and brightness that vary."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from haloformer.errors import InputError
from haloformer.simulation.components import LightPart, MassPart
from haloformer.simulation.components.component import LightComponent, MassComponent
from haloformer.simulation.components.lens_light import LensLight
from haloformer.simulation.components.sersic import Sersic
from haloformer.simulation.composed.lens_galaxy import LensGalaxyLight, read_lens_light
from haloformer.simulation.cosmology import Cosmology, Distances, check_redshift
from haloformer.simulation.distributions import (
    Distribution,
    Quantity,
    check_magnitude,
    check_not_negative,
    describe_quantity,
    least_of,
)
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.parts import named_part
from haloformer.validation import Number, check_name, check_one_of, checked
from haloformer.vocabulary import CLASS_NAMES, unknown_name

Matching = Literal["none", "mass", "moments"]
"""What of its substructure a lens gives up: nothing; the mass within the Einstein radius; its mean pull, sheet, shear and slope."""

ComposedNoise = Literal["instrument", "double_poisson"]

Scaling = Literal["none", "max", "min_max", "clipped_max"]
"""How images were scaled before they were released, all their channels together: not; divided by their maximum; from their minimum to 0 and
maximum to 1; negative pixels set to 0, and divided by the maximum."""


@checked
@dataclass(frozen=True)
class Galaxy:
    """The galaxy that is lensed: light components about one centre, near the lens's. Each number may be a distribution.

    Attributes:
        light: Its components; each has the share of the flux that ``shares`` says.
        within: It lies within a circle of so many Einstein radii about the lens, uniform in area; unless ``radius``, or ``x`` and ``y``, are
            given.
        x: Centre in arcsec.
        y: Centre in arcsec.
        radius: Distance from the lens in arcsec; the angle is uniform.
        shares: Share of each component of the flux, in any unit; equal ones if empty.
        snr: Signal to noise of the brightest pixel of the lensed image, from which the flux follows, by the median of the camera's noise
            map if it has one, whatever its noise at that pixel; or
        flux: the flux itself, without lensing, in counts/s; or
        magnitude: its apparent magnitude, before which those of a survey's bands go; or
        amp: the brightness in counts/s/arcsec² at R_sersic, of a source of one Sérsic profile.
    """

    light: tuple[LightPart, ...]
    within: Annotated[Number, Field(ge=0)] = 0.35
    x: Quantity | None = None
    y: Quantity | None = None
    shares: tuple[Quantity, ...] = ()
    snr: Quantity | None = None
    flux: Quantity | None = None
    magnitude: Quantity | None = None
    radius: Quantity | None = None
    amp: Quantity | None = None

    def __post_init__(self) -> None:
        if not self.light:
            raise InputError("a source needs at least one component in light")
        if self.shares and len(self.shares) != len(self.light):
            raise InputError(
                f"shares has {len(self.shares)} numbers for {len(self.light)} components of light"
            )
        if (self.x is None) != (self.y is None):
            raise InputError("a source needs both x and y, or neither")
        if self.x is not None and self.radius is not None:
            raise InputError("a source takes x and y, or radius, not both")
        check_not_negative("radius", self.radius)
        brightness = (self.snr, self.flux, self.magnitude, self.amp)
        if sum(given is not None for given in brightness) > 1:
            raise InputError("a source needs one of snr, flux, magnitude and amp")
        if self.amp is not None and [type(part) for part in self.light] != [Sersic]:
            raise InputError("amp is the brightness of a source of one Sérsic profile: use flux")
        for name in ("snr", "flux", "amp"):
            check_not_negative(name, getattr(self, name), zero=False)
        for share in self.shares:
            check_not_negative("shares", share)
        check_magnitude("magnitude", self.magnitude)
        if self.shares and all(share == 0 for share in self.shares):
            raise InputError("shares: all are 0, which leaves no light")


@checked
@dataclass(frozen=True)
class Band:
    """What one band shows that others do not. Each number may be a distribution.

    The camera, and so pixels, point-spread function and level of the noise, is that of the survey.

    Attributes:
        source_magnitude: Apparent magnitude of the source, without lensing; that of the source itself if None.
        lens_light_magnitudes: Apparent magnitudes of the components of the lens galaxy's light; those of ``lens_light`` if empty.
    """

    source_magnitude: Quantity | None = None
    lens_light_magnitudes: tuple[Quantity, ...] = ()


@checked
@dataclass(frozen=True)
class ComposedSurvey:
    """A recipe of lenses whose parts are components.

    Attributes:
        name: Its name; parameter draws depend on it.
        instrument: The camera.
        lens: Mass components that every image has; the first one is the lens galaxy, which the others and the substructure lie around.
        source: The galaxy that is lensed.
        substructure: For each class, the mass components that are added.
        z_lens: Redshift of the lens; may be a distribution.
        z_source: Redshift of the source; may be a distribution; or
        z_beyond: by how much it is larger than that of the lens.
        z_behind: Least difference of the redshifts: what would lie nearer is moved there.
        lens_light: Light of the lens galaxy, about the first component of ``lens``; None for none. With ``light`` it is one of components
            with magnitudes.
        bands: By their names, what differs between the channels of an image: it has one for each, with noise of its own. Without any, it
            has one, of no name.
        lens_of_class: For some classes, components that stand in for those of ``lens`` of the same kind. A class whose lenses are others
            is told by them: this is for data that were made so, and a shortcut in each of them.
        cosmology: Turns masses and lengths into deflections and angles.
        distances: See :func:`~haloformer.simulation.cosmology.einstein_radius`.
        matching: What lenses with substructure give up, so that it does not betray itself, see :data:`Matching`.
        original_noise: What ``noise="original"`` means here.
        scaled: How images with that noise are then scaled, see :data:`Scaling`; in other noise modes they are not.
        description: One line for people.
    """

    name: Annotated[str, BeforeValidator(str)]
    instrument: Annotated[Instrument, named_part("instruments")]
    lens: tuple[MassPart, ...]
    source: Galaxy
    substructure: Mapping[str, tuple[MassPart, ...]]
    z_lens: Quantity = 0.5
    z_source: Quantity | None = None
    z_beyond: Quantity | None = None
    lens_light: Annotated[LensLight | LensGalaxyLight | None, BeforeValidator(read_lens_light)] = (
        None
    )
    bands: Mapping[str, Band] = field(default_factory=dict)
    lens_of_class: Mapping[str, tuple[MassPart, ...]] = field(default_factory=dict)
    z_behind: Annotated[Number, Field(gt=0)] = 0.1
    cosmology: Cosmology = field(default_factory=Cosmology)
    distances: Distances = "angular_diameter"
    matching: Matching = "moments"
    original_noise: ComposedNoise = "instrument"
    scaled: Scaling = "none"
    description: Annotated[str, BeforeValidator(str)] = ""

    def __post_init__(self) -> None:
        check_name("survey name", self.name)
        if not self.lens or "theta_E" not in self.lens[0].UNITS:
            raise InputError("lens: the first component must be a lens galaxy, such as {kind: epl}")
        for part in self.lens:
            if not part.IN_LENS:
                raise InputError(f"lens: {part.kind} belongs to substructure, in each class")
        if not self.substructure:
            raise InputError("substructure names no class")
        for name in self.substructure:
            check_name("class name", name)
        for name in ("z_lens", "z_source", "z_beyond"):
            check_not_negative(name, getattr(self, name), zero=False)
        check_one_of("a survey", z_source=self.z_source, z_beyond=self.z_beyond)
        subtracted = self.lens_light is not None and self.lens_light.mode == "subtracted"
        if subtracted and self.original_noise == "double_poisson":
            raise InputError("lens_light: subtracted light needs original_noise: instrument")
        if subtracted and self.scaled != "none":
            raise InputError("lens_light: subtracted light needs scaled: none")
        _check_redshifts(self.z_lens, self.z_source, self.z_behind)
        _check_camera(self)
        _check_brightness(self)
        _check_lens_of_class(self)
        for where, parts in (("lens", self.lens), *self.substructure.items()):
            kinds = [part.kind for part in parts]
            if len(set(kinds)) != len(kinds):
                raise InputError(f"{where}: has two components of one kind")
            axions = [
                m for part in parts if (m := getattr(part, "log10_m_axion", None)) is not None
            ]
            if any(mass != axions[0] for mass in axions):
                raise InputError(
                    f"{where}: its components have different log10_m_axion, where there is one axion"
                )
        for name, parts in self.substructure.items():
            if both := {part.kind for part in parts} & {part.kind for part in self.lens}:
                raise InputError(f"class {name}: {min(both)} is a component of the lens already")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in canonical order; a user's own classes follow in alphabetical order."""
        known = [name for name in CLASS_NAMES if name in self.substructure]
        return tuple(known + sorted(set(self.substructure) - set(known)))

    def noise_kind(self, noise: str) -> str:
        """Returns a noise mode with ``"original"`` replaced by what it means here."""
        return self.original_noise if noise == "original" else noise

    def has_noise(self, noise: str) -> bool:
        """Returns whether images with this noise mode have noise."""
        return self.noise_kind(noise) in ("double_poisson", "instrument")

    def scaling(self, noise: str) -> str:
        """Returns how images with this noise mode are scaled, one of :data:`Scaling`."""
        return self.scaled if noise == "original" else "none"

    def mass_components(self) -> dict[str, MassComponent]:
        """Returns all kinds of mass that some image has, the lens's first; of a kind that several classes have, that of the first."""
        found = {part.kind: part for part in self.lens}
        for parts in self.substructure.values():
            for part in parts:
                found.setdefault(part.kind, part)
        return found

    @property
    def added(self) -> tuple[MassComponent, ...]:
        """The kinds of mass that some class adds to the lens."""
        return tuple(part for part in self.mass_components().values() if part not in self.lens)

    @property
    def band_names(self) -> tuple[str, ...]:
        """The bands in the order of the images' channels; none of a survey of one band without a name."""
        return tuple(self.bands)

    def source_magnitudes(self) -> tuple[Quantity | None, ...]:
        """Returns the source's magnitude in each band, or in the only one."""
        if not self.bands:
            return (self.source.magnitude,)
        own = (band.source_magnitude for band in self.bands.values())
        return tuple(self.source.magnitude if each is None else each for each in own)

    def lens_light_magnitudes(self) -> tuple[tuple[Quantity, ...], ...]:
        """Returns the magnitudes of the components of the lens galaxy's light in each band, or in the only one; empty if it has none."""
        if not isinstance(self.lens_light, LensGalaxyLight):
            return ()
        if not self.bands:
            return (self.lens_light.magnitudes,)
        own = (band.lens_light_magnitudes for band in self.bands.values())
        return tuple(each or self.lens_light.magnitudes for each in own)

    def band_looks(
        self, light: tuple[LightComponent, ...]
    ) -> tuple[tuple[LightComponent, ...], ...]:
        """Returns components as each band shows them; only once where all bands show the same."""
        looks = tuple(
            tuple(part.in_band(k) for part in light) for k in range(max(1, len(self.bands)))
        )
        return looks[:1] if all(look == looks[0] for look in looks) else looks

    def lens_parts(self, class_name: str) -> tuple[MassComponent, ...]:
        """Returns the components of a class's lenses, of the same kinds as those of ``lens``."""
        own = {part.kind: part for part in self.lens_of_class.get(class_name, ())}
        return tuple(own.get(part.kind, part) for part in self.lens)

    def with_camera(self, **fields: object) -> "ComposedSurvey":
        """Returns the survey with other numbers of its instrument."""
        camera = dataclasses.replace(self.instrument, **fields)  # type: ignore[arg-type]  # fields by name
        return dataclasses.replace(self, instrument=camera)


def _check_camera(survey: ComposedSurvey) -> None:
    """Raises InputError for what of the camera would do nothing, or leave nothing."""
    camera, light = survey.instrument, survey.lens_light
    for name in ("noise_map", "noise_correlation"):
        if getattr(camera, name) is not None and survey.original_noise == "double_poisson":
            raise InputError(
                f"instrument.{name} needs original_noise: instrument, not double_poisson, which is noise of counts"
            )
    half = camera.num_pix * camera.pixel_scale / 2
    if isinstance(light, LensLight) and light.mode == "subtracted" and light.mask_radius >= half:
        raise InputError(
            f"lens_light: mask_radius of {light.mask_radius:g} arcsec leaves nothing of images of {2 * half:g} arcsec a side"
        )


def _check_brightness(survey: ComposedSurvey) -> None:
    """Raises InputError unless it is known how bright source and lens galaxy are in each band."""
    source, light = survey.source, survey.lens_light
    magnitudes = survey.source_magnitudes()
    by_magnitude = all(given is None for given in (source.snr, source.flux, source.amp))
    for name, band in survey.bands.items():
        if not re.fullmatch(r"[A-Za-z0-9_]{1,32}", name):
            raise InputError(f"band name {name!r}: use up to 32 letters, digits or '_'")
        if band.source_magnitude is not None and not by_magnitude:
            raise InputError(
                f"band {name}: source_magnitude, where the source has snr, flux or amp; give one of them"
            )
        if band.lens_light_magnitudes:
            if not isinstance(light, LensGalaxyLight):
                raise InputError(
                    f"band {name}: lens_light_magnitudes, but lens_light has no components in light"
                )
            light.check_magnitudes(
                band.lens_light_magnitudes, f"band {name}: lens_light_magnitudes"
            )
    if survey.bands and source.snr is not None:
        raise InputError(
            "source.snr is that of one band; a survey with bands needs magnitude, flux, or source_magnitude of each band"
        )
    if by_magnitude and None in magnitudes:
        where = f"band {survey.band_names[magnitudes.index(None)]}: " if survey.bands else ""
        raise InputError(f"{where}a source needs one of snr, flux, magnitude and amp")
    if () in survey.lens_light_magnitudes():
        raise InputError("lens_light: light needs magnitudes, there or in each of the bands")
    if survey.instrument.magnitude_zero_point is not None:
        return
    if any(each is not None for each in magnitudes):
        what = "source_magnitude" if source.magnitude is None else "source.magnitude"
        raise InputError(f"{what} needs instrument.magnitude_zero_point")
    if survey.lens_light_magnitudes():
        raise InputError("lens_light: magnitudes need instrument.magnitude_zero_point")


def _check_lens_of_class(survey: ComposedSurvey) -> None:
    """Raises InputError unless each component stands in for one of the lens's."""
    kinds = [part.kind for part in survey.lens]
    for name, parts in survey.lens_of_class.items():
        if name not in survey.substructure:
            raise unknown_name("lens_of_class: class", name, survey.class_names)
        own = [part.kind for part in parts]
        if len(set(own)) != len(own):
            raise InputError(f"lens_of_class: {name} has two components of one kind")
        if beyond := set(own) - set(kinds):
            raise InputError(
                f"lens_of_class: {name} has {min(beyond)}, which lens has not; it has {', '.join(kinds)}"
            )


def _check_redshifts(z_lens: Quantity, z_source: Quantity | None, behind: float) -> None:
    """Raises InputError if a source of one redshift has no room behind each lens, or a redshift is none of galaxies."""
    for name, z in (("z_lens", z_lens), ("z_source", z_source)):
        if z is not None:
            check_redshift(name, -least_of(z, -1))
    if isinstance(z_source, float | int) and -least_of(z_lens, -1) + behind > z_source:
        raise InputError(
            f"needs z_lens + {behind:g} ≤ z_source, not {describe_quantity(z_lens)} and {z_source:g}"
        )
    if z_source is not None and -least_of(z_source, -1) < least_of(z_lens) + behind:
        raise InputError(
            f"z_source lies in front of z_lens + {behind:g} in all draws: needs z_lens + {behind:g} ≤ z_source, "
            f"not {describe_quantity(z_lens)} and {describe_quantity(z_source)}"
        )


def describe(survey: ComposedSurvey) -> dict[str, object]:
    """Returns the survey as a mapping that it can be built from again."""
    described: dict[str, object] = {"name": survey.name}
    for f in dataclasses.fields(survey):
        value = getattr(survey, f.name)
        if f.name not in _NEWER or value not in ({}, "none"):
            described[f.name] = _plain(value)
    return described


_NEWER = ("bands", "lens_of_class", "scaled")
"""Fields that came later, and are not told where they are not used: files of before say the same of the same survey."""


def _plain(value: object) -> object:
    """Returns a part as what YAML would say of it, without what is not given."""
    if isinstance(value, Distribution):
        return describe_quantity(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {name: _plain(each) for name, each in fields.items() if each is not None}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def parameter_units(survey: ComposedSurvey) -> dict[str, str]:
    """Returns the unit of every parameter that travels with this survey's images."""
    units: dict[str, str] = {"z_lens": "", "z_source": ""}
    for part in survey.mass_components().values():
        units |= {f"{prefix(part)}{name}": unit for name, unit in part.UNITS.items()}
    units |= {"source_x": "arcsec", "source_y": "arcsec", "source_flux": "counts/s", "snr": ""}
    for number, light in enumerate(survey.source.light):
        own = source_prefix(number, light)
        units |= {f"{own}{name}": unit for name, unit in light.UNITS.items()}
        units[f"{own}share"] = ""
    units |= MATCHED_UNITS
    if survey.lens_light is not None and survey.lens_light.mode != "none":
        units |= {f"lens_light_{name}": unit for name, unit in survey.lens_light.UNITS.items()}
    if survey.instrument.noise_correlation is not None:
        units["noise_correlation"] = ""
    return {**units, "exposure_time": "s", "seed": "", "index": ""}


MATCHED_UNITS = {
    "matched_theta_E": "arcsec",
    "matched_x": "arcsec",
    "matched_y": "arcsec",
    "matched_kappa": "",
    "matched_gamma1": "",
    "matched_gamma2": "",
    "matched_slope": "",
}
"""What a lens gives up for its substructure: of its Einstein radius and slope, and a mean pull, sheet and shear."""


def prefix(part: MassComponent) -> str:
    """Returns what stands before the names of a mass component's parameters: ``lens_`` of the lens galaxy."""
    return f"{part.kind}_" if part.PREFIX is None else part.PREFIX


def source_prefix(number: int, part: LightComponent) -> str:
    """Returns what stands before the names of the parameters of a source's component: ``source_sersic_``, then ``source_1_sersic_``."""
    return f"source_{part.kind}_" if number == 0 else f"source_{number}_{part.kind}_"


def component_parameters(
    part: MassComponent, parameters: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns a component's parameters by its own names."""
    return {name: parameters[prefix(part) + name] for name in part.UNITS}


def has_it(part: MassComponent, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns (B,) bool: the image has this component."""
    there = np.zeros(len(next(iter(values.values()))), bool)
    for name in part.UNITS:
        array = values[name]
        there |= np.isfinite(array.reshape(len(array), -1)).any(1) if array.size else False
    return there


def gives_up(parameters: Mapping[str, np.ndarray]) -> bool:
    """Returns whether some lens gives up mass or slope, and so is another with its substructure."""
    return bool(
        (parameters["matched_theta_E"] != 0).any() or (parameters["matched_slope"] != 0).any()
    )


def given_up(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns parameters with the lens galaxy as it is beside its substructure."""
    lens = {
        f"lens_{name}": parameters[f"lens_{name}"] - parameters[given]
        for name, given in (("theta_E", "matched_theta_E"), ("gamma", "matched_slope"))
        if f"lens_{name}" in parameters
    }
    return {**parameters, **lens}


def no_correction(count: int) -> dict[str, np.ndarray]:
    """Returns the corrections of :data:`MATCHED_UNITS` of lenses that give up nothing."""
    return {name: np.zeros(count) for name in MATCHED_UNITS}
