"""``haloformer explain``."""

from collections.abc import Mapping, Sequence
from typing import Any

from haloformer.cli.present import print_table, print_warnings, say
from haloformer.cli.registry import Command


def present(result: Mapping[str, Any]) -> int:
    """Prints how well each map finds the substructure, warnings, and where the page is; returns 1 if images were errors."""
    _print_scores([row for row in result["scores"] if row["weights"] == "trained"])
    if result["sanity"]:
        rows = [[_map_name(row), f"{row['correlation']:.2f}"] for row in result["sanity"]]
        print_table("rank correlation with random weights", ["map", "correlation"], rows)
    for what, why in result["left_out"].items():
        say(f"left out: {what}: {why}")
    print_warnings(result["warnings"])
    n, wrong = len(result["images"]), result["n_errors"]
    errors = f", {wrong} error{'s' * (wrong != 1)}" if wrong else ""
    say(f"explained {n} image{'s' * (n != 1)}{errors}: {result['page']}")
    return 1 if result["n_errors"] else 0


def _print_scores(scores: Sequence[Mapping[str, Any]]) -> None:
    # With a single class there is no row for all.
    scores = [row for row in scores if row["class"] == "all"] or scores
    if not scores:
        return
    rows = [
        [
            _map_name(row),
            row["class"],
            str(row["n"]),
            f"{row['gain']:.2f}",
            f"{row['gain_low']:.2f} – {row['gain_high']:.2f}",
            f"{row['auc']:.3f}",
            f"{row['auc_low']:.3f} – {row['auc_high']:.3f}",
        ]
        for row in scores
    ]
    columns = ["map", "class", "images", "gain", "95 % interval", "pixel AUC", "95 % interval"]
    title = "where substructure changes the image: gain 1, AUC 0.5 by chance"
    print_table(title, columns, rows)


def _map_name(row: Mapping[str, str]) -> str:
    return f"{row['method']} {row['layer']}".strip()


COMMAND = Command(
    "explain predictions: attention, gradients, substructure score",
    positional=("run", "images"),
    present=present,
    examples=(
        "haloformer explain runs/x cutouts/*.fits --out why",
        "haloformer explain model_i --survey model_i --n 64 --out why",
        "haloformer explain runs/x test.h5 --limit 6 --methods attention,rollout --out why",
    ),
)
