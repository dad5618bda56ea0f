"""What people give in Python as an image, its noise, its point-spread function and its scale, as plain arrays and numbers."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.errors import InputError, reason_of
from haloformer.fitting.reallens.observation import Observation
from haloformer.io.quantities import (
    NOT_SQUARE,
    electrons_per_unit,
    noise_factor,
    refuse_logarithms,
)
from haloformer.simulation.psf import doubt_of_header, scales_of_header

_USUAL_SCALE = 0.05
_SKEW = 1.0  # degrees by which its axes may be off a right angle


@dataclass(frozen=True)
class Given:
    """An image and what came with it.

    Attributes:
        image: (H, W).
        psf: Point-spread function; None: not given.
        noise: (H, W), or of all pixels; None: not given.
        mask: (H, W), not 0 where pixels do not count; None: all do.
        wcs: Of astropy; None: not given.
        psf_header: Of an HDU that was given as point-spread function; None: of others.
        header: Of an HDU that was given as image; None: of others.
        unit: Of the image's values; empty if it is not known.
        exposure_time: In seconds, as the header of an image of astropy says; None where it does not.
    """

    image: Any
    psf: Any
    noise: Any
    mask: np.ndarray | None
    wcs: Any
    psf_header: Any = None
    header: Any = None
    unit: str = ""
    exposure_time: Any = None

    def header_scales(self) -> Sequence[float] | None:
        """Returns the sides of the image's pixels in arcsec along y and x, as its WCS or an HDU's header says; None where they say nothing.

        Raises:
            InputError: The WCS is none of the sky, or the header gives a scale that cannot be one.
        """
        if self.wcs is not None:
            return _sides_of(self.wcs)
        if self.header is None:
            return None
        return scales_of_header(self.header, None, "the image", "pixel_scale says otherwise")

    def doubt(self) -> str:
        """Returns what is told where an HDU's header has another scale than its WCS, which counts; else nothing."""
        return "" if self.header is None else doubt_of_header(self.header)

    def electrons(self) -> float | None:
        """Returns how many electrons one of the image's unit stands for, as its header says; None where it does not."""
        return electrons_per_unit(self.unit, self.exposure_time)

    def psf_scale(self, pixel_scale: float) -> float | None:
        """Returns the side of the PSF's pixels in arcsec that its header says; None where it says nothing.

        Args:
            pixel_scale: That of the image.
        """
        if self.psf_header is None:
            return None
        told = "psf_scale says otherwise"
        sides = scales_of_header(self.psf_header, pixel_scale, "psf", told)
        return None if sides is None else square(sides, "psf", "psf_scale")


def taken(image: Any, given: Mapping[str, Any]) -> Given:
    """Returns arrays of what may be arrays, masked ones, Quantities, images of astropy or HDUs.

    Args:
        image: The image; of an NDData, CCDData, Cutout2D or HDU also mask, uncertainty, point-spread function and WCS are taken, where not given.
        given: ``psf``, ``noise``, ``mask`` and ``wcs``, None where they were not.

    Raises:
        InputError: Something that holds no pixels.
    """
    own = _of_nddata(image) if hasattr(image, "uncertainty") or _is_cutout(image) else {}
    if hasattr(image, "header") and getattr(image, "is_image", False):
        own = {"wcs": _wcs_of(image.header)}
    parts = {key: own.get(key) if value is None else value for key, value in given.items()}
    pixels, hidden = _pixels(image, "the image")
    mask = None if parts["mask"] is None else np.asarray(parts["mask"])
    noise, also = (None, None) if parts["noise"] is None else _pixels(parts["noise"], "noise")
    if noise is not None:
        unit = own.get("noise_unit") if given["noise"] is None else _unit_of(parts["noise"])
        factor = noise_factor(unit, _unit_of(image))
        noise = noise if factor == 1 else np.asarray(noise) * factor
    psf, unknown = (None, None) if parts["psf"] is None else _pixels(parts["psf"], "psf")
    if unknown is not None and unknown.any():
        raise InputError(
            f"psf: {int(unknown.sum())} of its pixels are masked, and all are needed: cut them off, or put 0 there"
        )
    for more in (hidden, also):
        if more is None or not more.any():
            continue
        if mask is not None and mask.shape != more.shape:
            raise InputError(f"the mask has shape {mask.shape}, the image {more.shape}: they must match")  # fmt: skip
        mask = more if mask is None else (np.nan_to_num(mask.astype(float), nan=1.0) != 0) | more
    header = getattr(parts["psf"], "header", None)
    own_header = getattr(image, "header", None) if getattr(image, "is_image", False) else None
    seconds = None
    with contextlib.suppress(Exception):  # cards of a header may be damaged
        seconds = getattr(image, "header", getattr(image, "meta", {})).get("EXPTIME")
    return Given(pixels, psf, noise, mask, parts["wcs"], header, own_header, str(_unit_of(image) or ""), seconds)  # fmt: skip


def _is_cutout(image: Any) -> bool:
    return not isinstance(image, np.ndarray) and hasattr(image, "data") and hasattr(image, "wcs")


def _of_nddata(image: Any) -> dict[str, Any]:
    noise, own = getattr(image, "uncertainty", None), dict[str, Any]()
    if noise is not None and hasattr(noise, "represent_as"):
        from astropy.nddata import StdDevUncertainty, UnknownUncertainty

        if isinstance(noise, UnknownUncertainty):
            raise InputError(
                "the image's uncertainty is of an unknown type, a standard deviation, a variance or a weight: give StdDevUncertainty(…), or noise"
            )
        noise = noise.represent_as(StdDevUncertainty)
        own, noise = {"noise_unit": noise.unit}, noise.array
    return {
        **own,
        "noise": noise,
        **{key: getattr(image, key, None) for key in ("psf", "mask", "wcs")},
    }


def _unit_of(value: Any) -> Any:
    """Returns the unit of a Quantity or an NDData, also of an HDU whose header says one; None of others."""
    unit = getattr(value, "unit", None)
    if unit is None and hasattr(value, "header"):
        unit = value.header.get("BUNIT") or None
    return unit


def _wcs_of(header: Any) -> Any:
    from astropy.wcs import WCS

    wcs = WCS(header)
    return wcs if wcs.has_celestial else None


def _pixels(value: Any, what: str) -> tuple[Any, np.ndarray | None]:
    """Returns numbers, and what is masked of them, if they can be."""
    if isinstance(value, str | Path):
        raise InputError(
            f"{what} is '{value}', the name of a file: an array is needed here; `haloformer fit` reads files"
        )
    if isinstance(value, list) and value and hasattr(value[0], "header"):
        raise InputError(f"{what} is a list of HDUs: give one of them, such as hdus[1]")
    unit = _unit_of(value)
    if not isinstance(value, np.ndarray) and hasattr(value, "data") and not np.isscalar(value):
        value = value.data
    mask = None
    if hasattr(value, "unmasked"):  # astropy's Masked
        value, mask = value.unmasked, np.asarray(value.mask, bool)
    elif isinstance(value, np.ma.MaskedArray):
        value, mask = value.data, np.ma.getmaskarray(value)
    if hasattr(value, "unit") and hasattr(value, "value"):
        value = value.value
    if value is None:
        raise InputError(f"{what} holds no pixels")
    _check_numbers(value, what)
    refuse_logarithms(str(unit or ""), what)
    return value, None if mask is None or mask.ndim != 2 else mask


def _check_numbers(value: Any, what: str) -> None:
    """Raises InputError where something is no array of real numbers, nor one number."""
    if hasattr(value, "images") and hasattr(value, "parameters"):
        raise InputError(
            f"{what} is a batch of simulated lenses: give one of its images, batch.images[0, 0], and what belongs to it"
        )
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # a tensor of a GPU, rows of several lengths
        raise InputError(
            f"{what} is {type(value).__name__}, and no array: {reason_of(error)}"
        ) from error
    kind = type(value).__name__
    if array.dtype.kind not in "biuf":
        of = "" if array.dtype == object else f" of {array.dtype}"
        raise InputError(f"{what} is {kind}{of}: an array of real numbers is needed")


def scale_of(given: Given) -> float:
    """Returns the side of a pixel in arcsec; 0.05 where nothing says it."""
    sides = given.header_scales()
    if sides is None:
        return _USUAL_SCALE
    where = "the image's header" if given.wcs is None else "the WCS"
    return square(sides, where, "pixel_scale")


def _sides_of(wcs: Any) -> tuple[float, float]:
    if not hasattr(wcs, "celestial"):
        raise InputError("the WCS is not one that FITS knows: give the array, and pixel_scale")
    if not wcs.has_celestial:
        raise InputError("the WCS has no axes on the sky: leave it out, and give pixel_scale")
    from astropy.wcs.utils import proj_plane_pixel_scales

    x, y = 3600 * proj_plane_pixel_scales(wcs.celestial)
    return float(y), float(x)


def square(sides: Sequence[float] | np.ndarray, where: str, option: str) -> float:
    """Returns the side of pixels in arcsec; raises InputError where they are no squares."""
    if not np.isfinite(sides).all() or max(sides) > (1 + NOT_SQUARE) * min(sides):
        raise InputError(
            f"{where} has pixels of {sides[0]:.4g}″ by {sides[1]:.4g}″: square ones are needed; resample it, or give {option} if that is wrong"
        )
    return float(np.sqrt(np.prod(sides)))


def told_otherwise(seen: Observation, sides: Sequence[float] | None) -> Observation:
    """Returns an image with a note, which is told, too, where its pixel scale is not the one that its header says.

    Args:
        seen: The image.
        sides: Of its pixels in arcsec along y and x, as the header says; None: it does not.
    """
    if sides is None:
        return seen
    low, high = min(sides), max(sides)
    if max(high / seen.pixel_scale, seen.pixel_scale / low) <= 1 + NOT_SQUARE:
        return seen
    said = f"{high:.4g}″" if high <= (1 + NOT_SQUARE) * low else f"{sides[0]:.4g}″ by {sides[1]:.4g}″"  # fmt: skip
    note = (
        f"pixels are taken to be of {seen.pixel_scale:.4g}″, as was given, though the header says {said}: radii and masses go with that, "
        "and RA, Dec and position angles are the header's"
    )
    return seen.warned(note)


def check_not_skewed(wcs: Any, where: str) -> None:
    """Raises InputError if the axes of a WCS's pixels are not at a right angle: a shear that is none of the lens's."""
    if wcs is None or not getattr(wcs, "has_celestial", False):
        return
    along, up = np.asarray(wcs.celestial.pixel_scale_matrix).T
    cosine = abs(float(along @ up)) / float(np.hypot(*along) * np.hypot(*up))
    if cosine > np.sin(np.radians(_SKEW)):
        between = float(np.degrees(np.arccos(min(cosine, 1.0))))
        raise InputError(
            f"{where}: the axes of its pixels are {between:.1f}° apart on the sky, which bends arcs as a shear of the lens does: resample it onto square pixels"
        )
