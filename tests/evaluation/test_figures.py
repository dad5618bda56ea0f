"""Figures say what they show: no line through single images, bars beside maps, words on axes."""

from pathlib import Path

import numpy as np
import pytest

from haloformer.evaluation import figures
from haloformer.evaluation.report import to_markdown
from haloformer.explanation import pictures
from haloformer.explanation.explained import Map
from haloformer.reporting.images import image_grid
from haloformer.reporting.learning import learning_curves
from haloformer.reporting.style import save

pytestmark = pytest.mark.usefixtures("opened_at_once")


def bin_of(n, confidence, value):
    accuracy = {"value": value, "low": max(0, value - 0.1), "high": min(1, value + 0.1)}
    return {"n": n, "confidence": confidence, "accuracy": accuracy}


def test_no_line_of_the_reliability_leads_to_a_bin_of_one_image():
    bins = [bin_of(9, 0.5, 0.4), bin_of(1, 0.6, 1.0), bin_of(8, 0.7, 0.7), bin_of(1, 0.8, 0.0)]
    axes = figures.reliability({"a": bins}).axes[0]
    lines = [
        line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 2
    ]
    joined = np.concatenate([line.get_xdata() for line in lines])
    assert set(joined[np.isfinite(joined)]) == {0.5, 0.7}
    single = [
        line for line in axes.lines if line.get_linestyle() == "None" and line.get_marker() == "o"
    ]
    assert [list(line.get_xdata()) for line in single] == [[0.6, 0.8]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_on_a_full_disk_says_so(tmp_path, kind):
    (tmp_path / f"x.{kind}").symlink_to("/dev/full")
    figure = figures.reliability({"a": [bin_of(9, 0.5, 0.4)]})
    with pytest.raises(OSError, match="No space left"):
        save(figure, tmp_path / "x")


def bars_of(figure):
    return [axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"]


def test_every_image_has_a_bar():
    images = np.random.default_rng(0).random((4, 1, 8, 8))
    assert bars_of(image_grid(images, list("abcd"), 0.1)) == 4 * ["Pixel value"]


def test_every_map_of_an_explanation_has_a_bar():
    values = np.random.default_rng(0).random((8, 8))
    found = [
        Map("attention", "blocks.0", "global", None),
        Map("depth", "", "", None),
    ]
    one = pictures.Shown(
        values, values, [(each, values) for each in found], values > -1, 0.1, values
    )
    assert bars_of(pictures.overview(one)) == [
        "pixel value",
        "(image − lens) / noise",
        "|with − without| [counts/s]",
        "relative strength",
        "blocks",
    ]


def test_axes_of_learning_curves_have_words():
    log = {
        name: (np.arange(3.0), np.ones(3)) for name in ("train_loss", "val_macro_auc", "val_mae_a")
    }
    labels = [axes.get_ylabel() for axes in learning_curves(log).axes]
    assert all(labels)
    assert len(set(labels)) == 3


@pytest.mark.parametrize(("auc", "mark"), [(1.0, "*"), (0.98, "")])
def test_the_table_marks_an_interval_of_another_method(auc, mark, measured):
    measured["per_class"]["axion"]["auc"] = {"value": auc, "low": 0.9, "high": 1.0}
    (row,) = [
        line for line in to_markdown(measured).splitlines() if line.startswith("| axion | 20")
    ]
    assert row.split("|")[3].replace("\\", "").strip().endswith(f"){mark}")


@pytest.fixture
def measured(run, dataset, undrawn):
    from haloformer.evaluation import evaluate

    return evaluate(str(run), str(dataset), device="cpu")


def test_a_class_without_images_has_no_shares():
    axes = figures.confusion(np.array([[0, 0], [1, 3]]), ["axion", "cdm"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0\n–", "0\n–", "1\n25.0 %", "3\n75.0 %"]
