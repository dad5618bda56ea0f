"""Files from outside: pipes, sockets, devices, and YAML that is more than it looks."""

import os
import socket

import h5py
import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data import LabelledSource, LensDataset, convert, read_image
from haloformer.data.reader import find_inputs, read_images
from haloformer.errors import LONGEST, InputError, brief
from haloformer.files import MAX_YAML_BYTES, check_regular, parse_yaml, read_yaml
from haloformer.io.strict_json import read_json
from haloformer.readers.archives import read_archive
from haloformer.simulation import get_survey
from haloformer.training.config import read_options


@pytest.fixture(params=["pipe", "socket", "device"])
def special(request, tmp_path, monkeypatch):
    """A function that makes something with a name that is no file."""
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short

    def make(name):
        if request.param == "pipe":
            os.mkfifo(name)
        elif request.param == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(name)
        else:
            os.symlink("/dev/zero", name)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x.npy", read_image),
        ("x.fits", read_image),
        ("x.h5", LensDataset),
        ("x.h5", lambda path: convert(path, "y.h5")),
        ("x", lambda path: convert(path, "y.h5")),
        ("x.tgz", lambda path: list(LabelledSource(path))),
        ("x.tar", lambda path: list(read_archive(path))),
        ("x.json", read_json),
        ("x.yaml", read_options),
        ("x.yaml", get_survey),
        ("x", check_regular),
    ],
)
def test_what_is_no_regular_file_is_refused_by_name_unopened(special, name, read):
    path = special(name)
    with pytest.raises(InputError, match=rf"{path} is not a regular file: it is a "):
        read(path)


def test_among_other_images_it_is_a_row(special, tmp_path):
    special("x.fits")
    np.save("y.npy", np.eye(8))
    inputs = find_inputs([str(tmp_path)], True)
    bad, good = next(read_images(inputs, None))
    assert "is not a regular file" in bad.error
    assert np.array_equal(good.pixels[0], np.eye(8))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{k}: &a{k}\n  <<: [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "repeats itself"),
        (MERGES, "repeats itself"),
        ("a: &a [*a]", "refers to itself"),
        ("a: " + 50_000 * "[", "nested too deeply"),
        ("a: " + 5000 * "9", "a number of 5000 digits"),
        ("a: " + ":".join(["59"] * 9000), "a number of"),
        ("a: !!timestamp 2020-99-99", "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("lr: 1\nb: 2\nlr: 3", "the key 'lr' is there twice, line 3"),
        ("a:\n  - {b: 1, 'b': 2}", "the key 'b' is there twice"),
        ("a: &a {b: 1, b: 2}\nc:\n  <<: *a", "the key 'b' is there twice"),
        (f"{9000 * 'x'}: 1\n", "not valid YAML"),
        (f"? {9000 * 'x'}\n: 1\n? {9000 * 'x'}\n: 1\n", "is there twice"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_more_than_it_looks_is_an_error_of_one_line(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_yaml(text.encode(), "x.yaml")
    assert str(error.value).startswith("x.yaml: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_yaml_that_is_not_utf8_or_too_large_is_refused(tmp_path):
    with pytest.raises(InputError, match="not UTF-8"):
        parse_yaml("a: é".encode("latin-1"), "x.yaml")
    (tmp_path / "x.yaml").write_bytes(b"#" * (MAX_YAML_BYTES + 1))
    with pytest.raises(InputError, match="too large"):
        read_yaml(tmp_path / "x.yaml")


def test_plain_yaml_is_read_and_dates_are_texts():
    text = "a: 2020-01-31\nb: &b {c: 1e6, d: [1, 2.5, true, null]}\ne: *b\nf:\n  <<: *b\n  c: 2\n"
    inner = {"c": "1e6", "d": [1, 2.5, True, None]}
    expected = {"a": "2020-01-31", "b": inner, "e": inner, "f": {**inner, "c": 2}}
    assert parse_yaml(text.encode("utf-8-sig"), "x") == expected
    assert parse_yaml(b"", "x") is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out", "r", "--config", "x.yaml"],
        ["train", "--out", "r", "--preset", "x.yaml"],
        ["inspect", "--config", "x.yaml", "d.h5"],
        ["inspect", "--config=x.yaml", "d.h5"],
        ["simulate", "x.yaml", "--n", "3", "--out", "d.h5"],
        ["surveys", "x.yaml"],
    ],
)
@pytest.mark.parametrize(
    "content", [BOMB.encode(), b"a: \xff", b"a: 2020-99-99", b"a: " + 5000 * b"9"]
)
def test_every_command_reads_yaml_under_these_limits(
    tmp_path, monkeypatch, capsys, arguments, content
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_bytes(content)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 320


def test_messages_are_one_line_of_readable_length_with_both_ends(tmp_path, capsys):
    assert brief("a\n b ") == "a b"
    long = brief("begin " + 5000 * "x" + " end")
    assert (len(long), long[:6], long[-4:]) == (LONGEST, "begin ", " end")
    assert main(["simulate", 5000 * "x", "--n", "3", "--out", "d.h5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("haloformer simulate: unknown survey 'xxx")
    assert len(line) < LONGEST + 30
    with h5py.File(tmp_path / "x.h5", "w") as file:
        kind = np.dtype([(f"field_{k}", "f4") for k in range(500)])
        file["images"] = np.zeros((2, 4, 4), kind)
        file["labels"] = np.arange(2)
    np.save(tmp_path / "y.npy", np.eye(4))
    found = find_inputs([str(tmp_path / "x.h5"), str(tmp_path / "y.npy")], True)
    assert found[0].error.startswith(str(tmp_path / "x.h5"))
    assert len(found[0].error) <= LONGEST
