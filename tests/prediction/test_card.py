"""The README of an export holds what an artefact tells of itself, and no markup of its own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import haloformer
from haloformer.artefact.read import shipped_models
from haloformer.errors import InputError
from haloformer.prediction import load
from haloformer.prediction.card import model_card
from haloformer.prediction.export import export_model
from haloformer.reporting.interval import format_value

AUDITS = Path(haloformer.__file__).parent / "prediction" / "survey_audits.json"

HOSTILE = (
    "x`</code>\n---\nlicense: other\n# |](http://x)<script>alert(1)</script>\x1b[31m" + 9000 * "x"
)


def test_texts_of_an_artefact_are_no_markup_in_the_card(run):
    plain = model_card(load(run, "cpu")).count("\n")
    path = run / "artefact" / "artefact.json"
    names = [HOSTILE, "cdm", "no_sub"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "class_names": names}))
    predictor = load(run, "cpu")
    auc = {"value": 0.9, "low": 0.8, "high": 0.95}
    told = ("seed", "date", "hardware", "command", "n_images")
    measured = {"macro_auc": auc, "auc": {HOSTILE: auc}, **dict.fromkeys(told, HOSTILE)}
    predictor.artefact |= {"survey": HOSTILE, "noise": HOSTILE, "pixel_scale": HOSTILE}
    predictor.artefact |= {"training": {"data": HOSTILE, "lr": [HOSTILE]}, "measured": measured}
    card = model_card(predictor)
    head, body = card.removeprefix("---\n").split("\n---\n")
    assert yaml.safe_load(head)["license"] == "mit"
    assert yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    text = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert "<" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "\x1b" not in card
    assert body.count("\n# ") == 1
    assert max(map(len, body.splitlines())) < 1500
    assert card.count("\n") < plain + 20


@pytest.mark.parametrize("odd", [5, [], "x", True, float("nan"), {"auc": 5}, {"macro_auc": 5}])
def test_a_card_is_made_whatever_the_provenance_holds(run, odd):
    predictor = load(run, "cpu")
    for key in ("training", "measured", "survey", "noise", "pixel_scale"):
        predictor.artefact[key] = odd
    assert "Nothing was measured" in model_card(predictor)


@pytest.mark.parametrize("value", [1e308, float("nan"), -1, 10**90, "0.9", None, [0.9]])
def test_a_number_that_is_no_auc_is_not_shown(run, value):
    predictor = load(run, "cpu")
    predictor.artefact["measured"] = {"macro_auc": {"value": value, "low": 0.1, "high": 0.2}}
    assert "Nothing was measured" in model_card(predictor)


def test_nothing_else_that_lies_beside_an_artefact_is_exported(run, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (run / "artefact" / "more.safetensors").symlink_to(tmp_path / "secret")
    out = export_model(str(run), tmp_path / "hub", format="hub").out
    assert not (out / "more.safetensors").exists()


def test_a_folder_of_something_else_is_not_written_into(run, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="holds something else than an export for a hub"):
        export_model(str(run), tmp_path, format="hub", overwrite=True)
    export_model(str(run), tmp_path / "hub", format="hub")
    export_model(str(run), tmp_path / "hub", format="hub", overwrite=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every shipped model as a folder for a hub."""
    where = tmp_path_factory.mktemp("hub")
    for name in shipped_models():
        export_model(name, where / name, format="hub")
    return where


@pytest.mark.parametrize("name", shipped_models())
def test_the_card_of_a_shipped_model_says_what_it_is_for_and_where_it_ends(folders, name):
    card = ModelCard.load(folders / name / "README.md")  # as the hub reads it
    artefact = load(name, "cpu").artefact
    assert (card.data.license, card.data.library_name) == ("mit", "haloformer")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == f"haloformer {name}"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    measured = artefact["measured"]
    assert found == {
        "roc_auc": measured["macro_auc"]["value"],
        "accuracy": measured["accuracy"]["value"],
    }
    for heading in ("Use", "Intended use", "Training data", "Measured", "Limits", "Licence"):
        assert f"\n## {heading}" in card.text
    audit = json.loads(AUDITS.read_text())[artefact["survey"]]
    assert f"a macro AUC of {audit['moments']['auc']:.3f}" in card.text
    assert "let 1.0% of usual images be flagged" in card.text
    if "mae" in measured:
        mae = measured["mae"]["log10_m_axion"]
        assert f"| {format_value(mae['value'])} | {format_value(mae['low'])} –" in card.text
    else:
        assert name == "common_task"  # whose images do not tell the mass
    assert measured["command"] in card.text
    assert {file.name for file in (folders / name).iterdir()} == {
        "README.md", "config.json", "model.safetensors", "ood.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["model_i", "model_iii_instrument"])
def test_the_code_of_a_card_runs_and_answers_as_the_shipped_model(folders, name, monkeypatch):
    text = (folders / name / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("path/to/this/folder") == 1
    names: dict = {}
    exec(code.replace("path/to/this/folder", str(folders / name)), names)
    answers, before = names["answers"], haloformer.predict(name, names["images"])
    np.testing.assert_array_equal(answers.probabilities, before.probabilities)
    assert [row.get("ood") for row in answers] == [row.get("ood") for row in before]


def test_the_card_of_a_survey_of_ones_own_quotes_no_audit_and_code_that_takes_files(run):
    predictor = load(run, "cpu")
    predictor.artefact["survey"] = "mine"
    card = model_card(predictor)
    assert "Nine moments" not in card
    assert '"cutouts/*.fits"' in card
    assert "does not notice images unlike" in card
