"""Priors of a lens that is like those of a survey."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.reallens.masses import PRIORS, Prior
from haloformer.simulation.components.epl import EPL
from haloformer.simulation.components.multipoles import Multipoles
from haloformer.simulation.components.shear import Shear
from haloformer.simulation.composed.survey import ComposedSurvey
from haloformer.simulation.distributions import Quantity, draw
from haloformer.simulation.surveys import get_any_survey

_LEAST_SD = 1e-3  # of what a survey holds fixed
_N = 2001


def priors_like(survey: str) -> Mapping[str, Prior]:
    """Returns the priors that a survey draws its lenses from, as normal distributions of the same mean and scatter.

    Args:
        survey: Name of a survey of components, or its YAML file.

    Raises:
        InputError: Its lenses are not of components.
    """
    found = get_any_survey(survey)
    if not isinstance(found, ComposedSurvey):
        raise InputError(
            f"survey '{survey}' is not one of components with an epl lens; take hst, euclid, jwst, or one of your own"
        )
    priors: dict[str, Prior] = {}
    for part in found.lens:
        if isinstance(part, EPL):
            if part.theta_E is not None:
                priors["theta_E"] = _prior("theta_E", part.theta_E)
            for name in ("gamma", "e1", "e2"):
                priors[name] = _prior(name, getattr(part, name))
        elif isinstance(part, Shear) and part.gamma1 is not None and part.gamma2 is not None:
            priors["gamma1"] = _prior("gamma1", part.gamma1)
            priors["gamma2"] = _prior("gamma2", part.gamma2)
        elif isinstance(part, Multipoles):
            names = [field.name for field in dataclasses.fields(part) if field.name[:1] == "a"]
            for name in (name for name in names if name in PRIORS):
                priors[name] = _prior(name, getattr(part, name))
    return priors


def _prior(name: str, quantity: Quantity) -> Prior:
    uniforms = (np.arange(_N) + 0.5) / _N
    values = draw(quantity, lambda: uniforms, (_N,))
    usual = PRIORS[name]
    sd = max(float(values.std()), _LEAST_SD)
    return Prior(float(values.mean()), sd, usual.low, usual.high)
