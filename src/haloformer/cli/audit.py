"""``haloformer audit``."""

from collections.abc import Mapping
from typing import Any

from haloformer.cli.layout import filled, screen_width
from haloformer.cli.present import say
from haloformer.cli.registry import Command


def present(result: Mapping[str, Any]) -> None:
    """Prints the verdict of an audit, and where its report is."""
    print(filled(result["verdict"], screen_width(piped=100)))
    say(f"report: {result['report']}")


COMMAND = Command(
    "test how far a trained network can be trusted: shortcuts, noise, cameras, symmetries, "
    "out-of-distribution images; or whether a survey has shortcuts",
    positional=("run",),
    present=present,
    dry_run=True,
    examples=(
        "haloformer audit model_i --out audits/model_i",
        "haloformer audit runs/x --out audits/x --parts noise,shift --n 600",
        "haloformer audit runs/x --out audits/x --compare runs/y,runs/z --real cutouts/ "
        "--galaxies galaxies/",
        "haloformer audit --survey hst --n 15000 --out audits/hst",
    ),
)
