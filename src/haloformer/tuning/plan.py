"""What a search is: parameters, their ranges and the method, read from YAML and checked."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from haloformer.data.grouping import GROUPINGS
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.models import find_model
from haloformer.studies.settings import Options, nothing_is_empty, settings_of
from haloformer.studies.shipped import Shipped
from haloformer.training.config import GROUPS, RUN_ONLY, Experiment, compose, short_name
from haloformer.training.idle import IdleWarning, idle_fields, warn_of_idle_among
from haloformer.validation import Number, Strict, WholeNumber, validated
from haloformer.vocabulary import CLASS_NAMES, unknown_name

_SHIPPED = Shipped("search", "searches")

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

AtLeastOne = Annotated[WholeNumber, Field(ge=1)]


class TPESampler(Strict):
    """Tree-structured Parzen estimator; the first trials are random."""

    name: Literal["tpe"]
    startup_trials: AtLeastOne = 10


class RandomSampler(Strict):
    """Independent random values."""

    name: Literal["random"]


class GridSampler(Strict):
    """All combinations."""

    name: Literal["grid"]


class MedianPruner(Strict):
    """Stops what is worse than the median of earlier trials in the same epoch."""

    name: Literal["median"]
    startup_trials: AtLeastOne = 5
    warmup_epochs: Annotated[WholeNumber, Field(ge=0)] = 1


class HyperbandPruner(Strict):
    """Stops all but the best of a group of trials at growing numbers of epochs."""

    name: Literal["hyperband"]
    min_epochs: AtLeastOne = 1
    reduction_factor: Annotated[WholeNumber, Field(ge=2)] = 3


class NoPruner(Strict):
    """Trains every trial to the end."""

    name: Literal["none"]


def _by_name(given: object) -> object:
    """A name alone stands for ``{name: …}``, and nothing for none."""
    if given is None:
        return {"name": "none"}
    return {"name": given} if isinstance(given, str) else given


Sampler = Annotated[
    TPESampler | RandomSampler | GridSampler,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]
Pruner = Annotated[
    MedianPruner | HyperbandPruner | NoPruner,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise InputError(f"the smaller bound comes first, and they differ, not {list(bounds)}")
    return bounds


def _positive(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] <= 0:
        raise InputError(f"bounds must be above 0, not {bounds[0]}; uniform may begin at 0")
    return bounds


def _different(values: list[object]) -> list[object]:
    if any(value == other for i, value in enumerate(values) for other in values[:i]):
        raise InputError("a choice is there twice")
    return values


class SpaceEntry(Strict):
    """Values between which one field is varied: one of the kinds, and when it is searched."""

    uniform: Annotated[tuple[Number, Number], AfterValidator(_ordered)] | None = None
    log_uniform: (
        Annotated[tuple[Number, Number], AfterValidator(_ordered), AfterValidator(_positive)] | None
    ) = None
    whole: Annotated[tuple[WholeNumber, WholeNumber], AfterValidator(_ordered)] | None = Field(
        None, alias="int"
    )
    int_log: (
        Annotated[
            tuple[WholeNumber, WholeNumber], AfterValidator(_ordered), AfterValidator(_positive)
        ]
        | None
    ) = None
    choice: Annotated[list[object], Field(min_length=2), AfterValidator(_different)] | None = None
    when: dict[str, object] | None = None

    def given(self) -> dict[str, Sequence[object]]:
        """Returns the kinds that are given, and their values."""
        kinds: dict[str, Sequence[object] | None] = {
            "uniform": self.uniform,
            "log_uniform": self.log_uniform,
            "int": self.whole,
            "int_log": self.int_log,
            "choice": self.choice,
        }
        return {kind: values for kind, values in kinds.items() if values is not None}

    @model_validator(mode="after")
    def _one_kind(self) -> "SpaceEntry":
        if len(given := self.given()) != 1:
            raise InputError(
                f"needs one of uniform, log_uniform, int, int_log, choice, not {' and '.join(given) or 'none'}"
            )
        return self


class SearchFile(Strict):
    """A search as its YAML file describes it; see docs/studies.md."""

    title: str | None = None
    notes: str | None = None
    base: Options = Field(default_factory=dict)
    space: Annotated[dict[str, SpaceEntry], BeforeValidator(nothing_is_empty)] = Field(
        default_factory=dict
    )
    metric: str | None = None
    direction: str | None = None
    sampler: Sampler = TPESampler(name="tpe")
    pruner: Pruner = NoPruner(name="none")
    trials: AtLeastOne = 30
    seed: Annotated[WholeNumber, Field(ge=0)] = 0


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
    values: tuple[object, ...]
    when: dict[str, tuple[object, ...]]

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of a range."""
        low, high = self.values
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        return low, high

    @property
    def is_logarithmic(self) -> bool:
        """Whether values are drawn uniformly in their logarithm."""
        return self.kind in ("log_uniform", "int_log")

    def applies(self, values: Mapping[str, object]) -> bool:
        """Whether the field is searched beside these values of the fields above it."""
        return all(name in values and values[name] in wanted for name, wanted in self.when.items())


@dataclass(frozen=True)
class Search:
    """A search that was read and checked.

    Attributes:
        raw: What its file holds.
        title: Its title.
        base: Fields that all trials share.
        space: The searched fields.
        metric: What is made best, of the validation.
        direction: maximize or minimize.
        sampler: How values are chosen.
        pruner: Which trials are stopped early.
        trials: How many there shall be.
        seed: Of the sampler.
    """

    raw: dict[str, object]
    title: str
    base: dict[str, object]
    space: tuple[Parameter, ...]
    metric: str
    direction: str
    sampler: TPESampler | RandomSampler | GridSampler
    pruner: MedianPruner | HyperbandPruner | NoPruner
    trials: int
    seed: int


def list_searches() -> dict[str, str]:
    """Returns the shipped searches: name → title."""
    return _SHIPPED.summaries("title")


def read_search(name: str) -> Search:
    """Reads a shipped search or a YAML file, and checks it.

    Raises:
        InputError: There is no such search, a key or field is unknown, or a value makes no sense.
    """
    return parse_search(*_SHIPPED.read(name))


def parse_search(raw: dict[str, object], where: str) -> Search:
    """Checks what a search's YAML file holds; errors begin with ``where``."""
    file = validated(SearchFile, raw, where)
    try:
        experiment = _base_experiment(file.base)
        metric, direction = _metric(file, experiment)
        plan = Search(
            raw=raw,
            title=file.title or where,
            base=file.base,
            space=_space(file.space),
            metric=metric,
            direction=direction,
            sampler=file.sampler,
            pruner=file.pruner,
            trials=file.trials,
            seed=file.seed,
        )
        _check_method(plan, experiment.schedule.epochs)
        _check_values(plan)
        _check_comparable(plan, experiment)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return plan


def _base_experiment(base: Mapping[str, object]) -> Experiment:
    try:
        experiment = compose(None, base)
    except InputError as error:
        raise InputError(f"base: {error}") from error
    for field in _THE_SEARCH_CHOOSES:
        if getattr(experiment.trainer, field) != getattr(Experiment().trainer, field):
            raise InputError(f"base: {field} is for the search to choose")
    return experiment


def _check_method(plan: Search, epochs: int) -> None:
    """Checks that sampler and pruner suit the space and the length of the trainings."""
    if plan.sampler.name == "grid":
        for parameter in plan.space:
            if parameter.kind not in ("choice", "int"):
                raise InputError(
                    f"sampler grid needs a choice or an int of every field; {parameter.name} is {parameter.kind}"
                )
    if isinstance(plan.pruner, HyperbandPruner) and plan.pruner.min_epochs > epochs:
        raise InputError(
            f"pruner: min_epochs {plan.pruner.min_epochs} is more than the {epochs} epochs of the base"
        )


_OF_THE_LOSS = ("loss", "beta", "coverage", "regression_weight")


def _check_comparable(plan: Search, experiment: Experiment) -> None:
    """Refuses fields with which trials would be validated on other images, or by another measure."""
    is_file = Path(experiment.data.source).suffix.lower() in DATASET_SUFFIXES
    own = "the file's" if is_file else experiment.data.noise
    for parameter in plan.space:
        if parameter.name == "fresh_noise":
            noises = [own if value == "none" else str(value) for value in parameter.values]
            if len({*noises}) > 1:
                raise InputError(
                    f"space: fresh_noise must be the same in all trials, or they cannot be compared: validation images would have the noise {' or '.join(noises)}; put it into base"
                )
        if plan.metric == "val_loss" and parameter.name in _OF_THE_LOSS:
            raise InputError(
                f"space: {parameter.name} changes what val_loss is, so that trials cannot be compared by it: choose another metric, or put {parameter.name} into base"
            )


def _space(entries: Mapping[str, SpaceEntry]) -> tuple[Parameter, ...]:
    space: list[Parameter] = []
    for key, entry in entries.items():
        try:
            space.append(_parameter(key, entry, space))
        except InputError as error:
            raise InputError(f"space: {error}") from error
    if not space:
        raise InputError(
            "space is missing: which fields are searched, such as lr: {log_uniform: [1e-4, 1e-2]}"
        )
    return tuple(space)


def _parameter(key: str, entry: SpaceEntry, above: Sequence[Parameter]) -> Parameter:
    """Reads one line of the space."""
    name = short_name(key)
    if name in [parameter.name for parameter in above]:
        raise InputError(f"{name} is there twice")
    if name.partition(".")[0] in _SAME_FOR_ALL:
        raise InputError(
            f"{name} must be the same in all trials, or they cannot be compared: put it into base"
        )
    ((kind, values),) = entry.given().items()
    try:
        return Parameter(name, kind, tuple(values), _conditions(entry.when or {}, above))
    except InputError as error:
        raise InputError(f"{name}: when: {error}") from error


def _conditions(
    given: Mapping[str, object], above: Sequence[Parameter]
) -> dict[str, tuple[object, ...]]:
    """Returns choices above with the values that a field is searched with."""
    choices = {
        parameter.name: parameter.values for parameter in above if parameter.kind == "choice"
    }
    found = {}
    for key, wanted in given.items():
        name = short_name(key)
        if name not in choices:
            raise InputError(f"{name} must be a choice that stands above in the space")
        several = isinstance(wanted, list) and wanted not in choices[name]
        found[name] = tuple(wanted) if several and isinstance(wanted, list) else (wanted,)
        for value in found[name]:
            if value not in choices[name]:
                raise InputError(
                    f"{value!r} is no choice of {name}: those are {list(choices[name])}"
                )
    return found


def _metric(file: SearchFile, experiment: Experiment) -> tuple[str, str]:
    """Returns the metric and its direction."""
    known = _metrics(experiment)
    metric = file.metric or known[0]
    if metric not in known:
        raise unknown_name("metric", metric, known)
    better = "minimize" if metric.startswith(("val_loss", "val_mae", "val_rmse")) else "maximize"
    direction = (file.direction or better).replace("ise", "ize")
    if direction not in ("maximize", "minimize"):
        raise unknown_name("direction", direction, ("maximize", "minimize"))
    if direction != better:
        raise InputError(f"direction: the best {metric} is the {better[:3]}imum: {better}")
    return metric, direction


def _metrics(experiment: Experiment) -> list[str]:
    """Returns the metrics that a training reports, the usual one first."""
    task, known = experiment.task, []
    if task.name != "regression":
        classes = (GROUPINGS[experiment.data.classes] or dict.fromkeys(CLASS_NAMES)).items()
        known += ["val_macro_auc", "val_accuracy"]
        known += [f"val_auc_{group or name}" for name, group in classes]
    if task.name != "classification":
        known += ["val_mae"]
        known += [f"val_{kind}_{target}" for kind in ("mae", "rmse") for target in task.targets]
    return [*known, "val_loss"]


def _check_values(plan: Search) -> None:
    """Fail fast: tries every choice, and three values of every range, before training starts."""
    parameters = {parameter.name: parameter for parameter in plan.space}
    for parameter in plan.space:
        tried = list(parameter.values)
        if parameter.kind in ("uniform", "log_uniform"):
            # Not only the bounds: epochs: [5, 10] are whole numbers by chance.
            low, high = parameter.bounds
            tried.append(low + 0.37 * (high - low))
        for value in tried:
            values = {**_needed(parameter, parameters), parameter.name: value}
            try:
                find_model(compose(None, plan.base, values).model.name)
            except InputError as error:
                raise InputError(f"space: {parameter.name}: {error}") from error


def _needed(parameter: Parameter, parameters: Mapping[str, Parameter]) -> dict[str, object]:
    """Returns values of other fields with which this one is searched."""
    values: dict[str, object] = {}
    for name, wanted in parameter.when.items():
        values |= _needed(parameters[name], parameters) | {name: wanted[0]}
    return values


def with_options(
    plan: Search,
    where: str,
    preset: str | list[str] | None,
    options: Mapping[str, object] | None,
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
    # Read again: task, say, decides what the metric may be.
    n_trials = plan.trials if trials is None else trials
    return parse_search({**plan.raw, "base": base, "trials": n_trials}, where)


def _named(options: Mapping[str, object]) -> set[str]:
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


Stored = None | bool | int | float | str


def stored_choice(value: object) -> Stored:
    """Returns what Optuna stores of a choice: plain values as they are, lists and mappings as JSON."""
    return value if isinstance(value, Stored) else json.dumps(value)


def metric_in_words(plan: Search) -> str:
    """``val_macro_auc`` as ``validation macro AUC``."""
    # What follows the first underscore may be the name of a class: no_sub.
    words = plan.metric.removeprefix("val_").split("_", 1)
    capitals = [word.upper() if word in ("auc", "mae", "rmse") else word for word in words]
    return " ".join(["validation", *capitals])


_MOST_COMBINATIONS = 256  # of choices, that are looked at for fields without effect


def warn_of_idle_search(plan: Search, given: Mapping[str, object] | None) -> None:
    """Warns of searched fields that do nothing in any trial, and of options that do nothing in any.

    Args:
        plan: The search.
        given: Options of the command.
    """
    experiments: dict[str, Experiment] = {}
    reasons: dict[str, str | None] = {}  # of searched fields; None: it does something in some trial
    for values in _trials_of_choices(plan):
        try:
            experiment = compose(None, plan.base, values)
        except InputError:  # such a trial fails, and says so
            continue
        experiments[str(values)] = experiment
        idle = idle_fields(experiment)
        for field in values:
            reasons[field] = idle.get(field) if reasons.get(field, "") is not None else None
    told = [f"{field} ({reason})" for field, reason in reasons.items() if reason is not None]
    if told:
        message = f"space: {', '.join(told)}: searched, but without effect in any trial"
        warnings.warn(message, IdleWarning, stacklevel=3)
    warn_of_idle_among("search", experiments, {}, given or {})


def _trials_of_choices(plan: Search) -> Iterator[dict[str, object]]:
    """Yields values of the searched fields for each combination of choices, the first values of other fields."""
    each = [param.values if param.kind == "choice" else param.values[:1] for param in plan.space]
    for values in islice(product(*each), _MOST_COMBINATIONS):
        trial: dict[str, object] = {}
        for parameter, value in zip(plan.space, values, strict=True):
            if parameter.applies(trial):
                trial[parameter.name] = value
        yield trial
