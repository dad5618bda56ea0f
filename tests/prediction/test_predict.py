"""Files in, a table out: the right rows, bounded memory, and no half-written table whatever happens."""

import csv
import os
import resource
import shutil

import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data import reader
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.prediction import load, predict, predictor

pytestmark = pytest.mark.usefixtures("opened_at_once")


def read(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def left_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def out(tmp_path):
    """Path of a table in a folder of its own, so that anything left behind shows."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "predictions.csv"


def test_table_has_a_row_per_image_and_the_promised_columns(original_run, folder, out, lenses):
    summary = predict(str(original_run), [str(folder)], str(out), device="cpu")
    rows = read(out)
    assert list(rows[0]) == [
        "file",
        "class",
        "p_axion",
        "p_cdm",
        "p_no_sub",
        "confidence",
        "entropy",
        "error",
    ]
    assert [row["file"] for row in rows] == sorted(str(path) for path in folder.iterdir())
    assert (summary.n_rows, summary.n_errors, sum(summary.class_counts.values())) == (12, 0, 12)
    expected = load(original_run, "cpu").probabilities(lenses.images).numpy()
    found = np.array(
        [[float(row[f"p_{name}"]) for name in ("axion", "cdm", "no_sub")] for row in rows]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [row["class"] for row in rows] == [
        lenses.class_names[k] for k in expected.argmax(axis=1)
    ]
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], found.max(axis=1))
    np.testing.assert_allclose(
        [float(row["entropy"]) for row in rows], -(found * np.log(found)).sum(axis=1)
    )


def test_batch_size_does_not_change_the_answers(original_run, folder, out):
    predict(str(original_run), [str(folder)], str(out), batch_size=5, device="cpu")
    by_fives = read(out)
    predict(str(original_run), [str(folder)], str(out), overwrite=True, device="cpu")
    for row, other in zip(by_fives, read(out), strict=True):
        assert row["file"] == other["file"]
        assert float(row["p_cdm"]) == pytest.approx(float(other["p_cdm"]), rel=1e-5)


def test_parquet_holds_the_same_as_csv(original_run, folder, out):
    import pyarrow.parquet

    predict(str(original_run), [str(folder)], str(out), batch_size=5, device="cpu")
    parquet = out.with_suffix(".parquet")
    predict(str(original_run), [str(folder)], str(parquet), batch_size=5, device="cpu")
    table = pyarrow.parquet.read_table(parquet)
    assert table.num_rows == 12
    for row, expected in zip(table.to_pylist(), read(out), strict=True):
        assert {
            name: "" if value is None else str(value) for name, value in row.items()
        } == expected


def test_dataset_rows_carry_index_and_true_class(original_run, dataset, out, lenses):
    predict(str(original_run), [str(dataset)], str(out), batch_size=5, device="cpu")
    rows = read(out)
    assert [int(row["index"]) for row in rows] == list(range(12))
    assert [row["label"] for row in rows] == [lenses.class_names[label] for label in lenses.labels]


def test_files_of_one_name_are_told_apart_by_their_folders(original_run, folder, out, capsys):
    for name in ("no", "vort"):
        (folder / name).mkdir()
        shutil.copy(folder / "lens_01.npy", folder / name / "1.npy")
    arguments = [str(original_run), str(folder / "no"), str(folder / "vort"), "--out", str(out)]
    assert main(["predict", *arguments, "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "no/1.npy" in shown
    assert "vort/1.npy" in shown
    assert (
        main(["predict", *arguments[:2], "--out", str(out), "--device", "cpu", "--overwrite"]) == 0
    )
    assert "no/1.npy" not in capsys.readouterr().out


def test_files_patterns_and_datasets_mix(original_run, folder, dataset, out):
    arguments = [str(folder / "lens_03.npy"), str(folder / "lens_0[12].npy"), str(dataset)]
    predict(str(original_run), arguments, str(out), device="cpu")
    rows = read(out)
    names = [os.path.basename(row["file"]) for row in rows]
    assert names == ["lens_03.npy", "lens_01.npy", "lens_02.npy"] + ["test.h5"] * 12
    assert [row["index"] for row in rows[:4]] == ["", "", "", "0"]


def test_only_one_batch_of_images_is_read_ahead(original_run, folder, out, monkeypatch):
    reads, seen = [], []
    read_image, answer = reader.read_image, predictor.Predictor.numbers
    monkeypatch.setattr(
        reader, "read_image", lambda *a, **k: (reads.append(1), read_image(*a, **k))[1]
    )

    def numbers(self, images, **options):
        seen.append(len(reads))
        return answer(self, images, **options)

    monkeypatch.setattr(predictor.Predictor, "numbers", numbers)
    predict(str(original_run), [str(folder)], str(out), batch_size=4, device="cpu")
    assert seen == [4, 8, 12]


BAD = {
    "corrupt": lambda path: path.write_bytes(b"\x93NUMPY garbage"),
    "empty": lambda path: path.write_bytes(b""),
    "not a number": lambda path: np.save(path, np.full((64, 64), np.nan, np.float32)),
    "wrong channels": lambda path: np.save(path, np.zeros((3, 64, 64), np.float32)),
    "wrong size": lambda path: np.save(path, np.zeros((80, 80), np.float32)),
    "too extreme for the model": lambda path: np.save(path, np.full((64, 64), 3e38, np.float32)),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_image_stops_the_run_names_itself_and_leaves_nothing(original_run, folder, out, kind):
    BAD[kind](folder / "lens_07.npy")
    with pytest.raises(InputError, match=r"lens_07\.npy") as caught:
        predict(
            str(original_run), [str(folder)], str(out), batch_size=3, on_error="stop", device="cpu"
        )
    assert "\n" not in str(caught.value)
    assert left_in(out.parent) == set()


@pytest.mark.parametrize("kind", BAD)
def test_bad_image_gets_a_row_with_its_error_and_the_run_goes_on(original_run, folder, out, kind):
    BAD[kind](folder / "lens_07.npy")
    summary = predict(str(original_run), [str(folder)], str(out), batch_size=5, device="cpu")
    rows = read(out)
    assert (summary.n_rows, summary.n_errors) == (12, 1)
    assert [i for i, row in enumerate(rows) if row["error"]] == [7]
    assert rows[7]["class"] == rows[7]["p_cdm"] == ""
    assert all(row["class"] for i, row in enumerate(rows) if i != 7)


def test_wrong_size_says_what_was_found_and_what_is_wanted(original_run, folder, out):
    BAD["wrong size"](folder / "lens_00.npy")
    with pytest.raises(InputError, match=r"1 × 80 × 80 .* takes 1 × 64 × 64.*--pixel_scale"):
        predict(str(original_run), [str(folder)], str(out), on_error="stop", device="cpu")


def test_images_of_one_file_that_have_the_same_fault_share_a_mark(
    original_run, tmp_path, out, capsys
):
    np.save(tmp_path / "small.npy", np.zeros((20, 20, 20), np.float32))
    arguments = ["predict", str(original_run), str(tmp_path / "small.npy"), "--out", str(out)]
    assert main([*arguments, "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert said.count("(1)") == 21  # of each row, and of what it means
    assert "(2)" not in said


def test_masked_cutout_can_be_read_with_zeros(original_run, folder, out):
    BAD["not a number"](folder / "lens_07.npy")
    predict(str(original_run), [str(folder)], str(out), nan="zero", device="cpu")
    assert len(read(out)) == 12


def test_nan_in_a_dataset_names_the_image(original_run, lenses, tmp_path, out):
    images = lenses.images.clone()
    images[9, 0, 3, 3] = float("nan")
    write_dataset(tmp_path / "bad.h5", images, lenses.labels, {}, lenses.class_names)
    with pytest.raises(InputError, match=r"bad\.h5: image 9: 1 of 4096 pixels are NaN"):
        predict(
            str(original_run), [str(tmp_path / "bad.h5")], str(out), on_error="stop", device="cpu"
        )
    predict(str(original_run), [str(tmp_path / "bad.h5")], str(out), device="cpu")
    assert [bool(row["error"]) for row in read(out)] == [i == 9 for i in range(12)]


def test_missing_file_and_wrong_dataset_get_rows_too(original_run, folder, lenses, tmp_path, out):
    write_dataset(
        tmp_path / "small.h5", lenses.images[..., :32], lenses.labels, {}, lenses.class_names
    )
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    names = [str(tmp_path / name) for name in ("small.h5", "broken.h5", "absent.npy")]
    summary = predict(
        str(original_run), [*names, str(folder)], str(out), on_error="row", device="cpu"
    )
    assert (summary.n_errors, summary.n_rows) == (3, 15)
    assert [row["file"] for row in read(out) if row["error"]] == names


@pytest.mark.parametrize("images", [[], ["absent"], ["absent.h5"], ["absent/*.npy"], ["."]])
def test_missing_or_empty_input_is_refused_before_anything_is_written(
    original_run, images, out, tmp_path, monkeypatch
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError):
        predict(str(original_run), images, str(out), device="cpu")
    assert left_in(out.parent) == set()


def test_table_that_exists_stays_as_it_was(original_run, folder, out):
    out.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        predict(str(original_run), [str(folder)], str(out), device="cpu")
    BAD["corrupt"](folder / "lens_07.npy")
    with pytest.raises(InputError, match="lens_07"):
        predict(
            str(original_run),
            [str(folder)],
            str(out),
            overwrite=True,
            on_error="stop",
            device="cpu",
        )
    assert out.read_text() == "precious"
    assert left_in(out.parent) == {"predictions.csv"}


@pytest.mark.parametrize("name", ["predictions.txt", "predictions", "predictions.xlsx"])
def test_unknown_kind_of_table_is_refused(original_run, folder, out, name):
    with pytest.raises(InputError, match=r"\.csv, \.parquet, \.fits, \.ecsv, \.vot or \.xml"):
        predict(str(original_run), [str(folder)], str(out.with_name(name)), device="cpu")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".fits"])
def test_full_disk_ends_in_one_line_and_leaves_nothing(original_run, dataset, out, suffix):
    """A limit on the size of files stands in for a full disk: writing fails in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(InputError, match=f"predictions{suffix}: cannot be written"):
            predict(str(original_run), [str(dataset)], str(out.with_suffix(suffix)), device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(out.parent) == set()


def test_interrupt_leaves_nothing(original_run, folder, out, monkeypatch):
    def interrupted(path, **options):
        if path.name == "lens_07.npy":
            raise KeyboardInterrupt
        return np.zeros((1, 64, 64), np.float32)

    monkeypatch.setattr(reader, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(str(original_run), [str(folder)], str(out), batch_size=2, device="cpu")
    assert left_in(out.parent) == set()


def test_link_in_the_way_of_the_unfinished_table_is_not_followed(
    original_run, folder, out, tmp_path
):
    (tmp_path / "precious").write_text("precious")
    out.with_name("predictions.csv.part").symlink_to(tmp_path / "precious")
    predict(str(original_run), [str(folder)], str(out), device="cpu")
    assert (tmp_path / "precious").read_text() == "precious"


def test_file_name_that_is_not_utf8_is_written_legibly(original_run, folder, out):
    os.rename(folder / "lens_00.npy", os.fsencode(folder) + b"/lens_\xff.npy")
    for path in (out, out.with_suffix(".parquet")):
        predict(str(original_run), [str(folder)], str(path), device="cpu")
    assert any(row["file"].endswith(r"lens_\xff.npy") for row in read(out))
