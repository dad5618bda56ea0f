"""``haloformer tune``."""

from typing import TYPE_CHECKING

from haloformer.cli.present import print_table, rounded, say
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.tuning.report import SearchResult


def present(result: "SearchResult") -> None:
    """Prints the best trial of a search."""
    rows = [
        [key, rounded(value) if isinstance(value, float) else str(value)]
        for key, value in result.params.items()
    ]
    print_table(f"trial {result.best_trial}: {result.value:.4f}", ["field", "value"], rows)
    say(f"best experiment: {result.out / 'best.yaml'}")


COMMAND = Command(
    "search for good hyper-parameters",
    positional=("name",),
    experiment=True,
    dry_run=True,
    present=present,
    examples=("haloformer tune quick", "haloformer tune mine.yaml --trials 100 --workers 2"),
)
