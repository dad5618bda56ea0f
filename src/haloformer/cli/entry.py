"""Runs a command; errors become one line and an exit code.

``haloformer --help`` imports the light modules of the commands alone. What carries a command out is
imported when its options are known to be right.
"""

import difflib
import errno
import importlib
import io
import os
import sys
import warnings
from typing import TextIO

from haloformer._version import __version__
from haloformer.cli.registry import HOMES, Command
from haloformer.errors import InputError, InputWarning, brief

COMMANDS: dict[str, Command] = {
    name: importlib.import_module(f"haloformer.cli.{name}").COMMAND for name in HOMES
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_BAD_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What follows ``haloformer``; the process's own if None.

    Returns:
        0 if all went well, 1 if some images or runs failed and were reported, 2 for a user's
        mistake, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _suit_surroundings()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] in ("-V", "--version"):
        print(f"haloformer {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(COMMANDS)}"
        return _fail(f"haloformer: unknown command '{name}': {hint}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _run(name, arguments[1:])
        sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(f"haloformer {name}: {brief(error)}")
    except KeyboardInterrupt:
        print(f"haloformer {name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (message := _file_trouble(error)) is None:
            raise
        return _fail(f"haloformer {name}: {message}")
    except MemoryError:
        return _fail(f"haloformer {name}: out of memory; a smaller --batch_size needs less")


def _suit_surroundings() -> None:
    """Makes commands independent of the terminal's encoding and of a notebook's way to show figures."""
    os.environ["MPLBACKEND"] = (
        "agg"  # figures go to files; a name that matplotlib does not know ends its import
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _run(name: str, arguments: list[str]) -> int:
    from haloformer.cli.parsing import parse

    command = COMMANDS[name]
    function = getattr(importlib.import_module(HOMES[name]), name)
    result = function(**parse(name, command, function, arguments))
    return (command.present(result) or 0) if command.present else 0


_show_any_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning about what the user gave in one line, without the place in the code."""
    if issubclass(category, InputWarning):
        print(f"warning: {brief(message)}", file=sys.stderr)
    else:
        _show_any_warning(message, category, filename, lineno, file, line)


def _file_trouble(error: OSError) -> str | None:
    """Returns what to tell users of a full disk or a path that cannot be used; None for the rest."""
    if error.errno in _DISK_FULL:
        where = error.filename or "while writing"
        return f"the disk is full ({where}); nothing was left half-written"
    if error.errno in _BAD_PATH:
        return f"{error.filename or ''}: {error.strerror}"
    return None


def _overview() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(
        f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()
    )
    return f"""haloformer {__version__}: dark matter from images of strong gravitational lenses

usage: haloformer COMMAND [options]     haloformer COMMAND --help shows its options

{listed}

start here:
  haloformer simulate model_ii --n 6000 --seed 1 --out train.h5
  haloformer train --data train.h5 --out runs/first
  haloformer evaluate runs/first --data model_ii
Every option can also stand in a YAML file: --print_config writes one, --config reads it."""


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return EXIT_USER_ERROR
