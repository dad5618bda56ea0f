"""The report of a study."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.io.writing import write_text
from haloformer.reporting import interval, style
from haloformer.reporting.interval import Interval
from haloformer.studies.figures import bars, curves
from haloformer.studies.plan import PRETRAINED, Study
from haloformer.studies.results import (
    Record,
    Row,
    StudyResult,
    classes_of,
    label_of,
    rows_of,
    usable_results,
)
from haloformer.studies.settings import one_line
from haloformer.training.config import compose
from haloformer.training.survey_feed import STREAM_EPOCH

_NOTHING_SELECTED = (
    "nothing was selected on these images: each run keeps the epoch that was best on its validation images, and all runs of "
    "the study are shown"
)


def report(folder: Path, plan: Study, command: str) -> StudyResult:
    """Writes table.md, table.csv and the figure from results.jsonl."""
    results = usable_results(folder, plan)
    rows = rows_of(folder, plan, results)
    n_ok = sum(record["status"] == "ok" for record in results)
    failed = [record for record in results if record["status"] != "ok"]
    measured = [row for row in rows if "macro_auc" in row]
    if not measured:
        if failed:
            raise InputError(
                f"{folder}: no run succeeded; the first message: {failed[0]['message']}"
            )
        raise InputError(f"{folder}: no run of this study is finished yet")
    write_text(folder / "table.md", _markdown(plan, command, rows, results))
    write_csv(folder / "table.csv", rows)
    drawn = curves(plan, measured) if plan.figure.kind == "curve" else bars(plan, measured)
    style.save(drawn, folder / "figure")
    return StudyResult(folder, rows, n_ok, len(failed), _n_missing(plan, results))


def _n_missing(plan: Study, results: Sequence[Record]) -> int:
    """Returns how many runs of the study are not there yet."""
    there = {(record["variant"], record["seed"]) for record in results}
    return sum(
        (variant.name, seed) not in there for variant in plan.variants for seed in plan.seeds
    )


def _markdown(plan: Study, command: str, rows: list[Row], results: list[Record]) -> str:
    """Returns the page with the table; all that one must know to read the numbers stands above them."""
    lines = [f"# {plan.title}", ""]
    lines += [f"*{plan.question}*", ""] if plan.question else []
    lines += ["| | |", "|---|---|"]
    lines += [_line([name, text]) for name, text in _protocol(plan, command, rows, results)]
    if len(plan.axes) == 2 and plan.figure.x and plan.figure.by:
        lines += ["", "## Mean test macro AUC", ""]
        lines += _pivot(plan, rows, plan.figure.x, plan.figure.by)
    lines += ["", "## All runs", "", *_table_of_all(rows)]
    lines += ["", f"![{plan.title}](figure.png)"]
    if any(row["failed"] for row in rows):
        lines += ["", "## Failed runs", ""]
        lines += [f"- **{row['variant']}**, {row['failed']}" for row in rows if row["failed"]]
    return "\n".join(lines) + "\n"


def _table_of_all(rows: list[Row]) -> list[str]:
    """Returns the table of all variants, line by line."""
    aucs = [key for row in rows for key in row if key.startswith("auc_")]
    names = [key[4:] for key in dict.fromkeys(aucs) if not key.endswith(("_low", "_high"))]
    compared = any({"difference", "not_compared"} & row.keys() for row in rows)
    columns = ["variant", "what it changes", "seeds", "test macro AUC (95 %)"]
    columns += ["difference to the reference (95 %)"] if compared else []
    columns += ["accuracy", *(f"AUC {name}" for name in names), "validation macro AUC"]
    columns += ["parameters", "s per run"]
    lines = [_line(columns), f"|{'---|' * len(columns)}"]
    for row in rows:
        is_reference = row["variant"] == row["reference"]
        cells = [f"**{row['variant']}**" if is_reference else row["variant"]]
        cells += [row["changes"] or "–", str(row["n_seeds"])]
        cells += (
            _measured_cells(row, names, compared)
            if "macro_auc" in row
            else ["failed"] + ["–"] * (len(columns) - 4)
        )
        lines.append(_line(cells))
    return lines


def _measured_cells(row: Row, names: Sequence[str], compared: bool) -> list[str]:
    """Returns what was measured of a variant, as cells of the table."""
    return [
        interval.format_interval(interval_cell(row, "macro_auc")),
        *([signed_cell(row)] if compared else []),
        f"{row['accuracy']:.4f}",
        *(interval.format_value(row.get(f"auc_{name}", float("nan"))) for name in names),
        interval.format_value(row["val_macro_auc"]),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['seconds_per_run']:.0f}",
    ]


def protocol(folder: Path, plan: Study, command: str) -> Iterator[tuple[str, str]]:
    """Yields all that one must know to read the numbers of a study in ``folder``, as name and text."""
    results = usable_results(folder, plan)
    return _protocol(plan, command, rows_of(folder, plan, results), results)


def _protocol(
    plan: Study, command: str, rows: list[Row], results: list[Record]
) -> Iterator[tuple[str, str]]:
    done = [record for record in results if record["status"] == "ok"]
    tested = [record for record in done if "test" in record]
    dates = sorted(record["date"] for record in done)
    yield "command", f"`{command}`"
    yield "date", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]} (UTC)"
    for name, key in (("hardware", "hardware"), ("code version", "code_version")):
        yield name, "; ".join(dict.fromkeys(record[key] for record in done))
    yield "base of all runs", one_line(plan.base) or "the defaults"
    yield "training images", _all_training_words(tested)
    if pretraining := _pretraining_words(plan, done):
        yield "pretraining", pretraining
    yield "test images", f"{_test_words(tested)}; {_NOTHING_SELECTED}"
    seeds = ", ".join(str(seed) for seed in sorted({record["seed"] for record in tested}))
    yield (
        "seeds",
        f"{seeds}: each draws other initial weights, another order, and, of a survey, other training images",
    )
    yield "intervals", _interval_words(rows)
    if classes := _classes_words(tested):
        yield "classes", classes
    if missing := _missing_words(tested):
        yield "without test images", missing
    if reasons := [f"{row['variant']} ({row['not_compared']})" for row in rows if row.get("not_compared")]:  # fmt: skip
        yield "not compared", "; ".join(reasons)
    if plan.notes:
        yield "notes", plan.notes
    if n_missing := _n_missing(plan, results):
        yield "not there yet", f"{n_missing} runs"


def _pretraining_words(plan: Study, done: Sequence[Record]) -> str:
    """Returns the settings and the validation of the pretrainings; nothing if there are none."""
    aucs = [
        f"{record['val']['val_macro_auc']:.4f}"
        for record in done
        if record["variant"] == PRETRAINED
    ]
    settings = one_line(plan.pretrain or {})
    return f"{settings}; validation macro AUC {', '.join(aucs)}" if aucs else ""


def _all_training_words(tested: Sequence[Record]) -> str:
    """Returns the training images of all runs in words; of many kinds the first and the last."""
    said = list(dict.fromkeys(_training_words(record["options"]) for record in tested))
    return "; ".join(said) if len(said) < 4 else f"{said[0]} … {said[-1]}"


def _training_words(options: Mapping[str, object]) -> str:
    experiment = compose(None, options)
    data, epochs = experiment.data, experiment.schedule.epochs
    few = f" ({data.labels_per_class:,} per class)" if data.labels_per_class else ""
    shown = f"; {data.epoch_size * epochs:,} shown" if data.epoch_size else f", {epochs} times"
    if Path(data.source).suffix.lower() in DATASET_SUFFIXES:
        return f"the file {data.source}{few}{shown}"
    if data.n_images:
        number = "some" if few else f"{data.n_images:,}"
        return f"{number} of {data.source}{few}{shown}"
    return f"{(data.epoch_size or STREAM_EPOCH) * epochs:,} of {data.source}, each shown once"


def _test_words(tested: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for record in tested:
        images = record["test_images"]
        of = f"noise {images['noise']}, seed {images['seed']}" if "seed" in images else "a file"
        counts[f"{record['test']['n_images']:,} of {images['data']} ({of})"] = 0
    return "; ".join(counts) + (", the same for all runs" if len(counts) == 1 else "")


def _classes_words(tested: Sequence[Record]) -> str:
    """Returns which runs tell which classes apart, where not all tell the same; otherwise nothing."""
    of: dict[tuple[str, ...], dict[str, None]] = {}
    for record in tested:
        of.setdefault(classes_of(record), {})[record["variant"]] = None
    if len(of) < 2:
        return ""
    told = [f"{', '.join(names)}: {', '.join(variants)}" for names, variants in of.items()]
    return f"{'; '.join(told)}. Their AUCs answer different questions: one that is larger is not better"


def _missing_words(tested: Sequence[Record]) -> str:
    """Returns which classes have no AUC, as no test image is of them; nothing if all have one."""
    aucs = [item for record in tested for item in record["test"]["auc"].items()]
    names = dict.fromkeys(name for name, auc in aucs if auc["value"] is None)
    return f"{', '.join(names)}: without an AUC, and left out of the macro AUC" if names else ""


def _interval_words(rows: Sequence[Row]) -> str:
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


def _pivot(plan: Study, rows: Sequence[Row], x: str, by: str) -> list[str]:
    """Returns the table with one axis as columns and the other as lines."""
    found = {(row[by], row[x]): row for row in rows}
    names = plan.axes[x]
    lines = [_line([by, *map(label_of, names)]), f"|{'---|' * (len(names) + 1)}"]
    for series in plan.axes[by]:
        cells = [found.get((series, value), {}) for value in names]
        if any(cells):
            lines.append(_line([series, *map(_mean_cell, cells)]))
    return lines


def _mean_cell(row: Row) -> str:
    if "macro_auc" in row:
        return interval.format_value(row["macro_auc"])
    return "failed" if row else "–"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
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


def interval_cell(row: Row, key: str) -> Interval:
    """Returns the interval of a row's measure."""
    return Interval(row[key], row[f"{key}_low"], row[f"{key}_high"])


def signed_cell(row: Row) -> str:
    """Returns a row's difference to its reference, with its interval."""
    if row["variant"] == row["reference"]:
        return "reference"
    if "difference" not in row:
        return "not compared" if row.get("not_compared") else "–"
    bounds = (
        f" ({row['difference_low']:+.4f} … {row['difference_high']:+.4f})"
        if np.isfinite(row["difference_low"])
        else ""
    )
    p = row.get("difference_p", float("nan"))
    said = "" if not np.isfinite(p) else ", p < 0.0001" if p < 1e-4 else f", p = {p:.2g}"
    return f"{row['difference']:+.4f}{bounds}".replace("-", "−") + said


def _line(cells: Sequence[str]) -> str:
    """Returns a line of a Markdown table."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
