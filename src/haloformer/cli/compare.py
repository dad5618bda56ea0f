"""``haloformer compare``."""

import math
from collections.abc import Mapping
from typing import Any

from haloformer.cli.present import print_table, print_warnings, say, with_interval
from haloformer.cli.registry import Command


def present(result: Mapping[str, Any]) -> None:
    """Prints macro AUCs, their differences to the first model, warnings, and where the report is."""
    from haloformer.reporting.interval import p_in_words

    rows = [[model["name"], *with_interval(model["macro_auc"])] for model in result["models"]]
    columns = ["model", "macro AUC", "95 % interval"]
    print_table(f"macro AUC on {result['n_images']} images", columns, rows)
    rows = []
    for model in result["differences"]:
        for measure, title in result["measures"].items():
            difference = model["differences"][measure]
            low, high = difference["low"], difference["high"]
            rows.append(
                [
                    model["name"],
                    title,
                    f"{difference['value']:+.4f}",
                    f"{low:+.4f} – {high:+.4f}" if math.isfinite(low) else "–",
                    p_in_words(difference["p_holm"]),
                ]
            )
    columns = ["model", "measure", "difference", "95 % interval", "p, corrected"]
    print_table(f"differences to {result['reference']}, paired by image", columns, rows)
    print_warnings(result["warnings"])
    say(f"report: {result['report']}")


COMMAND = Command(
    "test several networks on the same images: paired differences, p-values, HTML report",
    positional=("runs",),
    present=present,
    examples=(
        "haloformer compare runs/x runs/y model_i --data model_i --n 6000",
        "haloformer compare runs/x/evaluation/test runs/y/evaluation/test --out x-vs-y",
    ),
)
