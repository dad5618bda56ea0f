"""Text that fits the screen: paragraphs, commands and tables, broken between words alone."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence

_GAP = "  "  # between columns
_WIDE = 160  # columns of what goes into a pipe or file
_NUMBER = 20  # characters of a number with its unit, error or interval
_LONG = 16  # characters of a word, such as a path, that may be broken behind a slash or hyphen


def screen_width(*, piped: int = _WIDE) -> int:
    """Returns the columns of the screen: what COLUMNS says, or the terminal's own.

    Args:
        piped: What a pipe or a file is taken to have.
    """
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return max(int(told), 30)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else piped


def filled(text: str, width: int, indent: str = "", hanging: str | None = None) -> str:
    """Returns a paragraph of at most ``width`` columns, if its words are that short.

    Args:
        text: Words.
        width: Columns.
        indent: Before the first line.
        hanging: Before the others; as the first by default.
    """
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def filled_paragraphs(text: str, width: int) -> str:
    """Returns a text whose paragraphs are filled; lines with an indent are commands, and stay so."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        plain = [line for line in lines if not line.startswith("    ")]
        commands = [line for line in lines if line.startswith("    ")]
        parts = [filled(" ".join(plain), width)] if plain else []
        parts += [broken_command(line.strip(), width, "    ") for line in commands]
        found.append("\n".join(parts))
    return "\n\n".join(found)


def broken_command(command: str, width: int, indent: str = "") -> str:
    r"""Returns a command in lines that a shell takes as one, each but the last with a ``\`` at its end."""
    if len(indent) + len(command) <= width:
        return indent + command
    # An option stays with its value, and nothing between quotes is broken.
    words = re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+", command)
    pairs: list[str] = []
    for word in words:
        if pairs and re.fullmatch(r"--[\w-]+", pairs[-1]) and not word.startswith("--"):
            pairs[-1] += f" {word}"
        else:
            pairs.append(word)
    lines = [indent + pairs[0]]
    for pair in pairs[1:]:
        if len(lines[-1]) + 1 + len(pair) + 2 <= width:
            lines[-1] += f" {pair}"
        else:
            lines.append(f"{indent}  {pair}")
    return " \\\n".join(lines)


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    right: Collection[str] = (),
    headed: bool = True,
) -> list[str]:
    """Returns a table as lines of at most ``width`` columns, if its words are that short.

    What is too wide is broken between words. Columns that do not fit even so follow in a second
    table below, which begins with the first column again; the second of two follows below each row.

    Args:
        columns: Headings.
        rows: Cells.
        width: Columns of the screen.
        right: Headings of the columns that are aligned right.
        headed: Whether the headings are shown.
    """
    least = [
        max(_longest_piece(cell) for cell in (name if headed else "", *(row[i] for row in rows)))
        for i, name in enumerate(columns)
    ]
    if len(columns) == 2 and sum(least) + 1 > width:  # the second column goes below the first
        return [
            line for name, text in rows for line in (name, *filled(text, width, "  ").splitlines())
        ]
    gap = _GAP if sum(least) + len(_GAP) * (len(least) - 1) <= width else " "
    lines: list[str] = []
    for group in _groups(least, width, gap):
        shown = [[row[i] for i in group] for row in rows]
        names = [columns[i] for i in group]
        widths = _widths([names] if headed else [], shown, [least[i] for i in group], width, gap)
        aligned = [name in right for name in names]
        if lines:
            lines.append("")
        if headed:
            lines += _row_lines(names, widths, aligned, gap)
            lines.append(gap.join("─" * each for each in widths))
        for row in shown:
            lines += _row_lines(row, widths, aligned, gap)
    return lines


def _groups(least: Sequence[int], width: int, gap: str) -> list[list[int]]:
    """Returns which columns stand beside each other."""
    groups, taken = [[0]], least[0]
    for i, needed in list(enumerate(least))[1:]:
        if taken + len(gap) + needed > width and len(groups[-1]) > 1:
            groups.append([0])
            taken = least[0]
        groups[-1].append(i)
        taken += len(gap) + needed
    return groups


def _widths(
    headings: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    least: Sequence[int],
    width: int,
    gap: str,
) -> list[int]:
    """Returns how wide columns are: as wide as they would like to be, those that want least first."""
    cells = [*headings, *rows]
    wanted = [
        max(len(line) for row in cells for line in (row[i].split("\n") or [""]))
        for i in range(len(least))
    ]
    found = list(least)
    room = width - sum(least) - len(gap) * (len(least) - 1)
    waiting = sorted(range(len(least)), key=lambda i: wanted[i] - least[i])
    while waiting and room > 0:
        i = waiting.pop(0)
        more = min(max(0, wanted[i] - least[i]), room // (len(waiting) + 1))
        found[i] += more
        room -= more
    return found


def _row_lines(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], gap: str
) -> list[str]:
    wrapped = [_wrapped(cell, width) for cell, width in zip(cells, widths)]
    lines = []
    for k in range(max(map(len, wrapped), default=0)):
        parts = [cell[k] if k < len(cell) else "" for cell in wrapped]
        lines.append(
            gap.join(
                part.rjust(width) if at_right else part.ljust(width)
                for part, width, at_right in zip(parts, widths, right)
            ).rstrip()
        )
    return lines


def _pieces(cell: str) -> list[tuple[str, str]]:
    """Returns what may not be broken, each with what stands before it in its line."""
    if len(cell) <= _NUMBER and re.match(r"[-+–±]?\d", cell):
        return [("", cell)]  # a number with its unit, error or interval
    found = []
    for word in cell.split():
        parts = re.findall(r"[^/-]*[/-]+|[^/-]+", word) if len(word) > _LONG else [word]
        found += [(" " if i == 0 else "", part) for i, part in enumerate(parts)]
    return found


def _longest_piece(cell: str) -> int:
    return max((len(piece) for line in cell.split("\n") for _, piece in _pieces(line)), default=0)


def _wrapped(cell: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in cell.split("\n"):
        if len(paragraph) <= width:
            lines.append(paragraph)
            continue
        lines.append("")
        for space, piece in _pieces(paragraph):
            if lines[-1] and len(lines[-1]) + len(space) + len(piece) > width:
                lines.append("")
            lines[-1] += (space if lines[-1] else "") + piece
    return lines or [""]
