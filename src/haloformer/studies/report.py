"""The report of a study."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.io.writing import write_text
from haloformer.reporting import interval, style
from haloformer.reporting.interval import Interval
from haloformer.studies.figures import bars, curves
from haloformer.studies.plan import PRETRAINED, Study
from haloformer.studies.results import StudyResult, label_of, one_line, rows_of, usable_results
from haloformer.training.config import compose
from haloformer.training.survey_feed import STREAM_EPOCH

if TYPE_CHECKING:
    pass


_NOTHING_SELECTED = (
    "nothing was selected on these images: each run keeps the epoch that was best on its validation images, and all runs of "
    "the study are shown"
)


def report(folder: Path, plan: Study, command: str) -> StudyResult:
    """Writes table.md, table.csv and the figure from results.jsonl."""
    results = usable_results(folder, plan)
    rows = rows_of(folder, plan, results)
    done = [record for record in results if record["status"] == "ok"]
    failed = [record for record in results if record["status"] != "ok"]
    there = {(record["variant"], record["seed"]) for record in results}
    missing = [
        (v.name, seed) for v in plan.variants for seed in plan.seeds if (v.name, seed) not in there
    ]
    measured = [row for row in rows if "macro_auc" in row]
    if not measured:
        if failed:
            raise InputError(
                f"{folder}: no run succeeded; the first message: {failed[0]['message']}"
            )
        raise InputError(f"{folder}: no run of this study is finished yet")
    write_text(folder / "table.md", _markdown(plan, command, rows, results, len(missing)))
    write_csv(folder / "table.csv", rows)
    drawn = curves(plan, measured) if plan.figure["kind"] == "curve" else bars(plan, measured)
    style.save(drawn, folder / "figure")
    return StudyResult(folder, rows, len(done), len(failed), len(missing))


def _markdown(
    plan: Study,
    command: str,
    rows: list[dict[str, Any]],
    results: list[dict[str, Any]],
    n_missing: int,
) -> str:
    """Returns the page with the table; all that one must know to read the numbers stands above them."""
    lines = [
        f"# {plan.title}",
        "",
        *([f"*{plan.question}*", ""] if plan.question else []),
        "| | |",
        "|---|---|",
    ]
    lines += [
        f"| {_cell(name)} | {_cell(text)} |"
        for name, text in _head(plan, command, rows, results, n_missing)
    ]
    if len(plan.axes) == 2:
        lines += ["", "## Mean test macro AUC", "", *_pivot(plan, rows)]
    names = list(
        dict.fromkeys(
            key[4:]
            for row in rows
            for key in row
            if re.fullmatch(r"auc_.*(?<!_low)(?<!_high)", key)
        )
    )
    compared = any("difference" in row for row in rows)
    columns = ["variant", "what it changes", "seeds", "test macro AUC (95 %)"]
    columns += ["difference to the reference (95 %)"] if compared else []
    columns += [
        "accuracy",
        *(f"AUC {name}" for name in names),
        "validation macro AUC",
        "parameters",
        "s per run",
    ]
    lines += [
        "",
        "## All runs",
        "",
        f"| {' | '.join(map(_cell, columns))} |",
        f"|{'---|' * len(columns)}",
    ]
    for row in rows:
        cells = [
            f"**{row['variant']}**" if row["variant"] == row["reference"] else row["variant"],
            row["changes"] or "–",
        ]
        cells.append(str(row["n_seeds"]))
        if "macro_auc" in row:
            cells.append(interval.format_interval(interval_cell(row, "macro_auc")))
            cells += [signed_cell(row)] if compared else []
            cells.append(f"{row['accuracy']:.4f}")
            cells += [interval.format_value(row.get(f"auc_{name}", float("nan"))) for name in names]
            cells += [
                interval.format_value(row["val_macro_auc"]),
                f"{row['parameters'] / 1e6:.2f} M",
            ]
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
    results = usable_results(folder, plan)
    there = {(record["variant"], record["seed"]) for record in results}
    n_missing = sum(
        (variant.name, seed) not in there for variant in plan.variants for seed in plan.seeds
    )
    return _head(plan, command, rows_of(folder, plan, results), results, n_missing)


def _head(
    plan: Study,
    command: str,
    rows: list[dict[str, Any]],
    results: list[dict[str, Any]],
    n_missing: int,
) -> Iterator[tuple[str, str]]:
    """Yields what the table's head says, as name and text."""
    done = [record for record in results if record["status"] == "ok"]
    tested = [record for record in done if "test" in record]
    dates = sorted(record["date"] for record in done)
    yield "command", f"`{command}`"
    yield "date", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]} (UTC)"
    yield "hardware", "; ".join(dict.fromkeys(record["hardware"] for record in done))
    yield "code version", "; ".join(dict.fromkeys(record["code_version"] for record in done))
    yield "base of all runs", one_line(plan.base) or "the defaults"
    training = list(dict.fromkeys(_training_words(record["options"]) for record in tested))
    yield (
        "training images",
        "; ".join(training) if len(training) < 4 else f"{training[0]} … {training[-1]}",
    )
    pretraining = [record for record in done if record["variant"] == PRETRAINED]
    if pretraining:
        aucs = ", ".join(f"{record['val']['val_macro_auc']:.4f}" for record in pretraining)
        yield "pretraining", f"{one_line(plan.pretrain or {})}; validation macro AUC {aucs}"
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
        f"| {by} | {' | '.join(_cell(label_of(value)) for value in plan.axes[x])} |",
        f"|{'---|' * (len(plan.axes[x]) + 1)}",
    ]
    for name in plan.axes[by]:
        cells = [found.get((name, value), {}) for value in plan.axes[x]]
        if any(cells):
            values = [
                interval.format_value(cell["macro_auc"])
                if "macro_auc" in cell
                else "failed"
                if cell
                else "–"
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
        lists = {
            key: " ".join(map(str, value)) for key, value in row.items() if isinstance(value, list)
        }
        writer.writerow({**row, **lists})
    write_text(path, text.getvalue())


def interval_cell(row: Mapping[str, Any], key: str) -> Interval:
    """Returns the interval of a row's measure."""
    return Interval(row[key], row[f"{key}_low"], row[f"{key}_high"])


def signed_cell(row: Mapping[str, Any]) -> str:
    """Returns a row's difference to its reference, with its interval."""
    if row["variant"] == row["reference"]:
        return "reference"
    if "difference" not in row:
        return "–"
    bounds = (
        f" ({row['difference_low']:+.4f} … {row['difference_high']:+.4f})"
        if np.isfinite(row["difference_low"])
        else ""
    )
    p = row.get("difference_p", float("nan"))
    said = "" if not np.isfinite(p) else ", p < 0.0001" if p < 1e-4 else f", p = {p:.2g}"
    return f"{row['difference']:+.4f}{bounds}".replace("-", "−") + said


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
