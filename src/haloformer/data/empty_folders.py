"""Class folders without an image: a class that somebody meant to have, and that would be missing without a word."""

import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from haloformer.errors import InputError, InputWarning
from haloformer.files import printable
from haloformer.vocabulary import plain_name

_TOLD = 3  # folders that are named


def empty_class_folders(
    folders: Iterable[PurePosixPath], full: Iterable[PurePosixPath], classes: Mapping[str, str]
) -> dict[PurePosixPath, str]:
    """Returns the folders that are named after a class and hold no image, each with that class.

    Args:
        folders: All of the source, relative to it.
        full: Those that hold an image.
        classes: Plain name of a folder → class.
    """
    with_images = {above for folder in full for above in (folder, *folder.parents)}
    found: dict[PurePosixPath, str] = {}
    for folder in sorted(folders):
        class_name = classes.get(plain_name(folder.name))
        if (
            class_name is not None
            and folder not in with_images
            and found.keys().isdisjoint(folder.parents)
        ):
            found[folder] = class_name
    return found


def tell_of_empty_folders(
    source: object, empty: Mapping[PurePosixPath, str], there: Collection[str], *, refuse: bool
) -> None:
    """Warns of class folders that hold no image.

    Args:
        source: What holds them.
        empty: The folders, with their classes.
        there: The classes of which there are images.
        refuse: A class without any image is an error.

    Raises:
        InputError: It is one.
    """
    if not empty:
        return
    without = {folder: name for folder, name in empty.items() if name not in there}
    if without and refuse:
        folder, name = next(iter(without.items()))
        raise InputError(
            f"{source}: the folder {printable(str(folder))} holds no image, so that there is none of class '{name}': "
            "remove the folder if there shall be none, or leave out what cannot be read (skip_bad)"
        )
    named = ", ".join(printable(str(folder)) for folder in [*empty][:_TOLD])
    more = f" and {len(empty) - _TOLD} more" if len(empty) > _TOLD else ""
    none = f"; there is no image of {', '.join(dict.fromkeys(without.values()))}" if without else ""
    warnings.warn(
        f"{source}: class folders without an image: {named}{more}{none}", InputWarning, stacklevel=2
    )
