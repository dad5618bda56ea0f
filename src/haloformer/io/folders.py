"""Folders of results: written beside, and renamed when whole."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from haloformer.errors import InputError, exists_already
from haloformer.io.writing import (
    beside,
    check_parents,
    check_writable,
    held,
    kept_beside,
    mind_others,
)


def refuse_existing(target: Path, overwrite: bool, files: Sequence[str], what: str) -> None:
    """Refuses a folder that may not be written.

    Args:
        target: The folder.
        overwrite: Whether an earlier one may go.
        files: Names of files by which such a folder is known: others are not overwritten.
        what: What it holds, for messages, such as "evaluation".
    """
    if not target.name:
        raise InputError(f"{target}: give the name of a folder to write")
    check_writable(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        kind = "a link" if target.is_symlink() else "not a folder"
        raise InputError(f"{target}: is {kind}; choose another name for the {what}")
    if not target.exists() or not any(target.iterdir()):
        return
    if not all((target / name).is_file() for name in files):
        raise InputError(
            f"{target}: holds something else than {_a(what)} and is not overwritten; choose another name"
        )
    if not overwrite:
        raise exists_already(target, f"the {what}")


@contextmanager
def new_folder(target: Path, overwrite: bool, files: Sequence[str], what: str) -> Iterator[Path]:
    """Yields an empty folder beside the target, which takes its place in the end.

    An old folder goes only when the new one is whole.

    Arguments as for :func:`refuse_existing`.
    """
    with whole_folder(target, lambda: refuse_existing(target, overwrite, files, what)) as part:
        yield part


@contextmanager
def whole_folder(target: Path, check: Callable[[], object]) -> Iterator[Path]:
    """Yields an empty folder beside the target, which takes its place in the end.

    If the block fails (Ctrl-C and SIGTERM included), it is removed, and an older folder stays as it
    was. What a killed process has left is told by a warning, and stays. What is whole is never lost:
    where the target may no longer be replaced, it stays beside it, under the next free name.

    Args:
        target: The folder. Those around it are made if missing.
        check: Raises InputError if the target may not be replaced; asked in the end, for another
            process may have written it meanwhile.

    Raises:
        InputError: It cannot be written, or was written meanwhile: the message says where the new one
            is then.
    """
    if not target.name:
        raise InputError(f"{target}: give the name of a folder to write")
    check_parents(target)
    part, old = beside(target, "part"), beside(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        try:
            with held(_opened(part)):
                mind_others(target, part, exclusive=False)
                yield part
                try:
                    check()
                except InputError as error:
                    raise kept_beside(part, target, error) from error
                if target.exists():
                    os.replace(target, old)
                os.replace(part, target)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    shutil.rmtree(old, ignore_errors=True)


def _opened(folder: Path) -> int:
    """Returns a descriptor of a folder; of nothing where the system gives none of folders."""
    return os.open(folder if hasattr(os, "O_DIRECTORY") else os.devnull, os.O_RDONLY)


def _a(what: str) -> str:
    if what.endswith("s"):
        return what
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
