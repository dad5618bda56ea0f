"""Tables of results, written row by row: CSV, Parquet and FITS."""

import contextlib
import csv
import datetime
import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.io.writing import free_file, whole_file

TABLE_SUFFIXES = (".csv", ".parquet", ".fits")


_TEXTS = {"file", "class", "label", "error", "ood_reason"}
_WHOLE, _YES_NO = {"index", "hdu"}, {"ood", "converged"}  # all else is float64

_UNITS = {
    **dict.fromkeys(("ra", "dec"), "deg"),
    **dict.fromkeys(("source_x", "source_y", "theta_E", "R_sersic"), "arcsec"),
    "exposure_time": "s",
}
"""Unit of a quantity as the FITS standard spells it; e1, e2, gamma1 … have none."""

_LOGARITHMS = {"log10_m_axion": "eV", "log10_m_subhalos": "solMass"}
"""Logarithms, and what they are of: TCOMM says so, as readers warn of the units that the standard has for them."""

_OF_A_QUANTITY = re.compile(r"_(sigma|low|high|error)$")
_ERRORS = ("_sigma", "_error")
_LONGEST_CARD = 2000  # characters of a value in a header

Rows = list[dict[str, Any]]
Writer = Callable[[Path, list[str]], contextlib.AbstractContextManager[Callable[[Rows], None]]]


def column_kind(name: str) -> Literal["text", "whole", "yes_no", "number"]:
    """Returns what a column of this name holds."""
    if name in _TEXTS:
        return "text"
    return "whole" if name in _WHOLE else "yes_no" if name in _YES_NO else "number"


def column_unit(name: str) -> str:
    """Returns the unit of a column: ``deg``, ``arcsec``, ``log10(eV)`` of a logarithm, ``dex`` of its error; else empty."""
    quantity = _OF_A_QUANTITY.sub("", name)
    if quantity in _LOGARITHMS:
        return "dex" if name.endswith(_ERRORS) else f"log10({_LOGARITHMS[quantity]})"
    return _UNITS.get(quantity, "")


def checked_table_path(path: Path, overwrite: bool) -> Path:
    """Returns the path if a table may be written there."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(
            f"{path}: tables are written as .csv, .parquet or .fits, not '{path.suffix}'"
        )
    return free_file(path, overwrite)


@contextlib.contextmanager
def table(
    path: Path,
    columns: list[str],
    overwrite: bool,
    provenance: Mapping[str, object] | None = None,
) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows; the table appears under its name when all were written.

    Args:
        path: The table, of a suffix among `TABLE_SUFFIXES`.
        columns: Their names, in order. Keys of a row that are no column are left out.
        overwrite: Replace an existing table.
        provenance: What a FITS header tells beside code version, date and command: keyword → value.

    Raises:
        InputError: The table cannot be written, or another process has written it meanwhile.
    """
    writers: dict[str, Writer] = {
        ".csv": write_csv,
        ".parquet": write_parquet,
        ".fits": functools.partial(write_fits, provenance=provenance),
    }
    writer = writers[path.suffix.lower()]
    callers: BaseException | None = None  # an error of the block, which is not one of writing
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            with writer(part, columns) as write:

                def append(rows: Rows) -> None:
                    try:
                        write(rows)
                    except OSError as error:
                        raise _write_error(path, error) from error

                try:
                    yield append
                except BaseException as error:
                    callers = error
                    raise
            checked_table_path(path, overwrite)  # another process may have written it meanwhile
    except OSError as error:
        if error is callers:
            raise
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written: {error.strerror or error}")


@contextlib.contextmanager
def write_csv(part: Path, columns: list[str]) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows to a CSV file; keys that are no column are left out."""
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        yield writer.writerows


@contextlib.contextmanager
def write_parquet(part: Path, columns: list[str]) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows to a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    kinds = ((_TEXTS, pyarrow.string()), (_WHOLE, pyarrow.int64()), (_YES_NO, pyarrow.bool_()))
    types = [
        (name, next((kind for names, kind in kinds if name in names), pyarrow.float64()))
        for name in columns
    ]
    schema = pyarrow.schema(types)
    with pyarrow.parquet.ParquetWriter(part, schema) as writer:
        yield lambda rows: writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


@contextlib.contextmanager
def write_fits(
    part: Path, columns: list[str], provenance: Mapping[str, object] | None = None
) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows to a FITS table, which is written in the end.

    Columns have their units (TUNIT), and the header says what made the table.

    All rows are held until then, as its texts are as wide as the longest. FITS knows ASCII alone:
    other characters are written as in Python's source, × as x.
    """
    import numpy as np
    from astropy.io import fits
    from astropy.table import MaskedColumn, Table

    held: dict[str, list[Any]] = {name: [] for name in columns}

    def append(rows: Rows) -> None:
        for name, values in held.items():
            found = [row.get(name) for row in rows]
            if name in _TEXTS:
                found = [
                    str(v or "").replace("×", "x").encode("ascii", "backslashreplace")
                    for v in found
                ]
            values.append(np.array([np.nan if v is None else v for v in found]))

    yield append
    found = Table()
    for name, parts in held.items():
        values = np.concatenate(parts) if parts else np.zeros(0)
        if name in _TEXTS:
            values = values if values.dtype.kind == "S" else values.astype("S1")
        elif name in _WHOLE | _YES_NO:
            values = MaskedColumn(
                np.nan_to_num(values.astype(float)).astype(np.int64 if name in _WHOLE else bool),
                mask=np.isnan(values.astype(float)),
                fill_value=-1 if name in _WHOLE else False,
            )
        else:
            values = values.astype(np.float64)
        found[name] = values
    hdu = fits.table_to_hdu(found)
    for number, name in enumerate(columns, 1):
        quantity = _OF_A_QUANTITY.sub("", name)
        if unit := _UNITS.get(quantity):
            hdu.header.set(f"TUNIT{number}", unit, after=f"TFORM{number}")
        if unit := _LOGARITHMS.get(quantity):
            what = "dex" if name.endswith(_ERRORS) else f"log10 of {unit}"
            hdu.header.set(f"TCOMM{number}", what, after=f"TFORM{number}")
    for key, value in _provenance(provenance or {}).items():
        hdu.header[key] = value
    with part.open("wb") as stream:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)


def _provenance(given: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """Returns cards of a header: ASCII, and of bounded length."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").removesuffix("+00:00")
    cards = {"CREATOR": f"haloformer {code_version()}", "DATE": now, **given}
    if Path(sys.argv[0]).name in ("haloformer", "__main__.py"):
        cards["COMMAND"] = shlex.join(["haloformer", *sys.argv[1:]])
    return {
        key: value
        if isinstance(value, bool | int | float)
        else str(value).encode("ascii", "backslashreplace").decode()[:_LONGEST_CARD]
        for key, value in cards.items()
        if value is not None
    }
