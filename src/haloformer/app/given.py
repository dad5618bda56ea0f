"""What a visitor gave, checked; and what an error says to one."""

import re

from haloformer.errors import InputError, brief


def number(value: object, name: str, low: float, high: float) -> float:
    """Returns a number that a visitor gave; raises InputError for what is none, or out of range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must lie between {low:g} and {high:g}, not {str(value)[:60]}")
    return float(value)


def whole(value: object, name: str, low: int, high: int) -> int:
    """Returns a whole number of a visitor's; a fraction is cut off. Raises InputError as `number`."""
    return int(number(value, name, low, high))


def without_folders(error: InputError) -> str:
    """Returns what an error says without the folders of this machine's files."""
    return brief(_FOLDERS.sub("", str(error.args[0] if error.args else error)))


_FOLDERS = re.compile(r"(?<![\w./])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:'\"]+[/\\])+")
"""The folders of a path, with which it begins."""
