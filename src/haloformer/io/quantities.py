"""Numbers and units that people give in Python or in a header."""

import re
import warnings
from numbers import Real
from typing import Any

import numpy as np

from haloformer.errors import InputError, InputWarning

NOT_SQUARE = 0.01
"""By how much of themselves the sides of a pixel may differ that is taken as a square."""

_LOGARITHM = re.compile(r"(?<![a-z])((ab|st|vega|inst)?[ _]?mags?|magnitudes?|dex|db)(?![a-z])")


def in_arcsec(value: Any, what: str) -> float | None:
    """Returns a number of arcsec, of a number or of an astropy Quantity; None of None.

    Raises:
        InputError: It is neither, or no angle.
    """
    if value is None:
        return None
    if hasattr(value, "unit") and hasattr(value, "to_value"):
        from astropy.units import UnitsError

        try:
            value = value.to_value("arcsec")
        except UnitsError as error:
            raise InputError(f"{what} is {value}: an angle is needed") from error
    if isinstance(value, bool) or np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
        raise InputError(f"{what} is {str(value)[:60]!r}: a number of arcsec is needed")
    return float(value)


def refuse_logarithms(unit: str, name: str) -> None:
    """Raises InputError for a unit of values that are no light, such as magnitudes."""
    if _LOGARITHM.search(unit.lower()):
        raise InputError(
            f"{name}: its values are in '{unit[:40]}', which are logarithms: images hold light, such as counts/s"
        )


_SPELT = {"cps": "count / s", "counts": "count", "cts": "count", "dn": "adu", "e-": "electron", "e": "electron", "electrons": "electron", "sec": "s", "second": "s", "seconds": "s"}  # fmt: skip


_RATES = ("count / s", "electron / s", "photon / s", "adu / s")
_POWER = re.compile(r"(1 ?/ ?)?\(([^()]+)\) ?(?:\^|\*\*)? ?([+-]?\d)")
"""A power of a unit in brackets, which astropy does not read."""


def noise_factor(noise_unit: Any, image_unit: Any, noise: str = "noise") -> float:
    """Returns by what a noise map is multiplied to be in the unit of its image; 1 where either has none.

    Args:
        noise_unit: Of the map: an astropy unit, or what a header says.
        image_unit: Of the image.
        noise: What the map is called in messages.

    Raises:
        InputError: It is in a unit of something else.
    """
    ours, theirs = _known_unit(image_unit), _known_unit(noise_unit)
    if ours in (None, "") or theirs in (None, ""):
        return 1.0
    if isinstance(ours, str) or isinstance(theirs, str):
        if str(ours).casefold() != str(theirs).casefold():
            warnings.warn(
                f"{noise} is in '{str(noise_unit)[:40]}', the image in '{str(image_unit)[:40]}', of which one is not known: its values are taken to be in the image's unit",
                InputWarning,
                stacklevel=3,
            )
        return 1.0
    if ours == theirs:
        return 1.0
    from astropy.units import UnitsError

    try:
        return float(theirs.to(ours))
    except UnitsError as error:
        raise InputError(
            f"{noise} is in {theirs}, the image in {ours}: it must be in the image's unit{_kind(theirs, ours)}"
        ) from error


def rate_factor(unit: str, noise: str) -> float:
    """Returns by what a noise map is multiplied to be in counts, electrons, photons or ADU per second; 1 where it has no unit.

    Args:
        unit: What its header says.
        noise: What the map is called in messages.

    Raises:
        InputError: It is in a unit of something else.
    """
    from astropy.units import Unit

    its = _known_unit(unit)
    if its == "":
        return 1.0
    if isinstance(its, str):
        warnings.warn(
            f"{noise} is in '{unit[:40]}', which is not known: its values are taken to be in counts/s",
            InputWarning,
            stacklevel=3,
        )
        return 1.0
    rates = [Unit(each) for each in _RATES]
    for rate in rates:
        if its.is_equivalent(rate):
            return float(its.to(rate))
    kind = next(filter(None, (_kind(its, rate) for rate in rates)), "")
    raise InputError(
        f"{noise} is in {its}: it must be in counts/s, as images of a camera are{kind}"
    )


def electrons_per_unit(unit: Any, seconds: Any) -> float | None:
    """Returns how many electrons one of an image's unit stands for; None where that is not known.

    Args:
        unit: Of the image: an astropy unit, or what a header says. Counts of a converter do not say it.
        seconds: Exposure time, as a header says it.
    """
    from astropy.units import Unit

    its = _known_unit(unit)
    if its in (None, "") or isinstance(its, str):
        return None
    if its == Unit("electron"):
        return 1.0
    number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if its == Unit("electron / s") and number and 0 < seconds < np.inf:
        return float(seconds)
    return None


def _kind(theirs: Any, ours: Any) -> str:
    """Returns what a map in a unit that is not ours may be instead, in words."""
    if theirs.is_equivalent(ours**2):
        return ", but its square: is it a map of variances? The standard deviation is needed"
    if theirs.is_equivalent(ours**-2):
        return ", but its inverse square: is it a map of weights? The standard deviation is needed"
    return ""


def _known_unit(unit: Any) -> Any:
    """Returns a unit as astropy has it, the text where it knows none; None of None."""
    if unit is None:
        return None
    if not isinstance(unit, str):
        return _in_adu(unit)
    from astropy.units import Unit

    text = " ".join(unit.split())
    power = _POWER.fullmatch(text)
    if power is not None:
        base = _known_unit(power[2])
        return text if isinstance(base, str) else base ** (int(power[3]) * (-1 if power[1] else 1))
    spelt = re.sub(r"[A-Za-z]+-?", lambda found: _SPELT.get(found[0].lower(), found[0]), text)
    shouted = text.isupper()  # ELECTRONS/S are per second, not per siemens
    for each in (spelt.lower(), text, spelt) if shouted else (text, spelt, spelt.lower()):
        try:
            return _in_adu(Unit(each)) if each else ""
        except ValueError:  # a header may say anything
            continue
    return text


def _in_adu(unit: Any) -> Any:
    """Returns a unit with adu in place of DN, which astropy keeps apart though both are counts of a converter."""
    from astropy.units import DN, adu

    for base, power in zip(getattr(unit, "bases", ()), getattr(unit, "powers", ())):
        if base == DN:
            unit = unit * (adu / DN) ** power
    return unit
