"""Names that the whole package shares: the classes, their order, and how other people's data spell them."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

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


def canonical_class(name: str) -> str:
    """Returns the class that a name stands for (``vort``: ``axion``); another name is a class of its own."""
    return CLASS_ALIASES.get(plain_name(name), name)


_YAML_WORDS = ("no", "off", "false", "n", "yes", "on", "true", "y", "null", "~")


def mapped_classes(class_map: Mapping[Any, Any] | None) -> dict[str, str]:
    """Returns a user's class map with plain names and canonical classes.

    Raises:
        InputError: A name or class is neither text nor a number: YAML reads ``no`` as false.
    """
    found = {}
    for key, value in (class_map or {}).items():
        for each in (key, value):
            if isinstance(each, bool) or not isinstance(each, str | int):
                raise InputError(
                    f"class_map has {each!r}, which is no name: YAML reads no, off and the like as false, and 1.5 as a number; put names in quotes"
                )
        found[plain_name(str(key))] = canonical_class(str(value))
    return found


ARTEFACT_FORMAT = 1
"""Version of the artefact's ``artefact.json``: what training writes and prediction reads."""


_OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "image_size": ("img_size",),
    "learning_rate": ("lr",),
    "n_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "num_images": ("n_images", "n"),
    "optim": ("optimizer",),
    "train_size": ("n_images", "epoch_size"),
    "wd": ("weight_decay",),
}
"""What others call our options, with ours."""

_ALIKE = 0.7  # of difflib's ratio: at 0.6, its default, --train_size is like --val_size
_ALIKE_SHORT = 0.6  # where one begins with the other, or letters have changed places
_AS_ALIKE = 0.06  # names that are nearly as alike as the best are told, too


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Returns which of the known names may be meant, at most three, the likeliest first; none where none is like it.

    Upper and lower case and the hyphens of options do not count.
    """
    plain = name.lower().lstrip("-").replace("-", "_")
    names = {each.lower().lstrip("-").replace("-", "_"): each for each in known}
    if plain in names:
        return [names[plain]]
    if others := [names[word] for word in _OTHER_WORDS.get(plain, ()) if word in names]:
        return others
    ratios = {each: difflib.SequenceMatcher(None, each, plain).ratio() for each in names}
    alike = {each: ratio for each, ratio in ratios.items() if ratio >= _enough(each, plain)}
    best = max(alike.values(), default=0.0)
    found = [each for each, ratio in alike.items() if ratio >= best - _AS_ALIKE]
    return [names[each] for each in sorted(found, key=lambda each: (-alike[each], each))[:3]]


def _enough(known: str, name: str) -> float:
    """Returns how alike two names must be for one to be meant by the other."""
    begins = known.startswith(name) or name.startswith(known)
    return _ALIKE_SHORT if begins or sorted(known) == sorted(name) else _ALIKE


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``did you mean 'x' or 'y'?``; nothing where no known name is like it."""
    nearest = [f"'{each}'" for each in nearest_names(name, known)]
    return f"did you mean {' or '.join(nearest)}?" if nearest else ""


def unknown_class(where: object, what: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a class that is none of ours, which a class map makes one, or keeps.

    Args:
        where: File or folder.
        what: What was named: ``"class"``, ``"class folder"``.
        name: Its name.
        known: The names that exist.
    """
    error = unknown_name(what, name, known)
    key = f'"{name}"' if ":" in name or name.lower() in _YAML_WORDS else name
    return InputError(
        f"{where}: {error}; class_map of haloformer convert maps it ({{{key}: cdm}}) or keeps it ({{{key}: {key}}})"
    )


TIMMS_OWN = ("cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Keywords by which timm would look for weights: here ``pretrained`` says where they are."""


def unknown_name(what: str, name: object, known: Iterable[str]) -> InputError:
    """Returns the error for an unknown name: it suggests the nearest known one and lists them all.

    Args:
        what: What kind of thing was named, such as ``"survey"``.
        name: The name that was not found; of something else, which is none, how it looks.
        known: The names that exist.
    """
    names = sorted(known)
    hint = did_you_mean(str(name), names)
    listed = ", ".join(names) if len(names) <= 12 else ", ".join(names[:12]) + ", …"
    return InputError(f"unknown {what} '{name}': {hint}{' ' if hint else ''}known are {listed}")
