"""Fits of visitors' lenses: one at a time, each in a process of its own, that can be cancelled."""

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from haloformer.app.answers import check_upload
from haloformer.errors import InputError
from haloformer.fitting.reallens.files import LensFiles
from haloformer.fitting.reallens.run import Options
from haloformer.io.strict_json import to_json

MOST_SECONDS = 600.0
"""After which a fit is ended."""
DOWNLOADS = ("fit.json", "fit.fits", "fit.html")
_PERIOD = 0.4  # seconds between two looks at a fit
_LEFT_SECONDS = 15.0  # without a look, after which nobody is there any more


@dataclass(frozen=True)
class Task:
    """What shall be fitted.

    Attributes:
        files: Where image, point-spread function, noise map and mask are.
        options: How.
        pixel_scale: In arcsec; None: as the file says.
    """

    files: LensFiles
    options: Options
    pixel_scale: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far a fit has come.

    Attributes:
        seconds: Since it began.
        steps: (what is being done, −2 ln evidence) after each step.
        pixels: How many count; 0 before they are known.
    """

    seconds: float
    steps: tuple[tuple[str, float], ...]
    pixels: int


@dataclass(frozen=True)
class Fitted:
    """The result of a fit.

    Attributes:
        name: Of the image.
        headline: The main results in one sentence.
        flags: Why its numbers are not to be trusted.
        notes: What was assumed about the data.
        rows: Names and values of the parameters.
        files: Name → content of ``fit.png`` and the `DOWNLOADS`.
        seconds: That it took.
    """

    name: str
    headline: str
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    files: Mapping[str, bytes]
    seconds: float


class Cancelled(InputError):
    """The visitor has cancelled the fit."""


@dataclass
class _Running:
    process: subprocess.Popen[str]
    owner: str
    folder: Path
    cancelled: bool = False
    seen: float = field(default_factory=time.monotonic)  # when somebody last looked
    lines: list[dict[str, Any]] = field(default_factory=list)


class Fits:
    """Runs one fit at a time.

    What a fit writes lies in a folder of its own, which is removed as soon as it has been read. A
    fit at which nobody looks any more is ended.
    """

    def __init__(self, folder: Path | None = None, most_seconds: float = MOST_SECONDS) -> None:
        """Prepares.

        Args:
            folder: Where the folders of fits are made; that of the system for temporary files if None.
            most_seconds: After which a fit is ended.
        """
        self._folder, self._most = folder, most_seconds
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def run(self, task: Task, owner: str) -> Iterator[Progress | Fitted]:
        """Yields how far a fit has come, some times a second, and its result at last.

        Args:
            task: What is fitted.
            owner: Who may cancel it.

        Raises:
            InputError: Another fit is running, what was given cannot be fitted, or it took too long.
            Cancelled: It was cancelled.
        """
        for path in (task.files.image, task.files.psf, task.files.noise_map, task.files.mask):
            if path is not None:
                check_upload(Path(path))
        with self._lock:
            if self._running is not None:
                raise InputError(
                    "another fit is running here, and one is done at a time: try again in a minute"
                )
            running = self._running = self._begun(task, owner)
        try:
            yield from self._steps(running)
        finally:
            self._end(running)

    def cancel(self, owner: str) -> bool:
        """Ends the fit of this owner; returns whether there was one."""
        running = self._running
        if running is None or running.owner != owner:
            return False
        running.cancelled = True
        self._end(running)
        return True

    def close(self) -> None:
        """Ends the fit that is running, if there is one."""
        if self._running is not None:
            self._end(self._running)

    def _begun(self, task: Task, owner: str) -> _Running:
        folder = Path(tempfile.mkdtemp(prefix="fit-", dir=self._folder))
        write_task(folder, task)
        running = _Running(_started(folder), owner, folder)
        threading.Thread(target=self._watch, args=(running,), daemon=True).start()
        return running

    def _steps(self, running: _Running) -> Iterator[Progress | Fitted]:
        began = time.monotonic()
        reader = threading.Thread(target=_listen, args=(running,), daemon=True)
        reader.start()
        while reader.is_alive():
            reader.join(_PERIOD)
            running.seen = time.monotonic()
            if running.seen - began > self._most:
                raise InputError(
                    f"the fit was ended after {self._most:g} s: give a smaller radius, or run haloformer fit, which has no limit"
                )
            yield _progress(running.seen - began, running.lines)
        running.process.wait()
        if running.cancelled:
            raise Cancelled("the fit was cancelled")
        yield _result(running.folder / "result", running.lines, time.monotonic() - began)

    def _watch(self, running: _Running) -> None:
        """Ends a fit whose visitor has left: then nobody asks for its next step."""
        while self._running is running:
            if time.monotonic() - running.seen > _LEFT_SECONDS:
                return self._end(running)
            time.sleep(_PERIOD)

    def _end(self, running: _Running) -> None:
        with contextlib.suppress(OSError):
            running.process.kill()
        running.process.wait()
        shutil.rmtree(running.folder, ignore_errors=True)
        with self._lock:
            if self._running is running:
                self._running = None


def write_task(folder: Path, task: Task) -> None:
    """Writes what the process of a fit reads."""
    described = {
        "files": asdict(task.files),
        "options": asdict(task.options),
        "pixel_scale": task.pixel_scale,
    }
    (folder / "task.json").write_text(to_json(described), encoding="utf-8")


def _started(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "haloformer.app.fit_worker", str(folder)]
    path = os.pathsep.join(each for each in sys.path if each)  # the same package as here
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
    )


def _listen(running: _Running) -> None:
    """Collects what the process says until it ends."""
    assert running.process.stdout is not None  # as it is a pipe
    with running.process.stdout as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                running.lines.append(json.loads(line))


def _progress(seconds: float, lines: list[dict[str, Any]]) -> Progress:
    steps = tuple(
        (str(each["what"]), float(each["evidence"]))
        for each in lines
        if "evidence" in each and math.isfinite(each["evidence"])
    )
    return Progress(seconds, steps, next((each["pixels"] for each in lines if "pixels" in each), 0))


def _result(folder: Path, lines: list[dict[str, Any]], seconds: float) -> Fitted:
    last = lines[-1] if lines else {}
    if "error" in last:
        raise InputError(last["error"])
    if "done" not in last:
        raise InputError("the fit has ended without a result: whoever runs the page sees why")
    done = last["done"]
    return Fitted(
        name=done["name"],
        headline=done["headline"],
        flags=tuple(done["flags"]),
        notes=tuple(done["notes"]),
        rows=tuple((name, value) for name, value in done["rows"]),
        files={name: (folder / name).read_bytes() for name in ("fit.png", *DOWNLOADS)},
        seconds=seconds,
    )
