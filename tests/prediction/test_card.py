"""The README of an export holds what an artefact tells of itself, and no markup of its own."""

import json
import re

import pytest
import yaml

from haloformer.errors import InputError
from haloformer.prediction import load
from haloformer.prediction.card import model_card
from haloformer.prediction.export import export_model

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
