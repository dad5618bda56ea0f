"""``haloformer predict``."""

import csv
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from haloformer.cli.layout import filled, screen_width
from haloformer.cli.present import print_notes, print_table, print_warnings, rows_in_words, say
from haloformer.cli.registry import Command
from haloformer.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from haloformer.prediction.rows import PredictionSummary

_FEW = 20  # rows that are printed, too, not only written


def present(summary: "PredictionSummary") -> int:
    """Prints counts, and the main columns if the rows are few; returns 1 if images were errors."""
    if summary.n_rows and summary.out.suffix == ".csv":
        _print_rows(summary.out, summary.n_rows)
    counts = ", ".join(f"{count} {name}" for name, count in summary.class_counts.items())
    ood = "" if summary.n_ood is None else f", {summary.n_ood} out of distribution"
    errors = f", {summary.n_errors} errors" if summary.n_errors else ""
    start = f"wrote {rows_in_words(summary.n_rows)} to {summary.out}{': ' if counts else ''}"
    say(f"{start}{counts}{ood}{errors}")
    print_notes(summary.notes)
    if summary.n_ood:
        left = (
            "their classes and estimates mean nothing"
            if summary.raw
            else f"they have the class {UNKNOWN} and no estimates"
            if summary.class_counts
            else "they have no estimates"
        )
        print_warnings(
            [
                f"{summary.n_ood} of {summary.n_rows} images are unlike those that the model was "
                f"trained on: {left}; the column ood_reason says why"
            ]
        )
    return 1 if summary.n_errors else 0


def _print_rows(path: Path, n: int) -> None:
    """Prints file, class, its probability and estimates of the first rows; below, what is marked."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), _FEW))
    names = list(rows[0])
    reasons: dict[str, str] = {}
    called = short_names([row["file"] for row in rows])
    columns: dict[str, list[str]] = {"file": [_place(row, called) for row in rows]}
    if any(row.get("label") for row in rows):
        columns["true"] = [row["label"] or "–" for row in rows]
    if "class" in names:
        columns["class"] = [row["class"] or "–" for row in rows]
        columns["p"] = [_rounded(row.get(f"p_{row['class']}") or "–") for row in rows]
    if any(marks := [_mark(row, reasons) for row in rows]):
        columns["mark"] = marks
    for name in (name[: -len("_sigma")] for name in names if name.endswith("_sigma")):
        if any(row[name] for row in rows):
            columns[name] = [_estimate(row[name], row[f"{name}_sigma"]) for row in rows]
    cells = list(zip(*columns.values()))
    print_table(str(path), list(columns), cells, right=("p",))
    if n > len(rows):
        say(f"… and {n - len(rows):,} more")
    width = screen_width()
    for reason, mark in reasons.items():
        print(filled(f"{mark}  {reason}", width, hanging=" " * (len(mark) + 2)))


def short_names(files: Iterable[str]) -> dict[str, str]:
    """Returns the names of files without their folders, or with as many of these as tell two of one name apart."""
    parts = {file: Path(file).parts for file in files}
    for depth in range(1, max(map(len, parts.values())) + 1):
        names = {file: "/".join(each[-depth:]) for file, each in parts.items()}
        if len(set(names.values())) == len(set(parts.values())):
            break
    return names


def _place(row: Mapping[str, str], called: Mapping[str, str]) -> str:
    """Returns the short name of a file, and which of its images it is: ``test.h5[3]``."""
    name, index = called[row["file"]], row.get("index")
    return f"{name}[{index}]" if index else name


def _mark(row: Mapping[str, str], reasons: dict[str, str]) -> str:
    """Returns the mark of a row that is an error or out of distribution; each reason has one."""
    reason = (row.get("error") or "").removeprefix(f"{row['file']}: ")
    reason = reason.removeprefix(f"image {row.get('index')}: ")  # of the others as well, perhaps
    reason = reason.replace(row["file"], Path(row["file"]).name)
    if not reason and row.get("ood") == "True":
        reason = f"out of distribution: {row.get('ood_reason') or 'unlike the training images'}"
    return reasons.setdefault(reason, f"({len(reasons) + 1})") if reason else ""


def _estimate(value: str, sigma: str) -> str:
    if not value:
        return "–"
    return _rounded(value) + (f" ± {_rounded(sigma)}" if sigma else "")


def _rounded(cell: str) -> str:
    """Returns a cell with numbers of many digits rounded to three decimals."""
    try:
        return f"{float(cell):.3f}" if "." in cell or "e" in cell else cell
    except ValueError:
        return cell


COMMAND = Command(
    "classify image files with a trained network",
    positional=("run", "images"),
    present=present,
    table=lambda options: True,
    examples=(
        "haloformer predict runs/x cutouts/ --out predictions.csv",
        "haloformer predict runs/x a.fits b.npy test.h5 --out predictions.parquet",
        "haloformer predict runs/x mosaic.fits --catalog positions.csv --size 7.5 "
        "--out predictions.fits",
        "haloformer predict runs/x survey/ --workers 8 --out predictions.parquet",
        "haloformer predict runs/x lens.fits --psf psf.fits --noise_map noise.fits --out predictions.csv",
    ),
)
