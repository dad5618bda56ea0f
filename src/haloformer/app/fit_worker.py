"""The process that fits one lens for the page: ``python -m haloformer.app.fit_worker FOLDER``.

It reads ``task.json`` in the folder, prints a line of JSON after each step of the fit, and writes
``result/`` there. A process of its own can be ended at any moment, and takes its memory with it.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from haloformer.app.given import on_the_page, without_folders
from haloformer.errors import InputError
from haloformer.fitting.reallens.files import LensFiles, read_observation
from haloformer.fitting.reallens.page import headline
from haloformer.fitting.reallens.run import Options, fit_observation
from haloformer.fitting.reallens.saving import save
from haloformer.io.strict_json import read_json
from haloformer.readers.reading import Reading

MOST_PIXELS = 40_000
"""Pixels that may count: the fit of more takes hours."""


def main(folder: Path) -> None:
    """Fits the lens of a folder's task."""
    task = read_json(folder / "task.json")
    try:
        _tell(done=_fit(task, folder / "result"))
    except InputError as error:
        _tell(error=on_the_page(without_folders(error)))


def _fit(task: dict[str, Any], out: Path) -> dict[str, Any]:
    """Fits, saves, and returns what the page shows."""
    with warnings.catch_warnings():  # the notes say the same
        warnings.simplefilter("ignore")
        reading = Reading(nan="mask", pixel_scale=task["pixel_scale"])
        seen = read_observation(LensFiles(**task["files"]), reading)
        count = int(seen.mask.sum())
        if count > MOST_PIXELS:
            raise InputError(
                f"{count:,} pixels count, and the page fits at most {MOST_PIXELS:,} (200 × 200): give a smaller radius, or a mask"
            )
        _tell(pixels=count, pixel_scale=seen.pixel_scale)
        found = fit_observation(
            seen,
            Options(**task["options"]),
            report=lambda what, evidence: _tell(what=what, evidence=evidence),
        )
        save(found, out)
    return {
        "headline": headline(found),
        "flags": [on_the_page(flag) for flag in found.flags],
        "notes": [on_the_page(note) for note in found.notes],
        "rows": found.rows(),
        "name": seen.name,
    }


def _tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
