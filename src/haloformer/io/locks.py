"""Folders that one process at a time works in."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from haloformer.errors import InputError

LOCK = ".lock"


@contextlib.contextmanager
def one_process_only(folder: Path, busy: str) -> Iterator[None]:
    """Keeps a second process off a folder, by a lock that ends with the process, however that ends.

    Where a file system has no locks, there is none.

    Args:
        folder: It is there.
        busy: What to say to the second one.

    Raises:
        InputError: Another process is in the block.
    """
    from filelock import FileLock, Timeout  # comes with torch

    lock, held = FileLock(folder / LOCK, timeout=0), False
    try:
        lock.acquire()
        held = True
    except Timeout as error:
        raise InputError(f"{folder}: {busy}") from error
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        if held:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)
            lock.release()
