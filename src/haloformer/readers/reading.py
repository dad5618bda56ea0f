"""The options by which images from outside are read: the same for every command that takes image files."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from haloformer.errors import InputError
from haloformer.io.quantities import in_arcsec

NanChoice = Literal["error", "zero", "mask"]
"""What to do with NaN and infinite pixels."""

NAN_CHOICES: tuple[str, ...] = get_args(NanChoice)

DATASET_SUFFIXES = (".h5", ".hdf5")
"""Endings of dataset files, in lower case."""

_PIXEL_SCALES = (1e-4, 1e4)  # arcsec


@dataclass(frozen=True)
class Reading:
    """How images are read from files.

    Args:
        hdu: FITS extension to read, or array of a .npz file: number, name, name and version (SCI,2),
            several with commas, a pattern of names ('NIR_*_FLUX'), or all; by default the first extension that holds an image,
            and all arrays of one shape. Those named PSF, RMS, WHT, MASK, ERR, DQ, VAR or alike are read
            only if they are asked for.
        band: The one plane of a cube to read, counted from 0, or the name of a band (EXTNAME, FILTER
            or BAND of an extension; FILTER1, BAND1 … of a cube).
        nan: NaN and infinite pixels: error refuses the image, zero puts 0 there, mask leaves them out
            of the smooth fit, if there is one, and shows the network 0.
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says. Images are
            resampled to the wanted scale, their light conserved, then cut or padded with zeros to
            the wanted size.
        catalog: Table of positions in the one FITS image given (CSV, ECSV, VOTable or FITS): columns
            ra and dec in degrees (ICRS) or the column's unit, also under the names of surveys, or x
            and y in pixels counted from 0. One image each.
        size: With a catalog: side of the cutouts in arcsec; by default that of the wanted images.
    """

    hdu: int | str | None = None
    band: int | str | None = None
    nan: NanChoice = "error"
    pixel_scale: float | None = None
    catalog: str | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        for name in ("pixel_scale", "size"):  # in Python they may have a unit
            object.__setattr__(self, name, in_arcsec(getattr(self, name), name))

    def check(self) -> None:
        """Validates the options; raises InputError."""
        if self.nan not in NAN_CHOICES:
            raise InputError(f"nan is '{self.nan}': known are {', '.join(NAN_CHOICES)}")
        low, high = _PIXEL_SCALES
        for name, value in (("pixel_scale", self.pixel_scale), ("size", self.size)):
            if value is not None and not low <= value <= high:
                raise InputError(
                    f"{name} is {value:g}: a number of arcsec is needed, from {low:g} to {high:g}"
                )
        if self.size is not None and self.catalog is None:
            raise InputError(
                "size is the side of cutouts about the positions of a catalog: give a catalog, too"
            )


def check_batch_size(batch_size: int) -> None:
    """Raises InputError for a batch size that is no whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise InputError(f"batch size {batch_size!r}: must be a whole number of at least 1")
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")


def check_choices(on_error: str, batch_size: int, skip_bad: bool = False) -> None:
    """Validates ``on_error``, ``batch_size`` and ``skip_bad`` of a command that reads images; raises InputError."""
    if on_error not in ("row", "stop"):
        raise InputError(f"on_error is '{on_error}': known are row, stop")
    if skip_bad and on_error == "stop":
        raise InputError(
            "skip_bad leaves images out, and on_error 'stop' ends at the first: give one"
        )
    check_batch_size(batch_size)
