"""Files that are never seen half-written: written beside their place, then renamed."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.errors import InputError, InputWarning, exists_already, reason_of
from haloformer.files import check_regular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST_NAME = 200  # bytes that are kept of a name: file systems take 255
_TOKEN = re.compile(r"\.[0-9a-f]{24}\.(part|old)")


@contextlib.contextmanager
def whole_file(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yields an empty file beside ``path`` that becomes ``path`` in the end.

    Its name ends with a random number and ``.part``, and nothing of that name was there before.
    In the end it is brought to the disk. If the block fails (Ctrl-C and SIGTERM included), it is
    removed, and an older file at ``path`` stays as it was. What a killed process has left is told
    by a warning, and stays.

    Args:
        path: The file to write. Its folder must exist.
        exclusive: Keep other processes that ask for the same from writing the file meanwhile, where
            the system can.

    Raises:
        InputError: Another process is writing this file, or there is a folder or a device.
        OSError: The temporary file cannot be made or renamed.
    """
    check_target(path)
    part = beside(path, "part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)
    try:
        with held(descriptor):
            mind_others(path, part, exclusive=exclusive)
            yield part
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file so that it is never seen half-written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is never seen half-written."""
    with whole_file(path) as part:
        part.write_bytes(content)


def figure_bytes(figure: "Figure", kind: str, **options: Any) -> bytes:
    """Returns a figure as a file of this kind: on a full disk matplotlib's own writing of a PDF does not say so.

    Args:
        figure: The figure.
        kind: ``png``, ``svg`` or ``pdf``.
        options: Of matplotlib's ``savefig``.
    """
    stream = BytesIO()
    figure.savefig(stream, format=kind, **options)
    return stream.getvalue()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, by which the very same weights are found again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_content(one: str | Path, other: str | Path) -> bool:
    """Returns whether two names are of one file, or of two with the same bytes."""
    first, second = Path(one), Path(other)
    if not (first.is_file() and second.is_file()):
        return False
    if first.samefile(second):
        return True
    alike = first.stat().st_size == second.stat().st_size
    return alike and file_sha256(first) == file_sha256(second)


def free_file(path: Path, overwrite: bool) -> Path:
    """Returns the path if a file may be written there."""
    check_target(path)
    if path.exists() and not overwrite:
        raise exists_already(path)
    check_writable(path)
    return path


def kept_beside(part: Path, target: Path, error: InputError) -> InputError:
    """Gives what is whole the next free name after its target's, as it may no longer take that.

    Args:
        part: What was written.
        target: Where it was to be.
        error: Why it may not: somebody has written there meanwhile.

    Returns:
        The error, which says where it is.
    """
    number = 2
    while os.path.lexists(free := target.with_name(f"{target.stem}-{number}{target.suffix}")):
        number += 1
    os.replace(part, free)
    return InputError(f"{error}. It was not there in the beginning; the new one is {free}")


def check_target(path: Path) -> None:
    """Refuses a path that no file can take: a folder, a device, a name of the system's own.

    Raises:
        InputError: Says what is there.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file")
    check_regular(path)
    # /dev/stdout is a link, which renaming a file would replace.
    if path.is_symlink() and os.path.realpath(path.parent).startswith(("/dev", "/proc")):
        raise InputError(f"{path} is not a regular file: give the name of a file to write")
    check_parents(path)


def check_parents(path: Path) -> None:
    """Refuses a path whose folder is a file, or a ``~`` that a shell would have replaced."""
    if path.parts[:1] == ("~",) and not Path("~").exists():
        raise InputError(
            f"{path}: there is no folder ~ here; write {path.expanduser()} for the one in your home folder"
        )
    around = next((parent for parent in path.parents if parent.exists()), None)
    if around is not None and not around.is_dir():
        raise InputError(f"{path}: {around} is a file, not a folder")


def check_writable(path: Path) -> None:
    """Refuses a path beside which nothing can be written, before the work for it begins.

    Raises:
        InputError: Says which folder, and why.
    """
    check_parents(path)
    around = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    try:
        with tempfile.TemporaryDirectory(prefix=".haloformer-", dir=around):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{path} cannot be written: the folder {around} takes no files ({reason_of(error)})"
        ) from error


# --- what lies beside ---------------------------------------------------------------------------


def beside(path: Path, kind: str) -> Path:
    """Returns a name beside a path that nobody can know before: ``NAME.TIME_AND_RANDOM.KIND``.

    The time comes first, so that of two names the earlier is the smaller one.
    """
    return path.with_name(f"{_stem(path)}.{time.time_ns():016x}{secrets.token_hex(4)}.{kind}")


def mind_others(path: Path, mine: Path, *, exclusive: bool) -> None:
    """Looks at what other writers of a path have beside it.

    Warns, in one line, of what one that was killed has left there.

    Args:
        path: What is going to be written.
        mine: Of this writer.
        exclusive: Whether another that is at work is an error, if it came first.

    Raises:
        InputError: It is.
    """
    left = []
    for other in _others(path, mine):
        if not _is_held(other):
            left.append(other)
        elif exclusive and other.name < mine.name:
            raise InputError(f"{path} is being written by another process")
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        warnings.warn(
            f"{left[0]}{more}: left by a process that was killed while it wrote {path.name}; "
            "can be deleted",
            InputWarning,
            stacklevel=2,
        )


@contextlib.contextmanager
def held(descriptor: int) -> Iterator[None]:
    """Shows others, while the block runs, that a file or folder is being written; then closes it."""
    try:
        import fcntl
    except ImportError:  # Windows, which renames no open file
        os.close(descriptor)
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


_NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)


def _stem(path: Path) -> str:
    """Returns what names beside a path begin with: its own name, if that leaves room."""
    if len(os.fsencode(path.name)) <= _LONGEST_NAME:
        return path.name
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]


def _others(path: Path, mine: Path) -> list[Path]:
    """Returns what other writers of a path have beside it, or had before they were killed."""
    stem = _stem(path)
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        return sorted(
            path.with_name(entry.name)
            for entry in entries
            if entry.name.startswith(stem)
            and _TOKEN.fullmatch(entry.name, len(stem))
            and entry.name != mine.name
            and not entry.is_symlink()
        )
    return []


def _is_held(path: Path) -> bool:
    """Whether a writer is at work on a file or folder, as far as the system knows."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW)
    except OSError:  # gone meanwhile, or another user's
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
