"""Where a search keeps its trials: Optuna's journal."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haloformer.errors import InputError, how_to_install, reason_of
from haloformer.studies.contents import contents
from haloformer.training.config import RUN_ONLY, compose
from haloformer.tuning.plan import (
    HyperbandPruner,
    MedianPruner,
    Parameter,
    Search,
    TPESampler,
    stored_choice,
)

if TYPE_CHECKING:
    import optuna


STUDY_NAME = "search"  # name of the study inside study.db


def require_optuna() -> None:
    """Raises InputError if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(f"a search needs Optuna: {how_to_install('tune')}") from error


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


def open_study(folder: Path, plan: Search) -> "optuna.Study":
    """Returns the study in the folder, a new one if there is none."""
    import optuna

    return optuna.create_study(
        storage=_storage(folder),
        study_name=STUDY_NAME,
        direction=optuna.study.StudyDirection[plan.direction.upper()],
        pruner=_pruner_of(plan),
        load_if_exists=True,
    )


def _pruner_of(plan: Search) -> "optuna.pruners.BasePruner":
    """Returns what decides which trials are stopped early."""
    import optuna

    if isinstance(plan.pruner, MedianPruner):
        # Optuna's warm-up ends with its last step; ours is so many epochs in which nothing is stopped.
        return optuna.pruners.MedianPruner(
            plan.pruner.startup_trials, plan.pruner.warmup_epochs + 1
        )
    if isinstance(plan.pruner, HyperbandPruner):
        epochs = compose(None, plan.base).schedule.epochs
        return optuna.pruners.HyperbandPruner(
            plan.pruner.min_epochs, epochs, plan.pruner.reduction_factor
        )
    return optuna.pruners.NopPruner()


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
        raise InputError(f"{path}: cannot be read as a search: {reason_of(error)}") from error


def sampler_of(plan: Search, n: int) -> "optuna.samplers.BaseSampler":
    """Returns the sampler of the n-th trial: it depends on that alone, so an interrupted search goes on as it would have."""
    import optuna

    seed = int(np.random.SeedSequence([plan.seed, n]).generate_state(1)[0])
    if isinstance(plan.sampler, TPESampler):
        # constant_liar: trials that still run count as poor ones, so that workers do not all try the same.
        return optuna.samplers.TPESampler(
            n_startup_trials=plan.sampler.startup_trials, seed=seed, constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed)


def check_same_search(folder: Path, plan: Search, study: "optuna.Study") -> None:
    """Raises InputError if the folder has trials of another base or space; number of trials, sampler and pruner may change."""
    base = {
        key: value for key, value in compose(None, plan.base).flat().items() if key not in RUN_ONLY
    }
    space = [dataclasses.asdict(parameter) for parameter in plan.space]
    found = {"base": base, "space": space, "metric": plan.metric, "contents": contents(base)}
    mine = json.loads(json.dumps(found))
    theirs = study.user_attrs.get("search")
    if theirs is None:
        study.set_user_attr("search", mine)
        return
    said = [
        f"{key}: {theirs['base'].get(key)!r} there, {mine['base'].get(key)!r} here"
        for key in {**mine["base"], **theirs["base"]}
        if key not in RUN_ONLY and mine["base"].get(key) != theirs["base"].get(key)
    ]
    then, now = theirs.get("contents", {}), mine["contents"]  # earlier versions kept none
    said += [f"{name} has changed" for name in then.keys() & now.keys() if then[name] != now[name]]
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
    if plan.sampler.name != "grid":
        return plan.trials
    points = _grid_points(plan.space)
    for point in points:
        values = {name: stored_choice(value) for name, value in point.items()}
        study.enqueue_trial(values, skip_if_exists=True)
    return min(plan.trials, len(points))


def _grid_points(space: Sequence[Parameter]) -> list[dict[str, object]]:
    """Returns every combination of values, without fields that do not apply beside the others."""
    points: list[dict[str, object]] = [{}]
    for parameter in space:
        wider: list[dict[str, object]] = []
        for point in points:
            if parameter.applies(point):
                wider += [{**point, parameter.name: value} for value in _grid_values(parameter)]
            else:
                wider.append(point)
        points = wider
    return points


def _grid_values(parameter: Parameter) -> Sequence[object]:
    if parameter.kind == "choice":
        return parameter.values
    low, high = parameter.bounds
    return range(int(low), int(high) + 1)
