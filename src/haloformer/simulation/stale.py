"""Compiled functions of before, which numba would still take.

What numba keeps beside a module it forgets when that module changes. A function of another module that was compiled into it may
change, too: after an update of the code the old one would go on being used, without a word.
"""

import contextlib
import time
from pathlib import Path

FOLDERS = ("simulation", "simulation/components", "fitting", "fitting/composed")
"""Of the package, with modules whose compiled functions call those of other modules."""

MODULES = "*kernel*.py"


def drop_stale(package: Path) -> int:
    """Removes the indexes of compiled functions that are older than the newest module of such functions; returns how many.

    Args:
        package: Folder of the package.
    """
    folders = [package / name for name in FOLDERS]
    now = time.time()
    written = [path.stat().st_mtime for folder in folders for path in folder.glob(MODULES)]
    # Of a clock that is wrong nothing is known.
    newest = max((moment for moment in written if moment <= now), default=0.0)
    dropped = 0
    for folder in folders:
        for index in folder.glob("__pycache__/*.nbi"):
            with contextlib.suppress(
                OSError
            ):  # another process was quicker, or it may not be removed
                if index.stat().st_mtime < newest:
                    index.unlink()
                    dropped += 1
    return dropped
