"""``hdu:NAME`` (or ``hdu:NAME,VERSION``): what belongs to an image is in the image's own FITS file, as surveys give their cutouts."""

from pathlib import Path

from haloformer.errors import InputError
from haloformer.readers.fits import fits_hdus, names_and_versions
from haloformer.readers.images import FITS_SUFFIXES, image_suffix

EXTENSION = "hdu:"


def own_extension(name: str, value: str, image: Path) -> str | None:
    """Returns the extension of the image's file that is named; None if a value is no such name.

    Args:
        name: Of the option, for messages.
        value: What was given.
        image: File of the image.

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
    if others or (wanted.upper(), version) not in known:
        named = ", ".join(each for each in there if each) or "none"
        raise InputError(f"{name}: {image} has no extension '{hdu}'; its names are {named}")
    return hdu
