"""A file is there whole or not at all, whatever happens while it is written."""

import contextlib
import os
import signal
import stat
from pathlib import Path

import pytest

from haloformer.errors import InputError, InputWarning
from haloformer.io import writing
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.writing import beside, check_writable, free_file, whole_file, write_text


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


def test_no_folder_called_tilde_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    for write in (lambda: free_file(Path("~/x.h5"), False), lambda: check_writable(Path("~/x"))):
        with pytest.raises(InputError, match=r"no folder ~ here; write /home/ada/x"):
            write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_file_appears_when_the_block_ends(tmp_path, exclusive):
    path = tmp_path / "x.txt"
    with whole_file(path, exclusive=exclusive) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.txt"]


def _link(path, precious):
    path.symlink_to(precious)


def _folder(path, precious):
    path.mkdir()
    (path / "x").touch()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("plant", [_link, _folder, lambda path, precious: os.mkfifo(path)])
def test_what_lies_beside_is_neither_followed_nor_in_the_way(
    tmp_path, monkeypatch, exclusive, plant
):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("x.txt.part", "x.txt.0123456789abcdef01234567.part"):
        plant(tmp_path / name, precious)
    with whole_file(tmp_path / "x.txt", exclusive=exclusive) as part:
        part.write_text("new")
    assert precious.read_text() == "precious"
    assert (tmp_path / "x.txt").read_text() == "new"


def test_even_a_name_that_was_guessed_is_not_followed(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    guessed = tmp_path / "x.txt.part"
    guessed.symlink_to(precious)
    monkeypatch.setattr(writing, "beside", lambda path, kind: guessed)
    with pytest.raises(FileExistsError), whole_file(tmp_path / "x.txt"):
        pass
    assert precious.read_text() == "precious"


def test_names_beside_differ_each_time_and_are_not_too_long(tmp_path):
    names = {beside(tmp_path / "x.txt", "part").name for _ in range(100)}
    assert len(names) == 100
    long = tmp_path / ("ü" * 126 + ".h5")
    with whole_file(long) as part:
        part.write_text("new")
    assert long.read_text() == "new"


def _killed(path):
    """Begins to write a file in a process that is killed."""
    child = os.fork()
    if child == 0:
        with whole_file(path) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_a_killed_process_left_is_told_in_one_line_and_stays(tmp_path, exclusive):
    pytest.importorskip("fcntl")
    path = tmp_path / "x.txt"
    _killed(path)
    (left,) = os.listdir(tmp_path)
    with (
        pytest.warns(InputWarning, match=f"{left}: left by a process that was killed") as told,
        whole_file(path, exclusive=exclusive) as part,
    ):
        part.write_text("new")
    assert "\n" not in str(told[0].message)
    assert path.read_text() == "new"
    assert (tmp_path / left).read_text() == "half"


def test_a_writer_at_work_is_no_leftover(tmp_path, recwarn):
    pytest.importorskip("fcntl")
    path = tmp_path / "x.txt"
    with whole_file(path) as first:
        first.write_text("first")
        write_text(path, "second")
    assert path.read_text() == "first"
    assert not recwarn.list


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/", "is a folder"),
        ("", "is a folder"),
        ("/dev", "is a folder"),
        ("/dev/full", "it is a device"),
        ("/dev/null", "it is a device"),
        ("/dev/stdout", "is not a regular file"),
    ],
)
def test_what_is_no_place_for_a_file_is_refused_and_kept(path, message):
    with pytest.raises(InputError, match=message):
        free_file(Path(path), True)
    with pytest.raises(InputError, match=message), whole_file(Path(path)):
        pass
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert os.path.islink("/dev/stdout")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, SystemExit])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, error):
    target = tmp_path / "x"
    target.mkdir()
    (target / "f").write_text("old")
    for name in ("x.part", "x.old"):  # of earlier versions
        _folder(tmp_path / name, None)
    with (
        contextlib.suppress(KeyboardInterrupt, SystemExit),
        new_folder(target, True, ["f"], "test") as part,
    ):
        (part / "f").write_text("new")
        if error:
            raise error
    assert (target / "f").read_text() == ("old" if error else "new")
    assert sorted(os.listdir(tmp_path)) == ["x", "x.old", "x.part"]


def test_what_is_whole_is_not_lost_where_somebody_wrote_meanwhile(tmp_path):
    target, taken = tmp_path / "x", tmp_path / "x-2"
    taken.mkdir()

    def write():
        with new_folder(target, False, ["f"], "test") as part:
            (part / "f").write_text("new")
            target.mkdir()
            (target / "f").write_text("another's")

    with pytest.raises(InputError, match=r"x exists already.*the new one is .*x-3$"):
        write()
    assert (target / "f").read_text() == "another's"
    assert (tmp_path / "x-3" / "f").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["x", "x-2", "x-3"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="x is a file, not a folder"):
        free_file(tmp_path / "x" / "y" / "z.txt", False)
    with (
        pytest.raises(InputError, match="x is a file, not a folder"),
        new_folder(tmp_path / "x" / "y", False, ["f"], "test"),
    ):
        pass


def test_what_a_killed_process_left_of_a_folder_is_told(tmp_path):
    pytest.importorskip("fcntl")
    beside(tmp_path / "x", "old").mkdir()
    with (
        pytest.warns(InputWarning, match=r"old: left by a process that was killed"),
        new_folder(tmp_path / "x", False, ["f"], "test"),
    ):
        pass
    assert len(os.listdir(tmp_path)) == 2


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


def test_a_place_that_takes_no_files_is_told_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder" / "x.h5")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file, not a folder"):
        check_writable(tmp_path / "file" / "x")

    def refuse(*given, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writing.tempfile, "TemporaryDirectory", refuse)
    for check in (check_writable, lambda path: free_file(path, False)):
        with pytest.raises(InputError, match=r"x cannot be written: .*Permission denied"):
            check(tmp_path / "x")
    with (
        pytest.raises(InputError, match="cannot be written"),
        new_folder(tmp_path / "y", False, (), "fit"),
    ):
        pass


def test_a_folder_without_a_name_is_refused_before_the_work_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give the name of a folder"):
        refuse_existing(Path(""), True, ("x.json",), "audit")
