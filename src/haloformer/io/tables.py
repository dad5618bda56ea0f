"""Tables of results: CSV, Parquet, FITS, ECSV and VOTable, as the ending of the name says."""

import contextlib
import csv
import datetime
import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.io.astropy_tables import astropy_unit, write_astropy
from haloformer.io.writing import free_file, kept_beside, whole_file

if TYPE_CHECKING:
    from astropy.table import Table

TABLE_SUFFIXES = (".csv", ".parquet", ".fits", ".ecsv", ".vot", ".xml")
"""What a table's name may end in; .vot and .xml are VOTables."""

SUFFIXES_TOLD = f"{', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]}"


_TEXTS = {"file", "class", "label", "error", "ood_reason"}
_WHOLE, _YES_NO = {"index", "hdu"}, {"ood", "converged", "good_fit"}  # all else is float64

_UNITS = {
    **dict.fromkeys(("ra", "dec"), "deg"),
    **dict.fromkeys(("source_x", "source_y", "theta_E", "R_sersic"), "arcsec"),
    "exposure_time": "s",
}
"""Unit of a quantity; e1, e2, gamma1 … have none."""

_LOGARITHMS = {"log10_m_axion": "eV", "log10_m_subhalos": "solMass"}
"""Logarithms, and what they are of."""

_OF_A_QUANTITY = re.compile(r"_(true|sigma|low|high|error)$")
_ERRORS = ("_sigma", "_error")

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
        raise InputError(f"{path}: tables are written as {SUFFIXES_TOLD}, not '{path.suffix}'")
    return free_file(path, overwrite)


@contextlib.contextmanager
def table(
    path: Path,
    columns: list[str],
    overwrite: bool,
    provenance: Mapping[str, object] | None = None,
    descriptions: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows; the table appears under its name when all were written.

    Args:
        path: The table, of a suffix among `TABLE_SUFFIXES`.
        columns: Their names, in order. Keys of a row that are no column are left out.
        overwrite: Replace an existing table.
        provenance: What FITS, ECSV and VOTable tell beside code version, date and command: keyword → value.
        descriptions: What these say of columns: name → one line.
        units: Of columns whose name does not say it (`column_unit`): name → unit as the package writes it.

    Raises:
        InputError: The table cannot be written, or another process has written it meanwhile: the message says where the new one is then.
    """
    suffix = path.suffix.lower()
    facts: dict[str, object] = {**made_by(), **(provenance or {})}
    held: Writer = functools.partial(
        _held,
        suffix=suffix,
        provenance=facts,
        descriptions=descriptions or {},
        units={name: column_unit(name) for name in columns} | dict(units or {}),
    )
    writers: dict[str, Writer] = {".csv": write_csv, ".parquet": write_parquet}
    writer = writers.get(suffix, held)
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
            try:
                checked_table_path(path, overwrite)
            except InputError as error:  # another process has written it meanwhile
                raise kept_beside(part, path, error) from error
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
def _held(
    part: Path,
    columns: list[str],
    suffix: str,
    provenance: Mapping[str, object],
    descriptions: Mapping[str, str],
    units: Mapping[str, str],
) -> Iterator[Callable[[Rows], None]]:
    """Yields a function that appends rows to a table with units, descriptions and provenance.

    All rows are held until the end, as the widths of columns depend on all of them.
    """
    import numpy as np

    held: dict[str, list[Any]] = {name: [] for name in columns}

    def append(rows: Rows) -> None:
        for name, values in held.items():
            found = [row.get(name) for row in rows]
            if name in _TEXTS:
                values += [None if value is None else str(value) for value in found]
            else:
                values.append(np.array([np.nan if v is None else v for v in found], dtype=float))

    yield append
    write_astropy(_astropy_table(held, descriptions, units), part, suffix, provenance)


def _astropy_table(
    held: Mapping[str, list[Any]], descriptions: Mapping[str, str], units: Mapping[str, str]
) -> "Table":
    import numpy as np
    from astropy.table import Column, MaskedColumn, Table

    found = Table()
    for name, parts in held.items():
        about: dict[str, Any] = {
            "name": name,
            "unit": astropy_unit(units.get(name, "")),
            "description": descriptions.get(name) or None,
        }
        if name in _TEXTS:
            missing = [text is None for text in parts]
            values = np.array([text or "" for text in parts], dtype=str)
            if any(missing):
                found.add_column(MaskedColumn(values, mask=missing, **about))
            else:
                found.add_column(Column(values, **about))
            continue
        values = np.concatenate(parts) if parts else np.zeros(0)
        if name in _WHOLE | _YES_NO:
            filled = np.nan_to_num(values).astype(np.int64 if name in _WHOLE else np.bool_)
            fill = -1 if name in _WHOLE else False
            about |= {"mask": np.isnan(values), "fill_value": fill}
            found.add_column(MaskedColumn(filled, **about))
        else:
            found.add_column(Column(values, **about))
    return found


def save_table(found: "Table", path: Path, *, overwrite: bool = False) -> Path:
    """Writes a table of astropy; its ``meta`` says where it comes from.

    Args:
        found: The table, with units and descriptions.
        path: The file, of a suffix among `TABLE_SUFFIXES`. CSV has neither units nor provenance.
        overwrite: Replace an existing table.

    Raises:
        InputError: It cannot be written or exists, or CSV has no place for a column's rows.
    """
    suffix = checked_table_path(path, overwrite).suffix.lower()
    several = [column.name for column in found.itercols() if column.ndim > 1]
    if suffix == ".csv" and several:
        raise InputError(
            f"{path}: rows of {several[0]} have several numbers, which .csv does not hold: "
            "take .ecsv, .vot, .fits or .parquet"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            if suffix == ".csv":
                _save_csv(found, part)
            elif suffix == ".parquet":
                _save_parquet(found, part)
            else:
                write_astropy(found, part, suffix, {**made_by(), **found.meta})
    except OSError as error:
        raise _write_error(path, error) from error
    return path


def _save_csv(found: "Table", part: Path) -> None:
    """Writes what people and `table` write: nothing where nothing is."""
    columns = [
        ["" if value is None or value != value else value for value in column.tolist()]
        for column in found.itercols()
    ]
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(found.colnames)
        writer.writerows(zip(*columns))


def _save_parquet(found: "Table", part: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    arrays = [pyarrow.array(column.tolist()) for column in found.itercols()]
    fields = [
        pyarrow.field(
            column.name,
            array.type,
            metadata={
                "unit": "" if column.unit is None else str(column.unit),
                "description": column.description or "",
            },
        )
        for column, array in zip(found.itercols(), arrays)
    ]
    facts = {**made_by(), **found.meta}
    schema = pyarrow.schema(fields, {name: str(value) for name, value in facts.items()})
    pyarrow.parquet.write_table(pyarrow.table(arrays, schema=schema), part)


def made_by() -> dict[str, str]:
    """Returns what made a table or another result: package, time, and command where there is one."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").removesuffix("+00:00")
    found = {"CREATOR": f"haloformer {code_version()}", "DATE": now}
    if Path(sys.argv[0]).name in ("haloformer", "__main__.py"):
        found["COMMAND"] = shlex.join(["haloformer", *sys.argv[1:]])
    return found
