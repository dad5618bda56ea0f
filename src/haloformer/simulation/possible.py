"""Whether a survey's numbers are ones that lenses and cameras can have: a slip of some powers of ten is told, not simulated."""

import dataclasses
from collections.abc import Iterator, Mapping

from haloformer.errors import InputError
from haloformer.simulation.distributions import (
    Distribution,
    Normal,
    Quantity,
    describe_quantity,
    least_of,
)
from haloformer.simulation.surveys import AnySurvey


@dataclasses.dataclass(frozen=True)
class _Range:
    low: float
    high: float
    unit: str
    usual: str


_SIZE = _Range(1e-3, 100, "arcsec", "galaxies have 0.05 to 5")
_MASS = _Range(0, 1e14, "M_sun", "subhalos have 1e6 to 1e11")

_OF = {
    "exposure_time": _Range(1e-3, 1e9, "s", "cameras expose for 10 to 10,000"),
    "num_exposures": _Range(1, 1e6, "exposures", "cameras add 1 to 1,000"),
    "magnitude_zero_point": _Range(-60, 60, "mag", "cameras have 20 to 35"),
    "sky_brightness": _Range(0, 40, "mag/arcsec²", "the sky has 17 to 23"),
    "read_noise": _Range(0, 1e4, "e⁻", "cameras have 1 to 30"),
    "R_sersic": _SIZE,
    "R": _SIZE,
    "Sigma_sub": _Range(0, 10, "1/kpc²", "cold dark matter has 0.005 to 0.2"),
    "line_of_sight": _Range(0, 100, "times", "1 is what is expected"),
    "abundance": _Range(0, 100, "times", "1 is what is expected"),
    "concentration_factor": _Range(1e-3, 1e3, "times", "1 is what is expected"),
    "mass_high": _MASS,
    "velocity_dispersion": _Range(1, 5000, "km/s", "galaxies have 100 to 400"),
    "host_mass": _Range(1e6, 1e17, "M_sun", "galaxies have 1e11 to 1e14"),
}
"""Field → what it may be, wherever it is in a survey."""

_OF_SUBSTRUCTURE = {"mass": _MASS}
_OF_LENS_LIGHT = {"R": _Range(1e-2, 100, "Einstein radii", "lens galaxies have 0.5 to 4")}


def check_possible(survey: AnySurvey) -> None:
    """Raises InputError for the first number of a survey, or prior, that lies far from what there is."""
    for place, value in _quantities(survey):
        name = place[-1]
        special = {"substructure": _OF_SUBSTRUCTURE, "lens_light": _OF_LENS_LIGHT}.get(place[0], {})
        within = special.get(name) if len(place) > 1 and name in special else _OF.get(name)
        if within is None or _lies_within(value, within):
            continue
        high = f"{within.high:,.0f}" if within.high < 1e6 else f"{within.high:g}"
        raise InputError(
            f"survey {survey.name}: {'.'.join(place)} must be {within.low:g} to {high} {within.unit}, "
            f"not {describe_quantity(value)}; {within.usual}"
        )


def _lies_within(value: Quantity, within: _Range) -> bool:
    if isinstance(value, Normal):  # its tails are clipped, or refused where it is read
        return within.low <= value.mean <= within.high
    return within.low <= least_of(value) and -least_of(value, -1) <= within.high


def _quantities(
    part: object, place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Quantity]]:
    """Yields all numbers and distributions of a part of a survey, with the fields that lead there."""
    if isinstance(part, bool):
        return
    if isinstance(part, float | int | Distribution):
        yield place, part
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from _quantities(getattr(part, field.name), (*place, field.name))
    elif isinstance(part, Mapping):
        for name, each in part.items():
            yield from _quantities(each, (*place, str(name)))
    elif isinstance(part, tuple):
        for number, each in enumerate(part, 1):
            named = (*place, str(number)) if len(part) > 1 else place
            yield from _quantities(each, named)
