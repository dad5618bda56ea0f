"""What people write in YAML, JSON and on the command line, checked by pydantic; what is wrong becomes one line.

`Strict` is the base of all such descriptions: unknown keys are refused, with the nearest known one. `validated` checks values against one
and raises `InputError`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name


class Strict(BaseModel):
    """A description that cannot be changed and has no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


M = TypeVar("M", bound=BaseModel)
Location = tuple[int | str, ...]
"""Where a fault lies, as pydantic tells it."""

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "a text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "path": "a path",
    "none": "null",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_SHOWN = 60  # characters of a wrong value


def validated(model: type[M], values: Any, where: str) -> M:
    """Returns the values as ``model``.

    Args:
        model: What they describe.
        values: As read from YAML or JSON, or given in Python.
        where: Their file or option, for the message.

    Raises:
        InputError: They do not describe one; says in one line which field is wrong and what would be right.
    """
    if isinstance(values, model):
        return values
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise input_error(error, where, model) from error


def input_error(
    error: ValidationError,
    where: str,
    model: type[BaseModel] | None = None,
    *,
    spell: Callable[[Location], str] | None = None,
) -> InputError:
    """Returns the first fault of a validation as an error of one line.

    Args:
        error: What pydantic found.
        where: The file or option, to begin the line with; may be empty.
        model: What was validated, to name the nearest known key.
        spell: How a field's place is written; `field_path` by default.
    """
    spell = spell or field_path
    faults = error.errors(include_url=False)
    # Of a value that may be one of several things, the fault that goes deepest says most.
    fault = max(faults, key=lambda f: (f["type"] == "extra_forbidden", len(f["loc"])))
    path = spell(fault["loc"])
    kind, context = fault["type"], fault.get("ctx", {})
    start = f"{where}: " if where else ""
    if kind == "extra_forbidden":
        return _unknown_key(fault["loc"], where, model)
    if kind == "missing":
        return InputError(f"{start}{path} is missing")
    if kind in ("value_error", "assertion_error"):
        # Raised by a validator of ours, which says what would be right.
        message = str(context.get("error", fault["msg"]))
        return InputError(
            f"{start}{message}" if not path or path in message else f"{start}{path}: {message}"
        )
    same_place = [f for f in faults if spell(f["loc"]) == path]
    wanted = [_wanted(f["type"], f.get("ctx", {})) for f in same_place]
    if kind not in _BOUNDS and _may_be_null(model, fault["loc"]):
        wanted.append(_WANTED["none"])
    return InputError(
        f"{start}{path or 'it'} must be {' or '.join(dict.fromkeys(wanted))}, "
        f"not {_shown(fault['input'])}"
    )


def _unknown_key(loc: Location, where: str, model: type[BaseModel] | None) -> InputError:
    inside, known = field_path(loc[:-1]), _fields_at(model, loc[:-1])
    place = " in ".join(part for part in (f"key in {inside}" if inside else "key", where) if part)
    if known:
        return unknown_name(place, str(loc[-1]), known)
    return InputError(f"unknown {place}: '{field_path(loc)}'")


def field_path(loc: Location) -> str:
    """Returns where a fault lies as ``source.R_sersic[0]``; names of the alternatives that pydantic tried are left out."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() or path == "":
            path += f".{part}" if path else part
    return path


def _wanted(kind: str, context: Mapping[str, Any]) -> str:
    """Returns what would be right, in words, for one of pydantic's kinds of faults."""
    if kind in _BOUNDS:
        key, word = _BOUNDS[kind]
        bound = context[key]
        return f"{word} {bound if isinstance(bound, int) else f'{bound:g}'}"
    if kind in ("literal_error", "enum"):
        return f"one of {context['expected']}"
    if kind in ("too_short", "too_long"):
        key, word = ("min_length", "at least") if kind == "too_short" else ("max_length", "at most")
        return f"of {word} {context[key]} item{'' if context[key] == 1 else 's'}"
    return _WANTED.get(kind.split("_")[0], kind.replace("_", " "))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _fields_at(model: type[BaseModel] | None, loc: Location) -> list[str]:
    """Returns the field names of the model at a place inside a model."""
    inner = _model_at(model, loc)
    return [] if inner is None else list(inner.model_fields)


def _may_be_null(model: type[BaseModel] | None, loc: Location) -> bool:
    """Whether the field at a place inside a model may also be null."""
    outer = _model_at(model, loc[:-1])
    if outer is None or not loc or loc[-1] not in outer.model_fields:
        return False
    return type(None) in get_args(outer.model_fields[str(loc[-1])].annotation)


def _model_at(model: type[BaseModel] | None, loc: Location) -> type[BaseModel] | None:
    """Returns the model at a place inside a model, found by following its annotations."""
    for part in loc:
        if model is None or part not in model.model_fields:
            return None
        annotation = model.model_fields[str(part)].annotation
        inner = [annotation, *get_args(annotation)]
        model = next(
            (kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), None
        )
    return model
