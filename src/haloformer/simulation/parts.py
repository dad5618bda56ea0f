"""Named parts of surveys, from ``haloformer/configs/parts.yaml``: instruments, sources, deflectors and substructure."""

import functools
from collections.abc import Mapping
from importlib import resources
from typing import TypeVar

import yaml
from pydantic import BeforeValidator

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

SECTIONS = ("instruments", "sources", "deflectors", "substructures")

_DEEPEST = 8  # parts that start from one another

T = TypeVar("T")


def named_part(section: str) -> BeforeValidator:
    """Lets a field also take a part's name, or a mapping whose ``base`` is a name, beside the part itself."""
    return BeforeValidator(lambda value: part_fields(section, value))


def named_parts(section: str) -> BeforeValidator:
    """Lets a field take a list of what :func:`named_part` takes, one of them alone, or ``none``."""

    def read(value: object) -> tuple[object, ...]:
        if value is None or value == "none":
            return ()
        several = value if isinstance(value, list | tuple) else [value]
        return tuple(part_fields(section, part) for part in several)

    return BeforeValidator(read)


def part_fields(section: str, part: T, depth: int = 0) -> T | dict[str, object]:
    """Returns the fields of a part that is given by name or starts from another by ``base``.

    Args:
        section: One of :data:`SECTIONS`.
        part: A name, a mapping, or a part that is already built, which is returned as it is.
        depth: How many parts it starts from so far.

    Raises:
        InputError: There is no part of that name.
    """
    if not isinstance(part, str | Mapping):
        if not hasattr(part, "__dataclass_fields__"):
            names = ", ".join(_shipped_parts()[section])
            raise InputError(f"must be the name of a part ({names}) or its fields, not {part!r}")
        return part
    if isinstance(part, str):
        known = _shipped_parts()[section]
        if part not in known:
            raise unknown_name(section.removesuffix("s"), part, known)
        return part_fields(section, known[part], depth + 1)
    fields = {str(key): value for key, value in part.items()}
    base = fields.pop("base", None)
    if base is None:
        return fields
    if depth > _DEEPEST:
        raise InputError("'base' refers to itself")
    inherited = part_fields(section, base, depth + 1)
    if not isinstance(inherited, Mapping):
        raise InputError("'base' is the name of a part")
    return {**inherited, **fields}


@functools.cache
def _shipped_parts() -> dict[str, dict[str, dict[str, object]]]:
    file = resources.files("haloformer") / "configs" / "parts.yaml"
    parts: dict[str, dict[str, dict[str, object]]] = yaml.safe_load(file.read_bytes())
    return parts


def read_mapping(content: object, where: str) -> dict[str, object]:
    """Returns what was read from YAML as a mapping; raises InputError for anything else."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: a survey is a mapping of fields, not {type(content).__name__}")
    return {str(key): value for key, value in content.items()}
