"""What a FITS header says of the sky: pixel scale, positions, and whether its values are surface brightness."""

import contextlib
import warnings
from typing import Any

import numpy as np

_SCALES = (
    1e-4,
    60,
)  # arcsec per pixel; what a header without a usable matrix gets from astropy, a degree, is not among them


def celestial(header: Any) -> Any:
    """Returns the WCS (astropy's) of a header's two sky axes, or None where there is none that can be used."""
    from astropy.wcs import WCS

    with (
        contextlib.suppress(Exception),
        warnings.catch_warnings(),
    ):  # a hostile header fails in any of many ways
        warnings.simplefilter("ignore")
        if "CTYPE1" not in header:  # most often, and quick
            return None
        wcs = WCS(header).celestial
        if wcs.has_celestial and all(
            _SCALES[0] < scale < _SCALES[1] for scale in pixel_scales(wcs)
        ):
            return wcs
    return None


def pixel_scales(wcs: Any) -> tuple[float, float]:
    """Returns the sides of a pixel along y and x, in arcsec."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    x, y = proj_plane_pixel_scales(wcs) * 3600
    return float(y), float(x)


def ra_dec(wcs: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns right ascension and declination in degrees (ICRS) of pixels, counted from 0; NaN where there is no sky.

    Args:
        wcs: As `celestial` returns it.
        x: (N,) or a number, along NAXIS1.
        y: The same along NAXIS2.
    """
    try:
        if wcs.wcs.ctype[0].startswith("RA") and wcs.wcs.radesys in ("", "ICRS"):
            found = wcs.all_pix2world(x, y, 0)
        else:
            position = wcs.pixel_to_world(x, y).icrs
            found = position.ra.deg, position.dec.deg
    except Exception:  # a hostile header fails in any of many ways
        found = np.full(np.shape(x), np.nan), np.full(np.shape(x), np.nan)
    return np.asarray(found[0], dtype=float), np.asarray(found[1], dtype=float)


def pixels(wcs: Any, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y, counted from 0, of positions (N,) in degrees (ICRS); NaN where they lie off the projection."""
    from astropy.coordinates import SkyCoord

    x, y = wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg"))
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


def is_surface_brightness(header: Any) -> bool:
    """Tells whether BUNIT is light per solid angle, such as MJy/sr: then a value does not grow with its pixel."""
    from astropy import units

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unit = units.Unit(str(header.get("BUNIT", "")), parse_strict="silent")
    per = [
        (base, power)
        for base, power in zip(getattr(unit, "bases", ()), getattr(unit, "powers", ()))
        if power < 0
    ]
    return any(
        base.is_equivalent(units.sr) or (power == -2 and base.is_equivalent(units.rad))
        for base, power in per
    )  # fmt: skip
