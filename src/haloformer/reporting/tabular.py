"""Results as tables: columns with units and descriptions, for astropy, pandas, notebooks and terminals.

A result that is `Tabular` says which columns it has and where it comes from; everything else is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.errors import InputError
from haloformer.io.astropy_tables import astropy_unit
from haloformer.io.tables import save_table

if TYPE_CHECKING:
    import pandas
    from astropy.table import Table
    from matplotlib.figure import Figure

_ROWS = 20  # that a notebook shows
_LINES = 8  # that a terminal shows
_WIDTH = 100  # characters of a line
_MISSING = "–"


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a result.

    Attributes:
        name: Its name.
        values: (N,) numbers, truth values or texts; (N, M) where each row has several numbers. What
            is missing is NaN, None, or masked.
        unit: As the package writes units: ``"arcsec"``, ``"M_sun"``, ``"counts/s"``,
            ``"log10(eV)"`` of a logarithm, ``"dex"`` of its error; empty for none.
        description: One line for people.
    """

    name: str
    values: np.ndarray
    unit: str = ""
    description: str = ""


class Tabular:
    """What every result of the package answers to, beside what is its own.

    Results say `columns` and `provenance`, `summary` in one line, and draw themselves by ``plot()``
    where there is something to see.
    """

    def columns(self) -> list[Column]:
        """Returns the columns, of equal length."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """Returns what made this: model, survey, seed, code version; plain values."""
        raise NotImplementedError

    def summary(self) -> str:
        """Returns what this is, in one line."""
        raise NotImplementedError

    def picture(self) -> "Figure | None":
        """Returns the figure that a notebook shows above the table; None for none."""
        return None

    def to_table(self) -> "Table":
        """Returns an astropy table: columns with units and descriptions, provenance in ``meta``.

        Logarithms have the unit ``dex(…)``, so that ``table["log10_m_axion"].quantity.physical`` is
        a mass. Texts, whole numbers and truth values that are missing are masked, other numbers NaN.
        """
        from astropy.table import Column as PlainColumn
        from astropy.table import MaskedColumn, Table

        found = Table(meta=_without_none(self.provenance()))
        for each in self.columns():
            values, missing = _plain(each.values), _missing(each.values)
            options = {
                "name": each.name,
                "unit": astropy_unit(each.unit),
                "description": each.description or None,
            }
            if missing is None:
                found.add_column(PlainColumn(values, **options))
            else:
                found.add_column(MaskedColumn(values, mask=missing, **options))
        return found

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the table, and returns its path.

        Args:
            path: Its ending says what it becomes: .fits, .ecsv and .vot or .xml (a VOTable) have
                units, descriptions and provenance; .csv and .parquet, too.
            overwrite: Replace a table that is there.

        Raises:
            InputError: Another ending; or it cannot be written, or exists.
        """
        return save_table(self.to_table(), Path(path), overwrite=overwrite)

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns a pandas data frame; units, descriptions and provenance are in its ``attrs``.

        A column whose rows have several numbers holds an array of those that are there.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError(
                "to_pandas needs pandas: pip install pandas, or take to_table()"
            ) from error

        columns = self.columns()
        frame = pandas.DataFrame({each.name: _series(each.values) for each in columns})
        frame.attrs = {
            **_without_none(self.provenance()),
            "units": {each.name: each.unit for each in columns if each.unit},
            "descriptions": {each.name: each.description for each in columns if each.description},
        }
        return frame

    def _repr_html_(self) -> str:
        from haloformer.reporting import html
        from haloformer.reporting.style import data_uri

        columns = self.columns()
        figure = self.picture()
        rows = [[_cell(each, k) for each in columns] for k in range(min(_length(columns), _ROWS))]
        header = [each.name + (f" [{each.unit}]" if each.unit else "") for each in columns]
        left = _length(columns) - len(rows)
        parts = [
            html.paragraph(self.summary()),
            *([] if figure is None else [html.photo(data_uri(figure), self.summary())]),
            *([html.table(header, rows, "numbers plain")] if columns else []),
            *([html.paragraph(f"and {left:,} more rows: to_table() has all")] if left > 0 else []),
        ]
        # A notebook has none of our style sheet: a wide table scrolls within its place by this alone.
        return f'<div style="overflow-x: auto">{"".join(map(str, parts))}</div>'

    def __repr__(self) -> str:
        return "\n".join([f"{type(self).__name__}: {self.summary()}", *_lines(self.columns())])


def masked(values: Sequence[Any], kind: type[int] | type[bool]) -> np.ndarray:
    """Returns whole numbers or truth values (N,), of which None are masked."""
    missing = [value is None for value in values]
    filled = np.array([kind(0) if value is None else kind(value) for value in values], dtype=kind)
    return np.ma.masked_array(filled, mask=missing) if any(missing) else filled


def texts(values: Sequence[str | None]) -> np.ndarray:
    """Returns texts (N,), of which None are missing."""
    found = np.empty(len(values), dtype=object)
    found[:] = list(values)
    return found


def _length(columns: Sequence[Column]) -> int:
    return len(columns[0].values) if columns else 0


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _plain(values: np.ndarray) -> np.ndarray:
    """Returns values of a type that astropy's files take: texts as such, missing ones empty."""
    if values.dtype == object:
        return np.array([value or "" for value in values], dtype=str)
    return np.ma.getdata(values)


def _missing(values: np.ndarray) -> np.ndarray | None:
    """Returns which values (N,) are missing and no NaN; None if none is."""
    if values.dtype == object:
        found = np.array([value is None for value in values], dtype=bool)
        return found if found.any() else None
    return np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None


def _series(values: np.ndarray) -> Any:
    """Returns a column as pandas takes it."""
    if values.ndim > 1:
        return [row[~np.isnan(row)] for row in values.astype(np.float64)]
    if not np.ma.isMaskedArray(values):
        return values
    import pandas

    kind = "boolean" if values.dtype == bool else "Int64"
    return pandas.array([None if value is np.ma.masked else value for value in values], dtype=kind)


def _cell(column: Column, row: int) -> str:
    value = column.values[row]
    if np.ndim(value):
        there = int(np.isfinite(value).sum())
        return f"{there} values" if there else _MISSING
    if value is None or value is np.ma.masked:
        return _MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return _MISSING
        from haloformer.reporting.interval import format_value

        text = f"{value:.4g}"
        return format_value(float(value)) if text == "1" and value < 1 else text
    return str(value)


def _lines(columns: Sequence[Column]) -> list[str]:
    """Returns the first rows as lines of text, with the columns for which there is room."""
    n = _length(columns)
    lines = [""] * (min(n, _LINES) + 1)
    shown = 0
    for each in columns:
        cells = [each.name, *(_cell(each, k) for k in range(len(lines) - 1))]
        width = max(map(len, cells))
        if shown and len(lines[0]) + width + 2 > _WIDTH:
            break
        lines = [
            f"{line}{'  ' if shown else ''}{cell:<{width}}" for line, cell in zip(lines, cells)
        ]
        shown += 1
    lines = [line.rstrip() for line in lines] if shown else []
    left = [(n - _LINES, "row"), (len(columns) - shown, "column")]
    more = [f"{count:,} more {what}{'s' * (count > 1)}" for count, what in left if count > 0]
    return lines + ([f"… and {', '.join(more)}"] if more else [])
