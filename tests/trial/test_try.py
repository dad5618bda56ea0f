"""`haloformer try`: the images that it shows are those of its script, and all that it promises is in the folder."""

import csv
import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from haloformer.cli import COMMANDS, main
from haloformer.cli.parsing import parse
from haloformer.cli.registry import HOMES
from haloformer.fitting.reallens import Options
from haloformer.trial import run as trial
from small_lens import NOISE, SCALE, TRUTH, lens

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def maker(monkeypatch):
    """`benchmarks/trial.py`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("trial")


@pytest.fixture
def small(maker, monkeypatch, tmp_path):
    """A lens of few pixels, fitted coarsely, in place of that which comes with the package."""
    folder = tmp_path / "images"
    folder.mkdir()
    image, given = lens()
    header = {name: (value, "") for name, value in fits.getheader(trial.IMAGES / "simulated_lens.fits").items() if name in SHOWN}  # fmt: skip
    header |= {"THETA_E": (TRUTH["theta_E"], ""), "SLOPE": (TRUTH["gamma"], "")}
    shapes = {"simulated_lens.fits": image, "psf.fits": given["psf"], "noise.fits": np.full_like(image, NOISE)}  # fmt: skip
    for name, pixels in shapes.items():
        maker.write(folder / name, pixels, {**header, "PIXSCALE": (SCALE, "")})
    for name in trial.CLASSES:
        (folder / name).write_bytes((trial.IMAGES / name).read_bytes())
    monkeypatch.setattr(trial, "IMAGES", folder)
    monkeypatch.setattr(trial, "RADIUS", 1.6)
    monkeypatch.setattr(trial, "OPTIONS", Options(supersampling=1, source_step=SCALE))


SHOWN = ("Z_LENS", "Z_SOURCE", "SUB_MASS")


def test_what_comes_with_the_package_is_what_its_script_makes(maker):
    made = {**maker.hst_like(), **maker.model_i()}
    assert {path.name for path in trial.IMAGES.iterdir()} == made.keys()
    assert made.keys() == {*trial.LENS, *trial.CLASSES}
    for name, (pixels, cards) in made.items():
        found, header = fits.getdata(trial.IMAGES / name, header=True)
        # Some counts of a bright image may differ by one where another processor rounds otherwise.
        assert np.abs(found - pixels).max() < 1e-4 * np.abs(pixels).max() or (
            np.mean(np.abs(found - pixels) > 1e-4 * np.abs(pixels).max()) < 1e-3
        ), name
        assert header["OBJECT"] == "SIMULATED"
        for key, (value, _) in cards.items():
            if key != "CODEVER":
                expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-6)
                assert header[key] == expected, (name, key)
    assert sum(path.stat().st_size for path in trial.IMAGES.iterdir()) < 400_000


def test_the_command_fits_draws_and_classifies_and_says_what_it_does(
    small, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["try", "--out", "my first"]) == 0
    folder = tmp_path / "my first"
    for name in ("fit/fit.png", "fit/fit.html", "fit/fit.fits", *trial.LENS, *trial.CLASSES):
        assert (folder / name).stat().st_size > 1000
    found = json.loads((folder / "fit" / "fit.json").read_text())
    assert abs(found["parameters"]["theta_E"]["value"] - TRUTH["theta_E"]) < 0.01
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*trial.CLASSES.values(), "unknown"]
    assert rows[-1]["ood"] == "True"
    said, progress = capsys.readouterr()
    assert "[1/2]" in progress
    assert "[2/2]" in progress
    assert rows[-1]["ood_reason"].split()[0] in said
    assert "SIMULATED" in said
    assert "1.100" in said
    assert max(len(line) for line in said.splitlines()) <= 60
    assert not list(folder.glob(".*"))
    # Every command that it ends with is one, with files that are there.
    commands = said.replace("\\\n", " ").split("done in")[1].splitlines()
    commands = [line.split("haloformer ", 1)[1] for line in commands if "haloformer " in line]
    assert len(commands) == 4
    for line in commands:
        name, *arguments = shlex.split(line)
        module = importlib.import_module(HOMES[name])
        given = parse(name, COMMANDS[name], getattr(module, name), arguments)
        if given.get("z_lens"):
            assert all(Path(given[key]).is_file() for key in ("psf", "noise_map"))
            assert Path(given["images"][0]).is_file()


def test_a_second_call_takes_the_same_folder_and_none_with_anything_else(tmp_path):
    folder = tmp_path / "a" / "b"
    trial._put_images(folder)
    (folder / "fit").mkdir()
    (folder / "psf.fits").unlink()  # as after a call that was ended
    trial._put_images(folder)
    assert {path.name for path in folder.iterdir()} == {"fit", *trial.LENS, *trial.CLASSES}
    (folder / "simulated_lens.fits").write_bytes(b"mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    file = tmp_path / "file"
    file.touch()
    for bad in (folder, other, file):
        before = sorted(bad.rglob("*"))
        assert main(["try", "--out", str(bad)]) == 2
        assert sorted(bad.rglob("*")) == before
    assert (folder / "simulated_lens.fits").read_bytes() == b"mine"


@pytest.mark.parametrize("out", ["", "file/inside", "/proc/nothing"])
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(out, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["try", "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("haloformer try: ")
    assert os.listdir() == ["file"]


def test_what_is_printed_needs_no_torch():
    code = "import importlib, sys; importlib.import_module('haloformer.cli.try'); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
