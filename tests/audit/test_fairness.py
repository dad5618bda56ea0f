"""A survey's own audit: it finds shortcuts where there are some, and none where there are none."""

import json

import pytest

from haloformer.audit import audit
from haloformer.cli import main
from haloformer.errors import InputError

FAIR = """
name: fair
instrument: {num_pix: 32, pixel_scale: 0.12, psf_fwhm: 0.1, background_rms: 0.01, exposure_time: 1000.0}
lens: [{kind: epl, theta_E: {uniform: [1.0, 1.4]}, e1: {normal: [0, 0.1]}}]
source: {snr: {uniform: [10, 30]}, light: [{kind: sersic, R_sersic: 0.2}]}
substructure: {cdm: [{kind: point_masses, mass: MASS, number: 3}], no_sub: []}
matching: MATCHING
z_source: 1.5
"""


def survey(folder, mass, matching):
    path = folder / f"{matching}.yaml"
    path.write_text(FAIR.replace("MASS", mass).replace("MATCHING", matching))
    return str(path)


def test_a_fair_survey_passes_every_test(tmp_path):
    file = survey(tmp_path, "1.0e+8", "moments")
    found = audit(survey=file, out=str(tmp_path / "a"), n=600)
    assert list(found["tests"]) == ["moments", "macro", "blurred", "permuted", "smooth"]
    assert all(test["low"] < test["auc"] < test["high"] for test in found["tests"].values())
    assert all(test["low"] <= 0.52 for test in found["tests"].values())
    stored = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert stored["survey"] == "fair"
    assert stored["tests"] == found["tests"]
    assert "## " not in found["verdict"]
    page = (tmp_path / "a" / "audit.md").read_text()
    assert page.count("| yes |") >= 4
    assert f"--survey {file} --n" in page  # not by the name in it


def test_mass_that_is_added_is_found(tmp_path):
    heavy = survey(tmp_path, "8.0e+10", "none")
    found = audit(survey=heavy, out=str(tmp_path / "a"), n=450)
    assert found["tests"]["moments"]["low"] > 0.55
    assert "has shortcuts" in found["verdict"]
    assert found["tests"]["permuted"]["low"] <= 0.52
    assert found["tests"]["macro"]["low"] <= 0.52


def test_the_original_surveys_have_shortcuts(tmp_path, capsys):
    out = str(tmp_path / "a")
    assert main(["audit", "--survey", "model_ii", "--n", "240", "--out", out]) == 0
    assert "Survey model_ii has shortcuts" in capsys.readouterr().out
    tests = json.loads((tmp_path / "a" / "audit.json").read_text())["tests"]
    assert set(tests) == {"moments", "macro", "blurred", "smooth"}
    assert tests["moments"]["auc"] > 0.8
    with pytest.raises(InputError, match="overwrite"):
        audit(survey="model_ii", out=out, n=240)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a run, or a survey"),
        ({"survey": "hsst"}, "hst"),
        ({"survey": "hst", "parts": "noise"}, "parts"),
        ({"survey": "hst", "n": 5}, "at least 90"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        audit(out=str(tmp_path / "a"), **options)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("name", "message"), [("file", "is not a folder"), ("folder", "holds something else than an audit of a survey")])  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, name, message):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=message):
        audit(survey="model_ii", out=str(tmp_path / name), n=90, overwrite=True)
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
