"""What a FITS header says of the sky: pixel scale, positions, and whether its values are surface brightness."""

import contextlib
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from haloformer.errors import InputError
from haloformer.io.quantities import refuse_logarithms

_SCALES = (
    1e-4,
    60,
)  # arcsec per pixel; what a header without a usable matrix gets from astropy, a degree, is not among them
_WIDEST_UNNAMED = 30  # arcsec; without CUNIT, pixels that are wider as degrees were meant as arcsec

_WCS_KEY = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)[12]|(CD|PC)[12]_[12]"
    r"|[AB]P?_(ORDER|\d_\d)|PV[12]_\d+|LONPOLE|LATPOLE|RADESYS|EQUINOX|WCSAXES"
)
_MATRIX = ("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "CDELT2")
_SKY_AXIS = re.compile(r"RA-|DEC-|.LON-|.LAT-")
_SIP_TERM = re.compile(r"[AB]_\d_\d")

_SCALE_KEYS: tuple[tuple[str, ...], ...] = (
    ("PIXSCALE",), ("PIXSCAL1", "PIXSCAL2"), ("PIXSCALX", "PIXSCALY"), ("PIXELSCL",), ("PIXSCAL",), ("PIXSCL",),
    ("PXSCALE",), ("PSCALE",), ("IMSCALE",), ("CCDSCALE",), ("SECPIX",), ("SECPIX1", "SECPIX2"), ("SECPPIX",),
    ("PLATESCL",), ("PLTSCALE",), ("D001SCAL",), ("PIXAR_A2",),
)  # fmt: skip
"""Keywords of the pixel scale in arcsec, along x and y where there are two; PIXAR_A2 is an area."""

_OF_THE_CAMERA = ("CCDSCALE", "PLATESCL", "PLTSCALE", "PIXAR_A2")
"""Those of `_SCALE_KEYS` that stay what they are where an image is resampled."""

_AGREES = 0.05
"""A scale by keyword that is off the WCS's by no more than this is a round number, or one elsewhere in the field."""

SKY_KEYS = ("BUNIT", "FILTER", "FILTER1", "FILTER2", "BAND", *(k for ks in _SCALE_KEYS for k in ks))
"""What a primary header says of the image in an extension, beside the WCS."""


_LONG_SCALE_KEY = re.compile(r"(.*[ .])?(PIXEL[ _]?SCALE|PIXSCALE?|PXSCALE|PLATE[ _]?SCALE)")
_IN_DEGREES, _IN_MAS = re.compile(r"\bdeg"), re.compile(r"\b(mas|milli-?arcsec)")


def is_scale_key(key: str) -> bool:
    """Tells whether a HIERARCH keyword, which may have any length, is one of a pixel scale, such as ESO INS PIXSCALE."""
    return (len(key) > 8 or " " in key) and _LONG_SCALE_KEY.fullmatch(key.upper()) is not None


def check_header(header: Any, name: str, *, has_scale: bool) -> None:
    """Refuses a header that says two things at once of the sky, or whose values are no light.

    Args:
        header: The header.
        name: The file's name, for error messages.
        has_scale: The pixel scale is given; then what the header says of the sky twice does not matter.
    """
    refuse_logarithms(str(header.get("BUNIT", "")).strip(), name)
    counts = Counter(iter(header))  # of its keywords, not their values
    for key, n in counts.items():
        if n > 1 and not has_scale and (key in SKY_KEYS or is_wcs_key(key)):
            values = dict.fromkeys(str(header[key, k]) for k in range(n))
            if len(values) > 1:
                listed = " and ".join(value[:20] for value in list(values)[:3])
                raise InputError(
                    f"{name}: its header gives {key} more than once, {listed}: correct it, or give --pixel_scale"
                )


def is_wcs_key(key: str) -> bool:
    """Tells whether a keyword belongs to the WCS, which is taken from one header as a whole."""
    return _WCS_KEY.fullmatch(key) is not None


def celestial(header: Any) -> Any:
    """Returns the WCS (astropy's) of a header's two sky axes, or None where there is none that can be used."""
    with contextlib.suppress(Exception):  # a hostile header fails in any of many ways
        if "CTYPE1" not in header:  # most often, and quick
            return None
        wcs = _celestial(header)
        if wcs is not None and _names_no_unit(header):
            sides = pixel_scales(wcs)
            if max(sides) > _WIDEST_UNNAMED and not _is_default(header):
                wcs = _celestial(_in_degrees(header))
        if wcs is not None and all(_is_scale(side) for side in pixel_scales(wcs)):
            return wcs
    return None


def _celestial(header: Any) -> Any:
    from astropy.wcs import WCS

    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        wcs = WCS(header).celestial
    return wcs if wcs.has_celestial else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps astropy from printing a page for each header with SIP terms (see `has_unclear_sip`)."""
    log = logging.getLogger("astropy")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _is_scale(side: float) -> bool:
    return _SCALES[0] < side < _SCALES[1]


def _names_no_unit(header: Any) -> bool:
    return not any(str(header.get(key, "")).strip() for key in ("CUNIT1", "CUNIT2"))


def _is_default(header: Any) -> bool:
    """Tells whether a header gives no pixel scale but 1, which stands there where nobody wrote one."""
    diagonal = ("CD1_1", "CD2_2", "CDELT1", "CDELT2")
    return all(_number(header.get(key, 1)) == 1 for key in diagonal)


def _in_degrees(header: Any) -> Any:
    """Returns a copy of a header whose matrix was in arcsec."""
    changed = header.copy()
    for key in _MATRIX:
        if key in header and not (key.startswith("CDELT") and "CD1_1" in header):
            changed[key] = header[key] / 3600
    return changed


def has_unclear_sip(header: Mapping[str, Any]) -> bool:
    """Tells whether a header holds SIP terms without saying, by -SIP in CTYPE, that they are to be used."""
    if str(header.get("CTYPE1", "")).strip().endswith("-SIP"):
        return False
    return any(_SIP_TERM.fullmatch(key) and header[key] for key in header)


def header_scales(header: Any, wcs: Any, name: str) -> tuple[float, float] | None:
    """Returns the sides of a pixel along y and x, in arcsec, by whatever in a header tells them.

    Args:
        header: The header.
        wcs: Its WCS, as `celestial` returns it.
        name: The file's name, for error messages.

    Returns:
        By the WCS, else a matrix without a projection, else keywords such as PIXSCALE; None where
        there is none of these.

    Raises:
        InputError: The header gives a scale that cannot be one.
    """
    if wcs is not None:
        return pixel_scales(wcs)
    found, wrong = _keyword_scales(header)
    if found is not None:
        return found
    if not _is_default(header) and _may_be_sky(header):
        sides = [_matrix_side(header, k) for k in (2, 1)]
        if all(_is_scale(side) for side in sides):
            return sides[0], sides[1]
        wrong = wrong or f"its header gives pixels of {sides[1]:g} arcsec"
    if wrong:
        raise InputError(
            f"{name}: {wrong}, which is no pixel scale of an image of a lens; --pixel_scale, in arcsec, says what it is"
        )
    return None


def scale_beside_wcs(header: Any, wcs: Any) -> str:
    """Returns what is told where a keyword such as PIXSCALE gives pixels of another size than the WCS, which counts; else nothing.

    Args:
        header: The header.
        wcs: Its WCS, as `celestial` returns it.
    """
    if wcs is None:
        return ""
    for keys in _SCALE_KEYS:
        if keys[0] in _OF_THE_CAMERA or any(key not in header for key in keys):
            continue
        sides = [_number(header[key]) for key in keys]
        if not all(map(_is_scale, sides)):
            continue
        y, x = pixel_scales(wcs)  # only now: most headers have no such keyword
        if max(sides[0] / x, x / sides[0], sides[-1] / y, y / sides[-1]) > 1 + _AGREES:
            return (
                f"pixels are taken to be of {x:.4g}″, as the WCS says, though a header has "
                f"{' and '.join(f'{key} = {header[key]}' for key in keys)}: where that is right, --pixel_scale says so"
            )
    return ""


def oversampling_of(header: Any) -> float:
    """Returns how many pixels of a point-spread function lie on a side of one of its detector's; 1 where its header says nothing.

    STPSF and WebbPSF write OVERSAMP in each extension, and DET_SAMP, which is of the finer ones.
    """
    keys = ["OVERSAMP", "OVERSAMPLING"]
    if not str(header.get("EXTNAME", "")).strip().upper().startswith("DET_"):
        keys.append("DET_SAMP")
    for key in keys:
        value = _number(header.get(key, math.nan))
        if math.isfinite(value) and value > 0:
            return value
    return 1.0


def _keyword_scales(header: Any) -> tuple[tuple[float, float] | None, str]:
    """Returns the sides of a pixel along y and x by a keyword such as PIXSCALE, or what is wrong with the first of them."""
    wrong = ""
    for keys in _SCALE_KEYS:
        if str(header.get(keys[0], "")).strip():
            x, y = (_number(header.get(key, header[keys[0]])) for key in (keys[0], keys[-1]))
            if keys[0] == "PIXAR_A2":
                x, y = math.sqrt(x), math.sqrt(y)
            if _is_scale(x) and _is_scale(y):
                return (y, x), ""
            if keys[0] != "PLTSCALE":  # that of a photographic plate is in arcsec per mm
                wrong = wrong or f"{keys[0]} is {str(header[keys[0]])[:40]!r}"
    for key in header:
        if is_scale_key(key):
            side = _number(header[key]) * _arcsec_of(f"{header[key]} {header.comments[key]}")
            if _is_scale(side):
                return (side, side), ""
            wrong = wrong or f"{key} is {str(header[key])[:40]!r}"
    return None, wrong


def _arcsec_of(text: str) -> float:
    """Returns the unit, in arcsec, that a value or its comment names; 1 where there is none."""
    lower = text.lower()
    return 3600 if _IN_DEGREES.search(lower) else 0.001 if _IN_MAS.search(lower) else 1


def _may_be_sky(header: Any) -> bool:
    """Tells whether the matrix of a header is one of angles; of bare numbers those below 1 are."""
    axes = str(header.get("CTYPE1", "")).strip()
    if axes:
        return _SKY_AXIS.match(axes) is not None
    unit = str(header.get("CUNIT1", "")).strip().lower()
    if unit:
        return unit.startswith(("deg", "arcs"))
    return max(_number(header.get(key, 0)) for key in _MATRIX) < 1


def _number(value: object) -> float:
    """Returns the size of a number, also of one with its unit behind it in a text; NaN where there is none."""
    if isinstance(value, str):
        found = re.match(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)", value)
        value = found[1] if found else "nan"
    with contextlib.suppress(TypeError, ValueError):
        return abs(float(value))  # type: ignore[arg-type]
    return math.nan


def _matrix_side(header: Any, axis: int) -> float:
    """Returns the side of a pixel along an axis, in arcsec, of a header without a usable projection."""
    if f"CD{axis}_{axis}" in header:
        side = math.hypot(*(_number(header.get(f"CD{k}_{axis}", 0)) for k in (1, 2)))
    else:
        side = _number(header.get(f"CDELT{axis}", math.nan))
    unit = str(header.get(f"CUNIT{axis}", "")).strip().lower()
    if unit.startswith("arcs") or (not unit and 3600 * side > _WIDEST_UNNAMED):
        return side
    return 3600 * side


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


_SOLID_ANGLE = (
    r"(sr|str|ster|steradians?|beam"
    r"|(sq|square)[ ._-]*(arc ?secs?|arc ?seconds?|arc ?mins?|deg|degrees?|asec)"
    r"|(arc ?secs?|arc ?seconds?|arc ?mins?|deg|degrees?|asec)[ ._]*(\^|\*\*)?[ ._]*\(?2\)?)"
)
_PER_SOLID_ANGLE = re.compile(
    rf"(/|\bper\b)[^/]*?(?<![a-z]){_SOLID_ANGLE}(?![a-z0-9])"
    r"|(?<![a-z])(sr|str|ster|steradian|beam)[ ._]*(\^|\*\*)?[ ._]*\(?-1"
    r"|(?<![a-z])(arc ?secs?|arc ?mins?|deg|asec)[ ._]*(\^|\*\*)?[ ._]*\(?-2"
)


def is_surface_brightness(header: Any) -> bool:
    """Tells whether BUNIT is light per solid angle, such as MJy/sr: then a value does not grow with its pixel.

    Spellings that are no units of the standard (``MJY/SR``, ``counts/s/arcsec2``) are understood, too.
    """
    from astropy import units

    text = str(header.get("BUNIT", ""))[:100]
    if _PER_SOLID_ANGLE.search(text.lower()):
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unit = units.Unit(text, parse_strict="silent")
    per = [
        (base, power)
        for base, power in zip(getattr(unit, "bases", ()), getattr(unit, "powers", ()))
        if power < 0
    ]
    return any(
        base.is_equivalent(units.sr) or (power == -2 and base.is_equivalent(units.rad))
        for base, power in per
    )  # fmt: skip
