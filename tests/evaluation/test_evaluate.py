"""From a run and test images to numbers and a report: the right numbers, honest warnings, nothing destroyed."""

import csv
import errno
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation import evaluate, figures
from haloformer.io import strict_json
from haloformer.prediction import Predictor
from haloformer.prediction.predictor import load
from haloformer.reporting import interval, style
from haloformer.reporting.learning import learning_log
from haloformer.simulation import simulate
from haloformer.training import train

pytestmark = pytest.mark.usefixtures("opened_at_once")


def contents(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_predictions_and_measures_are_tables_with_units_and_provenance_where_asked_for(
    run, dataset, tmp_path
):
    from astropy.table import Table

    result = evaluate(str(run), str(dataset), device="cpu", out=str(tmp_path / "e"), tables="ecsv")
    measures = Table.read(tmp_path / "e" / "measures.ecsv")
    (macro,) = [row for row in measures if row["measure"] == "macro_auc"]
    assert macro["value"] == result["macro_auc"]["value"]
    assert measures.meta["seed"] == 5
    rows = Table.read(tmp_path / "e" / "predictions.ecsv")
    with (tmp_path / "e" / "predictions.csv").open(newline="") as stream:
        plain = list(csv.DictReader(stream))
    assert rows.colnames == list(plain[0])
    assert rows["p_cdm"].tolist() == [float(row["p_cdm"]) for row in plain]
    assert rows["p_cdm"].description == "probability of class cdm"
    assert rows.meta["n_images"] == 60
    with pytest.raises(InputError, match="unknown kind of table 'xls'"):
        evaluate(str(run), str(dataset), device="cpu", out=str(tmp_path / "f"), tables="xls")


def test_evaluation_leaves_metrics_predictions_figures_and_reports(run, dataset):
    result = evaluate(str(run), str(dataset), device="cpu")
    out = run / "evaluation" / "test"
    assert (result["out"], result["report"]) == (str(out), str(out / "report.html"))
    names = ("roc", "confusion", "reliability", "scores", "wrong", "hardest", "learning")
    expected = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")}
    assert set(contents(out)) == expected | {
        "metrics.json",
        "predictions.csv",
        "report.html",
        "report.md",
    }

    stored = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert stored["macro_auc"] == result["macro_auc"]
    assert stored["protocol"]["seed"] == 5
    with (out / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["index"]) for row in rows] == list(range(60))
    for name in ("axion", "cdm", "no_sub"):
        truth = [row["label"] == name for row in rows]
        auc = roc_auc_score(truth, [float(row[f"p_{name}"]) for row in rows])
        assert stored["per_class"][name]["auc"]["value"] == pytest.approx(auc, abs=1e-9)
        assert (
            stored["per_class"][name]["auc"]["low"] < auc < stored["per_class"][name]["auc"]["high"]
        )
    assert np.mean([row["label"] == row["class"] for row in rows]) == pytest.approx(
        stored["accuracy"]["value"]
    )
    text = (out / "report.md").read_text()
    assert f"{stored['macro_auc']['value']:.4f}" in text
    assert "figures/roc.png" in text


def test_classes_stored_in_another_order_or_spelling_give_the_same_result(
    run, lenses, dataset, tmp_path, undrawn
):
    other = torch.tensor([2, 1, 0])[lenses.labels]
    write_dataset(tmp_path / "other.h5", lenses.images, other, {}, ("no", "sphere", "vort"))
    expected = evaluate(str(run), str(dataset), device="cpu")
    found = evaluate(str(run), str(tmp_path / "other.h5"), device="cpu")
    for key in ("macro_auc", "per_class", "confusion", "nll"):
        assert strict_json.to_json({key: found[key]}) == strict_json.to_json({key: expected[key]})


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_does_not_change_the_result(run, dataset, undrawn, batch_size):
    small = evaluate(str(run), str(dataset), batch_size=batch_size, device="cpu")
    large = evaluate(str(run), str(dataset), overwrite=True, device="cpu")
    assert small["nll"]["value"] == pytest.approx(large["nll"]["value"], abs=1e-5)
    assert small["protocol"]["images_digest"] == large["protocol"]["images_digest"]


def test_survey_name_gives_new_images_with_the_noise_of_the_training(run, undrawn):
    result = evaluate(str(run), "model_ii", n=30, device="cpu")
    assert result["n_images"] == 30
    assert result["protocol"]["noise"] == "instrument"
    assert result["protocol"]["seed"] == 12  # 10 trained, 11 selected
    assert not result["contaminated"]
    guessing, one_answer = result["warnings"]  # it is not trained
    assert "of no use on these images" in guessing
    assert "whatever their class" in one_answer


@pytest.mark.parametrize("noise", ["", None, "strange"])
def test_a_model_whose_images_did_not_say_their_noise_is_tested_with_the_surveys_own(
    run, undrawn, monkeypatch, noise
):
    from haloformer.evaluation import evaluation

    def loaded(*given):
        predictor = load(*given)
        predictor.artefact["noise"] = noise
        return predictor

    monkeypatch.setattr(evaluation, "load", loaded)
    tested = evaluate(str(run), "model_ii", n=30, overwrite=True)
    assert tested["protocol"]["noise"] == "original"


@pytest.mark.parametrize(("seed", "word"), [(10, "trained on"), (11, "chose the weights")])
def test_images_of_the_training_or_validation_seed_are_called_contaminated(
    run, seed, word, tmp_path, undrawn
):
    lenses = simulate("model_ii", 9, seed=seed, noise="none")
    path = tmp_path / "seen.h5"
    write_dataset(path, lenses.images, lenses.labels, {}, lenses.class_names, lenses.attributes)
    for result in (
        evaluate(str(run), "model_ii", n=9, seed=seed, noise="instrument", device="cpu"),
        evaluate(str(run), str(path), device="cpu"),
    ):
        assert result["contaminated"]
        assert word in result["warnings"][0]
        page = (run / "evaluation" / result["out"] / "report.html").read_text()
        assert result["warnings"][0] in page
        assert "which the model has seen in training" in page


@pytest.mark.parametrize("key", ["data", "val_data"])
def test_the_file_that_training_read_is_recognised_without_a_seed(
    run, lenses, tmp_path, undrawn, key
):
    path = tmp_path / "train.h5"
    write_dataset(path, lenses.images, lenses.labels, {}, lenses.class_names)
    artefact = json.loads((run / "artefact" / "artefact.json").read_text())
    artefact["training"][key] = str(path)
    (run / "artefact" / "artefact.json").write_text(json.dumps(artefact))
    assert evaluate(str(run), str(path), device="cpu")["contaminated"]


SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2}
TINY = {
    **{"data": "model_ii", "model": "vit_nano", "model_args": SMALL, "device": "cpu"},
    **{"epochs": 1, "epoch_size": 32, "batch_size": 32, "val_size": 30, "loggers": []},
}


def test_images_of_all_pretrainings_are_known_and_avoided(tmp_path, train_once, undrawn):
    before = train_once(**TINY, seed=1).out
    for name, seed in (("between", 2), ("fine", 0)):
        options = {**TINY, "seed": seed, "pretrained": str(before), "progress": False}
        before = train(out=tmp_path / name, **options).out
    new = evaluate(str(before), n=9, device="cpu")
    assert not new["contaminated"]
    assert new["protocol"]["seed"] == 3
    first = json.loads((before / "pretrained.json").read_text())["trainings"][-1]
    assert first["train_seed"] == 1
    for seed in (1, 2, first["val_seed"]):
        known = evaluate(str(before), n=9, seed=seed, device="cpu")
        assert known["contaminated"]
        assert "used in a pretraining" in known["warnings"][0]


def test_the_file_of_a_pretraining_is_recognised(run, dataset, undrawn):
    described = run / "artefact" / "artefact.json"
    artefact = json.loads(described.read_text())
    artefact["training"]["pretrained_weights"] = {"trainings": [{"data": str(dataset)}]}
    described.write_text(json.dumps(artefact))
    result = evaluate(str(run), str(dataset), device="cpu")
    assert result["contaminated"]
    assert "used in a pretraining" in result["warnings"][0]


@pytest.mark.parametrize("told", [5, {"trainings": 5}, {"trainings": [5, {"train_seed": [1]}]}])
def test_a_strange_record_of_pretrainings_is_passed_over(run, undrawn, told):
    described = run / "artefact" / "artefact.json"
    artefact = json.loads(described.read_text())
    artefact["training"]["pretrained_weights"] = told
    described.write_text(json.dumps(artefact))
    assert not evaluate(str(run), n=9, device="cpu")["contaminated"]


def test_other_noise_than_in_training_is_pointed_out(run, undrawn):
    warnings = evaluate(str(run), "model_ii", n=9, noise="none", device="cpu")["warnings"]
    assert any("noise instrument, these images have none" in text for text in warnings)


def test_perfect_model_gets_an_interval_and_no_panel_of_errors(
    run, dataset, lenses, monkeypatch, unpictured
):
    truth = iter((10.0 * torch.eye(3)[lenses.labels]).split(256))
    monkeypatch.setattr(Predictor, "numbers", lambda self, images, **options: next(truth))
    result = evaluate(str(run), str(dataset), device="cpu")
    assert result["macro_auc"]["value"] == 1
    assert result["macro_auc"]["low"] == pytest.approx(0.025 ** (1 / 20))
    assert not (run / "evaluation" / "test" / "figures" / "wrong.png").exists()
    page = (run / "evaluation" / "test" / "report.html").read_text()
    assert 'id="figure-wrong"' not in page
    assert "No image was misclassified" in page


def test_class_without_images_is_null_in_json_and_named_in_a_warning(
    run, lenses, tmp_path, undrawn
):
    keep = lenses.labels != 2
    write_dataset(
        tmp_path / "two.h5", lenses.images[keep], lenses.labels[keep], {}, lenses.class_names
    )
    result = evaluate(str(run), str(tmp_path / "two.h5"), device="cpu")
    assert any("no images of class no_sub" in text for text in result["warnings"])
    stored = json.loads(
        (run / "evaluation" / "two" / "metrics.json").read_text(), parse_constant=pytest.fail
    )
    assert stored["per_class"]["no_sub"]["auc"]["value"] is None
    assert stored["macro_auc"]["value"] is not None


# --- what cannot be evaluated -----------------------------------------------------------------------------------------


def bad_datasets(lenses):
    images, labels, names = lenses.images, lenses.labels, lenses.class_names
    spoiled = images.clone()
    spoiled[41, 0, 0, 0] = float("nan")
    return {
        "NaN": (spoiled, labels, names, "bad.h5: image 41 holds NaN"),
        "size": (images[..., :32], labels, names, "1 × 64 × 32 .* takes 1 × 64 × 64"),
        "channels": (
            images.expand(-1, 3, -1, -1),
            labels,
            names,
            "3 × 64 × 64 .* takes 1 × 64 × 64",
        ),
        "classes": (images, labels, ("axion", "cdm", "wdm"), "axion, cdm, wdm"),
        "one class": (images[:9], labels[:9] * 0, names, "all images are of class 'axion'"),
    }


@pytest.mark.parametrize("kind", ["NaN", "size", "channels", "classes", "one class"])
def test_dataset_that_does_not_fit_is_refused_and_nothing_is_written(run, lenses, tmp_path, kind):
    images, labels, names, message = bad_datasets(lenses)[kind]
    write_dataset(tmp_path / "bad.h5", images, labels, {}, names)
    before = contents(run)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(str(run), str(tmp_path / "bad.h5"), batch_size=16, device="cpu")
    assert "\n" not in str(caught.value)
    assert contents(run) == before
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize("data", ["absent.h5", "no_such_survey", "."])
def test_data_that_is_not_there_is_refused(run, data):
    with pytest.raises(InputError):
        evaluate(str(run), data, device="cpu")


def test_options_of_the_simulation_are_refused_for_a_file(run, dataset):
    with pytest.raises(InputError, match="'seed' is for images simulated"):
        evaluate(str(run), str(dataset), seed=3, device="cpu")


def test_earlier_evaluation_is_replaced_only_when_asked(run, dataset, undrawn):
    evaluate(str(run), str(dataset), device="cpu")
    out = run / "evaluation" / "test"
    before = contents(out)
    with pytest.raises(InputError, match="exists already"):
        evaluate(str(run), str(dataset), device="cpu")
    assert contents(out) == before
    (out / "metrics.json").write_text("old")
    evaluate(str(run), str(dataset), overwrite=True, device="cpu")
    assert json.loads((out / "metrics.json").read_text())["n_images"] == 60
    assert [path.name for path in out.parent.iterdir()] == ["test"]


def test_folder_of_something_else_is_never_overwritten(run, dataset, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds something else"):
        evaluate(str(run), str(dataset), out=str(tmp_path / "home"), overwrite=True, device="cpu")
    assert contents(tmp_path / "home") == {"thesis.tex": b"precious"}


def test_full_disk_leaves_the_earlier_evaluation_as_it_was(run, dataset, monkeypatch, undrawn):
    evaluate(str(run), str(dataset), device="cpu")
    out = run / "evaluation" / "test"
    before = contents(out)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("haloformer.io.strict_json.to_json", full)
    with pytest.raises(InputError, match=r"test: cannot be written: No space left on device"):
        evaluate(str(run), str(dataset), overwrite=True, device="cpu")
    assert contents(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["test"]


def test_log_of_the_training_is_read_by_epoch_and_what_is_corrupt_is_left_out(run):
    log = learning_log(run / "metrics.csv")
    assert {name: values.tolist() for name, (_, values) in log.items()} == {
        "train_loss": [1.1, 0.9],
        "val_loss": [1.0, 0.95],
        "val_macro_auc": [0.6, 0.7],
    }
    (run / "metrics.csv").write_bytes(b"epoch,val_loss\n\xff\x00,abc\n,,,,\n1,0.5\n")
    log = learning_log(run / "metrics.csv")
    assert [points.tolist() for points in log["val_loss"]] == [[1], [0.5]]


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects what a browser would run or fetch, and the ids."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.fetched, self.ids, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "action") and not value.startswith(
                ("#", "data:")
            ):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained_and_escapes_names_from_outside(run, lenses, tmp_path, unsaved):
    names = ["<script>alert(1)</script>", '"><img src=http://x>', "$\\frac$ & $x$"]
    artefact = json.loads((run / "artefact" / "artefact.json").read_text())
    artefact |= {"class_names": names, "survey": "<b>survey</b>"}
    (run / "artefact" / "artefact.json").write_text(json.dumps(artefact))
    path = tmp_path / "<i>.h5"
    write_dataset(
        path,
        lenses.images,
        lenses.labels,
        {},
        names,
        {"survey": "<u>", "noise": "</style>", "seed": 1},
    )
    evaluate(str(run), str(path), device="cpu")
    text = (run / "evaluation" / "<i>" / "report.html").read_text()
    page = Page(text)
    assert not {"script", "img", "b", "i", "u", "link", "iframe", "object"} & set(page.tags)
    assert page.fetched == []
    assert "url(http" not in text
    assert "@import" not in text
    assert text.count("</style>") == text.count("<style")
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 7
    assert any(names[0] in piece for piece in page.text)


def test_value_below_1_is_never_shown_as_1():
    assert interval.format_value(0.999996) == "0.999996"
    assert interval.format_value(1.0) == "1.0000"
    assert interval.format_value(0.98765) == "0.9877"
    assert interval.format_value(float("nan")) == "–"


def test_figures_leave_matplotlib_settings_alone_and_repeat_byte_for_byte(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    counts = np.array([[5, 1], [0, 3]])
    written = [
        style.save(figures.confusion(counts, ("a", "b")), tmp_path / name)
        for name in ("one", "two")
    ]
    assert dict(matplotlib.rcParams) == before
    assert [path.suffix for path in written[0]] == [".png", ".svg", ".pdf"]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*written))


def test_the_result_is_a_mapping_that_shows_itself_as_a_table(run, dataset, undrawn):
    result = evaluate(str(run), str(dataset))
    table = result.to_table()
    rows = {(row["measure"], row["of"]): row for row in table}
    assert rows["macro_auc", "all"]["low"] == result["macro_auc"]["low"]
    assert rows["recall", "cdm"]["value"] == result["per_class"]["cdm"]["recall"]["value"]
    assert table.meta["seed"] == result["protocol"]["seed"]
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(dict(result)))
    assert repr(result).startswith(
        "Evaluation: x on 60 images of survey model_ii, seed 5: macro AUC 0."
    )
    assert all(f"Warning: {text.rstrip('.')}" in result.summary() for text in result["warnings"])
    shown = result.plot().axes[0].texts
    assert sum(int(text.get_text().partition("\n")[0]) for text in shown) == 60


def test_images_in_memory_are_refused_with_what_would_be_right():
    with pytest.raises(InputError, match=r"data is a ndarray: .*haloformer\.predict"):
        evaluate("model_ii", np.zeros((3, 1, 64, 64)))
