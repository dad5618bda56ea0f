"""`skip_bad`: what cannot be read is left out, counted and named."""

import csv
import json
import zipfile

import h5py
import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data import LensDataset, convert
from haloformer.data.conversion import open_labelled
from haloformer.data.left_out import MAX_NOTES, LeftOut
from haloformer.errors import InputError

IMAGE = np.random.default_rng(1).random((8, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Class folders of two good images each, one empty file, one of another shape, one with NaN."""
    for name in ("axion", "cdm"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for k in range(2):
            np.save(tmp_path / "x" / name / f"{k}.npy", IMAGE)
    (tmp_path / "x/axion/0a.npy").touch()
    np.save(tmp_path / "x/cdm/5.npy", IMAGE[:5])
    np.save(tmp_path / "x/cdm/6.npy", IMAGE * np.nan)
    return tmp_path / "x"


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.npy")):
            archive.write(file, file.relative_to(folder))
    return path


def test_what_reads_a_folder_of_images_says_which_command_has_the_options(tmp_path, folder, capsys):
    (folder / "axion/0a.npy").unlink()
    (folder / "cdm/5.npy").unlink()
    assert main(["inspect", str(folder)]) == 2  # has no --nan
    assert "--nan zero of haloformer convert reads it" in capsys.readouterr().err
    (folder / "cdm").rename(folder / "clumpy")
    assert main(["inspect", str(folder)]) == 2
    assert "class_map of haloformer convert maps it" in capsys.readouterr().err


@pytest.mark.parametrize("packed", [False, True])
def test_bad_files_are_left_out_named_and_counted(tmp_path, folder, packed, capsys):
    source = zipped(folder) if packed else folder
    with pytest.raises(InputError, match=r"0a\.npy is empty"):
        convert(source, tmp_path / "x.h5")
    assert main(["convert", str(source), "--out", str(tmp_path / "x.h5"), "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("wrote 4 images of 1×8×8 (2 axion, 2 cdm)")
    first, *reasons = said.err.splitlines()
    assert first == "warning: left out 3 images that cannot be read"
    assert [name for name, line in zip(("0a", "5", "6"), reasons) if f"/{name}.npy" in line] == [
        "0a",
        "5",
        "6",
    ]
    with h5py.File(tmp_path / "x.h5") as file:
        assert json.loads(file.attrs["left_out"])["n"] == 3
        assert all(name.decode().endswith(("0.npy", "1.npy")) for name in file["files"][:])


def test_nothing_that_can_be_read_is_an_error_and_leaves_no_file(tmp_path, folder):
    for file in folder.rglob("[01].npy"):
        file.write_bytes(b"")
    (folder / "cdm/5.npy").unlink()
    with pytest.raises(InputError, match=r"none of 6 images can be read: .*0\.npy is empty"):
        convert(folder, tmp_path / "x.h5", skip_bad=True)
    assert not (tmp_path / "x.h5").exists()


def test_images_of_another_shape_are_not_left_out_if_they_are_most(tmp_path, folder):
    for k in range(9):
        np.save(folder / "cdm" / f"{k}.npy", IMAGE[:5])
    said = r"most images have another shape than the first, .*npy with \(1, .*, such as .*cdm/.*npy with \(1, 5, .*: take those"
    with pytest.raises(InputError, match=said):
        convert(folder, tmp_path / "x.h5", skip_bad=True)


def test_images_of_an_hdf5_file_with_nan_are_left_out(tmp_path):
    images = np.stack([IMAGE * (np.nan if k == 1 else 1) for k in range(4)])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"], file["labels"] = images, np.eye(2, dtype=int)[[0, 1, 1, 0]]
        file["parameters/mass"] = np.arange(4.0)
        file.attrs["class_names"] = ["cdm", "axion"]
    done = convert(tmp_path / "x.h5", tmp_path / "y.h5", skip_bad=True)
    assert done["notes"][0] == "left out 1 image that cannot be read"
    dataset = LensDataset(tmp_path / "y.h5")
    assert dataset.parameters("mass").tolist() == [0, 2, 3]
    assert [dataset.class_names[k] for k in dataset.labels] == ["cdm", "axion", "cdm"]


def test_reasons_are_bounded():
    left_out = LeftOut()
    for k in range(MAX_NOTES + 5):
        left_out.add(f"{k}.npy is empty")
    assert len(left_out.notes) == MAX_NOTES + 2
    assert left_out.notes[-1] == "and 5 more"


def labelled(path, **arrays):
    np.savez(path, **{"images": np.stack([IMAGE] * 4), **arrays})
    return path


def test_images_and_labels_of_an_npz_are_converted(tmp_path):
    path = labelled(tmp_path / "x.npz", labels=np.array(["cdm", "vort", "cdm", "vort"]))
    assert convert(path, tmp_path / "a.h5")["classes"] == {"axion": 2, "cdm": 2}
    path = labelled(tmp_path / "y.npz", y=[0, 0, 1, 1], class_names=np.array(["cdm", "axion"]))
    assert convert(path, tmp_path / "b.h5")["classes"] == {"axion": 2, "cdm": 2}
    path = labelled(tmp_path / "z.npz", labels=[0, 0, 1, 1])
    with pytest.raises(InputError, match="class_map says"):
        convert(path, tmp_path / "c.h5")
    with pytest.raises(InputError, match=r"no array 'labels' and holds images; a dataset needs"):
        convert(labelled(tmp_path / "w.npz"), tmp_path / "d.h5")


def test_whatever_can_be_converted_can_be_opened_and_goes_with_the_dataset(
    tmp_path, folder, capsys
):
    for file in (folder / "axion/0a.npy", folder / "cdm/5.npy", folder / "cdm/6.npy"):
        file.unlink()
    for source in (folder, zipped(folder)):
        dataset, notes = open_labelled(source)
        assert (len(dataset), notes) == (4, [])
        temporary = dataset.path
        assert temporary.exists()
        del dataset
        assert not temporary.parent.exists()
        assert main(["inspect", str(source)]) == 0
        assert "4 images of 1×8×8" in " ".join(capsys.readouterr().out.split())


def predicted(run, folder, out, *options):
    code = main(["predict", str(run), str(folder), "--out", str(out), *options])
    with out.open(newline="") as file:
        return code, list(csv.DictReader(file))


@pytest.mark.parametrize("shards", [[], ["--shard_size", "2", "--batch_size", "2"]])
def test_predict_leaves_out_what_it_cannot_read(tmp_path, write_untrained_run, shards, capsys):
    normalization = {"kind": "image_max"}
    run = write_untrained_run(tmp_path / "run", 1, normalization, "original")
    (tmp_path / "x").mkdir()
    for k in range(5):
        np.save(tmp_path / "x" / f"{k}.npy", np.ones((64, 64)) * (np.nan if k == 2 else 1))
    (tmp_path / "x/9.fits").touch()
    code, rows = predicted(run, tmp_path / "x", tmp_path / "a.csv", "--skip-bad", *shards)
    assert code == 0
    assert [row["file"][-5:] for row in rows] == ["0.npy", "1.npy", "3.npy", "4.npy"]
    assert "error" not in rows[0]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "warning: left out 2 images that cannot be read"
    assert ["2.npy" in said[1], "9.fits is empty" in said[2]] == [True, True]
    for k in (0, 1, 3, 4):
        (tmp_path / "x" / f"{k}.npy").unlink()
    options = ["--out", str(tmp_path / "b.csv"), "--skip-bad"]
    assert main(["predict", str(run), str(tmp_path / "x"), *options]) == 2
    assert "none of 2 images can be read" in capsys.readouterr().err
    assert not (tmp_path / "b.csv").exists()
