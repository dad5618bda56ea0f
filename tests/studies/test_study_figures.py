"""Figures of studies: no interval of a single seed is cut off, and axes are words."""

from types import SimpleNamespace

import numpy as np
import pytest

from haloformer.studies import figures, leaderboard_figures

AUCS = {"a": (0.95, 0.90, 0.99), "b": (0.951, 0.80, 0.995), "c": (0.949, 0.92, 0.97)}


def rows(n_seeds, **more):
    return [
        {
            "variant": name, "reference": "a", "n_seeds": n_seeds, "n_images": str(1000 * 10**k),
            "interval": "over test images" if n_seeds == 1 else "over seeds",
            "macro_auc": value, "macro_auc_low": low, "macro_auc_high": high,
            "macro_auc_per_seed": [value + 1e-4 * seed for seed in range(n_seeds)],
            "difference": value - 0.95, "difference_low": value - 0.95 - 0.03, "difference_high": value - 0.95 + 0.04,
            "difference_per_seed": [value - 0.95] * n_seeds,
            **more,
        }
        for k, (name, (value, low, high)) in enumerate(AUCS.items())
    ]  # fmt: skip


def plan(x=None, by=None):
    axes = {"n_images": [row["n_images"] for row in rows(1)], "place": ["here"]}
    choice = SimpleNamespace(x=x, by=by, kind=None)
    return SimpleNamespace(title="t", figure=choice, axes=axes)


def within(limits, values):
    return min(limits) <= min(values) and max(values) <= max(limits)


def test_bars_of_single_seeds_are_whole():
    left, right = figures.bars(plan(), rows(1)).axes
    assert within(left.get_xlim(), [end for ends in AUCS.values() for end in ends])
    assert within(right.get_xlim(), [-0.031, 0.041])


def test_logarithmic_axes_hold_the_intervals_of_single_seeds():
    ends = [1 - end for ends in AUCS.values() for end in ends]
    (axes,) = figures.curves(plan("n_images"), rows(1)).axes
    assert within(axes.get_ylim(), ends)
    panel = figures.bars(plan("variant", "place"), rows(1, place="here")).axes[0]
    assert within(panel.get_xlim(), ends)


def test_far_wider_intervals_over_seeds_do_not_decide_the_axis():
    left = figures.bars(plan(), rows(3)).axes[0]
    assert np.ptp(left.get_xlim()) < 0.02


@pytest.mark.parametrize(
    ("axis", "words"),
    [("n_images", "Number of training images"), ("hidden_size", "Hidden size"), ("model", "Model")],
)
def test_axes_are_words(axis, words):
    assert figures.in_words(axis) == words


def test_a_curve_names_its_axis_in_words():
    (axes,) = figures.curves(plan("n_images"), rows(1)).axes
    assert axes.get_xlabel() == "Number of training images"


def test_legends_of_roc_curves_lie_below_them():
    labels = np.arange(30) % 3
    answers = [(f"net_{k}", labels, np.eye(3)[labels] * k, ("a", "b", "c")) for k in range(1, 4)]
    figure = leaderboard_figures._roc_figure(answers)
    figure.canvas.draw()
    for axes in figure.axes:
        panel, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
        assert 0 <= legend.y0 < legend.y1 < panel.y0
