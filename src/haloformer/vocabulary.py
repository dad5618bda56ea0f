"""Names that the whole package shares: the classes, their order, and how other people's data spell them."""

import difflib
from collections.abc import Iterable

from haloformer.errors import InputError

CLASS_NAMES: tuple[str, ...] = ("axion", "cdm", "no_sub")
"""The dark-matter classes in canonical order; a label is an index into this tuple."""

UNKNOWN = "unknown"
"""What stands in place of a class where an image is flagged."""

CLASS_ALIASES: dict[str, str] = {
    "axion": "axion",
    "vort": "axion",
    "vortex": "axion",
    "cdm": "cdm",
    "sphere": "cdm",
    "sub": "cdm",
    "no_sub": "no_sub",
    "no": "no_sub",
    "nosub": "no_sub",
    "no_substructure": "no_sub",
}
"""Folder and class names seen in DeepLense data, as `plain_name` makes them, with their canonical class."""


def plain_name(name: str) -> str:
    """Returns a name as `CLASS_ALIASES` spell theirs: in lower case, ``_`` for blanks and hyphens."""
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


ARTEFACT_FORMAT = 1
"""Version of the artefact's ``artefact.json``: what training writes and prediction reads."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for an unknown name: it suggests the nearest known one and lists them all.

    Args:
        what: What kind of thing was named, such as ``"survey"``.
        name: The name that was not found.
        known: The names that exist.
    """
    names = sorted(known)
    nearest = [known for known in names if known.lower() == name.lower()]
    nearest = nearest or difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    listed = ", ".join(names) if len(names) <= 12 else ", ".join(names[:12]) + ", …"
    return InputError(f"unknown {what} '{name}': {hint}known are {listed}")
