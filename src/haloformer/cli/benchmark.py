"""``haloformer benchmark``."""

from typing import TYPE_CHECKING

from haloformer.cli.present import macro_auc, print_table, say
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.studies.results import StudyResult


def present(result: "StudyResult") -> int:
    """Prints the leaderboard, and where it is; returns 1 if some of its runs failed."""
    from haloformer.studies.leaderboard import board

    entries = board(result.rows)
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        rows = []
        for entry in (entry for entry in entries if entry["survey"] == survey):
            published = entry["published_macro_auc"]
            shown = f"{published:.4f}" if published else "–"
            rows.append([str(entry["rank"]), entry["model"], *macro_auc(entry), shown])
        print_table(
            survey, ["", "model", "macro AUC", "95 % interval", "published"], rows, limit=60
        )
    if result.n_failed:
        say(f"{result.n_failed} runs failed")
    say(f"leaderboard: {result.out / 'leaderboard.md'}, {result.out / 'leaderboard.html'}")
    return 1 if result.n_failed else 0


COMMAND = Command(
    "train many networks alike and rank them, beside published AUCs",
    experiment=True,
    dry_run=True,
    present=present,
    examples=(
        "haloformer benchmark --models '*_nano' --surveys model_ii,model_iii --seeds 3",
        "haloformer benchmark --models resnet18,coatnet_lens_nano --surveys model_i --budget 240000 "
        "--physics residual",
        "haloformer benchmark --surveys model_i --train_data Model_I --test_data Model_I_test",
    ),
)
