"""Tables and numbers for people, which several commands print."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

from haloformer.cli.layout import filled, screen_width, table_lines


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str] = (),
    headed: bool = True,
    limit: int | None = None,
) -> None:
    """Prints a table: with lines around it if the screen has room, else as narrow as it must be.

    Args:
        title: Line above it.
        columns: Their headings.
        rows: Cells of each row.
        right: Headings of the columns that are aligned right.
        headed: Whether the headings are shown.
        limit: How many rows are printed at most; what is left is counted.
    """
    rows = list(rows)
    left = 0 if limit is None else max(0, len(rows) - limit)
    rows = rows[: len(rows) - left]
    width = screen_width()
    natural = sum(
        max((len(line) for cell in cells for line in cell.split("\n")), default=0)
        for cells in zip(columns, *rows)
    )
    if natural + 3 * len(columns) + 1 <= width:
        _print_framed(title, columns, rows, right, headed, width)
    else:
        if title:
            print(filled(title, width))
        print("\n".join(table_lines(columns, rows, width, right, headed)))
        if not left:
            print()
    if left:
        print(f"… and {left:,} more")


def _print_framed(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str],
    headed: bool,
    width: int,
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=headed)
    for column in columns:
        table.add_column(Text(column), no_wrap=True, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: brackets in a file's name are no markup
    console = Console(width=width)
    print_title = Text(filled(title, width), style="bold")
    if title:
        console.print(print_title, soft_wrap=True)
    console.print(table)


def say(text: str) -> None:
    """Prints a line; on a screen it is broken between words."""
    print(filled(text, screen_width(piped=10_000)))


def rows_in_words(number: int) -> str:
    """Returns how many rows there are: ``1 row``, ``2 rows``."""
    return f"{number} row{'' if number == 1 else 's'}"


def print_warnings(warnings: Iterable[str]) -> None:
    """Prints warnings on standard error."""
    for warning in warnings:
        print(told(f"warning: {warning}"), file=sys.stderr)


def told(line: str) -> str:
    """Returns a line for standard error: broken between words where that is a terminal."""
    return filled(line, screen_width()) if sys.stderr.isatty() else line


def print_notes(notes: Sequence[str]) -> None:
    """Prints what was left out, and why, on standard error."""
    for i, note in enumerate(notes):
        print(f"  {note}" if i else told(f"warning: {note}"), file=sys.stderr)


def with_interval(estimate: Mapping[str, float]) -> list[str]:
    """Returns the cells of a value and of its interval, from ``value``, ``low`` and ``high``.

    They are rounded as in reports: never up to a perfect 1; what is not known is a dash.
    """
    from haloformer.reporting.interval import format_value

    value, low, high = (format_value(estimate[key]) for key in ("value", "low", "high"))
    return [value, "–" if "–" in (low, high) else f"{low} – {high}"]


def macro_auc(row: Mapping[str, float]) -> list[str]:
    """Returns the cells of a macro AUC and of its interval, from a row of a study's results."""
    ends = (("value", ""), ("low", "_low"), ("high", "_high"))
    return with_interval({key: row.get(f"macro_auc{end}", float("nan")) for key, end in ends})


def rounded(value: float | str | None) -> str:
    """Returns a number to four digits; whole numbers and texts as they are."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int | str) else f"{value:.4g}"
