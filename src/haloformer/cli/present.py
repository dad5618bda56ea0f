"""Tables and numbers for people, which several commands print."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from haloformer.io.strict_json import without_nan

if TYPE_CHECKING:
    from rich.box import Box


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    tight: "Box | None" = None,
    right: Collection[str] = (),
    headed: bool = True,
) -> None:
    """Prints a table.

    Args:
        title: Line above it.
        columns: Their headings.
        rows: Cells of each row.
        tight: Box without sides, for a table that takes as few columns of the screen as it can.
        right: Headings of the columns that are aligned right.
        headed: Whether the headings are shown.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", show_header=headed)
    if tight is not None:
        table.box, table.padding, table.pad_edge, table.show_edge = tight, 0, False, False
    for i, column in enumerate(columns):
        table.add_column(
            column, overflow="fold", no_wrap=i == 0, justify="right" if column in right else "left"
        )
    for row in rows:
        table.add_row(*row)
    # Into a pipe or file nothing is cut to 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def print_json(value: object) -> None:
    """Prints JSON; NaN and infinite numbers become null."""
    print(json.dumps(without_nan(value), indent=2, allow_nan=False))


def print_warnings(warnings: Iterable[str]) -> None:
    """Prints warnings on standard error."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def print_notes(notes: Sequence[str]) -> None:
    """Prints what was left out, and why, on standard error."""
    for i, note in enumerate(notes):
        print(f"  {note}" if i else f"warning: {note}", file=sys.stderr)


def with_interval(estimate: Mapping[str, float]) -> list[str]:
    """Returns the cells of a value and of its interval, from ``value``, ``low`` and ``high``."""
    return [f"{estimate['value']:.4f}", f"{estimate['low']:.4f} – {estimate['high']:.4f}"]


def macro_auc(row: Mapping[str, float]) -> list[str]:
    """Returns the cells of a macro AUC and of its interval, from a row of a study's results."""
    ends = (("value", ""), ("low", "_low"), ("high", "_high"))
    return with_interval({key: row.get(f"macro_auc{end}", float("nan")) for key, end in ends})


def rounded(value: float | str | None) -> str:
    """Returns a number to four digits; whole numbers and texts as they are."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int | str) else f"{value:.4g}"
