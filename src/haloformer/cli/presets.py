"""``haloformer presets``."""

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command


def present(found: dict[str, str]) -> None:
    """Prints the list of presets."""
    print_table("presets", ["name", "what it is"], found.items())


def as_json(found: dict[str, str] | str) -> object:
    """Returns what the YAML of a preset says."""
    import yaml

    return yaml.safe_load(found) if isinstance(found, str) else found


COMMAND = Command(
    "list the shipped recipes, or print one",
    positional=("name",),
    present=present,
    as_json=as_json,
    text=True,
    examples=(
        "haloformer presets",
        "haloformer presets standard > mine.yaml",
    ),
)


def presets(name: str | None = None) -> dict[str, str] | str:
    """Lists the shipped presets, or prints one as YAML: where to start for a recipe of your own.

    Args:
        name: A preset to print.
    """
    from haloformer.training.presets import list_presets, preset_text

    return preset_text(name) if name else list_presets()
