"""Folders of results: written beside, and renamed when whole."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from haloformer.errors import InputError


def refuse_existing(target: Path, overwrite: bool, files: Sequence[str], what: str) -> None:
    """Refuses a folder that may not be written.

    Args:
        target: The folder.
        overwrite: Whether an earlier one may go.
        files: Names of files by which such a folder is known: others are not overwritten.
        what: What it holds, for messages, such as "evaluation".
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: is not a folder; choose another name for the {what}")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target}: exists already; choose another folder or overwrite it")
    if not all((target / name).is_file() for name in files):
        raise InputError(f"{target}: holds something else than {_a(what)} and is not overwritten")


@contextmanager
def new_folder(target: Path, overwrite: bool, files: Sequence[str], what: str) -> Iterator[Path]:
    """Yields an empty folder beside the target, which takes its place in the end.

    An old folder goes only when the new one is whole.

    Arguments as for :func:`refuse_existing`.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    old = target.with_name(f"{target.name}.{os.getpid()}.old")
    made = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        made = True
        yield part
        refuse_existing(
            target, overwrite, files, what
        )  # another process may have written it meanwhile
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
    except BaseException as error:
        if made:
            shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        if isinstance(error, OSError):
            raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
