"""Files that are never seen half-written: written beside their place and renamed."""

import hashlib
import os
from pathlib import Path

from haloformer.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside its place and renames it, so that it is never seen half-written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it, so that it is never seen half-written."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


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
