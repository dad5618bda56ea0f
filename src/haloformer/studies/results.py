"""The results of a study: the file that holds them, and means and intervals over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from haloformer.errors import InputError
from haloformer.evaluation.metrics import paired_difference
from haloformer.files import check_regular
from haloformer.io.strict_json import parse_json, to_json_line
from haloformer.io.writing import write_text
from haloformer.reporting.interval import CONFIDENCE, Difference, Interval
from haloformer.studies.plan import PRETRAINED, Study, Variant
from haloformer.studies.runs import Run, run_of
from haloformer.studies.settings import one_line, settings_of
from haloformer.training.config import RUN_ONLY, compose

Record = dict[str, Any]
"""One line of results.jsonl: a run's settings, its test and its costs."""

_FIELDS = {"variant", "seed", "status", "options"}

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
    try:
        check_regular(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [parse_json(line, path, nan=math.nan) for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for record in found:
        if not isinstance(record, dict) or not record.keys() >= _FIELDS:
            raise InputError(f"{path}: each line must hold {', '.join(sorted(_FIELDS))}")
    return found


def usable_results(folder: Path, plan: Study) -> list[Record]:
    """Returns the results of this study's variants, as they are defined now, on its present test images.

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
        if not differing and record["test_images"] == run.test:
            usable.append(record)
    return usable


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
        row |= _difference(folder, [(runs[seed], reference[seed]) for seed in shared])
    return row


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
    if any(run["test_images"] != other["test_images"] for run, other in pairs):
        return {}  # other images: there is no pair
    values = [
        run["test"]["macro_auc"]["value"] - other["test"]["macro_auc"]["value"]
        for run, other in pairs
    ]
    by_images = _difference_by_images(folder, *pairs[0]) if len(pairs) == 1 else None
    interval = by_images or over_seeds(values)
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
    with np.load(files[0]) as mine, np.load(files[1]) as theirs:
        if mine["logits"].shape != theirs["logits"].shape:
            return None
        return paired_difference(mine["labels"], mine["logits"], theirs["logits"])


def label_of(name: str) -> str:
    """A number as people write it: 10,000."""
    try:
        number = float(name)
    except ValueError:
        return name
    return f"{int(number):,}" if number.is_integer() else name
