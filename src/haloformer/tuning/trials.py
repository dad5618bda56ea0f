"""The trials of a search, carried out one after another or side by side."""

import contextlib
import csv
import datetime
import io
import math
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
import yaml

from haloformer._version import code_version
from haloformer.errors import InputError, kind_and_reason
from haloformer.io import jobs
from haloformer.io.writing import write_text
from haloformer.reporting import interval
from haloformer.studies.settings import settings_of, with_prepared
from haloformer.studies.workers import time_left
from haloformer.training.config import RUN_ONLY, compose
from haloformer.training.idle import IdleWarning
from haloformer.tuning.plan import Search, metric_in_words, stored_choice
from haloformer.tuning.storage import open_study, quiet_optuna, repeated_trials, sampler_of

if TYPE_CHECKING:
    import optuna


# So many trials that fail alike, and none that worked: it is the search that is wrong.
_SAME_FAILURES = 3


class Outcome(TypedDict, total=False):
    """Result of one trial."""

    state: str  # complete, pruned or failed
    value: float | None
    message: str
    best_epoch: int
    epochs: int
    seconds: float


def _suggest(plan: Search, trial: "optuna.Trial") -> dict[str, object]:
    """Returns a trial's values of the searched fields."""
    values: dict[str, object] = {}
    for parameter in plan.space:
        if not parameter.applies(values):
            continue
        name, kind = parameter.name, parameter.kind
        if kind == "choice":
            choices = {stored_choice(value): value for value in parameter.values}
            values[name] = choices[trial.suggest_categorical(name, list(choices))]
            continue
        low, high = parameter.bounds
        if kind.startswith("int"):
            values[name] = trial.suggest_int(
                name, int(low), int(high), log=parameter.is_logarithmic
            )
        else:
            values[name] = trial.suggest_float(name, low, high, log=parameter.is_logarithmic)
    return values


@dataclass
class Trials:
    """The trials of a search that are missing. Only this process asks for new values, so their order is the same each time.

    Attributes:
        folder: Of the search.
        plan: The search.
        command: The command line that does the same.
        study: Optuna's study.
        target: How many trials there shall be.
        workers: Processes that train at the same time.
        progress: Say of each trial what it tries and how it went.
    """

    folder: Path
    plan: Search
    command: str
    study: "optuna.Study"
    target: int
    workers: int
    progress: bool
    _finished: int = field(default=0, init=False)
    _began: float = field(default=0.0, init=False)

    def carry_out(self, deadline: float) -> None:
        """Does the trials; none begins after the deadline, a reading of ``time.monotonic``."""
        waiting = self.target - counts(self.study)
        self._began, self._finished = time.monotonic(), 0
        several = min(self.workers, waiting) if min(self.workers, waiting) > 1 else 0
        outcomes = jobs.results(
            _trial,
            self._asked(waiting, deadline),
            workers=several,
            threads=max(1, torch.get_num_threads() // max(1, several)),
            gpus=_n_gpus(self.plan),
        )
        with contextlib.closing(outcomes):
            for trial, outcome in outcomes:
                self._end(trial, outcome, waiting)

    def _asked(
        self, waiting: int, deadline: float
    ) -> "Iterator[tuple[optuna.Trial, tuple[object, ...]]]":
        """Yields trials with what :func:`_trial` is called with, each when a worker is free for it."""
        for _ in range(waiting):
            if time.monotonic() >= deadline:
                return
            self.study.sampler = sampler_of(self.plan, _n_asked(self.study))
            trial = self.study.ask()
            values = _suggest(self.plan, trial)
            _take_over(self.folder, self.study, trial)
            if self.progress:
                print(f"trial {trial.number} begins: {values_in_words(values)}", flush=True)
            yield trial, (self.folder, self.plan, trial.number, values)

    def _end(self, trial: "optuna.Trial", outcome: Outcome, waiting: int) -> None:
        """Writes down what came of a trial."""
        _tell(self.study, trial, outcome)
        self._finished += 1
        write_trials(self.folder, self.plan, self.study)
        best = best_trial(self.study)
        if best is not None:
            write_best(self.folder, self.plan, self.command, self.study, best)
        elif outcome["state"] == "failed":
            _give_up_on_the_same_failure(self.folder, self.study)
        if self.progress:
            number = self.target - waiting + self._finished
            text = f"[{number}/{self.target}] trial {trial.number}: {in_words(self.plan, outcome)}"
            if best is not None:
                text += f"; best {interval.format_value(value_of(best))} (trial {best.number})"
            left = time_left(self._began, time.monotonic(), self._finished, waiting)
            print(text + left, flush=True)


def _n_gpus(plan: Search) -> int:
    """Returns how many GPUs the trials are shared out among."""
    on_all = compose(None, plan.base).trainer.device == "auto"
    return torch.cuda.device_count() if on_all else 0


def _n_asked(study: "optuna.Study") -> int:
    """Returns for how many trials values were chosen, without those that continue others."""
    from optuna.trial import TrialState

    fresh = [t for t in study.get_trials(deepcopy=False) if "continues" not in t.user_attrs]
    return sum(trial.state != TrialState.WAITING for trial in fresh)


def counts(study: "optuna.Study") -> int:
    """Returns how many trials have ended, without the interrupted ones that are done again."""
    done_again = repeated_trials(study)
    return sum(
        t.state.is_finished() and t.number not in done_again
        for t in study.get_trials(deepcopy=False)
    )


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


def _trial(folder: Path, plan: Search, number: int, values: Mapping[str, object]) -> Outcome:
    """Trains once; returns what came of it. Runs in a process of its own if there are several workers."""
    from haloformer.training import train

    with quiet_optuna():
        experiment = compose(None, plan.base, values)
        on_epoch = _Watch(folder, plan, number, experiment.schedule.epochs)
        began = time.monotonic()
        outcome: Outcome = {"state": "failed", "value": None, "message": ""}
        out = str(_run_folder(folder, number))
        settings = with_prepared(folder, settings_of(experiment)) | {"out": out}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", IdleWarning)  # told once, of all of them
                result = train(**settings, progress=False, on_epoch=on_epoch)  # type: ignore[arg-type]  # fields by name
            outcome |= {
                "best_epoch": result.best_epoch,
                "epochs": result.epochs,
                "value": result.metrics[plan.metric],
                "state": "pruned" if on_epoch.pruned else "complete",
            }
        except InputError as error:
            outcome["message"] = str(error)
        except (OSError, MemoryError):  # the next trial would fare no better
            raise
        except Exception as error:  # one network's defect must not end a search of many hours
            outcome["message"] = kind_and_reason(error)
            (folder / "failed").mkdir(exist_ok=True)
            write_text(folder / "failed" / f"{number:04d}.txt", traceback.format_exc())
        outcome["seconds"] = round(time.monotonic() - began, 1)
        return outcome


class _Watch:
    """Reports each epoch of a trial to Optuna, and says whether the trial stops there.

    The study keeps that verdict: of a trial that is killed after its last epoch, no epoch comes again.
    """

    def __init__(self, folder: Path, plan: Search, number: int, epochs: int) -> None:
        self.metric, self.number, self.epochs = plan.metric, number, epochs
        self.study = open_study(folder, plan)
        trial = self.study.get_trials(deepcopy=False)[number]
        self.trial_id = trial._trial_id
        self.pruned = bool(trial.user_attrs.get("pruned", False))

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        value = metrics[self.metric]
        if math.isnan(value):
            return False  # the training says so itself
        self.study._storage.set_trial_intermediate_value(self.trial_id, epoch, value)
        if epoch < self.epochs:  # after the last epoch there is nothing to spare
            trial = self.study.get_trials(deepcopy=False)[self.number]
            # Of NumPy, by the median, which the study cannot store.
            pruned = bool(self.study.pruner.prune(self.study, trial))
            if pruned != self.pruned:
                self.study._storage.set_trial_user_attr(self.trial_id, "pruned", pruned)
            self.pruned = pruned
        return self.pruned


def _tell(study: "optuna.Study", trial: "optuna.Trial", outcome: Outcome) -> None:
    from optuna.trial import TrialState

    for key, value in outcome.items():
        if value and key not in ("state", "value"):
            trial.set_user_attr(key, value)
    states = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    study.tell(
        trial,
        outcome["value"] if outcome["state"] == "complete" else None,
        states[outcome["state"]],
    )


def _give_up_on_the_same_failure(folder: Path, study: "optuna.Study") -> None:
    messages = [trial.user_attrs.get("message") for trial in failed_trials(study)]
    if len(messages) >= _SAME_FAILURES and len({*messages}) == 1:
        raise InputError(f"{folder}: the first {len(messages)} trials all failed: {messages[0]}")


def best_trial(study: "optuna.Study") -> "optuna.trial.FrozenTrial | None":
    """Returns the best trial that was trained to the end; of equal ones the first."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if study.direction.name == "MAXIMIZE" else -1
    return max(complete, key=lambda trial: sign * value_of(trial), default=None)


def value_of(trial: "optuna.trial.FrozenTrial") -> float:
    """Returns the metric of a complete trial."""
    assert trial.value is not None  # complete trials have one
    return trial.value


def failed_trials(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Returns the trials that failed and were not repeated."""
    from optuna.trial import TrialState

    done_again = repeated_trials(study)
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        if trial.number not in done_again
    ]


def values_of(plan: Search, trial: "optuna.trial.FrozenTrial") -> dict[str, object]:
    """Returns a trial's values, choices as the search's file has them."""
    found: dict[str, object] = {}
    for parameter in plan.space:
        if parameter.name in trial.params:
            value = trial.params[parameter.name]
            choices = {stored_choice(choice): choice for choice in parameter.values}
            found[parameter.name] = choices[value] if parameter.kind == "choice" else value
    return found


def write_best(
    folder: Path,
    plan: Search,
    command: str,
    study: "optuna.Study",
    best: "optuna.trial.FrozenTrial",
) -> None:
    """Writes the best trial's experiment as a preset: what the base says, and the best values."""
    flat = compose(None, plan.base, values_of(plan, best)).flat()
    kept = {*plan.base, *(name.partition(".")[0] for name in best.params)} - RUN_ONLY
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    comments = [
        f"Best of {counts(study)} trials of '{plan.title}': trial {best.number}, {metric_in_words(plan)} "
        f"{interval.format_value(value_of(best))} in epoch {best.user_attrs.get('best_epoch', '?')}.",
        "Chosen on validation images, and as the best of many too good by what luck adds: train with another seed, and test.",
        f"{command} ({date} UTC, code {code_version()})",
    ]
    text = yaml.safe_dump(
        {name: flat[name] for name in flat if name in kept}, sort_keys=False, allow_unicode=True
    )
    write_text(folder / "best.yaml", "".join(f"# {line}\n" for line in comments) + text)


def write_trials(folder: Path, plan: Search, study: "optuna.Study") -> None:
    """Writes trials.csv: one row per trial."""
    names = [parameter.name for parameter in plan.space]
    done_again = repeated_trials(study)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    last = ("best_epoch", "epochs", "seconds", "started", "continues", "message")
    writer.writerow(["trial", "state", plan.metric, *names, *last])  # epochs may be searched, too
    for trial in study.get_trials(deepcopy=False):
        if trial.datetime_start is None:
            continue
        state = {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
        if trial.number in done_again:
            state = "interrupted"
        started = trial.datetime_start.astimezone(datetime.UTC).isoformat(" ", "seconds")
        facts = {**trial.user_attrs, "started": started}
        row = [trial.number, state, "" if trial.value is None else trial.value]
        row += [trial.params.get(name, "") for name in names]
        writer.writerow(row + [facts.get(key, "") for key in last])
    write_text(folder / "trials.csv", text.getvalue())


def in_words(plan: Search, outcome: Outcome) -> str:
    """Returns the outcome of a trial in a few words."""
    value = outcome["value"]
    if value is None:
        return f"failed: {outcome['message']}"
    early = f"stopped after epoch {outcome['epochs']}, " if outcome["state"] == "pruned" else ""
    return f"{early}{metric_in_words(plan)} {interval.format_value(value)} ({outcome['seconds']:.0f} s)"


def values_in_words(values: Mapping[str, object]) -> str:
    """Returns searched values in one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
