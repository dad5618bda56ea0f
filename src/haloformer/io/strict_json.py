"""JSON as the standard has it, which knows no NaN."""

import json
import math
from pathlib import Path
from typing import Any

from haloformer.errors import InputError


def to_json(result: dict[str, Any]) -> str:
    """Returns the result as strict JSON; NaN, which JSON does not know, becomes null."""
    return json.dumps(without_nan(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def without_nan(value: Any) -> Any:
    """Returns the value with null for each number that JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# These keep a malformed artefact from asking for absurd memory, and from making the model factory download or open
# other files.
_MAX_JSON_BYTES = 1 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file of reasonable size holds."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{path}: too large for the description of a model")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object")
    return content
