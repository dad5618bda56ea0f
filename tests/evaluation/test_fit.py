"""`haloformer fit`: one row per image, the picture, and what is refused."""

import csv

import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.fitting import fit_smooth
from haloformer.fitting.command import fit
from haloformer.simulation import simulate


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_ii", 12, seed=31, noise="instrument")


@pytest.fixture(scope="module")
def dataset(lenses, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "test.h5"
    write_dataset(
        path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes
    )
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_what_fit_smooth_finds_and_the_picture_is_drawn(
    lenses, dataset, tmp_path, capsys
):
    out, figure = tmp_path / "fits.csv", tmp_path / "fits.png"
    arguments = [
        "fit",
        str(dataset),
        "--survey",
        "model_ii",
        "--noise",
        "instrument",
        "--out",
        str(out),
        "--figure",
        str(figure),
    ]
    assert main([*arguments, "--batch_size", "5"]) == 0
    found = fit_smooth(lenses.images, "model_ii", noise="instrument")
    table = rows(out)
    assert [row["index"] for row in table] == [str(i) for i in range(12)]
    assert [float(row["source_x"]) for row in table] == pytest.approx(
        found.values[:, 0].tolist(), abs=1e-5
    )
    assert [float(row["source_y_error"]) for row in table] == pytest.approx(
        found.errors[:, 1].tolist(), rel=1e-3
    )
    assert [float(row["chi2"]) for row in table] == pytest.approx(found.chi2.tolist(), rel=1e-4)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "median chi2" in capsys.readouterr().out
    assert main(arguments) == 2  # exists already


def test_an_unreadable_image_gets_a_row_and_the_others_their_fits(lenses, tmp_path):
    for i in range(2):
        np.save(tmp_path / f"lens{i}.npy", lenses.images[i, 0].numpy())
    np.save(tmp_path / "small.npy", np.zeros((10, 10)))
    with pytest.raises(InputError, match=r"small\.npy"):
        fit(
            [str(tmp_path)],
            survey="model_ii",
            out=str(tmp_path / "a.csv"),
            noise="instrument",
            on_error="stop",
        )
    assert not (tmp_path / "a.csv").exists()
    summary = fit(
        [str(tmp_path / "*.npy")],
        survey="model_ii",
        out=str(tmp_path / "a.csv"),
        noise="instrument",
    )
    assert (summary.n_rows, summary.n_errors) == (3, 1)
    table = {row["file"].rpartition("/")[2]: row for row in rows(tmp_path / "a.csv")}
    assert "10" in table["small.npy"]["error"]
    assert float(table["lens1.npy"]["chi2"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"survey": "model_x"}, "model_x"),
        ({"noise": "loud"}, "noise mode"),
        ({"figure": "fits.gif"}, "figures are written as"),
        ({"figure": "nowhere/fits.png"}, "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_read(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(["absent"], **{"survey": "model_ii", "out": str(tmp_path / "a.csv"), **options})
