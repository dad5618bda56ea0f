"""Evaluation of models that estimate parameters, or tell groups of classes apart: the right images, the right numbers."""

import csv
import json

import numpy as np
import pytest
import torch

from haloformer.cli.evaluate import present
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation import evaluate
from haloformer.simulation import simulate

pytestmark = pytest.mark.usefixtures("opened_at_once")

MASS, SUBHALOS = "log10_m_axion", "log10_m_subhalos"


@pytest.fixture(scope="session")
def released():
    return simulate("model_ii", 60, seed=5)


@pytest.fixture
def stored(released, tmp_path):
    """A function that writes the images, or what is changed of them, as a dataset."""

    def write(name="test.h5", keep=slice(None), class_names=released.class_names, **changes):
        parameters = {
            key: value[keep]
            for key, value in (released.parameters | changes).items()
            if value is not None
        }
        path = tmp_path / name
        write_dataset(
            path,
            released.images[keep],
            released.labels[keep],
            parameters,
            class_names,
            released.attributes,
        )
        return path

    return write


def judged(run, data, out, **options):
    """Returns the result, what metrics.json says, the rows of the predictions, and the page."""
    result = evaluate(str(run), str(data), out=str(out), device="cpu", **options)
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    with (out / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return result, metrics, rows, (out / "report.html").read_text()


def column(rows, name) -> np.ndarray:
    return np.array([float(row[name] or "nan") for row in rows])


# --- regression -------------------------------------------------------------------------------------------------------


def test_regression_is_measured_on_the_images_that_have_the_parameter(
    trained, stored, released, tmp_path, undrawn
):
    result, metrics, rows, page = judged(trained(task="regression"), stored(), tmp_path / "out")
    axions = np.flatnonzero(released.labels.numpy() == 0)
    assert [int(row["index"]) for row in rows] == axions.tolist()
    assert {row["label"] for row in rows} == {"axion"}
    np.testing.assert_allclose(
        column(rows, f"{MASS}_true"), released.parameters[MASS][axions], rtol=1e-6
    )

    measured = metrics["regression"][MASS]
    error = np.abs(column(rows, MASS) - column(rows, f"{MASS}_true"))
    assert measured["mae"]["value"] == pytest.approx(error.mean())
    assert measured["mae"]["low"] < error.mean() < measured["mae"]["high"]
    inside = (column(rows, f"{MASS}_low") <= column(rows, f"{MASS}_true")) & (
        column(rows, f"{MASS}_true") <= column(rows, f"{MASS}_high")
    )
    assert measured["coverage"]["value"] == pytest.approx(inside.mean())
    assert measured["calibration"]["n"] > 9
    assert measured["calibration"]["expected"][0] < 0.9 < measured["calibration"]["expected"][1]
    assert measured["floor"]["pixel"] == pytest.approx(-22.527, abs=1e-3)
    assert measured["published_mae"] == 0.021
    assert (result["n_images"], result["left_out"]) == (20, {"cdm": 20, "no_sub": 20})
    assert (
        "20 images of class cdm, 20 images of class no_sub; there is nothing to estimate in them"
        in page
    )


def test_report_of_a_regression_alone_has_its_figures_and_no_classes(
    trained, stored, tmp_path, unpictured
):
    result, metrics, _, page = judged(trained(task="regression"), stored(), tmp_path / "out")
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {
        "learning",
        *(f"{kind}_{MASS}" for kind in ("predicted", "error", "coverage")),
    }
    text = (tmp_path / "out" / "report.md").read_text()
    for report in (text, page):
        assert "Mean absolute error of log10_m_axion" in report
        assert f"{metrics['regression'][MASS]['mae']['value']:.3f}" in report
        assert "shorter than the camera resolves" in report
        assert "on average over images of class axion" in report
        assert "AUC" not in report
    assert "macro_auc" not in result
    assert all(f'id="figure-{name}"' in page for name in figures)


def test_a_regression_alone_simulates_only_images_that_have_the_parameter(
    trained, tmp_path, undrawn
):
    run = trained(task="regression")
    result, _, rows, _ = judged(run, "model_ii", tmp_path / "out", n=7, seed=3)
    expected = simulate("model_ii", 7, classes=["axion"], seed=3).parameters[MASS]
    np.testing.assert_allclose(column(rows, f"{MASS}_true"), expected, rtol=1e-6)
    assert (result["n_images"], result["left_out"]) == (7, {})


def test_model_of_both_is_measured_in_both_ways(
    trained, stored, released, tmp_path, monkeypatch, unpictured
):
    monkeypatch.setattr(
        "haloformer.evaluation.drawing._draw_classes", lambda *args: {}
    )  # slow, and drawn in other tests
    run = trained(task="both", targets=[MASS, SUBHALOS])
    _, metrics, rows, page = judged(run, stored(), tmp_path / "out")
    assert [row["n"] for row in metrics["per_class"].values()] == [20, 20, 20]
    assert [metrics["regression"][name]["n"] for name in (MASS, SUBHALOS)] == [20, 20]
    for name, label in ((MASS, 0), (SUBHALOS, 1)):
        truth = column(rows, f"{name}_true")
        assert (np.isfinite(truth) == (released.labels.numpy() == label)).all()
        assert metrics["regression"][name]["mae"]["value"] == pytest.approx(
            np.nanmean(abs(column(rows, name) - truth))
        )
    assert metrics["regression"][SUBHALOS]["floor"] is None
    assert metrics["regression"][SUBHALOS]["published_mae"] is None
    for what in (
        "macro auc",
        f"mean absolute error of {MASS}",
        f"mean absolute error of {SUBHALOS}",
    ):
        assert what in page.lower()
    assert {f"error_{MASS}", f"error_{SUBHALOS}"} < {
        path.stem for path in (tmp_path / "out" / "figures").iterdir()
    }


def test_images_without_the_parameter_still_tell_how_well_classes_are_told_apart(
    trained, stored, tmp_path, undrawn
):
    run = trained(task="both", targets=[MASS, SUBHALOS])
    with_mass, *_ = judged(run, stored(), tmp_path / "with")
    result, metrics, rows, page = judged(
        run, stored("without.h5", log10_m_axion=None), tmp_path / "without"
    )
    assert result["macro_auc"] == with_mass["macro_auc"]
    assert list(metrics["regression"]) == [SUBHALOS]
    assert {row[f"{MASS}_true"] for row in rows} == {""}
    assert column(rows, MASS) == pytest.approx(
        column(judged(run, stored("again.h5"), tmp_path / "again")[2], MASS)
    )
    assert [text for text in result["warnings"] if MASS in text and "not measured" in text]
    assert "not measured" in page


@pytest.mark.parametrize("loss", ["quantile", "mse"])
def test_other_losses_have_intervals_and_only_those_with_a_sigma_have_pulls(
    trained, stored, tmp_path, unpictured, loss
):
    _, metrics, rows, _ = judged(trained(task="regression", loss=loss), stored(), tmp_path / "out")
    measured = metrics["regression"][MASS]
    assert 0 <= measured["coverage"]["value"] <= 1
    assert (measured["pull_std"]["value"] is None) == (loss == "mse")
    assert (rows[0][f"{MASS}_sigma"] == "") == (loss == "mse")
    assert (tmp_path / "out" / "figures" / f"coverage_{MASS}.png").exists()


def test_published_errors_are_not_compared_with_other_noise_and_intervals_promise_nothing(
    trained, tmp_path, undrawn
):
    result, *_ = judged(
        trained(task="regression"), "model_ii", tmp_path / "out", n=9, noise="instrument"
    )
    assert result["regression"][MASS]["published_mae"] is None
    assert result["regression"][MASS]["floor"]["noise"] == pytest.approx(-22.57, abs=0.02)
    assert any(
        "Calibrated intervals promise nothing for such images" in text
        for text in result["warnings"]
    )


def test_images_of_the_validation_seed_contaminate_a_regression_too(trained, tmp_path, undrawn):
    run = trained(task="regression")
    seed = json.loads((run / "artefact" / "artefact.json").read_text())["training"]["val_seed"]
    result, _, _, page = judged(run, "model_ii", tmp_path / "out", n=5, seed=seed)
    assert result["contaminated"]
    assert "chose the weights" in page


def test_other_names_of_the_class_are_understood(trained, stored, tmp_path, undrawn):
    run = trained(task="regression")
    named, *_ = judged(
        run, stored("named.h5", class_names=("vort", "sphere", "no")), tmp_path / "named"
    )
    expected, *_ = judged(run, stored(), tmp_path / "out")
    assert named["regression"] == expected["regression"]


def test_numbers_given_to_images_of_other_classes_are_not_taken_for_true_values(
    trained, stored, released, tmp_path, undrawn
):
    run = trained(task="regression")
    filled = stored("filled.h5", log10_m_axion=np.nan_to_num(released.parameters[MASS], nan=0.0))
    found, *_ = judged(run, filled, tmp_path / "filled")
    expected, *_ = judged(run, stored(), tmp_path / "out")
    assert found["regression"] == expected["regression"]


def test_file_without_the_parameter_is_refused_by_a_regression_alone(trained, stored, tmp_path):
    path = stored("bare.h5", log10_m_axion=None)
    with pytest.raises(
        InputError, match=r"bare.h5: the images come without the parameter 'log10_m_axion'"
    ):
        evaluate(
            str(trained(task="regression", targets=[MASS])),
            str(path),
            out=str(tmp_path / "out"),
            device="cpu",
        )
    assert not (tmp_path / "out").exists()


def test_data_without_a_true_value_are_refused_by_a_regression_and_named_by_both(
    trained, stored, released, tmp_path, undrawn
):
    path = stored("dark.h5", keep=released.labels.numpy() != 0)
    with pytest.raises(
        InputError, match=r"dark.h5: no image has a true value of log10_m_axion \(of class axion\)"
    ):
        evaluate(
            str(trained(task="regression")), str(path), out=str(tmp_path / "one"), device="cpu"
        )
    result, metrics, *_ = judged(
        trained(task="both", targets=[MASS, SUBHALOS]), path, tmp_path / "two"
    )
    assert list(metrics["regression"]) == [SUBHALOS]
    assert any(f"No image has a true value of {MASS}" in text for text in result["warnings"])


# --- groups of classes ------------------------------------------------------------------------------------------------


def test_grouped_classes_are_tested_as_they_were_learned(
    trained, stored, released, tmp_path, undrawn
):
    result, metrics, rows, page = judged(
        trained(classes="substructure"), stored(), tmp_path / "out"
    )
    assert metrics["class_names"] == ["substructure", "no_sub"]
    assert [row["n"] for row in metrics["per_class"].values()] == [40, 20]
    expected = ["no_sub" if label == 2 else "substructure" for label in released.labels]
    assert [row["label"] for row in rows] == expected
    assert result["left_out"] == {}
    assert "axion → substructure, cdm → substructure, no_sub" in page


def test_data_that_are_grouped_already_give_the_same_result(
    trained, released, stored, tmp_path, undrawn
):
    run = trained(classes="substructure")
    path = tmp_path / "grouped.h5"
    labels = torch.tensor([1, 1, 0])[released.labels]
    write_dataset(
        path, released.images, labels, {}, ("no_sub", "substructure"), released.attributes
    )
    grouped, *_ = judged(run, path, tmp_path / "one")
    expected, *_ = judged(run, stored(), tmp_path / "two")
    assert grouped["macro_auc"] == expected["macro_auc"]


def test_classes_that_a_grouping_leaves_out_are_left_out_and_counted(
    trained, stored, released, tmp_path, undrawn
):
    run = trained(classes="axion_cdm")
    _, metrics, rows, page = judged(run, stored(), tmp_path / "out")
    assert (metrics["n_images"], metrics["left_out"]) == (40, {"no_sub": 20})
    assert [int(row["index"]) for row in rows] == np.flatnonzero(
        released.labels.numpy() != 2
    ).tolist()
    assert "Left out: 20 images of class no_sub" in page
    simulated, *_ = judged(run, "model_ii", tmp_path / "new", n=30)
    assert (simulated["n_images"], simulated["left_out"]) == (30, {})


def test_panel_of_wrong_images_shows_those_that_were_tested(
    trained, stored, released, tmp_path, monkeypatch
):
    shown = []
    monkeypatch.setattr(
        "haloformer.evaluation.drawing.image_grid", lambda images, *_: shown.append(images) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        evaluate(
            str(trained(classes="axion_cdm")),
            str(stored()),
            out=str(tmp_path / "out"),
            device="cpu",
        )
    tested = released.images[released.labels != 2].numpy()
    assert all((tested == image).all(axis=(1, 2, 3)).any() for image in shown[0])


def test_grouping_does_not_excuse_a_missing_class(trained, stored, released, tmp_path):
    path = stored("two.h5", class_names=("axion", "wdm", "no_sub"))
    with pytest.raises(
        InputError, match=r"two.h5: classes are axion, wdm, no_sub, but the model knows axion, cdm"
    ):
        evaluate(
            str(trained(classes="axion_cdm")), str(path), out=str(tmp_path / "out"), device="cpu"
        )


@pytest.mark.parametrize(
    "classes", [[], {"axion": 3}, {"axion": "cdm"}, {"axion": ["axion"], "cdm": "cdm"}]
)
def test_artefact_with_an_impossible_grouping_is_refused(trained, stored, tmp_path, classes):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained(classes="axion_cdm") / "artefact", run)
    artefact = json.loads((run / "artefact.json").read_text())
    (run / "artefact.json").write_text(json.dumps(artefact | {"classes": classes}))
    with pytest.raises(InputError, match="classes must be null"):
        evaluate(str(run), str(stored()), out=str(tmp_path / "out"), device="cpu")


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_model_of_cropped_images_takes_the_whole_ones(trained, stored, tmp_path, undrawn):
    result, _, _, page = judged(
        trained(img_size=32, fit="crop", channels=3), stored(), tmp_path / "out"
    )
    assert result["n_images"] == 60
    assert "3 × 32 × 32 (crop)" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "regression"}, [MASS, "left out"]),
        ({"task": "both", "targets": [MASS]}, ["macro", "accuracy", MASS]),
    ],
)
def test_command_line_prints_what_was_measured(
    trained, stored, tmp_path, undrawn, capsys, options, words
):
    result, *_ = judged(trained(**options), stored(), tmp_path / "out")
    present(result)
    printed = capsys.readouterr().out
    assert f"{result['regression'][MASS]['mae']['value']:.4f}" in printed
    assert all(word in printed for word in [*words, "nominal 0.9", "report.html"])


def test_survey_definition_that_lies_is_not_simulated(trained, released, tmp_path, undrawn):
    definition = json.loads(released.attributes["survey_definition"])
    definition["instrument"] = {**definition["instrument"], "num_pix": 4000}
    for k, text in enumerate((json.dumps(definition), "{", "[]", '"model_ii"', "{}")):
        path = tmp_path / f"{k}.h5"
        attributes = released.attributes | {"survey_definition": text}
        write_dataset(
            path,
            released.images,
            released.labels,
            released.parameters,
            released.class_names,
            attributes,
        )
        result, *_ = judged(trained(task="regression"), path, tmp_path / str(k))
        assert result["regression"][MASS]["floor"] is None
