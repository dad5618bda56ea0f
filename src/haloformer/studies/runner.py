"""`study`: many trainings that differ in one thing, tested on the same images, and the table that compares them.

A study is a YAML file: what all runs share (``base``), what differs (``variants`` or ``grid``), how many seeds, and the test images. The
shipped ones are in ``haloformer/configs/studies``. Every run is an ordinary run folder; what it came to is one line of ``results.jsonl``, from
which the table and the figure are made. So a study can be stopped at any time and goes on where it was.
"""

import contextlib
import csv
import dataclasses
import datetime
import fnmatch
import io
import itertools
import json
import multiprocessing
import os
import platform
import re
import shlex
import signal
import textwrap
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from scipy.stats import t

from haloformer._version import code_version
from haloformer.data.store import LensDataset
from haloformer.data.stream import validation_seed
from haloformer.deploy.predictor import DATASET_SUFFIXES, Predictor, load
from haloformer.errors import InputError
from haloformer.evaluation import figures
from haloformer.evaluation.metrics import CONFIDENCE, Difference, Interval, classification_metrics, paired_difference
from haloformer.evaluation.testset import N_SIMULATED, class_order, contamination, open_test_images
from haloformer.models import find_model, list_models
from haloformer.models.cost import count_macs, count_parameters
from haloformer.simulation import get_survey
from haloformer.training.artefact import write_text
from haloformer.training.config import RUN_ONLY, Experiment, compose, read_options
from haloformer.training.sources import STREAM_EPOCH
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_SEED = 1_000_000
"""Seed of the test images unless the study names another; studies train with seeds from 0 on."""

PRETRAINED = "pretrained"
"""Name of the runs that others start from; ``"{pretrained}"`` in a variant stands for their folder."""

_KEYS = ("title", "question", "notes", "base", "variants", "grid", "reference", "pretrain", "seeds", "test", "figure")
_TEST_KEYS = ("data", "noise", "n", "seed")
_FIGURE_KEYS = ("kind", "x", "by")
_FIGURE_KINDS = ("bars", "curve")
_BATCH = 256
_NOTHING_SELECTED = (
    "nothing was selected on these images: each run keeps the epoch that was best on its validation images, and all runs of "
    "the study are shown"
)


@dataclass(frozen=True)
class StudyResult:
    """What a study came to.

    Attributes:
        out: Its folder, with ``results.jsonl``, ``table.md``, ``table.csv``, ``figure.png``, ``.svg`` and ``.pdf``, ``runs/`` and ``logits/``.
        rows: One dictionary per variant, as in ``table.csv``: mean test macro AUC, its interval, the difference to the reference …
        n_runs: Runs that are done, those of earlier calls included.
        n_failed: Runs that failed.
        n_missing: Runs of this study that are not there yet.
    """

    out: Path
    rows: list[dict[str, Any]]
    n_runs: int
    n_failed: int
    n_missing: int


@dataclass(frozen=True)
class Variant:
    """One setting of a study.

    Attributes:
        name: Its name, which is also part of its run folders' names.
        values: For a grid: axis → the name of the value there.
        changes: What differs from the base.
        reference: Name of the variant that it is compared with.
    """

    name: str
    values: dict[str, str]
    changes: dict[str, Any]
    reference: str | None


@dataclass(frozen=True)
class Study:
    """A study as its YAML file describes it, checked; see docs/studies.md. ``raw`` is what the file holds."""

    raw: dict[str, Any]
    title: str
    question: str
    notes: str
    base: dict[str, Any]
    variants: tuple[Variant, ...]
    axes: dict[str, list[str]]
    pretrain: dict[str, Any] | None
    seeds: tuple[int, ...]
    test: dict[str, Any]
    figure: dict[str, str]


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
        command = (folder / "study.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return report(folder, plan, command)
    plan = with_options(read_study(name), preset, options, seeds)
    return carry_out(plan, folder, _command(name, out, preset, only, seeds, workers, options), only, workers, progress)


def carry_out(
    plan: Study, folder: Path, command: str, only: str | list[str] | None, workers: int, progress: bool
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
    runs = _runs(plan, _chosen(plan, only))
    _refuse_seen_test_images(plan, runs)
    prepare_folder(folder, plan, command)
    _usable_results(folder, plan)  # refuses results of other settings before anything is trained
    pretraining = [run for run in runs if run.variant == PRETRAINED]
    try:
        for stage in (pretraining, [run for run in runs if run.variant != PRETRAINED]):
            _carry_out(folder, plan, stage, workers, progress)
    except KeyboardInterrupt:
        if progress:
            print(f"interrupted; finished runs are kept. The same command goes on in {folder}", flush=True)
        raise
    return report(folder, plan, command)


def list_studies() -> dict[str, str]:
    """Returns the shipped studies: name → question."""
    return {
        file.name.removesuffix(".yaml"): str(yaml.safe_load(file.read_text(encoding="utf-8")).get("question", ""))
        for file in sorted(_shipped(), key=lambda file: file.name)
    }


# --- reading a study --------------------------------------------------------------------------------------------------


def read_study(name: str) -> Study:
    """Reads a shipped study or a YAML file, and checks all of it but the images.

    Raises:
        InputError: There is no such study, a key or field is unknown, or a value makes no sense.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        return parse_study(read_options(path), str(path))
    shipped = {file.name.removesuffix(".yaml"): file for file in _shipped()}
    spelling = name.replace("isation", "ization")
    if spelling not in shipped:
        raise unknown_name("study", name, shipped)
    return parse_study(yaml.safe_load(shipped[spelling].read_text(encoding="utf-8")), f"study {spelling}")


def _shipped() -> list[Any]:
    folder = resources.files("haloformer").joinpath("configs", "studies")
    return [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]


def parse_study(raw: dict[str, Any], where: str) -> Study:
    """Checks what a study's YAML file holds, all but the images; errors begin with ``where``."""
    _check_keys(raw, _KEYS, where)
    if ("variants" in raw) == ("grid" in raw):
        raise InputError(f"{where}: needs either variants (name: what it changes) or grid (field: values)")
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    if "variants" in raw:
        named = _mapping(raw["variants"], f"{where}: variants")
        first = raw.get("reference") or next(iter(named), None)
        if first not in named:
            raise unknown_name(f"reference in {where}", str(first), named)
        variants = [
            Variant(name, {}, dict(_mapping(changes or {}, f"{where}: variant '{name}'")), str(first))
            for name, changes in named.items()
        ]
    else:
        axes = {axis: _axis(axis, values, where) for axis, values in _mapping(raw["grid"], f"{where}: grid").items()}
        variants = _crossed(axes, raw.get("reference"), where)
    for variant in variants:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,99}", variant.name) or variant.name == PRETRAINED:
            raise InputError(f"{where}: '{variant.name}' cannot name a variant: use letters, digits, '_', '.', '-'")
    pretrain = raw.get("pretrain")
    plan = Study(
        raw=raw,
        title=str(raw.get("title") or where),
        question=str(raw.get("question") or ""),
        notes=" ".join(str(raw.get("notes") or "").split()),
        base=dict(_mapping(raw.get("base") or {}, f"{where}: base")),
        variants=tuple(variants),
        axes={axis: list(values) for axis, values in axes.items()},
        pretrain=None if pretrain is None else dict(_mapping(pretrain, f"{where}: pretrain")),
        seeds=_seed_list(raw.get("seeds", 3), where),
        test=dict(_mapping(raw.get("test") or {}, f"{where}: test")),
        figure=_figure_choice(raw.get("figure") or {}, axes, where),
    )
    _check_keys(plan.test, _TEST_KEYS, f"{where}: test")
    # A misspelt field shall not be found after an hour.
    layers: dict[str, dict[str, Any]] = {"base": {}}
    layers |= {f"variant '{variant.name}'": variant.changes for variant in plan.variants}
    for what, changes in (layers | {"pretrain": plan.pretrain or {}}).items():
        try:
            experiment = compose(None, plan.base, changes)
            find_model(experiment.model.name)
            if what == "base":
                common = experiment.trainer
            for name in ("seed", "out", "resume", "progress"):
                if getattr(experiment.trainer, name) != getattr(common, name):
                    raise InputError(f"{name} is for the study to choose")
        except InputError as error:
            raise InputError(f"{where}: {what}: {error}") from error
        if experiment.task.name == "regression":
            raise InputError(f"{where}: {what}: a study compares classifiers; task must be classification or both")
        if PRETRAINED in _template(experiment) and plan.pretrain is None:
            raise InputError(
                f"{where}: {what}: pretrained is '{experiment.transfer.pretrained}', but pretrain is missing"
            )
    return plan


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise unknown_name(f"key in {where}", str(key), known)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: must be 'name: value' lines, not {value!r}")
    return {str(key): item for key, item in value.items()}


def _axis(axis: str, values: Any, where: str) -> dict[str, dict[str, Any]]:
    """Returns value's name → what it changes: values of one field, or groups of changes that have names."""
    if isinstance(values, Mapping):
        return {str(name): dict(_mapping(changes or {}, f"{where}: {axis}")) for name, changes in values.items()}
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: grid: {axis} must be a list of values, or names with what each changes")
    if axis == "model":  # "*_nano": all models of that name
        names = [info.name for info in list_models()]
        values = [found for v in values for found in (fnmatch.filter(names, v) if "*" in str(v) else [v])]
    return {Path(str(value)).stem if "/" in str(value) else str(value): {axis: value} for value in values}


def _crossed(axes: Mapping[str, Mapping[str, dict[str, Any]]], reference: Any, where: str) -> list[Variant]:
    """Returns every combination of the axes' values."""
    fixed = {axis: str(value) for axis, value in _mapping(reference or {}, f"{where}: reference").items()}
    for axis, value in fixed.items():
        if axis not in axes:
            raise unknown_name(f"axis in {where}: reference", axis, axes)
        if value not in axes[axis]:
            raise unknown_name(f"value in {where}: reference", value, axes[axis])
    variants = []
    for names in itertools.product(*axes.values()):
        values = dict(zip(axes, names))
        changes: dict[str, Any] = {}
        for axis, name in values.items():
            changes |= axes[axis][name]
        compared = "-".join({**values, **fixed}.values()) if fixed else None
        variants.append(Variant("-".join(names), values, changes, compared))
    return variants


def _seed_list(seeds: Any, where: str, first: int = 0) -> tuple[int, ...]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return tuple(range(first, first + seeds))
    if isinstance(seeds, list) and seeds and all(isinstance(s, int) for s in seeds) and len({*seeds}) == len(seeds):
        return tuple(seeds)
    raise InputError(
        f"{where}: seeds must be how many (at least 1), or a list of different whole numbers, not {seeds!r}"
    )


def _figure_choice(given: Any, axes: Mapping[str, Any], where: str) -> dict[str, str]:
    choice = dict(_mapping(given, f"{where}: figure"))
    _check_keys(choice, _FIGURE_KEYS, f"{where}: figure")
    names = list(axes)
    choice.setdefault("kind", "curve" if len(names) > 1 else "bars")
    if choice["kind"] not in _FIGURE_KINDS:
        raise unknown_name(f"figure kind in {where}", str(choice["kind"]), _FIGURE_KINDS)
    if len(names) > 2:
        raise InputError(f"{where}: a grid has one or two axes, not {len(names)}: {', '.join(names)}")
    if names:
        choice.setdefault("x", next(axis for axis in reversed(names) if axis != choice.get("by")))
        if len(names) == 2:
            choice.setdefault("by", next(axis for axis in names if axis != choice["x"]))
    elif choice["kind"] == "curve":
        raise InputError(f"{where}: figure: a curve needs a grid; variants are shown as bars")
    for key in ("x", "by"):
        if key in choice and choice[key] not in axes:
            raise unknown_name(f"axis in {where}: figure: {key}", str(choice[key]), axes)
    return choice


def with_options(
    plan: Study, preset: str | list[str] | None, options: Mapping[str, Any] | None, seeds: int | None
) -> Study:
    """Returns the study with the user's presets and options put over its base."""
    base = compose(None, plan.base, {"preset": preset}, options or {})
    chosen = plan.seeds if seeds is None else _seed_list(seeds, "seeds", base.trainer.seed)
    if seeds is None and plan.seeds == tuple(range(len(plan.seeds))):
        chosen = tuple(base.trainer.seed + seed for seed in plan.seeds)
    settings = {key: value for key, value in _settings(base).items() if key not in ("seed", "out", "progress")}
    return dataclasses.replace(plan, base=settings, seeds=chosen)


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Returns the fields, by short name, that differ from the defaults: a run's description that people can read."""
    defaults = Experiment().flat()
    return {key: value for key, value in experiment.flat().items() if value != defaults[key]}


def _template(experiment: Experiment) -> str:
    """Returns ``pretrained`` if it asks for the study's own pretraining; else nothing."""
    pretrained = experiment.transfer.pretrained
    return pretrained if isinstance(pretrained, str) and f"{{{PRETRAINED}}}" in pretrained else ""


# --- the runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """One training and its test. ``options`` are without out and seed; ``test`` is None for a pretraining."""

    variant: str
    seed: int
    changes: dict[str, Any]
    options: dict[str, Any]
    test: dict[str, Any] | None

    @property
    def key(self) -> str:
        return f"{self.variant}-seed{self.seed}"


def _run(plan: Study, variant: Variant, seed: int) -> _Run:
    experiment = compose(None, plan.base, variant.changes)
    return _Run(variant.name, seed, variant.changes, _settings(experiment), _test_images(plan.test, experiment))


def _runs(plan: Study, variants: Sequence[Variant]) -> list[_Run]:
    """Returns all runs, seed by seed, so that an early stop leaves a table of fewer seeds, not of fewer variants."""
    runs = []
    for seed in plan.seeds:
        of_seed = [_run(plan, variant, seed) for variant in variants]
        if any(f"{{{PRETRAINED}}}" in str(run.options.get("pretrained")) for run in of_seed):
            options = _settings(compose(None, plan.base, plan.pretrain or {}))
            runs.append(_Run(PRETRAINED, seed, plan.pretrain or {}, options, None))
        runs += of_seed
    return runs


def _chosen(plan: Study, only: str | list[str] | None) -> list[Variant]:
    if not only:
        return list(plan.variants)
    patterns = [part.strip() for part in (only.split(",") if isinstance(only, str) else only)]
    names = [variant.name for variant in plan.variants]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise unknown_name("variant", pattern, names)
    return [variant for variant in plan.variants if any(fnmatch.fnmatch(variant.name, p) for p in patterns)]


def _test_images(test: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Returns which images a run is tested on: by default those of its own survey, with the noise it is trained with."""
    data = str(test.get("data") or experiment.data.source)
    if Path(data).suffix.lower() in DATASET_SUFFIXES:
        if not test.get("data"):
            raise InputError(f"the study trains on the file {data}: its test must name the test images (test: data: …)")
        if given := [key for key in ("noise", "n", "seed") if key in test]:
            raise InputError(f"test: {given[0]} is for simulated images; {data} is a file")
        return {"data": data}
    get_survey(data)
    fresh = experiment.augmentation.fresh_noise
    noise = test.get("noise") or (fresh if fresh != "none" else experiment.data.noise)
    found = {"data": data, "noise": noise, "n": test.get("n", N_SIMULATED), "seed": test.get("seed", TEST_SEED)}
    for key, least in (("n", 2), ("seed", 0)):
        if isinstance(found[key], bool) or not isinstance(found[key], int) or found[key] < least:
            raise InputError(f"test: {key} must be a whole number of at least {least}, not {found[key]!r}")
    return found


def _refuse_seen_test_images(plan: Study, runs: Iterable[_Run]) -> None:
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
        marks = [path.resolve(), LensDataset(path).attributes.get("seed")] if is_file else [run.test["seed"]]
        for mark in marks:
            if mark is not None and mark in used:
                what = run.test["data"] if is_file else f"seed {mark}"
                raise InputError(f"test: {what} is {used[mark]}, too: test on images of another seed")


def prepare_folder(folder: Path, plan: Study, command: str) -> None:
    """Makes the folder and writes down the study as it is carried out, in a form that can be read again."""
    if folder.exists() and not (folder / "study.yaml").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not the folder of a study: choose another out")
    described = {**plan.raw, "base": plan.base, "seeds": list(plan.seeds)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        write_text(folder / "study.yaml", f"# {command}\n{text}")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error


def _carry_out(folder: Path, plan: Study, runs: list[_Run], workers: int, progress: bool) -> None:
    """Does the runs that are not done yet, and writes down each as it comes."""
    done = {(record["variant"], record["seed"]) for record in _usable_results(folder, plan) if record["status"] == "ok"}
    waiting = [run for run in runs if (run.variant, run.seed) not in done]
    began = time.monotonic()
    with contextlib.closing(_records(folder, waiting, min(workers, len(waiting)))) as records:
        for finished, record in enumerate(records, 1):
            _append(folder / "results.jsonl", record)
            if progress:
                left = (time.monotonic() - began) / finished * (len(waiting) - finished)
                print(
                    f"[{len(runs) - len(waiting) + finished}/{len(runs)}] {_in_words(record)}{_about(left)}", flush=True
                )


def _records(folder: Path, runs: list[_Run], workers: int) -> Generator[dict[str, Any], None, None]:
    """Yields each run's line for results.jsonl, in the order in which they end."""
    if workers <= 1:
        yield from (_train_and_test(folder, run) for run in runs)
        return
    before = set(multiprocessing.active_children())
    # New processes, not forks: torch's threads and CUDA do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (max(1, torch.get_num_threads() // workers),)
    )
    try:
        for future in as_completed([pool.submit(_train_and_test, folder, run) for run in runs]):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise InputError(
            f"{folder}: a worker process was killed, probably for want of memory; finished runs are kept: go on with fewer workers"
        ) from error
    finally:  # after Ctrl-C; otherwise nothing is left to stop
        children = set(multiprocessing.active_children()) - before
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        for child in children:
            child.join(30)  # it may have a checkpoint to write
            child.kill()


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)  # the simulator uses as many
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one stops the others
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the study was killed: do not go on alone

    threading.Thread(target=follow, daemon=True).start()


def _train_and_test(folder: Path, run: _Run) -> dict[str, Any]:
    """Trains one variant with one seed and tests it once; returns the run's line for results.jsonl."""
    from haloformer.training import train

    began = time.monotonic()
    record: dict[str, Any] = {
        "variant": run.variant,
        "seed": run.seed,
        "status": "failed",
        "message": "",
        "changes": run.changes,
        "options": run.options,
        "test_images": run.test,
    }
    place = folder / "runs" / run.key
    try:
        options = {**run.options, "seed": run.seed, "out": str(place), "progress": False}
        if isinstance(options.get("pretrained"), str):
            start = folder / "runs" / f"{PRETRAINED}-seed{run.seed}"
            if f"{{{PRETRAINED}}}" in options["pretrained"] and not (start / "finished.json").exists():
                raise InputError(f"its pretraining with seed {run.seed} failed or is missing")
            options["pretrained"] = options["pretrained"].replace(f"{{{PRETRAINED}}}", str(start))
        result = train(**options)
        record |= {"val": dict(result.metrics), "best_epoch": result.best_epoch, "epochs": result.epochs}
        predictor = load(place, str(options.get("device", "auto")))
        record |= _cost(predictor)
        if run.test is not None:
            record["test"] = _test_metrics(*_answers(folder / "logits" / f"{run.key}.npz", predictor, run.test))
        record |= {"status": "ok", "hardware": _hardware(predictor.device)}
    except InputError as error:
        record["message"] = str(error)
    except (OSError, MemoryError):  # the next run would fare no better
        raise
    except Exception as error:  # a night's study shall not end with one model's defect
        record["message"] = f"{type(error).__name__}: {error}"
        (folder / "failed").mkdir(exist_ok=True)
        write_text(folder / "failed" / f"{run.key}.txt", traceback.format_exc())
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    seconds = round(time.monotonic() - began, 1)
    return {**record, "seconds": seconds, "code_version": code_version(), "date": date}


def _cost(predictor: Predictor) -> dict[str, Any]:
    """Returns what the network alone costs, without simulation and fit: its speed is that of a batch of 64 images."""
    described = predictor.artefact["model"]
    height, width = np.broadcast_to(described["img_size"], 2).tolist()
    batch = torch.zeros(64, described["in_chans"], height, width, device=predictor.device)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):  # the first warms up
            began = time.perf_counter()
            predictor.model(batch).cpu()
            seconds.append(time.perf_counter() - began)
    return {
        "parameters": count_parameters(predictor.model),
        "macs": count_macs(predictor.model, (described["in_chans"], height, width)),
        "inference_images_per_second": round(len(batch) / min(seconds[1:]), 1),
    }


def _answers(path: Path, predictor: Predictor, test: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns labels (N,), logits (N, K) and class names; computed once, then read from ``path``."""
    wanted = json.dumps(test, sort_keys=True)
    if path.exists():
        with np.load(path) as kept:
            if str(kept["test_images"]) == wanted:
                return kept["labels"], kept["logits"], tuple(kept["class_names"].tolist())
    images = open_test_images(**test, predictor=predictor)
    if seen := contamination(predictor, images):
        raise InputError(seen[0])
    order = class_order(images, predictor)
    labels, logits = [], []
    for batch, numbers, _ in images.batches(_BATCH):
        logits.append(predictor.predict_logits(batch).numpy())
        labels.append(order[numbers.numpy()])
    found = np.concatenate(labels)
    kept_rows = found >= 0  # a grouping of classes may leave some out
    answers = found[kept_rows], np.concatenate(logits)[kept_rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    names = np.array(predictor.class_names)
    with part.open("wb") as file:
        np.savez_compressed(file, labels=answers[0], logits=answers[1], class_names=names, test_images=np.array(wanted))
    os.replace(part, path)
    return *answers, predictor.class_names


def _test_metrics(labels: np.ndarray, logits: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    metrics = classification_metrics(labels, logits, class_names, resamples=0)
    aucs = {name: dataclasses.asdict(row["auc"]) for name, row in metrics["per_class"].items()}
    kept = {key: metrics[key].value for key in ("balanced_accuracy", "nll", "brier", "ece")}
    return {
        "n_images": metrics["n_images"],
        **kept,
        **{key: dataclasses.asdict(metrics[key]) for key in ("macro_auc", "accuracy")},
        "auc": aucs,
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"


# --- results ----------------------------------------------------------------------------------------------------------


def _append(path: Path, record: dict[str, Any]) -> None:
    """Adds a line; the run's earlier line, if any, goes. The file is never seen half-written."""
    kept = [old for old in _read_results(path) if (old["variant"], old["seed"]) != (record["variant"], record["seed"])]
    lines = [json.dumps(_without_nan(line), allow_nan=False) for line in [*kept, record]]
    write_text(path, "\n".join(lines) + "\n")


def _read_results(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _usable_results(folder: Path, plan: Study) -> list[dict[str, Any]]:
    """Returns the results of this study's variants, as they are defined now, on its present test images.

    Raises:
        InputError: A finished run has other settings than the study gives it now.
    """
    expected = {variant.name: _run(plan, variant, 0) for variant in plan.variants}
    if plan.pretrain is not None:
        options = _settings(compose(None, plan.base, plan.pretrain))
        expected[PRETRAINED] = _Run(PRETRAINED, 0, plan.pretrain, options, None)
    usable = []
    for record in _read_results(folder / "results.jsonl"):
        run = expected.get(record["variant"])
        if run is None:
            continue
        theirs, mine = record["options"], json.loads(json.dumps(run.options))
        keys = sorted(key for key in {*theirs, *mine} - RUN_ONLY if theirs.get(key) != mine.get(key))
        if keys and record["status"] == "ok":
            said = [f"{key}: {theirs.get(key, 'default')!r} there, {mine.get(key, 'default')!r} here" for key in keys]
            raise InputError(
                f"{folder}: variant '{run.variant}' was run with other settings ({'; '.join(said[:4])}): choose another out"
            )
        if not keys and record["test_images"] == run.test:
            usable.append(record)
    return usable


def _in_words(record: dict[str, Any]) -> str:
    head = f"{record['variant']}, seed {record['seed']}: "
    if record["status"] != "ok":
        return f"{head}failed: {record['message']}"
    if "test" not in record:
        return f"{head}validation macro AUC {record['val']['val_macro_auc']:.4f} ({record['seconds']:.0f} s)"
    return (
        f"{head}test macro AUC {figures.format_value(record['test']['macro_auc']['value'])} ({record['seconds']:.0f} s)"
    )


def _about(seconds: float) -> str:
    if seconds < 1:
        return ""
    return f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"


# --- the table --------------------------------------------------------------------------------------------------------


def over_seeds(values: Sequence[float], low: float = -np.inf, high: float = np.inf) -> Interval:
    """Returns the mean of runs with different seeds and its 95 % interval, by Student's t; NaN bounds for a single run.

    Args:
        values: One per seed.
        low: Smallest value that is possible; the interval ends there.
        high: Largest value that is possible.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = t.isf((1 - CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return Interval(mean, max(low, float(mean - half)), min(high, float(mean + half)))


def _rows(folder: Path, plan: Study, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row per variant that was run, in the study's order."""
    ok: dict[str, dict[int, dict[str, Any]]] = {variant.name: {} for variant in plan.variants}
    failures: dict[str, list[str]] = {variant.name: [] for variant in plan.variants}
    for record in results:
        if record["variant"] in ok:
            if record["status"] == "ok":
                ok[record["variant"]][record["seed"]] = record
            else:
                failures[record["variant"]].append(f"seed {record['seed']}: {record['message']}")
    rows = []
    for variant in plan.variants:
        runs = ok[variant.name]
        if not runs and not failures[variant.name]:
            continue
        row: dict[str, Any] = {"variant": variant.name, **variant.values, "n_seeds": len(runs)}
        row |= {"seeds": sorted(runs), "changes": _one_line(variant.changes), "reference": variant.reference or ""}
        if runs:
            records = [runs[seed] for seed in sorted(runs)]
            row |= _estimates(records)
            others = ok.get(variant.reference or "", {})
            if shared := sorted({*runs} & {*others} if variant.reference != variant.name else ()):
                row |= _difference(folder, variant, [(runs[seed], others[seed]) for seed in shared])
        rows.append({**row, "failed": "; ".join(failures[variant.name])})
    return rows


def _estimates(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the means over a variant's runs."""
    tests = [record["test"] for record in records]
    found: dict[str, Any] = {"interval": "over seeds" if len(records) > 1 else "over test images"}
    measured = {"macro_auc": [test["macro_auc"] for test in tests], "accuracy": [test["accuracy"] for test in tests]}
    measured |= {f"auc_{name}": [test["auc"][name] for test in tests] for name in tests[0]["auc"]}
    for key, estimates in measured.items():
        values = [estimate["value"] for estimate in estimates if estimate["value"] is not None]
        if not values:
            continue
        interval = over_seeds(values, 0.0, 1.0)
        if len(records) == 1:
            bounds = [np.nan if estimates[0][end] is None else estimates[0][end] for end in ("low", "high")]
            interval = Interval(values[0], *bounds)
        found |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    found["macro_auc_per_seed"] = [test["macro_auc"]["value"] for test in tests]
    found["val_macro_auc"] = float(np.mean([record["val"]["val_macro_auc"] for record in records]))
    found["parameters"] = records[0]["parameters"]
    for key in ("macs", "inference_images_per_second"):  # results of earlier versions have none
        if known := [record[key] for record in records if key in record]:
            found[key] = float(np.mean(known))
    found["seconds_per_run"] = float(np.mean([record["seconds"] for record in records]))
    return found


def _difference(folder: Path, variant: Variant, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Returns the mean difference in macro AUC to the reference over the seeds that both have."""
    if any(run["test_images"] != other["test_images"] for run, other in pairs):
        return {}  # other images: there is no pair
    values = [run["test"]["macro_auc"]["value"] - other["test"]["macro_auc"]["value"] for run, other in pairs]
    interval: Interval = over_seeds(values)
    if len(pairs) == 1:
        files = [folder / "logits" / f"{run['variant']}-seed{run['seed']}.npz" for run in pairs[0]]
        if all(file.exists() for file in files):
            with np.load(files[0]) as mine, np.load(files[1]) as theirs:
                if mine["logits"].shape == theirs["logits"].shape:
                    interval = paired_difference(mine["labels"], mine["logits"], theirs["logits"])
    found = {"difference": interval.value, "difference_low": interval.low, "difference_high": interval.high}
    if isinstance(interval, Difference):
        found["difference_p"] = interval.p
    return {**found, "n_pairs": len(pairs), "difference_per_seed": values}


def report(folder: Path, plan: Study, command: str) -> StudyResult:
    """Writes table.md, table.csv and the figure from results.jsonl."""
    results = _usable_results(folder, plan)
    rows = _rows(folder, plan, results)
    done = [record for record in results if record["status"] == "ok"]
    failed = [record for record in results if record["status"] != "ok"]
    there = {(record["variant"], record["seed"]) for record in results}
    missing = [(v.name, seed) for v in plan.variants for seed in plan.seeds if (v.name, seed) not in there]
    measured = [row for row in rows if "macro_auc" in row]
    if not measured:
        if failed:
            raise InputError(f"{folder}: no run succeeded; the first message: {failed[0]['message']}")
        raise InputError(f"{folder}: no run of this study is finished yet")
    write_text(folder / "table.md", _markdown(plan, command, rows, results, len(missing)))
    write_csv(folder / "table.csv", rows)
    drawn = _curves(plan, measured) if plan.figure["kind"] == "curve" else _bars(plan, measured)
    figures.save(drawn, folder / "figure")
    return StudyResult(folder, rows, len(done), len(failed), len(missing))


def _markdown(
    plan: Study, command: str, rows: list[dict[str, Any]], results: list[dict[str, Any]], n_missing: int
) -> str:
    """Returns the page with the table; all that one must know to read the numbers stands above them."""
    lines = [f"# {plan.title}", "", *([f"*{plan.question}*", ""] if plan.question else []), "| | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(text)} |" for name, text in _head(plan, command, rows, results, n_missing)]
    if len(plan.axes) == 2:
        lines += ["", "## Mean test macro AUC", "", *_pivot(plan, rows)]
    names = list(
        dict.fromkeys(key[4:] for row in rows for key in row if re.fullmatch(r"auc_.*(?<!_low)(?<!_high)", key))
    )
    compared = any("difference" in row for row in rows)
    columns = ["variant", "what it changes", "seeds", "test macro AUC (95 %)"]
    columns += ["difference to the reference (95 %)"] if compared else []
    columns += ["accuracy", *(f"AUC {name}" for name in names), "validation macro AUC", "parameters", "s per run"]
    lines += ["", "## All runs", "", f"| {' | '.join(map(_cell, columns))} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [
            f"**{row['variant']}**" if row["variant"] == row["reference"] else row["variant"],
            row["changes"] or "–",
        ]
        cells.append(str(row["n_seeds"]))
        if "macro_auc" in row:
            cells.append(figures.format_interval(_interval(row, "macro_auc")))
            cells += [_signed(row)] if compared else []
            cells.append(f"{row['accuracy']:.4f}")
            cells += [figures.format_value(row.get(f"auc_{name}", float("nan"))) for name in names]
            cells += [figures.format_value(row["val_macro_auc"]), f"{row['parameters'] / 1e6:.2f} M"]
            cells.append(f"{row['seconds_per_run']:.0f}")
        else:
            cells += ["failed"] + ["–"] * (len(columns) - 4)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    lines += ["", f"![{plan.title}](figure.png)"]
    if any(row["failed"] for row in rows):
        lines += ["", "## Failed runs", ""]
        lines += [f"- **{row['variant']}**, {row['failed']}" for row in rows if row["failed"]]
    return "\n".join(lines) + "\n"


def protocol(folder: Path, plan: Study, command: str) -> Iterator[tuple[str, str]]:
    """Yields all that one must know to read the numbers of a study in ``folder``, as name and text."""
    results = _usable_results(folder, plan)
    there = {(record["variant"], record["seed"]) for record in results}
    n_missing = sum((variant.name, seed) not in there for variant in plan.variants for seed in plan.seeds)
    return _head(plan, command, _rows(folder, plan, results), results, n_missing)


def _head(
    plan: Study, command: str, rows: list[dict[str, Any]], results: list[dict[str, Any]], n_missing: int
) -> Iterator[tuple[str, str]]:
    """Yields what the table's head says, as name and text."""
    done = [record for record in results if record["status"] == "ok"]
    tested = [record for record in done if "test" in record]
    dates = sorted(record["date"] for record in done)
    yield "command", f"`{command}`"
    yield "date", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]} (UTC)"
    yield "hardware", "; ".join(dict.fromkeys(record["hardware"] for record in done))
    yield "code version", "; ".join(dict.fromkeys(record["code_version"] for record in done))
    yield "base of all runs", _one_line(plan.base) or "the defaults"
    training = list(dict.fromkeys(_training_words(record["options"]) for record in tested))
    yield "training images", "; ".join(training) if len(training) < 4 else f"{training[0]} … {training[-1]}"
    pretraining = [record for record in done if record["variant"] == PRETRAINED]
    if pretraining:
        aucs = ", ".join(f"{record['val']['val_macro_auc']:.4f}" for record in pretraining)
        yield "pretraining", f"{_one_line(plan.pretrain or {})}; validation macro AUC {aucs}"
    yield "test images", f"{_test_words(tested)}; {_NOTHING_SELECTED}"
    seeds = sorted({record["seed"] for record in tested})
    yield (
        "seeds",
        f"{', '.join(map(str, seeds))}: each draws other initial weights, another order, and, of a survey, other training images",
    )
    yield "intervals", _interval_words(rows)
    if plan.notes:
        yield "notes", plan.notes
    if n_missing:
        yield "not there yet", f"{n_missing} runs"


def _training_words(options: Mapping[str, Any]) -> str:
    experiment = compose(None, options)
    data, epochs = experiment.data, experiment.schedule.epochs
    few = f" ({data.labels_per_class:,} per class)" if data.labels_per_class else ""
    shown = f"; {data.epoch_size * epochs:,} shown" if data.epoch_size else f", {epochs} times"
    if Path(data.source).suffix.lower() in DATASET_SUFFIXES:
        return f"the file {data.source}{few}{shown}"
    if data.n_images:
        return f"{f'some of {data.source}{few}' if few else f'{data.n_images:,} of {data.source}'}{shown}"
    return f"{(data.epoch_size or STREAM_EPOCH) * epochs:,} of {data.source}, each shown once"


def _test_words(tested: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for record in tested:
        images = record["test_images"]
        of = f"noise {images['noise']}, seed {images['seed']}" if "seed" in images else "a file"
        counts[f"{record['test']['n_images']:,} of {images['data']} ({of})"] = 0
    return "; ".join(counts) + (", the same for all runs" if len(counts) == 1 else "")


def _interval_words(rows: list[dict[str, Any]]) -> str:
    kinds = {row.get("interval") for row in rows}
    said = []
    if "over seeds" in kinds:
        said.append(
            "over seeds, by Student's t: they cover another training (weights, order, training images), not other test images, "
            "which all runs share; differences are paired by seed"
        )
    if "over test images" in kinds:
        said.append(
            "with one seed over test images: they cover other test images, not another training; differences are paired by image"
        )
    return (
        "95 %; "
        + "; ".join(said)
        + ". Not corrected for the number of variants: of 20 without effect, one differs by chance"
    )


def _pivot(plan: Study, rows: list[dict[str, Any]]) -> list[str]:
    x, by = plan.figure["x"], plan.figure["by"]
    found = {(row[by], row[x]): row for row in rows}
    lines = [
        f"| {by} | {' | '.join(_cell(_label(value)) for value in plan.axes[x])} |",
        f"|{'---|' * (len(plan.axes[x]) + 1)}",
    ]
    for name in plan.axes[by]:
        cells = [found.get((name, value), {}) for value in plan.axes[x]]
        if any(cells):
            values = [
                figures.format_value(cell["macro_auc"]) if "macro_auc" in cell else "failed" if cell else "–"
                for cell in cells
            ]
            lines.append(f"| {_cell(name)} | {' | '.join(values)} |")
    return lines


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows that need not have all columns; lists are written with spaces between their items."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        lists = {key: " ".join(map(str, value)) for key, value in row.items() if isinstance(value, list)}
        writer.writerow({**row, **lists})
    write_text(path, text.getvalue())


def _interval(row: Mapping[str, Any], key: str) -> Interval:
    return Interval(row[key], row[f"{key}_low"], row[f"{key}_high"])


def _signed(row: Mapping[str, Any]) -> str:
    if row["variant"] == row["reference"]:
        return "reference"
    if "difference" not in row:
        return "–"
    bounds = (
        f" ({row['difference_low']:+.4f} … {row['difference_high']:+.4f})" if np.isfinite(row["difference_low"]) else ""
    )
    p = row.get("difference_p", float("nan"))
    said = "" if not np.isfinite(p) else ", p < 0.0001" if p < 1e-4 else f", p = {p:.2g}"
    return f"{row['difference']:+.4f}{bounds}".replace("-", "−") + said


def _one_line(settings: Mapping[str, Any]) -> str:
    """``{"lr": 0.001}`` as ``lr: 0.001``."""
    return ", ".join(
        f"{key}: {{{_one_line(value)}}}"
        if isinstance(value, Mapping)
        else f"{key}: {json.dumps(value)}".replace('"', "")
        for key, value in settings.items()
    )


def _label(name: str) -> str:
    """A number as people write it: 10,000."""
    try:
        number = float(name)
    except ValueError:
        return name
    return f"{int(number):,}" if number.is_integer() else name


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


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


# --- the figure -------------------------------------------------------------------------------------------------------


@figures._styled
def _bars(plan: Study, rows: list[dict[str, Any]]) -> "Figure":
    """Draws one line per variant: the mean with its interval, and a tick for each seed.

    The second panel has the differences to the reference; for a grid there is a panel for each value of ``by`` instead.
    """
    x, by = plan.figure.get("x"), plan.figure.get("by")
    name = (lambda row: row[x]) if x else (lambda row: row["variant"])
    labels = list(dict.fromkeys(map(name, rows)))
    panels: list[tuple[str, str, list[dict[str, Any]]]] = [("Test macro AUC", "macro_auc", rows)]
    if by:
        mean = {label: float(np.mean([row["macro_auc"] for row in rows if name(row) == label])) for label in labels}
        labels.sort(key=lambda label: -mean[label])
        series = dict.fromkeys(row[by] for row in rows)
        panels = [(f"Test macro AUC, {value}", "macro_auc", [r for r in rows if r[by] == value]) for value in series]
    elif any("difference" in row for row in rows):
        panels.append(("Difference to the reference", "difference", [row for row in rows if "difference" in row]))
    figure = figures._figure(1.8 + 3.9 * len(panels), (0.34 if len(labels) < 20 else 0.24) * len(labels) + 1.9)
    figure.set_layout_engine("constrained", w_pad=0.12)
    for k, (axes, (title, key, shown)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels)
    ):
        logarithmic = bool(by)  # many networks: some near 1, some far below
        seen = _error if logarithmic else float
        for row in shown:
            place, is_reference = labels.index(name(row)), row["variant"] == row["reference"]
            hue = figures.INK if is_reference else figures.colour(k if by else 1)
            axes.plot(
                [seen(row[f"{key}_low"]), seen(row[f"{key}_high"])],
                [place, place],
                color=hue,
                linewidth=2.0,
                alpha=0.85,
            )
            seeds = row[f"{key}_per_seed"]
            if len(seeds) > 1:
                axes.plot([seen(v) for v in seeds], [place] * len(seeds), "|", color=hue, markersize=7, alpha=0.75)
            face = figures.PAPER if is_reference else hue
            axes.plot(seen(row[key]), place, "o", color=hue, markerfacecolor=face, markersize=6, zorder=3)
            if key == "macro_auc" and is_reference:
                axes.axvline(seen(row[key]), color=figures.FAINT, linewidth=0.9, linestyle=":", zorder=0)
        if logarithmic:
            _auc_axis(axes, "x", [_error(value) for row in rows for value in row["macro_auc_per_seed"]])
        else:
            axes.set_xlim(_limits(shown, key))
            axes.locator_params(axis="x", nbins=6)
        if key == "difference":
            axes.axvline(0, color=figures.INK, linewidth=0.9)
        axes.set_xlabel(figures._plain(title))
        axes.grid(axis="x", color=figures.FAINT, alpha=0.25, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(labels)), [figures._plain(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
    _entitle(figure, plan, rows, ticks=True)
    return figure


@figures._styled
def _curves(plan: Study, rows: list[dict[str, Any]]) -> "Figure":
    """Draws the macro AUC against one axis of the grid, a line for each value of the other."""
    x, by = plan.figure["x"], plan.figure.get("by")
    names = [name for name in plan.axes[x] if any(row[x] == name for row in rows)]
    numbers = _numbers(names)
    logarithmic = numbers is not None and min(numbers) > 0 and max(numbers) / min(numbers) >= 20
    places = dict(zip(names, numbers or range(len(names))))
    series = list(dict.fromkeys(row[by] for row in rows)) if by else [""]
    figure = figures._figure(7.6, 5.6)
    axes = figure.add_subplot()
    for k, name in enumerate(series):
        own = sorted((row for row in rows if not by or row[by] == name), key=lambda row: places[row[x]])
        offset = k - (len(series) - 1) / 2  # intervals side by side
        at = np.array([places[row[x]] * 1.06**offset if logarithmic else places[row[x]] + 0.0 for row in own])
        if numbers is None:
            at = at + 0.06 * offset
        style: dict[str, Any] = {"color": figures.colour(k), "linestyle": figures.DASHES[k % len(figures.DASHES)]}
        axes.plot(
            at,
            [_error(row["macro_auc"]) for row in own],
            marker="osD^v"[k % 5],
            markersize=5.5,
            label=figures._plain(name),
            **style,
        )
        for place, row in zip(at, own):
            ends = [_error(row["macro_auc_low"]), _error(row["macro_auc_high"])]
            axes.plot([place, place], ends, color=figures.colour(k), linewidth=1.1, alpha=0.7)
    if logarithmic:
        axes.set_xscale("log")
    if numbers is not None:
        from matplotlib.ticker import NullLocator

        axes.set_xticks(numbers, [_label(name) for name in names])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xticks(range(len(names)), [figures._plain(name) for name in names])
    axes.set_xlabel(figures._plain(x))
    _auc_axis(axes, "y", [_error(value) for row in rows for value in row["macro_auc_per_seed"]])
    axes.set_ylabel("Test macro AUC")
    axes.grid(color=figures.FAINT, alpha=0.25, linewidth=0.6)
    if by:
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside right center", handlelength=3.2, title=figures._plain(by)
        )
    _entitle(figure, plan, rows)
    return figure


def _numbers(names: Sequence[str]) -> list[float] | None:
    try:
        return [float(name) for name in names]
    except ValueError:
        return None


def _error(auc: float) -> float:
    """1 − AUC, kept off zero for a logarithmic axis."""
    return max(1 - auc, 1e-6)


def _auc_axis(axes: Any, which: str, errors: Sequence[float]) -> None:
    """Makes an axis logarithmic in 1 − AUC and labels it with the AUC: 0.99 and 0.999 are as far apart as 0.9 and 0.99."""
    from matplotlib.ticker import NullLocator

    top, bottom = min(1.0, max(errors) * 1.35), min(errors) / 1.35
    steps = (
        (1.0,)
        if which == "x" and top / bottom > 30
        else (1, 0.5, 0.2)
        if top / bottom > 60
        else (1, 0.7, 0.5, 0.3, 0.2)
    )
    ticks = sorted({round(m * 10.0**-d, 9) for d in range(7) for m in steps if bottom <= m * 10.0**-d <= top})
    axes.set(**{f"{which}scale": "log"})
    axes.set(
        **{
            f"{which}ticks": ticks,
            f"{which}ticklabels": [f"{1 - tick:.7g}" for tick in ticks],
            f"{which}lim": (top, bottom),
        }
    )
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())


def _limits(rows: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """Returns the range of an axis: all single seeds, and the intervals unless they are far wider."""
    seeds = [value for row in rows for value in row.get(f"{key}_per_seed", [])]
    ends = [
        row[f"{key}_{end}"] for row in rows for end in ("low", "high") if np.isfinite(row.get(f"{key}_{end}", np.nan))
    ]
    span = max(max(seeds) - min(seeds), 1e-4)
    low = max(min(seeds + ends), min(seeds) - 0.8 * span) - 0.05 * span
    high = min(max(seeds + ends), max(seeds) + 0.8 * span) + 0.05 * span
    return low, high


def _entitle(figure: "Figure", plan: Study, rows: list[dict[str, Any]], ticks: bool = False) -> None:
    figure.suptitle(figures._plain(plan.title), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    kinds = {row["interval"] for row in rows}
    n_seeds = sorted({row["n_seeds"] for row in rows})
    text = {
        frozenset(
            {"over seeds"}
        ): f"Mean of {'–'.join(map(str, sorted({n_seeds[0], n_seeds[-1]})))} seeds; lines: 95 % interval over seeds",
        frozenset({"over test images"}): "One seed; lines: 95 % interval over test images",
    }.get(frozenset(kinds), "Lines: 95 % interval over seeds, with one seed over test images")
    text += "; ticks: single seeds" if ticks and n_seeds[-1] > 1 else ""
    width = int(figure.get_figwidth() * 13)
    figure.supxlabel(textwrap.fill(f"{text}.", width), fontsize=9, color="#5c626b", x=0.01, ha="left")
