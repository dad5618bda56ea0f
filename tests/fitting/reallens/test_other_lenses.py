"""Where another lens is nearly as probable as the best, the fit looks at both, and says so: errors hold one only."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from haloformer.fitting.reallens import checked_observation, fit_observation, smooth, start
from haloformer.fitting.reallens.optimise import fit_at
from haloformer.fitting.reallens.run import Options
from small_lens import TRUTH, lens

NAMES = ("theta_E", "gamma", "e1")
OPTIONS = Options(lens_light=False, supersampling=1)


def begun(*values):
    return SimpleNamespace(
        vector=np.array(values), problem=SimpleNamespace(mass=SimpleNamespace(names=NAMES))
    )


def test_starts_that_are_other_lenses_go_on_however_improbable_at_first():
    first, second = begun(1.0, 2.0, 0.1), begun(1.01, 2.0, 0.12)
    slope, other, same = begun(1.0, 2.4, 0.11), begun(1.0, 2.0, -0.1), begun(1.01, 2.3, -0.12)
    assert start._worth_going_on([first, second, slope, other, same]) == [first, second, other]
    assert start._worth_going_on([first]) == [first]


@pytest.fixture
def observed():
    image, given = lens(lens_light=False)
    return checked_observation(image, **given, radius=1.6, name="double")


@pytest.fixture
def another(monkeypatch):
    """Starts of which the second is another lens, by ten of its errors, and fits that end where they begin."""
    found = SimpleNamespace(by=0.0, best=None)

    def two(problem, light, arcs, seen, *rest):
        vector = smooth._vector(problem.mass, TRUTH)
        source = start.traced_source(problem.mass, vector, arcs, seen, 0.05, 18)
        bright, size = float(arcs[2].max()), source.fine.half / 2
        fit = fit_at(problem, source, vector, start.Smoothness(bright, 0.05, 0.05, size))
        found.best = fit
        moved = fit.vector.copy()
        moved[1] += 10 * np.sqrt(smooth.covariance(fit)[1, 1])
        second = dataclasses.replace(fit, vector=moved)
        prior = fit.prior + found.by
        return [fit, dataclasses.replace(second, prior=prior)]

    monkeypatch.setattr(smooth, "coarse_fits", two)
    monkeypatch.setattr(smooth, "refine", lambda ready, coarse, report: coarse)
    return found


def test_another_lens_is_told_with_what_differs(observed, another, tmp_path):
    another.by = 5.0
    fit = fit_observation(observed, OPTIONS)
    (other,) = fit.others
    assert other.delta_evidence == pytest.approx(5.0)
    assert fit.smooth.vector == pytest.approx(another.best.vector)
    (told,) = (words for words in fit.cautions if "another lens" in words)
    assert "nearly as probable (5.0 in −2 ln evidence): gamma" in told
    assert "e1" not in told.split(";")[0]  # which is the same
    content = json.loads((fit.save(tmp_path / "fit") / "fit.json").read_text())
    (kept,) = content["other_lenses"]
    assert kept["parameters"]["gamma"] == pytest.approx(other.parameters["gamma"])
    assert told in content["notes"]


def test_the_better_of_two_lenses_is_the_fit(observed, another):
    another.by = -5.0
    fit = fit_observation(observed, OPTIONS)
    assert fit.smooth.vector[1] != another.best.vector[1]
    assert fit.others[0].parameters["gamma"] == pytest.approx(another.best.vector[1])


def test_a_lens_that_is_much_less_probable_is_not_told(observed, another):
    another.by = smooth.NEARLY + 1
    fit = fit_observation(observed, OPTIONS)
    assert fit.others == ()
    assert not any("another lens" in words for words in fit.cautions)


def test_a_fit_that_goes_on_knows_of_the_other_lens(observed, another, tmp_path, monkeypatch):
    another.by = 5.0
    first = fit_observation(observed, OPTIONS, stages=tmp_path / "stages.json")
    monkeypatch.setattr(smooth, "refine", pytest.fail)
    again = fit_observation(observed, OPTIONS, stages=tmp_path / "stages.json")
    assert again.resumed
    assert again.others == first.others
