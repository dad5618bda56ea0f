"""``haloformer study``."""

from typing import TYPE_CHECKING

from haloformer.cli.present import macro_auc, print_table, say
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.studies.results import StudyResult


def present(result: "StudyResult") -> int:
    """Prints a study's table, and where it is; returns 1 if some of its runs failed."""
    rows = []
    for row in result.rows:
        difference = f"{row['difference']:+.4f}" if "difference" in row else "–"
        rows.append([row["variant"], str(row["n_seeds"]), *macro_auc(row), difference])
    columns = ["variant", "seeds", "macro AUC", "95 % interval", "difference"]
    print_table("test macro AUC", columns, rows, limit=60)
    for row in result.rows:
        if row.get("not_compared"):
            say(f"{row['variant']} is not compared: it {row['not_compared']}")
    for count, what in ((result.n_failed, "failed"), (result.n_missing, "are not there yet")):
        if count:
            say(f"{count} runs {what}")
    say(f"table and figure: {result.out / 'table.md'}, {result.out / 'figure.png'}")
    return 1 if result.n_failed else 0


COMMAND = Command(
    "compare variants of a training: augmentation, regularisation, transfer, data size …",
    positional=("name",),
    experiment=True,
    dry_run=True,
    present=present,
    examples=(
        "haloformer study augmentation",
        "haloformer study augmentation --seeds 5 --epochs 12 --out studies/longer",
        "haloformer study transfer --only 'scratch-*,full-*' --seeds 1",
        "haloformer study augmentation --report_only",
    ),
)
