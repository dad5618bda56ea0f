"""What ``--dry_run`` tells: what a command would do, how long it would take, and how much it would write.

All checks are those of the command itself. Times are measured for a second or two on this machine.
"""

import importlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haloformer.cli.layout import filled, screen_width
from haloformer.cli.present import print_table, print_warnings
from haloformer.cli.shared import duration, size

_SECONDS = 1.5  # of a measurement


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    Attributes:
        what: It would do, in one line.
        facts: Name → what is known.
        seconds: Estimate of the time; None where it cannot be told.
        n_bytes: Estimate of what is written; None where it cannot be told.
        out: Where it is written.
        measured: What the estimate rests on.
        notes: What else matters.
    """

    what: str
    facts: dict[str, str]
    seconds: float | None
    n_bytes: float | None
    out: str
    measured: str
    notes: list[str] = field(default_factory=list)

    @property
    def free(self) -> int:
        """Bytes that are free where it is written."""
        import shutil

        return shutil.disk_usage(existing(Path(self.out))).free

    def as_document(self) -> dict[str, Any]:
        """Returns it as what JSON has; ``seconds`` and ``n_bytes`` are estimates."""
        return {**vars(self), "n_bytes_free": self.free}

    def show(self) -> None:
        """Prints it."""
        width = screen_width(piped=100)
        print(filled(f"would {self.what}; nothing was done", width))
        seconds = "cannot be told" if self.seconds is None else f"about {duration(self.seconds)}"
        n_bytes = "cannot be told" if self.n_bytes is None else f"about {size(self.n_bytes)}"
        rows = [
            *self.facts.items(),
            ("time (estimate)", seconds),
            ("size (estimate)", f"{n_bytes}, {size(self.free)} are free"),
            ("out", self.out),
        ]
        print_table("", ["", ""], rows, headed=False)
        if self.n_bytes is not None and self.n_bytes > self.free:
            print_warnings(
                [f"{self.out}: {size(self.n_bytes)} may be needed, {size(self.free)} are free"]
            )
        for line in (f"The estimate rests on {self.measured}.", *self.notes):
            print(filled(line, width))


def plan_of(name: str, keywords: Mapping[str, Any]) -> Plan:
    """Returns what a command would do with these options.

    Raises:
        InputError: What the command would raise before it begins.
    """
    module = importlib.import_module(_HOMES[name])
    found: Plan = getattr(module, "plan" if name in _OWN else name)(**keywords)
    return found


_OWN = ("simulate", "convert", "prepare")  # whose light modules plan them, too
_HOMES = {
    **{name: f"haloformer.cli.{name}" for name in _OWN},
    **dict.fromkeys(("train", "study", "benchmark", "tune"), "haloformer.cli.planning_training"),
    **dict.fromkeys(("audit", "limits", "fit"), "haloformer.cli.planning_measuring"),
}


def seconds_each(batch: Callable[[range], object], least: int = 8) -> tuple[float, str]:
    """Returns the seconds that an image takes, and what that was measured on."""
    batch(range(least))  # compiles what is compiled, loads what is loaded
    n_done, step, began = 0, least, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _SECONDS:
        batch(range(n_done, n_done + step))
        n_done += step
        step = min(256, 2 * step)
    return seconds / n_done, f"{n_done:,} images that were made in {duration(seconds)}"


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def existing(path: Path) -> Path:
    """Returns the nearest folder above a path that is there."""
    from haloformer.data.preview import existing_parent

    return existing_parent(path)


def by(shape: tuple[int, ...]) -> str:
    """Returns a shape for people: ``1×64×64``."""
    return "×".join(map(str, shape))
