"""``haloformer limits``."""

from collections.abc import Mapping
from typing import Any

from haloformer.cli.layout import filled, screen_width
from haloformer.cli.present import say
from haloformer.cli.registry import Command


def present(result: Mapping[str, Any]) -> None:
    """Prints how well the classes can be told apart, and where the report is."""
    print(filled(result["verdict"], screen_width(piped=100)))
    say(f"report: {result['report']}")


COMMAND = Command(
    "measure how well a survey's classes can be told apart at all, whoever tries",
    positional=("survey",),
    present=present,
    dry_run=True,
    examples=(
        "haloformer limits hst --out limits/hst",
        "haloformer limits my_survey.yaml --lenses 8 --out limits/mine",
    ),
)
