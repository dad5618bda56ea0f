"""What ``parameters.csv`` beside class folders says of the images, where haloformer wrote it: parameters, and which images are of one lens."""

import csv
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


class OwnTable:
    """Rows by file, relative to the source; empty where no table says anything.

    Attributes:
        paired: Files of images of which those of one ``index`` are of one lens.
    """

    def __init__(self) -> None:
        self.paired: set[str] = set()
        self._rows: dict[
            str, tuple[tuple[str, ...], str]
        ] = {}  # header and line: lists of halos are long as numbers

    def read(self, table: bytes, folder: PurePosixPath) -> None:
        """Reads a table; one that is none of haloformer's is passed over.

        Args:
            table: Its contents.
            folder: In which it lies, relative to the source.
        """
        rows: dict[str, tuple[tuple[str, ...], str]] = {}
        paired = set()
        try:
            lines = table.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
            header = _cells(lines[0])
            names = [name for name in header if name not in _NO_PARAMETERS]
            if not {"file", "class", "index"} <= set(header) or not _are_parameters(names):
                return
            for line in filter(None, lines[1:]):
                row = dict(zip(header, _cells(line), strict=True))
                where = (folder / row["file"]).as_posix()
                rows[where] = header, line
                if row.get(PAIRED) == "True":
                    paired.add(where)
        except (csv.Error, ValueError):
            return
        self._rows |= rows
        self.paired |= paired

    def parameters(self, files: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns parameters of N files, (N,) or (N, n_max), by name; empty where no file is known, or a table holds no numbers.

        Of files that are not known, and where a parameter does not apply, they are NaN; whole numbers are left out where one is not known.
        """
        columns: dict[str, _Column] = {}
        try:
            for number, file in enumerate(files):
                header, line = self._rows.get(file, ((), ""))
                for name, text in zip(header, _cells(line) if line else (), strict=True):
                    if name not in _NO_PARAMETERS:
                        columns.setdefault(name, _Column()).add(number, text)
        except ValueError:
            return {}
        found = {name: column.values(len(files)) for name, column in columns.items()}
        return {name: values for name, values in found.items() if values is not None}


class _Column:
    """A parameter of those images that have it: whole numbers, numbers, or lists of them."""

    def __init__(self) -> None:
        self.whole: dict[int, int] = {}
        self.numbers: dict[int, float] = {}
        self.lists: dict[int, np.ndarray] = {}

    def add(self, number: int, text: str) -> None:
        """Takes a cell of the table; raises ValueError for one that is no number."""
        if _WHOLE.fullmatch(text):
            self.whole[number] = int(text)
        elif ";" in text:
            self.lists[number] = np.array(text.split(";"), dtype=float)
        elif text:
            self.numbers[number] = float(text)

    def values(self, n: int) -> np.ndarray | None:
        """Returns values (n,) or (n, n_max), NaN where there are none; None for whole numbers of which one lacks, and for too many values."""
        if self.whole and not self.numbers and not self.lists:
            return np.array([self.whole[k] for k in range(n)]) if len(self.whole) == n else None
        most = max(map(len, self.lists.values()), default=1)
        if n * most > _MOST_VALUES:
            return None
        values = np.full((n, most), math.nan)
        for number, value in (self.numbers | self.whole).items():
            values[number, 0] = value
        for number, several in self.lists.items():
            values[number, : len(several)] = several
        return values[:, 0] if most == 1 else values


def _cells(line: str) -> tuple[str, ...]:
    """Returns the cells of a line; csv takes no longer ones than 128 KiB, and lists of halos may be."""
    return tuple(next(csv.reader([line]), ()) if '"' in line else line.split(","))


def _are_parameters(names: Sequence[str]) -> bool:
    """Returns whether names may be those of parameters, each once."""
    return len({*names}) == len(names) <= _MOST_COLUMNS and all(map(_NAME.fullmatch, names))
