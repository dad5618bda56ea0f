"""Many processes give what one gives, whatever happens to them, and nothing is done twice."""

import csv
import multiprocessing
import os
import sys

import h5py
import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data.dataset import LensDataset
from haloformer.data.dataset_writer import write_dataset
from haloformer.data.shards import simulate_shards
from haloformer.errors import InputError
from haloformer.io import cluster, jobs
from haloformer.io.cluster import check_answers
from haloformer.io.shards import MANIFEST
from haloformer.io.writing import beside
from haloformer.prediction import predict
from haloformer.simulation import Simulator, simulate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

N, SHARD = 40, 12  # three whole shards and a rest

DEADLY = """
import os, signal
from haloformer.data.dataset import LensDataset
from haloformer.data.dataset_writer import DatasetWriter

class Deadly:
    \"\"\"A worker's function: while a file exists, a process that has done a part of its shard is killed.\"\"\"

    def __init__(self, function, file, once):
        self.function, self.file, self.once = function, file, once

    def __call__(self, *arguments):
        for kind, name in ((DatasetWriter, "write"), (LensDataset, "images_at")):
            setattr(kind, name, self.trapped(getattr(kind, name)))
        return self.function(*arguments)

    def trapped(self, method):
        def call(*arguments, **options):
            result = method(*arguments, **options)
            try:
                (os.unlink if self.once else os.stat)(self.file)
            except FileNotFoundError:
                return result
            os.kill(os.getpid(), signal.SIGKILL)
        return call
"""


@pytest.fixture
def deadly(forked_workers, tmp_path_factory, monkeypatch):
    """Returns a file whose presence kills the next worker that has done a part of its shard; or each, if not once."""
    folder = tmp_path_factory.mktemp("trap")
    (folder / "deadly_worker.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(folder))
    from deadly_worker import Deadly

    results = jobs.results

    def trap(once: bool = True):
        def trapped(function, *arguments, **options):
            return results(Deadly(function, folder / "deadly", once), *arguments, **options)

        monkeypatch.setattr(jobs, "results", trapped)
        (folder / "deadly").touch()
        return folder / "deadly"

    yield trap
    del sys.modules["deadly_worker"]


@pytest.fixture
def in_this_process(monkeypatch):
    """Makes the shards here, one after the other: for what is the same whoever makes them."""
    results = jobs.results
    monkeypatch.setattr(
        jobs, "results", lambda *args, **options: results(*args, **{**options, "workers": 0})
    )


@pytest.fixture(scope="module")
def simulator():
    return Simulator("model_i", seed=3)  # with noise


@pytest.fixture(scope="module")
def alone():
    """What one process makes of the same numbers."""
    return simulate("model_i", N, seed=3, start=5)


def _shards(folder):
    return [folder / f"part-{i:05d}.h5" for i in range(4)]


def _assert_same_images(datasets, lenses):
    parts = [LensDataset(path) for path in datasets]
    assert np.array_equal(
        np.concatenate([part.images_at(range(len(part))) for part in parts]), lenses.images
    )
    assert np.array_equal(np.concatenate([part.labels for part in parts]), lenses.labels)
    for name, values in lenses.parameters.items():
        assert np.array_equal(
            np.concatenate([part.parameters(name) for part in parts]), values, equal_nan=True
        ), name


def test_shards_hold_the_images_of_one_process_though_a_worker_is_killed(
    simulator, alone, deadly, tmp_path
):
    file = deadly()
    out = tmp_path / "shards"
    simulate_shards(
        simulator, out, n=N, start=5, batch_size=5, workers=2, shard_size=SHARD, progress=False
    )
    assert not file.exists()  # so one worker did die
    assert {path.name for path in out.iterdir()} == {
        MANIFEST,
        *(path.name for path in _shards(out)),
    }
    _assert_same_images(_shards(out), alone)


def test_one_file_is_the_same_as_that_of_one_process(in_this_process, tmp_path):
    common = ["simulate", "model_ii", "--n", str(N), "--seed", "2", "--quiet"]
    assert main([*common, "--out", str(tmp_path / "one.h5")]) == 0
    assert (
        main(
            [
                *common,
                "--out",
                str(tmp_path / "two.h5"),
                "--workers",
                "2",
                "--shard-size",
                str(SHARD),
            ]
        )
        == 0
    )
    assert not (tmp_path / "two.h5.shards").exists()
    with h5py.File(tmp_path / "one.h5") as one, h5py.File(tmp_path / "two.h5") as two:
        for name in ("images", "labels", *(f"parameters/{key}" for key in one["parameters"])):
            assert np.array_equal(one[name], two[name], equal_nan=name.startswith("parameters")), (
                name
            )
            assert dict(one[name].attrs) == dict(two[name].attrs)
        mine, theirs = (
            {k: str(v) for k, v in file.attrs.items() if k != "created"} for file in (one, two)
        )
        assert mine == theirs


def _states(paths):
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]


def test_a_restart_makes_only_the_missing_shards(in_this_process, simulator, alone, tmp_path):
    out = tmp_path / "shards"
    options = {"n": N, "start": 5, "workers": 2, "shard_size": SHARD, "progress": False}
    simulate_shards(simulator, out, **options)
    shards = _shards(out)
    before = _states(shards)
    shards[1].unlink()
    shards[3].unlink()
    beside(shards[3], "part").write_bytes(b"left by a killed process")
    simulate_shards(simulator, out, **options)
    after = _states(shards)
    assert [old == new for old, new in zip(before, after)] == [True, False, True, False]
    assert not list(out.glob("*.part"))
    _assert_same_images(shards, alone)
    simulate_shards(simulator, out, **options)
    assert _states(shards) == after


def test_shards_of_another_configuration_are_refused_until_overwritten(
    in_this_process, simulator, alone, tmp_path
):
    out = tmp_path / "shards"
    options = {"n": N, "start": 5, "workers": 2, "shard_size": SHARD, "progress": False}
    simulate_shards(Simulator("model_i", seed=4), out, **options)
    before = _states(_shards(out))
    with pytest.raises(InputError, match=r"another configuration \(seed: 4 there, 3 here\)"):
        simulate_shards(simulator, out, **options)
    with pytest.raises(InputError, match="shard_size: 12 there, 20 here"):
        simulate_shards(Simulator("model_i", seed=4), out, **{**options, "shard_size": 20})
    assert _states(_shards(out)) == before
    simulate_shards(simulator, out, **options, overwrite=True)
    _assert_same_images(_shards(out), alone)


def test_a_folder_of_something_else_is_left_alone(simulator, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="is no folder of shards"):
        simulate_shards(simulator, tmp_path, n=N, workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture
def inputs(folder, lenses, tmp_path, monkeypatch):
    """Twelve image files and a dataset of twelve, by names relative to the working folder."""
    path = tmp_path / "test.h5"
    write_dataset(
        path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes
    )
    monkeypatch.chdir(tmp_path)
    return ["images", "test.h5"]


def _table(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _assert_same_rows(rows, others):
    assert len(rows) == len(others) == 24
    for row, other in zip(rows, others):
        assert row.keys() == other.keys()
        for name in row:
            if name.startswith("p_") or name in ("confidence", "entropy"):
                # One thread here, as many as there are there: the last digits may differ.
                assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-5), name
            else:
                assert row[name] == other[name], name


def test_rows_are_those_of_one_process_though_a_worker_is_killed(original_run, inputs, deadly):
    predict(str(original_run), inputs, "one.csv", batch_size=3, device="cpu")
    file = deadly()
    options = {"batch_size": 3, "device": "cpu", "workers": 2, "shard_size": 8, "progress": False}
    summary = predict(
        str(original_run), inputs, "two.csv", **options
    )  # nine images a shard: one has files and images of the dataset
    assert not file.exists()
    _assert_same_rows(_table("two.csv"), _table("one.csv"))
    assert (summary.n_rows, summary.n_errors, sum(summary.class_counts.values())) == (24, 0, 24)
    assert not os.path.exists("two.csv.shards")


def test_a_bad_image_ends_it_and_the_finished_shards_are_used_again(
    in_this_process, original_run, inputs, folder, lenses
):
    import pyarrow.parquet

    np.save(folder / "lens_11.npy", np.full((64, 64), np.nan, np.float32))
    options = {
        "batch_size": 3,
        "device": "cpu",
        "workers": 1,
        "shard_size": 6,
        "progress": False,
        "on_error": "stop",
    }
    with pytest.raises(InputError, match=r"^images/lens_11\.npy"):
        predict(str(original_run), inputs, "table", **options)
    first = folder.parent / "table" / "part-00000.parquet"
    before = _states([first])
    np.save(folder / "lens_11.npy", lenses.images[11, 0].numpy())
    summary = predict(str(original_run), inputs, "table", **options)
    assert _states([first]) == before
    assert summary.n_rows == 24
    found = pyarrow.parquet.read_table("table").to_pylist()  # as any Parquet reader takes a folder
    predict(str(original_run), inputs, "one.csv", batch_size=3, on_error="stop", device="cpu")
    _assert_same_rows(
        [{k: "" if v is None else str(v) for k, v in row.items()} for row in found],
        _table("one.csv"),
    )
    with pytest.raises(InputError, match=r"another configuration .*batch_size: 3 there, 6 here"):
        predict(str(original_run), inputs, "table", **{**options, "batch_size": 6})


def test_a_worker_that_is_killed_each_time_ends_it_and_finished_shards_are_kept(
    simulator, deadly, tmp_path, monkeypatch
):
    from haloformer.io import shards

    monkeypatch.setattr(shards, "_RETRIES", 1)
    deadly(once=False)
    with pytest.raises(InputError, match=r"part-00000\.h5: its worker was killed 2 times"):
        simulate_shards(
            simulator, tmp_path / "out", n=N, workers=1, shard_size=SHARD, progress=False
        )
    assert not multiprocessing.active_children()


def test_a_cluster_of_ray_makes_the_same_images(simulator, alone, tmp_path):
    ray = pytest.importorskip("ray")

    def die():
        os._exit(1)

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 2**27}
    ray.init(address="local", num_cpus=2, **options)
    try:
        simulate_shards(
            simulator,
            tmp_path / "shards",
            n=N,
            start=5,
            shard_size=SHARD,
            ray_address="auto",
            progress=False,
        )
        _assert_same_images(_shards(tmp_path / "shards"), alone)
        with pytest.raises(jobs.WorkerKilled) as caught:
            list(cluster.results(die, [("a", ())], address="auto", retries=1))
        assert (caught.value.key, caught.value.times) == ("a", 2)
    finally:
        ray.shutdown()


def test_a_cluster_that_does_not_answer_is_named_at_once():
    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        check_answers("127.0.0.1:1")


def test_ray_is_needed_for_a_cluster_only(in_this_process, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    common = ["simulate", "model_ii", "--n", "3", "--out", str(tmp_path / "x.h5"), "--workers", "1"]
    assert main([*common, "--ray_address", "127.0.0.1:1"]) == 2
    assert "pip install '.[scale]'" in capsys.readouterr().err
    assert main([*common, "--quiet"]) == 0
    assert len(LensDataset(tmp_path / "x.h5")) == 3
