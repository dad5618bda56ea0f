"""Options that all commands have: what is printed, where, and whether anything is done at all."""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from haloformer.io.progress import silenced

OPTIONS = {
    "quiet": "Print nothing but warnings, errors, and what --json or --out - ask for.",
    "verbose": "Also tell what is read from where, all warnings of libraries, and how long each "
    "stage took; an internal error is shown with its traceback. On standard error.",
    "json": "Print the result as one JSON document; all else goes to standard error.",
    "dry_run": "Do nothing: check what is given, and tell what would be done, and estimates of time "
    "and size.",
}
"""Option → its help; ``dry_run`` is for those commands that can tell."""


@dataclass(frozen=True)
class Shared:
    """What was given of these options."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    dry_run: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Shared":
        """Returns what was given among all options of a command."""
        return cls(**{name: bool(values.get(name)) for name in OPTIONS})


class Streams:
    """Where a command's output goes.

    Attributes:
        result: Standard output as it is, for what was asked for: JSON, a table, a document.
    """

    def __init__(self, shared: Shared, *, result_on_stdout: bool) -> None:
        self.result: TextIO = sys.stdout
        self._shared = shared
        self._aside = result_on_stdout or shared.json

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While a command is carried out: what it tells is no result."""
        with contextlib.ExitStack() as stack:
            if self._shared.quiet:
                stack.enter_context(_nowhere())
                stack.enter_context(silenced())
            elif self._aside:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield

    @contextlib.contextmanager
    def presenting(self) -> Iterator[None]:
        """While the result is printed for people: not beside its JSON."""
        hidden = self._shared.quiet or self._shared.json
        with _nowhere() if hidden else self.working():
            yield


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nobody, contextlib.redirect_stdout(nobody):
        yield


@contextlib.contextmanager
def verbosely(shared: Shared) -> Iterator[logging.Logger]:
    """Yields where stages are told; with ``--verbose`` they, and all warnings, are shown."""
    log = logging.getLogger("haloformer")
    if not shared.verbose:
        yield log
        return
    began = time.perf_counter()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_SinceBegin(began))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    warnings.simplefilter("default")
    try:
        yield log
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _SinceBegin(logging.Formatter):
    def __init__(self, began: float) -> None:
        super().__init__()
        self._began = began

    def format(self, record: logging.LogRecord) -> str:
        return f"[{time.perf_counter() - self._began:7.2f} s] {record.getMessage()}"


def duration(seconds: float) -> str:
    """Returns a time for people: ``0.4 s``, ``12 s``, ``3 min 12 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for large, name, small, less in units:
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {less}" if rest else "")
    raise AssertionError


def size(n_bytes: float) -> str:
    """Returns a size for people: ``12 kB``, ``3.4 MB``, ``1.2 GB``."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= factor:
            value = n_bytes / factor
            return f"{value:.{1 if value < 99.5 else 0}f} {unit}"
    return f"{n_bytes:.0f} bytes"
