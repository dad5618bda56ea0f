import os

import h5py
import numpy as np
import pytest

from haloformer.data import LensDataset, convert, write_dataset
from haloformer.errors import InputError

from .test_deeplense import IMAGES, archive, content, files, folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_folder_and_archive_become_the_same_dataset(tmp_path, packed, compression):
    entries = files("Model_I/")
    src = archive(tmp_path / "x.tgz", entries) if packed else folder(tmp_path / "f", entries)
    seen = []
    summary = convert(
        src,
        tmp_path / "o.h5",
        progress=lambda done, total: seen.append((done, total)),
        compression=compression,
    )
    assert summary == {
        "path": str(tmp_path / "o.h5"),
        "n": 9,
        "image_shape": (1, 6, 5),
        "classes": {"axion": 3, "cdm": 3, "no_sub": 3},
        "parameters": ["index", "log10_m_axion"],
        "notes": [],
    }
    assert seen == [(9, None if packed else 9)]
    with LensDataset(tmp_path / "o.h5") as data:
        assert np.array_equal(data.images_at(range(9))[:, 0], np.concatenate(list(IMAGES.values())))
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert np.allclose(data.parameters("log10_m_axion")[:3], [-22, -23, -24])
        assert np.isnan(data.parameters("log10_m_axion")[3:]).all()
        assert data.units["log10_m_axion"] == "log10(eV)"
        assert data.attributes["source"] == src.name
    with h5py.File(tmp_path / "o.h5") as file:
        assert file["files"].asstr()[0] == "Model_I/axion/0.npy"
    convert(tmp_path / "o.h5", tmp_path / "again.h5")
    with h5py.File(tmp_path / "o.h5") as file, h5py.File(tmp_path / "again.h5") as again:
        assert again["images"].chunks is None
        assert np.array_equal(file["files"][:], again["files"][:])


def test_an_archive_with_two_classes_has_two(tmp_path):
    entries = {name: data for name, data in files().items() if not name.startswith("cdm")}
    convert(archive(tmp_path / "x.tgz", entries), tmp_path / "o.h5")
    data = LensDataset(tmp_path / "o.h5")
    assert data.class_names == ("axion", "no_sub")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_names_of_classes_may_stand_at_the_labels_or_in_the_map_by_any_of_theirs(tmp_path):
    images, labels = np.random.default_rng(0).random((6, 5, 5)), np.arange(6) % 3
    with h5py.File(tmp_path / "named.h5", "w") as file:
        file["images"], file["labels"] = images, labels
        file["labels"].attrs["class_names"] = ["no", "sphere", "vort"]
    with h5py.File(tmp_path / "numbered.h5", "w") as file:
        file["images"], file["labels"] = images, labels
    convert(tmp_path / "named.h5", tmp_path / "a.h5")
    names = {"0": "no", "1": "sphere", "2": "vort"}
    convert(tmp_path / "numbered.h5", tmp_path / "b.h5", class_map=names)
    for name in "ab":
        with LensDataset(tmp_path / f"{name}.h5") as data:
            assert data.class_names == ("axion", "cdm", "no_sub")
            assert data.labels.tolist() == [2, 1, 0, 2, 1, 0]


def test_class_folders_of_fits_and_pictures_are_converted(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "f/axion").mkdir(parents=True)
    (tmp_path / "f/no").mkdir()
    fits.PrimaryHDU(IMAGES["axion"][0].astype("f4")).writeto(tmp_path / "f/axion/a.fits")
    image.fromarray(IMAGES["no_sub"][0].astype("u1")).save(tmp_path / "f/no/b.png")
    convert(tmp_path / "f", tmp_path / "o.h5")
    data = LensDataset(tmp_path / "o.h5")
    assert np.array_equal(data[0][0][0], IMAGES["axion"][0])
    assert np.array_equal(data[1][0][0], IMAGES["no_sub"][0])


def test_converting_our_own_file_changes_nothing(tmp_path, dataset_file, lenses):
    convert(dataset_file, tmp_path / "o.h5", compression="gzip")
    old, new = LensDataset(dataset_file), LensDataset(tmp_path / "o.h5")
    assert np.array_equal(new.images_at(range(12)), lenses["images"])
    assert np.array_equal(new.labels, old.labels)
    assert new.units == old.units
    for name in old.parameter_names:
        assert np.array_equal(new.parameters(name), old.parameters(name), equal_nan=True)
    assert new.attributes["survey"] == "model_ii"


@pytest.mark.parametrize("names", [None, ["no", "sphere", "vort"]])
def test_labels_of_a_foreign_file_are_put_in_our_order(tmp_path, names):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.arange(6 * 20.0).reshape(6, 4, 5)
        file["labels"] = np.array([0, 1, 2, 0, 1, 2], dtype="u1")
        if names:
            file.attrs["class_names"] = names
    if names is None:
        with pytest.raises(InputError, match="class_map says what each label number means"):
            convert(tmp_path / "x.h5", tmp_path / "o.h5")
    convert(
        tmp_path / "x.h5",
        tmp_path / "o.h5",
        class_map=None if names else {"0": "no_sub", "1": "cdm", "2": "axion"},
    )
    data = LensDataset(tmp_path / "o.h5")
    assert data.class_names == ("axion", "cdm", "no_sub")
    assert data.labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert data.image_shape == (1, 4, 5)


def test_labels_as_names_and_channels_last_are_understood(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.random.default_rng(0).random((3, 20, 22, 3))
        file["labels"] = [b"sphere", b"no", b"vort"]
    convert(tmp_path / "x.h5", tmp_path / "o.h5", channels=3)
    data = LensDataset(tmp_path / "o.h5")
    assert data.labels.tolist() == [1, 2, 0]
    assert data.image_shape == (3, 20, 22)


def test_other_class_names_of_a_foreign_file_are_refused_without_a_map(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"], file["labels"] = np.ones((2, 4, 4)), [0, 1]
        file.attrs["class_names"] = ["lens", "no"]
    with pytest.raises(InputError, match="unknown class 'lens'"):
        convert(tmp_path / "x.h5", tmp_path / "o.h5")


def test_the_first_nan_image_is_named_and_can_be_filled(tmp_path, lenses):
    lenses["images"][7, 0, 0, 0] = np.nan
    write_dataset(tmp_path / "x.h5", **lenses)
    told = r"image 7: 1 of 64 pixels are NaN.*--nan zero of haloformer convert reads it"
    with pytest.raises(InputError, match=told):
        convert(tmp_path / "x.h5", tmp_path / "o.h5")
    convert(tmp_path / "x.h5", tmp_path / "o.h5", nan="zero")
    assert LensDataset(tmp_path / "o.h5")[7][0][0, 0, 0] == 0


@pytest.mark.parametrize("bad", [b"", b"\x93NUMPY\x01\x00", content(np.full((6, 5), np.inf))])
def test_a_failed_conversion_destroys_nothing(tmp_path, bad):
    src = folder(tmp_path / "f", {**files(), "no_sub/2.npy": bad})
    (tmp_path / "o.h5").write_text("old")
    with pytest.raises(InputError, match=r"no_sub/2\.npy"):
        convert(src, tmp_path / "o.h5", overwrite=True)
    assert (tmp_path / "o.h5").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["f", "o.h5"]


def test_an_existing_output_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / "o.h5").write_text("old")
    with pytest.raises(InputError, match="exists already"):
        convert(folder(tmp_path / "f", {**files(), "no_sub/2.npy": b"bad"}), tmp_path / "o.h5")


def test_the_source_is_never_the_output(dataset_file):
    with pytest.raises(InputError, match="is the source itself"):
        convert(dataset_file, dataset_file, overwrite=True)


def test_what_cannot_be_a_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        convert(tmp_path / "x", tmp_path / "o.h5")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="neither a folder"):
        convert(tmp_path / "x.txt", tmp_path / "o.h5")
    (tmp_path / "x.h5").write_text("x")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        convert(tmp_path / "x.h5", tmp_path / "o.h5")


@pytest.mark.parametrize("name", ["x.csv", "x.fits.gz", "x.npz", "x.zip"])
def test_a_name_of_another_format_is_refused(tmp_path, name):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((2, 5, 5)), ["no", "vort"]
    with pytest.raises(InputError, match=r"what is written is HDF5: give a name that ends in \.h5"):
        convert(tmp_path / "a.h5", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_file_of_ones_own_has_classes_by_any_of_their_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.zeros((3, 1, 5, 5), np.float32)
        file["labels"] = np.arange(3)
        file.attrs["class_names"] = ["no", "sphere", "vort"]
    with LensDataset(tmp_path / "a.h5") as data:
        assert data.class_names == ("no_sub", "cdm", "axion")
        assert data.labels.tolist() == [0, 1, 2]
