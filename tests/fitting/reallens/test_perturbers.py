"""The search for a perturber: which fits are finished."""

from types import SimpleNamespace

import numpy as np
import pytest

from haloformer.fitting.reallens import perturbers
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.stages import Stages


class Found(SimpleNamespace):
    """As much of a fit as the search looks at."""

    def value(self, name):
        if name == "theta_E":
            return 1.0
        return {"perturber_x": self.x, "perturber_y": self.y, "perturber_m": 0.01}[name]


class Kept(Stages):
    def fit(self, name, problem, make):
        self.resumed.append(name)
        return make()


def test_many_fits_that_ended_at_one_place_do_not_keep_a_better_place_from_being_finished(
    monkeypatch,
):
    places = [(1.0, 0.0), (1.2, 0.0), (0.8, 0.0), (1.0, 0.2), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]
    x, y = np.array(places).T
    scan = perturbers.Scan(
        x, y, np.full(7, 0.01), np.linspace(70, 10, 7), (1, 7), np.arange(7), 0.1
    )
    problem = SimpleNamespace(mass=Mass())
    problem.with_mass = lambda mass: SimpleNamespace(mass=mass)
    smooth = Found(
        problem=problem, vector=np.zeros(8), source=None, smoothness=None, evidence=100.0, x=0, y=0
    )

    def begun(problem, source, vector, smoothness):
        return Found(x=vector[-2], y=vector[-1], evidence=90.0, source=None)

    def improved(fit, steps, tolerance, report=None):
        """The first four end at one place; the fifth, worse at first, is the best in the end."""
        if steps == 6 and fit.x > 0.5:
            return Found(x=1.01 + 0.001 * fit.y, y=0.0, evidence=50.0 + fit.y, source=None)
        if (fit.x, fit.y) == (0.0, 1.0):
            return Found(x=0.0, y=1.0, evidence=60.0 if steps == 6 else -40.0, source=None)
        return fit

    monkeypatch.setattr(perturbers, "_PLACES", 10)
    monkeypatch.setattr(perturbers, "fit_at", begun)
    monkeypatch.setattr(perturbers, "improve", improved)
    monkeypatch.setattr(perturbers, "_in_full", lambda smooth, twin, fit: fit)
    monkeypatch.setattr(perturbers, "settled", lambda fit, *rest: fit)
    monkeypatch.setattr(perturbers, "lengths_of", lambda source: (0.0, 1.0))
    monkeypatch.setattr(perturbers, "covariance", lambda fit: np.eye(3))
    monkeypatch.setattr(perturbers, "marginal_evidence", lambda fit, *rest: fit.evidence)
    stages = Kept()
    found = perturbers.detect(smooth, smooth, scan, "pseudo_jaffe", stages)
    assert (found.fit.x, found.fit.y) == (0.0, 1.0)
    assert found.delta_evidence == pytest.approx(140.0)
    better = [f"perturber_better_{k}" for k in (1, 2, 3)]
    assert sorted(stages.resumed)[-4:] == ["perturber_best_1", *better]  # the others are far worse
    ended = [(round(x), round(y)) for x, y, *_ in found.others]
    assert sorted(ended) == [(-1, 0), (0, -1), (0, 1), (1, 0)]
