"""Tables of astropy as files that say their units and where they come from: FITS, ECSV and VOTable."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.table import Table

_LONGEST_CARD = 2000  # characters of a value in a header of FITS
_CARD = 80 - len("HIERARCH  = ''")  # characters of a long keyword and its value

Fact = str | int | float | bool


def astropy_unit(text: str) -> Any:
    """Returns the unit of astropy's for one as the package writes it; None for none.

    Args:
        text: ``"arcsec"``, ``"M_sun"``, ``"counts/s"``, ``"log10(eV)"`` of a logarithm, ``"dex"`` of its
            error; empty for none.
    """
    from astropy import units

    if not text:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", units.UnitsWarning)  # of counts/s/arcsec^2: two slashes
        return units.Unit(text.replace("log10(", "dex(").replace("counts", "ct"))


def write_astropy(
    found: "Table", part: Path, suffix: str, provenance: Mapping[str, object]
) -> None:
    """Writes a table with its units, descriptions and provenance.

    Args:
        found: The table; its ``meta`` is left out.
        part: The file.
        suffix: What it will be: ``.fits``, ``.ecsv``, or ``.vot`` and ``.xml`` for a VOTable.
        provenance: What made the table: keyword → value; None is left out. A header of FITS, ``meta``
            of ECSV, INFO of a VOTable.
    """
    writers = {".fits": _write_fits, ".ecsv": _write_ecsv}
    facts = {name: _fact(value) for name, value in provenance.items() if value is not None}
    writers.get(suffix, _write_votable)(found, part, facts)


def _fact(value: object) -> Fact:
    """Returns a value as all three formats have it: a number, or a text of one line."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, default=str)
    return _printable(str(value))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _logarithm(unit: Any) -> str | None:
    """Returns what to say of a logarithm or its error, for which FITS and VOTable have no unit; None of others."""
    from astropy import units

    if isinstance(unit, units.function.FunctionUnitBase):
        return f"log10 of {unit.physical_unit}"
    return "dex" if unit == units.dex else None


# --- ECSV -------------------------------------------------------------------------------------------------------------


def _write_ecsv(found: "Table", part: Path, facts: Mapping[str, Fact]) -> None:
    copy = found.copy(copy_data=False)
    copy.meta = dict(facts)
    with part.open("w", encoding="utf-8") as stream:
        copy.write(stream, format="ascii.ecsv")


# --- VOTable ----------------------------------------------------------------------------------------------------------


def _write_votable(found: "Table", part: Path, facts: Mapping[str, Fact]) -> None:
    from astropy.io import votable
    from astropy.io.votable.tree import Info

    copy = found.copy()
    copy.meta = {}
    for column in copy.itercols():
        if column.dtype.kind == "U":  # XML has no control characters
            column[:] = [text if text is np.ma.masked else _printable(text) for text in column]
        if told := _logarithm(column.unit):
            column.unit = None
            column.description = "; ".join(filter(None, (column.description, told)))
    names, taken = copy.colnames, set[str]()
    ids = [_xml_id(name, taken) for name in names]
    copy.rename_columns(names, ids)
    document = votable.from_table(copy)
    for field, name in zip(document.get_first_table().fields, names):
        field.name = name
    document.resources[0].infos.extend(
        Info(ID=_xml_id(name, taken), name=name, value=str(value)) for name, value in facts.items()
    )
    with part.open("wb") as stream:
        document.to_xml(stream)


def _xml_id(name: str, taken: set[str]) -> str:
    """Returns a name as XML may have it for an ID, which no other has; astropy would make one, and warn."""
    from astropy.utils.xml.check import fix_id

    plain = fix_id(name)
    found, n = plain, 1
    while found in taken:
        n += 1
        found = f"{plain}_{n}"
    taken.add(found)
    return str(found)


# --- FITS -------------------------------------------------------------------------------------------------------------


def _write_fits(found: "Table", part: Path, facts: Mapping[str, Fact]) -> None:
    """Writes FITS, which knows ASCII alone: other characters are as in Python's source, × as x."""
    from astropy.io import fits
    from astropy.table import Table

    plain = Table()
    for column in found.itercols():
        name = ascii_of(column.name)
        plain[name] = _in_ascii(column) if column.dtype.kind == "U" else column.copy()
        plain[name].unit = plain[name].description = None
        if column.dtype.kind == "b" and hasattr(column, "mask"):
            plain[name].fill_value = False  # readers know no missing truth values
    hdu = fits.table_to_hdu(plain)
    for number, column in enumerate(found.itercols(), 1):
        told = _logarithm(column.unit)
        if column.unit is not None and told is None:
            unit = column.unit.to_string("fits")
            hdu.header.set(f"TUNIT{number}", unit, after=f"TFORM{number}")
        if told or column.description:
            comment = ascii_of("; ".join(filter(None, (told, column.description))))
            hdu.header.set(f"TCOMM{number}", comment, after=f"TFORM{number}")
    for name, value in facts.items():
        _add_card(hdu.header, name, value)
    with part.open("wb") as stream:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)


def _in_ascii(column: Any) -> np.ndarray:
    texts = column.filled("") if hasattr(column, "filled") else column
    encoded = np.array([ascii_of(text).encode() for text in texts], dtype=bytes)
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")


def ascii_of(text: str) -> str:
    """Returns a text as FITS may have it: other characters are as in Python's source, × as x."""
    return text.replace("×", "x").encode("ascii", "backslashreplace").decode()


def _add_card(header: Any, name: str, value: Fact) -> None:
    """Adds a fact to a header: a long keyword by HIERARCH, and by HISTORY where that has no room."""
    value = ascii_of(value)[:_LONGEST_CARD] if isinstance(value, str) else value
    if isinstance(value, float) and not np.isfinite(value):
        value = str(value)
    if len(name) <= 8:
        header[name] = value
    elif len(name) + len(str(value)) + str(value).count("'") <= _CARD:
        header[f"HIERARCH {name}"] = value
    else:
        header["HISTORY"] = f"{name}: {value}"
