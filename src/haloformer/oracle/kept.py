"""Finished lenses of a measurement of limits, kept so that a call that was ended goes on where it was."""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloformer._version import code_version
from haloformer.io.writing import write_bytes
from haloformer.oracle.likelihood import Seen
from haloformer.simulation import describe_survey
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.named_files import file_digests

FOLDER = "lenses"
"""Of finished lenses, in the folder of the limits, as long as these are not finished."""

_BETWEEN = "\t"  # parts of an array's name; no class has one in its own


@dataclass(frozen=True)
class Found:
    """What was found of one lens, with one of the freedoms.

    Attributes:
        learned: What the observer learns from.
        tested: What is tested.
        pairs: Two classes → log likelihood ratios where it is the first, and where it is the second.
        sizes: Class → (B,) how large what its dark matter changes is, in standard deviations of the noise.
    """

    learned: Seen
    tested: Seen
    pairs: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    sizes: Mapping[str, np.ndarray]


class Kept:
    """Keeps what was found of each lens, by level, in a file of its own."""

    def __init__(self, target: Path, survey: ComposedSurvey, seed: int, realisations: int) -> None:
        """Says where; what was found of another survey, other draws, or by another version of the code lies elsewhere.

        Args:
            target: The folder of the limits.
            survey: What is measured.
            seed: Of the draws.
            realisations: In each lens.
        """
        described = describe_survey(survey)
        text = json.dumps([described, file_digests(described), seed, realisations, code_version()])
        self.folder = target / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]

    def read(self, number: int) -> dict[str, Found] | None:
        """Returns what an earlier call found of a lens; None if it did not, or its file is damaged."""
        try:
            with np.load(self._file(number), allow_pickle=False) as file:
                arrays = {tuple(name.split(_BETWEEN)): file[name] for name in file.files}
            return _unpacked(arrays)
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, number: int, found: Mapping[str, Found]) -> None:
        """Keeps what was found of a lens; a folder that cannot be written keeps nothing."""
        held = io.BytesIO()
        arrays: dict[str, Any] = {
            _BETWEEN.join(name): array for name, array in _packed(found).items()
        }
        np.savez(held, **arrays)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file(number), held.getvalue())

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"


def _packed(found: Mapping[str, Found]) -> dict[tuple[str, ...], np.ndarray]:
    arrays: dict[tuple[str, ...], np.ndarray] = {}
    for level, one in found.items():
        for part, seen in (("learned", one.learned), ("tested", one.tested)):
            arrays[level, part, "labels"], arrays[level, part, "ratios"] = seen.labels, seen.ratios
        for pair, ends in one.pairs.items():
            arrays[level, "first", *pair], arrays[level, "second", *pair] = ends
        for name, sizes in one.sizes.items():
            arrays[level, "sizes", name] = sizes
    return arrays


def _unpacked(arrays: Mapping[tuple[str, ...], np.ndarray]) -> dict[str, Found]:
    found = {}
    for level in dict.fromkeys(name[0] for name in arrays):
        own = {name[1:]: array for name, array in arrays.items() if name[0] == level}
        learned, tested = (
            Seen(own[part, "labels"], own[part, "ratios"]) for part in ("learned", "tested")
        )
        pairs = {
            (name[1], name[2]): (array, own["second", *name[1:]])
            for name, array in own.items()
            if name[0] == "first"
        }
        sizes = {name[1]: array for name, array in own.items() if name[0] == "sizes"}
        found[level] = Found(learned, tested, pairs, sizes)
    return found
