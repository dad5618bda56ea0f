"""Options that a user gave and that do nothing in a training, because of its data, optimiser, schedule or task."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haloformer.errors import InputWarning
from haloformer.readers.reading import DATASET_SUFFIXES
from haloformer.training.config import GROUPS, Experiment, short_name
from haloformer.training.console import is_first_process
from haloformer.training.optim import takes_betas, takes_momentum


class IdleWarning(InputWarning):
    """An option that was given does nothing."""


def warn_of_idle(experiment: Experiment, *given: Mapping[str, Any]) -> None:
    """Warns, in one line, of given options that do nothing in an experiment, and of frozen weights that nobody trained.

    Defaults, and what presets and files of options say, are meant for trainings of all kinds.

    Args:
        experiment: Composed of them, and of others.
        *given: Options as the user gave them, by any of their spellings.
    """
    if not is_first_process():
        return
    names = {name for options in given for name in _names(options)}
    idle = idle_fields(experiment)
    told = [f"{name} ({reason})" for name, reason in idle.items() if name in names]
    if told:
        message = f"{', '.join(told)} {_have(told)} no effect in this training"
        warnings.warn(message, IdleWarning, stacklevel=3)
    if frozen := _random_and_frozen(experiment):
        warnings.warn(frozen, IdleWarning, stacklevel=3)


def warn_of_idle_among(
    what: str,
    experiments: Mapping[str, Experiment],
    changes: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Any],
) -> None:
    """Warns, in one line, of options that do nothing in any of several trainings, or in the one that they are for.

    Args:
        what: What all of them are, such as "study".
        experiments: By their names.
        changes: By the same names, the options that one of them differs by.
        given: Options for all of them, as the user gave them.
    """
    found = {name: idle_fields(experiment) for name, experiment in experiments.items()}
    told = [
        f"{field} ({next(iter(found.values()))[field]})"
        for field in _names(given)
        if found and all(field in idle for idle in found.values())
    ]
    where: dict[str, list[str]] = {}
    for name, idle in found.items():
        for field in _names(changes.get(name, {})):
            if field in idle:
                where.setdefault(f"{field} ({idle[field]})", []).append(name)
    told += [f"{field} of {_some(names)}" for field, names in where.items()]
    if told:
        message = f"{', '.join(told)} {_have(told)} no effect in this {what}"
        warnings.warn(message, IdleWarning, stacklevel=3)
    frozen = {
        text: name for name, each in experiments.items() if (text := _random_and_frozen(each))
    }
    for text, name in frozen.items():
        warnings.warn(f"{name}: {text}", IdleWarning, stacklevel=3)


def _have(told: list[str]) -> str:
    return "has" if len(told) == 1 else "have"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _random_and_frozen(experiment: Experiment) -> str:
    """Returns what is to be said of a training that keeps weights frozen which nobody trained; nothing of others."""
    transfer = experiment.transfer
    if transfer.tune == "full" or transfer.pretrained:
        return ""
    return f"tune is {transfer.tune}, but pretrained names no weights: those that stay frozen are random"


def idle_fields(experiment: Experiment) -> dict[str, str]:
    """Returns the fields that do nothing in an experiment, by their short names, each with the reason."""
    return {
        **_of_data(experiment),
        **_of_optimizer(experiment),
        **_of_task(experiment),
        **_of_transfer(experiment),
    }


def _names(options: Mapping[str, Any]) -> list[str]:
    """Returns the short names of options that say something."""
    found = []
    for key, value in options.items():
        if key in GROUPS and isinstance(value, Mapping):
            found += _names({f"{key}.{name}": inner for name, inner in value.items()})
        elif key != "preset" and value is not None:
            found.append(short_name(key))
    return found


def _of_data(experiment: Experiment) -> dict[str, str]:
    data, idle = experiment.data, {}
    separate = data.val_data is not None
    if Path(data.source).suffix.lower() in DATASET_SUFFIXES:
        of_survey = "for surveys; the images of a file are made already"
        idle = dict.fromkeys(("noise", "simulate_on", "prepared", "prepared_gb"), of_survey)
        idle["val_size"] = "for surveys; val_fraction is for files"
        if separate:
            idle |= dict.fromkeys(("val_size", "val_fraction"), "val_data says on what")
    elif data.source:
        idle = dict.fromkeys(("val_fraction", "num_workers"), "for dataset files")
        if separate and experiment.task.name == "classification":
            idle["val_size"] = "val_data says on what"
        if experiment.trainer.prepared is None:
            idle["prepared_gb"] = "no folder prepared is given"
    if data.img_size is None:
        idle["fit"] = "no img_size is given"
    if data.physics == "none":
        idle["residual_dropout"] = "there is no residual: physics is none"
    return idle


def _of_optimizer(experiment: Experiment) -> dict[str, str]:
    name, schedule, idle = experiment.optimizer.name, experiment.schedule.name, {}
    if not takes_momentum(name):
        idle["momentum"] = f"{name} has none"
    if not takes_betas(name):
        idle["betas"] = f"{name} has none"
    used = {
        "cosine": ("min_lr",),
        "one_cycle": ("min_lr",),
        "step": ("min_lr", "step_size", "gamma"),
        "plateau": ("min_lr", "gamma", "plateau_patience"),
    }.get(schedule, ())
    course = ("min_lr", "step_size", "gamma", "plateau_patience")
    return idle | {field: f"not of schedule {schedule}" for field in course if field not in used}


def _of_task(experiment: Experiment) -> dict[str, str]:
    task, fields = experiment.task, list[str]()
    if task.name == "classification":
        fields = ["targets", "loss", "beta", "coverage", "regression_weight"]
    if task.name == "regression":
        fields = ["regression_weight", "label_smoothing", "classes"]
    idle = dict.fromkeys(fields, f"task is {task.name}")
    if task.name != "classification" and task.loss != "beta_nll":
        idle["beta"] = f"loss is {task.loss}"
    return idle


def _of_transfer(experiment: Experiment) -> dict[str, str]:
    tune = experiment.transfer.tune
    used = {"last_blocks": ("last_blocks",), "lora": ("lora_rank", "lora_alpha")}.get(tune, ())
    fields = ("last_blocks", "lora_rank", "lora_alpha")
    return {field: f"tune is {tune}" for field in fields if field not in used}
