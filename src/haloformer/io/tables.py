"""Tables of results, written row by row: CSV, Parquet and FITS."""

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from haloformer.errors import InputError
from haloformer.io.writing import free_file, whole_file

TABLE_SUFFIXES = (".csv", ".parquet", ".fits")


_TEXTS = {"file", "class", "label", "error", "ood_reason"}
_WHOLE, _YES_NO = {"index", "hdu"}, {"ood", "converged"}  # all else is float64

Rows = list[dict[str, Any]]


def checked_table_path(path: Path, overwrite: bool) -> Path:
    """Returns the path if a table may be written there."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(
            f"{path}: tables are written as .csv, .parquet or .fits, not '{path.suffix}'"
        )
    return free_file(path, overwrite)


@contextlib.contextmanager
def table(path: Path, columns: list[str], overwrite: bool) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows; the table appears under its name when all were written.

    Args:
        path: The table, of a suffix among `TABLE_SUFFIXES`.
        columns: Their names, in order. Keys of a row that are no column are left out.
        overwrite: Replace an existing table.

    Raises:
        InputError: The table cannot be written, or another process has written it meanwhile.
    """
    writer = {".parquet": write_parquet, ".fits": write_fits}.get(path.suffix.lower(), write_csv)
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
def write_fits(part: Path, columns: list[str]) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows to a FITS table, which is written in the end.

    All rows are held until then, as its texts are as wide as the longest. FITS knows ASCII alone:
    other characters are written as in Python's source, × as x.
    """
    import numpy as np
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
    with part.open("wb") as stream:
        found.write(stream, format="fits")
