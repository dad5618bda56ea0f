"""Surveys: recipes of lenses, put together from named instruments, sources, deflectors and substructure.

A survey is data. The shipped ones are YAML files in ``haloformer/configs/surveys``, their parts in ``configs/parts.yaml``; a user
writes her own in the same form, starting from any of them by ``base:``, or builds a :class:`Survey` in Python.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from haloformer.errors import InputError
from haloformer.simulation.cosmology import Cosmology, einstein_radius
from haloformer.simulation.distributions import Quantity, describe_quantity, parse_quantity
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.sources import SersicSource
from haloformer.simulation.substructure import PointSubhalos, Substructure, Vortex
from haloformer.vocabulary import CLASS_NAMES, unknown_name

ORIGINAL_NOISE = ("double_poisson", "doubled", "instrument")
"""What ``noise="original"`` means: Model I's twofold Poisson noise, twice the noise-free image (II, III), the instrument's own noise."""


@dataclass(frozen=True)
class SIEShear:
    """A singular isothermal ellipsoid with external shear about the origin. Each number may be a distribution.

    Attributes:
        mass: Point mass in M_sun whose Einstein radius it has; give this or ``theta_E``.
        theta_E: Einstein radius in arcsec.
        e1: Ellipticity.
        e2: Ellipticity.
        x: Centre in arcsec.
        y: Centre in arcsec.
        gamma1: External shear.
        gamma2: External shear.
    """

    mass: Quantity | None = None
    theta_E: Quantity | None = None
    e1: Quantity = 0.0
    e2: Quantity = 0.0
    x: Quantity = 0.0
    y: Quantity = 0.0
    gamma1: Quantity = 0.0
    gamma2: Quantity = 0.0


@dataclass(frozen=True)
class SourceConvention:
    """Deflections ray-traced for a source at another redshift than the source's own (a quirk of the original Models II and III)."""

    z_source_convention: float
    cosmology: Cosmology


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
    """

    name: str
    instrument: Instrument
    source: SersicSource
    deflector: SIEShear
    substructure: Mapping[str, tuple[Substructure, ...]] = field(
        default_factory=lambda: {"axion": (Vortex(),), "cdm": (PointSubhalos(),), "no_sub": ()}
    )
    z_lens: float = 0.5
    z_source: float = 1.0
    cosmology: Cosmology = field(default_factory=Cosmology)
    distances: str = "angular_diameter"
    deflection_scale: float | SourceConvention | None = None
    original_noise: str = "instrument"
    description: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", self.name):
            raise InputError(
                f"survey name {self.name!r}: use up to 64 letters, digits, '_', '-', '.' or '+'"
            )
        if not 0 < self.z_lens < self.z_source:
            raise InputError(
                f"survey {self.name}: needs 0 < z_lens < z_source, not {self.z_lens} and {self.z_source}"
            )
        if not self.substructure:
            raise InputError(f"survey {self.name}: substructure names no class")
        if self.original_noise not in ORIGINAL_NOISE:
            raise unknown_name(
                f"original_noise in survey {self.name}", self.original_noise, ORIGINAL_NOISE
            )
        for which, part, keys in (
            ("source", self.source, ("amp", "magnitude")),
            ("deflector", self.deflector, ("mass", "theta_E")),
        ):
            if sum(getattr(part, key) is not None for key in keys) != 1:
                raise InputError(f"survey {self.name}: {which} needs either {keys[0]} or {keys[1]}")
        if self.source.magnitude is not None and self.instrument.magnitude_zero_point is None:
            raise InputError(
                f"survey {self.name}: source.magnitude needs instrument.magnitude_zero_point; give source.amp instead"
            )
        for name, parts in self.substructure.items():
            if len({type(part) for part in parts}) != len(parts):
                raise InputError(
                    f"survey {self.name}: class {name} has two parts of one kind; at most one vortex and one point_subhalos"
                )
        einstein_radius(
            1.0, self.cosmology, self.z_lens, self.z_source, self.distances
        )  # refuses unknown distances

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in canonical order; a user's own classes follow in alphabetical order."""
        known = [name for name in CLASS_NAMES if name in self.substructure]
        return tuple(known + sorted(set(self.substructure) - set(known)))

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


def list_surveys() -> dict[str, str]:
    """The shipped surveys: name to one-line description."""
    return {
        name: str(_shipped_survey(name).get("description", "")) for name in _shipped_survey_names()
    }


def get_survey(survey: "str | Path | Mapping[str, Any] | Survey") -> Survey:
    """Returns a survey by its name, from a YAML file, or from a mapping of the same form.

    Args:
        survey: A shipped survey's name (``"model_ii"``), the path of a YAML file, a mapping, or a :class:`Survey`, which is returned
            as it is.

    Raises:
        InputError: There is no such survey or file, or a field in it is unknown or makes no sense.
    """
    if isinstance(survey, Survey):
        return survey
    if isinstance(survey, Mapping):
        return _build(dict(survey), str(survey.get("name", "custom")))
    text = str(survey)
    if text in _shipped_survey_names():
        return _build(_shipped_survey(text), text)
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"survey file {path} does not exist")
        return _build(_read_yaml(path.read_bytes(), str(path)), path.stem)
    raise unknown_name("survey", text, _shipped_survey_names())


def get_part(section: str, name: str) -> Instrument | SersicSource | SIEShear | Substructure:
    """Returns a named part.

    Args:
        section: ``"instruments"``, ``"sources"``, ``"deflectors"`` or ``"substructures"``.
        name: Its name there, such as ``"euclid_vis"``.
    """
    if section not in _PART_TYPES:
        raise unknown_name("section of parts", section, _PART_TYPES)
    return _build_part(section, name, f"{section}.{name}")


def describe_survey(survey: Survey) -> dict[str, Any]:
    """The survey as a mapping that :func:`get_survey` reads back: what goes into files as provenance."""
    described: dict[str, Any] = {
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


_PART_TYPES: dict[str, dict[str, type]] = {
    "instruments": {"": Instrument},
    "sources": {"": SersicSource},
    "deflectors": {"": SIEShear},
    "substructures": {"point_subhalos": PointSubhalos, "vortex": Vortex},
}


@functools.cache
def _shipped_survey_names() -> tuple[str, ...]:
    folder = resources.files("haloformer") / "configs" / "surveys"
    return tuple(
        sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    )


@functools.cache
def _shipped_survey(name: str) -> dict[str, Any]:
    source = resources.files("haloformer") / "configs" / "surveys" / f"{name}.yaml"
    return _read_yaml(source.read_bytes(), name)


@functools.cache
def _parts() -> dict[str, Any]:
    return _read_yaml(
        (resources.files("haloformer") / "configs" / "parts.yaml").read_bytes(), "parts.yaml"
    )


def _read_yaml(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > 1 << 20:
        raise InputError(f"{where}: a survey file of {len(data)} bytes is too large to be one")
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{where}: not readable as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{where}: a survey is a mapping of fields, not {type(content).__name__}")
    return content


def _build(fields: dict[str, Any], name: str) -> Survey:
    fields = _resolve_base(fields, name)
    fields.setdefault("name", name)
    known = {f.name for f in dataclasses.fields(Survey)}
    for key in fields:
        if key not in known:
            raise unknown_name(f"field in survey {name}", str(key), known)
    for key in ("instrument", "source", "deflector"):
        if key not in fields:
            raise InputError(
                f"survey {name}: the field '{key}' is missing; name a part, write one, or start from 'base: model_ii'"
            )
        fields[key] = _build_part(key + "s", fields[key], f"survey {name}: {key}")
    if "substructure" in fields:
        classes = fields["substructure"]
        if not isinstance(classes, dict):
            raise InputError(
                f"survey {name}: substructure maps each class to a list of parts, such as {{cdm: [point_subhalos]}}"
            )
        fields["substructure"] = {
            str(key): tuple(
                _build_part("substructures", part, f"survey {name}: substructure.{key}")
                for part in _as_list(parts)
            )
            for key, parts in classes.items()
        }
    if "cosmology" in fields:
        fields["cosmology"] = _build_cosmology(fields["cosmology"], f"survey {name}: cosmology")
    scale = fields.get("deflection_scale")
    if isinstance(scale, dict):
        if set(scale) != {"z_source_convention", "cosmology"}:
            raise InputError(
                f"survey {name}: deflection_scale is a number or has z_source_convention and cosmology"
            )
        fields["deflection_scale"] = SourceConvention(
            _plain(scale["z_source_convention"], f"survey {name}: z_source_convention"),
            _build_cosmology(scale["cosmology"], f"survey {name}: deflection_scale.cosmology"),
        )
    elif scale is not None:
        fields["deflection_scale"] = _plain(scale, f"survey {name}: deflection_scale")
    for key in ("z_lens", "z_source"):
        if key in fields:
            fields[key] = _plain(fields[key], f"survey {name}: {key}")
    for key in ("name", "description", "distances", "original_noise"):
        if key in fields:
            fields[key] = str(fields[key])
    return Survey(**fields)


def _resolve_base(fields: dict[str, Any], name: str, depth: int = 0) -> dict[str, Any]:
    """Merges a survey's fields over those of its base, whose own base comes first."""
    fields = dict(fields)
    base = fields.pop("base", None)
    if base is None:
        return fields
    if depth > 8 or base not in _shipped_survey_names():
        raise unknown_name(f"base in survey {name}", str(base), _shipped_survey_names())
    merged = _resolve_base(_shipped_survey(str(base)), str(base), depth + 1)
    if depth == 0 and "name" not in fields and "description" not in fields:
        merged.pop("description", None)
    return {**merged, **fields}


def _build_part(section: str, spec: Any, where: str) -> Any:
    if dataclasses.is_dataclass(spec):
        return spec
    fields = _part_fields(section, spec, where)
    kinds = _PART_TYPES[section]
    kind = str(fields.pop("kind", "")) if "" not in kinds else ""
    if kind not in kinds:
        raise unknown_name(f"kind in {where}", kind, kinds)
    part_type = kinds[kind]
    types = {f.name: f.type for f in dataclasses.fields(part_type)}
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in types:
            raise unknown_name(f"field in {where}", str(key), types)
        annotation = str(types[key])
        if value is None and "None" in annotation:
            values[key] = None
        elif annotation == "<class 'int'>":
            values[key] = _whole(value, f"{where}.{key}")
        elif "Uniform" in annotation:
            values[key] = parse_quantity(value, f"{where}.{key}")
        else:
            values[key] = _plain(value, f"{where}.{key}")
    if section == "instruments" and not {"num_pix", "pixel_scale"} <= set(values):
        raise InputError(f"{where}: an instrument needs num_pix and pixel_scale")
    return part_type(**values)


def _part_fields(section: str, spec: Any, where: str, depth: int = 0) -> dict[str, Any]:
    known = _parts()[section]
    if isinstance(spec, str):
        if spec not in known:
            raise unknown_name(where, spec, known)
        spec = known[spec]
    if not isinstance(spec, dict):
        raise InputError(
            f"{where}: name a part ({', '.join(known)}) or write its fields as a mapping, not {spec!r}"
        )
    spec = dict(spec)
    base = spec.pop("base", None)
    if base is None:
        return spec
    if depth > 8:
        raise InputError(f"{where}: 'base' refers to itself")
    return {**_part_fields(section, base, f"{where}.base", depth + 1), **spec}


def _build_cosmology(value: Any, where: str) -> Cosmology:
    if isinstance(value, Cosmology):
        return value
    if not isinstance(value, dict) or not set(value) <= {"H0", "Om0"}:
        raise InputError(f"{where}: takes H0 and Om0, not {value!r}")
    return Cosmology(**{key: _plain(number, f"{where}.{key}") for key, number in value.items()})


def _plain(value: Any, where: str) -> float:
    number = parse_quantity(value, where)
    if not isinstance(number, float | int):
        raise InputError(f"{where}: must be a number, the same for every image")
    return float(number)


def _whole(value: Any, where: str) -> int:
    number = _plain(value, where)
    if number != int(number) or number < 0:
        raise InputError(f"{where}: must be a whole number, not {value!r}")
    return int(number)


def _as_list(parts: Any) -> list[Any]:
    if parts is None or parts == "none":
        return []
    return list(parts) if isinstance(parts, list | tuple) else [parts]


def _describe_part(part: Any) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for section in _PART_TYPES["substructures"].items():
        if isinstance(part, section[1]):
            described["kind"] = section[0]
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        if value is not None:
            described[f.name] = describe_quantity(value)
    return described
