"""Carrying out a study: its runs one after another or side by side, then the report.

Every run is an ordinary run folder; its result is one line of ``results.jsonl``, from which the table and the
figure are made. So a study can be stopped at any time and goes on where it was.
"""

import contextlib
import fnmatch
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from haloformer.data.dataset import LensDataset
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.data.stream import validation_seed
from haloformer.errors import InputError
from haloformer.io.locks import one_process_only
from haloformer.io.writing import same_content
from haloformer.studies.jobs import in_words, run_records
from haloformer.studies.plan import PRETRAINED, Study, Variant, read_study
from haloformer.studies.report import report
from haloformer.studies.results import StudyResult, append_result, usable_results
from haloformer.studies.runs import Run, runs_of, warn_of_idle_options
from haloformer.studies.shipped import command_in, described, prepare_folder
from haloformer.studies.workers import time_left
from haloformer.vocabulary import unknown_name


def report_again(folder: Path, what: str) -> tuple[Study, str, StudyResult]:
    """Writes the report of a study anew from the results that are there.

    Args:
        folder: Of the study.
        what: What it is called in the message: ``study`` or ``benchmark``.

    Returns:
        The study, the command that carried it out, and its result.

    Raises:
        InputError: There is none in the folder.
    """
    file = folder / "study.yaml"
    if not file.exists():
        raise InputError(f"{folder}: there is no {what} yet; leave report_only out to run it")
    plan, command = read_study(str(file)), command_in(file)
    return plan, command, report(folder, plan, command)


def carry_out(
    plan: Study,
    folder: Path,
    command: str,
    only: str | list[str] | None,
    workers: int,
    progress: bool,
    options: Mapping[str, object] | None = None,
) -> StudyResult:
    """Trains and tests what is missing, and writes the report.

    Args:
        plan: The study, read or made.
        folder: Where it is written, or continued.
        command: The command line that does the same; it stands in the table.
        only: Names or patterns of the variants to run; None for all.
        workers: Processes that train at the same time.
        progress: Say after each run how it went.
        options: Fields of the experiment as the user gave them for all runs; those that do nothing are told.
    """
    runs = runs_of(plan, chosen(plan, only))
    check_test_images(runs)
    warn_of_idle_options(plan, runs, options)
    usable_results(folder, plan)  # refuses results of other settings before anything is written
    write_description(folder, plan, command, keep=True)
    with one_process_only(
        folder, "another process is at this study; use workers for several runs at a time"
    ):
        write_description(folder, plan, command)
        pretraining = [run for run in runs if run.variant == PRETRAINED]
        try:
            for stage in (pretraining, [run for run in runs if run.variant != PRETRAINED]):
                _all_runs(folder, plan, stage, workers, progress)
        except KeyboardInterrupt:
            if progress:
                print(
                    f"interrupted; finished runs are kept. The same command goes on in {folder}",
                    flush=True,
                )
            raise
        return report(folder, plan, command)


def chosen(plan: Study, only: str | list[str] | None) -> list[Variant]:
    """Returns the variants of these names or patterns; all for None."""
    if not only:
        return list(plan.variants)
    patterns = [part.strip() for part in (only.split(",") if isinstance(only, str) else only)]
    names = [variant.name for variant in plan.variants]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise unknown_name("variant", pattern, names)
    return [
        variant
        for variant in plan.variants
        if any(fnmatch.fnmatch(variant.name, p) for p in patterns)
    ]


def check_test_images(runs: Iterable[Run]) -> None:
    """Raises InputError if any run is trained or validated on test images."""
    runs = list(runs)
    used = _training_images(runs)
    for run in runs:
        if run.test is None:
            continue
        path = Path(str(run.test["data"]))
        is_file = path.suffix.lower() in DATASET_SUFFIXES
        if is_file:
            _check_classes(path)
        marks: list[object] = (
            [path.resolve(), LensDataset(path).attributes.get("seed")]
            if is_file
            else [run.test["seed"]]
        )
        if is_file:  # a copy has another name
            marks += [file for file in used if isinstance(file, Path) and same_content(file, path)]
        for mark in marks:
            if mark is not None and mark in used:
                what = run.test["data"] if is_file else f"seed {mark}"
                raise InputError(
                    f"test: {what} is {used[mark]}, too: test on images of another seed"
                )


def _check_classes(path: Path) -> None:
    """Raises InputError for a file of test images that are all of one class."""
    with LensDataset(path) as dataset:
        present = np.unique(dataset.labels)
        if len(present) < 2:
            raise InputError(
                f"test: {path}: all images are of class '{dataset.class_names[present[0]]}'; an AUC needs two"
            )


def _training_images(runs: Iterable[Run]) -> dict[object, str]:
    """Returns the files and seeds of all images for training and validation, and what each is used for."""
    used: dict[object, str] = {}
    for run in runs:
        for key in ("data", "val_data"):
            given = run.options.get(key)
            if given and Path(str(given)).suffix.lower() in DATASET_SUFFIXES:
                used[Path(str(given)).resolve()] = f"{key} of variant '{run.variant}'"
                seed = LensDataset(str(given)).attributes.get("seed")
                used.setdefault(seed, f"the seed of {given}")
            elif key == "data":
                used.setdefault(run.seed, "the seed of the training images")
                used.setdefault(validation_seed(run.seed), "the seed of the validation images")
    return used


def write_description(folder: Path, plan: Study, command: str, *, keep: bool = False) -> None:
    """Makes the folder and writes down the study as it is carried out, in a form that can be read again.

    Args:
        folder: Of the study.
        plan: The study.
        command: The command line that does the same.
        keep: Leave a description that is already there as it is.
    """
    content = {**plan.raw, "base": plan.base, "seeds": list(plan.seeds)}
    prepare_folder(folder / "study.yaml", "study", described(content, command), keep=keep)


def _all_runs(folder: Path, plan: Study, runs: list[Run], workers: int, progress: bool) -> None:
    """Does the runs that are not done yet, and writes down each as it comes."""
    done = {
        (record["variant"], record["seed"])
        for record in usable_results(folder, plan)
        if record["status"] == "ok"
    }
    waiting = [run for run in runs if (run.variant, run.seed) not in done]
    began = time.monotonic()
    with contextlib.closing(run_records(folder, waiting, min(workers, len(waiting)))) as records:
        for finished, record in enumerate(records, 1):
            append_result(folder / "results.jsonl", record)
            if progress:
                left = time_left(began, time.monotonic(), finished, len(waiting))
                n_done = len(runs) - len(waiting) + finished
                print(f"[{n_done}/{len(runs)}] {in_words(record)}{left}", flush=True)
