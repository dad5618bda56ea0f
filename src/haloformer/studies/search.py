"""`tune`: a search for good values of an experiment's fields, by Optuna.

A search is a YAML file: what all trials share (``base``), which fields are varied between which values (``space``), and how many trials. The
shipped ones are in ``haloformer/configs/searches``. Every trial is an ordinary training in a run folder of its own; poor ones are stopped
early. Trials are judged by validation images alone, the same for all; test images have no part in it. All that is known is in ``study.db``
(SQLite), so a search can be stopped at any time and goes on where it was.
"""

import contextlib
import csv
import dataclasses
import datetime
import io
import json
import math
import multiprocessing
import shlex
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from haloformer._version import code_version
from haloformer.data.grouping import GROUPINGS
from haloformer.errors import InputError
from haloformer.evaluation import figures
from haloformer.models import find_model
from haloformer.studies.runner import _about, _check_keys, _mapping, _settings, _start_worker
from haloformer.training.artefact import write_text
from haloformer.training.config import GROUPS, RUN_ONLY, Experiment, compose, read_options, short_name
from haloformer.vocabulary import CLASS_NAMES, unknown_name

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

_KEYS = ("title", "notes", "base", "space", "metric", "direction", "sampler", "pruner", "trials", "seed")
_RANGES = ("uniform", "log_uniform", "int", "int_log")
_KINDS = (*_RANGES, "choice")
# Their numbers, with defaults, and the least that each may be.
_SAMPLERS: dict[str, dict[str, int]] = {"tpe": {"startup_trials": 10}, "random": {}, "grid": {}}
_PRUNERS: dict[str, dict[str, int]] = {
    "median": {"startup_trials": 5, "warmup_epochs": 1},
    "hyperband": {"min_epochs": 1, "reduction_factor": 3},
    "none": {},
}
_LEAST = {"startup_trials": 1, "warmup_epochs": 0, "min_epochs": 1, "reduction_factor": 2}

_THE_SEARCH_CHOOSES = ("out", "resume", "progress")
# Trials that differ in these would be judged by other images or another question: the best value would not be the best setting.
_SAME_FOR_ALL = {
    *RUN_ONLY,
    "seed",
    "data",
    "val_data",
    "val_size",
    "val_fraction",
    "noise",
    "classes",
    "task",
    "targets",
}

_STUDY = "search"  # name of the study inside study.db
_SAME_FAILURES = 3  # so many trials that fail alike, and none that worked: it is the search that is wrong


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        out: Its folder, with ``best.yaml``, ``trials.csv``, figures, ``trials/`` and ``study.db``.
        best_trial: Number of the best trial; its run folder is ``trials/NNNN``.
        value: Its value of the metric, on validation images: as the best of many it is better than the truth.
        params: Its values of the searched fields, by short name.
        n_complete: Trials trained to the end, those of earlier calls included.
        n_pruned: Trials stopped early because others were better.
        n_failed: Trials that failed; interrupted ones that were done again do not count.
        n_missing: Trials that are not there yet, after a timeout.
    """

    out: Path
    best_trial: int
    value: float
    params: dict[str, Any]
    n_complete: int
    n_pruned: int
    n_failed: int
    n_missing: int


@dataclass(frozen=True)
class Parameter:
    """One searched field.

    Attributes:
        name: Its short name.
        kind: uniform, log_uniform, int, int_log or choice.
        values: The two bounds, both possible; or the choices.
        when: Field → values with which this one is searched; otherwise it stays as in the base.
    """

    name: str
    kind: str
    values: tuple[Any, ...]
    when: dict[str, tuple[Any, ...]]

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the field is searched beside these values of the fields above it."""
        return all(name in values and values[name] in wanted for name, wanted in self.when.items())


@dataclass(frozen=True)
class Search:
    """A search as its YAML file describes it, checked; see docs/search.md. ``raw`` is what the file holds."""

    raw: dict[str, Any]
    title: str
    base: dict[str, Any]
    space: tuple[Parameter, ...]
    metric: str
    direction: str
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    trials: int
    seed: int


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
    _require_optuna()
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    if timeout_minutes is not None and not timeout_minutes > 0:
        raise InputError(f"timeout_minutes must be above 0, not {timeout_minutes}")
    plan = _with_options(read_search(name), name, preset, options, trials)
    folder = Path(out) if out is not None else Path("searches") / Path(name).stem
    command = _command(name, out, trials, workers, timeout_minutes, preset, options)
    _prepare_folder(folder, plan, command)
    with _alone(folder), _quiet_optuna():
        study = _open(folder, plan)
        _refuse_another_search(folder, plan, study)
        _put_back(study, killed=True)
        target = _targets(plan, study)
        deadline = time.monotonic() + (60 * timeout_minutes if timeout_minutes is not None else math.inf)
        try:
            _carry_out(folder, plan, command, study, target, workers, deadline, progress)
        except BrokenProcessPool as error:
            raise InputError(
                f"{folder}: a worker process was killed, probably for want of memory; finished trials are kept: go on with fewer workers"
            ) from error
        except (KeyboardInterrupt, SystemExit):
            _put_back(study, killed=False)
            _write_trials(folder, plan, study)
            if progress:
                print(f"interrupted; finished trials are kept. The same command goes on in {folder}", flush=True)
            raise
        return _report(folder, plan, command, study, target, progress)


def list_searches() -> dict[str, str]:
    """Returns the shipped searches: name → title."""
    return {
        file.name.removesuffix(".yaml"): str(yaml.safe_load(file.read_text(encoding="utf-8")).get("title", ""))
        for file in sorted(_shipped(), key=lambda file: file.name)
    }


# --- reading a search -------------------------------------------------------------------------------------------------


def read_search(name: str) -> Search:
    """Reads a shipped search or a YAML file, and checks it.

    Raises:
        InputError: There is no such search, a key or field is unknown, or a value makes no sense.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _parsed(read_options(path), str(path))
    shipped = {file.name.removesuffix(".yaml"): file for file in _shipped()}
    if name not in shipped:
        raise unknown_name("search", name, shipped)
    return _parsed(yaml.safe_load(shipped[name].read_text(encoding="utf-8")), f"search {name}")


def _shipped() -> list[Any]:
    folder = resources.files("haloformer").joinpath("configs", "searches")
    return [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]


def _parsed(raw: dict[str, Any], where: str) -> Search:
    _check_keys(raw, _KEYS, where)
    base = dict(_mapping(raw.get("base") or {}, f"{where}: base"))
    try:
        experiment = compose(None, base)
    except InputError as error:
        raise InputError(f"{where}: base: {error}") from error
    for field in _THE_SEARCH_CHOOSES:
        if getattr(experiment.trainer, field) != getattr(Experiment().trainer, field):
            raise InputError(f"{where}: base: {field} is for the search to choose")
    space: list[Parameter] = []
    for key, given in _mapping(raw.get("space") or {}, f"{where}: space").items():
        space.append(_parameter(key, given, space, f"{where}: space"))
    if not space:
        raise InputError(
            f"{where}: space is missing: which fields are searched, such as lr: {{log_uniform: [1e-4, 1e-2]}}"
        )
    metric, direction = _metric(raw, experiment, where)
    sampler = _with_numbers(raw.get("sampler", "tpe"), _SAMPLERS, f"{where}: sampler")
    if sampler["name"] == "grid":
        for parameter in space:
            if parameter.kind not in ("choice", "int"):
                raise InputError(
                    f"{where}: sampler grid needs a choice or an int of every field; {parameter.name} is {parameter.kind}"
                )
    pruner = _with_numbers("none" if raw.get("pruner") is None else raw["pruner"], _PRUNERS, f"{where}: pruner")
    if pruner.get("min_epochs", 0) > experiment.schedule.epochs:
        raise InputError(
            f"{where}: pruner: min_epochs {pruner['min_epochs']} is more than the {experiment.schedule.epochs} epochs of the base"
        )
    trials, seed = _whole(raw.get("trials", 30), 1, f"{where}: trials"), _whole(raw.get("seed", 0), 0, f"{where}: seed")
    title = str(raw.get("title") or where)
    plan = Search(raw, title, base, tuple(space), metric, direction, sampler, pruner, trials, seed)
    _check_values(plan, where)
    return plan


def _parameter(key: str, given: Any, above: Sequence[Parameter], where: str) -> Parameter:
    """Reads one line of the space."""
    try:
        name = short_name(key)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if name in [parameter.name for parameter in above]:
        raise InputError(f"{where}: {name} is there twice")
    if name.partition(".")[0] in _SAME_FOR_ALL:
        raise InputError(
            f"{where}: {name} must be the same in all trials, or they cannot be compared: put it into base"
        )
    entry = _mapping(given, f"{where}: {name}")
    for word in entry:
        if word not in (*_KINDS, "when"):
            raise unknown_name(f"kind of values in {where}: {name}", word, (*_KINDS, "when"))
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise InputError(f"{where}: {name} needs one of {', '.join(_KINDS)}, not {' and '.join(kinds) or 'none'}")
    kind, values = kinds[0], entry[kinds[0]]
    if not isinstance(values, list) or len(values) < 2 or (kind in _RANGES and len(values) != 2):
        wanted = "a list of two bounds" if kind in _RANGES else "a list of at least two values"
        raise InputError(f"{where}: {name}: {kind} must be {wanted}, not {values!r}")
    if kind == "choice":
        if any(value == other for i, value in enumerate(values) for other in values[:i]):
            raise InputError(f"{where}: {name}: a choice is there twice")
    else:
        values = [_number(value, kind.startswith("int"), f"{where}: {name}: {kind}") for value in values]
        if not values[0] < values[1]:
            raise InputError(f"{where}: {name}: {kind}: the smaller bound comes first, and they differ, not {values}")
        if kind in ("log_uniform", "int_log") and values[0] <= 0:
            raise InputError(
                f"{where}: {name}: {kind}: bounds must be above 0, not {values[0]}; uniform may begin at 0"
            )
    when = _conditions(entry.get("when"), above, f"{where}: {name}: when")
    return Parameter(name, kind, tuple(values), when)


def _conditions(given: Any, above: Sequence[Parameter], where: str) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    choices = {parameter.name: parameter.values for parameter in above if parameter.kind == "choice"}
    found = {}
    for key, wanted in _mapping(given, where).items():
        try:
            name = short_name(key)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if name not in choices:
            raise InputError(f"{where}: {name} must be a choice that stands above in the space")
        found[name] = tuple(wanted) if isinstance(wanted, list) and wanted not in choices[name] else (wanted,)
        for value in found[name]:
            if value not in choices[name]:
                raise InputError(f"{where}: {value!r} is no choice of {name}: those are {list(choices[name])}")
    return found


def _number(value: Any, whole: bool, where: str) -> float | int:
    try:
        number = (
            float("nan") if isinstance(value, bool) else float(value)
        )  # YAML reads 1e-3, without a point, as a text
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number) or (whole and not number.is_integer()):
        raise InputError(f"{where}: {value!r} is not a {'whole ' if whole else ''}number")
    return int(number) if whole else number


def _whole(value: Any, least: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{where} must be a whole number of at least {least}, not {value!r}")
    return value


def _metric(raw: Mapping[str, Any], experiment: Experiment, where: str) -> tuple[str, str]:
    """Returns the metric and its direction."""
    task, known = experiment.task, ["val_loss"]
    if task.name != "classification":
        known = ["val_mae", *(f"val_{kind}_{target}" for kind in ("mae", "rmse") for target in task.targets), *known]
    if task.name != "regression":
        classes = (GROUPINGS[experiment.data.classes] or dict.fromkeys(CLASS_NAMES)).items()
        known = ["val_macro_auc", "val_accuracy", *(f"val_auc_{group or name}" for name, group in classes), *known]
    metric = str(raw.get("metric") or known[0])
    if metric not in known:
        raise unknown_name(f"metric in {where}", metric, known)
    better = "minimize" if metric.startswith(("val_loss", "val_mae", "val_rmse")) else "maximize"
    direction = str(raw.get("direction") or better).replace("ise", "ize")
    if direction not in ("maximize", "minimize"):
        raise unknown_name(f"direction in {where}", direction, ("maximize", "minimize"))
    if direction != better:
        raise InputError(f"{where}: direction: the best {metric} is the {better[:3]}imum: {better}")
    return metric, direction


def _with_numbers(given: Any, known: Mapping[str, Mapping[str, int]], where: str) -> dict[str, Any]:
    """Returns name and numbers of a sampler or pruner, which is a name alone or ``{name: …, number: …}``."""
    entry = dict(_mapping({"name": given} if isinstance(given, str) else given, where))
    name = str(entry.pop("name", None))
    if name not in known:
        raise unknown_name(f"name in {where}", name, known)
    _check_keys(entry, ("name", *known[name]), where)
    numbers = {key: _whole(entry.get(key, usual), _LEAST[key], f"{where}: {key}") for key, usual in known[name].items()}
    return {"name": name, **numbers}


def _check_values(plan: Search, where: str) -> None:
    """Tries every choice, and three values of every range: a wrong one shall not be found after an hour."""
    parameters = {parameter.name: parameter for parameter in plan.space}
    for parameter in plan.space:
        tried = list(parameter.values)
        if parameter.kind in (
            "uniform",
            "log_uniform",
        ):  # not only the bounds: epochs: [5, 10] are whole numbers by chance
            tried.append(tried[0] + 0.37 * (tried[1] - tried[0]))
        for value in tried:
            try:
                find_model(compose(None, plan.base, _needed(parameter, parameters), {parameter.name: value}).model.name)
            except InputError as error:
                raise InputError(f"{where}: space: {parameter.name}: {error}") from error


def _needed(parameter: Parameter, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Returns values of other fields with which this one is searched."""
    values: dict[str, Any] = {}
    for name, wanted in parameter.when.items():
        values |= _needed(parameters[name], parameters) | {name: wanted[0]}
    return values


def _with_options(
    plan: Search, where: str, preset: str | list[str] | None, options: Mapping[str, Any] | None, trials: int | None
) -> Search:
    """Returns the search with the user's presets and options put over its base."""
    options = options or {}
    for name in _named(options):
        if name in _THE_SEARCH_CHOOSES:
            raise InputError(f"{name} is for the search to choose")
        if name in [parameter.name for parameter in plan.space]:
            raise InputError(f"{name} is searched: leave out the option, or write a search of your own without {name}")
    experiment = compose(None, plan.base, {"preset": preset}, options)
    if not experiment.data.source:
        raise InputError("data is missing: a dataset file (train.h5) or a survey (model_ii)")
    if experiment.trainer.devices > 1 or experiment.trainer.nodes > 1:
        raise InputError("each trial is trained on one device: leave out devices and nodes, and use workers")
    # What is said is kept even where it is the default, which another version may change.
    said = {
        "data",
        "model",
        *_settings(experiment),
        *(name.partition(".")[0] for name in _named(plan.base) | _named(options)),
    }
    base = {name: value for name, value in experiment.flat().items() if name in said}
    trials = plan.trials if trials is None else _whole(trials, 1, "trials")
    return _parsed({**plan.raw, "base": base, "trials": trials}, where)  # task, say, decides what the metric may be


def _named(options: Mapping[str, Any]) -> set[str]:
    """Returns the short names of the fields in options of any spelling."""
    names = set()
    for key, value in options.items():
        if key != "preset":
            inner = value if isinstance(value, Mapping) and (key in GROUPS or key == "model_args") else {"": None}
            names |= {short_name(f"{key}.{name}" if name else key) for name in inner}
    return names


# --- trials -----------------------------------------------------------------------------------------------------------


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError("a search needs Optuna: pip install 'haloformer[tune]'") from error


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
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
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process off the folder: it would take the trials of the first for killed ones."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=0):  # ends with the process, however that ends
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another process is at this search; use workers for several at a time") from error


def _prepare_folder(folder: Path, plan: Search, command: str) -> None:
    """Makes the folder and writes down the search as it is carried out, in a form that can be read again."""
    if folder.exists() and not (folder / "search.yaml").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not the folder of a search: choose another out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "search.yaml").exists():  # of another search it is refused later; until then it stays
            write_text(folder / "search.yaml", _search_text(plan, command))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error


def _search_text(plan: Search, command: str) -> str:
    return f"# {command}\n{yaml.safe_dump(plan.raw, sort_keys=False, allow_unicode=True)}"


def _open(folder: Path, plan: Search) -> "optuna.Study":
    """Returns the study in the folder, a new one if there is none."""
    import optuna

    numbers = {key: value for key, value in plan.pruner.items() if key != "name"}
    epochs = compose(None, plan.base).schedule.epochs
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if plan.pruner["name"] == "median":
        # Optuna's warm-up ends with its last step; ours is so many epochs in which nothing is stopped.
        pruner = optuna.pruners.MedianPruner(numbers["startup_trials"], numbers["warmup_epochs"] + 1)
    elif plan.pruner["name"] == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(numbers["min_epochs"], epochs, numbers["reduction_factor"])
    return optuna.create_study(
        storage=_storage(folder),
        study_name=_STUDY,
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
        return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    except DatabaseError as error:
        raise InputError(f"{path}: cannot be read as a search: {str(error).splitlines()[0][:200]}") from error


def _sampler(plan: Search, n: int) -> "optuna.samplers.BaseSampler":
    """Returns the sampler of the n-th trial: it depends on that alone, so an interrupted search goes on as it would have."""
    import optuna

    seed = int(np.random.SeedSequence([plan.seed, n]).generate_state(1)[0])
    if plan.sampler["name"] == "tpe":
        # constant_liar: trials that still run count as poor ones, so that workers do not all try the same.
        return optuna.samplers.TPESampler(
            n_startup_trials=plan.sampler["startup_trials"], seed=seed, constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed)


def _refuse_another_search(folder: Path, plan: Search, study: "optuna.Study") -> None:
    """Refuses to mix trials of different bases or spaces; the number of trials, sampler and pruner may change."""
    base = {key: value for key, value in compose(None, plan.base).flat().items() if key not in RUN_ONLY}
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


def _put_back(study: "optuna.Study", *, killed: bool) -> None:
    """Ends the trials that an interruption left running, and lines up the same values again.

    A trial whose process was killed gets one more chance: the next time it may be the trial itself that does it, say by its memory.
    """
    import optuna

    done_again = _done_again(study)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        kills = trial.user_attrs.get("kills", 0) + killed
        if kills <= 1 and trial.number not in done_again:
            again = trial.user_attrs | {"continues": trial.number, "kills": kills}
            study.enqueue_trial(trial.params, user_attrs=again)
        elif trial.number not in done_again:
            study._storage.set_trial_user_attr(trial._trial_id, "message", "its process was killed twice")
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _done_again(study: "optuna.Study") -> set[int]:
    """Returns the numbers of interrupted trials that others continue."""
    return {
        trial.user_attrs["continues"] for trial in study.get_trials(deepcopy=False) if "continues" in trial.user_attrs
    }


def _targets(plan: Search, study: "optuna.Study") -> int:
    """Returns how many trials there shall be; of a grid, lines up its points."""
    if plan.sampler["name"] != "grid":
        return plan.trials
    points: list[dict[str, Any]] = [{}]
    for parameter in plan.space:
        values = parameter.values if parameter.kind == "choice" else range(parameter.values[0], parameter.values[1] + 1)
        points = [
            wider
            for point in points
            for wider in ([{**point, parameter.name: v} for v in values] if parameter.applies(point) else [point])
        ]
    for point in points:
        study.enqueue_trial({name: _label(value) for name, value in point.items()}, skip_if_exists=True)
    return min(plan.trials, len(points))


def _label(value: Any) -> Any:
    """Returns what Optuna stores of a choice: plain values as they are, lists and mappings as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _suggest(plan: Search, trial: "optuna.Trial") -> dict[str, Any]:
    """Returns a trial's values of the searched fields."""
    values: dict[str, Any] = {}
    for parameter in plan.space:
        if not parameter.applies(values):
            continue
        name, kind = parameter.name, parameter.kind
        if kind == "choice":
            by_label = {_label(value): value for value in parameter.values}
            values[name] = by_label[trial.suggest_categorical(name, list(by_label))]
        elif kind.startswith("int"):
            values[name] = trial.suggest_int(name, *parameter.values, log=kind == "int_log")
        else:
            values[name] = trial.suggest_float(name, *parameter.values, log=kind == "log_uniform")
    return values


def _carry_out(
    folder: Path,
    plan: Search,
    command: str,
    study: "optuna.Study",
    target: int,
    workers: int,
    deadline: float,
    progress: bool,
) -> None:
    """Does the trials that are missing. Only this process asks for new values, so their order is the same each time."""
    import optuna

    began, finished = time.monotonic(), 0
    waiting = target - _count(study)
    gpus = torch.cuda.device_count() if compose(None, plan.base).trainer.device == "auto" else 0
    running: dict[Future[dict[str, Any]], tuple[optuna.Trial, int]] = {}
    with contextlib.closing(_processes(folder, max(1, min(workers, waiting)))) as processes:
        submit = next(processes)
        while True:
            while len(running) < workers and finished + len(running) < waiting and time.monotonic() < deadline:
                fresh = [t for t in study.get_trials(deepcopy=False) if "continues" not in t.user_attrs]
                study.sampler = _sampler(plan, sum(t.state != optuna.trial.TrialState.WAITING for t in fresh))
                trial = study.ask()
                values = _suggest(plan, trial)
                _take_over(folder, study, trial)
                if progress:
                    print(f"trial {trial.number} begins: {_one_line(values)}", flush=True)
                slot = min({*range(workers)} - {slot for _, slot in running.values()})
                device = {"device": f"cuda:{slot % gpus}"} if gpus > 1 else {}
                running[submit(_trial, folder, plan, trial.number, {**values, **device})] = trial, slot
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial, _ = running.pop(future)
                outcome = future.result()
                _tell(study, trial, outcome)
                finished += 1
                _write_trials(folder, plan, study)
                best = _best(study)
                if best is not None:
                    _write_best(folder, plan, command, study, best)
                elif outcome["state"] == "failed":
                    _give_up_on_the_same_failure(folder, study)
                if progress:
                    left = (time.monotonic() - began) / finished * (waiting - finished)
                    head = f"[{target - waiting + finished}/{target}] trial {trial.number}: {_in_words(plan, outcome)}"
                    so_far = (
                        f"; best {figures.format_value(_value(best))} (trial {best.number})" if best is not None else ""
                    )
                    print(f"{head}{so_far}{_about(left)}", flush=True)


def _count(study: "optuna.Study") -> int:
    """Returns how many trials have ended, without the interrupted ones that are done again."""
    done_again = _done_again(study)
    return sum(t.state.is_finished() and t.number not in done_again for t in study.get_trials(deepcopy=False))


def _processes(folder: Path, workers: int) -> Generator[Callable[..., Future[dict[str, Any]]], None, None]:
    """Yields what starts a trial: at once and here, or in one of several processes."""
    if workers <= 1:
        yield _here
        return
    before = set(multiprocessing.active_children())
    # New processes, not forks: torch's threads and CUDA do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (max(1, torch.get_num_threads() // workers),)
    )
    try:
        yield pool.submit
        pool.shutdown()
    finally:
        children = set(multiprocessing.active_children()) - before
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        for child in children:
            child.join(30)  # it may have a checkpoint to write
            child.kill()


def _here(function: Callable[..., dict[str, Any]], *arguments: Any) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_result(function(*arguments))
    return future


def _take_over(folder: Path, study: "optuna.Study", trial: "optuna.Trial") -> None:
    """Gives a trial that continues an interrupted one its run folder and what was reported of it."""
    number = trial.user_attrs.get("continues")
    if number is None:
        return
    for epoch, value in study.get_trials(deepcopy=False)[number].intermediate_values.items():
        trial.report(value, epoch)
    before, now = _run_folder(folder, number), _run_folder(folder, trial.number)
    if before.exists() and not now.exists():
        before.rename(now)


def _run_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}"


def _trial(folder: Path, plan: Search, number: int, values: dict[str, Any]) -> dict[str, Any]:
    """Trains once; returns what came of it. Runs in a process of its own if there are several workers."""
    from haloformer.training import train

    with _quiet_optuna():
        study = _open(folder, plan)
        trial_id = study.get_trials(deepcopy=False)[number]._trial_id
        experiment = compose(None, plan.base, values)
        pruned = False

        def on_epoch(epoch: int, metrics: dict[str, float]) -> bool:
            nonlocal pruned
            value = metrics[plan.metric]
            if math.isnan(value):
                return False  # the training says so itself
            study._storage.set_trial_intermediate_value(trial_id, epoch, value)
            if epoch < experiment.schedule.epochs:  # after the last epoch there is nothing to spare
                pruned = study.pruner.prune(study, study.get_trials(deepcopy=False)[number])
            return pruned

        began = time.monotonic()
        outcome: dict[str, Any] = {"state": "failed", "value": None, "message": ""}
        options = {**_settings(experiment), "out": str(_run_folder(folder, number)), "progress": False}
        try:
            result = train(**options, on_epoch=on_epoch)
            outcome |= {"best_epoch": result.best_epoch, "epochs": result.epochs, "value": result.metrics[plan.metric]}
            outcome["state"] = "pruned" if pruned else "complete"
        except InputError as error:
            outcome["message"] = str(error)
        except (OSError, MemoryError):  # the next trial would fare no better
            raise
        except Exception as error:  # a night's search shall not end with one network's defect
            outcome["message"] = f"{type(error).__name__}: {error}"
            (folder / "failed").mkdir(exist_ok=True)
            write_text(folder / "failed" / f"{number:04d}.txt", traceback.format_exc())
        return outcome | {"seconds": round(time.monotonic() - began, 1)}


def _tell(study: "optuna.Study", trial: "optuna.Trial", outcome: dict[str, Any]) -> None:
    from optuna.trial import TrialState

    for key in ("best_epoch", "epochs", "seconds", "message"):
        if outcome.get(key):
            trial.set_user_attr(key, outcome[key])
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    study.tell(trial, outcome["value"] if outcome["state"] == "complete" else None, states[outcome["state"]])


def _give_up_on_the_same_failure(folder: Path, study: "optuna.Study") -> None:
    messages = [trial.user_attrs.get("message") for trial in _failed(study)]
    if len(messages) >= _SAME_FAILURES and len({*messages}) == 1:
        raise InputError(f"{folder}: the first {len(messages)} trials all failed: {messages[0]}")


# --- what comes out ---------------------------------------------------------------------------------------------------


def _best(study: "optuna.Study") -> "optuna.trial.FrozenTrial | None":
    """Returns the best trial that was trained to the end; of equal ones the first."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if study.direction.name == "MAXIMIZE" else -1
    return max(complete, key=lambda trial: sign * _value(trial), default=None)


def _value(trial: "optuna.trial.FrozenTrial") -> float:
    assert trial.value is not None  # complete trials have one
    return trial.value


def _failed(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    from optuna.trial import TrialState

    done_again = _done_again(study)
    return [
        trial for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if trial.number not in done_again
    ]


def _report(
    folder: Path, plan: Search, command: str, study: "optuna.Study", target: int, progress: bool
) -> SearchResult:
    """Writes best.yaml, trials.csv and the figures from the study."""
    from optuna.trial import TrialState

    write_text(folder / "search.yaml", _search_text(plan, command))
    _write_trials(folder, plan, study)
    best, failed = _best(study), _failed(study)
    if best is None:
        if failed:
            raise InputError(
                f"{folder}: no trial succeeded; the first message: {failed[0].user_attrs.get('message', '')}"
            )
        raise InputError(f"{folder}: no trial was trained to the end yet; the same command goes on")
    _write_best(folder, plan, command, study, best)
    for name, figure in _figures(plan, study).items():
        figures.save(figure, folder / name)
    values = _values(plan, best)
    n_complete, n_pruned = (
        len(study.get_trials(deepcopy=False, states=(state,))) for state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    n_missing = max(0, target - _count(study))
    result = SearchResult(folder, best.number, _value(best), values, n_complete, n_pruned, len(failed), n_missing)
    if progress:
        print(
            f"{result.n_complete} trials are complete, {result.n_pruned} were stopped early, {result.n_failed} failed, "
            f"{result.n_missing} are missing\n"
            f"best: trial {best.number}, {_metric_words(plan)} {figures.format_value(_value(best))} with {_one_line(values)}\n"
            f"chosen on validation images, so too good by what luck adds: train with another seed and test\n"
            f"  haloformer train --config {folder / 'best.yaml'} --seed {compose(None, plan.base).trainer.seed + 1} --out runs/best"
        )
    return result


def _values(plan: Search, trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """Returns a trial's values, choices as the search's file has them."""
    found = {}
    for parameter in plan.space:
        if parameter.name in trial.params:
            value = trial.params[parameter.name]
            by_label = {_label(choice): choice for choice in parameter.values}
            found[parameter.name] = by_label[value] if parameter.kind == "choice" else value
    return found


def _write_best(
    folder: Path, plan: Search, command: str, study: "optuna.Study", best: "optuna.trial.FrozenTrial"
) -> None:
    """Writes the best trial's experiment as a preset: what the base says, and the best values."""
    flat = compose(None, plan.base, _values(plan, best)).flat()
    kept = {*plan.base, *(name.partition(".")[0] for name in best.params)} - RUN_ONLY
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    comments = [
        f"Best of {_count(study)} trials of '{plan.title}': trial {best.number}, {_metric_words(plan)} "
        f"{figures.format_value(_value(best))} in epoch {best.user_attrs.get('best_epoch', '?')}.",
        "Chosen on validation images, and as the best of many too good by what luck adds: train with another seed, and test.",
        f"{command} ({date} UTC, code {code_version()})",
    ]
    text = yaml.safe_dump({name: flat[name] for name in flat if name in kept}, sort_keys=False, allow_unicode=True)
    write_text(folder / "best.yaml", "".join(f"# {line}\n" for line in comments) + text)


def _write_trials(folder: Path, plan: Search, study: "optuna.Study") -> None:
    """Writes one row per trial."""
    done_again = _done_again(study)
    names = [parameter.name for parameter in plan.space]
    facts = ("best_epoch", "epochs", "seconds", "message")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", plan.metric, *names, *facts[:2], facts[2], "started", "continues", facts[3]])
    for trial in study.get_trials(deepcopy=False):
        if trial.datetime_start is None:
            continue
        state = {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
        state = "interrupted" if trial.number in done_again else state
        said = [trial.user_attrs.get(key, "") for key in facts]
        started, before = (
            trial.datetime_start.astimezone(datetime.UTC).isoformat(" ", "seconds"),
            trial.user_attrs.get("continues", ""),
        )
        value = "" if trial.value is None else trial.value
        row = [trial.params.get(name, "") for name in names]
        writer.writerow([trial.number, state, value, *row, *said[:3], started, before, said[3]])
    write_text(folder / "trials.csv", text.getvalue())


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


def _in_words(plan: Search, outcome: Mapping[str, Any]) -> str:
    if outcome["state"] == "failed":
        return f"failed: {outcome['message']}"
    early = f"stopped after epoch {outcome['epochs']}, " if outcome["state"] == "pruned" else ""
    return f"{early}{_metric_words(plan)} {figures.format_value(outcome['value'])} ({outcome['seconds']:.0f} s)"


def _metric_words(plan: Search) -> str:
    """``val_macro_auc`` as ``validation macro AUC``."""
    words = plan.metric.removeprefix("val_").split("_", 1)  # the second may be the name of a class: no_sub
    return " ".join(["validation", *(word.upper() if word in ("auc", "mae", "rmse") else word for word in words)])


def _one_line(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def _figures(plan: Search, study: "optuna.Study") -> dict[str, "Figure"]:
    """Returns the figures by name; importances only where there is enough to tell."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    drawn = {"history": _history(plan, study), "slices": _slices(plan, study)}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    always = [p.name for p in plan.space if all(p.name in trial.params for trial in complete)]
    if len(complete) >= 4 and len(always) >= 2 and len({trial.value for trial in complete}) > 1:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=always)
        drawn["importances"] = _importances(plan, shares, len(complete))
    return drawn


@figures._styled
def _history(plan: Search, study: "optuna.Study") -> "Figure":
    """Draws each trial's value, and the best so far."""
    figure = figures._figure(7.2, 4.4)
    axes = figure.add_subplot()
    seen: dict[str, list[tuple[int, float]]] = {"COMPLETE": [], "PRUNED": []}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name in seen and trial.value is not None:
            seen[trial.state.name].append((trial.number, trial.value))
    complete = np.array(seen["COMPLETE"])
    better = np.maximum if plan.direction == "maximize" else np.minimum
    last = max(number for points in seen.values() for number, _ in points)
    axes.step(
        np.append(complete[:, 0], last),
        better.accumulate(np.append(complete[:, 1], complete[-1, 1])),
        where="post",
        color=figures.colour(0),
        label="best so far",
    )
    axes.plot(*complete.T, "o", color=figures.colour(1), markersize=5.5, label="trained to the end")
    if seen["PRUNED"]:
        axes.plot(
            *np.array(seen["PRUNED"]).T,
            "o",
            color=figures.FAINT,
            markerfacecolor=figures.PAPER,
            markersize=5,
            zorder=1,
            label="stopped early",
        )
    for k, trial in enumerate(_failed(study)):
        axes.plot(
            trial.number,
            0,
            "x",
            color=figures.INK,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="failed" if k == 0 else None,
        )
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="Trial", ylabel=_capital(_metric_words(plan)))
    axes.set_title(_shortened(plan.title))
    axes.grid(axis="y", color=figures.FAINT, alpha=0.25, linewidth=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@figures._styled
def _importances(plan: Search, shares: Mapping[str, float], n: int) -> "Figure":
    """Draws which share of the metric's variance each field explains (functional ANOVA, Hutter et al. 2014)."""
    figure = figures._figure(6.4, 1.6 + 0.36 * len(shares))
    axes = figure.add_subplot()
    names = list(shares)
    axes.barh(range(len(names)), [shares[name] for name in names], height=0.62, color=figures.colour(1))
    for place, name in enumerate(names):
        axes.annotate(f" {shares[name]:.2f}", (shares[name], place), va="center", fontsize=9.5)
    axes.set_yticks(range(len(names)), [figures._plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(shares.values()))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"Share of the variance of the {_metric_words(plan)}, {n} trials")
    axes.set_title("What mattered within the searched ranges")
    return figure


@figures._styled
def _slices(plan: Search, study: "optuna.Study") -> "Figure":
    """Draws the metric against each searched field."""
    from matplotlib.ticker import LogLocator, NullFormatter
    from optuna.trial import TrialState

    shown = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    early = [t for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)) if t.value is not None]
    best = _best(study)
    columns = min(3, len(plan.space))
    lines = -(-len(plan.space) // columns)
    figure = figures._figure(0.9 + 2.6 * columns, 0.7 + 2.4 * lines)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
    for parameter, axes in zip(plan.space, panels):
        choices = [_label(value) for value in parameter.values] if parameter.kind == "choice" else None
        place = (lambda value, c=choices: c.index(value)) if choices else float
        for trials, style in (
            (early, {"color": figures.FAINT, "markerfacecolor": figures.PAPER, "markersize": 4}),
            (shown, {"color": figures.colour(1), "markersize": 5}),
            ([best], {"color": figures.colour(0), "markersize": 7.5}),
        ):
            points = [(place(t.params[parameter.name]), t.value) for t in trials if t and parameter.name in t.params]
            if points:
                axes.plot(*np.array(points).T, "o", **style)
        if choices:
            axes.set_xticks(range(len(choices)), [figures._plain(str(choice)) for choice in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        elif parameter.kind in ("log_uniform", "int_log"):
            low, high = parameter.values
            axes.set_xscale("log")
            axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high / low < 30 else (1,)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(figures._plain(parameter.name))
        axes.grid(axis="y", color=figures.FAINT, alpha=0.25, linewidth=0.6)
    for axes in list(figure.axes)[len(plan.space) :]:
        axes.set_visible(False)
    figure.supylabel(_capital(_metric_words(plan)), fontsize=11)
    figure.suptitle("Each trial; red: the best; hollow: stopped early", x=0.01, ha="left", fontsize=11)
    return figure


def _capital(text: str) -> str:
    return figures._plain(text[:1].upper() + text[1:])


def _shortened(text: str) -> str:
    return figures._plain(textwrap.shorten(text, 60, placeholder=" …"))
