"""What ``--dry_run`` tells of the commands that train."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from haloformer.cli.planning import Plan
from haloformer.cli.shared import duration
from haloformer.errors import InputError
from haloformer.models.weights import weights_file
from haloformer.studies.plan import PRETRAINED, Study, read_study, with_options
from haloformer.studies.ranking import check_numbers, images_of, plan_of
from haloformer.studies.results import usable_results
from haloformer.studies.run import check_test_images, chosen
from haloformer.studies.runs import Run, runs_of, warn_of_idle_options
from haloformer.studies.shipped import check_folder
from haloformer.training.config import Experiment, compose, read_options
from haloformer.training.idle import warn_of_idle
from haloformer.training.measuring import TrainingCost, check_run_folder, measure_training

_MEASURED = 3  # experiments at most
_COSTS = (
    "data", "model", "model_args", "physics", "fit_place", "crop", "img_size", "channels", "noise", "augment", "tune",
    "device", "precision",
)  # fmt: skip
"""Fields by which trainings differ in what an image costs."""


def train(
    preset: str | None = None,
    config: str | None = None,
    print_config: bool = False,
    options: Mapping[str, object] | None = None,
) -> Plan:
    """Plans `haloformer train`."""
    experiment = compose(preset, read_options(Path(config)) if config else {}, options or {})
    warn_of_idle(experiment, options or {})
    folder = check_run_folder(experiment)
    _check_pretrained(experiment)
    cost = measure_training(experiment)
    facts = {
        "network": f"{experiment.model.name}, {cost.n_parameters:,} parameters",
        "images": f"{cost.epoch_images:,} an epoch, {cost.n_val:,} for validation",
        "epochs": f"{cost.epochs}{_early(experiment)}",
        "computes": cost.where,
        "run folder": folder,
        "of the time": f"{duration(cost.images)} for images, {duration(cost.training)} for the network",
    }
    out = str(experiment.trainer.out)
    what = f"train {experiment.model.name} on {experiment.data.source}"
    notes = ["The start of the program, some seconds, is not counted."]
    return Plan(what, facts, cost.seconds, cost.n_bytes, out, "some training steps", notes)


def _check_pretrained(experiment: Experiment) -> None:
    """Raises InputError where weights to start from are not there."""
    given = experiment.transfer.pretrained
    if isinstance(given, str) and f"{{{PRETRAINED}}}" not in given:  # which the study will make
        weights_file(given)


def study(name: str, *, out: str | None = None, preset: Any = None, only: Any = None,
          seeds: int | None = None, options: Mapping[str, object] | None = None, **_: Any) -> Plan:  # fmt: skip
    """Plans `haloformer study`."""
    plan = with_options(read_study(name), preset, options, seeds)
    folder = Path(out) if out is not None else Path("studies") / Path(name).stem
    return _of_study(plan, folder, only, options, f"carry out the study {name}")


def benchmark(
    *, models: Any = "*_nano", surveys: Any = "model_ii", seeds: int = 3, budget: int = 24_000,
    noise: str = "survey", train_data: str | None = None, test_data: str | None = None, n_test: int = 3000,
    out: str = "leaderboard", preset: Any = None, options: Mapping[str, object] | None = None,
    workers: int = 1, **_: Any,
) -> Plan:  # fmt: skip
    """Plans `haloformer benchmark`."""
    check_numbers(budget=budget, n_test=n_test, seeds=seeds, workers=workers)
    folder = Path(out)
    images = images_of(surveys, noise, n_test, train_data, test_data, folder)
    plan = plan_of(models, images, seeds, budget, preset, options)
    if waiting := [given for given, path in images.conversions.items() if not Path(path).exists()]:
        raise InputError(
            f"{waiting[0]} would be converted first, without which nothing can be measured: "
            "haloformer convert makes a dataset file of it"
        )
    return _of_study(plan, folder, None, options, "rank networks")


def _of_study(
    plan: Study, folder: Path, only: Any, options: Mapping[str, object] | None, what: str
) -> Plan:
    runs = runs_of(plan, chosen(plan, only))
    check_test_images(runs)
    warn_of_idle_options(plan, runs, options)
    check_folder(folder / "study.yaml", "study")
    done = {(row["variant"], row["seed"]) for row in usable_results(folder, plan) if row["status"] == "ok"}  # fmt: skip
    waiting = [run for run in runs if (run.variant, run.seed) not in done]
    experiments = [_experiment(run, folder) for run in waiting]
    for experiment in experiments:
        _check_pretrained(experiment)
    costs, measured = _costs(experiments)
    seconds = sum(cost.seconds for cost in costs)
    seconds += sum(_test_seconds(run, cost) for run, cost in zip(waiting, costs))
    variants = dict.fromkeys(run.variant for run in runs)
    facts = {
        "variants": f"{len(variants)}, each with {_several(len(plan.seeds), 'seed')}",
        "runs": f"{len(waiting)} of {len(runs)}, the others are done",
    }
    if len(waiting) == len(runs):
        facts["runs"] = str(len(runs))
    return Plan(
        what,
        facts,
        seconds,
        sum(cost.n_bytes for cost in costs),
        str(folder),
        measured,
        ["Processes that train at the same time share the cores: they were counted as no faster."],
    )


def _experiment(run: Run, folder: Path) -> Experiment:
    options = {**run.options, "seed": run.seed, "out": str(folder / "runs" / run.key)}
    if f"{{{PRETRAINED}}}" in str(options.get("pretrained")):
        options["pretrained"] = False  # made by another of these runs
    return compose(None, options)


def _test_seconds(run: Run, cost: TrainingCost) -> float:
    n = 0 if run.test is None else int(run.test.get("n") or 0)
    return n * (cost.image + cost.answer)


def tune(name: str, *, out: str | None = None, trials: int | None = None, preset: Any = None,
         timeout_minutes: float | None = None, options: Mapping[str, object] | None = None, **_: Any) -> Plan:  # fmt: skip
    """Plans `haloformer tune`."""
    from haloformer.tuning.plan import read_search, warn_of_idle_search, with_options
    from haloformer.tuning.storage import require_optuna

    if timeout_minutes is not None and not timeout_minutes > 0:
        raise InputError(f"timeout_minutes must be above 0, not {timeout_minutes}")
    require_optuna()
    plan = with_options(read_search(name), name, preset, options, trials)
    folder = Path(out) if out is not None else Path("searches") / Path(name).stem
    check_folder(folder / "search.yaml", "search")
    warn_of_idle_search(plan, options)
    experiment = compose(None, plan.base, {"out": str(folder / "trial")})
    cost = measure_training(experiment)
    seconds = plan.trials * cost.seconds
    if timeout_minutes is not None:
        seconds = min(seconds, 60 * timeout_minutes + cost.seconds)
    facts = {
        "trials": str(plan.trials),
        "searched": ", ".join(parameter.name for parameter in plan.space),
        "a trial": f"{cost.epochs} epochs, about {duration(cost.seconds)}",
    }
    notes = [
        "Poor trials are stopped early, and take less; trials of an earlier call are not repeated, "
        "and were not counted."
    ]
    n_bytes = plan.trials * cost.n_bytes
    measured = "some training steps of the search's base"
    return Plan(f"search by {plan.trials} trials", facts, seconds, n_bytes, str(folder), measured, notes)  # fmt: skip


def _several(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _early(experiment: Experiment) -> str:
    patience = experiment.trainer.patience
    if not patience or patience >= experiment.schedule.epochs:
        return ""
    return f", fewer if {patience} of them bring nothing better"


def _costs(experiments: Sequence[Experiment]) -> tuple[list[TrainingCost], str]:
    """Returns what each training costs: some are measured, the others are taken to be like those."""
    import dataclasses

    if not experiments:
        return [], "nothing, as all is done"
    keys = [_key(experiment) for experiment in experiments]
    kinds = list(dict.fromkeys(keys))
    spread = {round(k * (len(kinds) - 1) / max(1, _MEASURED - 1)) for k in range(_MEASURED)}
    measured = {kinds[i]: measure_training(experiments[keys.index(kinds[i])]) for i in sorted(spread) if i < len(kinds)}  # fmt: skip
    found = []
    for key, experiment in zip(keys, experiments):
        near = min(measured, key=lambda each: abs(kinds.index(each) - kinds.index(key)))
        cost = measured[near]
        epochs = experiment.schedule.epochs
        found.append(dataclasses.replace(cost, epochs=epochs, **_counts(experiment, cost)))
    said = f"some training steps of {len(measured)} of {len(kinds)} kinds of run"
    return found, said


def _counts(experiment: Experiment, cost: TrainingCost) -> dict[str, Any]:
    """Returns how many images a training sees, where that is not as in the one that was measured."""
    data = experiment.data
    if cost.made_once and data.n_images is None:
        return {}
    epoch = data.epoch_size or data.n_images or 6000
    n_train = data.n_images or epoch
    return {"epoch_images": epoch, "n_train": n_train, "made_once": data.n_images is not None}


def _key(experiment: Experiment) -> str:
    flat = experiment.flat()
    return repr([flat.get(name) for name in _COSTS])
