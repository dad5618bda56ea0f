"""Numbers and units that people give in Python or in a header."""

import re
from typing import Any

import numpy as np

from haloformer.errors import InputError

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
