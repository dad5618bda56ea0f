"""From a command's typed function to options, and from arguments to its keywords.

The signature gives names, types and defaults, the docstring the help. jsonargparse reads the values;
what it finds wrong becomes one line.
"""

import argparse
import functools
import importlib
import inspect
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from haloformer.cli.layout import filled, filled_paragraphs
from haloformer.cli.registry import Command
from haloformer.cli.shared import OPTIONS, Shared
from haloformer.errors import InputError
from haloformer.files import read_yaml, with_home
from haloformer.vocabulary import did_you_mean

_READING = (
    "haloformer.readers.reading"  # its `Reading` describes options that several commands share
)


class _Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Shows types in words, and defaults; breaks lines between words alone."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return filled_paragraphs(text, width)

    def _format_usage(self, usage: str | None, *arguments: Any, **more: Any) -> str:
        return filled(f"usage: {usage}", self._width, hanging="  ") + "\n\n"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return filled(" ".join(text.split()), width).split("\n")

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Returns an option and what stands for its value; choices are said in the text."""
        if not action.option_strings:
            many = {"*": " ...", "+": " ..."}
            return action.dest + many.get(str(action.nargs), "")
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        if action.nargs == 0 or action.dest == "print_config":
            return names
        plain = action.metavar is None or str(action.metavar).startswith("{")  # the choices
        metavar = action.dest.upper() if plain else str(action.metavar)
        return f"{names} {metavar}".strip()

    def start_section(self, heading: str | None) -> None:
        """Begins a group; its heading is no wider than the screen."""
        super().start_section(heading and filled(heading, self._width - 1))


_LIBRARY_TEXTS = {
    "help": "Show this help.",
    "print_config": "Print all options as YAML, for --config, and do nothing.",
}


class _Parser(ArgumentParser):
    """A parser that raises `InputError`, in one line, for what is wrong.

    Attributes:
        hints: Option → its type.
        given: The arguments that are parsed, in the usual spelling.
    """

    def __init__(self, name: str, description: str) -> None:
        super().__init__(
            prog=f"haloformer {name}", description=description, formatter_class=_Formatter
        )
        self.hints: dict[str, object] = {}
        self.given: Sequence[str] = ()

    def format_help(self, *arguments: Any, **more: Any) -> str:
        """Returns the help, in our words where they are the library's."""
        self._action_groups[0].title = "arguments"
        for action in self._actions:
            if action.dest in _LIBRARY_TEXTS:
                action.help = _LIBRARY_TEXTS[action.dest]
        text: str = super().format_help(*arguments, **more)
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(
            f"{_in_our_words(message, self.hints, self.given)} (see {self.prog} --help)"
        )


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes:
        keywords: For the command's function.
        shared: Options that all commands have.
        out: Of a command that prints a text: the file for it, or ``-``; None if not given.
    """

    keywords: dict[str, Any]
    shared: Shared
    out: str | None = None


def parse(
    name: str, command: Command, function: Callable[..., object], arguments: Sequence[str]
) -> dict[str, Any]:
    """Returns the keywords for a command's function that were given; see `read`."""
    return read(name, command, function, arguments).keywords


def read(
    name: str, command: Command, function: Callable[..., object], arguments: Sequence[str]
) -> Request:
    """Returns what is asked for by a command line.

    Args:
        name: The command.
        command: How its function is used.
        function: What carries it out.
        arguments: What follows the command.

    Raises:
        InputError: An unknown option, or a value of the wrong type.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    _refuse_nothing(arguments)
    parameters = inspect.signature(function).parameters
    parser = parser_of(name, command, function)
    if not command.experiment:
        _check_configs(arguments, {key: parameters[key] for key in command.positional})
    parser.given = _usual_spelling(arguments, parser.hints)
    values = parser.parse_args(parser.given).as_dict()
    values = {key: _at_home(value) for key, value in values.items()}  # those of --config, too
    shared = Shared.of(values)
    ours = {key for key in OPTIONS if key not in parameters}
    out = values.get("out") if command.text else None
    ours |= {"out"} if command.text else set()
    values = {key: value for key, value in values.items() if key not in ours}
    if not command.experiment:
        values.pop("config", None)
        return Request(values, shared, out)
    fields = {key for key in values if key not in parameters}
    keywords = {key: value for key, value in values.items() if key not in fields}
    return Request({**keywords, "options": {key: values[key] for key in fields}}, shared, out)


def _at_home(value: object) -> object:
    """Returns a text, or a list of texts, with the user's own folder in place of ``~/``."""
    if isinstance(value, list):
        return [_at_home(each) for each in value]
    return with_home(value) if isinstance(value, str) else value


def _refuse_nothing(arguments: Sequence[str]) -> None:
    """Refuses arguments without a letter: as a path, nothing would be the current folder."""
    before = ""
    for argument in arguments:
        option, is_joined, value = argument.partition("=")
        if not argument.strip():
            what = before if before.startswith("--") and "=" not in before else "an argument"
        elif is_joined and option.startswith("--") and not value.strip():
            what = option
        else:
            before = argument
            continue
        raise InputError(
            f"{what} is empty: give a name or value (is a variable of the shell not set?)"
        )


def parser_of(name: str, command: Command, function: Callable[..., object]) -> _Parser:
    """Returns the parser of a command, with all its options."""
    parameters = inspect.signature(function).parameters
    parser = _Parser(name, _description(function, command.examples))
    _add_function(parser, function, command)
    if command.experiment:
        _add_experiment(parser, skip=parameters)
    _add_shared(parser, command, skip=parameters)
    needed = [
        f"--{key} {key.upper()}"
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in command.positional
    ]
    places = [_place(key, parameters[key]) for key in command.positional]
    field = ["[--FIELD VALUE ...]"] if command.experiment else []
    parser.usage = " ".join(["haloformer", name, *places, *needed, "[options]", *field])
    return parser


def _place(name: str, parameter: inspect.Parameter) -> str:
    shown = name.upper() + (" ..." if "list" in str(parameter.annotation) else "")
    return shown if parameter.default is inspect.Parameter.empty else f"[{shown}]"


def _add_shared(parser: _Parser, command: Command, skip: typing.Container[str]) -> None:
    """Adds the options that all commands have."""
    section = parser.add_argument_group("all commands have")
    texts: dict[str, tuple[object, str]] = {key: (bool, text) for key, text in OPTIONS.items()}
    if not command.dry_run:
        del texts["dry_run"]
    if command.text:
        texts["out"] = (str, "File for what is printed; -: the screen.")
    for key, (hint, text) in texts.items():
        if key in skip:
            continue
        parser.hints[key] = hint
        section.add_argument(
            f"--{key}",
            type=typing.cast(Any, hint),
            default=argparse.SUPPRESS,
            help=text if hint is bool else _with_type(text, hint, ""),
            **_metavar(hint),
        )


def _check_configs(arguments: Sequence[str], positional: Mapping[str, inspect.Parameter]) -> None:
    """Reads the files given by ``--config`` under our limits, before the parser does without any.

    Args:
        arguments: What follows the command.
        positional: What has no ``--``: of its kinds in a file the parser tells nothing that a user understands.
    """
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        following = value if equals else next(iter(arguments[i + 1 : i + 2]), "")
        if option != "--config" or not os.path.exists(following):
            continue
        found = read_yaml(following)
        if not isinstance(found, dict):
            raise InputError(
                f"{following}: options are needed, a name and a value each, such as out: x.csv"
            )
        for name in positional.keys() & found.keys():
            _check_positional(f"{following}: {name}", found[name], positional[name])


def _check_positional(what: str, value: object, parameter: inspect.Parameter) -> None:
    if value is None:
        if parameter.default is inspect.Parameter.empty:
            raise InputError(f"{what} is null: write what it is, or remove the line")
        return
    many = "list" in str(parameter.annotation)
    texts = value if many else [value]
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        kind = "a list of texts, such as [a, b]" if many else "a text"
        raise InputError(f"{what} must be {kind}, not {value!r}")


def _add_function(parser: _Parser, function: Callable[..., object], command: Command) -> None:
    """Adds an option for each argument of a function, and ``--config``.

    A function that takes an experiment reads YAML files itself.
    """
    texts = _argument_texts(function)
    parameters = inspect.signature(function).parameters
    for name in command.positional:
        many = "list" in str(parameters[name].annotation)
        optional = parameters[name].default is not inspect.Parameter.empty
        nargs = ("*" if optional else "+") if many else ("?" if optional else None)
        more: dict[str, Any] = {} if nargs is None else {"nargs": nargs}
        needed = "" if optional else " (needed)"
        parser.add_argument(name, type=str, help=_help(texts, name) + needed, **more)
    if not command.experiment:
        parser.add_argument(
            "--config",
            action="config",
            help="YAML file with any of the options below; --print_config writes one.",
        )
    for name, parameter in parameters.items():
        if name in command.positional or (command.experiment and name == "options"):
            continue
        hint = parameter.annotation
        parser.hints[name] = hint
        required = parameter.default is inspect.Parameter.empty
        given: dict[str, Any] = {"required": True} if required else {"default": parameter.default}
        said = "needed" if required else _default_text(parameter.default)
        text = _with_type(_help(texts, name), hint, said)
        parser.add_argument(f"--{name}", type=hint, help=text, **given, **_metavar(hint))


def _add_experiment(parser: _Parser, skip: typing.Container[str]) -> None:
    """Adds an option for every field of an experiment, by its short name."""
    from haloformer.training.config import GROUPS, SHORT_NAMES

    for group, kind in GROUPS.items():
        texts, hints = _argument_texts(kind), typing.get_type_hints(kind)
        summary = (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
        section = parser.add_argument_group(f"{group}: {summary}")
        for short, (owner, field) in SHORT_NAMES.items():
            if owner != group or short in skip:
                continue
            hint, default = _written_with_bars(hints[field]), getattr(kind(), field)
            if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is ...:
                hint = hint | str  # one name needs no brackets
            parser.hints[short] = hint
            section.add_argument(
                f"--{short}",
                type=hint,
                default=argparse.SUPPRESS,
                help=_with_type(_help(texts, field), hint, _default_text(default)),
                **_metavar(hint),
            )


def _default_text(default: object) -> str:
    if default in ("", {}) or default is None:
        return ""
    if isinstance(default, bool):
        return "default: yes" if default else ""
    if isinstance(default, str):
        default = default.split(",")  # which are lists, too: broken between their items
    shown = ", ".join(map(str, default)) if isinstance(default, tuple | list) else default
    return f"default: {shown}"


def _with_type(text: str, hint: object, more: str) -> str:
    """Returns a help with the type in words, and the default."""
    words = _type_for_help(hint)
    said = "; ".join(part for part in (words, more) if part)
    return f"{text} ({said})".replace("%%", "%").replace("%", "%%")


def _type_for_help(hint: object) -> str:
    """Returns the type in words; that nothing need be given is clear from the default."""
    kinds = [kind for kind in _alternatives(hint) if kind is not type(None)]
    if str in kinds and any(typing.get_origin(kind) in (list, tuple) for kind in kinds):
        kinds.remove(str)  # names with commas
    words = ("yes or no" if kind is bool else _one_type_in_words(kind) for kind in kinds)
    return " or ".join(text.removeprefix("a ") for text in words)


def _metavar(hint: object) -> dict[str, Any]:
    """Returns how the value of a switch is shown; nothing for other options."""
    if bool not in _alternatives(hint):
        return {}
    return {"metavar": "[NAME]" if str in _alternatives(hint) else ""}


def _description(function: Callable[..., object], examples: Sequence[str]) -> str:
    """Returns a docstring up to its arguments, and the examples."""
    head = (inspect.getdoc(function) or "").split("\nArgs:")[0].strip().replace("``", "")
    if examples:
        head += "\n\nExamples:\n" + "\n".join(f"    {line}" for line in examples)
    return head


def _argument_texts(documented: object) -> Mapping[str, str]:
    """Returns what a docstring says of each argument or attribute, without line breaks."""
    found = parse_docstring(inspect.getdoc(documented) or "").params
    return {text.arg_name: " ".join((text.description or "").split()) for text in found}


def _help(texts: Mapping[str, str], name: str) -> str:
    text = texts.get(name) or _reading_texts().get(name, "")
    text = text.replace("``", "").replace("%", "%%")
    return text.partition(" Short name:")[0]


@functools.cache
def _reading_texts() -> Mapping[str, str]:
    """Returns the help of the reading options, for commands that do not repeat it."""
    try:
        return _argument_texts(importlib.import_module(_READING).Reading)
    except ModuleNotFoundError:
        return {}


def _usual_spelling(arguments: Sequence[str], hints: Mapping[str, object]) -> list[str]:
    """Takes ``--batch-size`` for ``--batch_size`` and ``--overwrite`` for ``--overwrite true``.

    Values stay as they are, but for ``~/``, which shells leave in ``--out=~/x`` and in quotes.
    """
    translated: list[str] = []
    for i, argument in enumerate(arguments):
        if argument == "--":
            return [*translated, *map(with_home, arguments[i:])]
        if argument.startswith("--"):
            option, equals, value = argument.removeprefix("--").partition("=")
            option = _short(option.replace("-", "_"))
            is_switch = bool in _alternatives(hints.get(option))
            if is_switch and not equals and not _is_value(arguments[i + 1 : i + 2], hints[option]):
                equals, value = "=", "true"
            argument = f"--{option}{equals}{with_home(value)}"
        translated.append(with_home(argument))
    return translated


def _is_value(following: Sequence[str], hint: object) -> bool:
    """Whether what follows a switch is its value."""
    if str in _alternatives(hint):
        return bool(following) and not following[0].startswith("--")
    return list(following) in (["true"], ["false"], ["null"])


def _short(option: str) -> str:
    """Takes ``optimizer.lr`` for ``lr``; other dotted options stay."""
    group, dot, _ = option.partition(".")
    if not dot:
        return option
    from haloformer.training.config import GROUPS, short_name

    return short_name(option) if group in GROUPS else option


def _in_our_words(message: str, hints: Mapping[str, object], given: Sequence[str]) -> str:
    """Returns one of jsonargparse's messages as one line that says what would be right.

    Args:
        message: What jsonargparse says; of a choice its older versions do not say what was given.
        hints: Option → its type.
        given: The arguments.
    """
    text = " ".join(message.split()).removeprefix("Validation failed: ").removeprefix("error: ")
    if found := re.search(r"unrecognized arguments: ([^\s=]+)", text, flags=re.IGNORECASE):
        unknown = found[1]
        known = [f"--{name}" for name in (*hints, "config", "print_config", "help")]
        what = "option" if unknown.startswith("--") else "argument"
        hint = did_you_mean(unknown, known)
        return f"unknown {what} '{unknown}'{': ' if hint else ''}{hint}"
    if found := re.match(r'Parser key "(\w+)": (.*)', text):
        name, reason = found[1], found[2]
        if name not in hints:
            return f"{name}: {reason}"
        _, got, value = reason.rpartition("value: ")
        value = value if got else _value_of(name, given)
        wanted = f"{name} must be {type_in_words(hints[name])}"
        return wanted + (f", not {value}{_meant_by_file(name, value, hints)}" if value else "")
    return text


def _value_of(name: str, given: Sequence[str]) -> str:
    """Returns what an option was given, or nothing."""
    value = ""
    for argument, following in zip(given, [*given[1:], ""]):
        option, equals, joined = argument.partition("=")
        if option == f"--{name}":
            value = joined if equals else following
    return value


def _meant_by_file(name: str, value: str, hints: Mapping[str, object]) -> str:
    """Returns which option is meant where one that takes no file was given one, such as ``--noise noise.fits``."""
    longer = [f"--{each}" for each in hints if each.startswith(f"{name}_")]
    if not longer or not re.fullmatch(r".*\.\w{2,5}", value.strip("'\"")):
        return ""
    return f": did you mean {' or '.join(longer)}?"


def _alternatives(hint: object) -> tuple[object, ...]:
    """Returns the types of a union; a type alone is one."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _written_with_bars(hint: object) -> Any:
    """Returns ``int | None`` for ``Optional[int]``, as ``--help`` shows types."""
    return functools.reduce(operator.or_, typing.cast(tuple[Any, ...], _alternatives(hint)))


def type_in_words(hint: object) -> str:
    """Returns what a value of a type is, for people: ``a whole number or null``."""
    return " or ".join(map(_one_type_in_words, _alternatives(hint)))


def _one_type_in_words(hint: object) -> str:
    origin, items = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, items))
    if origin is tuple and typing.get_origin(items[0]) is typing.Literal:
        return f"a list of names out of {', '.join(typing.get_args(items[0]))}"
    if origin in (tuple, list):
        number = f"{len(items)} " if origin is tuple and items[-1] is not ... else ""
        return f"a list of {number}{_one_type_in_words(items[0]).partition(' ')[2]}s"
    words: dict[object, str] = {
        type(None): "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    return words.get(hint, "a mapping of names to values")
