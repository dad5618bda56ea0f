"""Files that a survey names (of a point-spread function, a noise map, galaxies), and what tells that they are not what they were."""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_KEYS = ("psf_file", "noise_map", "path")
"""Of a survey's description, whose values are files or folders."""

Versions = tuple[tuple[str, int, int], ...]


def file_versions(path: Path) -> Versions:
    """Returns name, time and size of a file, or of those in a folder; none of what is not there.

    What changes when a file does, or where it lies. Asked for each batch, so that it must be quick.
    """
    if not path.is_dir():
        files = [(str(path.absolute()), path.stat())] if path.exists() else []
    else:
        with os.scandir(path.absolute()) as entries:
            files = sorted((entry.path, entry.stat()) for entry in entries)
    return tuple((name, found.st_mtime_ns, found.st_size) for name, found in files)


def file_digests(description: Mapping[str, object]) -> dict[str, str]:
    """Returns what the files that a survey names hold.

    What is stored of a survey's images is of these files, too: their names do not tell that one was replaced.

    Args:
        description: The survey, as ``describe_survey`` gives it.

    Returns:
        The name of each file or folder, as the survey has it → a digest of what it holds, or of all files in it.
    """
    names = sorted(set(_named(description)))
    return {name: content_digest(name) for name in names}


def content_digest(path: str | Path) -> str:
    """Returns a digest of what a file holds, or of all files in a folder; that of nothing where nothing is there."""
    return _digest(file_versions(Path(path)))


def _named(part: object) -> Iterator[str]:
    """Yields the files that a part of a description names."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in _KEYS and isinstance(value, str):
                yield value
            else:
                yield from _named(value)
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _named(each)


@functools.lru_cache(maxsize=64)
def _digest(versions: Versions) -> str:
    """Returns a digest of the content of files, and of their names within a folder."""
    digest = hashlib.sha256()
    for name, _, size in versions:
        digest.update(f"{Path(name).name if len(versions) > 1 else ''}\0{size}\0".encode())
        if Path(name).is_file():
            with open(name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
