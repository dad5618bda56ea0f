"""What is fitted: an image with its noise, point-spread function and mask, checked where it enters."""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from haloformer.errors import InputError, InputWarning
from haloformer.fitting.reallens.correlation import in_words, kernel_of, larger_areas, of_corners
from haloformer.simulation.psf import resampled

_MOST_PIXELS = 1024
_USUAL_PSF, _WIDEST_PSF = 61, 121  # pixels of the image per side
_OF_PSF = 0.99  # of its light that must be kept
_LEAST_PIXELS = 50  # that are fitted
_OFF_CENTRE = 0.5  # pixels
_FLAT = 1e-9  # of the brightest pixel: what corners without noise scatter by
_TOLD_BELOW, _MOST_BELOW = 0.01, 1.0  # of a PSF's light, that its negative pixels have
_BACKGROUND = (
    0.25  # of a PSF's light, were all of it as bright as its rim: several times what cameras have
)
_SAME = 0.02  # by which pixel scales may differ and count as the same
_FINEST = 10
_MOST_MASKED = 0.95
_LEAST_BLANK = 12  # pixels side by side that are exactly 0
_TOLD_OFF = 0.25  # pixels that a PSF's light may be off its middle and nothing is told
_NOT_BLANK, _NO_NOISE = 1.3, 0.1  # times the noise map, of pixels in the corners
_BELOW = 0.85  # of the scatter that correlation explains, to which it is known: lower scatter has another reason


@dataclass(frozen=True, eq=False)
class Observation:
    """An image of a lens.

    Attributes:
        image: (H, W) in any linear unit; the first row is the lowest, as FITS has it.
        noise: (H, W) standard deviation of each pixel, in the same unit: what blank pixels scatter by.
        psf: (2r+1, 2r+1), of sum 1.
        mask: (H, W) bool, True for pixels that count.
        pixel_scale: In arcsec.
        name: Of the lens, for reports.
        notes: What was assumed or mended, for people.
        wcs: Of astropy; None if there is none.
        unit: Of the image's values, as a header writes it; empty if it is not known.
        sharp_psf: (2r+1, 2r+1) the same on finer pixels, averaged over these; None: it is known at the image's pixels only.
        sharp_scale: Of those pixels, in arcsec.
        noise_measured: The noise follows from the image itself, and was not given.
        correlation: How alike the noise of neighbouring pixels is, the ``a`` of :mod:`~haloformer.fitting.reallens.correlation`; 0 if independent.
    """

    image: np.ndarray
    noise: np.ndarray
    psf: np.ndarray
    mask: np.ndarray
    pixel_scale: float
    name: str = "lens"
    notes: tuple[str, ...] = ()
    wcs: Any = field(default=None, repr=False)
    correlation: float = 0.0
    sharp_psf: np.ndarray | None = None
    sharp_scale: float = 0.0
    unit: str = ""
    noise_measured: bool = False

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the columns and of the rows in arcsec from the middle, (W,) and (H,)."""
        height, width = self.image.shape
        x, y = ((np.arange(n) - (n - 1) / 2) * self.pixel_scale for n in (width, height))
        return x, y

    def radius(self) -> np.ndarray:
        """Distance (H, W) of the pixels from the middle in arcsec."""
        x, y = self.axes()
        found: np.ndarray = np.hypot(x[None, :], y[:, None])
        return found

    def noted(self, *notes: str) -> "Observation":
        """Returns the same with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def warned(self, *notes: str) -> "Observation":
        """Returns the same with further notes, which are told as warnings, too."""
        for note in notes:
            warnings.warn(note, InputWarning, stacklevel=3)
        return self.noted(*notes)

    def sky(self, x: float, y: float) -> Mapping[str, float]:
        """Returns ``ra`` and ``dec`` in degrees of a place in arcsec from the middle; nothing without a WCS."""
        if self.wcs is None:
            return {}
        place = self._in_sky(x, y)
        return {"ra": float(place.ra.deg), "dec": float(place.dec.deg)}

    def east_of_north(self, angle: float) -> float | None:
        """Returns the position angle in degrees, East of North, 0 to 180, of an axis at an angle (radians) from x towards y; None without a WCS."""
        if self.wcs is None:
            return None
        far = 10 * self.pixel_scale
        there = self._in_sky(far * np.cos(angle), far * np.sin(angle))
        return float(self._in_sky(0.0, 0.0).position_angle(there).deg % 180)

    def _in_sky(self, x: float, y: float) -> Any:
        """Returns the place of the sky that is x and y arcsec from the middle."""
        height, width = self.image.shape
        column = x / self.pixel_scale + (width - 1) / 2
        row = y / self.pixel_scale + (height - 1) / 2
        return self.wcs.pixel_to_world(column, row).icrs


def checked_observation(
    image: np.ndarray,
    *,
    psf: np.ndarray | None,
    psf_scale: float | None = None,
    noise: np.ndarray | float | None = None,
    neighbour_correlation: float | None = None,
    mask: np.ndarray | None = None,
    pixel_scale: float = 0.05,
    radius: float | None = None,
    name: str = "lens",
    wcs: Any = None,
    unit: str = "",
    electrons: float | None = None,
) -> Observation:
    """Checks an image and what belongs to it.

    Args:
        image: (H, W). NaN and infinite pixels do not count.
        psf: (h, w) point-spread function; brought to a sum of 1 and an odd number of pixels.
        psf_scale: Its pixels in arcsec, finer than the image's: light is then blurred between the pixels. None: the image's.
        noise: (H, W) standard deviation of each pixel or that of all; None estimates it from the corners.
        neighbour_correlation: Of the noise of neighbouring pixels, which drizzling makes alike: 0 if it is independent; the noise is
            then taken as it is given. None measures in the corners how alike it is, and whether a noise map is larger than the scatter of blank
            pixels, as many of drizzled images are, to allow for that.
        mask: (H, W); pixels where it is not 0 are left out.
        pixel_scale: In arcsec.
        radius: Pixels farther than this from the middle, in arcsec, are left out; None: none is.
        name: Of the lens.
        wcs: Of astropy.
        unit: Of the image's values, as a header writes it.
        electrons: That one of this unit stands for: without ``noise`` the photon noise of bright pixels follows from it. None: it is not known.

    Raises:
        InputError: What was given cannot be used.
    """
    image = _plane(image, "the image")
    notes: list[str] = []
    if not 1e-4 <= pixel_scale <= 10:
        raise InputError(f"pixel_scale is {pixel_scale:g}: a number of arcsec is needed")
    known = np.isfinite(image)
    if not known.any():
        raise InputError(f"{name}: all pixels are NaN or infinite")
    if not known.all():
        notes.append(f"{int((~known).sum())} pixels that are NaN or infinite do not count")
    if psf is None:
        raise InputError(
            "a point-spread function is needed: give --psf FILE.fits (in Python psf), an image of a star at the image's pixel scale"
        )
    finer = _finer(psf_scale, pixel_scale)
    kernel, about = _kernel(psf, tuple(int(n * finer) for n in image.shape))
    notes += about
    kernel, about = _core(kernel, finer)
    notes += about
    sharp = None
    if finer > 1:
        sharp, kernel = kernel, resampled(kernel, pixel_scale / finer, pixel_scale)
    counted, about = _counted(known, mask, image)
    notes += about
    sigma, a, about = _noise(
        noise, neighbour_correlation, np.where(known, image, np.nan), counted, electrons
    )
    notes += about
    counted &= np.isfinite(sigma)
    found = Observation(
        image=np.where(known, image, 0.0),
        noise=np.where(np.isfinite(sigma), sigma, 1.0),
        psf=kernel,
        mask=counted,
        pixel_scale=float(pixel_scale),
        name=name,
        wcs=wcs,
        correlation=a,
        sharp_psf=sharp,
        sharp_scale=pixel_scale / finer,
        unit=unit,
        noise_measured=noise is None,
    )
    if radius is not None:
        if radius <= 2 * pixel_scale:
            raise InputError(f"radius is {radius:g}″: it must be larger than two pixels")
        found = dataclasses.replace(found, mask=counted & (found.radius() <= radius))
    left = int(found.mask.sum())
    if left < _LEAST_PIXELS:
        raise InputError(
            f"{name}: mask and radius leave {left} pixels to fit; at least {_LEAST_PIXELS} are needed (a mask is 0 where a pixel counts)"
        )
    return found.warned(*notes)


def _finer(psf_scale: float | None, pixel_scale: float) -> float:
    """Returns by how much a point-spread function's pixels are smaller than the image's; 1 where they are the same."""
    if psf_scale is not None and not psf_scale > 0:
        raise InputError(f"psf_scale is {psf_scale:g}: a number of arcsec above 0 is needed")
    finer = 1.0 if psf_scale is None else pixel_scale / psf_scale
    if not np.isfinite(finer) or not 1 - _SAME < finer <= _FINEST:
        raise InputError(
            f"the PSF's pixels are {psf_scale:g}″ and the image's {pixel_scale:g}″: they must be the same, or the PSF's up to {_FINEST} times finer; --psf_scale says them, where a header is wrong"
        )
    return finer if finer > 1 + _SAME else 1.0


def _plane(image: np.ndarray, what: str) -> np.ndarray:
    image = np.asarray(image, dtype=float)
    if image.ndim != 2:
        raise InputError(f"{what} has shape {image.shape}; one plane (H, W) is needed")
    if max(image.shape) > _MOST_PIXELS:
        raise InputError(
            f"{what} has {image.shape[0]}×{image.shape[1]} pixels; cut out the lens, at most {_MOST_PIXELS} per side"
        )
    return image


def _counted(
    known: np.ndarray, mask: np.ndarray | None, image: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Returns which pixels (H, W) count, and notes."""
    counted, notes = known, list[str]()
    if mask is not None:
        hidden = _mask(mask, image.shape)
        counted = known & ~hidden
        if not hidden.any():
            notes.append(
                "the mask leaves out no pixel of the image: were its regions drawn on another one?"
            )
        elif hidden.mean() > _MOST_MASKED:
            notes.append(f"the mask leaves out {hidden.mean():.0%} of the pixels: it is to be 0 where a pixel counts")  # fmt: skip
    blank = _without_data(np.where(counted, image, np.nan))
    if blank.any():
        notes.append(f"{int(blank.sum())} pixels side by side are exactly 0, as where there are no data, and do not count")  # fmt: skip
    return counted & ~blank, notes


def _without_data(image: np.ndarray) -> np.ndarray:
    """Returns (H, W) where many pixels side by side are exactly 0: borders of rotated images, edges of chips. Counts may be so."""
    values = image[np.isfinite(image)]
    if (values == np.round(values)).all():
        return np.zeros(image.shape, bool)
    groups, _ = ndimage.label(image == 0)
    sizes = np.bincount(groups.ravel())
    sizes[0] = 0
    found: np.ndarray = (sizes >= _LEAST_BLANK)[groups]
    return found


def _mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise InputError(f"the mask has shape {mask.shape}, the image {shape}: they must match")
    found: np.ndarray = (np.nan_to_num(mask.astype(float), nan=1.0)) != 0
    return found


def _kernel(psf: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Returns a kernel of sum 1, square, odd and centred, and what was done to make it so."""
    psf, notes = _plane(psf, "the PSF"), list[str]()
    if not np.isfinite(psf).all():
        raise InputError("the PSF has pixels that are NaN or infinite")
    if psf.shape[0] > shape[0] or psf.shape[1] > shape[1]:
        raise InputError(
            f"the PSF has {psf.shape[0]}×{psf.shape[1]} pixels, more than the image's {shape[0]}×{shape[1]}; are they in the right order?"
        )
    total, below = float(psf.sum()), -float(psf.clip(max=0).sum())
    if total <= 0:
        raise InputError("the PSF has no light")
    if below > _MOST_BELOW * total:
        raise InputError(f"the PSF's negative pixels add up to {below / total:.0%} of its light: is its background subtracted, and is it cut out around one star?")  # fmt: skip
    if below > _TOLD_BELOW * total:
        notes.append(f"the PSF's negative pixels, {below / total:.1%} of its light, are kept: what positive and negative noise its background has averages out")  # fmt: skip
    rim = np.concatenate([psf[0], psf[-1], psf[:, 0], psf[:, -1]])
    background = float(np.median(rim)) * psf.size / total
    if background > _BACKGROUND:
        notes.append(f"the PSF's rim is so bright that as much everywhere would be {background:.0%} of its light: was its background not subtracted, or is it cut out too closely? Either blurs the model wrongly")  # fmt: skip
    if abs(total - 1) > 1e-3:
        notes.append(f"the PSF adds up to {total:.4g}; it was divided by that")
    bright = np.where(psf > 0.2 * psf.max(), psf, 0.0)
    centre = ndimage.center_of_mass(bright)
    side = max(psf.shape) - 1 + max(psf.shape) % 2
    off = [at - (n - 1) / 2 for at, n in zip(centre, psf.shape)]
    even = any(n % 2 == 0 for n in psf.shape)
    if max(map(abs, off)) > max(psf.shape) / 4:
        raise InputError(
            f"the PSF's light is {off[1]:+.1f}, {off[0]:+.1f} pixels off its middle (x, y): cut it out around the star"
        )
    if even or max(map(abs, off)) > _OFF_CENTRE:
        # Its light comes to the middle of a pixel, by cubic splines between pixels.
        along = np.arange(side) - (side - 1) / 2
        places = np.meshgrid(centre[0] + along, centre[1] + along, indexing="ij")
        psf = ndimage.map_coordinates(psf, places, order=3, mode="constant")
        why = "an even number of pixels" if even else "its light off the middle"
        how = "interpolated"
        if max(map(abs, off)) >= 0.005:  # shown as 0.01 at least
            how = f"moved by {0.0 - off[1]:+.2f}, {0.0 - off[0]:+.2f} pixels (x, y)"
        notes.append(f"the PSF has {why}; it was {how}, to have a middle")
    elif max(map(abs, off)) > _TOLD_OFF:
        notes.append(f"the PSF's light is {off[1]:+.2f}, {off[0]:+.2f} pixels (x, y) off its middle: places of the fit are off by as much the other way")  # fmt: skip
    margins = [((side - n) // 2,) * 2 for n in psf.shape]
    if psf.shape[0] != psf.shape[1]:
        psf = np.pad(psf, [(max(0, a), max(0, b)) for a, b in margins])
    return psf / psf.sum(), notes


def _core(kernel: np.ndarray, finer: float) -> tuple[np.ndarray, list[str]]:
    """Returns a kernel without the wings that would cost memory for next to no light, and a note if any were cut off."""
    middle = len(kernel) // 2
    if len(kernel) <= _USUAL_PSF * finer:
        return kernel, []
    far = np.abs(np.arange(len(kernel)) - middle)
    within = np.cumsum(np.bincount(np.maximum(far[:, None], far[None, :]).ravel(), kernel.ravel()))
    radius = max(int((within < _OF_PSF).sum()), int(_USUAL_PSF * finer) // 2)
    side = 2 * radius + 1
    if side > _WIDEST_PSF * finer:
        raise InputError(
            f"the PSF has {len(kernel)}×{len(kernel)} pixels, and {_OF_PSF:.0%} of its light is spread over {side}×{side}, as in an image of the sky: "
            "cut it out around the star, without its background (is it the image itself?)"
        )
    if side >= len(kernel):
        return kernel, []
    inner = slice(middle - radius, middle + radius + 1)
    kept = kernel[inner, inner]
    note = f"of the PSF's {len(kernel)}×{len(kernel)} pixels the {side}×{side} in the middle are used, with {kept.sum():.2%} of its light"
    return kept / kept.sum(), [note]


def _noise(
    noise: np.ndarray | float | None,
    neighbour: float | None,
    image: np.ndarray,
    counted: np.ndarray,
    electrons: float | None,
) -> tuple[np.ndarray, float, list[str]]:
    """Returns each pixel's standard deviation, NaN where it is not known, how alike neighbours are, and notes."""
    given = None if neighbour is None else kernel_of(neighbour)
    if noise is None:
        return _noise_of_corners(image, counted, given, electrons)
    sigma = np.asarray(noise, dtype=float)
    if sigma.ndim == 0:
        sigma = np.full(image.shape, float(sigma))
    if sigma.shape != image.shape:
        raise InputError(
            f"the noise map has shape {sigma.shape}, the image {image.shape}: they must match"
        )
    bad = int((sigma[counted] <= 0).sum())
    if bad:
        least = float(np.nanmin(sigma[counted]))
        raise InputError(
            f"the noise map holds {bad} pixels ≤ 0 (least {least:.3g}) that count; it must be a standard deviation, positive everywhere (mask pixels without data)"
        )
    notes = list[str]()
    unknown = int((~np.isfinite(sigma[counted])).sum())
    if unknown:
        notes.append(f"{unknown} pixels without a finite noise do not count")
    sigma = np.where(sigma > 0, sigma, np.nan)
    if given is not None:
        return sigma, given, notes
    factor, a, about = _noise_beside_map(image / sigma, counted & np.isfinite(sigma))
    return factor * sigma, a, notes + about


def _noise_beside_map(image: np.ndarray, counted: np.ndarray) -> tuple[float, float, list[str]]:
    """Returns by what a noise map is to be multiplied, how alike neighbours are, and notes, from the corners of an image in units of the map."""
    blank = of_corners(image, counted)
    if blank is None:
        return 1.0, 0.0, []
    if blank.scatter < _NO_NOISE:
        raise InputError(f"pixels in the corners scatter {blank.scatter:.2g} times as much as the noise map says: is it a map of weights (1/σ²), or in another unit? The standard deviation of each pixel is needed")  # fmt: skip
    if blank.scatter > _NOT_BLANK:
        return 1.0, 0.0, [
            f"pixels in the corners scatter {blank.scatter:.2f} times as much as the noise map says: something is there, or the map is too small (a variance?); the noise "
            "of neighbouring pixels is taken as independent (--neighbour_correlation says how alike it is)"
        ]  # fmt: skip
    if blank.a == 0:
        return 1.0, 0.0, []
    explained = 1 / np.sqrt(larger_areas(blank.a))  # by a map that is right for large areas
    factor = float(np.clip(blank.scatter, _BELOW * explained, 1.0))
    less = ""
    if blank.scatter < 1:
        less = f"; they scatter {blank.scatter:.2f} of what the noise map says, too"
    if blank.scatter < factor:
        less += f", of which their correlation explains {explained:.2f}: the map is taken times {factor:.2f}, and errors are too large"
    return factor, blank.a, [
        f"in the corners the noise of neighbouring pixels is {in_words(blank.a)}{less} (--neighbour_correlation 0: it does not)"
    ]  # fmt: skip


def _noise_of_corners(
    image: np.ndarray, counted: np.ndarray, given: float | None, electrons: float | None
) -> tuple[np.ndarray, float, list[str]]:
    """The scatter of the four corners with the photon noise of what is brighter, and how alike neighbouring pixels are there.

    Drizzling makes the noise of a pixel smaller as it makes neighbours alike, that of photons as that of the sky.
    """
    blank = of_corners(image, counted)
    if blank is None:
        raise InputError(
            "the noise cannot be estimated, as the corners hold no pixels that count: give --noise_map FILE.fits (in Python noise)"
        )
    if blank.scatter <= _FLAT * float(np.nanmax(np.abs(image))):
        raise InputError(
            "the noise cannot be estimated, as the corners are flat: give --noise_map FILE.fits (in Python noise)"
        )
    a = blank.a if given is None else given
    alike = "neighbouring pixels are independent"
    if a > 0:
        alike = f"that of neighbouring pixels is {in_words(a)}"
    photons, variance = "is not known", np.full(image.shape, blank.scatter**2)
    if electrons is not None:
        light = np.clip(np.nan_to_num(image) - blank.level, 0, None)
        variance += light / (electrons * larger_areas(a))
        photons = f"is that of {electrons:,.6g} electrons per unit of the image, as its header says"
    note = (
        f"without a noise map, a standard deviation of {blank.scatter:.4g} was measured in the corners; {alike}"
        f"{'' if given is None else ', as was given'}; photon noise of bright pixels {photons}"
    )
    return np.sqrt(variance), a, [note]
