"""`calibrate` adds to an artefact what newer trainings leave by themselves, and nothing half-done."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import haloformer
from haloformer.cli import main
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation import calibrate, evaluate
from haloformer.evaluation.testset import known_by_seed, unused_seed
from haloformer.prediction import load
from haloformer.simulation import simulate

pytestmark = pytest.mark.usefixtures("opened_at_once")


def described(run) -> dict:
    return json.loads((run / "artefact" / "artefact.json").read_text())


def test_the_artefact_gains_calibration_and_statistics_and_keeps_all_else(run, capsys):
    before, weights = described(run), (run / "artefact" / "weights.safetensors").read_bytes()
    assert main(["calibrate", str(run), "--n", "120", "--device", "cpu"]) == 0
    after = described(run)
    assert {
        key: value for key, value in after.items() if key not in ("calibration", "ood")
    } == before
    assert after["calibration"]["n"] == after["ood"]["n"] == 120
    assert after["calibration"]["nll_after"] <= after["calibration"]["nll_before"]
    assert (run / "artefact" / "weights.safetensors").read_bytes() == weights
    assert f"temperature {after['calibration']['temperature']:.3f}" in capsys.readouterr().out
    assert not list(run.rglob("*.part"))
    main(["calibrate", str(run), "--n", "120", "--device", "cpu", "--batch-size", "50"])
    assert described(run)["ood"]["thresholds"] == pytest.approx(
        after["ood"]["thresholds"], rel=1e-3
    )


def test_it_uses_the_images_that_validated_the_training(run, tmp_path):
    lenses = simulate(
        "model_ii", 90, seed=11, noise="instrument"
    )  # the artefact's val_seed and noise
    write_dataset(
        tmp_path / "val.h5",
        lenses.images,
        lenses.labels,
        lenses.parameters,
        lenses.class_names,
        lenses.attributes,
    )
    simulated = calibrate(str(run), n=90, device="cpu")
    read = calibrate(str(run), data=str(tmp_path / "val.h5"), device="cpu")
    for key in ("temperature", "n", "nll_before", "nll_after"):
        assert read["calibration"][key] == pytest.approx(simulated["calibration"][key], rel=1e-3)
    assert (simulated["calibration"]["survey"], simulated["calibration"]["seed"]) == (
        "model_ii",
        11,
    )


def test_an_evaluation_writes_calibrated_probabilities(run, dataset, undrawn, tmp_path):
    path = run / "artefact" / "artefact.json"
    path.write_text(json.dumps({**described(run), "calibration": {"temperature": 4.0}}))
    evaluate(str(run), str(dataset), out=str(tmp_path / "e"), device="cpu")
    with (tmp_path / "e" / "predictions.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    logits = torch.tensor(
        [float(row[f"logit_{name}"]) for name in ("axion", "cdm", "no_sub")]
    ).double()
    assert float(row["p_cdm"]) == pytest.approx(float((logits / 4).softmax(0)[1]), rel=1e-5)


def test_an_evaluation_on_the_images_that_calibrated_says_so(run, undrawn, tmp_path):
    calibrate(str(run), n=60, seed=77, device="cpu")
    result = evaluate(str(run), "model_ii", n=60, seed=77, out=str(tmp_path / "e"), device="cpu")
    assert result["contaminated"]
    assert "calibrated the model" in result["warnings"][0]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interruption_leaves_an_artefact_that_loads(run, monkeypatch, at):
    calibrate(str(run), n=60, device="cpu")
    replace, count = os.replace, []

    def interrupted(*arguments):
        count.append(1)
        if len(count) == at:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(str(run), n=90, device="cpu")
    monkeypatch.undo()
    detector = load(run, "cpu").detector
    assert detector is None if at > 1 else detector.n == 60


def test_a_model_of_the_package_is_not_changed():
    with pytest.raises(InputError, match=r"calibrate a copy of .*model_i"):
        calibrate("model_i")


def test_what_cannot_calibrate_is_refused_and_changes_nothing(run, dataset, tmp_path):
    before = described(run)
    no_sub = simulate("model_ii", 60, seed=5, noise="instrument", classes=["no_sub", "cdm"])
    write_dataset(tmp_path / "two.h5", no_sub.images, no_sub.labels, {}, no_sub.class_names)
    for options, message in (
        ({"n": 5}, "too few: at least 20"),
        ({"n": 0}, "at least one image"),
        ({"batch_size": 0}, "batch size 0"),
        ({"data": "model_i"}, "150 × 150"),
        ({"data": str(tmp_path / "two.h5")}, "classes are"),
        ({"data": str(tmp_path / "absent.h5")}, "absent"),
        ({"data": str(dataset), "seed": 3}, "'seed' is for images simulated"),
    ):
        with pytest.raises(InputError, match=message):
            calibrate(str(run), device="cpu", **options)
    assert described(run) == before


@pytest.mark.parametrize(
    ("key", "message"), [("val_seed", "give the seed"), ("data", "name images")]
)
def test_an_artefact_that_does_not_know_its_images_asks_for_them(run, key, message):
    content = described(run)
    content["training"][key] = None
    (run / "artefact" / "artefact.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        calibrate(str(run), device="cpu")


def test_class_folders_calibrate_as_the_file_made_of_them_does(run, tmp_path):
    lenses = simulate("model_ii", 60, seed=5, noise="instrument")
    for k, (image, label) in enumerate(zip(lenses.images.numpy(), lenses.labels)):
        folder = tmp_path / "images" / lenses.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{k}.npy", image)
    result = calibrate(str(run), data=str(tmp_path / "images"), device="cpu")
    assert result["calibration"]["n"] == 60


def test_of_a_model_whose_fit_finds_the_lens_it_measures_what_other_pixel_scales_do(tmp_path):
    weights = Path(haloformer.__file__).parent / "weights" / "model_iii"
    run = tmp_path / "run" / "artefact"
    shutil.copytree(weights, run)
    before = json.loads((run / "artefact.json").read_text())
    del before["geometry"]
    (run / "artefact.json").write_text(json.dumps(before))
    found = calibrate(str(tmp_path / "run"), n=99, device="cpu", progress=False)
    geometry = json.loads((run / "artefact.json").read_text())["geometry"]
    assert found["geometry"] == geometry
    assert geometry["n"] == 99
    names = set(before["class_names"])
    assert {name: set(limits) for name, limits in geometry["limits"].items()} == {
        name: names - {name} for name in names
    }
    assert haloformer.load(tmp_path / "run", "cpu").geometry is not None


def test_images_that_calibrated_a_model_do_not_test_it(run):
    usual = unused_seed(load(run))
    calibrate(str(run), n=60, seed=usual, device="cpu")
    predictor = load(run)
    assert "calibrated the model" in known_by_seed(predictor, "model_ii", usual)
    assert known_by_seed(predictor, "model_ii", unused_seed(predictor)) is None


def test_the_file_that_calibrated_a_model_is_known_without_a_seed(run, tmp_path, undrawn):
    lenses = simulate("model_ii", 60, seed=5, noise="instrument")
    names = ("axion", "cdm", "no_sub")
    for name, n in (("cal.h5", 60), ("other.h5", 45)):
        write_dataset(tmp_path / name, lenses.images[-n:], lenses.labels[-n:], {}, names)
    calibrate(str(run), data=str(tmp_path / "cal.h5"), device="cpu")
    shutil.copy(tmp_path / "cal.h5", tmp_path / "copy.h5")
    for name, known in (("cal", True), ("copy", True), ("other", False)):
        tested = evaluate(
            str(run), str(tmp_path / f"{name}.h5"), out=str(tmp_path / name), device="cpu"
        )
        assert tested["contaminated"] is known
        assert any("calibrated the model" in text for text in tested["warnings"]) is known
