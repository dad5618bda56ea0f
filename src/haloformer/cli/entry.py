"""Runs a command; errors become one line and an exit code.

``haloformer --help`` imports the light modules of the commands alone. What carries a command out is
imported when its options are known to be right.
"""

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from haloformer._version import __version__
from haloformer.cli.layout import broken_command, filled, screen_width
from haloformer.cli.present import told
from haloformer.cli.registry import HOMES, Command
from haloformer.cli.session import run_command
from haloformer.errors import InputError, InputWarning, brief, kind_and_reason, reason_of
from haloformer.vocabulary import did_you_mean

COMMANDS: dict[str, Command] = {
    name: importlib.import_module(f"haloformer.cli.{name}").COMMAND for name in HOMES
}

EXIT_USER_ERROR = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 128 + signal.SIGTERM

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
        mistake, 70 for an error of the program itself, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _suit_surroundings()
    command = f"haloformer {arguments[0]}" if arguments[:1] and arguments[0] in COMMANDS else ""
    command = command or "haloformer"
    try:
        with warnings.catch_warnings(), _termination_raised():
            warnings.showwarning = _Warnings().show
            code = _answer(arguments)
        return _flushed(command, code)
    except InputError as error:
        own = f"{command.removeprefix('haloformer ')}: "  # how the study of `benchmark` begins, too
        return _fail(f"{command}: {str(error).removeprefix(own)}")
    except KeyboardInterrupt:
        _fail(f"{command}: interrupted")
        return EXIT_INTERRUPTED
    except SystemExit as ended:  # also what argparse does after --help
        if ended.code != EXIT_TERMINATED:
            if code := _flushed(command, 0):
                return code
            raise
        _fail(f"{command}: terminated")
        return EXIT_TERMINATED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        _drop_output()
        return 0
    except OSError as error:
        message = _file_trouble(error)
        if message is None:
            if "--verbose" in arguments:
                traceback.print_exc()
            _fail(f"{command}: {_internal(error)}")
            return EXIT_INTERNAL
        return _flushed(command, 0) or _fail(f"{command}: {message}")
    except MemoryError:
        return _fail(f"{command}: out of memory; a smaller --batch_size needs less")
    except Exception as error:
        if "--verbose" in arguments:
            traceback.print_exc()
        _fail(f"{command}: {_internal(error)}")
        return EXIT_INTERNAL


def _answer(arguments: list[str]) -> int:
    """Returns the exit code of what was asked for, once it is done."""
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] in ("-V", "--version"):
        print(f"haloformer {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"known are {', '.join(COMMANDS)}"
        raise InputError(f"unknown command '{name}': {hint}")
    return run_command(name, COMMANDS[name], arguments[1:])


def _suit_surroundings() -> None:
    """Makes commands independent of the terminal's encoding, a notebook's way to show figures, and other work on the machine."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when PyTorch is loaded. By default a thread spins for milliseconds until all others are there; beside another program, which one of
        # them waits for, that makes training several times slower. So short a while costs nothing where nothing else runs.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Read when NumPy is loaded. It asks for huge pages for large arrays, for which Linux may first have to move other memory together: slow
    # where that is scattered, while fits are as fast on small pages.
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
    os.environ["MPLBACKEND"] = (
        "agg"  # figures go to files; a name that matplotlib does not know ends its import
    )
    # Closed by a shell's >&-: what is opened next would take its number, and what is printed with it.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def _termination_raised() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that nothing half-written stays."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` and others send it twice
        raise SystemExit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _flushed(command: str, code: int) -> int:
    """Returns a command's exit code once what it has printed is out; another if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        what = error.strerror or error
        return _fail(f"{command}: standard output cannot be written: {what}")
    return code


def _drop_output() -> None:
    """Gives the rest of standard output to nobody, so that Python does not fail to write it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_show_any_warning = warnings.showwarning


class _Warnings:
    """Prints the warnings of one call."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Prints a warning about what the user gave in one line, without the place in the code, and once."""
        if not issubclass(category, InputWarning):
            _show_any_warning(message, category, filename, lineno, file, line)
            return
        text = told(f"warning: {brief(message)}")
        if text not in self._told:
            self._told.add(text)
            print(text, file=sys.stderr)


def _file_trouble(error: OSError) -> str | None:
    """Returns what to tell users of a full disk or a path that cannot be used; None for the rest."""
    if error.errno in _DISK_FULL:
        return f"no space is left to write {error.filename or 'the output'}"
    if error.errno in _BAD_PATH:
        return f"{error.filename}: {error.strerror}" if error.filename else reason_of(error)
    return None


def _internal(error: Exception) -> str:
    """Returns an error that is no user's in one line, with its place in our code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "haloformer" in frame.filename]  # fmt: skip
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    what = f"{brief(kind_and_reason(error))}{place}"
    return f"internal error: {what}; --verbose shows all of it, and a report with that is welcome"


_START = (
    "haloformer try",
    "haloformer simulate model_ii --n 6000 --seed 1 --out train.h5",
    "haloformer train --data train.h5 --out runs/first",
    "haloformer evaluate runs/first --data model_ii",
)


def _overview() -> str:
    names = max(map(len, COMMANDS))
    width = screen_width(piped=100)
    listed = "\n".join(
        filled(command.summary, width, f"  {name:<{names}}  ", " " * (names + 4))
        for name, command in COMMANDS.items()
    )
    about = filled(
        f"haloformer {__version__}: dark matter from images of strong gravitational lenses", width
    )
    shared = filled(
        "All commands have --help, --quiet, --verbose and --json; long ones --dry_run. "
        "Every option can also stand in a YAML file: --print_config writes one, --config reads it.",
        width,
    )
    start = "\n".join(broken_command(line, width, "  ") for line in _START)
    return f"""{about}

usage: haloformer COMMAND [options]

{listed}

start here:
{start}

{shared}"""


def _fail(message: str) -> int:
    """Prints a message, if anybody listens, and returns the exit code."""
    with contextlib.suppress(OSError):
        print(told(message), file=sys.stderr, flush=True)
    return EXIT_USER_ERROR
