"""What belongs to an image, by the names of a FITS file's extensions, as surveys give their cutouts.

``hdu:NAME`` (or ``hdu:NAME,VERSION``) is in the image's own file; of any file of several images the one is taken whose name says what it is.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from haloformer.errors import InputError, InputWarning
from haloformer.readers.fits import (
    Hdu,
    choose_hdus,
    fits_hdus,
    is_fits_image,
    is_sky_name,
    names_and_versions,
)
from haloformer.readers.images import FITS_SUFFIXES, image_suffix

EXTENSION = "hdu:"

_KINDS = {
    "psf": ("point-spread function", re.compile(r".*PSF.*")),
    "noise_map": (
        "noise map",
        re.compile(r"ERR|ERRORS?|RMS|NOISE|SIGMA|STD|STDDEV|UNC|UNCERT"),
    ),
    "mask": ("mask", re.compile(r"MASK|MSK|BAD|DQ|FLAGS?")),
}
"""Option → what it is, and the words of names that say so."""

_NO_SIGMA = {
    "variance": ("VAR", "VARIANCE"),
    "weight": ("IVAR", "INVVAR", "WHT", "WEIGHT", "WEIGHTS"),
}
"""What is no standard deviation → the words of names that say so."""


def own_extension(name: str, value: str, image: Path, number: int | None = None) -> str | None:
    """Returns the extension of the image's file that is named; None if a value is no such name.

    Args:
        name: Of the option, for messages.
        value: What was given. Where several extensions have that name, that of the image's version (EXTVER) is meant.
        image: File of the image.
        number: Of the image's extension; None: the first with an image of the sky.

    Raises:
        InputError: The image's file has no extensions, or none of that name.
    """
    if not value.startswith(EXTENSION):
        return None
    hdu = value.removeprefix(EXTENSION)
    if image_suffix(image.name) not in FITS_SUFFIXES:
        raise InputError(f"{name} {value}: {image.name} is no FITS file and has no extensions")
    with fits_hdus(image, str(image)) as hdus:
        there = [each.name for each in hdus]
        (wanted, version), *others = names_and_versions(hdu, hdus)
        known = {(each.name.upper(), version) for each in hdus for version in (None, each.ver)}
        its = _label(hdus, number)
    if others or (wanted.upper(), version) not in known:
        named = ", ".join(each for each in there if each) or "none"
        raise InputError(f"{name}: {image} has no extension '{hdu}'; its names are {named}")
    if version is None and its is not None and its[1] > 1 and (wanted.upper(), its[1]) in known:
        return f"{wanted},{its[1]}"
    return hdu


def check_standard_deviation(noise_map: str, extension: str) -> None:
    """Refuses a noise map that is a variance or a weight by its name.

    Args:
        noise_map: What was given, for messages.
        extension: Name of the extension that was read.

    Raises:
        InputError: Its name says so.
    """
    for kind, words in _NO_SIGMA.items():
        if not set(words).isdisjoint(_words(extension)):
            root = "square root" if kind == "variance" else "inverse square root"
            raise InputError(
                f"noise_map {noise_map} is a {kind} by its name, {extension}: a standard deviation is needed, its {root}, as a file of its own"
            )


def named_extension(
    name: str, path: Path, image: Path | None, number: int | None = None
) -> int | None:
    """Returns the number of the extension whose name says that it is what an option asks for.

    Args:
        name: Of the option: ``psf``, ``noise_map`` or ``mask``.
        path: A FITS file.
        image: File of the image that it belongs to. Of several extensions the one is taken whose name and version go with the image's:
            NIR_H_PSF with NIR_H_FLUX, ERR,2 with SCI,2. None: there is none.
        number: Of the image's extension; None: the first with an image of the sky.

    Returns:
        None where the file holds one image, or no name says so.

    Raises:
        InputError: It is the image's own file, and no name says so, or several do.
    """
    what, pattern = _KINDS[name]
    with fits_hdus(path, str(path)) as hdus:
        pictures = [k for k, each in enumerate(hdus) if is_fits_image(each)]
        found = [k for k in pictures if any(map(pattern.fullmatch, _words(hdus[k].name)))]
        labels = {k: (hdus[k].name, hdus[k].ver) for k in pictures}
    if len(pictures) < 2 or len(found) == 1:
        return found[0] if found else None
    own = image is not None and path.resolve() == image.resolve()
    listed = ", ".join(_in_words(labels[k]) for k in found or pictures)
    if not found:
        if own:
            raise InputError(
                f"{name} {path} is the image's own file, and none of its extensions ({listed}) is a {what} by its name: {EXTENSION}NAME says which is"
            )
        return None
    its = _label_of(image, number)
    best = max(found, key=lambda k: _goes_with(labels[k], its))
    if _goes_with(labels[best], its) < 2:  # the name is not the image's
        if own:
            raise InputError(
                f"{name} {path} holds {listed}: {EXTENSION}NAME says which belongs to the image"
            )
        told = f"{name} {path} holds {listed}: {_in_words(labels[best])} is taken"
        warnings.warn(told, InputWarning, stacklevel=2)
    return best


Label = tuple[str, int]
"""Name and version of an extension."""


def _goes_with(label: Label, its: Label) -> int:
    """Returns 2 where the names are of one band, and 1 more where the versions are the same."""
    return 2 * (_band(label[0]) == _band(its[0])) + (label[1] == its[1])


def _band(name: str) -> tuple[str, ...]:
    """Returns the words of a name but for the last or first, which says what is in the extension."""
    words = [each for each in re.findall("[A-Z0-9]+", name.upper()) if each != "PRIMARY"]
    kinds = ("SCI", "FLUX", "IMAGE", "DATA")
    return tuple(each for each in words if is_sky_name(each) and each not in kinds)


def _words(name: str) -> list[str]:
    """Returns the first and the last word of a name, in which it says what it is."""
    words = re.findall("[A-Z]+", name.upper())
    return [words[0], words[-1], name.upper()] if words else []


def _label_of(image: Path | None, number: int | None) -> Label:
    if image is None or image_suffix(image.name) not in FITS_SUFFIXES:
        return "", 1
    with fits_hdus(image, str(image)) as hdus:
        return _label(hdus, number) or ("", 1)


def _label(hdus: Sequence[Hdu], number: int | None) -> Label | None:
    """Returns name and version of the image's extension; None where there is none."""
    try:
        chosen = choose_hdus(hdus, "", None)[0] if number is None else number
        return hdus[chosen].name, hdus[chosen].ver
    except (InputError, IndexError):
        return None


def _in_words(label: Label) -> str:
    return f"{label[0] or '(no name)'}{f',{label[1]}' if label[1] > 1 else ''}"
