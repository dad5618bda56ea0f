"""Measured values with their confidence intervals, and how they are written."""

import math
from dataclasses import dataclass

from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A measured value and its confidence interval; NaN if the data do not determine it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A difference between two models on the same images, its interval, and the p-value of no difference."""

    p: float


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns a proportion with Wilson's score interval; NaN without trials."""
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = successes / trials
    found = binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    # Rounding must not put the value outside its interval.
    return Interval(share, min(share, float(found.low)), max(share, float(found.high)))


def format_value(value: float, digits: int = 4) -> str:
    """Returns the value rounded, but never up to a perfect 1: 0.99996 stays 0.99996."""
    if not math.isfinite(value):
        return "–"
    while value < 1 and float(f"{value:.{digits}f}") == 1 and digits < 12:
        digits += 1
    return f"{value:.{digits}f}"


def format_interval(interval: Interval, digits: int = 4) -> str:
    """Returns ``0.9912 (0.9880–0.9935)``."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return format_value(interval.value, digits)
    bounds = f"{format_value(interval.low, digits)}–{format_value(interval.high, digits)}"
    return f"{format_value(interval.value, digits)} ({bounds})"


def interval_text(interval: Interval, confidence: float, digits: int = 4) -> str:
    """Returns ``95 % interval 0.9880–0.9935``."""
    if not math.isfinite(interval.low):
        return "no interval: too few images"
    bounds = f"{format_value(interval.low, digits)}–{format_value(interval.high, digits)}"
    return f"{percent(confidence)} interval {bounds}"


def signed_interval(interval: Interval) -> str:
    """Returns ``−0.012 (−0.020 to −0.004)``, with a real minus sign; the value alone where there is no interval."""
    value, low, high = (
        format_value(x, 3).replace("-", "−") for x in (interval.value, interval.low, interval.high)
    )
    if "–" in (low, high):
        return value
    return f"{value} ({low} to {high})" if interval.low < 0 else f"{value} ({low}–{high})"


def p_in_words(p: float) -> str:
    """Returns a p-value as ``0.031`` or ``< 0.0001``, a dash where there is none."""
    if not math.isfinite(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def percent_interval(interval: Interval) -> str:
    """Returns ``98.2 % (97.1–98.9 %)``."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f}–{100 * interval.high:.1f} %)"


def percent(share: float) -> str:
    """Returns a share as ``95 %``."""
    return f"{100 * share:g} %"
