"""What a search is: parameters, their ranges and the method, read from YAML and checked."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from haloformer.data.grouping import GROUPINGS
from haloformer.errors import InputError
from haloformer.models import find_model
from haloformer.studies.plan import check_keys, mapping, settings_of
from haloformer.training.config import (
    GROUPS,
    RUN_ONLY,
    Experiment,
    compose,
    read_options,
    short_name,
)
from haloformer.vocabulary import CLASS_NAMES, unknown_name

if TYPE_CHECKING:
    pass


_KEYS = (
    "title",
    "notes",
    "base",
    "space",
    "metric",
    "direction",
    "sampler",
    "pruner",
    "trials",
    "seed",
)


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


def list_searches() -> dict[str, str]:
    """Returns the shipped searches: name → title."""
    return {
        file.name.removesuffix(".yaml"): str(
            yaml.safe_load(file.read_text(encoding="utf-8")).get("title", "")
        )
        for file in sorted(_shipped(), key=lambda file: file.name)
    }


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
    check_keys(raw, _KEYS, where)
    base = dict(mapping(raw.get("base") or {}, f"{where}: base"))
    try:
        experiment = compose(None, base)
    except InputError as error:
        raise InputError(f"{where}: base: {error}") from error
    for field in _THE_SEARCH_CHOOSES:
        if getattr(experiment.trainer, field) != getattr(Experiment().trainer, field):
            raise InputError(f"{where}: base: {field} is for the search to choose")
    space: list[Parameter] = []
    for key, given in mapping(raw.get("space") or {}, f"{where}: space").items():
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
    pruner = _with_numbers(
        "none" if raw.get("pruner") is None else raw["pruner"], _PRUNERS, f"{where}: pruner"
    )
    if pruner.get("min_epochs", 0) > experiment.schedule.epochs:
        raise InputError(
            f"{where}: pruner: min_epochs {pruner['min_epochs']} is more than the {experiment.schedule.epochs} epochs of the base"
        )
    trials, seed = (
        _whole(raw.get("trials", 30), 1, f"{where}: trials"),
        _whole(raw.get("seed", 0), 0, f"{where}: seed"),
    )
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
    entry = mapping(given, f"{where}: {name}")
    for word in entry:
        if word not in (*_KINDS, "when"):
            raise unknown_name(f"kind of values in {where}: {name}", word, (*_KINDS, "when"))
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise InputError(
            f"{where}: {name} needs one of {', '.join(_KINDS)}, not {' and '.join(kinds) or 'none'}"
        )
    kind, values = kinds[0], entry[kinds[0]]
    if not isinstance(values, list) or len(values) < 2 or (kind in _RANGES and len(values) != 2):
        wanted = "a list of two bounds" if kind in _RANGES else "a list of at least two values"
        raise InputError(f"{where}: {name}: {kind} must be {wanted}, not {values!r}")
    if kind == "choice":
        if any(value == other for i, value in enumerate(values) for other in values[:i]):
            raise InputError(f"{where}: {name}: a choice is there twice")
    else:
        values = [
            _number(value, kind.startswith("int"), f"{where}: {name}: {kind}") for value in values
        ]
        if not values[0] < values[1]:
            raise InputError(
                f"{where}: {name}: {kind}: the smaller bound comes first, and they differ, not {values}"
            )
        if kind in ("log_uniform", "int_log") and values[0] <= 0:
            raise InputError(
                f"{where}: {name}: {kind}: bounds must be above 0, not {values[0]}; uniform may begin at 0"
            )
    when = _conditions(entry.get("when"), above, f"{where}: {name}: when")
    return Parameter(name, kind, tuple(values), when)


def _conditions(given: Any, above: Sequence[Parameter], where: str) -> dict[str, tuple[Any, ...]]:
    if given is None:
        return {}
    choices = {
        parameter.name: parameter.values for parameter in above if parameter.kind == "choice"
    }
    found = {}
    for key, wanted in mapping(given, where).items():
        try:
            name = short_name(key)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if name not in choices:
            raise InputError(f"{where}: {name} must be a choice that stands above in the space")
        found[name] = (
            tuple(wanted) if isinstance(wanted, list) and wanted not in choices[name] else (wanted,)
        )
        for value in found[name]:
            if value not in choices[name]:
                raise InputError(
                    f"{where}: {value!r} is no choice of {name}: those are {list(choices[name])}"
                )
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
        known = [
            "val_mae",
            *(f"val_{kind}_{target}" for kind in ("mae", "rmse") for target in task.targets),
            *known,
        ]
    if task.name != "regression":
        classes = (GROUPINGS[experiment.data.classes] or dict.fromkeys(CLASS_NAMES)).items()
        known = [
            "val_macro_auc",
            "val_accuracy",
            *(f"val_auc_{group or name}" for name, group in classes),
            *known,
        ]
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
    entry = dict(mapping({"name": given} if isinstance(given, str) else given, where))
    name = str(entry.pop("name", None))
    if name not in known:
        raise unknown_name(f"name in {where}", name, known)
    check_keys(entry, ("name", *known[name]), where)
    numbers = {
        key: _whole(entry.get(key, usual), _LEAST[key], f"{where}: {key}")
        for key, usual in known[name].items()
    }
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
                find_model(
                    compose(
                        None, plan.base, _needed(parameter, parameters), {parameter.name: value}
                    ).model.name
                )
            except InputError as error:
                raise InputError(f"{where}: space: {parameter.name}: {error}") from error


def _needed(parameter: Parameter, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Returns values of other fields with which this one is searched."""
    values: dict[str, Any] = {}
    for name, wanted in parameter.when.items():
        values |= _needed(parameters[name], parameters) | {name: wanted[0]}
    return values


def with_options(
    plan: Search,
    where: str,
    preset: str | list[str] | None,
    options: Mapping[str, Any] | None,
    trials: int | None,
) -> Search:
    """Returns the search with the user's presets and options put over its base."""
    options = options or {}
    for name in _named(options):
        if name in _THE_SEARCH_CHOOSES:
            raise InputError(f"{name} is for the search to choose")
        if name in [parameter.name for parameter in plan.space]:
            raise InputError(
                f"{name} is searched: leave out the option, or write a search of your own without {name}"
            )
    experiment = compose(None, plan.base, {"preset": preset}, options)
    if not experiment.data.source:
        raise InputError("data is missing: a dataset file (train.h5) or a survey (model_ii)")
    if experiment.trainer.devices > 1 or experiment.trainer.nodes > 1:
        raise InputError(
            "each trial is trained on one device: leave out devices and nodes, and use workers"
        )
    # What is said is kept even where it is the default, which another version may change.
    said = {
        "data",
        "model",
        *settings_of(experiment),
        *(name.partition(".")[0] for name in _named(plan.base) | _named(options)),
    }
    base = {name: value for name, value in experiment.flat().items() if name in said}
    trials = plan.trials if trials is None else _whole(trials, 1, "trials")
    return _parsed(
        {**plan.raw, "base": base, "trials": trials}, where
    )  # task, say, decides what the metric may be


def _named(options: Mapping[str, Any]) -> set[str]:
    """Returns the short names of the fields in options of any spelling."""
    names = set()
    for key, value in options.items():
        if key != "preset":
            inner = (
                value
                if isinstance(value, Mapping) and (key in GROUPS or key == "model_args")
                else {"": None}
            )
            names |= {short_name(f"{key}.{name}" if name else key) for name in inner}
    return names


def search_text(plan: Search, command: str) -> str:
    """Returns the search as YAML, below the command that made it."""
    return f"# {command}\n{yaml.safe_dump(plan.raw, sort_keys=False, allow_unicode=True)}"


def label_of(value: Any) -> Any:
    """Returns what Optuna stores of a choice: plain values as they are, lists and mappings as JSON."""
    return (
        value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)
    )


def metric_in_words(plan: Search) -> str:
    """``val_macro_auc`` as ``validation macro AUC``."""
    words = plan.metric.removeprefix("val_").split(
        "_", 1
    )  # the second may be the name of a class: no_sub
    return " ".join(
        [
            "validation",
            *(word.upper() if word in ("auc", "mae", "rmse") else word for word in words),
        ]
    )
