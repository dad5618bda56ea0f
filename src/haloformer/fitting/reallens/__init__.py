"""The fit of a real lens: mass, lens light and a pixelised source solved exactly, and perturbers beside."""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
