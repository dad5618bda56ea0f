"""Carrying out a search: its trials one after another or side by side, then the report.

Every trial is an ordinary training in a run folder of its own; poor ones are stopped early. Trials are judged by
validation images alone, the same for all; test images have no part in it. All that is known is in ``study.db``
(SQLite), so a search can be stopped at any time and goes on where it was.
"""

import math
import time
from pathlib import Path

from haloformer.errors import InputError
from haloformer.io.jobs import WorkerKilled
from haloformer.io.locks import one_process_only
from haloformer.studies.shipped import described, prepare_folder
from haloformer.tuning.plan import Search
from haloformer.tuning.report import SearchResult, write_report
from haloformer.tuning.storage import (
    check_same_search,
    open_study,
    put_back,
    quiet_optuna,
    targets_of,
)
from haloformer.tuning.trials import Trials, write_trials


def carry_out(
    plan: Search,
    folder: Path,
    command: str,
    workers: int,
    timeout_minutes: float | None,
    progress: bool,
) -> SearchResult:
    """Does the trials that are missing, and writes the report.

    Args:
        plan: The search.
        folder: Where it is written, or continued.
        command: The command line that does the same; it stands in the search's files.
        workers: Processes that train at the same time.
        timeout_minutes: Begin no further trial after so many minutes.
        progress: Say of each trial what it tries and how it went.
    """
    # If the folder holds another search, this is found later; until then its description stays.
    prepare_folder(folder / "search.yaml", "search", described(plan.raw, command), keep=True)
    with (
        one_process_only(
            folder, "another process is at this search; use workers for several at a time"
        ),
        quiet_optuna(),
    ):
        study = open_study(folder, plan)
        check_same_search(folder, plan, study)
        put_back(study, killed=True)
        target = targets_of(plan, study)
        limit = 60 * timeout_minutes if timeout_minutes is not None else math.inf
        trials = Trials(folder, plan, command, study, target, workers, progress)
        try:
            trials.carry_out(time.monotonic() + limit)
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
