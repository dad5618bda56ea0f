"""The source's grids: the most probable of some, with the source where it was."""

from types import SimpleNamespace

import pytest

from haloformer.fitting.reallens import smooth
from haloformer.fitting.reallens.operators import SourceGrid
from haloformer.fitting.reallens.source_prior import Smoothness

BRIGHTEST, LIGHT = (0.11, -0.05), (0.3, 0.2)


def chosen(monkeypatch, evidence, source_step=None, extent=0.16):
    """Returns the grid that is chosen by evidence, a function of the middle and the step, the envelope there, and what was tried."""
    tried = []

    def traced(mass, vector, arcs, seen, step, side, middle, falling):
        return SimpleNamespace(fine=SourceGrid(*(middle or LIGHT), 5, step))

    def solved(problem, source, vector, smoothness):
        middle, step = (source.fine.x, source.fine.y), source.fine.step
        tried.append((middle == pytest.approx(BRIGHTEST), round(step, 6)))
        return SimpleNamespace(source=source, smoothness=smoothness, evidence=evidence(*tried[-1]))

    monkeypatch.setattr(smooth, "traced_source", traced)
    monkeypatch.setattr(smooth, "fit_at", solved)
    before = Smoothness(1.0, 0.1, 0.01, extent, x=0.01, y=0.05)
    fit = SimpleNamespace(
        smoothness=before,
        source=SimpleNamespace(fine=SourceGrid(0.1, -0.1, 5, 0.03)),
        problem=SimpleNamespace(mass=None),
        vector=None,
    )
    ready = SimpleNamespace(
        problem=lambda mass: None, seen=SimpleNamespace(pixel_scale=0.1), source_step=source_step,
        arcs=None, falling=True,
    )  # fmt: skip
    found = smooth._about_its_source(ready, fit)
    return found, tried


@pytest.mark.parametrize("brightest", [True, False])
def test_the_grid_lies_about_the_brightest_place_or_the_light_whichever_is_more_probable(
    monkeypatch, brightest
):
    found, tried = chosen(monkeypatch, lambda bright, step: 5.0 if bright == brightest else 9.0)
    assert tried == [(True, 0.04), (False, 0.04), (brightest, 0.02)]
    assert (found.source.fine.x, found.source.fine.y) == pytest.approx(
        BRIGHTEST if brightest else LIGHT
    )
    place = found.smoothness.x + found.source.fine.x, found.smoothness.y + found.source.fine.y
    assert place == pytest.approx(BRIGHTEST)  # the source stays where it was


@pytest.mark.parametrize(("gain", "step"), [(3.0, 0.02), (-3.0, 0.04)])
def test_a_finer_grid_is_taken_where_it_is_more_probable(monkeypatch, gain, step):
    found, _ = chosen(monkeypatch, lambda bright, step: 9.0 - gain * (step < 0.03))
    assert found.source.fine.step == pytest.approx(step)


def test_a_step_that_was_given_and_one_at_its_limit_stay(monkeypatch):
    for given, extent, step in ((0.03, 0.16, 0.03), (None, 0.01, 0.02), (None, 9.0, 0.05)):
        _, tried = chosen(monkeypatch, lambda bright, step: -step, given, extent)
        assert {each for _, each in tried} == {step}


def test_a_source_of_the_same_variance_everywhere_has_a_grid_about_its_light(monkeypatch):
    _, tried = chosen(monkeypatch, lambda bright, step: 0.0, extent=float("inf"))
    assert tried == [(False, 0.05)]
