"""``haloformer evaluate``."""

import math
from collections.abc import Mapping
from typing import Any

from haloformer.cli.present import print_table, print_warnings, say, with_interval
from haloformer.cli.registry import Command


def present(result: Mapping[str, Any]) -> None:
    """Prints AUCs per class, errors of the regression, warnings, and where the report is."""
    if result["class_names"]:
        _print_classification(result)
    if result["regression"]:
        _print_regression(result["regression"])
    if result["left_out"]:
        counts = ", ".join(f"{count} of class {name}" for name, count in result["left_out"].items())
        say(f"left out, as the model has no answer for them: {counts}")
    print_warnings(result["warnings"])
    say(f"report: {result['report']}")


def _print_classification(result: Mapping[str, Any]) -> None:
    n = result["n_images"]
    rows = [
        [name, str(row["n"]), *_with_method(row["auc"])]
        for name, row in result["per_class"].items()
    ]
    rows.append(["macro", str(n), *_with_method(result["macro_auc"])])
    columns = ["class", "images", "AUC", "95 % interval"]
    print_table(f"one-vs-rest AUC on {n} images", columns, rows)
    if any("*" in row[-1] for row in rows):
        say("* exact binomial interval: DeLong's has no width at an AUC of 0 or 1")
    value, interval = with_interval(result["accuracy"])
    say(f"accuracy {value} ({interval})")


def _with_method(auc: Mapping[str, float]) -> list[str]:
    from haloformer.evaluation.metrics import has_exact_interval

    value, interval = with_interval(auc)
    return [value, interval + ("*" if has_exact_interval(auc["value"]) else "")]


def _print_regression(targets: Mapping[str, Any]) -> None:
    rows = [[name, str(row["n"]), *with_interval(row["mae"])] for name, row in targets.items()]
    columns = ["target", "images", "MAE", "95 % interval"]
    print_table("mean absolute error in dex", columns, rows)
    for name, row in targets.items():
        if math.isfinite(row["coverage"]["value"]):
            value, interval = with_interval(row["coverage"])
            nominal = f"nominal {row['nominal_coverage']:g}"
            say(f"intervals of {name} contain {value} ({interval}) of the true values, {nominal}")


COMMAND = Command(
    "test a trained network: AUCs, figures, HTML report",
    positional=("run",),
    present=present,
    examples=(
        "haloformer evaluate runs/x",
        "haloformer evaluate runs/x --data test.h5",
        "haloformer evaluate runs/x --data model_ii --n 15000",
    ),
)
