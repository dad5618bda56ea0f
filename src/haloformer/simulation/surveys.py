"""Surveys: recipes of lenses, put together from named instruments, sources, deflectors and substructure.

A survey is data. The shipped ones are YAML files in ``haloformer/configs/surveys``, their parts in
``configs/parts.yaml``; users write their own in the same form, starting from any of them by
``base:``, or build a :class:`Survey` in Python. Annotations say what each field takes; pydantic
checks them.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from haloformer.errors import InputError
from haloformer.files import parse_yaml, read_yaml
from haloformer.simulation.composed.survey import ComposedSurvey, describe
from haloformer.simulation.cosmology import (
    Cosmology,
    Distances,
    check_redshift,
    einstein_radius,
)
from haloformer.simulation.deflectors import SIEShear
from haloformer.simulation.distributions import Distribution, describe_quantity
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.named_files import file_digests
from haloformer.simulation.parts import (
    SECTIONS,
    named_part,
    named_parts,
    part_fields,
    read_mapping,
)
from haloformer.simulation.sources import SersicSource
from haloformer.simulation.substructure import PointSubhalos, Substructure, Vortex
from haloformer.validation import Number, check_name, check_one_of, checked, input_error, validated
from haloformer.vocabulary import CLASS_NAMES, unknown_name

OriginalNoise = Literal["double_poisson", "doubled", "instrument"]

ORIGINAL_NOISE: tuple[str, ...] = get_args(OriginalNoise)
"""What ``noise="original"`` means: Model I's twofold Poisson noise, twice the noise-free image (II, III), the instrument's own noise."""

Part = Instrument | SersicSource | SIEShear | PointSubhalos | Vortex

_MOST_BASES = 8  # surveys that start from one another


@checked
@dataclass(frozen=True)
class SourceConvention:
    """Deflections ray-traced for a source at another redshift than the source's own (a quirk of the original Models II and III)."""

    z_source_convention: Number
    cosmology: Cosmology


@checked
@dataclass(frozen=True)
class Survey:
    """A recipe of lenses.

    Attributes:
        name: Its name; parameter draws depend on it.
        instrument: The camera.
        source: The galaxy that is lensed.
        deflector: The smooth lens.
        substructure: For each class, the dark matter parts that are added: at most one vortex and one population of subhalos.
        z_lens: Redshift of the lens.
        z_source: Redshift of the source.
        cosmology: Turns masses into Einstein radii.
        distances: ``"angular_diameter"`` or ``"luminosity"``, see :func:`~haloformer.simulation.cosmology.einstein_radius`.
        deflection_scale: None, a number by which all deflections are multiplied, or the source convention that it follows from.
        original_noise: What ``noise="original"`` means here, one of :data:`ORIGINAL_NOISE`.
        description: One line for people.

    Examples:
        >>> import haloformer
        >>> from haloformer.simulation import get_survey
        >>> survey = get_survey("model_ii")
        >>> isinstance(survey, haloformer.Survey), survey.class_names
        (True, ('axion', 'cdm', 'no_sub'))
        >>> closer = haloformer.simulate(survey.with_camera(exposure_time=100.0), 3)
    """

    name: Annotated[str, BeforeValidator(str)]
    instrument: Annotated[Instrument, named_part("instruments")]
    source: Annotated[SersicSource, named_part("sources")]
    deflector: Annotated[SIEShear, named_part("deflectors")]
    substructure: Mapping[
        str, Annotated[tuple[Substructure, ...], named_parts("substructures")]
    ] = field(
        default_factory=lambda: {"axion": (Vortex(),), "cdm": (PointSubhalos(),), "no_sub": ()}
    )
    z_lens: Number = 0.5
    z_source: Number = 1.0
    cosmology: Cosmology = field(default_factory=Cosmology)
    distances: Distances = "angular_diameter"
    deflection_scale: Number | SourceConvention | None = None
    original_noise: OriginalNoise = "instrument"
    description: Annotated[str, BeforeValidator(str)] = ""

    def __new__(cls, *parts: object, **fields: object) -> "Survey":
        """Raises InputError if all that is given is the name of a survey that is there already."""
        if len(parts) == 1 and not fields and names_survey(str(parts[0])):
            raise InputError(
                f"Survey makes a survey of its parts: haloformer.simulation.get_any_survey({str(parts[0])!r}) returns the one of that name"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_name("survey name", self.name)
        for name in self.substructure:
            check_name("class name", name)
        if not 0 < self.z_lens < self.z_source:
            raise InputError(f"needs 0 < z_lens < z_source, not {self.z_lens} and {self.z_source}")
        check_redshift("z_source", self.z_source)
        check_one_of("source", amp=self.source.amp, magnitude=self.source.magnitude)
        check_one_of("deflector", mass=self.deflector.mass, theta_E=self.deflector.theta_E)
        if self.source.magnitude is not None and self.instrument.magnitude_zero_point is None:
            raise InputError(
                "source.magnitude needs instrument.magnitude_zero_point; give source.amp instead"
            )
        if isinstance(self.deflection_scale, int | float) and not self.deflection_scale > 0:
            raise InputError(f"deflection_scale must be positive, not {self.deflection_scale}")
        _check_camera(self.instrument)
        if not self.substructure:
            raise InputError("substructure names no class")
        for name, parts in self.substructure.items():
            if len({part.kind for part in parts}) != len(parts):
                raise InputError(
                    f"class {name} has two parts of one kind; at most one vortex and one point_subhalos"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in canonical order; a user's own classes follow in alphabetical order."""
        known = [name for name in CLASS_NAMES if name in self.substructure]
        return tuple(known + sorted(set(self.substructure) - set(known)))

    def noise_kind(self, noise: str) -> str:
        """Returns a noise mode with ``"original"`` replaced by what it means here, one of :data:`ORIGINAL_NOISE`."""
        return self.original_noise if noise == "original" else noise

    def has_noise(self, noise: str) -> bool:
        """Returns whether images with this noise mode have noise."""
        return self.noise_kind(noise) in ("double_poisson", "instrument")

    def with_camera(self, **fields: object) -> "Survey":
        """Returns the survey with other numbers of its instrument."""
        camera = dataclasses.replace(self.instrument, **fields)  # type: ignore[arg-type]  # fields by name
        return dataclasses.replace(self, instrument=camera)

    def theta_E(self, mass: np.ndarray | float) -> np.ndarray:
        """Einstein radius of a point mass (M_sun) in this survey, in arcsec, before the deflection scale."""
        return einstein_radius(mass, self.cosmology, self.z_lens, self.z_source, self.distances)

    def scale(self) -> float:
        """The factor by which every deflection is multiplied; 1 unless the survey has a deflection scale."""
        if self.deflection_scale is None:
            return 1.0
        if isinstance(self.deflection_scale, SourceConvention):
            convention = self.deflection_scale
            efficiency = convention.cosmology.lensing_efficiency
            return efficiency(self.z_lens, self.z_source) / efficiency(
                self.z_lens, convention.z_source_convention
            )
        return float(self.deflection_scale)


def _check_camera(instrument: Instrument) -> None:
    """Raises InputError for what only cameras of composed surveys have."""
    for name in ("sky", "noise_map", "noise_correlation", "psf_file", "psf_beta", "supersampling"):
        value = getattr(instrument, name)
        if value is not None and (name, value) != ("supersampling", 1):
            raise InputError(
                f"instrument.{name} is for composed surveys, which have lens and no deflector"
            )


def names_survey(name: str) -> bool:
    """Returns whether a name can be that of a survey: of a shipped one, or of a YAML file."""
    return name in _shipped_survey_names() or Path(name).suffix.lower() in (".yaml", ".yml")


def list_surveys(*, composed: bool | None = None) -> dict[str, str]:
    """The shipped surveys: name to one-line description.

    Args:
        composed: Only those that are composed of components, or only those that are not; None: all.

    Examples:
        >>> import haloformer
        >>> sorted(haloformer.list_surveys(composed=False))[:2]
        ['model_i', 'model_ii']
    """
    fields = {name: _with_base(_shipped_survey(name), name) for name in _shipped_survey_names()}
    return {
        name: str(_shipped_survey(name).get("description", ""))
        for name, found in fields.items()
        if composed is None or composed == ("lens" in found)
    }


AnySurvey = Survey | ComposedSurvey
"""A survey of one lens galaxy, source and kind of camera as DeepLense has them, or one that is composed."""


def get_survey(survey: "str | Path | Mapping[str, object] | AnySurvey") -> Survey:
    """Returns a survey whose lens and source are those of the DeepLense surveys; see :func:`get_any_survey`.

    Raises:
        InputError: There is no such survey or file, a field in it is unknown or makes no sense, or it is composed.
    """
    found = get_any_survey(survey)
    if isinstance(found, ComposedSurvey):
        raise InputError(
            f"survey {found.name} is composed of components; what is asked for here knows only surveys of "
            "one lens galaxy and one Sérsic source, such as model_i"
        )
    return found


def get_any_survey(survey: "str | Path | Mapping[str, object] | AnySurvey") -> AnySurvey:
    """Returns a survey by its name, from a YAML file, or from a mapping of the same form.

    Args:
        survey: A shipped survey's name (``"model_ii"``), the path of a YAML file, a mapping, or a survey, which is returned as it is.
            One that has ``lens`` in place of ``deflector`` is composed.

    Raises:
        InputError: There is no such survey or file, or a field in it is unknown or makes no sense.
    """
    if isinstance(survey, AnySurvey):
        return survey
    if isinstance(survey, Mapping):
        return _build(dict(survey), str(survey.get("name", "custom")))
    text = str(survey)
    if text in _shipped_survey_names():
        return _build(_shipped_survey(text), text)
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        if not path.exists():
            raise InputError(f"survey file {path} does not exist")
        return _build(read_mapping(read_yaml(path), str(path)), path.stem)
    raise unknown_name("survey", text, _shipped_survey_names())


def get_part(section: str, name: str) -> Part:
    """Returns a named part.

    Args:
        section: ``"instruments"``, ``"sources"``, ``"deflectors"`` or ``"substructures"``.
        name: Its name there, such as ``"euclid_vis"``.
    """
    if section not in SECTIONS:
        raise unknown_name("section of parts", section, SECTIONS)
    kinds: dict[str, TypeAdapter[Part]] = {
        "instruments": TypeAdapter(Instrument),
        "sources": TypeAdapter(SersicSource),
        "deflectors": TypeAdapter(SIEShear),
        "substructures": TypeAdapter(Substructure),
    }
    try:
        return kinds[section].validate_python(part_fields(section, name))
    except ValidationError as error:
        raise input_error(error, f"{section}.{name}") from error


def describe_survey(survey: AnySurvey) -> dict[str, object]:
    """Returns the survey as a mapping that :func:`get_any_survey` reads back: what goes into files as provenance."""
    if isinstance(survey, ComposedSurvey):
        return describe(survey)
    described: dict[str, object] = {
        "name": survey.name,
        "description": survey.description,
        "instrument": _describe_part(survey.instrument),
        "source": _describe_part(survey.source),
        "deflector": _describe_part(survey.deflector),
        "substructure": {
            name: [_describe_part(p) for p in survey.substructure[name]]
            for name in survey.class_names
        },
        "z_lens": survey.z_lens,
        "z_source": survey.z_source,
        "cosmology": dataclasses.asdict(survey.cosmology),
        "distances": survey.distances,
        "original_noise": survey.original_noise,
    }
    if isinstance(survey.deflection_scale, SourceConvention):
        described["deflection_scale"] = dataclasses.asdict(survey.deflection_scale)
    elif survey.deflection_scale is not None:
        described["deflection_scale"] = survey.deflection_scale
    return described


def digest_of_own(survey: AnySurvey) -> str | None:
    """Returns what a survey of one's own is known by: a digest of its definition and of the files that it names; None of a shipped one.

    Its name does not tell whether it is still the survey of which something was stored.
    """
    described = describe_survey(survey)
    name = survey.name
    if name in _shipped_survey_names() and described == describe_survey(get_any_survey(name)):
        return None
    text = json.dumps([described, file_digests(described)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_part(part: Part) -> dict[str, object]:
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {
        name: describe_quantity(value) if isinstance(value, Distribution) else value
        for name, value in values.items()
        if value is not None
    }


@functools.cache
def _shipped_survey_names() -> tuple[str, ...]:
    folder = resources.files("haloformer") / "configs" / "surveys"
    return tuple(
        sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    )


@functools.cache
def _shipped_survey(name: str) -> dict[str, object]:
    file = resources.files("haloformer") / "configs" / "surveys" / f"{name}.yaml"
    return read_mapping(parse_yaml(file.read_bytes(), name), name)


def _build(fields: Mapping[str, object], name: str) -> AnySurvey:
    fields = {"name": name} | _with_base(fields, name)
    if "lens" in fields:
        return validated(ComposedSurvey, fields, f"survey {name}")
    return validated(Survey, fields, f"survey {name}")


def _with_base(fields: Mapping[str, object], name: str, depth: int = 0) -> dict[str, object]:
    """Merges a survey's fields over those of its base, whose own base comes first."""
    fields = dict(fields)
    base = fields.pop("base", None)
    if base is None:
        return fields
    if depth > _MOST_BASES or base not in _shipped_survey_names():
        raise unknown_name(f"base in survey {name}", str(base), _shipped_survey_names())
    merged = _with_base(_shipped_survey(str(base)), str(base), depth + 1)
    if depth == 0 and "name" not in fields and "description" not in fields:
        merged.pop("description", None)
    return {**merged, **fields}
