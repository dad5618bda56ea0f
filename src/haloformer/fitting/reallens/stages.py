"""Finished parts of a fit, kept so that one that was killed goes on where it was."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.reallens.evidence import Problem
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.operators import Source, SourceGrid
from haloformer.fitting.reallens.optimise import Fit, fit_at
from haloformer.fitting.reallens.source_prior import Smoothness
from haloformer.io.progress import tell
from haloformer.io.strict_json import read_json, to_json
from haloformer.io.writing import write_text

_VERSION = 9


class Stages:
    """Keeps what each stage of a fit found: a few numbers, from which source and lens light follow by solving once.

    Attributes:
        resumed: Stages that were found done.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        """Reads what is there of the same fit.

        Args:
            path: The file; None keeps nothing.
            key: Of :func:`key_of`: a file of another fit is not used.
        """
        self._path, self._key = path, key
        self._lock = threading.Lock()
        self._done: dict[str, Any] = {}
        self._rows: dict[str, list[list[float]]] = {}
        self.resumed: list[str] = []
        if path is None or not path.is_file():
            return
        try:
            found = read_json(path)
            if found.get("key") == key and found.get("version") == _VERSION:
                self._done = dict(found["stages"])
                self._rows = dict(found.get("rows", {}))
            else:
                tell(f"{path} is of other files, options or another version: the fit begins anew")
        except (InputError, KeyError, TypeError, ValueError):
            self._done = {}  # half of a file of before: the stages are done again

    def fit(self, name: str, problem: Problem, make: Callable[[], Fit]) -> Fit:
        """Returns what a stage found before, or makes it now.

        Args:
            name: Of the stage.
            problem: What it fits.
            make: Does so.
        """
        if name in self._done:
            try:
                found = _restored(problem, self._done[name])
                self.resumed.append(name)
                return found
            except (AttributeError, KeyError, TypeError, ValueError):
                pass
        found = make()
        with self._lock:
            self._done[name] = _described(found)
            self._write()
        return found

    def rows(self, name: str) -> list[list[float]]:
        """Returns rows of numbers that were kept before; none if there are none, or what is there is no such thing."""
        found = self._rows.get(name, [])
        whole = isinstance(found, list) and all(
            isinstance(row, list) and all(isinstance(each, int | float) for each in row)
            for row in found
        )
        return found if whole else []

    def keep_rows(self, name: str, rows: list[list[float]]) -> None:
        """Keeps rows of numbers in place of those that were kept under this name."""
        self._rows[name] = rows
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            stages = {"version": _VERSION, "key": self._key, "stages": self._done}
            write_text(self._path, to_json({**stages, "rows": self._rows}))


def key_of(seen: Observation, options: object) -> str:
    """Returns a digest of all that a fit depends on."""
    digest = hashlib.sha256(repr(options).encode())
    for array in (seen.image, seen.noise, seen.psf, seen.mask):
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    if seen.sharp_psf is not None:
        digest.update(repr(seen.sharp_scale).encode() + seen.sharp_psf.tobytes())
    digest.update(repr((seen.pixel_scale, seen.correlation)).encode())
    return digest.hexdigest()


def _described(fit: Fit) -> dict[str, Any]:
    return {
        "vector": fit.vector.tolist(),
        "smoothness": fit.smoothness.stored(),
        "fine": asdict(fit.source.fine),
        "broad": asdict(fit.source.broad),
        "converged": fit.converged,
    }


def _restored(problem: Problem, stored: dict[str, Any]) -> Fit:
    source = Source(SourceGrid(**stored["fine"]), SourceGrid(**stored["broad"]))
    vector = np.array(stored["vector"], float)
    if len(vector) != len(problem.mass.names) or not np.isfinite(vector).all():
        raise ValueError("other parameters")
    fit = fit_at(problem, source, vector, Smoothness.restored(stored["smoothness"]))
    return dataclasses.replace(fit, converged=bool(stored["converged"]))
