"""A noise map of a camera's own, as a FITS file has it."""

import warnings
from pathlib import Path

import numpy as np

from haloformer.errors import InputWarning
from haloformer.files import not_there
from haloformer.io.quantities import rate_factor
from haloformer.readers.extensions import check_standard_deviation, named_extension
from haloformer.readers.fits import FitsImage, choose_hdus, first_image, fits_hdus
from haloformer.readers.images import read_image
from haloformer.readers.reading import Reading

_OTHER = 1e-2  # relative, by which pixels are of another size


def read_noise_map(path: Path, pixel_scale: float) -> np.ndarray:
    """Returns a noise map (H, W) in counts/s, NaN where it has no number.

    Of several images the one is taken whose name says that it is a noise map, else the first.

    Args:
        path: The file.
        pixel_scale: Of the camera, in arcsec; another one in the header is told.

    Raises:
        InputError: It cannot be read, is a variance or a weight by its name, or is in another unit.
    """
    if not path.is_file():
        raise not_there("noise_map", path)
    found = named_extension("noise_map", path, None)
    number = first_image(path) if found is None else found
    sigma: np.ndarray = read_image(path, channels=1, hdu=number, nan="mask")[0]
    with fits_hdus(path, str(path)) as hdus:
        chosen = choose_hdus(hdus, str(path), number)[0]
        check_standard_deviation(str(path), hdus[chosen].name)
        header = FitsImage(hdus, chosen, str(path), Reading())
    if header.scales is not None and abs(header.scales[1] / pixel_scale - 1) > _OTHER:
        warnings.warn(
            f"noise_map {path} has pixels of {header.scales[1]:.4g}″ by its header, the camera's are {pixel_scale:g}″: its values are taken as those of the camera's",
            InputWarning,
            stacklevel=3,
        )
    return sigma * np.float32(rate_factor(header.unit, f"noise_map {path}"))
