"""The search for a perturber: which fits are finished."""

from types import SimpleNamespace

import numpy as np
import pytest

from haloformer.fitting.reallens import perturbers
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.searches import Search, stiff
from haloformer.fitting.reallens.stages import Stages


class Found(SimpleNamespace):
    """As much of a fit as the search looks at."""

    source = smoothness = None

    def value(self, name):
        if name == "theta_E":
            return 1.0
        return {"perturber_x": self.x, "perturber_y": self.y, "perturber_m": 0.01}[name]


class Kept(Stages):
    def fit(self, name, problem, make):
        self.resumed.append(name)
        return make()


def detected(
    monkeypatch,
    places,
    improved,
    ended=lambda fit, *rest: fit,
    beside=lambda fit: [(fit.x, fit.y)] * 2,
):
    """Returns what a search finds whose fits end as given, from a smooth lens of evidence 100, and its stages.

    Args:
        places: x and y of its starts.
        improved: Does what ``improve`` does.
        ended: Does what ``settled`` does.
        beside: Returns the places beside a fit.
    """
    x, y = np.array(places).T
    n = len(places)
    scan = perturbers.Scan(
        x, y, np.full(n, 0.01), np.linspace(70, 10, n), (1, n), np.arange(n), 0.5
    )
    problem = SimpleNamespace(mass=Mass())
    problem.with_mass = lambda mass: SimpleNamespace(mass=mass)
    smooth = Found(problem=problem, vector=np.zeros(8), evidence=100.0, x=0, y=0)

    def begun(problem, source, vector, smoothness):
        return Found(x=vector[-2], y=vector[-1], evidence=90.0)

    monkeypatch.setattr(perturbers, "fit_at", begun)
    monkeypatch.setattr(perturbers, "improve", improved)
    monkeypatch.setattr(perturbers, "settled", ended)
    monkeypatch.setattr(perturbers, "_beside", lambda fit, theta_E: beside(fit))
    monkeypatch.setattr(perturbers, "lengths_of", lambda source: (0.0, 1.0))
    monkeypatch.setattr(perturbers, "covariance", lambda fit: np.eye(3))
    monkeypatch.setattr(perturbers, "marginal_evidence", lambda fit, *rest: fit.evidence)
    stages = Kept()
    begin = perturbers.best_places(scan, 1.0, 10)
    search = Search(smooth, begin, 3, lambda fit, problem: fit)
    found = perturbers.detect(smooth, [search], scan, "pseudo_jaffe", stages)
    return found, stages.resumed


def test_many_fits_that_ended_at_one_place_do_not_keep_a_better_place_from_being_finished(
    monkeypatch,
):
    places = [(1.0, 0.0), (1.2, 0.0), (0.8, 0.0), (1.0, 0.2), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]

    def improved(fit, steps, tolerance, report=None):
        """The first four end at one place; the fifth, worse at first, is the best in the end."""
        if steps == 6 and fit.x > 0.5:
            return Found(x=1.01 + 0.001 * fit.y, y=0.0, evidence=50.0 + fit.y)
        if (fit.x, fit.y) == (0.0, 1.0):
            return Found(x=0.0, y=1.0, evidence=60.0 if steps == 6 else -40.0)
        return fit

    found, stages = detected(monkeypatch, places, improved)
    assert (found.fit.x, found.fit.y) == (0.0, 1.0)
    assert found.delta_evidence == pytest.approx(140.0)
    finished = {name for name in stages if "best" in name or "next" in name}
    assert finished == {"perturber_best_1"}  # the others are far worse
    assert {name for name in stages if "better" in name} == {
        f"perturber_better_{k}" for k in (1, 2, 3)
    }
    ended = [(round(x), round(y)) for x, y, *_ in found.others]
    assert sorted(ended) == [(-1, 0), (0, -1), (0, 1), (1, 0)]


def test_what_is_little_worse_before_it_is_finished_may_be_the_best_in_the_end(monkeypatch):
    places = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]
    before = {1: 50.0, 0: 69.0, -1: 71.0}  # of these the second is within 20 of the finished best
    after = {1: 50.0, 0: 20.0, -1: -500.0}

    def improved(fit, *rest):
        return Found(x=fit.x, y=fit.y, evidence=before[round(fit.x)])

    def ended(fit, *rest):
        return Found(x=fit.x, y=fit.y, evidence=after[round(fit.x)])

    found, stages = detected(monkeypatch, places, improved, ended)
    assert (found.fit.x, found.fit.y) == (0.0, 1.0)
    finished = {name for name in stages if "best" in name or "next" in name}
    assert finished == {"perturber_best_1", "perturber_next_1"}
    assert [gain for *_, gain in found.others] == [80.0, 50.0, 29.0]


def test_what_leaves_the_places_that_were_scanned_for_the_middle_of_the_lens_is_no_perturber(
    monkeypatch,
):
    places = [(2.0, 0.0), (0.0, 2.0)]

    def improved(fit, *rest):
        """The first takes the lens's mass over, which explains much."""
        return Found(x=0.1, y=0.0, evidence=-500.0) if fit.x > 0.5 else fit

    found, stages = detected(monkeypatch, places, improved)
    assert (found.fit.x, found.fit.y) == (0.0, 2.0)
    assert found.delta_evidence == pytest.approx(10.0)
    assert "perturber_better_2" not in stages
    assert detected(monkeypatch, places[:1], improved)[0] is None
    at_last = detected(monkeypatch, places[:1], lambda fit, *rest: fit, improved)
    assert at_last[0] is None


def test_a_better_place_beside_the_one_where_fits_end_is_found(monkeypatch):
    """The evidence falls towards x = 0.3, where no fit comes by itself; two places beside each fit are tried."""

    def improved(fit, *rest):
        return Found(x=fit.x, y=fit.y, evidence=50.0 + 100 * abs(fit.x - 0.3))

    def beside(fit):
        return [(fit.x + step, fit.y) for step in (-0.1, 0.1)]

    found, stages = detected(monkeypatch, [(0.5, 0.0), (0.9, 0.0)], improved, beside=beside)
    assert found.fit.x == pytest.approx(0.3)
    assert found.delta_evidence == pytest.approx(50.0)
    tried = {name for name in stages if "beside" in name}
    assert tried == {f"perturber_beside_{hop}_{k}" for hop in (1, 2, 3) for k in (1, 2)}


def test_places_beside_a_perturber_are_around_it_and_the_best_comes_first(monkeypatch):
    mass = perturbers.with_perturber(Mass(), "pseudo_jaffe")
    own = [mass.names.index(f"perturber_{k}") for k in "xy"]
    vector = mass.expected()[0].copy()
    vector[[mass.names.index("perturber_m"), *own]] = 0.01, 0.5, -1.0

    def solved(problem, source, vector, smoothness):
        return SimpleNamespace(vector=vector, evidence=float(vector[own[0]]))

    monkeypatch.setattr(perturbers, "fit_at", solved)
    problem = SimpleNamespace(mass=mass)
    fit = SimpleNamespace(problem=problem, vector=vector, source=None, smoothness=None)
    found = perturbers._beside(fit, 1.5)
    away = np.array(found) - vector
    np.testing.assert_allclose(np.hypot(*away[:, own].T), 0.12 * 1.5)
    assert not np.delete(away, own, axis=1).any()
    np.testing.assert_allclose(away.sum(axis=0), 0, atol=1e-12)  # all around it
    np.testing.assert_allclose(away[0, own], [-0.18, 0], atol=1e-12)


def searched(monkeypatch, ended, smooth_again=100.0):
    """Returns what two searches find that begin at x = 1 and x = −1, and its stages.

    Args:
        ended: x → the evidence of a fit that begins there, and its source.
        smooth_again: Evidence of the smooth lens that begins where the best fit ended.
    """
    problem = SimpleNamespace(mass=Mass())
    problem.with_mass = lambda mass: SimpleNamespace(mass=mass)
    smooth = Found(problem=problem, vector=np.zeros(8), evidence=100.0, x=0, y=0, source="its own")
    scan = perturbers.Scan(
        np.array([1.0, -1.0]), np.zeros(2), np.full(2, 0.01), np.ones(2), (1, 2), np.arange(2), 0.1
    )

    def begun(problem, source, vector, smoothness):
        if "perturber_x" not in problem.mass.names:
            return Found(evidence=smooth_again, vector=vector, source=source)
        x = vector[-2]
        evidence, source = ended[round(x)]
        return Found(
            x=x,
            y=0.0,
            evidence=evidence,
            source=source,
            vector=np.append(np.zeros(8), [0.01, x, 0]),
        )

    monkeypatch.setattr(perturbers, "fit_at", begun)
    monkeypatch.setattr(perturbers, "improve", lambda fit, *rest: fit)
    monkeypatch.setattr(perturbers, "settled", lambda fit, *rest: fit)
    monkeypatch.setattr(perturbers, "_beside", lambda fit, theta_E: [fit.vector] * 2)
    monkeypatch.setattr(perturbers, "lengths_of", lambda source: (0.0, 1.0))
    monkeypatch.setattr(perturbers, "covariance", lambda fit: np.eye(3))
    monkeypatch.setattr(perturbers, "marginal_evidence", lambda fit, *rest: fit.evidence)
    stages = Kept()
    searches = [Search(smooth, [(x, 0.0, 0.01)], 1, lambda fit, problem: fit) for x in (1.0, -1.0)]
    return perturbers.detect(smooth, searches, scan, "pseudo_jaffe", stages), stages.resumed


def test_the_search_from_a_stiff_lens_counts_though_its_fits_are_worse_at_first(monkeypatch):
    found, stages = searched(monkeypatch, {1: (90.0, "its own"), -1: (40.0, "its own")})
    assert found.fit.x == -1.0
    assert found.delta_evidence == pytest.approx(60.0)
    assert "without" not in stages


@pytest.mark.parametrize(("again", "smooth", "gain"), [(55.0, 55.0, 15.0), (130.0, 100.0, 60.0)])
def test_what_a_better_grid_or_lens_gains_without_a_perturber_is_not_its_gain(
    monkeypatch, again, smooth, gain
):
    found, stages = searched(monkeypatch, {1: (90.0, "its own"), -1: (40.0, "another")}, again)
    assert "without" in stages
    assert found.smooth.evidence == smooth
    assert found.delta_evidence == found.delta_marginal == pytest.approx(gain)


@pytest.mark.parametrize("light", [True, False])
def test_a_stiff_lens_is_hardly_unlike_what_is_expected_where_something_is(light):
    ready = SimpleNamespace(light=SimpleNamespace(components=[1] if light else []))
    usual = Mass(multipoles=True)
    strict = stiff(usual, ready)
    free = {"theta_E"} if light else {"theta_E", "x", "y"}
    for name, prior in usual.priors.items():
        share = 1.0 if name in free or name.startswith("perturber_") else 0.1
        assert strict.priors[name].sd == pytest.approx(share * prior.sd), name
        assert strict.priors[name].mean == prior.mean
    assert strict.bounds()[0] == pytest.approx(usual.bounds()[0])


@pytest.mark.parametrize(("even", "found"), [(60.0, 60.0), (90.0, 80.0)])
def test_multipoles_go_on_from_the_more_probable_of_two_fits(monkeypatch, even, found):
    problem = SimpleNamespace(mass=Mass())
    problem.with_mass = lambda mass: SimpleNamespace(mass=mass)
    smooth, twin = (
        Found(problem=problem, vector=np.zeros(8), source=name, evidence=100.0)
        for name in ("its own", "even")
    )

    def begun(problem, source, vector, smoothness):
        assert len(vector) == len(problem.mass.names) == 14
        return Found(source=source, evidence=80.0)

    monkeypatch.setattr(perturbers, "fit_at", begun)
    monkeypatch.setattr(perturbers, "on_grid_of", lambda *rest: Found(source="own", evidence=even))
    monkeypatch.setattr(perturbers, "improve", lambda fit, *rest: fit)
    monkeypatch.setattr(perturbers, "settled", lambda fit, *rest: fit)
    monkeypatch.setattr(perturbers, "lengths_of", lambda source: (0.0, 1.0))
    assert perturbers.with_multipoles(smooth, twin).evidence == found
