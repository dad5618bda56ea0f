import os
import pickle
import signal
import sys
import textwrap
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.data import DatasetWriter, LensDataset, check_finite, write_dataset
from haloformer.data.hdf5_sink import Sink
from haloformer.errors import InputError
from haloformer.readers import hdf5_checks


def batch(lenses, rows=slice(None)):
    return SimpleNamespace(
        images=torch.from_numpy(lenses["images"][rows]),
        labels=torch.from_numpy(lenses["labels"][rows]),
        parameters={name: values[rows] for name, values in lenses["parameters"].items()},
    )


def writer(path, lenses, n=12, **options):
    return DatasetWriter(
        path,
        n=n,
        image_shape=(1, 8, 8),
        class_names=lenses["class_names"],
        attributes=lenses["attributes"],
        **options,
    )


@pytest.mark.parametrize(
    ("n", "compression"), [(12, None), (None, None), (12, "gzip"), (None, "lzf")]
)
def test_h5py_alone_reads_what_was_written(tmp_path, lenses, n, compression):
    path = tmp_path / "new" / "x.h5"
    with writer(path, lenses, n, compression=compression) as out:
        for start in range(0, 12, 5):
            out.write(
                batch(lenses, slice(start, start + 5)),
                files=[f"f{i}" for i in range(start, min(12, start + 5))],
            )
    with h5py.File(path) as file:
        assert file["images"].dtype == np.float32
        assert file["labels"].dtype == np.int64
        assert np.array_equal(file["images"][:], lenses["images"])
        assert np.array_equal(file["labels"][:], lenses["labels"])
        for name, values in lenses["parameters"].items():
            assert np.array_equal(file["parameters"][name][:], values, equal_nan=True)
        assert file["parameters/subhalo_mass"].attrs["units"] == "M_sun"
        assert file["parameters/index"].dtype == np.int64
        assert list(file.attrs["class_names"]) == ["axion", "cdm", "no_sub"]
        assert file.attrs["survey"] == "model_ii"
        assert file["files"].asstr()[11] == "f11"
    with LensDataset(path) as data:
        assert np.array_equal(data.images_at([11, 0, 3, 4, 3]), lenses["images"][[11, 0, 3, 4, 3]])


def test_attributes_come_back_as_they_were(tmp_path, lenses):
    attributes = {
        "a": {"b": [1, None]},
        "text": '{"x": 1}',
        "list": ["a", "b"],
        "flag": True,
        "big": 2**70,
        "nothing": None,
    }
    path = tmp_path / "x.h5"
    write_dataset(path, **{**lenses, "attributes": attributes})
    read = LensDataset(path).attributes
    assert {key: read[key] for key in attributes} == attributes


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Twelve images of other numbers each, and the dataset that holds them."""
    path = tmp_path_factory.mktemp("numbered") / "x.h5"
    images = np.arange(12 * 4, dtype=np.float32).reshape(12, 1, 2, 2)
    write_dataset(path, images, np.zeros(12, int), {}, ["x"])
    with LensDataset(path) as data:
        yield images, data


@given(indices=st.lists(st.integers(-12, 11), max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_batch_holds_the_images_asked_for_in_that_order(numbered, indices):
    images, data = numbered
    assert np.array_equal(data.images_at(indices), images[np.array(indices, dtype=int)])


def test_an_index_out_of_range_is_an_index_error(dataset_file):
    data = LensDataset(dataset_file)
    with pytest.raises(IndexError):
        data[12]
    assert len(list(data)) == 12


def test_the_dataset_can_be_pickled_after_reading(dataset_file, lenses):
    data = LensDataset(dataset_file)
    data[0]
    assert np.array_equal(pickle.loads(pickle.dumps(data))[5][0], lenses["images"][5])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_what_the_main_process_reads(fork_server, dataset_file, lenses, context):
    data = LensDataset(dataset_file)
    data[0]  # the parent's handle is open when the workers start
    if context == "spawn":
        context = fork_server  # whose processes are given the dataset as spawned ones are: pickled
    loader = torch.utils.data.DataLoader(
        data, batch_size=5, num_workers=2, multiprocessing_context=context
    )
    images, labels = zip(*loader, strict=True)
    assert np.array_equal(torch.cat(images), lenses["images"])
    assert np.array_equal(torch.cat(labels), lenses["labels"])


def test_an_unknown_parameter_suggests_the_nearest(dataset_file):
    with pytest.raises(InputError, match="did you mean 'source_x'"):
        LensDataset(dataset_file).parameters("source_xx")


def test_an_existing_file_is_not_overwritten_unless_asked(dataset_file, lenses):
    before = dataset_file.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_dataset(dataset_file, **lenses)
    assert dataset_file.read_bytes() == before
    lenses["images"] += 1
    write_dataset(dataset_file, **lenses, overwrite=True)
    assert np.array_equal(LensDataset(dataset_file)[0][0], lenses["images"][0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(dataset_file, lenses, error):
    before = dataset_file.read_bytes()

    def interrupted():
        with writer(dataset_file, lenses, overwrite=True) as out:
            out.write(batch(lenses, slice(0, 5)))
            raise error

    with pytest.raises(error):
        interrupted()
    assert dataset_file.read_bytes() == before
    assert os.listdir(dataset_file.parent) == [dataset_file.name]


def test_too_few_images_leave_no_file(tmp_path, lenses):
    with (
        pytest.raises(ValueError, match="5 images written where 12"),
        writer(tmp_path / "x.h5", lenses) as out,
    ):
        out.write(batch(lenses, slice(0, 5)))
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits need POSIX")
def test_a_full_disk_ends_in_one_line_and_keeps_the_old_file(forked, tmp_path, monkeypatch):
    # A limit on the file size fails exactly as a full disk does, in the middle of a write. A process of its own, because
    # HDF5 is known to crash at exit after a failed write.
    script = """
        import resource, sys
        from types import SimpleNamespace
        import numpy as np
        from haloformer.data import DatasetWriter
        from haloformer.data.hdf5_sink import Sink
        from haloformer.errors import InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        batch = SimpleNamespace(images=np.ones((40, 1, 64, 64)), labels=np.zeros(40, int), parameters={"x": np.ones(40)})
        errors = []
        for name, n in (("known.h5", 400), ("unknown.h5", None)):
            try:
                with DatasetWriter(name, n=n, image_shape=(1, 64, 64), class_names=["a"], overwrite=True) as out:
                    for _ in range(10):
                        out.write(batch)
            except InputError as error:
                errors.append(str(error))
        sys.exit("\\n".join(errors))
    """
    names = ["known.h5", "unknown.h5"]
    for name in names:
        (tmp_path / name).write_text("old")
    monkeypatch.chdir(tmp_path)
    run = forked(exec, textwrap.dedent(script), {})
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert errors.splitlines() == [
        f"no disk space left while writing {name}; nothing was kept of it" for name in names
    ]
    assert [(tmp_path / name).read_text() for name in names] == ["old", "old"]
    assert sorted(os.listdir(tmp_path)) == names


def test_ctrl_c_in_the_middle_of_hdf5_is_held_back_and_then_obeyed(tmp_path, lenses, monkeypatch):
    plain = Sink.write

    def interrupted(self, data):
        os.kill(os.getpid(), signal.SIGINT)
        return plain(self, data)

    monkeypatch.setattr(Sink, "write", interrupted)
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "x.h5", lenses) as out:
        out.write(batch(lenses))
    assert not os.listdir(tmp_path)


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, lenses):
    with (
        pytest.raises(InputError, match="not enough disk space"),
        DatasetWriter(tmp_path / "x.h5", n=10**12, image_shape=(1, 64, 64), class_names=["a"]),
    ):
        pass
    assert not os.listdir(tmp_path)


def test_two_writers_of_one_file_do_not_mix(tmp_path, lenses):
    pytest.importorskip("fcntl")
    with writer(tmp_path / "x.h5", lenses) as first:
        with (
            pytest.raises(InputError, match="being written by another"),
            writer(tmp_path / "x.h5", lenses),
        ):
            pass
        first.write(batch(lenses))
    assert len(LensDataset(tmp_path / "x.h5")) == 12


def test_a_label_without_a_class_is_not_written(tmp_path, lenses):
    lenses["labels"] = lenses["labels"] + 1
    with pytest.raises(InputError, match="do not index"):
        write_dataset(tmp_path / "x.h5", **lenses)


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def huge(file):
    del file["labels"]
    file.create_dataset("labels", (10**13,), "i8", chunks=(1000,))


def elsewhere(file):
    del file["images"]
    file["images"] = h5py.ExternalLink("/etc/passwd", "/x")


def raw_elsewhere(file):
    del file["labels"]
    file.create_dataset("labels", (12,), "i8", external=[("/etc/passwd", 0, 96)])


def described(text):
    def change(file):
        file.attrs["json_attributes"] = ["survey"]
        file.attrs["survey"] = text

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (described("{"), "attributes cannot be read: survey: is not valid JSON"),
        (described('"\\ud800"'), "attributes cannot be read: survey: is not valid JSON"),
        (described('{"a": 1, "a": 2}'), "'a' is there twice"),
        (described(5000 * "9"), "a number of 5000 digits"),
        (described(5), "attributes cannot be read"),
        (described(h5py.Empty("f4")), "attributes cannot be read"),
        (lambda file: file.__delitem__("images"), "there is no /images"),
        (lambda file: file.__delitem__("labels"), "there is no /labels"),
        (lambda file: file.attrs.__delitem__("class_names"), "class_names is missing"),
        (lambda file: file.attrs.__setitem__("class_names", 3), "must be a list of names"),
        (replace("images", np.ones((12, 8, 8), "f4")), r"/images has shape \(12, 8, 8\)"),
        (replace("images", np.ones((12, 1, 8, 8))), "/images is float64"),
        (replace("labels", np.arange(12)), "label 3 of image 3 in /labels is out of range"),
        (replace("labels", np.ones(12)), "/labels is float64"),
        (replace("labels", np.zeros(11, int)), r"/labels is int64 \(11,\)"),
        (replace("labels", np.array([b"x"] * 12, object)), "/labels is object"),
        (replace("parameters/source_x", np.ones(3)), "/parameters/source_x is float64"),
        (replace("parameters", 3), "/parameters must be a group"),
        (huge, "does not hold that much data"),
        (elsewhere, "link to somewhere else"),
        (raw_elsewhere, "in other files"),
    ],
)
def test_a_damaged_file_names_itself_and_the_field(dataset_file, change, message):
    edit(dataset_file, change)
    with pytest.raises(InputError, match=message) as caught:
        LensDataset(dataset_file)
    assert str(dataset_file) in str(caught.value)


def test_a_truncated_file_names_itself_in_the_error(dataset_file):
    dataset_file.write_bytes(dataset_file.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"lenses\.h5 is truncated"):
        LensDataset(dataset_file)


@pytest.mark.parametrize("content", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 600])
def test_what_is_not_hdf5_is_refused(tmp_path, content):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.h5"):
        LensDataset(tmp_path / "x.h5")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        LensDataset(tmp_path / "x.h5")
    with pytest.raises(InputError, match="is a folder"):
        LensDataset(tmp_path)


def test_the_first_image_with_nan_is_named(tmp_path, lenses):
    lenses["images"][7, 0, 2, 3] = np.nan
    lenses["images"][9] = np.inf
    write_dataset(tmp_path / "x.h5", **lenses)
    with (
        LensDataset(tmp_path / "x.h5") as data,
        pytest.raises(InputError, match="image 7 holds NaN"),
    ):
        check_finite(data, batch_size=5)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_a_file_on_which_hdf5_crashes_or_hangs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_checks, "_PATIENCE", 1)
    with pytest.raises(InputError, match=r"x\.h5 is corrupt: HDF5 crashes"):
        hdf5_checks.survives_hdf5(tmp_path / "x.h5", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match=r"x\.h5 is corrupt: HDF5 does not come to an end"):
        hdf5_checks.survives_hdf5(tmp_path / "x.h5", signal.pause)


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_damaged_files_are_read_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "good.h5").exists():
        write_dataset(
            folder / "good.h5",
            np.zeros((4, 1, 2, 2)),
            np.zeros(4, int),
            {"x": np.ones(4)},
            ["a"],
            {"b": "c"},
        )
    damaged = bytearray((folder / "good.h5").read_bytes())
    for position, value in changes:
        damaged[position % len(damaged)] = value
    (folder / "bad.h5").write_bytes(damaged)
    message = "bad.h5"
    with pytest.MonkeyPatch.context() as patch:
        # A dataset of 4 images is read in a hundredth of that, unless HDF5 does not come to an end with it.
        patch.setattr(signal, "alarm", lambda _: signal.setitimer(signal.ITIMER_REAL, 0.3))
        try:
            with LensDataset(folder / "bad.h5") as data:
                data.images_at(range(len(data)))
        except InputError as error:
            message = str(error)
    assert "bad.h5" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "options", [{"n": 3}, {"n": None}, {"n": 3, "compression": "gzip"}], ids=str
)
def test_images_of_half_precision_come_back_as_floats(tmp_path, options):
    images = np.array([[1.0, 2049.0], [0.1, -3.5], [65504.0, 1e-3]], dtype=np.float32)
    batch = SimpleNamespace(images=images[:, None, :, None], labels=np.zeros(3, int), parameters={})
    path = tmp_path / "x.h5"
    with DatasetWriter(
        path, image_shape=(1, 2, 1), class_names=["x"], dtype="float16", **options
    ) as writer:
        writer.write(batch)
    with LensDataset(path) as data:
        found = data.images_at([2, 0, 1])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy()[:, 0, :, 0], images[[2, 0, 1]].astype(np.float16))


def test_half_precision_holds_no_larger_numbers_and_other_precisions_are_refused(tmp_path):
    given = {"n": 1, "image_shape": (1, 1, 1), "class_names": ["x"]}
    batch = SimpleNamespace(
        images=np.full((1, 1, 1, 1), 1e5), labels=np.zeros(1, int), parameters={}
    )
    with (
        pytest.raises(InputError, match="need the dtype float32"),
        DatasetWriter(tmp_path / "x.h5", dtype="float16", **given) as writer,
    ):
        writer.write(batch)
    assert not (tmp_path / "x.h5").exists()
    with pytest.raises(InputError, match="float16"):
        DatasetWriter(tmp_path / "y.h5", dtype="float8", **given)


def test_a_file_that_is_open_in_h5py_is_read_all_the_same(dataset_file, lenses):
    with h5py.File(dataset_file):
        assert len(LensDataset(dataset_file)) == len(lenses["labels"])


def test_channels_last_are_told_from_channels_first(tmp_path):
    with h5py.File(tmp_path / "last.h5", "w") as file:
        file["images"] = np.zeros((6, 20, 20, 3), np.float32)
        file["labels"] = np.zeros(6, np.int64)
        file.attrs["class_names"] = ["a", "b"]
    with pytest.raises(InputError, match="with channels last"):
        LensDataset(tmp_path / "last.h5")


NO_INDICES = (
    ([True] + [False] * 11, "not a mask: numpy.flatnonzero(mask) gives them"),
    (np.arange(12) > 5, "not a mask"),
    ([0.4, 1.9], "not list of float64"),
    (["1"], "not list of <U1"),
    (slice(0, 3), "not slice of object"),
    ([[0, 1], [2]], "not list of object"),
    ([np.nan], "not list of float64"),
)


@pytest.mark.parametrize(("indices", "said"), NO_INDICES)
def test_what_is_no_index_reads_no_other_image(tmp_path, lenses, indices, said):
    with writer(tmp_path / "x.h5", lenses) as out:
        out.write(batch(lenses))
    dataset = LensDataset(tmp_path / "x.h5")
    for read in (dataset.images_at, dataset.__getitems__):
        with pytest.raises(
            InputError, match=r"^indices of images must be whole numbers, "
        ) as error:
            read(indices)
        assert said in str(error.value)


def test_indices_may_be_of_any_kind_of_whole_numbers(tmp_path, lenses):
    with writer(tmp_path / "x.h5", lenses) as out:
        out.write(batch(lenses))
    dataset = LensDataset(tmp_path / "x.h5")
    wanted = torch.from_numpy(lenses["images"][[3, 11]])
    for indices in ([3, -1], (3, 11), np.array([3, 11], np.uint8), torch.tensor([3, -1])):
        assert torch.equal(dataset.images_at(indices), wanted)
        images, labels = zip(*dataset.__getitems__(indices))
        assert torch.equal(torch.stack(images), wanted)
        assert labels == tuple(lenses["labels"][[3, 11]])
    assert dataset.images_at([]).shape == (0, 1, 8, 8)
    for index in (3, np.int64(3), torch.tensor(3), -9):
        assert torch.equal(dataset[index][0], wanted[0])


def test_an_image_has_a_whole_number_and_a_batch_a_size(tmp_path, lenses):
    with writer(tmp_path / "x.h5", lenses) as out:
        out.write(batch(lenses))
    dataset = LensDataset(tmp_path / "x.h5")
    for index in (slice(0, 3), [1, 2], 1.7, None, "1"):
        with pytest.raises(InputError, match=r"^an image has a whole number, not .*images_at"):
            dataset[index]
    for size in (0, -1, 2.5, "a"):
        with pytest.raises(InputError, match=r"^size of a batch must be "):
            next(dataset.batches(size))
    with pytest.raises(InputError, match=r"^unknown parameter in .* '3'"):
        dataset.parameters(3)


def written(path, images, labels, class_names=("a", "b")):
    write_dataset(path, images, labels, {}, class_names)
    return LensDataset(path)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.5, 1.0, 0, 1], "labels must be whole numbers, not ndarray of float64"),
        (["a", "b", "a", "b"], "labels must be whole numbers, not ndarray of <U1"),
        ([0, 1, 2, 1], "labels 0…2 do not index ('a', 'b')"),
    ],
)
def test_labels_that_index_no_class_are_refused(tmp_path, labels, said):
    with pytest.raises(InputError) as error:
        written(tmp_path / "x.h5", np.zeros((4, 1, 8, 8)), labels)
    assert str(error.value).endswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 1, 8, 8), complex), "images are ndarray of complex128, not real numbers"),
        (np.full((4, 1, 8, 8), "a"), "images are ndarray of <U1, not real numbers"),
        ([[[[0.0]], [[0.0, 1.0]]]], "images cannot be read as one array"),
        (np.zeros((4, 8, 8, 3)), "cannot store images of shape (8, 8, 3), with channels last"),
    ],
)
def test_what_are_no_images_are_not_written(tmp_path, images, said):
    with pytest.raises(InputError) as error:
        written(tmp_path / "x.h5", images, [0, 1, 0, 1])
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("names", ["ab", [1, 2]])
def test_class_names_are_a_list_of_texts(tmp_path, names):
    with pytest.raises(InputError, match=r"^class.names must be "):
        written(tmp_path / "x.h5", np.zeros((4, 1, 8, 8)), [0, 1, 0, 1], names)


def test_images_of_any_kind_are_written_as_they_are(tmp_path):
    images = np.arange(4 * 64, dtype=np.float64).reshape(4, 1, 8, 8)
    masked = np.ma.masked_array(images, mask=images == 5)
    for k, kind in enumerate(
        (images.tolist(), torch.from_numpy(images).bfloat16(), images.astype(">i2"), masked)
    ):
        dataset = written(tmp_path / f"{k}.h5", kind, [True, False, True, False])
        found = dataset.images_at(range(4)).numpy()
        assert np.array_equal(np.isnan(found), (images == 5) & (k == 3))
        assert np.array_equal(found[images != 5], images[images != 5].astype(np.float32))
        assert dataset.labels.tolist() == [1, 0, 1, 0]
