"""What a file says of itself: the survey that its images were simulated from, and their noise."""

import re
from dataclasses import dataclass
from pathlib import Path

from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.readers.fits import fits_hdus
from haloformer.readers.images import FITS_SUFFIXES, image_suffix

_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Carried:
    """What a file says.

    Attributes:
        survey: Name of the survey; None if it says none.
        noise: Its noise mode.
        truth: The class of the lens, of a FITS file.
    """

    survey: str | None = None
    noise: str | None = None
    truth: str | None = None


def carried(path: str | Path) -> Carried:
    """Returns what a dataset's attributes, or the header of a FITS file, say; nothing of other files.

    Args:
        path: A file that has been checked to unpack to no more than is allowed. One that cannot be
            read says nothing: why is told when its image is read.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in DATASET_SUFFIXES:
            from haloformer.data.dataset import LensDataset

            with LensDataset(path) as dataset:
                found = {name: dataset.attributes.get(name) for name in ("survey", "noise")}
        elif image_suffix(path.name) in FITS_SUFFIXES:
            with fits_hdus(path, path.name) as hdus:
                header = hdus[0].header
                names = {"survey": "SURVEY", "noise": "NOISE", "truth": "CLASS"}
                found = {name: header.get(key) for name, key in names.items()}
        else:
            return Carried()
    except (InputError, OSError, ValueError, KeyError):
        return Carried()
    return Carried(**{name: _word(value) for name, value in found.items()})


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None
