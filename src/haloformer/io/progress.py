"""Progress bars on standard error."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_silent = False


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """While the block runs, no bar is shown and `tell` tells nothing."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def tell(text: str) -> None:
    """Prints what is being done on standard error."""
    if not _silent:
        print(text, file=sys.stderr, flush=True)


class Reach(Protocol):
    """Moves a bar to ``done``; ``total`` is given where it was unknown or has changed."""

    def __call__(self, done: int, total: int | None = None) -> None: ...  # noqa: D102


@contextlib.contextmanager
def progress_bar(
    label: str, total: int | None, show: bool | None = None
) -> Iterator[Callable[[int], None]]:
    """Yields ``advance(n)``, which moves a bar by ``n``.

    Args:
        label: What is being done.
        total: How much there is to do; None if that is not known.
        show: Show the bar; by default when standard error is a terminal.
    """
    with _bar(label, total, show) as shown:
        if shown is None:
            yield lambda n: None
        else:
            bar, task = shown
            yield lambda n: bar.advance(task, n)


@contextlib.contextmanager
def progress_to(label: str, total: int | None, show: bool | None = None) -> Iterator[Reach]:
    """Yields ``reach(done, total=None)``, which moves a bar to ``done``; see `progress_bar`."""
    with _bar(label, total, show) as shown:

        def reach(done: int, total: int | None = None) -> None:
            if shown is not None:
                bar, task = shown
                bar.update(task, completed=done, total=total)  # None leaves the total as it is

        yield reach


@contextlib.contextmanager
def _bar(
    label: str, total: int | None, show: bool | None
) -> Iterator["tuple[Progress, TaskID] | None"]:
    """Yields a bar and its task; None where none is shown."""
    if _silent or not (sys.stderr.isatty() if show is None else show):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task(label, total=total)
