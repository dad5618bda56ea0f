"""Settings of runs as people read them, and the command line that repeats a study or a search."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from haloformer.simulation import names_survey
from haloformer.training.config import Experiment


def nothing_is_empty(given: object) -> object:
    """A key without anything behind it, which YAML reads as null, stands for a mapping without keys."""
    return {} if given is None else given


Options = Annotated[dict[str, object], BeforeValidator(nothing_is_empty)]
"""Fields of an experiment by name."""


def settings_of(experiment: Experiment) -> dict[str, object]:
    """Returns the fields, by short name, that differ from the defaults: a run's description that people can read."""
    defaults = Experiment().flat()
    return {key: value for key, value in experiment.flat().items() if value != defaults[key]}


def one_line(settings: Mapping[str, object]) -> str:
    """``{"lr": 0.001}`` as ``lr: 0.001``."""
    return ", ".join(
        f"{key}: {{{one_line(value)}}}"
        if isinstance(value, Mapping)
        else f"{key}: {json.dumps(value)}".replace('"', "")
        for key, value in settings.items()
    )


def command_line(
    command: str,
    positional: Sequence[str],
    given: Mapping[str, object],
    options: Mapping[str, object] | None,
) -> str:
    """Returns the command line that does the same again.

    Args:
        command: Such as ``study``.
        positional: Arguments without a name.
        given: Options by name; those that are None or empty are left out.
        options: Fields of the experiment.
    """
    parts = ["haloformer", command, *positional]
    for name, value in given.items():
        if value is not None and value != [] and value != "":
            parts += [f"--{name}", ",".join(value) if isinstance(value, list) else _text(value)]
    for name, value in (options or {}).items():
        parts += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(parts)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_prepared(folder: Path, options: Mapping[str, object]) -> dict[str, object]:
    """Returns a run's options with a folder of prepared images for all runs; its own if it names one.

    Args:
        folder: Of the study or the search.
        options: Fields of the experiment by short name.
    """
    simulated = names_survey(str(options.get("data")))
    return {"prepared": str(folder / "prepared"), **options} if simulated else {**options}
