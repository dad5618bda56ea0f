"""One run of a study: training and testing, in this process or another."""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haloformer._version import code_version
from haloformer.data.prepared import PreparedImages
from haloformer.data.reader import not_answered
from haloformer.errors import InputError, kind_and_reason
from haloformer.evaluation.metrics import classification_metrics
from haloformer.evaluation.testset import (
    TestImages,
    class_order,
    contamination,
    open_test_images,
)
from haloformer.fitting.fitted import FittedSimulator
from haloformer.io import jobs
from haloformer.io.writing import file_sha256, whole_file, write_text
from haloformer.models.cost import count_macs, count_parameters
from haloformer.prediction.predictor import Predictor, load
from haloformer.reporting import interval
from haloformer.simulation import Simulator, batches_ahead
from haloformer.studies.contents import contents, contents_of
from haloformer.studies.plan import PRETRAINED
from haloformer.studies.results import Record
from haloformer.studies.runs import HeldOut, Run
from haloformer.studies.settings import with_prepared
from haloformer.training.config import TrainerConfig, compose
from haloformer.training.idle import IdleWarning

_BATCH = 256
_RETRIES = 1  # of a run whose process was killed: it goes on from its checkpoint


def run_records(folder: Path, runs: list[Run], workers: int) -> Generator[Record, None, None]:
    """Yields each run's line for results.jsonl, in the order in which they end."""
    tasks = ((run.key, (folder, run)) for run in runs)
    several = workers if workers > 1 else 0
    threads = max(1, torch.get_num_threads() // max(1, workers))
    ended = jobs.results(_train_and_test, tasks, workers=several, threads=threads, retries=_RETRIES)
    try:
        with contextlib.closing(ended):
            for _, record in ended:
                yield record
    except jobs.WorkerKilled as error:
        raise InputError(
            f"{folder}: a worker process was killed, probably for want of memory; finished runs are kept: go on with fewer workers"
        ) from error


def _train_and_test(folder: Path, run: Run) -> Record:
    """Trains one variant with one seed and tests it once; returns the run's line for results.jsonl."""
    from haloformer.training import train

    began = time.monotonic()
    record: Record = {
        "variant": run.variant,
        "seed": run.seed,
        "status": "failed",
        "message": "",
        "changes": run.changes,
        "options": run.options,
        "test_images": run.test,
        "contents": contents_of(run),
    }
    place = folder / "runs" / run.key
    try:
        options = with_prepared(folder, _with_pretraining(folder, run))
        out = str(place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IdleWarning)  # told once, of all of them
            result = train(**options, seed=run.seed, out=out, progress=False)  # type: ignore[arg-type]  # fields by name
        record |= {
            "val": dict(result.metrics),
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
        }
        predictor = load(place, str(options.get("device", "auto")))
        record |= _cost(predictor)
        if run.test is not None:
            kept = folder / "logits" / f"{run.key}.npz"
            # Answers of other weights, or for what a file held before, are none of this run.
            made = {
                "test_images": {**run.test, **contents({}, run.test["data"])},
                "weights": file_sha256(place / "artefact" / "weights.safetensors"),
            }
            trainer = compose(None, options).trainer
            answers = _answers(kept, made, predictor, run.test, trainer)
            record["test"] = _test_metrics(*answers)
        record |= {"status": "ok", "hardware": _hardware(predictor.device)}
    except InputError as error:
        record["message"] = str(error)
    except (OSError, MemoryError):  # the next run would fare no better
        raise
    except Exception as error:  # one model's defect must not end a study of many hours
        record["message"] = kind_and_reason(error)
        (folder / "failed").mkdir(exist_ok=True)
        write_text(folder / "failed" / f"{run.key}.txt", traceback.format_exc())
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    seconds = round(time.monotonic() - began, 1)
    return {**record, "seconds": seconds, "code_version": code_version(), "date": date}


def _with_pretraining(folder: Path, run: Run) -> dict[str, object]:
    """Returns a run's options with the folder of its pretraining in place of ``{pretrained}``."""
    pretrained, mark = run.options.get("pretrained"), f"{{{PRETRAINED}}}"
    if not isinstance(pretrained, str) or mark not in pretrained:
        return run.options
    start = folder / "runs" / f"{PRETRAINED}-seed{run.seed}"
    if not (start / "finished.json").exists():
        raise InputError(f"its pretraining with seed {run.seed} failed or is missing")
    return {**run.options, "pretrained": pretrained.replace(mark, str(start))}


def _cost(predictor: Predictor) -> dict[str, object]:
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


def _answers(
    path: Path,
    made: Mapping[str, object],
    predictor: Predictor,
    test: HeldOut,
    settings: TrainerConfig,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns labels (N,), logits (N, K) and class names; computed once, then read from ``path`` if it has the same.

    Args:
        path: Where they are kept.
        made: What they are made of.
        predictor: The network.
        test: The test images.
        settings: Of the run, for images that all runs share.
    """
    marks = {name: json.dumps(what, sort_keys=True) for name, what in made.items()}
    if path.exists():
        with np.load(path) as kept:
            if all(name in kept and str(kept[name]) == mark for name, mark in marks.items()):
                return kept["labels"], kept["logits"], tuple(kept["class_names"].tolist())
    images = open_test_images(predictor=predictor, **test)
    if seen := contamination(predictor, images):
        raise InputError(seen[0])
    order = class_order(images, predictor)
    labels, logits = [], []
    if images.simulator is not None and settings.prepared is not None:
        answered = _of_prepared(predictor, images.simulator, images.n, settings)
    else:
        answered = _of_batches(predictor, images)
    for found_logits, numbers in answered:
        logits.append(found_logits.numpy())
        labels.append(order[numbers.numpy()])
    found = np.concatenate(labels)
    kept_rows = found >= 0  # a grouping of classes may leave some out
    if len(present := np.unique(found[kept_rows])) < 2:
        of = f"of class '{predictor.class_names[present[0]]}'" if len(present) else "of no class"
        raise InputError(f"{images.name}: all images are {of}; an AUC needs two")
    answers = found[kept_rows], np.concatenate(logits)[kept_rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    kept_as: dict[str, Any] = {name: np.array(mark) for name, mark in marks.items()}
    kept_as |= {"labels": answers[0], "logits": answers[1]}
    kept_as["class_names"] = np.array(predictor.class_names)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **kept_as)
    return *answers, predictor.class_names


def _of_batches(
    predictor: Predictor, images: TestImages
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields logits (B, K) and the data's labels (B,) of test images."""
    first = 0
    for batch, numbers, _ in images.batches(_BATCH):
        try:
            logits = predictor.predict_logits(batch)
        except InputError as error:
            raise InputError(f"{images.name}: images from {first} on: {error}") from error
        yield logits, numbers
        first += len(batch)


def _of_prepared(
    predictor: Predictor, simulator: Simulator, n: int, settings: TrainerConfig
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields logits (B, K) and the survey's labels (B,) of simulated images that all runs share."""
    made = FittedSimulator(simulator, predictor.residual, crop=predictor.framing.crop)
    assert settings.prepared is not None  # by the caller
    stored = PreparedImages(made, settings.prepared, gigabytes=settings.prepared_gb)
    blocks = [np.arange(first, min(first + _BATCH, n)) for first in range(0, n, _BATCH)]
    for batch in batches_ahead(stored, blocks, predictor.device):
        numbers = predictor.numbers_of(batch.images.to(predictor.device))
        if not torch.isfinite(numbers).all():
            raise not_answered(f"one of the test images of {simulator.survey.name}")
        logits = predictor.outputs.split(numbers)[0]
        assert logits is not None  # a study compares classifiers
        yield logits, batch.labels


def _test_metrics(
    labels: np.ndarray, logits: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, object]:
    """Returns what of a test is kept in results.jsonl."""
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


def in_words(record: Record) -> str:
    """Returns the outcome of a run in one line."""
    head = f"{record['variant']}, seed {record['seed']}: "
    if record["status"] != "ok":
        return f"{head}failed: {record['message']}"
    if "test" not in record:
        return f"{head}validation macro AUC {record['val']['val_macro_auc']:.4f} ({record['seconds']:.0f} s)"
    return f"{head}test macro AUC {interval.format_value(record['test']['macro_auc']['value'])} ({record['seconds']:.0f} s)"
