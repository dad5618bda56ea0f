"""Cameras: pixel grid, point-spread function and noise level, as the named, recombinable parts of a survey."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.distributions import Quantity, check_not_negative, least_of
from haloformer.validation import FileName, Number, WholeNumber, checked

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))

MOST_RAYS = 10
"""Rays per side of a pixel at most."""


@checked
@dataclass(frozen=True)
class Instrument:
    """A camera with square pixels and a point-spread function: Gaussian, Moffat, or a kernel from a file.

    What came later than the first cameras is None where it is not used, and then not among what describes a camera.

    Attributes:
        num_pix: Pixels per side.
        pixel_scale: Arcsec per pixel.
        psf_fwhm: Full width at half maximum of the point-spread function in arcsec; 0 for none.
        psf_truncation: Radius at which it is cut, in σ = FWHM / 2.355.
        exposure_time: Seconds per exposure; may be a distribution.
        num_exposures: Number of exposures that are added.
        magnitude_zero_point: Magnitude of 1 count/s.
        sky_brightness: Sky in mag/arcsec²; None if ``background_rms`` is given.
        read_noise: e⁻ per pixel and exposure.
        background_rms: Noise of the background in counts/s per pixel; computed from sky and read noise if None.
        psf_beta: Exponent β of a Moffat profile, whose wings fall as r^−2β; Gaussian if None.
        psf_file: FITS image of the point-spread function, which goes before width and exponent.
        psf_hdu: Extension of that file; if None that whose name says that it is a PSF, else the first that holds an image.
        psf_pixel_scale: Arcsec per pixel of that file; what its header says if None, else those of the camera.
        supersampling: Rays per side of a pixel, 1 to 10; 1 if None.
        noise_correlation: The ``a`` of :mod:`haloformer.simulation.correlation`; may be a distribution; 0 if None.
        noise_map: FITS image of the noise per pixel in counts/s, which goes before background and photon noise.
        sky: Light of the sky in counts/s per pixel that is left in the images, with the noise of its photons: nobody subtracted it. Of
            composed surveys only. ``sky_brightness`` in contrast is a sky that was subtracted, of which noise is left.
    """

    num_pix: Annotated[WholeNumber, Field(ge=8, le=4096)]
    pixel_scale: Annotated[Number, Field(gt=0)]
    psf_fwhm: Annotated[Number, Field(ge=0)] = 0.0
    psf_truncation: Annotated[Number, Field(gt=0)] = 4.0
    exposure_time: Quantity = 1.0
    num_exposures: Annotated[WholeNumber, Field(ge=1)] = 1
    magnitude_zero_point: Number | None = None
    sky_brightness: Number | None = None
    read_noise: Annotated[Number, Field(ge=0)] = 0.0
    background_rms: Annotated[Number, Field(ge=0)] | None = None
    psf_beta: Annotated[Number, Field(gt=1, le=100)] | None = None
    psf_file: FileName | None = None
    psf_hdu: WholeNumber | str | None = None
    psf_pixel_scale: Annotated[Number, Field(gt=0)] | None = None
    supersampling: Annotated[WholeNumber, Field(ge=1, le=MOST_RAYS)] | None = None
    noise_correlation: Quantity | None = None
    noise_map: FileName | None = None
    sky: Annotated[Number, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        check_not_negative("exposure_time", self.exposure_time, zero=False)
        check_not_negative("noise_correlation", self.noise_correlation)
        if self.noise_correlation is not None and not -least_of(self.noise_correlation, -1) < 0.5:
            raise InputError(
                "noise_correlation is the share that a pixel gives to each neighbour, and must be below 0.5: of 0.17 neighbours are 0.32 correlated"
            )
        if psf_radius(self.psf_fwhm, self.psf_truncation, self.pixel_scale) * 2 >= self.num_pix:
            raise InputError(f"psf_fwhm of {self.psf_fwhm} arcsec is wider than the image")
        if self.psf_fwhm > 0 and self.psf_file is None:
            none = psf_radius(self.psf_fwhm, self.psf_truncation, self.pixel_scale) == 0
            if self.psf_truncation < 1 or (none and self.psf_fwhm >= self.pixel_scale):
                raise InputError(
                    f"psf_truncation of {self.psf_truncation:g} σ cuts a point-spread function of psf_fwhm {self.psf_fwhm:g} arcsec "
                    "to next to nothing: 1 or more, usually 3 to 5; psf_fwhm: 0 is none"
                )


def pixel_axis(instrument: Instrument) -> np.ndarray:
    """Positions of the pixel centres along either axis, (num_pix,) in arcsec, symmetric about 0."""
    return (np.arange(instrument.num_pix) - (instrument.num_pix - 1) / 2) * instrument.pixel_scale


def central_part(images: Tensor, side: int | None) -> Tensor:
    """Cuts squares of ``side`` pixels out of the centre, an odd pixel from the far side; all of the images where it is None.

    Args:
        images: (…, H, W).
        side: Pixels per side of what is kept.

    Raises:
        InputError: There are not so many.
    """
    if side is None:
        return images
    height, width = images.shape[-2:]
    if side > min(height, width):
        raise InputError(f"crop {side}: more than there is of {height}×{width} images")
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(images, [left, side - width - left, top, side - height - top])


def psf_weights(instrument: Instrument) -> np.ndarray:
    """The Gaussian point-spread function along one axis, (2r+1,) summing to 1, r = ⌊truncation·σ + ½⌋ pixels.

    Raises:
        InputError: It is another one, or one of several rays per pixel (see :mod:`haloformer.simulation.psf`).
    """
    if not has_plain_psf(instrument):
        raise InputError(
            "this camera's point-spread function is not a Gaussian on pixels of one ray each, which is needed here"
        )
    return gaussian_weights(instrument.psf_fwhm, instrument.psf_truncation, instrument.pixel_scale)


def has_plain_psf(instrument: Instrument) -> bool:
    """Returns whether a camera blurs by a Gaussian, with one ray per pixel."""
    return (
        instrument.psf_beta is None
        and instrument.psf_file is None
        and instrument.supersampling in (None, 1)
    )


def psf_radius(fwhm: float, truncation: float, pixel_scale: float) -> int:
    """Returns how many pixels a point-spread function reaches, by the arguments of :func:`gaussian_weights`."""
    return int(truncation * (fwhm / FWHM_PER_SIGMA / pixel_scale) + 0.5)


def gaussian_weights(fwhm: float, truncation: float, pixel_scale: float = 1.0) -> np.ndarray:
    """A Gaussian along one axis, (2r+1,) summing to 1, r = ⌊truncation·σ + ½⌋ pixels.

    Args:
        fwhm: Full width at half maximum, in the unit of ``pixel_scale``.
        truncation: Radius at which it is cut, in σ.
        pixel_scale: Of a pixel.
    """
    sigma = fwhm / FWHM_PER_SIGMA / pixel_scale
    radius = psf_radius(fwhm, truncation, pixel_scale)
    if radius == 0:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    result: np.ndarray = weights / weights.sum()
    return result


def convolve_psf(images: Tensor, weights: Tensor) -> Tensor:
    """Convolves images with a separable point-spread function; edges repeat the outermost pixel.

    Args:
        images: (B, H, W).
        weights: (2r+1,), the kernel along one axis.

    Returns:
        (B, H, W).
    """
    radius = len(weights) // 2
    if radius == 0:
        return images
    size = images.shape[-1]
    padded = F.pad(images[:, None], (radius, radius, radius, radius), mode="replicate")[:, 0]
    # Sums of shifted images rather than conv2d, whose algorithm, and so its rounding, depends on the batch size.
    rows = sum(weights[k] * padded[:, :, k : k + size] for k in range(len(weights)))
    assert isinstance(rows, Tensor)
    blurred = sum(weights[k] * rows[:, k : k + images.shape[-2]] for k in range(len(weights)))
    assert isinstance(blurred, Tensor)
    return blurred


def background_rms(instrument: Instrument) -> float:
    """Noise of the background in counts/s per pixel: sky and read noise added in quadrature, as in lenstronomy's ``bkg_noise``."""
    if instrument.background_rms is not None:
        return instrument.background_rms
    if instrument.sky_brightness is None:
        return 0.0
    if instrument.magnitude_zero_point is None:
        raise InputError("instrument.sky_brightness needs instrument.magnitude_zero_point")
    if not isinstance(instrument.exposure_time, float | int):
        raise InputError(
            "instrument.sky_brightness needs a fixed instrument.exposure_time; give background_rms instead"
        )
    total_time = instrument.exposure_time * instrument.num_exposures
    sky = (
        magnitude_to_counts(instrument.sky_brightness, instrument.magnitude_zero_point)
        * instrument.pixel_scale**2
    )
    return (
        math.sqrt(instrument.num_exposures * instrument.read_noise**2 + sky * total_time)
        / total_time
    )


def magnitude_to_counts(magnitude: np.ndarray | float, zero_point: float) -> np.ndarray | float:
    """Counts/s of a magnitude, 10^(−0.4 (magnitude − zero_point))."""
    return 10 ** (-0.4 * (magnitude - zero_point))
