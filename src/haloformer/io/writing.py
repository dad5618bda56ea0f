"""Files that are never seen half-written: written beside their place, then renamed."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from haloformer.errors import InputError


@contextlib.contextmanager
def whole_file(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yields ``NAME.part``; the file that the block writes there becomes ``path`` in the end.

    Before that it is brought to the disk. If the block fails (Ctrl-C included), it is removed, and
    an older file at ``path`` stays as it was. What a killed process has left is overwritten; if a
    link lies there, it is not followed.

    Args:
        path: The file to write. Its folder must exist.
        exclusive: Keep other processes that ask for the same from writing the file meanwhile, where
            the system can. The block must not replace ``NAME.part``, but open and change it.

    Raises:
        InputError: Another process is writing this file.
        OSError: The temporary file cannot be made or renamed.
    """
    part = path.with_name(path.name + ".part")
    if part.is_symlink() or not exclusive:
        part.unlink(missing_ok=True)
    lock = _locked(part) if exclusive else None
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def write_text(path: Path, text: str) -> None:
    """Writes a text file so that it is never seen half-written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that it is never seen half-written."""
    with whole_file(path) as part:
        part.write_bytes(content)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, by which the very same weights are found again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_file(path: Path, overwrite: bool) -> Path:
    """Returns the path if a file may be written there."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another name or overwrite it")
    return path


def _locked(path: Path) -> int:
    """Returns the descriptor of a new or old file; until it is closed, no other caller gets one."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"{path} is being written by another process") from error
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass
    return descriptor
