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


def on_the_page(text: str) -> str:
    """Returns what a person at a command line is told as one at the page is: its fields in place of options."""
    for options, fields in _FIELDS.items():
        text = text.replace(options, fields)
    text = _ASIDE.sub("", text)
    if _OPTION.search(text) and _ELSEWHERE not in text:
        text = f"{text} ({_ELSEWHERE})"
    return text


_FIELDS = {
    "give --pixel_scale, in arcsec": "give it in its field, in arcsec",
    "or give --pixel_scale": "or give it in its field",
    "--pixel_scale, in arcsec, lets it": "give its pixel scale, choose it again, and it will",
    "--pixel_scale, in arcsec, says what it is": "its field, in arcsec, says what it is",
    "give --noise_map FILE.fits": "give a noise map",
    "give --psf FILE.fits": "give it in its field",
    ", or hdu:NAME": "",
}
"""What options do → what fields of the page do."""

_ELSEWHERE = "the page has no such options, the commands have"
_ASIDE = re.compile(r" \((?:--|in Python )[^()]*\)")  # what an option or a keyword would do
_OPTION = re.compile(r"(?<![\w-])--[a-z_]+|hdu:NAME")
_FOLDERS = re.compile(r"(?<![\w./])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:'\"]+[/\\])+")
"""The folders of a path, with which it begins."""
