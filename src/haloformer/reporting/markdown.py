"""Markdown: cells that cannot break a table, and tables."""

import html
from collections.abc import Iterable, Sequence


def cell(value: object) -> str:
    """Escapes what Markdown would read as markup, and keeps a value on its line."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Returns the lines of a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
