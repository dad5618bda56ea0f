"""What ``parameters.csv`` beside class folders says of the images, where haloformer wrote it: parameters, and which images are of one lens."""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

TABLE = "parameters.csv"
"""Table beside the class folders that haloformer writes."""

PAIRED = "paired"
"""Its column that says whether images of one ``index`` are of one lens, ``True`` in each row."""

_NO_PARAMETERS = ("file", "class", PAIRED)
_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_MOST_COLUMNS, _MOST_VALUES = 1000, 2**26

_Cell = tuple[float, ...]
"""Numbers of one image: none, one (an int where it is a whole number without a point), or a list."""

_Row = dict[str, _Cell]


class OwnTable:
    """Rows by file, relative to the source; empty where no table says anything.

    Attributes:
        lenses: File → number of its lens, of images that are paired.
    """

    def __init__(self) -> None:
        self.lenses: dict[str, int] = {}
        self._rows: dict[str, _Row] = {}

    def read(self, table: bytes, folder: PurePosixPath) -> None:
        """Reads a table; one that is none of haloformer's is passed over.

        Args:
            table: Its contents.
            folder: In which it lies, relative to the source.
        """
        reader = csv.reader(io.StringIO(table.decode("utf-8", "replace")))
        rows: dict[str, _Row] = {}
        lenses: dict[str, int] = {}
        try:
            header = next(reader, [])
            names = tuple(name for name in header if name not in _NO_PARAMETERS)
            if not {"file", "class", "index"} <= set(header) or not _are_parameters(names):
                return
            for cells in filter(None, reader):
                row = dict(zip(header, cells, strict=True))
                where = (folder / row["file"]).as_posix()
                rows[where] = {name: _cell(row[name]) for name in names}
                if row.get(PAIRED) == "True":
                    lenses[where] = int(row["index"])
        except (csv.Error, ValueError):
            return
        self._rows |= rows
        self.lenses |= lenses

    def numbers(self, files: Sequence[str]) -> np.ndarray | None:
        """Returns the number of the lens of each file; None where one is not known."""
        found = [self.lenses.get(file) for file in files]
        return None if None in found or not found else np.array(found, dtype=np.int64)

    def parameters(self, files: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns parameters of N files, (N,) or (N, n_max), by name; empty where no file is known.

        Of files that are not known, and where a parameter does not apply, they are NaN; whole numbers are left out where one is not known.
        """
        rows = [self._rows.get(file, {}) for file in files]
        found = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            if (values := _column([row.get(name, ()) for row in rows])) is not None:
                found[name] = values
        return found


def _are_parameters(names: Sequence[str]) -> bool:
    """Returns whether names may be those of parameters, each once."""
    return len({*names}) == len(names) <= _MOST_COLUMNS and all(map(_NAME.fullmatch, names))


def _cell(text: str) -> _Cell:
    if _WHOLE.fullmatch(text):
        return (int(text),)
    return tuple(map(float, text.split(";"))) if text else ()


def _column(cells: Sequence[_Cell]) -> np.ndarray | None:
    """Returns values (N,) or (N, n_max), NaN where there are none; None for whole numbers of which one lacks, and for too many values."""
    known = [cell for cell in cells if cell]
    if known and all(len(cell) == 1 and isinstance(cell[0], int) for cell in known):
        whole = len(known) == len(cells)
        return np.array([cell[0] for cell in cells], dtype=np.int64) if whole else None
    most = max(1, *map(len, cells))
    if len(cells) * most > _MOST_VALUES:
        return None
    values = np.full((len(cells), most), math.nan)
    for row, cell in zip(values, cells, strict=True):
        row[: len(cell)] = cell
    return values[:, 0] if most == 1 else values
