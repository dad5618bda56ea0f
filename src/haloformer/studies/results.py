"""The results of a study: the file that holds them, and means and intervals over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from haloformer.errors import InputError, reason_of
from haloformer.evaluation.metrics import paired_difference
from haloformer.files import check_regular
from haloformer.io.strict_json import parse_json, to_json_line
from haloformer.io.writing import write_text
from haloformer.reporting.interval import CONFIDENCE, Difference, Interval
from haloformer.studies.contents import contents_of
from haloformer.studies.plan import PRETRAINED, Study, Variant
from haloformer.studies.runs import Run, run_of
from haloformer.studies.settings import one_line, settings_of
from haloformer.training.config import RUN_ONLY, compose

Record = dict[str, Any]
"""One line of results.jsonl: a run's settings, its test and its costs."""

_FIELDS: dict[str, Any] = {
    "variant": str,
    "seed": int,
    "status": str,
    "options": dict,
    "test_images": dict | None,
}
_OF_FINISHED: dict[str, Any] = {
    "val": dict,
    "parameters": int,
    "seconds": int | float,
    "date": str,
    "hardware": str,
    "code_version": str,
}
_WAY_OUT = "delete this line, and the same command repeats that run alone"

Row = dict[str, Any]
"""One line of table.csv: a variant's means, intervals and costs; columns depend on classes and axes."""


@dataclass(frozen=True)
class StudyResult:
    """Result of a study.

    Attributes:
        out: Its folder, with ``results.jsonl``, ``table.md``, ``table.csv``, ``figure.png``, ``.svg`` and ``.pdf``, ``runs/`` and ``logits/``.
        rows: One dictionary per variant, as in ``table.csv``: mean test macro AUC, its interval, the difference to the reference …
        n_runs: Runs that are done, those of earlier calls included.
        n_failed: Runs that failed.
        n_missing: Runs of this study that are not there yet.
    """

    out: Path
    rows: list[Row]
    n_runs: int
    n_failed: int
    n_missing: int


def append_result(path: Path, record: Record) -> None:
    """Adds a line; the run's earlier line, if any, goes. The file is never seen half-written."""
    kept = [
        old
        for old in _read_results(path)
        if (old["variant"], old["seed"]) != (record["variant"], record["seed"])
    ]
    lines = [to_json_line(line) for line in [*kept, record]]
    write_text(path, "\n".join(lines) + "\n")


def _read_results(path: Path) -> list[Record]:
    if not path.exists():
        return []
    check_regular(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from error
    return [_record(line, path, n) for n, line in enumerate(lines, 1) if line.strip()]


def _record(line: bytes, path: Path, number: int) -> Record:
    """Returns the run that a line of results.jsonl tells; raises InputError where it tells none."""
    where = f"{path}, line {number}"
    try:
        record = parse_json(line.decode(), where, nan=math.nan)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is no text; {_WAY_OUT}") from error
    except InputError as error:
        raise InputError(f"{error}; {_WAY_OUT}") from error
    if problem := _damage(record):
        raise InputError(f"{where}: {problem}; {_WAY_OUT}")
    found: Record = record
    return found


def _damage(record: object) -> str:
    """Returns what keeps a line from being a run's result; nothing if it is one."""
    if not isinstance(record, dict):
        return "is no run's result"
    finished = record.get("status") == "ok"
    wanted = {**_FIELDS, **(_OF_FINISHED if finished else {"message": str})}
    if finished and record.get("variant") != PRETRAINED:
        wanted["test"] = dict
    for name, kind in wanted.items():
        if name not in record:
            return f"{name} is missing"
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            return f"{name} cannot be used"
    if record["status"] not in ("ok", "failed"):
        return "status must be ok or failed"
    if finished and not _is_number(record["val"].get("val_macro_auc")):
        return "val has no val_macro_auc"
    return _damage_of_test(record["test"]) if "test" in wanted else ""


def _damage_of_test(test: Record) -> str:
    """Returns what of a test's results cannot be used; nothing if all can."""
    if not isinstance(test.get("auc"), dict) or not isinstance(test.get("n_images"), int):
        return "test has no auc of the classes, or no n_images"
    measured = {"macro_auc": test.get("macro_auc"), "accuracy": test.get("accuracy")}
    measured |= {f"auc of {name}": value for name, value in test["auc"].items()}
    for name, value in measured.items():
        if not isinstance(value, dict) or not value.keys() >= {"value", "low", "high"}:
            return f"test: {name} must have value, low and high"
        if not all(end is None or _is_number(end) for end in value.values()):
            return f"test: {name} must be numbers"
    return "" if _is_number(test["accuracy"]["value"]) else "test: accuracy has no value"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def usable_results(folder: Path, plan: Study) -> list[Record]:
    """Returns the results of this study's variants and seeds, as they are defined now, on its present test images.

    Other seeds that were run before stay in the file: a call that names them has them again.

    Raises:
        InputError: A finished run has other settings than the study gives it now.
    """
    expected = {variant.name: run_of(plan, variant, 0) for variant in plan.variants}
    if plan.pretrain is not None:
        options = settings_of(compose(None, plan.base, plan.pretrain))
        expected[PRETRAINED] = Run(PRETRAINED, 0, plan.pretrain, options, None)
    usable = []
    for record in _read_results(folder / "results.jsonl"):
        run = expected.get(record["variant"])
        if run is None:
            continue
        theirs, mine = record["options"], json.loads(json.dumps(run.options))
        differing = sorted(
            key for key in {*theirs, *mine} - RUN_ONLY if theirs.get(key) != mine.get(key)
        )
        if differing and record["status"] == "ok":
            said = [
                f"{key}: {theirs.get(key, 'default')!r} there, {mine.get(key, 'default')!r} here"
                for key in differing[:4]
            ]
            raise InputError(
                f"{folder}: variant '{run.variant}' was run with other settings ({'; '.join(said)}): choose another out"
            )
        if not differing and record["status"] == "ok":
            _check_contents(folder, record, run)
        if not differing and record["test_images"] == run.test and record["seed"] in plan.seeds:
            usable.append(record)
    return usable


def _check_contents(folder: Path, record: Record, run: Run) -> None:
    """Raises InputError if a finished run's images come from a file that holds something else now."""
    now, then = contents_of(run), record.get("contents")
    then = then if isinstance(then, dict) else {}  # of earlier versions
    for name in now.keys() & then.keys():
        if now[name] != then[name]:
            raise InputError(
                f"{folder}: variant '{run.variant}' was run before {name} changed: choose another out"
            )


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


def rows_of(folder: Path, plan: Study, results: Sequence[Record]) -> list[Row]:
    """Returns one row per variant that was run, in the study's order."""
    ok: dict[str, dict[int, Record]] = {variant.name: {} for variant in plan.variants}
    failures: dict[str, list[str]] = {variant.name: [] for variant in plan.variants}
    for record in results:
        if record["variant"] in ok:
            if record["status"] == "ok":
                ok[record["variant"]][record["seed"]] = record
            else:
                failures[record["variant"]].append(f"seed {record['seed']}: {record['message']}")
    rows = []
    for variant in plan.variants:
        runs, failed = ok[variant.name], failures[variant.name]
        if runs or failed:
            others = ok.get(variant.reference or "", {})
            row = _row(folder, variant, runs, others if variant.reference != variant.name else {})
            rows.append({**row, "failed": "; ".join(failed)})
    return rows


def _row(
    folder: Path, variant: Variant, runs: Mapping[int, Record], reference: Mapping[int, Record]
) -> Row:
    """Returns the row of a variant; ``runs`` and those of its reference are by seed."""
    row: Row = {"variant": variant.name, **variant.values, "n_seeds": len(runs)}
    row["seeds"] = sorted(runs)
    row["changes"] = one_line(variant.changes)
    row["reference"] = variant.reference or ""
    if runs:
        row |= _estimates([runs[seed] for seed in sorted(runs)])
    if shared := sorted({*runs} & {*reference}):
        pairs = [(runs[seed], reference[seed]) for seed in shared]
        reason = next(filter(None, (_why_not_compared(*pair) for pair in pairs)), "")
        row |= {"not_compared": reason} if reason else _difference(folder, pairs)
    return row


def classes_of(record: Record) -> tuple[str, ...]:
    """Returns the classes that a tested run tells apart, sorted: AUCs of others answer another question."""
    return tuple(sorted(record["test"]["auc"]))


def _why_not_compared(run: Record, reference: Record) -> str:
    """Returns why the AUCs of two runs cannot be compared; nothing if they can."""
    mine, theirs = (classes_of(each) for each in (run, reference))
    if mine != theirs:
        return f"tells {', '.join(mine)} apart, the reference {', '.join(theirs)}"
    tests = [each["test_images"] for each in (run, reference)]
    for key in dict.fromkeys(key for test in tests for key in test):
        mine, theirs = (test.get(key, "a file's own") for test in tests)
        if mine != theirs:
            return f"was tested on other images: {key} {mine}, the reference {theirs}"
    counts = [each["test"]["n_images"] for each in (run, reference)]
    if counts[0] != counts[1]:
        return f"was tested on {counts[0]:,} images, the reference on {counts[1]:,}"
    if any(each["test"]["macro_auc"]["value"] is None for each in (run, reference)):
        return "has test images that determine no macro AUC"
    return ""


def _estimates(records: list[Record]) -> Row:
    """Returns the means over a variant's runs."""
    tests = [record["test"] for record in records]
    found: Row = {"interval": "over seeds" if len(records) > 1 else "over test images"}
    measured = {key: [test[key] for test in tests] for key in ("macro_auc", "accuracy")}
    measured |= {f"auc_{name}": [test["auc"][name] for test in tests] for name in tests[0]["auc"]}
    for key, estimates in measured.items():
        if (interval := _interval(estimates)) is not None:
            found |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    found["macro_auc_per_seed"] = [test["macro_auc"]["value"] for test in tests]
    found["val_macro_auc"] = float(np.mean([record["val"]["val_macro_auc"] for record in records]))
    found["parameters"] = records[0]["parameters"]
    for key in ("macs", "inference_images_per_second"):  # results of earlier versions have none
        if known := [record[key] for record in records if key in record]:
            found[key] = float(np.mean(known))
    found["seconds_per_run"] = float(np.mean([record["seconds"] for record in records]))
    return found


def _interval(estimates: Sequence[Mapping[str, float | None]]) -> Interval | None:
    """Returns the interval over seeds, that over test images for one seed, or None if nothing could be measured."""
    values = [estimate["value"] for estimate in estimates if estimate["value"] is not None]
    if not values:
        return None
    if len(estimates) > 1:
        return over_seeds(values, 0.0, 1.0)
    low, high = (np.nan if (end := estimates[0][key]) is None else end for key in ("low", "high"))
    return Interval(values[0], low, high)


def _difference(folder: Path, pairs: list[tuple[Record, Record]]) -> Row:
    """Returns the mean difference in macro AUC to the reference over the seeds that both have."""
    values = [
        run["test"]["macro_auc"]["value"] - other["test"]["macro_auc"]["value"]
        for run, other in pairs
    ]
    by_images = _difference_by_images(folder, *pairs[0]) if len(pairs) == 1 else None
    interval = by_images or over_seeds(values, -1.0, 1.0)
    found: Row = {
        "difference": interval.value,
        "difference_low": interval.low,
        "difference_high": interval.high,
    }
    if isinstance(interval, Difference):
        found["difference_p"] = interval.p
    return {**found, "n_pairs": len(pairs), "difference_per_seed": values}


def _difference_by_images(folder: Path, run: Record, other: Record) -> Difference | None:
    """Returns the difference of two runs paired by test image, if the answers of both are there."""
    files = [folder / "logits" / f"{r['variant']}-seed{r['seed']}.npz" for r in (run, other)]
    if not all(file.exists() for file in files):
        return None
    (labels, mine), (other_labels, theirs) = map(_answers_by_class, files)
    if mine.shape != theirs.shape or not np.array_equal(labels, other_labels):
        return None
    return paired_difference(labels, mine, theirs)


def _answers_by_class(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (N,) and logits (N, K) of a run, with its classes in the order of their names."""
    with np.load(file) as kept:
        order = np.argsort(kept["class_names"])
        return np.argsort(order)[kept["labels"]], kept["logits"][:, order]


def label_of(name: str) -> str:
    """A number as people write it: 10,000."""
    try:
        number = float(name)
    except ValueError:
        return name
    return f"{int(number):,}" if number.is_integer() else name
