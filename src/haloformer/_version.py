"""Which code made this: the package's version and, in a source checkout, its git commit."""

import functools
import subprocess
from pathlib import Path

__version__ = "0.2.0"  # the one place: hatchling reads it for the package's metadata


@functools.cache
def code_version() -> str:
    """Returns the version written into every file: ``0.2.0``, or ``0.2.0+g1a2b3c4``.

    The latter in a git checkout, ``.dirty`` if it has changes.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    try:
        described = subprocess.run(
            [
                "git",
                "-C",
                str(root),
                "describe",
                "--always",
                "--dirty=.dirty",
                "--abbrev=7",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{described}" if described else __version__
