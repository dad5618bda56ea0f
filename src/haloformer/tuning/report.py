"""The report of a search."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haloformer.errors import InputError
from haloformer.io.writing import write_text
from haloformer.reporting import interval, style
from haloformer.studies.shipped import described
from haloformer.training.config import compose
from haloformer.tuning.figures import draw_figures
from haloformer.tuning.plan import Search, metric_in_words
from haloformer.tuning.trials import (
    best_trial,
    counts,
    failed_trials,
    value_of,
    values_in_words,
    values_of,
    write_best,
    write_trials,
)

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

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
    params: dict[str, object]
    n_complete: int
    n_pruned: int
    n_failed: int
    n_missing: int


def write_report(
    folder: Path, plan: Search, command: str, study: "optuna.Study", target: int, progress: bool
) -> SearchResult:
    """Writes best.yaml, trials.csv and the figures from the study."""
    from optuna.trial import TrialState

    write_text(folder / "search.yaml", described(plan.raw, command))
    write_trials(folder, plan, study)
    best, failed = best_trial(study), failed_trials(study)
    if best is None:
        if failed:
            raise InputError(
                f"{folder}: no trial succeeded; the first message: {failed[0].user_attrs.get('message', '')}"
            )
        raise InputError(f"{folder}: no trial was trained to the end yet; the same command goes on")
    write_best(folder, plan, command, study, best)
    for name, figure in draw_figures(plan, study).items():
        style.save(figure, folder / name)
    values = values_of(plan, best)
    n_complete, n_pruned = (
        len(study.get_trials(deepcopy=False, states=(state,)))
        for state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    n_missing = max(0, target - counts(study))
    result = SearchResult(
        folder, best.number, value_of(best), values, n_complete, n_pruned, len(failed), n_missing
    )
    if progress:
        print(
            f"{result.n_complete} trials are complete, {result.n_pruned} were stopped early, {result.n_failed} failed, "
            f"{result.n_missing} are missing\n"
            f"best: trial {best.number}, {metric_in_words(plan)} {interval.format_value(value_of(best))} with {values_in_words(values)}\n"
            f"chosen on validation images, so too good by what luck adds: train with another seed and test\n"
            f"  {shlex.join(['haloformer', *training_of_best(folder)])}"
        )
    return result


def training_of_best(folder: Path) -> list[str]:
    """Returns the command that trains the best setting of a search's folder anew, with another seed."""
    best = folder / "best.yaml"
    seed = compose(str(best)).trainer.seed + 1
    return ["train", "--config", str(best), "--seed", str(seed), "--out", "runs/best"]
