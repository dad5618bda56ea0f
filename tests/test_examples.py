"""The examples run as they are, at small sizes, and say what they promise."""

import functools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from haloformer.cli import main
from small_lens import SCALE, lens

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SMALL = {"model": "vit_nano", "images": 192}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Loads an example's functions, with its neighbours importable and a folder of its own to write in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: runpy.run_path(str(EXAMPLES / name))


@pytest.fixture
def shallow(monkeypatch):
    """Networks of one block in place of twelve: all that an example does with them is the same."""
    import haloformer

    train = functools.partial(
        haloformer.train, model_args={"depth": 1, "embed_dim": 32, "num_heads": 2}
    )
    monkeypatch.setattr(haloformer, "train", train)


def _write_lens(survey: str, path: Path) -> str:
    import numpy as np

    import haloformer

    np.save(path, haloformer.simulate(survey, 1, seed=5).images[0, 0].numpy())
    return str(path)


def test_every_example_is_listed():
    listed = re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    files = {p.name for p in EXAMPLES.iterdir() if p.suffix in (".py", ".sh", ".yaml", ".ipynb")}
    assert files <= set(listed)


def test_a_fits_file_is_classified_by_the_shipped_model(example, capsys):
    example("classify_fits.py")["main"]()
    out = capsys.readouterr().out
    assert out.startswith("simulated.fits: axion ")
    assert sum(float(p) for p in re.findall(r"\d\.\d{3}", out)) == pytest.approx(1, abs=0.002)


def test_tables_have_units_truth_and_the_same_answer_for_finer_pixels(example, capsys, tmp_path):
    from astropy.table import Table

    example("tables.py")["main"](str(tmp_path / "t"), n=3)
    out = capsys.readouterr().out
    assert "Predictions: 3 images by model_ii: 1 axion, 1 cdm, 1 no_sub" in out
    assert "as a CCDData of finer pixels: axion at RA 150.0000" in out
    table = Table.read(tmp_path / "t" / "predictions.ecsv")
    assert str(table["log10_m_axion"].unit) == "dex(eV)"
    assert abs(table["log10_m_axion"][0] - table["log10_m_axion_true"][0]) < 1
    assert (tmp_path / "t" / "predictions.png").stat().st_size > 10_000


def _write_fits(path: Path, side: int, scale: float | None) -> str:
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    header = None
    if scale is not None:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150, 2]
        wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
        header = wcs.to_header()
    image = np.random.default_rng(0).random((side, side), np.float32)
    fits.writeto(path, image, header, overwrite=True)
    return str(path)


def test_fits_files_of_another_size_are_read_as_predict_reads_them(example, capsys, tmp_path):
    """With a pixel scale they are resampled, without one a line says what is wrong; others go on."""
    import csv

    from haloformer.prediction import predict

    files = [
        _write_fits(tmp_path / "known.fits", 100, 0.1),
        _write_fits(tmp_path / "unknown.fits", 100, None),
    ]
    example("classify_fits.py")["main"](*files)
    known, unknown = capsys.readouterr().out.splitlines()
    predict("model_i", files, str(tmp_path / "p.csv"), device="cpu")
    with (tmp_path / "p.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    p = [float(rows[0][f"p_{name}"]) for name in ("axion", "cdm", "no_sub")]
    assert [float(v) for v in re.findall(r"\d\.\d{3}(?=,| –)", known)] == pytest.approx(p, abs=6e-4)
    assert "– unknown: " in known
    assert "100 × 100" in unknown
    assert "100 × 100" in rows[1]["error"]


_SCRIPT = """
import os, runpy, sys
sys.argv, sys.path[0] = [script, file], os.path.dirname(script)
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("name", ["classify_fits.py", "explain_prediction.py"])
def test_an_example_ends_in_a_line_not_in_a_traceback(forked, name, tmp_path, monkeypatch):
    file = _write_fits(tmp_path / "unknown.fits", 100, None)
    monkeypatch.chdir(tmp_path)
    process = forked(exec, _SCRIPT, {"script": str(EXAMPLES / name), "file": file})
    out, error = process.communicate(timeout=240)
    assert "Traceback" not in error
    assert "100 × 100" in out + error


def test_the_design_is_drawn_as_the_model_is(example, tmp_path):
    from haloformer import create_model

    drawn = example("design_picture.py")
    layers = drawn["steps"](create_model("haloformer_c8_nano", 96, in_chans=3))[0][1]
    assert layers.startswith("6 fields × 8 orientations, 48²")
    assert layers.endswith("16 fields × 8 orientations, 12²")
    drawn["draw"](str(tmp_path / "h.png"))
    assert (tmp_path / "h.png").stat().st_size > 50_000


def test_fine_tuning_is_compared_with_scratch(example, capsys, tmp_path, shallow):
    example("fine_tune.py")["main"](str(tmp_path / "few"), **SMALL, labels=10, n_test=30)
    assert re.search(r"tuned minus that of .*scratch: [+-]\d", capsys.readouterr().out)
    tuned = json.loads((tmp_path / "few" / "tuned" / "pretrained.json").read_text())
    assert "source" in json.dumps(tuned)


def test_a_model_is_as_good_as_itself(example, capsys, trained_run):
    example("compare.py")["main"](str(trained_run), str(trained_run), "model_ii", 30)
    assert "+0.0000 (+0.0000 to +0.0000)" in capsys.readouterr().out


def test_the_two_small_ones_to_compare_are_trained(example, tmp_path, shallow):
    runs = example("compare.py")["two_small_ones"](str(tmp_path), ("vit_nano",), 96)
    assert all((Path(run) / "artefact" / "weights.safetensors").is_file() for run in runs)


def test_the_mass_comes_with_intervals(example, capsys, tmp_path, shallow, unpictured):
    example("mass.py")["main"](str(tmp_path / "mass"), **SMALL, epochs=1, n_test=45)
    assert re.search(
        r"mean error \d\.\d+ dex.*\n\d+% of the true masses lie in their 90% intervals",
        capsys.readouterr().out,
    )


def test_a_prediction_is_explained_on_a_page(example, capsys, trained_run, tmp_path):
    example("explain_prediction.py")["main"](
        _write_lens("model_ii", tmp_path / "a.npy"), "why", run=str(trained_run)
    )
    page = capsys.readouterr().out.removeprefix("open ").strip()
    assert "<svg" in Path(page).read_text(encoding="utf-8") or "<img" in Path(page).read_text(
        encoding="utf-8"
    )


def test_the_pictures_of_the_physics_page_are_drawn(example, capsys, tmp_path):
    from PIL import Image

    names = example("physics_pictures.py")
    for surveys in (names["SURVEYS"], names["FITTED"]):
        for survey in set(surveys) - {"model_ii"}:  # the smallest images
            del surveys[survey]
    names["main"](str(tmp_path), n=3)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    page = (ROOT / "docs" / "physics.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(images/(physics_\w+\.png)\)", page))
    assert drawn == shown - {"physics_components.png"}  # which has a script of its own
    for name in drawn:
        shipped = ROOT / "docs" / "images" / name
        assert shipped.stat().st_size < 250_000
        assert Image.open(tmp_path / name).size[0] <= 1300
    # Substructure is farther from the lens that lacks it than from the smooth lens that fits best.
    found = re.findall(
        r"median χ ([\d.]+) to the same lens without, ([\d.]+) to the best", capsys.readouterr().out
    )
    assert len(found) == 2
    assert all(float(added) > float(kept) > 2 for added, kept in found)


def test_the_picture_of_components_is_drawn(example, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    names = example("component_pictures.py")
    for title, part in list(names["COMPONENTS"].items()):
        if part["kind"] not in ("shear", "pseudo_jaffe"):
            del names["COMPONENTS"][title]
    figure = names["draw"]()
    arcs, changes = ([axes.images[0].get_array() for axes in figure.axes[k:6:3]] for k in (1, 2))
    assert all(np.asarray(image).max() > 0 for image in arcs)
    shear, perturber = (np.asarray(change) for change in changes)
    assert 20 < np.abs(shear).max() < 90  # % of the peak
    row, column = np.unravel_index(np.abs(perturber).argmax(), perturber.shape)
    x, y = ((place - 43.5) * 0.05 for place in (column, row))
    assert np.hypot(x - 1.05, y - 0.35) < 0.25  # arcsec: where it lies
    names["save"](figure, tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").size[0] <= 1300
    assert (ROOT / "docs" / "images" / "physics_components.png").stat().st_size < 250_000


def test_simulated_lenses_are_drawn_beside_real_ones(example, tmp_path, monkeypatch):
    fits = pytest.importorskip("astropy.io.fits")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    names = example("realistic_gallery.py")
    names["REAL"].pop("hst")
    names["REAL"].pop("euclid")
    path, place, _ = names["REAL"]["jwst"]
    real = np.random.default_rng(1).normal(0, 1, (70, 70)).astype(np.float32)
    real[33:37, 33:37] += 1000
    (tmp_path / path).parent.mkdir(parents=True)
    fits.writeto(tmp_path / path, real)
    monkeypatch.setitem(names["draw"].__globals__, "REAL", {"jwst": (path, place, 8)})
    figure, key = names["draw"](tmp_path)
    assert key == [f"row 1: panel {place + 1}"]
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(shown) == 7
    assert all(image.shape == (50, 50) for image in shown)
    assert shown[place].max() == pytest.approx(np.arcsinh(500), rel=0.1)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs sh")
def test_deeplense_folders_become_a_report(tmp_path, monkeypatch, unpictured):
    # A stand-in writes down what the script starts; then it is carried out here, without starting Python six times.
    stand_in = tmp_path / "bin" / "haloformer"
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/bin/sh\nfor a in "$@"; do printf "%s " "$a"; done >> commands.txt\necho >> commands.txt\n'
    )
    stand_in.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "N": "99",
        "EPOCHS": "1",
    }
    subprocess.run(
        ["sh", EXAMPLES / "deeplense_folder.sh"],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=30,
    )
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in (tmp_path / "commands.txt").read_text().splitlines()]
    assert [command[0] for command in commands] == [
        "simulate",
        "simulate",
        "convert",
        "convert",
        "train",
        "evaluate",
    ]
    for command in commands:
        assert main(command) == 0, command
    assert (tmp_path / "runs" / "model_iii" / "evaluation" / "test" / "report.html").is_file()


@pytest.fixture
def carry_out(tmp_path, monkeypatch, capsys, unpictured):
    """Executes a notebook at its smallest; returns its names and what it prints."""

    def work(name, **environment):
        monkeypatch.chdir(tmp_path)
        for key, value in {"SCALE": "check", **environment}.items():
            monkeypatch.setenv(key, value)
        notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
        names: dict = {"__name__": "__main__"}
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
                assert not cell["outputs"]  # the repository keeps no output that nobody can repeat
        return names, capsys.readouterr().out

    return work


def test_the_notebook_repeats_a_published_row(carry_out):
    _, said = carry_out("published_row")
    rows = re.findall(r"^(axion|cdm|no_sub) +0\.\d{4} +\d\.\d{4}", said, flags=re.MULTILINE)
    assert rows == ["axion", "cdm", "no_sub"]


def test_the_notebook_of_a_survey_of_ones_own_audits_trains_and_tests(carry_out):
    names, said = carry_out("own_survey")
    assert names["lenses"].images.shape == (9, 1, 150, 150)
    assert set(names["lenses"].class_names) == {"axion", "cdm", "no_sub"}
    assert re.search(r"^moments +0\.\d{3} \(", said, flags=re.MULTILINE)
    assert names["tested"]["n_images"] == 60


def test_the_notebook_of_few_labels_compares_tuned_with_trained_from_scratch(carry_out):
    names, _ = carry_out("few_labels")
    assert [row[:2] for row in names["rows"]] == [(10, "scratch"), (10, "tuned")]


def test_the_notebook_of_an_architecture_of_ones_own_trains_it(carry_out):
    names, _ = carry_out("own_architecture")
    artefact = names["haloformer"].load("runs/ring_net").artefact
    assert (artefact["model"]["name"], artefact["model"]["in_chans"]) == ("ring_net", 3)
    assert names["tested"]["n_images"] == 60


def test_the_notebook_of_the_common_task_loads_trains_and_tests(carry_out):
    names, said = carry_out("common_task")
    assert "looks scaled" in said
    assert names["result"].metrics.keys() >= {"val_auc_axion", "val_auc_cdm", "val_auc_no_sub"}


def test_the_notebook_of_a_real_lens_finds_a_subhalo(carry_out, tmp_path):
    from astropy.io import fits

    image, given = lens(lens_light=False, perturber=(8e9, 0.3, -0.95, 0.4))
    header = fits.Header({"PIXSCALE": SCALE, "RADIUS": 1.6, "Z_LENS": 0.3, "Z_SOURCE": 1.0})
    header.update({"SUB_X": -0.95, "SUB_Y": 0.4, "SUB_MASS": 8e9})
    noise = np.broadcast_to(given["noise"], image.shape)
    for name, pixels in (("simulated_lens", image), ("psf", given["psf"]), ("noise", noise)):
        fits.writeto(tmp_path / f"{name}.fits", pixels.astype("f4"), header)
    names, said = carry_out("real_lens", LENS=str(tmp_path))
    (one,) = names["found"].perturbers
    assert np.hypot(one["x"] + 0.95, one["y"] - 0.4) < 0.15
    assert "the truth:" in said
    assert "autolens.json" in {path.name for path in names["folder"].iterdir()}


def _deeplense_page() -> str:
    return (ROOT / "docs" / "deeplense.md").read_text(encoding="utf-8")


def test_network_names_for_deeplense_contributors_exist():
    from haloformer.models.registry import find_model

    section = _deeplense_page().partition("## Network names")[2].partition("## Earlier")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    names = [name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)]
    assert len(names) > 30
    for name in names:
        assert find_model(name).name == name


def test_options_and_presets_for_deeplense_contributors_exist():
    from haloformer.training.config import SHORT_NAMES, compose

    section = _deeplense_page().partition("## Earlier scripts")[2]
    right = [
        row.split("|")[2]
        for row in section.splitlines()
        if row.startswith("| `--") and "haloformer" not in row.split("|")[2]
    ]
    options = {option for cell in right for option in re.findall(r"`--([a-z_]+)", cell)} - {
        "preset"
    }
    assert len(options) > 12
    assert options <= set(SHORT_NAMES)
    for preset in re.findall(r"published_[a-z0-9_]*[a-z0-9](?=`| )", section):
        assert compose(preset, {"data": "model_i"}).model.name
