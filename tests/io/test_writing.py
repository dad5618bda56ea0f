"""A file is there whole or not at all, whatever happens while it is written."""

import os

import pytest

from haloformer.errors import InputError
from haloformer.io.writing import whole_file, write_text


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error, exclusive):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with whole_file(path, exclusive=exclusive) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_file_appears_when_the_block_ends(tmp_path, exclusive):
    path = tmp_path / "x.txt"
    (tmp_path / "x.txt.part").write_text("left by a killed process")
    with whole_file(path, exclusive=exclusive) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_link_in_the_way_is_not_followed(tmp_path, exclusive):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x.txt.part").symlink_to(tmp_path / "precious")
    with whole_file(tmp_path / "x.txt", exclusive=exclusive) as part:
        part.write_text("new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "x.txt").read_text() == "new"


def test_of_two_exclusive_writers_the_second_is_refused_and_the_first_goes_on(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "x.txt"
    with whole_file(path, exclusive=True) as part:
        part.write_text("first")
        with pytest.raises(InputError, match="being written"), whole_file(path, exclusive=True):
            pass
    assert path.read_text() == "first"


def test_a_text_is_written_over_an_older_one(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    write_text(tmp_path / "x.txt", "nü")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "nü"
