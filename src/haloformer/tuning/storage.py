"""Where a search keeps its trials: Optuna's journal."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.errors import InputError
from haloformer.training.config import RUN_ONLY, compose
from haloformer.tuning.plan import Search, label_of

if TYPE_CHECKING:
    import optuna


STUDY_NAME = "search"  # name of the study inside study.db


def require_optuna() -> None:
    """Raises InputError if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError("a search needs Optuna: pip install 'haloformer[tune]'") from error


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences Optuna's log lines and its warnings of experimental features."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)


@contextlib.contextmanager
def one_process_only(folder: Path) -> Iterator[None]:
    """Keeps a second process off the folder: it would take the trials of the first for killed ones."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=0):  # ends with the process, however that ends
            yield
    except Timeout as error:
        raise InputError(
            f"{folder}: another process is at this search; use workers for several at a time"
        ) from error


def open_study(folder: Path, plan: Search) -> "optuna.Study":
    """Returns the study in the folder, a new one if there is none."""
    import optuna

    numbers = {key: value for key, value in plan.pruner.items() if key != "name"}
    epochs = compose(None, plan.base).schedule.epochs
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if plan.pruner["name"] == "median":
        # Optuna's warm-up ends with its last step; ours is so many epochs in which nothing is stopped.
        pruner = optuna.pruners.MedianPruner(
            numbers["startup_trials"], numbers["warmup_epochs"] + 1
        )
    elif plan.pruner["name"] == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(
            numbers["min_epochs"], epochs, numbers["reduction_factor"]
        )
    return optuna.create_study(
        storage=_storage(folder),
        study_name=STUDY_NAME,
        direction=optuna.study.StudyDirection[plan.direction.upper()],
        pruner=pruner,
        load_if_exists=True,
    )


def _storage(folder: Path) -> "optuna.storages.RDBStorage":
    """Opens ``study.db``; several processes write to it in turn."""
    import optuna
    from sqlalchemy.exc import DatabaseError

    path = folder / "study.db"
    try:
        return optuna.storages.RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
    except DatabaseError as error:
        raise InputError(
            f"{path}: cannot be read as a search: {str(error).splitlines()[0][:200]}"
        ) from error


def sampler_of(plan: Search, n: int) -> "optuna.samplers.BaseSampler":
    """Returns the sampler of the n-th trial: it depends on that alone, so an interrupted search goes on as it would have."""
    import optuna

    seed = int(np.random.SeedSequence([plan.seed, n]).generate_state(1)[0])
    if plan.sampler["name"] == "tpe":
        # constant_liar: trials that still run count as poor ones, so that workers do not all try the same.
        return optuna.samplers.TPESampler(
            n_startup_trials=plan.sampler["startup_trials"], seed=seed, constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed)


def refuse_another_search(folder: Path, plan: Search, study: "optuna.Study") -> None:
    """Refuses to mix trials of different bases or spaces; the number of trials, sampler and pruner may change."""
    base = {
        key: value for key, value in compose(None, plan.base).flat().items() if key not in RUN_ONLY
    }
    space = [dataclasses.asdict(parameter) for parameter in plan.space]
    mine = json.loads(json.dumps({"base": base, "space": space, "metric": plan.metric}))
    theirs = study.user_attrs.get("search")
    if theirs is None:
        study.set_user_attr("search", mine)
        return
    said = [
        f"{key}: {theirs['base'].get(key)!r} there, {mine['base'].get(key)!r} here"
        for key in {**mine["base"], **theirs["base"]}
        if mine["base"].get(key) != theirs["base"].get(key)
    ]
    said += [f"{key} differs" for key in ("space", "metric") if mine[key] != theirs[key]]
    if said:
        raise InputError(
            f"{folder}: holds another search ({'; '.join(said[:4])}): choose another out, or the same values"
        )


def put_back(study: "optuna.Study", *, killed: bool) -> None:
    """Ends the trials that an interruption left running, and lines up the same values again.

    A trial whose process was killed gets one more chance: the next time it may be the trial itself that does it, say by its memory.
    """
    import optuna

    done_again = repeated_trials(study)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        kills = trial.user_attrs.get("kills", 0) + killed
        if kills <= 1 and trial.number not in done_again:
            again = trial.user_attrs | {"continues": trial.number, "kills": kills}
            study.enqueue_trial(trial.params, user_attrs=again)
        elif trial.number not in done_again:
            study._storage.set_trial_user_attr(
                trial._trial_id, "message", "its process was killed twice"
            )
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def repeated_trials(study: "optuna.Study") -> set[int]:
    """Returns the numbers of interrupted trials that others continue."""
    return {
        trial.user_attrs["continues"]
        for trial in study.get_trials(deepcopy=False)
        if "continues" in trial.user_attrs
    }


def targets_of(plan: Search, study: "optuna.Study") -> int:
    """Returns how many trials there shall be; of a grid, lines up its points."""
    if plan.sampler["name"] != "grid":
        return plan.trials
    points: list[dict[str, Any]] = [{}]
    for parameter in plan.space:
        values = (
            parameter.values
            if parameter.kind == "choice"
            else range(parameter.values[0], parameter.values[1] + 1)
        )
        points = [
            wider
            for point in points
            for wider in (
                [{**point, parameter.name: v} for v in values]
                if parameter.applies(point)
                else [point]
            )
        ]
    for point in points:
        study.enqueue_trial(
            {name: label_of(value) for name, value in point.items()}, skip_if_exists=True
        )
    return min(plan.trials, len(points))
