"""`study`: many trainings that differ in one thing, tested on the same images, and the table that compares them.

A study is a YAML file: what all runs share (``base``), what differs (``variants`` or ``grid``), how many seeds, and the test images. The
shipped ones are in ``haloformer/configs/studies``. Every run is an ordinary run folder; what it came to is one line of ``results.jsonl``, from
which the table and the figure are made. So a study can be stopped at any time and goes on where it was.
"""

import contextlib
import fnmatch
import json
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from haloformer.data.dataset import LensDataset
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.data.stream import validation_seed
from haloformer.errors import InputError
from haloformer.io.writing import write_text
from haloformer.studies.jobs import about, in_words, run_records
from haloformer.studies.plan import PRETRAINED, Study, Variant, read_study, with_options
from haloformer.studies.report import report
from haloformer.studies.results import StudyResult, append_result, usable_results
from haloformer.studies.runs import Run, runs_of
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    pass


def study(
    name: str,
    *,
    out: str | None = None,
    preset: str | list[str] | None = None,
    only: str | list[str] | None = None,
    seeds: int | None = None,
    workers: int = 1,
    report_only: bool = False,
    progress: bool = True,
    options: dict[str, Any] | None = None,
) -> StudyResult:
    """Runs a study: trains every variant with every seed, tests all on the same images, writes a table and a figure.

    Calling it again goes on where it stopped: finished runs are not repeated, an interrupted one resumes, failed ones are tried again.

    Args:
        name: A shipped study (augmentation, regularization, data_size, transfer, zoo), or a YAML file of your own.
        out: Folder to write, or to continue; ``studies/NAME`` by default.
        preset: Presets that are put over the study's base.
        only: Run these variants only: names or patterns, such as ``d4,flips`` or ``*-1000``.
        seeds: How many seeds; by default as the study says.
        workers: Processes that train at the same time; the processor's cores are shared out among them.
        report_only: Train nothing: write table and figure anew from the results that are there.
        progress: Say after each run how it went.
        options: Fields of the experiment, such as ``{"epochs": 5}``, that are put over the study's base and its presets. What a variant
            changes stays changed.

    Returns:
        The rows of the table, and the folder.

    Raises:
        InputError: An unknown study, key or field; test images that are trained on; a folder that holds something else; or no run at
            all succeeded. A run that fails is no error of the study: the table shows its message.
        KeyboardInterrupt: Ctrl-C; finished runs are kept.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    folder = Path(out) if out is not None else Path("studies") / Path(name).stem
    if report_only:
        if not (folder / "study.yaml").exists():
            raise InputError(f"{folder}: there is no study yet; leave report_only out to run it")
        plan = read_study(str(folder / "study.yaml"))
        command = (
            (folder / "study.yaml")
            .read_text(encoding="utf-8")
            .partition("\n")[0]
            .removeprefix("# ")
        )
        return report(folder, plan, command)
    plan = with_options(read_study(name), preset, options, seeds)
    return carry_out(
        plan,
        folder,
        _command(name, out, preset, only, seeds, workers, options),
        only,
        workers,
        progress,
    )


def carry_out(
    plan: Study,
    folder: Path,
    command: str,
    only: str | list[str] | None,
    workers: int,
    progress: bool,
) -> StudyResult:
    """Does what `study` promises, for a study that was read or made.

    Args:
        plan: The study.
        folder: Where it is written, or continued.
        command: The command line that does the same; it stands in the table.
        only: Names or patterns of the variants to run; None for all.
        workers: Processes that train at the same time.
        progress: Say after each run how it went.
    """
    runs = runs_of(plan, _chosen(plan, only))
    _refuse_seen_test_images(plan, runs)
    prepare_folder(folder, plan, command)
    usable_results(folder, plan)  # refuses results of other settings before anything is trained
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


def _chosen(plan: Study, only: str | list[str] | None) -> list[Variant]:
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


def _refuse_seen_test_images(plan: Study, runs: Iterable[Run]) -> None:
    """Refuses test images that any run is trained or validated on."""
    runs = list(runs)
    used: dict[Any, str] = {}
    for run in runs:
        for key in ("data", "val_data"):
            source = run.options.get(key)
            if source and Path(source).suffix.lower() in DATASET_SUFFIXES:
                used[Path(source).resolve()] = f"{key} of variant '{run.variant}'"
                seed = LensDataset(source).attributes.get("seed")
                used.setdefault(seed, f"the seed of {source}")
            elif key == "data":
                used.setdefault(run.seed, "the seed of the training images")
                used.setdefault(validation_seed(run.seed), "the seed of the validation images")
    for run in runs:
        if run.test is None:
            continue
        path = Path(run.test["data"])
        is_file = path.suffix.lower() in DATASET_SUFFIXES
        marks = (
            [path.resolve(), LensDataset(path).attributes.get("seed")]
            if is_file
            else [run.test["seed"]]
        )
        for mark in marks:
            if mark is not None and mark in used:
                what = run.test["data"] if is_file else f"seed {mark}"
                raise InputError(
                    f"test: {what} is {used[mark]}, too: test on images of another seed"
                )


def prepare_folder(folder: Path, plan: Study, command: str) -> None:
    """Makes the folder and writes down the study as it is carried out, in a form that can be read again."""
    if (
        folder.exists()
        and not (folder / "study.yaml").exists()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(f"{folder}: exists and is not the folder of a study: choose another out")
    described = {**plan.raw, "base": plan.base, "seeds": list(plan.seeds)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        write_text(folder / "study.yaml", f"# {command}\n{text}")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error


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
                left = (time.monotonic() - began) / finished * (len(waiting) - finished)
                print(
                    f"[{len(runs) - len(waiting) + finished}/{len(runs)}] {in_words(record)}{about(left)}",
                    flush=True,
                )


def _command(
    name: str,
    out: str | None,
    preset: str | list[str] | None,
    only: str | list[str] | None,
    seeds: int | None,
    workers: int,
    options: Mapping[str, Any] | None,
) -> str:
    """Returns the command line that does the same."""
    parts = ["haloformer", "study", name]
    for flag, value in (("--preset", preset), ("--only", only)):
        if value:
            parts += [flag, value if isinstance(value, str) else ",".join(value)]
    parts += ["--seeds", str(seeds)] if seeds is not None else []
    parts += ["--out", out] if out is not None else []
    parts += ["--workers", str(workers)] if workers != 1 else []
    for key, value in (options or {}).items():
        parts += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(parts)
