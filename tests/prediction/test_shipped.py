"""The trained models that come with the package: they load by name, offline, and are as good as their description says."""

import json
from pathlib import Path

import pytest
import torch

import haloformer
from haloformer.artefact.read import artefact_folder, shipped_models
from haloformer.errors import InputError
from haloformer.evaluation.metrics import classification_metrics
from haloformer.simulation import simulate


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
