"""The command ``haloformer``: typed functions turned into commands by jsonargparse, and errors into one line and an exit code.

Only the command that is asked for is imported, so that ``haloformer --help`` is instant; and what carries it out only when its options
are known to be right, so that its own ``--help`` is, too.
"""

import ast
import difflib
import errno
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from haloformer._version import __version__
from haloformer.errors import InputError


@dataclass(frozen=True)
class Command:
    """A function that is a command: its signature becomes the options, its docstring their help.

    Attributes:
        summary: One line for the overview.
        home: Module that defines the function, which has the command's name.
        positional: Arguments that are given without a name.
        present: Function of ``haloformer.commands`` that shows the result to people and may return the exit code.
        examples: Lines for ``--help``, where the docstring is the library's and has none for the command line.
        experiment: It takes the fields of an experiment as options, too.
    """

    summary: str
    home: str = "haloformer.commands"
    positional: tuple[str, ...] = ()
    present: str | None = None
    examples: tuple[str, ...] = ()
    experiment: bool = False


COMMANDS: dict[str, Command] = {
    "simulate": Command("simulate lenses of a survey into a dataset file", positional=("survey",)),
    "convert": Command(
        "make a dataset file of DeepLense folders, archives or labelled images", positional=("src",)
    ),
    "inspect": Command(
        "show what a dataset file holds, as tables and as a figure", positional=("data",)
    ),
    "train": Command(
        "train a network on a dataset file or on freshly simulated images",
        experiment=True,
    ),
    "study": Command(
        "run a study: what augmentation, regularisation, transfer, data size … are worth",
        "haloformer.studies.run",
        positional=("name",),
        present="print_study",
        experiment=True,
        examples=(
            "haloformer study augmentation",
            "haloformer study augmentation --seeds 5 --epochs 12 --out studies/longer",
            "haloformer study transfer --only 'scratch-*,full-*' --seeds 1",
            "haloformer study augmentation --report_only",
        ),
    ),
    "benchmark": Command(
        "train many networks alike and rank them, beside published AUCs",
        "haloformer.studies.leaderboard",
        present="print_leaderboard",
        experiment=True,
        examples=(
            "haloformer benchmark --models '*_nano' --surveys model_ii,model_iii --seeds 3",
            "haloformer benchmark --models resnet18,coatnet_nano --surveys model_i --budget 240000 --physics residual",
            "haloformer benchmark --surveys model_i --train_data Model_I --test_data Model_I_test",
        ),
    ),
    "tune": Command(
        "search for good hyper-parameters",
        "haloformer.tuning.search",
        positional=("name",),
        present="print_search",
        experiment=True,
        examples=("haloformer tune quick", "haloformer tune mine.yaml --trials 100 --workers 2"),
    ),
    "presets": Command("list the shipped recipes, or print one", positional=("name",)),
    "evaluate": Command(
        "test a trained network: AUCs, figures, HTML report",
        "haloformer.evaluation.command",
        positional=("run",),
        present="print_metrics",
        examples=(
            "haloformer evaluate runs/x --data test.h5",
            "haloformer evaluate runs/x --data model_ii --n 15000",
        ),
    ),
    "calibrate": Command(
        "make a trained network's probabilities honest, and let it tell images unlike its own",
        "haloformer.evaluation.command",
        positional=("run",),
        present="print_calibration",
        examples=("haloformer calibrate runs/x", "haloformer calibrate runs/x --data held_out.h5"),
    ),
    "audit": Command(
        "measure how far a trained network can be trusted: shortcuts, noise, other cameras, symmetries, foreign images",
        "haloformer.audit.command",
        positional=("run",),
        present="print_audit",
        examples=(
            "haloformer audit model_i --out audits/model_i",
            "haloformer audit runs/x --out audits/x --parts noise,shift --n 600",
            "haloformer audit runs/x --out audits/x --compare runs/y,runs/z --real cutouts/ --galaxies galaxies/",
        ),
    ),
    "compare": Command(
        "test several networks on the same images: paired differences, p-values, HTML report",
        "haloformer.evaluation.command",
        positional=("runs",),
        present="print_comparison",
        examples=(
            "haloformer compare runs/x runs/y model_i --data model_i --n 6000",
            "haloformer compare runs/x/evaluation/test runs/y/evaluation/test --out x-vs-y",
        ),
    ),
    "predict": Command(
        "classify image files with a trained network",
        "haloformer.prediction.command",
        positional=("run", "images"),
        present="print_predictions",
        examples=(
            "haloformer predict runs/x cutouts/ --out predictions.csv",
            "haloformer predict runs/x a.fits b.npy test.h5 --out predictions.parquet",
            "haloformer predict runs/x mosaic.fits --catalog positions.csv --size 7.5 --out predictions.fits",
            "haloformer predict runs/x survey/ --workers 8 --out predictions.parquet",
        ),
    ),
    "export": Command(
        "export a trained network: ONNX, torch.export, or a folder for a hub",
        positional=("model",),
    ),
    "fit": Command(
        "fit the best smooth lens to images: parameters, chi2, residual",
        "haloformer.fitting.command",
        positional=("images",),
        present="print_fit",
        examples=(
            "haloformer fit cutouts/ --survey model_ii --noise instrument --out fits.csv",
            "haloformer fit test.h5 --survey model_i --out fits.parquet --figure fits.png",
        ),
    ),
    "explain": Command(
        "show what answers rest on: attention, gradients, and whether they find the substructure",
        "haloformer.explain.command",
        positional=("run", "images"),
        present="print_explanation",
        examples=(
            "haloformer explain runs/x cutouts/*.fits --out why",
            "haloformer explain model_i --survey model_i --n 64 --out why",
            "haloformer explain runs/x test.h5 --limit 6 --methods attention,rollout --out why",
        ),
    ),
    "app": Command(
        "open a local page: classify images, simulate lenses by sliders, compare models",
        "haloformer.app",
    ),
    "models": Command("list the networks", positional=("name",)),
    "surveys": Command("list the surveys, or print one as YAML", positional=("name",)),
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows ``haloformer``; the process's own if None.

    Returns:
        0 if all went well, 1 if some images failed and were reported, 2 for a user's mistake, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] in ("-V", "--version"):
        print(f"haloformer {__version__}")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        nearest = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(COMMANDS)}"
        return _fail(f"haloformer: unknown command '{command}': {hint}")
    try:
        result = _run(command, arguments[1:])
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except InputError as error:
        return _fail(f"haloformer {command}: {_one_line(error)}")
    except KeyboardInterrupt:
        print(f"haloformer {command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(
                f"haloformer {command}: the disk is full ({error.filename or 'while writing'}); nothing was left half-written"
            )
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.ENAMETOOLONG,
        ):
            return _fail(f"haloformer {command}: {error.filename or ''}: {error.strerror}")
        raise
    except MemoryError:
        return _fail(f"haloformer {command}: out of memory; a smaller --batch_size needs less")


def _run(command: str, arguments: list[str]) -> Any:
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Says what is wrong in one line."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise InputError(f"{_clean(message, self)} (see haloformer {command} --help)")

    settings = COMMANDS[command]
    function = _declared(command, settings.home)
    summary, details, help_texts = _parse_docstring(function)
    if settings.examples:
        details += "\n\nExamples:\n" + "\n".join(f"    {line}" for line in settings.examples)
    parser = Parser(
        prog=f"haloformer {command}", description=summary + details, formatter_class=_formatter()
    )
    signature = inspect.signature(function)
    for name in settings.positional:
        parameter = signature.parameters[name]
        many = "list" in str(parameter.annotation)
        optional = parameter.default is not inspect.Parameter.empty
        nargs: dict[str, Any] = (
            {"nargs": "*" if optional else "+"} if many else {"nargs": "?"} if optional else {}
        )
        parser.add_argument(name, type=str, help=help_texts[name], **nargs)
    flags = [
        name
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.default, bool)
    ]
    with_value = [name for name in flags if signature.parameters[name].annotation is not bool]
    skip: set[str | int] = {*settings.positional}
    if settings.experiment:
        skip.add("options")
    else:
        parser.add_argument(
            "--config",
            action="config",
            help="YAML file with any of the options below; --print_config writes one.",
        )
    parser.add_function_arguments(function, skip=skip, as_group=False)
    if settings.experiment:
        flags += _add_experiment(parser, signature)
        places = " ".join(name.upper() for name in settings.positional)
        parser.usage = " ".join(
            f"haloformer {command} {places} [--preset NAME] [--FIELD VALUE ...]".split()
        )
        with_value.append("pretrained")
    for action in parser._actions:
        if action.dest in flags:
            action.metavar = "[true|false|FILE]" if action.dest in with_value else "[true|false]"
    options = parser.parse_args(_usual_spelling(arguments, flags, with_value))
    values = parser.instantiate_classes(options).as_dict()
    values.pop("config" if not settings.experiment else "", None)
    if settings.experiment:
        from haloformer.training.config import SHORT_NAMES

        fields = [
            name for name in values if name in SHORT_NAMES and name not in signature.parameters
        ]
        values["options"] = {name: values.pop(name) for name in fields}
    result = getattr(importlib.import_module(settings.home), command)(**values)
    if settings.present:
        return getattr(importlib.import_module("haloformer.commands"), settings.present)(result)
    return result


def _declared(command: str, home: str) -> Callable[..., Any]:
    """Returns a function with the signature and the docstring of a command, read from its module's source: nothing is imported."""
    place = Path(__file__).parent.joinpath(*home.split(".")[1:])
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    body = ast.parse(source.read_text(encoding="utf-8")).body
    (found,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == command)
    # Another name: jsonargparse asks haloformer, too, whether it has it, and it would import all of haloformer.train to say so.
    found.name, found.returns, found.body = f"{command}_command", None, found.body[:1]
    names = dict(
        vars(importlib.import_module("haloformer.commands"))
    )  # which has all names that signatures need
    exec(compile(ast.Module([found], []), str(source), "exec"), names)
    return names[found.name]


def _add_experiment(parser: Any, signature: inspect.Signature) -> list[str]:
    """Adds an option for every field of an experiment, by its short name; returns those that are flags."""
    import argparse
    import typing

    from docstring_parser import parse

    from haloformer.training.config import GROUPS, SHORT_NAMES

    flags = []
    for group, kind in GROUPS.items():
        documented = inspect.getdoc(kind) or ""
        texts = {
            p.arg_name: " ".join((p.description or "").split()) for p in parse(documented).params
        }
        section = parser.add_argument_group(f"{group}: {documented.splitlines()[0].rstrip('.')}")
        hints, defaults = typing.get_type_hints(kind), kind()
        for short, (_, name) in (
            (s, place) for s, place in SHORT_NAMES.items() if place[0] == group
        ):
            if short in signature.parameters:
                continue
            default = getattr(defaults, name)
            shown = (
                list(default)
                if isinstance(default, tuple)
                else "null"
                if default is None
                else default
            )
            help_text = texts[name].partition(" Short name:")[0]
            text = f"{help_text} (default: {shown})" if shown not in ("", {}) else help_text
            hint = hints[name]
            if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is ...:
                hint = hint | str  # one name needs no brackets
            section.add_argument(
                f"--{short}", type=hint, default=argparse.SUPPRESS, help=text.replace("%", "%%")
            )
            if isinstance(default, bool):
                flags.append(short)
    return flags


def _usual_spelling(arguments: list[str], flags: list[str], with_value: list[str]) -> list[str]:
    """Takes ``--batch-size`` for ``--batch_size`` and ``--overwrite`` for ``--overwrite true``; values stay as they are.

    Flags in ``with_value`` may also be followed by a text.
    """
    translated: list[str] = []
    for i, argument in enumerate(arguments):
        if argument == "--":
            return translated + arguments[i:]
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            argument = "--" + _short(option[2:].replace("-", "_")) + equals + value
            following = arguments[i + 1 : i + 2]
            valued = following in (["true"], ["false"])
            if argument[2:] in with_value:
                valued = bool(following) and not following[0].startswith("--")
            if argument[2:] in flags and not equals and not valued:
                argument += "=true"
        translated.append(argument)
    return translated


def _short(option: str) -> str:
    """Takes ``optimizer.lr`` for ``lr``; other dotted options stay."""
    group = option.partition(".")[0]
    if "." not in option or not option:
        return option
    from haloformer.training.config import GROUPS, short_name

    return short_name(option) if group in GROUPS else option


def _clean(message: str, parser: Any) -> str:
    text = _one_line(message).removeprefix("Validation failed: ").removeprefix("error: ")
    marker = "unrecognized arguments: "
    if marker.lower() in text.lower():
        unknown = text[text.lower().index(marker) + len(marker) :].split()[0].partition("=")[0]
        known = [
            option
            for action in parser._actions
            for option in action.option_strings
            if option.startswith("--")
        ]
        nearest = difflib.get_close_matches(unknown, known, n=1)
        what = "option" if unknown.startswith("--") else "argument"
        return f"unknown {what} '{unknown}'" + (
            f": did you mean '{nearest[0]}'?" if nearest else ""
        )
    if found := re.match(r'Parser key "(\w+)": (.*)', text):
        hint = next(
            (
                getattr(action, "_typehint", None)
                for action in parser._actions
                if action.dest == found[1]
            ),
            None,
        )
        if hint is None:
            return f"{found[1]}: {found[2]}"
        from haloformer.training.config import type_in_words

        _, got, value = found[2].rpartition("value: ")
        return f"{found[1]} must be {type_in_words(hint)}" + (f", not {value}" if got else "")
    return text


def _parse_docstring(function: Any) -> tuple[str, str, dict[str, str]]:
    """The summary, the rest of the description with its examples, and the help of each argument."""
    from docstring_parser import parse

    documented = inspect.getdoc(function) or ""
    head = documented.split("\nArgs:")[0].strip()
    summary, _, rest = head.partition("\n")
    texts = {p.arg_name: " ".join((p.description or "").split()) for p in parse(documented).params}
    return summary, f"\n{rest}" if rest.strip() else "", texts


def _formatter() -> Any:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Keeps the lines of descriptions as they are written."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "".join(indent + line for line in text.splitlines(keepends=True))

    return Formatter


def _overview() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(
        f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()
    )
    return f"""haloformer {__version__}: what dark matter is made of, read from pictures of strong gravitational lenses

usage: haloformer COMMAND [options]     haloformer COMMAND --help tells all about one

{listed}

start here:
  haloformer simulate model_ii --n 6000 --seed 1 --out train.h5
  haloformer train --data train.h5 --out runs/first
  haloformer evaluate runs/first --data model_ii
Every option can also stand in a YAML file: --print_config writes one, --config reads it."""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
