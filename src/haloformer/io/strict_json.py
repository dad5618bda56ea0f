"""JSON as the standard has it: no NaN, no name twice; files of bounded size."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haloformer.errors import InputError, reason_of
from haloformer.files import check_regular

MAX_JSON_BYTES = 1 << 20
"""Of a file that is read: keeps a malformed artefact from asking for absurd memory."""

_MAX_DIGITS = 100  # of a whole number


def to_json(value: object) -> str:
    """Returns the value as indented JSON; NaN and infinite numbers become null."""
    return json.dumps(without_nan(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_json_line(value: object) -> str:
    """Returns the value as JSON in one line of ASCII; NaN and infinite numbers become null."""
    return json.dumps(without_nan(value), allow_nan=False)


def without_nan(value: object) -> object:
    """Returns the value with None for each number that JSON does not know, and texts as keys."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parse_json(text: str, where: object, *, nan: float | None = None) -> Any:  # may be anything
    """Returns what a JSON text says.

    Args:
        text: The JSON.
        where: What it was read from, for messages.
        nan: Stands for NaN and infinity, which other programs write; None as in `to_json`.

    Raises:
        InputError: It is not valid JSON, an object has a name twice, a number more than a hundred
            digits, or a text half a character.
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=_unique_names,
            parse_constant=lambda name: nan,
            parse_int=_bounded_int,
        )
        if "\\ud" in text.lower():  # half a character, which no file can hold
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not valid JSON: {error}") from error


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Returns the object that a JSON file of at most so many bytes holds.

    Raises:
        InputError: The file is too large, cannot be read, or does not hold one JSON object.
    """
    content = read_any_json(path, most)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object")
    return content


def read_any_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """Returns what a JSON file of at most so many bytes holds; raises InputError as `read_json`."""
    check_regular(path)
    try:
        if path.stat().st_size > most:
            raise InputError(f"{path}: is larger than {most >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    # NaN stays NaN, so that the check of its field refuses it by name.
    return parse_json(text, path, nan=math.nan)


def _bounded_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' is there twice")
    return found
