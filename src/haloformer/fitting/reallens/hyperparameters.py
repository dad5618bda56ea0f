"""The source's hyper-parameters of largest evidence, for a given mass."""

from dataclasses import astuple

import numpy as np
from scipy import optimize

from haloformer.fitting.reallens.evidence import Normal, inverse_of, solve
from haloformer.fitting.reallens.operators import Source
from haloformer.fitting.reallens.source_prior import LOGARITHMIC, Smoothness, evidence_slope

_WIDEST = 4.0  # times half of the fine grid, of the source's extent
_FARTHEST = 0.6  # times the same, of the centre from the middle of the grid
_MOST_STRETCH = 1.2  # axis ratios of 0.3, and of 0.18 along a diagonal
_EXTENT = 3  # its number
_POWERS = 0.25, 2.0
_LOUDER = 8.0  # and fainter, of the logarithms of standard deviations, in one search
_FIRST_STEP = 0.1  # of logarithms, and of the envelope's extent
_FLAT = 10.0  # slope by any of these, times the root of the tolerance, that promises too little


def extents_of(source: Source) -> tuple[float, float]:
    """Returns the smallest and the largest extent that a source's fine grid can show, in arcsec."""
    return source.fine.step, _WIDEST * source.fine.half


def best_smoothness(
    normal: Normal,
    source: Source,
    start: Smoothness,
    evidence_there: float,
    lengths: tuple[float, float],
    tolerance: float = 0.5,
) -> Smoothness:
    """Returns the hyper-parameters of largest evidence for a given mass.

    Args:
        normal: The mass's normal equations.
        source: The source's grids.
        start: Where the search begins; an infinite extent stays.
        evidence_there: −2 ln evidence of the start.
        lengths: The shortest and the longest correlation, in arcsec.
        tolerance: In −2 ln evidence.
    """
    free = len(start.free)
    logs = [k for k, name in enumerate(start.free) if name in LOGARITHMIC]
    far, stretch = _FARTHEST * source.fine.half, _MOST_STRETCH
    loud, faint = (
        (np.log(each) - _LOUDER, np.log(each) + _LOUDER) for each in (start.amplitude, start.faint)
    )
    bounds = [loud, np.log(lengths), faint, np.log(extents_of(source))]
    bounds += [(-far, far)] * 2 + [(-stretch, stretch)] * 2 + [np.log(_POWERS)]
    low, high = np.array(bounds[:free]).T
    unit = np.full(free, _FIRST_STEP)
    unit[4:6] *= min(start.extent, source.fine.half)  # of x and y

    def smoothness(at: np.ndarray) -> Smoothness:
        values = np.clip(at * unit, low, high)
        values[logs] = np.exp(values[logs])
        if not start.even:
            values[_EXTENT] = np.clip(values[_EXTENT], *extents_of(source))  # exp(log) rounds
        return Smoothness(*(float(each) for each in values))

    def evidence(at: np.ndarray) -> tuple[float, np.ndarray]:
        here = smoothness(at)
        solution = solve(normal, source, here)
        slopes = evidence_slope(source, here, solution.whitened, inverse_of(solution))
        return solution.evidence, slopes * unit

    begin = np.array(astuple(start)[:free])
    begin[logs] = np.log(begin[logs])
    begin = np.clip(begin, low, high) / unit
    found = optimize.minimize(
        evidence,
        begin,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low / unit, high / unit)),
        options={
            "ftol": tolerance / 5 / max(abs(evidence_there), 1.0),
            "gtol": _FLAT * _FIRST_STEP * tolerance**0.5,
            "maxfun": 15 if tolerance >= 2 else 25,
        },
    )
    return smoothness(found.x)
