"""`tune`: a search for good values of an experiment's fields, by Optuna.

A search is a YAML file: what all trials share (``base``), which fields are varied between which values (``space``), and how many trials. The
shipped ones are in ``haloformer/configs/searches``. Every trial is an ordinary training in a run folder of its own; poor ones are stopped
early. Trials are judged by validation images alone, the same for all; test images have no part in it. All that is known is in ``study.db``
(SQLite), so a search can be stopped at any time and goes on where it was.
"""

import json
import math
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.errors import InputError
from haloformer.io.jobs import WorkerKilled
from haloformer.io.writing import write_text
from haloformer.tuning.plan import Search, read_search, search_text, with_options
from haloformer.tuning.report import SearchResult, write_report
from haloformer.tuning.storage import (
    one_process_only,
    open_study,
    put_back,
    quiet_optuna,
    refuse_another_search,
    require_optuna,
    targets_of,
)
from haloformer.tuning.trials import carry_out_trials, write_trials

if TYPE_CHECKING:
    pass


def tune(
    name: str,
    *,
    out: str | None = None,
    trials: int | None = None,
    workers: int = 1,
    timeout_minutes: float | None = None,
    preset: str | list[str] | None = None,
    options: dict[str, Any] | None = None,
    progress: bool = True,
) -> SearchResult:
    """Searches for good values of an experiment's fields; judged by validation images, never by test images.

    Calling it again goes on where it stopped: only the missing trials are done, an interrupted one resumes.

    Args:
        name: A shipped search (quick, transformer), or a YAML file of your own.
        out: Folder to write, or to continue; ``searches/NAME`` by default.
        trials: How many trials there shall be, those of earlier calls included; by default as the search says.
        workers: Processes that train at the same time; the processor's cores are shared out among them, and GPUs if there are several.
        timeout_minutes: Begin no further trial after so many minutes; the running ones are finished.
        preset: Presets that are put over the search's base.
        options: Fields of the experiment, such as ``{"epochs": 5}``, that are put over the search's base and its presets.
        progress: Say of each trial what it tries and how it went.

    Returns:
        The best trial, and the folder.

    Raises:
        InputError: An unknown search, key or field; a value that makes no sense; a folder that holds something else or is in use; or no
            trial succeeded. A trial that fails is no error of the search: ``trials.csv`` has its message.
        KeyboardInterrupt: Ctrl-C; finished trials are kept, the running ones saved.
    """
    require_optuna()
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    if timeout_minutes is not None and not timeout_minutes > 0:
        raise InputError(f"timeout_minutes must be above 0, not {timeout_minutes}")
    plan = with_options(read_search(name), name, preset, options, trials)
    folder = Path(out) if out is not None else Path("searches") / Path(name).stem
    command = _command(name, out, trials, workers, timeout_minutes, preset, options)
    _prepare_folder(folder, plan, command)
    with one_process_only(folder), quiet_optuna():
        study = open_study(folder, plan)
        refuse_another_search(folder, plan, study)
        put_back(study, killed=True)
        target = targets_of(plan, study)
        deadline = time.monotonic() + (
            60 * timeout_minutes if timeout_minutes is not None else math.inf
        )
        try:
            carry_out_trials(folder, plan, command, study, target, workers, deadline, progress)
        except WorkerKilled as error:
            raise InputError(
                f"{folder}: a worker process was killed, probably for want of memory; finished trials are kept: go on with fewer workers"
            ) from error
        except (KeyboardInterrupt, SystemExit):
            put_back(study, killed=False)
            write_trials(folder, plan, study)
            if progress:
                print(
                    f"interrupted; finished trials are kept. The same command goes on in {folder}",
                    flush=True,
                )
            raise
        return write_report(folder, plan, command, study, target, progress)


def _prepare_folder(folder: Path, plan: Search, command: str) -> None:
    """Makes the folder and writes down the search as it is carried out, in a form that can be read again."""
    if (
        folder.exists()
        and not (folder / "search.yaml").exists()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(f"{folder}: exists and is not the folder of a search: choose another out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (
            folder / "search.yaml"
        ).exists():  # of another search it is refused later; until then it stays
            write_text(folder / "search.yaml", search_text(plan, command))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error


def _command(
    name: str,
    out: str | None,
    trials: int | None,
    workers: int,
    timeout_minutes: float | None,
    preset: str | list[str] | None,
    options: Mapping[str, Any] | None,
) -> str:
    """Returns the command line that does the same."""
    parts = ["haloformer", "tune", name]
    parts += ["--trials", str(trials)] if trials is not None else []
    parts += ["--workers", str(workers)] if workers != 1 else []
    parts += ["--timeout_minutes", f"{timeout_minutes:g}"] if timeout_minutes is not None else []
    parts += ["--out", out] if out is not None else []
    if preset:
        parts += ["--preset", preset if isinstance(preset, str) else ",".join(preset)]
    for key, value in (options or {}).items():
        parts += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(parts)
