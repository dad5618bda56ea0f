"""``haloformer presets``."""

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command

COMMAND = Command(
    "list the shipped recipes, or print one",
    positional=("name",),
    examples=(
        "haloformer presets",
        "haloformer presets standard > mine.yaml",
    ),
)


def presets(name: str | None = None) -> None:
    """Lists the shipped presets, or prints one as YAML: where to start for a recipe of your own.

    Args:
        name: A preset to print.
    """
    from haloformer.training.presets import list_presets, preset_text

    if name:
        print(preset_text(name), end="")
    else:
        print_table("presets", ["name", "what it is"], list_presets().items())
