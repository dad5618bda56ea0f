"""The trials of a search, carried out one after another or side by side."""

import contextlib
import csv
import datetime
import io
import math
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.io import jobs
from haloformer.io.writing import write_text
from haloformer.reporting import interval
from haloformer.studies.jobs import about
from haloformer.studies.plan import settings_of
from haloformer.training.config import RUN_ONLY, compose
from haloformer.tuning.plan import Search, label_of, metric_in_words
from haloformer.tuning.storage import open_study, quiet_optuna, repeated_trials, sampler_of

if TYPE_CHECKING:
    import optuna


_SAME_FAILURES = (
    3  # so many trials that fail alike, and none that worked: it is the search that is wrong
)


def _suggest(plan: Search, trial: "optuna.Trial") -> dict[str, Any]:
    """Returns a trial's values of the searched fields."""
    values: dict[str, Any] = {}
    for parameter in plan.space:
        if not parameter.applies(values):
            continue
        name, kind = parameter.name, parameter.kind
        if kind == "choice":
            by_label = {label_of(value): value for value in parameter.values}
            values[name] = by_label[trial.suggest_categorical(name, list(by_label))]
        elif kind.startswith("int"):
            values[name] = trial.suggest_int(name, *parameter.values, log=kind == "int_log")
        else:
            values[name] = trial.suggest_float(name, *parameter.values, log=kind == "log_uniform")
    return values


def carry_out_trials(
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
    waiting = target - counts(study)
    gpus = torch.cuda.device_count() if compose(None, plan.base).trainer.device == "auto" else 0

    def asked() -> Iterator[tuple[optuna.Trial, tuple[object, ...]]]:
        for _ in range(waiting):
            if time.monotonic() >= deadline:
                return
            fresh = [t for t in study.get_trials(deepcopy=False) if "continues" not in t.user_attrs]
            begun = sum(t.state != optuna.trial.TrialState.WAITING for t in fresh)
            study.sampler = sampler_of(plan, begun)
            trial = study.ask()
            values = _suggest(plan, trial)
            _take_over(folder, study, trial)
            if progress:
                print(f"trial {trial.number} begins: {one_line(values)}", flush=True)
            yield trial, (folder, plan, trial.number, values)

    several = min(workers, waiting) if min(workers, waiting) > 1 else 0
    threads = max(1, torch.get_num_threads() // max(1, several))
    with contextlib.closing(
        jobs.results(_trial, asked(), workers=several, threads=threads, gpus=gpus)
    ) as outcomes:
        for trial, outcome in outcomes:
            _tell(study, trial, outcome)
            finished += 1
            write_trials(folder, plan, study)
            best = best_trial(study)
            if best is not None:
                write_best(folder, plan, command, study, best)
            elif outcome["state"] == "failed":
                _give_up_on_the_same_failure(folder, study)
            if progress:
                left = (time.monotonic() - began) / finished * (waiting - finished)
                head = f"[{target - waiting + finished}/{target}] trial {trial.number}: {in_words(plan, outcome)}"
                so_far = (
                    f"; best {interval.format_value(value_of(best))} (trial {best.number})"
                    if best is not None
                    else ""
                )
                print(f"{head}{so_far}{about(left)}", flush=True)


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


def _trial(folder: Path, plan: Search, number: int, values: dict[str, Any]) -> dict[str, Any]:
    """Trains once; returns what came of it. Runs in a process of its own if there are several workers."""
    from haloformer.training import train

    with quiet_optuna():
        study = open_study(folder, plan)
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
        options = {
            **settings_of(experiment),
            "out": str(_run_folder(folder, number)),
            "progress": False,
        }
        try:
            result = train(**options, on_epoch=on_epoch)
            outcome |= {
                "best_epoch": result.best_epoch,
                "epochs": result.epochs,
                "value": result.metrics[plan.metric],
            }
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


def values_of(plan: Search, trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """Returns a trial's values, choices as the search's file has them."""
    found = {}
    for parameter in plan.space:
        if parameter.name in trial.params:
            value = trial.params[parameter.name]
            by_label = {label_of(choice): choice for choice in parameter.values}
            found[parameter.name] = by_label[value] if parameter.kind == "choice" else value
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
    """Writes one row per trial."""
    done_again = repeated_trials(study)
    names = [parameter.name for parameter in plan.space]
    facts = ("best_epoch", "epochs", "seconds", "message")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "trial",
            "state",
            plan.metric,
            *names,
            *facts[:2],
            facts[2],
            "started",
            "continues",
            facts[3],
        ]
    )
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


def in_words(plan: Search, outcome: Mapping[str, Any]) -> str:
    """Returns the outcome of a trial in a few words."""
    if outcome["state"] == "failed":
        return f"failed: {outcome['message']}"
    early = f"stopped after epoch {outcome['epochs']}, " if outcome["state"] == "pruned" else ""
    return f"{early}{metric_in_words(plan)} {interval.format_value(outcome['value'])} ({outcome['seconds']:.0f} s)"


def one_line(values: Mapping[str, Any]) -> str:
    """Returns searched values in one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
