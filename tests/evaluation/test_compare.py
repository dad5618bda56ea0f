"""Models compared on the same images: the right numbers, only on the same images, nothing destroyed."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from haloformer.cli import main
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation import compare, comparison_report, evaluate, metrics
from haloformer.evaluation.comparison import short_names
from haloformer.evaluation.predictions import predictions_of, predictions_of_all
from haloformer.evaluation.testset import open_test_images
from haloformer.fitting.parametric import SmoothFitter
from haloformer.prediction.predictor import load

pytestmark = pytest.mark.usefixtures("opened_at_once")

NORMALIZATION = {"kind": "image_max", "statistics": {}}


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_untrained_run, lenses):
    """A folder with three runs of different weights, a dataset, and evaluations of all runs on it."""
    place = tmp_path_factory.mktemp("compare")
    write_dataset(
        place / "test.h5",
        lenses.images,
        lenses.labels,
        lenses.parameters,
        lenses.class_names,
        lenses.attributes,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("haloformer.evaluation.drawing.draw", lambda *args: {})
        for seed, name in ((1, "x"), (2, "y"), (3, "z")):
            write_untrained_run(place / "runs" / name, seed, NORMALIZATION, "instrument")
            evaluate(str(place / "runs" / name), str(place / "test.h5"), device="cpu")
    return place


@pytest.fixture
def undrawn_comparison(monkeypatch):
    monkeypatch.setattr("haloformer.evaluation.comparison._draw", lambda *args: {})


def evaluations(place, *names: str) -> list[str]:
    return [str(place / "runs" / name / "evaluation" / "test") for name in names]


def logits_of(folder) -> tuple[np.ndarray, np.ndarray]:
    with open(f"{folder}/predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = ["axion", "cdm", "no_sub"]
    labels = np.array([classes.index(row["label"]) for row in rows])
    return labels, np.array([[float(row[f"logit_{name}"]) for name in classes] for row in rows])


def test_evaluations_and_runs_give_the_same_comparison_and_the_paired_tests(
    place, tmp_path, monkeypatch, save_png
):
    monkeypatch.setattr("haloformer.reporting.style.save", save_png)
    folders = evaluations(place, "x", "y", "z")
    result = compare(folders, out=str(tmp_path / "c"))
    names = ("differences", "roc_axion", "roc_cdm", "roc_no_sub")
    written = {
        str(path.relative_to(tmp_path / "c"))
        for path in (tmp_path / "c").rglob("*")
        if path.is_file()
    }
    figures = {f"figures/{name}.png" for name in names}
    assert written == figures | {"report.html", "report.md", "comparison.json"}
    assert [model["name"] for model in result["models"]] == ["x", "y", "z"]

    (labels, first), (_, second) = (logits_of(folder) for folder in folders[:2])
    found = result["differences"][0]["differences"]
    assert found["macro_auc"]["p"] == metrics.paired_difference(labels, second, first).p
    assert found["auc_cdm"]["value"] == metrics.paired_difference(labels, second, first, 1).value
    right = [z.argmax(axis=1) == labels for z in (second, first)]
    assert found["accuracy"]["p"] == metrics.paired_accuracy(*right).p
    every = [d for row in result["differences"] for d in row["differences"].values()]
    assert [d["p_holm"] for d in every] == metrics.holm([d["p"] for d in every])
    stored = json.loads(
        (tmp_path / "c" / "comparison.json").read_text(), parse_constant=pytest.fail
    )
    assert stored["differences"] == result["differences"]

    table = result.to_table()
    rows = {(row["model"], row["measure"]): row for row in table}
    assert len(rows) == len(table) == 3 * 5
    assert rows["y", "auc_cdm"]["difference"] == found["auc_cdm"]["value"]
    assert rows["y", "macro_auc"]["p_holm"] == found["macro_auc"]["p_holm"]
    assert rows["z", "accuracy"]["low"] == result["models"][2]["accuracy"]["low"]
    assert np.isnan(rows["x", "accuracy"]["difference"])
    assert result.summary().startswith("x vs y vs z on ")
    titles = [axes.get_title(loc="left") for axes in result.plot().axes]
    assert [title for title in titles if title] == list(result["measures"].values())

    monkeypatch.setattr("haloformer.evaluation.comparison._draw", lambda *args: {})
    again = compare(
        [str(place / "runs" / name) for name in "xyz"],
        data=str(place / "test.h5"),
        out=str(tmp_path / "d"),
        device="cpu",
    )
    assert again["differences"][0]["differences"]["macro_auc"] == pytest.approx(
        found["macro_auc"], abs=1e-6
    )
    page = (tmp_path / "c" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "src=" not in page
    text = (tmp_path / "c" / "report.md").read_text()
    assert f"{found['macro_auc']['value']:+.4f}".replace("-", "−") in text


def test_command_simulates_images_that_no_model_has_seen(
    place, tmp_path, capsys, undrawn_comparison
):
    artefact = json.loads((place / "runs" / "y" / "artefact" / "artefact.json").read_text())
    shutil.copytree(place / "runs" / "y" / "artefact", tmp_path / "w" / "artefact")
    artefact["training"] |= {"train_seed": 30, "val_seed": 31}
    (tmp_path / "w" / "artefact" / "artefact.json").write_text(json.dumps(artefact))
    out = tmp_path / "c"
    arguments = [
        "compare",
        place / "runs" / "x",
        tmp_path / "w",
        "--data",
        "model_ii",
        "--n",
        30,
        "--out",
        out,
    ]
    assert main([*map(str, arguments), "--device", "cpu"]) == 0
    stored = json.loads((out / "comparison.json").read_text())
    assert (stored["protocol"]["seed"], stored["n_images"]) == (32, 30)
    # Networks that were never trained: nothing else speaks against the images.
    said = [text.split(": ", 1)[1] for text in stored["warnings"]]
    assert all(text.startswith(("This model is of no use", "It answers ")) for text in said)
    printed = capsys.readouterr().out
    assert "differences to x" in printed
    assert str(out / "report.html") in printed


def test_another_order_and_spelling_of_classes_makes_no_difference(
    place, tmp_path, undrawn_comparison
):
    x, y = evaluations(place, "x", "y")
    other = tmp_path / "other"
    shutil.copytree(y, other)
    aliases = {"axion": "vort", "cdm": "sphere", "no_sub": "no"}
    text = (other / "predictions.csv").read_text()
    for name, alias in aliases.items():
        text = text.replace(name, alias)
    (other / "predictions.csv").write_text(text)
    stored = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(
        json.dumps({**stored, "class_names": ["no", "vort", "sphere"]})
    )
    expected = compare([x, y], out=str(tmp_path / "c"))
    found = compare([x, str(other)], out=str(tmp_path / "d"))
    assert found["differences"][0]["differences"] == expected["differences"][0]["differences"]


def test_rows_of_predictions_may_come_in_any_order(place, tmp_path, undrawn_comparison):
    shutil.copytree(evaluations(place, "y")[0], tmp_path / "y")
    path = tmp_path / "y" / "predictions.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *rows[::-1]]))
    x = evaluations(place, "x")[0]
    sorted_by_others = compare([x, str(tmp_path / "y")], out=str(tmp_path / "c"))
    usual = compare(evaluations(place, "x", "y"), out=str(tmp_path / "d"))
    assert sorted_by_others["differences"] == usual["differences"]


def test_other_images_are_refused(place, tmp_path, undrawn):
    x = evaluations(place, "x")[0]
    fewer = evaluate(
        str(place / "runs" / "y"), "model_ii", n=30, out=str(tmp_path / "fewer"), device="cpu"
    )["out"]
    with pytest.raises(InputError, match="tested on other images"):
        compare([x, fewer], out=str(tmp_path / "c"))
    # The same numbers and classes of images, but other images.
    other = evaluate(
        str(place / "runs" / "y"), "model_ii", n=60, out=str(tmp_path / "other"), device="cpu"
    )["out"]
    with pytest.raises(InputError, match="tested on other images"):
        compare([x, other], out=str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_models_of_other_classes_are_refused(place, tmp_path):
    shutil.copytree(evaluations(place, "y")[0], tmp_path / "y")
    for name in ("metrics.json", "predictions.csv"):
        path = tmp_path / "y" / name
        path.write_text(path.read_text().replace("no_sub", "wdm"))
    with pytest.raises(InputError, match="y tells axion, cdm, wdm apart"):
        compare([evaluations(place, "x")[0], str(tmp_path / "y")], out=str(tmp_path / "c"))


def test_models_of_other_classes_are_refused_before_any_image_is_looked_at(place, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(place / "runs" / "x" / "artefact", other)
    path = other / "artefact.json"
    path.write_text(path.read_text().replace("no_sub", "wdm"))
    with pytest.raises(InputError, match="other tells axion, cdm, wdm apart, but x axion, cdm, no"):
        compare([str(place / "runs" / "x"), str(other)], data="no such file.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}/x"], "at least two"),
        (["{runs}/x", "{runs}/x/artefact/../", "--data", "model_ii"], "given twice"),
        (["{runs}/x", "{runs}/y"], "name the images to test all models on"),
        (["{runs}/x", "{runs}/y/evaluation/test", "--data", "model_ii"], "is an evaluation"),
        (
            ["{runs}/x/evaluation/test", "{runs}/y/evaluation/test", "--data", "model_ii"],
            "'data' is for models",
        ),
        (["{runs}/x", "{runs}/absent", "--data", "model_ii"], "absent"),
        (
            ["{runs}/x", "{runs}/y", "--data", "model_i"],
            "x: 3,000 simulated images of model_i: images are 1 × 150",
        ),
        (["{runs}/x", "{runs}/y", "--data", "model_ii", "--batch-size", "0"], "batch size 0"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(place, tmp_path, capsys, arguments, message):
    filled = [argument.format(runs=place / "runs") for argument in arguments]
    assert main(["compare", *filled, "--out", str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("logit_cdm", "lgt", "column logit_cdm is missing"),
        ("\n0,axion,", "\n0,wimp,", "line 2: is not a prediction"),
        ("\n1,", "\n99999999999999999999999,", "line 3: is not a prediction"),
        ("\n1,", "\nnan,", "line 3: is not a prediction"),
        ("\n", "\r\x00\n", "cannot be read|is not a prediction|is missing"),
    ],
)
def test_damaged_predictions_are_refused(place, tmp_path, old, new, message):
    shutil.copytree(evaluations(place, "y")[0], tmp_path / "y")
    path = tmp_path / "y" / "predictions.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        compare([evaluations(place, "x")[0], str(tmp_path / "y")], out=str(tmp_path / "c"))
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_kept(place, tmp_path, undrawn_comparison):
    folders = evaluations(place, "x", "y")
    with pytest.raises(InputError, match="holds something else than a comparison"):
        compare(folders, out=folders[0], overwrite=True)
    compare(folders, out=str(tmp_path / "c"))
    with pytest.raises(InputError, match="exists already"):
        compare(folders, out=str(tmp_path / "c"))
    compare(folders[::-1], out=str(tmp_path / "c"), overwrite=True)
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["reference"] == "y"


def test_names_are_as_short_as_they_can_be_and_differ():
    assert short_names(["a/x", "b/y"]) == ["x", "y"]
    assert short_names(["a/x", "b/x"]) == ["a", "b"]
    assert short_names(["a/x/evaluation/t", "a/y/evaluation/t", "model_i"]) == [
        "x/t",
        "y/t",
        "model_i",
    ]


def test_names_from_outside_are_text_on_the_page(place, tmp_path, undrawn_comparison):
    hostile = "<script>alert(1)</script> {{ 7*7 }}"
    result = compare(evaluations(place, "x", "y"), out=str(tmp_path / "c"))
    result["models"][0]["name"] = result["reference"] = hostile
    result["protocol"]["data"] = result["measures"]["accuracy"] = hostile
    result["warnings"] = [hostile]
    page = comparison_report.to_html(result, {})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }}") >= 7


def test_what_speaks_against_the_images_is_said_as_by_evaluate(
    place, lenses, tmp_path, undrawn_comparison
):
    twice = [*range(len(lenses.labels)), 0]
    write_dataset(
        tmp_path / "twice.h5",
        lenses.images[twice],
        lenses.labels[twice],
        {name: values[twice] for name, values in lenses.parameters.items()},
        lenses.class_names,
        lenses.attributes,
    )
    runs = [str(place / "runs" / name) for name in ("x", "y")]
    options = {"data": str(tmp_path / "twice.h5"), "device": "cpu", "out": str(tmp_path / "out")}
    warnings = compare(runs, **options)["warnings"]
    n = len(twice)
    for name in ("x", "y"):
        said = [text for text in warnings if text.startswith(f"{name}: 2 of {n} images occur")]
        assert len(said) == 1
    for model in ("x", "y"):
        alone = evaluate(
            str(place / "runs" / model),
            data=options["data"],
            out=str(tmp_path / model),
            device="cpu",
        )
        for text in alone["warnings"]:
            assert f"{model}: {text}" in warnings
    assert any("guessing" in text for text in warnings)
    finished = compare([str(tmp_path / "x"), str(tmp_path / "y")], out=str(tmp_path / "again"))
    assert len(finished["warnings"]) == len(set(finished["warnings"]))


def test_models_that_see_a_fit_share_it_and_the_images(monkeypatch):
    first, second = load("model_ii", "cpu"), load("model_ii", "cpu")
    assert second.residual.detail
    plain = dataclasses.replace(second.residual, detail=False)
    images = open_test_images("model_ii", first, n=12, seed=77)
    order = np.arange(3)
    alone = predictions_of(first, images, order, 8, False)
    fitted, real = [], SmoothFitter.__call__

    def watched(self, batch, *args, **options):
        fitted.append((len(batch), options["detail"]))
        return real(self, batch, *args, **options)

    monkeypatch.setattr(SmoothFitter, "__call__", watched)
    together = predictions_of_all([first, second], images, [order, order], 8, False)
    assert fitted == [(8, True), (4, True)]
    assert all(np.array_equal(each.logits, alone.logits) for each in together)
    assert all(each.digest == alone.digest for each in together)
    # One that sees the residual alone looks at the same fit.
    seen = []
    without = dataclasses.replace(second, residual=plain)
    monkeypatch.setattr(
        without, "numbers_and_ood", lambda images, look, **_: seen.append(look) or (torch.zeros(len(images), 5), None)
    )  # fmt: skip
    fitted.clear()
    predictions_of_all([without, first], images, [order, order], 8, False)
    assert fitted == [(8, True), (4, True)]
    assert torch.equal(seen[0].channels, first.residual.look(images.images_at(np.arange(8))).channels[:, :2])  # fmt: skip


def test_a_difference_without_variance_is_a_dash_in_words(
    place, tmp_path, undrawn_comparison, capsys
):
    folders = []
    for name, factor in (("knows", 5.0), ("opposite", -5.0)):
        folder = tmp_path / name
        shutil.copytree(evaluations(place, "x")[0], folder)
        table = folder / "predictions.csv"
        with table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            row |= {f"logit_{k}": factor * (k == row["label"]) for k in ("axion", "cdm", "no_sub")}
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        folders.append(str(folder))
    assert main(["compare", *folders, "--out", str(tmp_path / "c")]) == 0
    said, told = capsys.readouterr().out, (tmp_path / "c" / "report.md").read_text()
    assert "nan" not in said
    assert "| opposite | Macro AUC | −1.0000 | – | – |" in told
    assert "| opposite | AUC of cdm | −1.0000 | – | – |" in told
