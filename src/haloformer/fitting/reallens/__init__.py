"""The fit of a real lens: mass, lens light and a pixelised source solved exactly, and perturbers beside."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.fitting.reallens.masses import Prior
    from haloformer.fitting.reallens.observation import Observation, checked_observation
    from haloformer.fitting.reallens.result import RealLensFit
    from haloformer.fitting.reallens.run import Options, fit, fit_observation

_HOMES = {
    "Observation": "observation",
    "Options": "run",
    "Prior": "masses",
    "RealLensFit": "result",
    "fit": "run",
    "fit_observation": "run",
    "checked_observation": "observation",
}

__all__ = [
    "Observation",
    "Options",
    "Prior",
    "RealLensFit",
    "checked_observation",
    "fit",
    "fit_observation",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
