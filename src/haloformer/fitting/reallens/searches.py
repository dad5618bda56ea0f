"""Where fits with a perturber begin: on lenses and sources that make up for it less than the best smooth ones do."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from haloformer.fitting.reallens.evidence import Problem
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.optimise import (
    Fit,
    Report,
    fit_at,
    improve,
    smoothed,
    with_smoothness,
)
from haloformer.fitting.reallens.smooth import Prepared
from haloformer.fitting.reallens.source_prior import Smoothness
from haloformer.fitting.reallens.start import lengths_of, traced_source

Place = tuple[float, float, float]
"""x, y and m of a perturber."""

_STEP = 1.0  # pixels between the coefficients of the source while places are looked for
_STIFF_STEP = 3.0  # the same beside a stiff lens: a finer source makes up for a perturber, too
_STIFF = 0.1  # of what is expected of a lens: how far a stiff one strays
_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Search:
    """A lens from which a perturber is looked for.

    Attributes:
        twin: Fit on which fits with a perturber begin, on few coefficients of the source.
        places: From which they do.
        most: Places apart, at most, from which they go on.
        in_full: Puts one of them, as the second argument has it, on all coefficients, with what is expected of any lens.
    """

    twin: Fit
    places: list[Place]
    most: int
    in_full: Callable[[Fit, Problem], Fit]


def even_twin(smooth: Fit, ready: Prepared, report: Report | None = None) -> Fit:
    """Fits a lens again with a blurred source that varies as much everywhere, on which fits with more freedom begin.

    Where the source is expected to be bright in one place alone, a lens without a perturber makes it too compact, and then every change of the lens
    costs so much that fits stay near where they begin. To this source they come from farther away, and steps are faster.

    Args:
        smooth: Best fit.
        ready: Its image.
        report: Called after each step.
    """
    return _on_even_source(smooth, smooth.problem, smooth.vector, ready, _STEP, 0.3, report)


def stiff_twin(smooth: Fit, ready: Prepared, report: Report | None = None) -> Fit:
    """Fits a lens again that is hardly unlike what is expected of any, with a source of few coefficients.

    What a massive perturber does to an arc, an unusual lens and a detailed source can do together, so nearly that fits do not come back from them, and
    a scan does not show where it is. What a usual lens and a smooth source leave in the image shows it.

    Args:
        smooth: Best fit, of which the source's brightness, the Einstein radius and, where no light tells it, the centre are used.
        ready: Its image.
        report: Called after each step.
    """
    mass = stiff(smooth.problem.mass, ready)
    problem, vector = smooth.problem.with_mass(mass), mass.expected()[0].copy()
    for name in _free(ready):
        vector[mass.names.index(name)] = smooth.value(name)
    for _ in range(_ROUNDS):  # each on grids about where the light comes from
        fit = _on_even_source(smooth, problem, vector, ready, _STIFF_STEP, 1.0, report)
        vector = fit.vector
    return fit


def stiff(mass: Mass, ready: Prepared) -> Mass:
    """Returns a mass model that strays from what is expected of a lens a tenth as far.

    The Einstein radius is as free as before, and so is the centre where there is no light of the lens, which tells it.
    """
    held = [name for name in mass.priors if name not in _free(ready)]
    priors = {
        name: dataclasses.replace(mass.priors[name], sd=_STIFF * mass.priors[name].sd)
        for name in held
        if not name.startswith("perturber_")
    }
    return dataclasses.replace(mass, priors={**mass.priors, **priors})


def _free(ready: Prepared) -> tuple[str, ...]:
    return ("theta_E",) if ready.light.components else ("theta_E", "x", "y")


def _on_even_source(
    smooth: Fit,
    problem: Problem,
    vector: np.ndarray,
    ready: Prepared,
    step: float,
    length: float,
    report: Report | None,
) -> Fit:
    """Fits a lens from parameters (K,) on a source as bright as that of a smooth fit, which varies as much everywhere.

    Args:
        smooth: That fit.
        problem: With the lens's mass model.
        vector: Where it begins.
        ready: The image.
        step: Pixels between the coefficients.
        length: Of correlation at first, in halves of the grid.
        report: Called after each step.
    """
    distance = step * ready.seen.pixel_scale
    source = traced_source(problem.mass, vector, ready.arcs, ready.seen, distance, falling=False)
    bright = smooth.smoothness.amplitude
    even = Smoothness(bright, length * source.fine.half, 0.1 * bright)
    begun = fit_at(problem, source, vector, even)
    return improve(smoothed(begun, lengths_of(source), 2.0), 6, 2.0, report)


def on_grid_of(smooth: Fit, twin: Fit, fit: Fit, problem: Problem) -> Fit:
    """Returns a fit that began at the twin of a smooth one on all coefficients of the source: what it changed of the lens, it changes there."""
    vector = fit.vector.copy()
    vector[: len(smooth.vector)] += smooth.vector - twin.vector[: len(smooth.vector)]
    vector = np.clip(vector, *problem.mass.bounds())
    return fit_at(problem, smooth.source, vector, smooth.smoothness)


def on_own_grid(smooth: Fit, ready: Prepared, fit: Fit, problem: Problem) -> Fit:
    """Returns a fit on a grid as fine as that of a smooth one about where its own light comes from.

    Its source is brightest where that of the smooth one is, or there, whichever is more probable.
    """
    step, mass = smooth.source.fine.step, problem.mass
    source = traced_source(
        mass, fit.vector, ready.arcs, ready.seen, step, None, None, ready.falling
    )
    as_smooth = smooth.smoothness.on(smooth.source.fine, source.fine)
    begun = fit_at(problem, source, fit.vector, as_smooth)
    centred = with_smoothness(begun, dataclasses.replace(as_smooth, x=0.0, y=0.0))
    better = min(begun, centred, key=lambda each: each.evidence)
    return smoothed(better, lengths_of(source), 3.0)
