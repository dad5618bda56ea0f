"""Catalogs: CSV files of positions on the sky or in an image, about which cutouts are read."""

import csv
import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haloformer.data.npy import read_bytes
from haloformer.errors import InputError


@dataclass(frozen=True)
class Positions:
    """The N positions of a catalog.

    Attributes:
        on_sky: They are right ascension and declination in degrees (ICRS), not x and y in pixels.
        first: (N,) right ascension, or x counted from 0; NaN where the catalog has no number.
        second: (N,) declination, or y.
    """

    on_sky: bool
    first: np.ndarray
    second: np.ndarray


@functools.lru_cache(maxsize=2)
def read_positions(path: Path) -> Positions:
    """Reads a CSV file with the columns ``ra`` and ``dec``, or ``x`` and ``y``; others are passed over."""
    text = read_bytes(path).decode("utf-8-sig", "replace")
    try:
        header, *rows = csv.reader(text.splitlines())
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is no catalog: a CSV file with a line of column names is needed"
        ) from error
    names = [name.strip().lower() for name in header]
    for pair in (("ra", "dec"), ("x", "y")):
        if all(name in names for name in pair):
            columns = [names.index(name) for name in pair]
            break
    else:
        raise InputError(
            f"{path} has the columns {', '.join(header)}: ra and dec, or x and y, are needed"
        )
    rows = [row for row in rows if row]
    if not rows:
        raise InputError(f"{path} holds no position")
    first, second = (
        np.array([_number(row[k]) if k < len(row) else math.nan for row in rows]) for k in columns
    )
    return Positions(pair == ("ra", "dec"), first, second)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
