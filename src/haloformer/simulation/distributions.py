"""The numbers of a survey: constants, or distributions drawn by inverting their cumulative function.

In YAML a distribution is a mapping with one key: ``{uniform: [-0.35, 0.35]}``, ``{log_uniform: [1.0e3, 3.2e3]}``,
``{power_law: [1.0e6, 1.0e10, -0.9]}``, ``{normal: [0.0, 0.1]}``, ``{truncated_normal: [0.2, 0.1, 0.06, 0.5]}`` (mean, σ, limits),
``{log_normal: [1.16, 0.26, 0.7, 2.0]}`` (median, σ of the logarithm, limits).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Annotated

import numpy as np
from pydantic import PlainValidator
from scipy import special

from haloformer.errors import InputError
from haloformer.validation import Number, checked
from haloformer.vocabulary import unknown_name


@checked
@dataclass(frozen=True)
class Uniform:
    """Uniform between ``low`` and ``high``."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        return self.low + u * (self.high - self.low)


@checked
@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm between ``low`` and ``high``, both positive."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high, positive=True)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        return self.low * (self.high / self.low) ** u


_STEEPEST = 20.0  # power law; steeper ones overflow, and are a constant as good as


@checked
@dataclass(frozen=True)
class PowerLaw:
    """dN/dx ∝ x^slope between ``low`` and ``high``, both positive; ``slope`` ≠ −1 (that is :class:`LogUniform`)."""

    low: Number
    high: Number
    slope: Number

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high, positive=True)
        if self.slope == -1:
            raise InputError("a power law of slope -1 is written log_uniform")
        if abs(self.slope) > _STEEPEST:
            raise InputError(
                f"the slope of power_law must be -{_STEEPEST:g} to {_STEEPEST:g}, not {self.slope:g}"
            )
        size = max(abs(math.log10(self.low)), abs(math.log10(self.high)))
        if size * abs(1 + self.slope) > 300:
            raise InputError(
                f"power_law of slope {self.slope:g} between {self.low:g} and {self.high:g} is beyond what "
                "computers count: limits nearer to 1, or a slope nearer to -1"
            )

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        p = 1.0 + self.slope
        result: np.ndarray = (self.low**p + u * (self.high**p - self.low**p)) ** (1.0 / p)
        return result


@checked
@dataclass(frozen=True)
class Normal:
    """Gaussian with ``mean`` and standard deviation ``sigma``."""

    mean: Number
    sigma: Number

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise InputError(
                f"the standard deviation of normal must not be negative, not {self.sigma}"
            )

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        result: np.ndarray = self.mean + self.sigma * special.ndtri(u)
        return result


@checked
@dataclass(frozen=True)
class TruncatedNormal:
    """Gaussian with ``mean`` and ``sigma``, of which only what lies between ``low`` and ``high`` is drawn."""

    mean: Number
    sigma: Number
    low: Number
    high: Number

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high)
        if self.sigma <= 0:
            raise InputError(
                f"the standard deviation of truncated_normal must be positive, not {self.sigma}"
            )
        if np.ptp(self._shares()) <= 0:
            raise InputError("truncated_normal: next to nothing of it lies between its limits")

    def _shares(self) -> np.ndarray:
        limits = (np.array([self.low, self.high]) - self.mean) / self.sigma
        if self._far_above():
            limits = -limits[::-1]
        shares: np.ndarray = special.ndtr(limits)
        return shares

    def _far_above(self) -> bool:
        """Whether shares are counted from the upper end: up there those from the lower one are all but 1."""
        return self.low - self.mean > 5 * self.sigma

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        below, up_to = self._shares()
        if self._far_above():
            drawn = self.mean - self.sigma * special.ndtri(up_to - u * (up_to - below))
        else:
            drawn = self.mean + self.sigma * special.ndtri(below + u * (up_to - below))
        result: np.ndarray = np.clip(drawn, self.low, self.high)
        return result


@checked
@dataclass(frozen=True)
class LogNormal:
    """Log-normal with ``median`` and ``sigma`` of the natural logarithm, of which only what lies between ``low`` and ``high`` is drawn."""

    median: Number
    sigma: Number
    low: Number
    high: Number

    def __post_init__(self) -> None:
        _check_limits(self.low, self.high, positive=True)
        if self.median <= 0:
            raise InputError(f"the median of log_normal must be positive, not {self.median}")
        _ = self._logarithm

    @property
    def _logarithm(self) -> TruncatedNormal:
        return TruncatedNormal(
            math.log(self.median), self.sigma, math.log(self.low), math.log(self.high)
        )

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        result: np.ndarray = np.exp(self._logarithm.quantile(u))
        return result


def _check_limits(low: float, high: float, positive: bool = False) -> None:
    if low > high:
        raise InputError(f"the lower limit {low} lies above the upper limit {high}")
    if positive and low <= 0:
        raise InputError(f"the lower limit must be positive, not {low}")


Distribution = Uniform | LogUniform | PowerLaw | Normal | TruncatedNormal | LogNormal

DISTRIBUTIONS: dict[str, type[Distribution]] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "power_law": PowerLaw,
    "normal": Normal,
    "truncated_normal": TruncatedNormal,
    "log_normal": LogNormal,
}


def parse_quantity(value: object) -> float | Distribution:
    """Reads a number or a distribution as written in YAML.

    Args:
        value: A number, or a mapping such as ``{"uniform": [0, 1]}``.

    Raises:
        InputError: It is neither, or its limits make no sense.
    """
    if isinstance(value, Distribution):
        return value
    if not isinstance(value, Mapping) or len(value) != 1:
        return _number(value)
    ((name, arguments),) = value.items()
    if name not in DISTRIBUTIONS:
        raise unknown_name("distribution", str(name), DISTRIBUTIONS)
    kind = DISTRIBUTIONS[name]
    wanted = len(fields(kind))
    if not isinstance(arguments, list | tuple) or len(arguments) != wanted:
        raise InputError(f"{name} takes a list of {wanted} numbers, not {arguments!r}")
    return kind(*arguments)


def _number(value: object) -> float:
    # YAML reads 1e6 (no dot) as text; a user means the number.
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # what else it is, float says
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"must be a number or a distribution such as {{uniform: [0, 1]}}, not {value!r}"
        )
    return number


Quantity = Annotated[float | Distribution, PlainValidator(parse_quantity)]
"""A number, or the distribution that it is drawn from for each image."""


def check_not_negative(
    name: str, quantity: Quantity | None, *, zero: bool = True, clipped: bool = False
) -> None:
    """Raises InputError for a quantity that is, or is drawn, below 0, by a normal distribution in more than one of 10⁶ draws.

    Args:
        name: What it is called in the message.
        quantity: What was given.
        zero: Whether 0 itself is allowed.
        clipped: Whether what is drawn below is set to a limit, so that only the mean of a normal distribution matters.
    """
    if quantity is None:
        return
    least = least_of(quantity)
    if clipped and isinstance(quantity, Normal):
        least = quantity.mean
    if least < 0 or (least == 0 and not zero):
        wanted = "must not be negative" if zero else "must be positive"
        hint = ""
        if isinstance(quantity, Normal) and quantity.mean > 0:
            hint = f", which reaches down to {least:g}; truncated_normal and log_normal have limits"
        raise InputError(f"{name} {wanted}, not {describe_quantity(quantity)}{hint}")


def check_between(name: str, quantity: Quantity, low: float, high: float) -> None:
    """Raises InputError unless a quantity, and all but one of 10⁶ of its draws, lie between two numbers, both excluded."""
    least, most = least_of(quantity), -least_of(quantity, -1)
    if not low < least <= most < high:
        raise InputError(
            f"{name} must lie between {low:g} and {high:g}, not {describe_quantity(quantity)}"
        )


def check_log10(name: str, quantity: Quantity | None, low: float, high: float) -> None:
    """Raises InputError unless a logarithm, if it is given, lies between two numbers: others are seldom meant, but the number itself."""
    if quantity is not None and not low < least_of(quantity) <= -least_of(quantity, -1) < high:
        raise InputError(
            f"{name} is a logarithm to base 10, and must lie between {low:g} and {high:g}, not {describe_quantity(quantity)}"
        )


def check_log10_m_axion(quantity: Quantity | None) -> None:
    """Raises InputError unless log10 of an axion mass in eV, if it is given, is one that has effects on galaxies, or nearly."""
    check_log10("log10_m_axion", quantity, -29, -9)


def check_ellipticity(e1: Quantity | None, e2: Quantity | None, least_axis_ratio: float) -> None:
    """Raises InputError for ellipticities of which every draw is flatter than an axis ratio."""
    size = math.hypot(*(0.0 if each is None else _least_size(each) for each in (e1, e2)))
    most = (1 - least_axis_ratio) / (1 + least_axis_ratio)
    if size > most:
        raise InputError(
            f"e1 and e2 make an ellipticity of {size:.3g}: at most {most:.3g} can be simulated, an axis ratio of "
            f"{least_axis_ratio:g}; draws of priors are shortened to it"
        )


def check_sersic_index(quantity: Quantity) -> None:
    """Raises InputError for an index of a Sérsic profile that no galaxy has, far from it."""
    if -least_of(quantity, -1) > _MOST_SERSIC_INDEX:
        raise InputError(
            f"n_sersic must be at most {_MOST_SERSIC_INDEX:g}, not {describe_quantity(quantity)}; galaxies have 0.5 to 8"
        )


def check_magnitude(name: str, quantity: Quantity | None) -> None:
    """Raises InputError for an apparent magnitude of which no draw leaves light in an image."""
    if quantity is not None and least_of(quantity) > _FAINTEST:
        raise InputError(
            f"{name} must be below {_FAINTEST:g}, not {describe_quantity(quantity)}: no light is left; lensed galaxies have 18 to 27"
        )


_MOST_SERSIC_INDEX, _FAINTEST = 20.0, 40.0


def check_shear(gamma1: Quantity | None, gamma2: Quantity | None) -> None:
    """Raises InputError for an external shear that is, or is drawn, 1 or more, which turns the whole sky inside out."""
    sizes = []
    for name, each in (("gamma1", gamma1), ("gamma2", gamma2)):
        if each is not None:
            most = max(-least_of(each), -least_of(each, -1))
            sizes.append(_least_size(each))
            if most >= 1:
                raise InputError(f"{name} {_shear_hint(each)}")
    if math.hypot(*sizes) >= 1:
        raise InputError(f"gamma1 and gamma2 together {_shear_hint(math.hypot(*sizes))}")


def check_shear_size(gamma: Quantity | None) -> None:
    """Raises InputError for a size of an external shear that is, or is drawn, below 0, or 1 or more."""
    check_not_negative("gamma", gamma)
    if gamma is not None and -least_of(gamma, -1) >= 1:
        raise InputError(f"gamma {_shear_hint(gamma)}")


def _shear_hint(quantity: Quantity) -> str:
    return (
        f"is an external shear, which is below 1 in size (lenses have up to 0.3), not {describe_quantity(quantity)}; "
        "truncated_normal has limits"
    )


def _least_size(quantity: Quantity) -> float:
    low, high = least_of(quantity), -least_of(quantity, -1)
    return max(low, -high, 0.0)


MOST_AT_ONCE = 50_000_000
"""Numbers in an array of halos or point masses; there are some twenty such arrays."""


def check_members(images: int, number: int, what: str) -> None:
    """Raises InputError if so many halos or point masses in each of so many images take too much memory at once."""
    if images * number > MOST_AT_ONCE:
        raise InputError(
            f"{what}: room for {number:,} in each of {images} images at once takes too much memory: have fewer "
            "(mass_low, number, Sigma_sub) or a smaller batch_size"
        )


def least_of(quantity: Quantity, sign: int = 1) -> float:
    """Returns the smallest value that a quantity takes; of a normal distribution, five standard deviations below the mean.

    Args:
        quantity: What was given.
        sign: −1 for the negative of the largest value instead.
    """
    if isinstance(quantity, float | int):
        return sign * quantity
    if isinstance(quantity, Normal):
        return sign * quantity.mean - 5 * quantity.sigma
    return quantity.low if sign == 1 else -quantity.high


def describe_quantity(quantity: Quantity) -> float | dict[str, list[float]]:
    """The inverse of :func:`parse_quantity`: what to write into YAML."""
    if isinstance(quantity, float | int):
        return quantity
    name = next(name for name, kind in DISTRIBUTIONS.items() if isinstance(quantity, kind))
    return {name: list(astuple(quantity))}


def draw(
    quantity: Quantity, uniforms: Callable[[], np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """Draws a quantity.

    Args:
        quantity: A number, which is repeated, or a distribution.
        uniforms: Gives the uniform draws of that shape; called only for a distribution.
        shape: The shape of the result.

    Returns:
        float64 of that shape.
    """
    if isinstance(quantity, float | int):
        return np.full(shape, float(quantity))
    return quantity.quantile(uniforms().reshape(shape))
