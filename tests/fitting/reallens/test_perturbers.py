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


def detected(monkeypatch, places, improved, ended=lambda fit, *rest: fit):
    """Returns what a search finds whose fits end as given, from a smooth lens of evidence 100, and its stages."""
    x, y = np.array(places).T
    n = len(places)
    scan = perturbers.Scan(
        x, y, np.full(n, 0.01), np.linspace(70, 10, n), (1, n), np.arange(n), 0.1
    )
    problem = SimpleNamespace(mass=Mass())
    problem.with_mass = lambda mass: SimpleNamespace(mass=mass)
    smooth = Found(
        problem=problem, vector=np.zeros(8), source=None, smoothness=None, evidence=100.0, x=0, y=0
    )

    def begun(problem, source, vector, smoothness):
        return Found(x=vector[-2], y=vector[-1], evidence=90.0, source=None)

    monkeypatch.setattr(perturbers, "fit_at", begun)
    monkeypatch.setattr(perturbers, "improve", improved)
    monkeypatch.setattr(perturbers, "_in_full", lambda smooth, twin, fit: fit)
    monkeypatch.setattr(perturbers, "settled", ended)
    monkeypatch.setattr(perturbers, "lengths_of", lambda source: (0.0, 1.0))
    monkeypatch.setattr(perturbers, "covariance", lambda fit: np.eye(3))
    monkeypatch.setattr(perturbers, "marginal_evidence", lambda fit, *rest: fit.evidence)
    stages = Kept()
    return perturbers.detect(smooth, smooth, scan, "pseudo_jaffe", stages), stages.resumed


def test_many_fits_that_ended_at_one_place_do_not_keep_a_better_place_from_being_finished(
    monkeypatch,
):
    places = [(1.0, 0.0), (1.2, 0.0), (0.8, 0.0), (1.0, 0.2), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]

    def improved(fit, steps, tolerance, report=None):
        """The first four end at one place; the fifth, worse at first, is the best in the end."""
        if steps == 6 and fit.x > 0.5:
            return Found(x=1.01 + 0.001 * fit.y, y=0.0, evidence=50.0 + fit.y, source=None)
        if (fit.x, fit.y) == (0.0, 1.0):
            return Found(x=0.0, y=1.0, evidence=60.0 if steps == 6 else -40.0, source=None)
        return fit

    found, stages = detected(monkeypatch, places, improved)
    assert (found.fit.x, found.fit.y) == (0.0, 1.0)
    assert found.delta_evidence == pytest.approx(140.0)
    better = [f"perturber_better_{k}" for k in (1, 2, 3)]
    assert sorted(stages)[-4:] == ["perturber_best_1", *better]  # the others are far worse
    ended = [(round(x), round(y)) for x, y, *_ in found.others]
    assert sorted(ended) == [(-1, 0), (0, -1), (0, 1), (1, 0)]


def test_what_is_little_worse_before_it_is_finished_may_be_the_best_in_the_end(monkeypatch):
    places = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]
    before = {1: 50.0, 0: 69.0, -1: 71.0}  # of these the second is within 20 of the finished best
    after = {1: 50.0, 0: 20.0, -1: -500.0}

    def improved(fit, *rest):
        return Found(x=fit.x, y=fit.y, evidence=before[round(fit.x)], source=None)

    def ended(fit, *rest):
        return Found(x=fit.x, y=fit.y, evidence=after[round(fit.x)], source=None)

    found, stages = detected(monkeypatch, places, improved, ended)
    assert (found.fit.x, found.fit.y) == (0.0, 1.0)
    finished = {name for name in stages if "best" in name or "next" in name}
    assert finished == {"perturber_best_1", "perturber_next_1"}
    assert [gain for *_, gain in found.others] == [80.0, 50.0, 29.0]
