"""Which images in class folders are of one lens, as ``parameters.csv`` beside them says (`simulate --paired`)."""

import csv
import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

TABLE = "parameters.csv"
"""Table beside the class folders that haloformer writes."""

PAIRED = "paired"
"""Its column that says whether images of one ``index`` are of one lens, ``True`` in each row."""


class Pairs:
    """Numbers of lenses by file.

    Attributes:
        lenses: File, relative to the source → number of its lens; empty where nothing says so.
    """

    def __init__(self) -> None:
        self.lenses: dict[str, int] = {}

    def read(self, table: bytes, folder: PurePosixPath) -> None:
        """Reads a table; one that says nothing of pairs, or is none of haloformer's, is passed over.

        Args:
            table: Its contents.
            folder: In which it lies, relative to the source.
        """
        rows = csv.DictReader(io.StringIO(table.decode("utf-8", "replace")))
        try:
            if not {"file", "index", PAIRED} <= set(rows.fieldnames or ()):
                return
            found = {
                (folder / row["file"]).as_posix(): int(row["index"])
                for row in rows
                if row[PAIRED] == "True"
            }
        except (csv.Error, TypeError, ValueError):
            return
        self.lenses |= found

    def numbers(self, files: Sequence[str]) -> np.ndarray | None:
        """Returns the number of the lens of each file; None where one is not known."""
        found = [self.lenses.get(file) for file in files]
        return None if None in found or not found else np.array(found, dtype=np.int64)
