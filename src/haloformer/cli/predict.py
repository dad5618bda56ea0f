"""``haloformer predict``."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from haloformer.cli.present import print_notes, print_table, print_warnings
from haloformer.cli.registry import Command
from haloformer.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from haloformer.prediction.rows import PredictionSummary

_FEW = 20  # rows that are printed, too, not only written
_NOT_PRINTED = {"confidence", "entropy", "ood_score", "ra", "dec"}


def present(summary: "PredictionSummary") -> int:
    """Prints counts, and the main columns if the rows are few; returns 1 if images were errors."""
    if 0 < summary.n_rows <= _FEW and summary.out.suffix == ".csv":
        _print_rows(summary.out)
    counts = ", ".join(f"{count} {name}" for name, count in summary.class_counts.items())
    ood = "" if summary.n_ood is None else f", {summary.n_ood} out of distribution"
    errors = f", {summary.n_errors} errors" if summary.n_errors else ""
    start = f"wrote {summary.n_rows} rows to {summary.out}{': ' if counts else ''}"
    print(f"{start}{counts}{ood}{errors}")
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


def _print_rows(path: Path) -> None:
    """Prints the table without empty columns and without those that few need."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [
        name for name in rows[0] if name not in _NOT_PRINTED and any(row[name] for row in rows)
    ]
    for row in rows:
        path_given, short = row["file"], Path(row["file"]).name
        for name in {"file", "error"} & row.keys():
            row[name] = row[name].replace(path_given, short)
    cells = [[_rounded(row[name]) for name in columns] for row in rows]
    print_table(str(path), columns, cells)


def _rounded(cell: str) -> str:
    """Returns a cell with numbers of many digits rounded to four decimals."""
    try:
        return f"{float(cell):.4f}" if "." in cell or "e" in cell else cell
    except ValueError:
        return cell


COMMAND = Command(
    "classify image files with a trained network",
    positional=("run", "images"),
    present=present,
    examples=(
        "haloformer predict runs/x cutouts/ --out predictions.csv",
        "haloformer predict runs/x a.fits b.npy test.h5 --out predictions.parquet",
        "haloformer predict runs/x mosaic.fits --catalog positions.csv --size 7.5 "
        "--out predictions.fits",
        "haloformer predict runs/x survey/ --workers 8 --out predictions.parquet",
    ),
)
