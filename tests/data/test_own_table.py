"""What haloformer wrote as folders of images comes back with all parameters."""

import shutil
from pathlib import PurePosixPath

import h5py
import numpy as np
import pytest

from haloformer.data import LensDataset, deeplense
from haloformer.data.conversion import convert
from haloformer.data.deeplense import write_deeplense_folder
from haloformer.data.fits_folder import write_fits_folder
from haloformer.data.own_table import OwnTable
from haloformer.errors import InputWarning
from haloformer.simulation import Simulator


def files_of(path):
    with h5py.File(path) as file:
        return [name.decode() for name in file["files"][:]]


def write(batch, folder, kind):
    if kind == "fits":
        write_fits_folder(
            [batch], folder, class_names=batch.class_names, attributes=batch.attributes
        )
    else:
        write_deeplense_folder([batch], folder, class_names=batch.class_names)


@pytest.mark.parametrize(
    ("survey", "kind"), [("ladder_2_halos", "fits"), ("model_i", "npy"), ("model_i", "npy.zip")]
)
def test_parameters_of_simulated_folders_come_back(tmp_path, survey, kind):
    kind, _, packed = kind.partition(".")
    batch = Simulator(survey, noise="none", seed=3).batch(range(9))
    folder = tmp_path / "made"
    write(batch, folder, kind)
    source = shutil.make_archive(str(folder), packed, folder) if packed else folder
    done = convert(source, tmp_path / "x.h5", survey=survey, noise="none")
    files = files_of(done["path"])
    with LensDataset(done["path"]) as dataset:
        assert set(dataset.parameter_names) == set(batch.parameters)
        order = np.argsort([PurePosixPath(name).stem[-7:] for name in files])
        for name, values in batch.parameters.items():
            found = dataset.parameters(name)[order]
            assert found.dtype.kind == values.dtype.kind, name
            if values.ndim == 2:  # as long as the longest of those that are there
                longest = np.isfinite(values).sum(1).max()
                assert np.isnan(values[:, longest:]).all()
                values = values[:, :longest]
                found = found.reshape(values.shape)
            np.testing.assert_array_equal(found, values, err_msg=name)
    with h5py.File(done["path"]) as file:
        for name, unit in batch.attributes["units"].items():
            if name in batch.parameters:
                assert file["parameters"][name].attrs["units"] == unit, name


def test_images_that_the_table_does_not_know_have_no_parameters(tmp_path):
    batch = Simulator("model_i", noise="none", seed=3).batch(range(9))
    folder = tmp_path / "made"
    write(batch, folder, "npy")
    shutil.copy(min(folder.rglob("cdm_*")), folder / "cdm" / "mine.npy")
    path = convert(folder, tmp_path / "x.h5")["path"]
    mine = [name.endswith("mine.npy") for name in files_of(path)].index(True)
    with LensDataset(path) as dataset:
        masses = dataset.parameters("log10_m_axion")
        assert np.isfinite(masses).tolist() == (dataset.labels == 0).tolist()
        known = np.isfinite(dataset.parameters("exposure_time"))
        assert not known[mine]
        assert known.sum() == 9
        assert sorted(dataset.parameters("index")[dataset.labels == 1]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "table",
    [
        "",
        "file,class,index\n",
        "file,class,mass\ncdm/a.npy,cdm,1.0\n",
        "file,class,index,../x\ncdm/a.npy,cdm,1,2\n",
        "file,class,index,a,a\ncdm/a.npy,cdm,1,2,3\n",
        "file,class,index,a\ncdm/a.npy,cdm,1\n",
        "file,class,index,a\ncdm/a.npy,cdm,1,many\n",
        "file,class,index," + ",".join(f"a{k}" for k in range(2000)) + "\n",
        "file,class,index\ncdm/other.npy,cdm,1\n",
    ],
)
def test_tables_of_others_are_passed_over(table):
    own = OwnTable()
    own.read(table.encode(), PurePosixPath("."))
    assert own.parameters(["cdm/a.npy"]) == {}


def test_long_lists_and_names_with_commas_are_read():
    own, many = OwnTable(), [float(k) for k in range(60_000)]  # more than csv takes in a cell
    row = ";".join(map(repr, many))
    table = f'file,class,index,a\r\ncdm/0.npy,cdm,0,{row}\r\n"a, b/1.npy","a, b",1,2.5\r\n'
    own.read(table.encode(), PurePosixPath("."))
    found = own.parameters(["cdm/0.npy", "a, b/1.npy"])
    np.testing.assert_array_equal(found["a"][0], many)
    assert found["a"][1, 0] == 2.5
    assert found["index"].tolist() == [0, 1]


def test_what_would_be_too_large_is_left_out():
    own, wide = OwnTable(), ";".join(["1"] * 40_000)
    rows = [f"cdm/{k}.npy,cdm,{k},{wide if k == 0 else 1}" for k in range(3000)]
    own.read("\n".join(["file,class,index,a", *rows]).encode(), PurePosixPath("."))
    found = own.parameters([f"cdm/{k}.npy" for k in range(3000)])
    assert list(found) == ["index"]
    assert found["index"].tolist() == list(range(3000))


def test_a_table_that_is_too_large_is_told(tmp_path, monkeypatch):
    batch = Simulator("model_i", noise="none", seed=3).batch(range(3))
    write(batch, tmp_path / "made", "npy")
    monkeypatch.setattr(deeplense, "_MOST_TABLE", 100)
    with pytest.warns(InputWarning, match=r"parameters\.csv: is larger than"):
        done = convert(tmp_path / "made", tmp_path / "x.h5")
    assert done["parameters"] == ["index", "log10_m_axion"]
