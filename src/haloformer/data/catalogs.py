"""Catalogs: tables of positions on the sky or in an image, about which cutouts are read.

CSV, ECSV, VOTable and FITS tables, told by their contents. `COLUMNS` are the pairs of names that are
known. Positions by right ascension and declination are taken for ICRS; J2000 differs by 0.02 arcsec.
"""

import contextlib
import csv
import functools
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from haloformer.errors import InputError
from haloformer.files import check_yaml, printable
from haloformer.readers.fits import fits_hdus, one_line
from haloformer.readers.npy import MAX_FILE_BYTES, read_bytes

COLUMNS: tuple[tuple[str, str], ...] = (
    ("ra", "dec"),
    *(("ra_icrs", "dec_icrs"), ("ra_icrs", "de_icrs"), ("_ra_icrs", "_de_icrs")),
    *(("raj2000", "dej2000"), ("raj2000", "decj2000"), ("_raj2000", "_dej2000")),
    *(("ra_j2000", "dec_j2000"), ("ra2000", "dec2000"), ("ra_2000", "dec_2000"), ("_ra", "_de")),
    *(("ra_deg", "dec_deg"), ("radeg", "decdeg"), ("radeg", "dedeg"), ("_radeg", "_dedeg")),
    *(("alpha_j2000", "delta_j2000"), ("alphawin_j2000", "deltawin_j2000"), ("alpha", "delta")),
    *(("right_ascension", "declination"), ("rightascension", "declination")),
    *(("ramean", "decmean"), ("rastack", "decstack"), ("raobj", "decobj")),
    *(("s_ra", "s_dec"), ("target_ra", "target_dec"), ("obj_ra", "obj_dec"), ("ra_obj", "dec_obj")),
)
"""Names of columns of right ascension and declination, in lower case."""

PIXEL_COLUMNS: tuple[tuple[str, str], ...] = (
    ("x", "y"),
    *(("x_image", "y_image"), ("xwin_image", "ywin_image"), ("ximage", "yimage")),
)
"""Names of columns of x and y in pixels, the first pair counted from 0, the others, as SExtractor does, from 1."""

_SAME = 1 / 3600, 0.5  # degrees, and pixels, by which two pairs of columns may differ
_MAX_ROWS = 2_000_000
_LISTED = 20  # columns that an error names
_UNIT = re.compile(r"^(.*?)\s*[\[(]\s*([^\])]+?)\s*[\])]$")  # ra [deg], ra (deg)
_UNITS = {
    **dict.fromkeys(("", "degree", "degrees", "deg.", "d", "d:m:s", "dms", "dd:mm:ss"), "deg"),
    **dict.fromkeys(("h", "hr", "hour", "hours", "h:m:s", "hms", "hh:mm:ss"), "hourangle"),
    **dict.fromkeys(("radian", "radians"), "rad"),
}
_MAX_FIELDS, _MAX_CELLS, _MAX_DEPTH = (
    2000,
    10_000,
    100,
)  # of a VOTable: fields, values of one, nesting


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


@dataclass(frozen=True)
class _Table:
    """The columns of a table.

    Attributes:
        names: As the file spells them.
        units: Of each, empty where there is none.
        column: From a column's number to its values (N,), numbers or texts.
    """

    names: list[str]
    units: list[str]
    column: Callable[[int], np.ndarray]


def read_positions(path: Path) -> Positions:
    """Reads the positions of a catalog; columns that are not needed are passed over.

    Args:
        path: A CSV file with a line of column names, an ECSV file, a VOTable, or a FITS file, of
            which the first table is read.

    Raises:
        InputError: It cannot be read, has no pair of `COLUMNS` or `PIXEL_COLUMNS`, several that differ,
            or a unit that is no angle.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # what opens it says so
        return _read_positions(path, 0, 0)
    return _read_positions(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _read_positions(path: Path, size: int, changed: int) -> Positions:
    """Reads a catalog once, as long as its size and date stay."""
    data, name = read_bytes(path), str(path)
    if not data.strip():
        raise InputError(f"{name} is empty")
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:16]
    if start.startswith((b"SIMPLE", b"\x1f\x8b")):
        with fits_hdus(data, name) as hdus:
            return _positions(_fits_table(hdus, name), name)
    with _table_errors(name):
        if start.startswith(b"<"):
            table = _votable(data, name)
        elif start.startswith(b"# %ECSV"):
            table = _ecsv(data, name)
        else:
            table = _csv(data, name)
    return _positions(table, name)


# --- which columns ----------------------------------------------------------------------------------------------------


def _positions(table: _Table, name: str) -> Positions:
    spelt, units = _without_units(table)
    for on_sky, pairs in ((True, COLUMNS), (False, PIXEL_COLUMNS)):
        wanted = {word for pair in pairs for word in pair}
        for word in sorted(wanted):
            if spelt.count(word) > 1:
                raise InputError(f"{name} has the column {word} {spelt.count(word)} times")
        there = [pair for pair in pairs if pair[0] in spelt and pair[1] in spelt]
        there += _coordinates(spelt) if on_sky else []
        if there:
            break
    else:
        raise InputError(
            f"{name} has the columns {_listed(table.names)}: ra and dec, or x and y, are needed"
        )
    found = [_pair(table, spelt, units, pair, name, on_sky=on_sky) for pair in there]
    if not len(found[0].first):
        raise InputError(f"{name} holds no position")
    for pair, other in zip(there[1:], found[1:]):
        if not _agree(found[0], other):
            raise InputError(
                f"{name} has the columns {', '.join(there[0])} and {', '.join(pair)}, which differ: keep one pair"
            )
    return found[0]


def _without_units(table: _Table) -> tuple[list[str], list[str]]:
    """Returns the names in lower case without what stands in brackets, and the units, which may have stood there."""
    names, units = [], []
    for name, unit in zip(table.names, table.units):
        found = _UNIT.match(name.strip().lower())
        names.append(found[1] if found else name.strip().lower())
        units.append(unit or (found[2] if found else ""))
    return names, units


def _coordinates(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the pairs of columns into which astropy writes a column of coordinates, such as sky.ra and sky.dec."""
    stems = [name.removesuffix(".ra") for name in names if name.endswith(".ra")]
    return [(f"{stem}.ra", f"{stem}.dec") for stem in stems if f"{stem}.dec" in names]


def _pair(
    table: _Table,
    spelt: Sequence[str],
    units: Sequence[str],
    pair: tuple[str, str],
    name: str,
    *,
    on_sky: bool,
) -> Positions:
    values = []
    for which, word in enumerate(pair):
        k = spelt.index(word)
        column = np.asarray(table.column(k))
        if column.ndim != 1 or column.dtype.kind not in "biufUSO":
            raise InputError(
                f"{name}: the column {table.names[k]} is not one number or text per row"
            )
        if len(column) > _MAX_ROWS:
            raise InputError(f"{name} has {len(column)} rows, more than {_MAX_ROWS:,}")
        if on_sky:
            label = f"{name}: the column {table.names[k]}"
            values.append(_degrees(column, units[k], label, in_hours=which == 0))
        else:
            values.append(_numbers(column) - (pair != PIXEL_COLUMNS[0]))
    return Positions(on_sky, values[0], values[1])


def _agree(one: Positions, other: Positions) -> bool:
    """Tells whether two pairs of columns give the same positions, where both give any."""
    with np.errstate(invalid="ignore"):
        first, second = np.abs(one.first - other.first), np.abs(one.second - other.second)
        if one.on_sky:
            first = np.minimum(first % 360, -first % 360) * np.cos(np.radians(one.second))
        return not bool((np.maximum(first, second) > _SAME[not one.on_sky]).any())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:_LISTED])) + (", …" if len(names) > _LISTED else "")


# --- values -----------------------------------------------------------------------------------------------------------


def _numbers(column: np.ndarray) -> np.ndarray:
    """Returns a column as float64, NaN where there is no finite number."""
    if column.dtype.kind in "biuf":
        values = column.astype(np.float64)
    else:
        values = np.array([_number(item) for item in column.tolist()], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _number(text: object) -> float:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _degrees(column: np.ndarray, unit: str, label: str, *, in_hours: bool) -> np.ndarray:
    """Returns angles in degrees, NaN where there is none.

    Args:
        column: (N,) numbers, or texts of numbers or of degrees (or hours), minutes and seconds.
        unit: Of the numbers; empty: degrees.
        label: Of the column, for error messages.
        in_hours: Texts with minutes and seconds begin with hours, unless the unit says degrees.
    """
    from astropy import units

    plain = unit.strip().strip("\"'").lower()
    known = units.Unit(_UNITS.get(plain, plain), parse_strict="silent")
    if not known.is_equivalent(units.deg):
        raise InputError(
            f"{label} is in '{unit[:30]}', which is no angle: deg, rad or hourangle are"
        )
    degrees: np.ndarray = _numbers(column) * known.to(units.deg)
    if column.dtype.kind in "biuf":
        return degrees
    texts = [str(_decoded(item)).strip() for item in column.tolist()]
    left = [k for k, text in enumerate(texts) if text and math.isnan(degrees[k])]
    hours = in_hours and (not plain or known == units.hourangle)
    if left:
        degrees[left] = _sexagesimal([texts[k] for k in left], "hourangle" if hours else "deg")
    return degrees


def _decoded(item: object) -> object:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item


def _sexagesimal(texts: list[str], unit: str) -> np.ndarray:
    """Returns texts such as 10:00:28.6, 10h00m28.6s or 10 00 28.6 in degrees, NaN where one is none."""
    from astropy.coordinates import Angle

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 60 seconds, which are taken for a minute
        try:
            return np.asarray(Angle(texts, unit=unit).deg, dtype=np.float64)
        except Exception:  # one of them is none, in any of many ways: which, tells each alone
            found = []
            for text in texts:
                try:
                    found.append(float(Angle(text[:100], unit=unit).deg))
                except Exception:
                    found.append(math.nan)
            return np.array(found)


# --- files ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _table_errors(name: str) -> Iterator[None]:
    """Turns whatever a reader raises into one line: a corrupt table fails in many ways."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is no catalog that can be read: {one_line(error)}") from error


def _csv(data: bytes, name: str) -> _Table:
    text = data.decode("utf-8-sig", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    head = lines[0].lstrip("# ") if lines else ""
    delimiter = max(",;\t", key=head.count)
    try:
        names, *rows = csv.reader([head, *lines[1:]], delimiter=delimiter)
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{name} is no catalog: a CSV file with a line of column names is needed"
        ) from error

    def column(k: int) -> np.ndarray:
        return np.array([row[k] if k < len(row) else "" for row in rows], dtype=object)

    return _Table(names, [""] * len(names), column)


def _ecsv(data: bytes, name: str) -> _Table:
    from astropy.table import Table

    text = data.decode("utf-8-sig")
    header = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    check_yaml("\n".join(header[1:]).encode(), name)
    return _of_astropy(Table.read(text.splitlines(), format="ascii.ecsv"))


def _votable(data: bytes, name: str) -> _Table:
    from astropy.io import votable

    _check_votable(data, name)
    found = votable.parse(io.BytesIO(data), verify="ignore").get_first_table()
    return _of_astropy(found.to_table(use_names_over_ids=True))


def _of_astropy(table: Any) -> _Table:
    names, columns = [], []
    for name in table.colnames:
        found = table[name]
        if hasattr(found, "icrs"):  # a column of coordinates
            names += [f"{name}.ra", f"{name}.dec"]
            columns += [found.icrs.ra, found.icrs.dec]
        else:
            names.append(name)
            columns.append(found)

    def column(k: int) -> np.ndarray:
        found = columns[k]
        if hasattr(found, "filled"):
            found = found.astype(float) if found.dtype.kind in "biu" else found
            found = found.filled(np.nan if found.dtype.kind == "f" else "")
        return np.asarray(getattr(found, "value", found))

    return _Table(names, [str(getattr(each, "unit", None) or "") for each in columns], column)


def _check_votable(data: bytes, name: str) -> None:
    """Refuses a VOTable that makes astropy open other files, expand entities, or claim much memory."""
    depth = n_fields = row = rows = 0

    def begin(element: str, attributes: dict[str, str]) -> None:
        nonlocal depth, n_fields, row, rows
        depth += 1
        kind = element.rpartition(":")[2].upper()
        if depth > _MAX_DEPTH:
            raise InputError(f"{name} is nested too deeply")
        if kind == "STREAM" and ("href" in attributes or attributes.get("encoding") != "base64"):
            raise InputError(f"{name} keeps its rows elsewhere or packed, which are not opened")
        if kind == "FITS":
            raise InputError(f"{name} keeps its rows in a FITS file: give that")
        if kind == "TABLE":
            rows = max(rows, _whole(attributes.get("nrows", "0"), name))
        if kind == "FIELD":
            n_fields += 1
            sizes = re.findall(r"\d+", attributes.get("arraysize", "1")) or ["1"]
            cells = math.prod(min(_whole(size, name), _MAX_CELLS + 1) for size in sizes[:8])
            row += cells
            if n_fields > _MAX_FIELDS or cells > _MAX_CELLS:
                raise InputError(f"{name} has too many columns, or one of too many values per row")

    def end(element: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise InputError(
            f"{name} declares a document type or entities, which a catalog does not need"
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    if rows > len(data) or 8 * rows * row > MAX_FILE_BYTES:
        raise InputError(f"{name} claims {rows} rows, which it does not hold")


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text.strip()):
        raise InputError(f"{name} has '{text[:20]}' where a number of rows or values is needed")
    return int(text)


def _fits_table(hdus: Sequence[Any], name: str) -> _Table:
    for hdu in hdus:
        columns = getattr(hdu, "columns", None)
        if columns is None or hdu.is_image:
            continue
        names = [str(column.name) for column in columns]

        def column(k: int, hdu: Any = hdu) -> np.ndarray:
            return np.asarray(hdu.data.field(k))

        return _Table(names, [str(column.unit or "") for column in columns], column)
    raise InputError(f"{name} holds no table, which a catalog needs")
