"""Looking through folders: which files are data, and which are passed over with a word about it."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from haloformer.errors import InputError, InputWarning
from haloformer.readers.archives import is_archive
from haloformer.readers.images import SUFFIXES, image_suffix, is_image_name

_DATA_SUFFIXES = frozenset(
    [
        *(".npz", ".mat", ".pkl", ".pickle", ".pt", ".pth", ".parquet", ".asdf", ".nc"),
        *(".h5", ".hdf5", ".hdf", ".he5", ".tif", ".tiff", ".gif", ".bmp", ".webp", ".jp2", ".jxl"),
        *(
            ".zip",
            ".tar",
            ".tgz",
            ".tbz2",
            ".txz",
            ".gz",
            ".bz2",
            ".xz",
            ".z",
            ".zst",
            ".7z",
            ".rar",
        ),
        *SUFFIXES,
    ]
)
"""Endings of files that somebody may take for images; notes, tables and pictures of pages are none."""


def is_hidden(name: str) -> bool:
    """Tells whether a file or folder of this name is no data of the user's, such as ``.ipynb_checkpoints``."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def is_hidden_path(name: str) -> bool:
    """Tells whether a file in an archive, or any folder above it, is hidden."""
    return any(is_hidden(part) for part in PurePosixPath(name).parts)


def is_archive_name(name: str) -> bool:
    """Tells whether a file of this name is an archive that would be read; hidden ones are not."""
    return not name.startswith(".") and is_archive(name)


def is_image_path(path: Path) -> bool:
    """Tells whether a file of this name would be read (see `is_image_name`)."""
    return is_image_name(path.name)


def walk_files(folder: Path) -> list[Path]:
    """Lists all files below a folder in sorted order; a folder that cannot be listed is an error, not a gap.

    Linked folders are followed, each folder once, so that links in a circle come to an end. Hidden
    folders are left out.
    """
    return walk(folder)[0]


def walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Lists all files, as `walk_files`, and all folders below a folder, in sorted order."""
    found: list[Path] = []
    folders: list[Path] = []
    waiting, seen = [Path(folder)], set[tuple[int, int]]()
    while waiting:
        inside = waiting.pop()
        try:
            status = inside.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            folders.append(inside)
            with os.scandir(inside) as entries:
                # Folders themselves come before those that are linked: a file has its own name.
                for entry in entries:
                    if not entry.is_dir():
                        found.append(inside / entry.name)
                    elif is_hidden(entry.name):
                        continue
                    elif entry.is_symlink():
                        waiting.insert(0, inside / entry.name)
                    else:
                        waiting.append(inside / entry.name)
        except OSError as error:
            raise InputError(
                f"{error.filename or inside} cannot be read: {error.strerror or error}"
            ) from error
    return sorted(found), sorted(folders[1:])


def warn_of_passed_over(where: object, files: Iterable[Path]) -> None:
    """Warns, in one line, of files that look like data and are not read; notes and tables do not.

    Args:
        where: The folder or pattern.
        files: Those of its files that are not read.
    """
    if counts := passed_over(files):
        warnings.warn(
            f"{where}: passed over {counts}, which are not read from folders; "
            f"{', '.join(SUFFIXES)} are",
            InputWarning,
            stacklevel=2,
        )


def passed_over(files: Iterable[Path]) -> str:
    """Returns how many files of each ending look like data, such as ``3 .npz, 1 .zip``; hidden ones do not."""
    counts = Counter(
        suffix
        for file in files
        if not file.name.startswith(".") and (suffix := image_suffix(file.name)) in _DATA_SUFFIXES
    )
    return ", ".join(f"{n} {suffix}" for suffix, n in sorted(counts.items()))
