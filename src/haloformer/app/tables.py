"""Tables of models: those that come with the package, networks with published AUCs, a leaderboard."""

import csv
from pathlib import Path
from typing import Any

from haloformer.artefact.read import artefact_folder, shipped_models
from haloformer.errors import InputError, reason_of
from haloformer.evaluation.published import best_published
from haloformer.io.strict_json import read_json
from haloformer.reporting.interval import Interval, format_interval, format_value
from haloformer.simulation import list_surveys

Table = tuple[list[str], list[list[str]]]  # header and rows


def shipped_table() -> Table:
    """Returns the trained models of the package with the AUCs that they were measured to have."""
    rows = []
    for name in shipped_models():
        artefact = read_json(artefact_folder(Path(name)) / "artefact.json")
        measured: dict[str, Any] = artefact.get("measured") or {}
        aucs = [
            measured.get("macro_auc"),
            *((measured.get("auc") or {}).get(c) for c in ("axion", "cdm", "no_sub")),
        ]
        cells = ["–" if auc is None else format_interval(Interval(**auc)) for auc in aucs]
        tested = f"{measured['n_images']:,}, {measured['date']}" if measured else "–"
        rows.append(
            [name, artefact["model"]["name"], str(artefact.get("survey", "–")), *cells, tested]
        )
    return [
        "model",
        "network",
        "survey",
        "macro AUC (95 %)",
        "axion",
        "cdm",
        "no_sub",
        "test images, date",
    ], rows


def published_table() -> Table:
    """Returns the networks for lens cutouts, with the best published AUC of each family."""
    from haloformer.models.table import model_table

    rows = []
    for model in model_table():
        if model["size"] not in ("nano", "tiny"):
            continue
        best = [best_published(model["family"], survey) for survey in list_surveys(composed=False)]
        cells = [f"{format_value(b.macro)} ({b.source})" if b else "–" for b in best]
        rows.append([model["name"], model["family"], f"{model['parameters'] / 1e6:.2f} M", *cells])
    return [
        "model",
        "family",
        "parameters",
        *(f"published, {survey}" for survey in list_surveys(composed=False)),
    ], rows


_BOARD = ("survey", "rank", "model", "family", "macro_auc", "macro_auc_low", "macro_auc_high", "published_macro_auc",
          "accuracy", "parameters")  # fmt: skip
_MAX_BOARD = 5000  # rows


def leaderboard_table(path: str | Path) -> Table:
    """Reads the ``leaderboard.csv`` of ``haloformer benchmark``.

    Raises:
        InputError: It cannot be read, or is no leaderboard.
    """
    wrong = f"{path}: is not the leaderboard.csv that haloformer benchmark writes"
    rows: list[list[str]] = []
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in _BOARD if name not in (reader.fieldnames or ())]:
                raise InputError(f"{wrong}: it has no column '{missing[0]}'")
            for row in reader:
                if len(rows) == _MAX_BOARD:
                    raise InputError(f"{path}: more than {_MAX_BOARD} rows")
                interval = Interval(
                    *(float(row[f"macro_auc{end}"]) for end in ("", "_low", "_high"))
                )
                published = row["published_macro_auc"]
                rows.append([
                    row["survey"], row["rank"], row["model"], row["family"], format_interval(interval),
                    format_value(float(published)) if published else "–", format_value(float(row["accuracy"]), 3),
                    f"{float(row['parameters']) / 1e6:.2f} M",
                ])  # fmt: skip
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from error
    except (UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{wrong}: {error}") from error
    return [
        "survey",
        "rank",
        "model",
        "family",
        "macro AUC (95 %)",
        "published",
        "accuracy",
        "parameters",
    ], rows
