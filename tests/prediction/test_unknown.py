"""An answer does not survive its own warning, at whichever door it is asked for."""

import csv

import numpy as np
import pytest
import torch

from haloformer.app.answers import classify
from haloformer.cli import main
from haloformer.prediction import load, predict
from haloformer.simulation import simulate

MASS = ("log10_m_axion", "log10_m_axion_sigma", "log10_m_axion_low", "log10_m_axion_high")
STRANGE = 3  # number of the image that is none of the training's


@pytest.fixture(scope="module")
def shipped():
    return load("model_i", "cpu")


@pytest.fixture(scope="module")
def images():
    """Three usual images, one of each class, and the vortex a hundred times as bright."""
    usual = simulate("model_i", 3, seed=2002).images
    return torch.cat([usual, 100 * usual[:1]])


@pytest.fixture
def files(images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(images.numpy()):
        np.save(folder / f"{i}.npy", image[0])
    return folder


def table(path):
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            return [
                {k: v if v != "" else None for k, v in row.items()}
                for row in csv.DictReader(stream)
            ]
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_leaves_blank_what_means_nothing(files, tmp_path, suffix, shipped, images):
    out = tmp_path / f"p{suffix}"
    summary = predict("model_i", [str(files)], str(out), device="cpu", shard_size=2, batch_size=2)
    rows = table(out)
    assert [row["class"] for row in rows] == ["axion", "cdm", "no_sub", "unknown"]
    assert summary.class_counts == {"axion": 1, "cdm": 1, "no_sub": 1, "unknown": 1}
    for row in rows:
        assert all((row[name] is not None) == (row["class"] == "axion") for name in MASS)
    found = [float(rows[STRANGE][f"p_{name}"]) for name in shipped.class_names]
    np.testing.assert_allclose(found, shipped.probabilities(images)[STRANGE], atol=1e-5)


def test_a_raw_table_has_classes_and_masses_of_all(files, tmp_path, shipped, images):
    out = tmp_path / "p.csv"
    assert predict("model_i", [str(files)], str(out), device="cpu", raw=True).n_ood == 1
    rows = table(out)
    best = shipped.probabilities(images).argmax(1).tolist()
    assert [row["class"] for row in rows] == [shipped.class_names[k] for k in best]
    assert all(row[name] is not None for row in rows for name in MASS)


def test_python_says_what_the_table_does(shipped, images):
    found = shipped.answers(images)
    assert found.classes == ["axion", "cdm", "no_sub", "unknown"]
    assert found.flagged.tolist() == [False, False, False, True]
    assert "unlike" in found.reasons[STRANGE]
    masses = shipped.estimates(images)
    assert all(
        values[:, 0].isfinite().tolist() == [True] + 3 * [False] for values in masses.values()
    )
    raw = shipped.answers(images, raw=True)
    assert "unknown" not in raw.classes
    assert torch.equal(raw.estimates["mean"], shipped.estimates(images, raw=True)["mean"])
    assert raw.estimates["mean"].isfinite().all()


def test_the_terminal_shows_no_class_and_no_mass_of_a_flagged_image(files, tmp_path, capsys):
    command = ["predict", "model_i", str(files / "3.npy"), "--device", "cpu", "--out"]
    assert main([*command, str(tmp_path / "p.csv")]) == 0
    printed = capsys.readouterr()
    assert "1 unknown" in printed.out
    assert "log10_m_axion" not in printed.out
    assert "unknown" in printed.err
    assert main([*command, str(tmp_path / "raw.csv"), "--raw"]) == 0
    printed = capsys.readouterr()
    assert "unknown" not in printed.out + printed.err
    assert "log10_m_axion" in printed.out


def test_the_page_shows_no_class_and_no_mass_of_a_flagged_image(shipped, files):
    pytest.importorskip("gradio")
    from haloformer.app.parts import answer

    usual, strange = (classify(shipped, files / f"{i}.npy", attention=False) for i in (0, STRANGE))
    assert (usual.class_name, strange.class_name) == ("axion", "unknown")
    assert list(usual.estimates) == ["log10_m_axion"]
    assert strange.estimates == {}
    assert "<h2>Unknown</h2>" in answer(strange)
    assert "log10_m_axion" not in answer(strange)
    assert classify(shipped, files / "1.npy", attention=False).estimates == {}
