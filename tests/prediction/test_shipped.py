"""The trained models that come with the package: they load by name, offline, and are as good as their description says."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import haloformer
from haloformer.app.answers import classify
from haloformer.artefact.read import artefact_folder, shipped_models
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation.metrics import classification_metrics
from haloformer.simulation import describe_survey, get_survey, simulate


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_is_as_good_as_it_says(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    predictor = haloformer.load(name, device="cpu")
    measured = predictor.artefact["measured"]
    # Another seed than those of its training, its validation, and of the figures that are told.
    lenses = simulate(
        predictor.artefact["survey"], 240, seed=3000, noise=predictor.artefact["noise"]
    )
    assert lenses.class_names == predictor.class_names
    logits = torch.cat([predictor.predict_logits(part) for part in lenses.images.split(60)])
    auc = classification_metrics(
        lenses.labels.numpy(), logits.double().numpy(), lenses.class_names
    )["macro_auc"]
    # An image that ranks behind all others costs the AUC of its class 1/80, and of the other two less.
    assert auc.value > measured["macro_auc"]["value"] - 2 / 240


def test_images_without_noise_that_were_resampled_are_flagged_from_files_and_memory(tmp_path):
    description = describe_survey(get_survey("model_ii")) | {"name": "mine"}
    description["instrument"] |= {"pixel_scale": 0.105}
    survey = tmp_path / "mine.yaml"
    survey.write_text(yaml.safe_dump(description))
    lenses = simulate(str(survey), 6, seed=11)
    path = tmp_path / "mine.h5"
    write_dataset(
        path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes
    )
    own = haloformer.predict("model_ii", simulate("model_ii", 6, seed=11))
    assert not any("resampled" in row["ood_reason"] for row in own.rows)
    for images in (lenses, str(path)):
        found = haloformer.predict("model_ii", images)
        assert {row["class"] for row in found.rows} == {"unknown"}
        assert all("resampled from pixels of 0.105 to 0.101" in r["ood_reason"] for r in found.rows)
    predictor = haloformer.load("model_ii", device="cpu")
    assert set(predictor.answers(lenses).classes) == {"unknown"}
    shown = classify(predictor, path, number=0, attention=False)
    assert "resampled" in shown.warning
    explained = haloformer.explain(predictor, str(path), methods="gradcam", limit=1)
    assert "resampled" in explained.unusual[0]


def test_the_description_holds_no_path_and_says_how_it_was_measured():
    assert "model_i" in shipped_models()
    for name in shipped_models():
        text = (artefact_folder(Path(name)) / "artefact.json").read_text(encoding="utf-8")
        assert "/tmp" not in text
        assert "/home" not in text
        measured = json.loads(text)["measured"]
        assert {"command", "date", "seed", "n_images", "macro_auc", "auc"} <= set(measured)


def test_a_folder_of_that_name_goes_first_and_an_unknown_name_lists_those_there_are(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_i").mkdir()
    with pytest.raises(InputError, match="holds no trained model"):
        haloformer.load("model_i")
    with pytest.raises(InputError, match="no shipped model: those are common_task, model_i"):
        haloformer.load("model_x")
