"""The numbers of a survey: constants, or distributions drawn by inverting their cumulative function.

In YAML a distribution is a mapping with one key: ``{uniform: [-0.35, 0.35]}``, ``{log_uniform: [1.0e3, 3.2e3]}``,
``{power_law: [1.0e6, 1.0e10, -0.9]}``, ``{normal: [0.0, 0.1]}``.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from scipy import special

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name


@dataclass(frozen=True)
class Uniform:
    """Uniform between ``low`` and ``high``."""

    low: float
    high: float

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm between ``low`` and ``high``, both positive."""

    low: float
    high: float

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        return self.low * (self.high / self.low) ** u


@dataclass(frozen=True)
class PowerLaw:
    """dN/dx ∝ x^slope between ``low`` and ``high``, both positive; ``slope`` ≠ −1 (that is :class:`LogUniform`)."""

    low: float
    high: float
    slope: float

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        p = 1.0 + self.slope
        return (self.low**p + u * (self.high**p - self.low**p)) ** (1.0 / p)


@dataclass(frozen=True)
class Normal:
    """Gaussian with ``mean`` and standard deviation ``sigma``."""

    mean: float
    sigma: float

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """The value below which a share ``u`` of the draws lies."""
        return self.mean + self.sigma * special.ndtri(u)


Distribution = Uniform | LogUniform | PowerLaw | Normal
Quantity = float | Distribution

DISTRIBUTIONS: dict[str, type] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "power_law": PowerLaw,
    "normal": Normal,
}


def parse_quantity(value: Any, field: str) -> Quantity:
    """Reads a number or a distribution as written in YAML.

    Args:
        value: A number, or a mapping such as ``{"uniform": [0, 1]}``.
        field: Where it stands, for the error message.

    Raises:
        InputError: It is neither, or its limits make no sense.
    """
    if isinstance(value, Uniform | LogUniform | PowerLaw | Normal):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((name, arguments),) = value.items()
        if name not in DISTRIBUTIONS:
            raise unknown_name(f"distribution in {field}", str(name), DISTRIBUTIONS)
        kind = DISTRIBUTIONS[name]
        wanted = len(fields(kind))
        if not isinstance(arguments, list | tuple) or len(arguments) != wanted:
            raise InputError(f"{field}: {name} takes a list of {wanted} numbers, not {arguments!r}")
        distribution: Distribution = kind(*(_number(a, field) for a in arguments))
        _check(distribution, field)
        return distribution
    return _number(value, field)


def describe_quantity(quantity: Quantity) -> Any:
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


def _number(value: Any, field: str) -> float:
    # YAML reads 1e6 (no dot) as text; a user means the number.
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(
            f"{field}: expected a number or a distribution such as {{uniform: [0, 1]}}, not {value!r}"
        )
    return number


def _check(distribution: Distribution, field: str) -> None:
    if isinstance(distribution, Normal):
        if distribution.sigma < 0:
            raise InputError(
                f"{field}: the standard deviation of normal must not be negative, not {distribution.sigma}"
            )
        return
    if distribution.low > distribution.high:
        raise InputError(
            f"{field}: the lower limit {distribution.low} lies above the upper limit {distribution.high}"
        )
    if not isinstance(distribution, Uniform) and distribution.low <= 0:
        raise InputError(f"{field}: the lower limit must be positive, not {distribution.low}")
    if isinstance(distribution, PowerLaw) and distribution.slope == -1:
        raise InputError(f"{field}: a power law of slope -1 is written log_uniform")
