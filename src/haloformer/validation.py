"""Validation of what people write in YAML, JSON and on the command line, by pydantic.

`Strict` is the base of all such descriptions: an unknown key is an error that names the nearest
known one. `validated` checks values against one and raises `InputError`, in one line. `checked`
does the same for dataclasses, which are also built and changed in Python.
"""

import dataclasses
import operator
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import pydantic.dataclasses
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticKnownError

from haloformer.errors import InputError, reason_of
from haloformer.files import with_home
from haloformer.vocabulary import did_you_mean, unknown_name

if TYPE_CHECKING:
    import numpy as np


class Strict(BaseModel):
    """A description that cannot be changed and has no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),  # fields may be called model_…: pydantic before 2.10 warns
    )


def _no_bool(fault: Literal["float_type", "int_type"]) -> BeforeValidator:
    """Makes true and false a fault; pydantic would take them for 1 and 0."""

    def check(value: object) -> object:
        if isinstance(value, bool):
            raise PydanticKnownError(fault)
        return value

    return BeforeValidator(check)


Number = Annotated[float, _no_bool("float_type")]
"""A finite number; as a text, too, because YAML reads ``1e6`` as one."""

FileName = Annotated[str, AfterValidator(with_home)]
"""Of a file or folder; ``~`` is the user's own folder, as in a shell."""

WholeNumber = Annotated[int, _no_bool("int_type")]
"""A whole number, which may be written as ``1e6``."""

M = TypeVar("M")

Location = tuple[int | str, ...]
"""Where a fault lies, as pydantic tells it."""


def checked(kind: type[M]) -> type[M]:
    """Makes a frozen dataclass check and convert its fields, in Python as in YAML.

    Numbers may be written as texts (YAML reads ``1e6`` as one); unknown fields and values that do not
    fit their annotations raise `InputError`. ``dataclasses.replace`` checks, too.
    """
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = pydantic.dataclasses.dataclass(kind, config=config, frozen=True)
    construct = made.__init__
    positional = [f.name for f in dataclasses.fields(made) if f.init and not f.kw_only]

    def __init__(self: M, *args: object, **kwargs: object) -> None:
        if len(args) > len(positional):
            raise TypeError(f"{kind.__name__} takes at most {len(positional)} positional arguments")
        try:
            construct(self, **dict(zip(positional, args)), **kwargs)
        except ValidationError as error:
            raise input_error(error, kind.__name__, made) from error
        except (ArithmeticError, UnicodeError) as error:
            raise InputError(
                f"{kind.__name__}: holds a value that cannot be used: {reason_of(error)}"
            ) from error

    made.__init__ = __init__  # pydantic's own raises ValidationError
    made.__doc__ = kind.__doc__  # pydantic makes a subclass, without it
    checked_kind: type[M] = made
    return checked_kind


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
    "dataclass": "a mapping",
    "path": "a path",
    "none": "null",
}
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_SIMPLE = ("bool", "int", "float", "str")  # how pydantic calls alternatives of a simple type
_SHOWN = 60  # characters of a wrong value


def validated(model: type[M], values: Any, where: str) -> M:
    """Returns the values as ``model``.

    Args:
        model: What they describe: a `Strict` or a `checked` dataclass.
        values: As read from YAML or JSON, or given in Python.
        where: Their file or option, for the message.

    Raises:
        InputError: They do not describe one; says in one line which field is wrong and what would be right.
    """
    if isinstance(values, model):
        return values
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise input_error(error, where, model) from error
    except (ArithmeticError, UnicodeError) as error:  # a number or text that nothing can be made of
        raise InputError(
            f"{where}: holds a value that cannot be used: {reason_of(error)}"
        ) from error


def input_error(
    error: ValidationError,
    where: str,
    model: type[Any] | None = None,
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
    fault = max(faults, key=lambda f: (f["type"] in _UNKNOWN_KEY, len(f["loc"])))
    path = spell(fault["loc"])
    kind, context = fault["type"], fault.get("ctx", {})
    start = f"{where}: " if where else ""
    if kind in _UNKNOWN_KEY:
        return _unknown_key(fault["loc"], where, model)
    if kind == "union_tag_invalid":  # which of several kinds it is
        return _unknown_tag(path, where, context)
    if kind == "union_tag_not_found":
        return InputError(f"{start}{path} has no {context['discriminator']}")
    if kind == "missing":
        return InputError(f"{start}{path} is missing")
    if kind in ("value_error", "assertion_error"):
        # Raised by a validator of ours, which says what would be right.
        message = str(context.get("error", fault["msg"]))
        return InputError(
            f"{start}{message}" if not path or path in message else f"{start}{path}: {message}"
        )
    alternatives = [other for other in faults if spell(other["loc"]) == path]
    wanted = _wanted_instead(fault, alternatives, model)
    hint = _nearest(fault["input"], context) if kind == "literal_error" else ""
    return InputError(f"{start}{path or 'it'} must be {wanted}, not {_shown(fault['input'])}{hint}")


def _unknown_key(loc: Location, where: str, model: type[Any] | None) -> InputError:
    inside, known = field_path(loc[:-1]), _fields_at(model, loc[:-1])
    place = " in ".join(part for part in (f"key in {inside}" if inside else "key", where) if part)
    if known:
        return unknown_name(place, str(loc[-1]), known)
    return InputError(f"unknown {place}: '{field_path(loc)}'")


def _unknown_tag(path: str, where: str, context: Mapping[str, Any]) -> InputError:
    key = str(context["discriminator"]).strip("'")
    place = " in ".join(part for part in (f"{key} of {path}" if path else key, where) if part)
    return unknown_name(place, str(context["tag"]), _quoted(context["expected_tags"]))


def _wanted_instead(
    fault: ErrorDetails, alternatives: Sequence[ErrorDetails], model: type[Any] | None
) -> str:
    """Returns what would be right, in words, by the faults of all that a value may be."""
    wanted = [_wanted(other["type"], other.get("ctx", {})) for other in alternatives]
    if fault["type"] not in _BOUNDS and _may_be_null(model, fault["loc"]):
        wanted.append(_WANTED["none"])
    return " or ".join(dict.fromkeys(wanted))


def field_path(loc: Location) -> str:
    """Returns where a fault lies as ``source.R_sersic[0]``; names of the alternatives that pydantic tried are left out."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif path == "" or (part.isidentifier() and part not in _SIMPLE):
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


def _quoted(text: str) -> list[str]:
    """Returns the names that one of pydantic's messages has between quotes."""
    return re.findall(r"'([^']*)'", text)


def _nearest(value: Any, context: Mapping[str, Any]) -> str:
    hint = did_you_mean(str(value), _quoted(context["expected"]))
    return f": {hint}" if hint else ""


def _fields_at(model: type[Any] | None, loc: Location) -> list[str]:
    """Returns the field names of the model at a place inside a model."""
    return list(
        dict.fromkeys(name for kind in _models_at(model, loc) for name in _annotations(kind))
    )


def _may_be_null(model: type[Any] | None, loc: Location) -> bool:
    """Whether the field at a place inside a model may also be null."""
    if not loc:
        return False
    loc = loc[:-1] if loc[-1] in _SIMPLE else loc
    owners = [kind for kind in _models_at(model, loc[:-1]) if loc[-1] in _annotations(kind)]
    return any(type(None) in typing.get_args(_annotations(kind)[str(loc[-1])]) for kind in owners)


def _models_at(model: type[Any] | None, loc: Location) -> list[type[Any]]:
    """Returns the models that may stand at a place inside a model, by following its annotations."""
    candidates = [] if model is None else [model]
    for part in loc:
        owners = [kind for kind in candidates if part in _annotations(kind)]
        if owners:
            annotations = [_annotations(kind)[str(part)] for kind in owners]
            candidates = [kind for annotation in annotations for kind in _models_in(annotation)]
        else:  # a position in a list, a key of a mapping, or which of several kinds it is
            named = [kind for kind in candidates if part == kind.__name__ or _has_tag(kind, part)]
            candidates = named or candidates
    return candidates


def _annotations(kind: type[Any]) -> dict[str, Any]:
    """Returns the fields of a model or dataclass with their annotations."""
    if issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return {field.alias or name: field.annotation for name, field in fields}
    return {field.name: field.type for field in dataclasses.fields(kind)}


def _models_in(annotation: Any) -> list[type[Any]]:
    """Returns the models and dataclasses that an annotation names anywhere inside."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    ):
        return [annotation]
    return [kind for inner in typing.get_args(annotation) for kind in _models_in(inner)]


def _has_tag(kind: type[Any], tag: int | str) -> bool:
    """Returns whether a field of a model or dataclass can only be ``tag``, which tells alternatives apart."""
    return any(typing.get_args(annotation) == (tag,) for annotation in _annotations(kind).values())


def check_one_of(where: str, **given: Any) -> None:
    """Raises InputError unless one of some values is given, and the others are None.

    Args:
        where: What takes it, for the message.
        given: The values by their names.
    """
    there = [name for name, value in given.items() if value is not None]
    if len(there) != 1:
        which = "none of them is given" if not there else f"{' and '.join(there)} are given"
        raise InputError(f"{where} takes one of {', '.join(given)}: {which}")


LARGEST_KEYWORD = 10_000
"""Of a network's numbers: no width, depth or patch of an image model is near it."""

_DEEPEST = 3  # of lists inside lists


def plain_keyword(value: Any, depth: int = 0) -> Any:
    """Returns a keyword of a network as it may stand in a file, of NumPy's numbers Python's.

    Raises:
        ValueError: It is no text, truth value or number up to :data:`LARGEST_KEYWORD`, no list of such, and not None.
    """
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return type(value)([plain_keyword(item, depth + 1) for item in value])
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    if isinstance(value, int | float) and not isinstance(value, bool):
        fits = abs(value) <= LARGEST_KEYWORD  # which NaN is not
    else:
        fits = value is None or isinstance(value, bool | str)
    if not fits:
        raise ValueError(f"must hold numbers up to {LARGEST_KEYWORD:,}, texts, and lists of them")
    return value


def whole_number(value: Any, what: str, least: int = 0) -> int:
    """Returns a whole number of any integer type; raises InputError for what is none, or below ``least``.

    Args:
        value: What was given. True and False are no numbers here.
        what: What it is called in the message.
        least: The smallest that can be.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise InputError(f"{what} must be a whole number, not {value!r}")
    if found < least:
        raise InputError(f"{what} must be at least {least}, not {found}")
    return found


def whole_numbers(values: Any, what: str) -> "np.ndarray":
    """Returns whole numbers as int64 of any shape; raises InputError for all else.

    NumPy would make numbers of a mask, and round down those with a fraction.

    Args:
        values: A number, list, array or tensor.
        what: What they are called in the message.
    """
    import numpy as np  # on first use: the help of no command needs it

    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths, a GPU's tensor
        found = np.array(None)
    if found.dtype.kind == "b":
        raise InputError(
            f"{what} must be whole numbers, not a mask: numpy.flatnonzero(mask) gives them"
        )
    fits = found.dtype.kind == "i" or (found.dtype.kind == "u" and (found < 2**63).all())
    if found.size and not fits:
        raise InputError(
            f"{what} must be whole numbers, not {type(values).__name__} of {found.dtype}"
        )
    whole: np.ndarray = found.astype(np.int64)
    return whole


def check_name(what: str, name: str) -> None:
    """Raises InputError for a name that could not be a folder's or a column's on every system.

    Args:
        what: What it names, for the message.
        name: Up to 64 letters, digits, '_', '-', '.' or '+', of which the first is a letter or digit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", name):
        raise InputError(f"{what} {name!r}: use up to 64 letters, digits, '_', '-', '.' or '+'")
