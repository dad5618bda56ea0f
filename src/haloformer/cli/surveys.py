"""``haloformer surveys``."""

from dataclasses import dataclass
from typing import Any

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command


@dataclass(frozen=True)
class Described:
    """A survey as plain values."""

    values: dict[str, Any]


def present(found: dict[str, str] | Described) -> None:
    """Prints the list of surveys, or one as YAML."""
    import yaml

    if isinstance(found, Described):
        print(yaml.safe_dump(found.values, sort_keys=False, allow_unicode=True), end="")
    else:
        print_table("surveys", ["name", "description"], found.items())


def as_json(found: dict[str, str] | Described) -> object:
    """Returns the survey, or the list."""
    return found.values if isinstance(found, Described) else found


COMMAND = Command(
    "list the surveys, or print one as YAML",
    positional=("name",),
    present=present,
    as_json=as_json,
    text=True,
    document=True,
    examples=(
        "haloformer surveys",
        "haloformer surveys model_ii > mine.yaml",
        "haloformer surveys common_task",
    ),
)


def surveys(name: str | None = None) -> dict[str, str] | Described:
    """Lists the shipped surveys, or prints one as YAML: where to start for a survey of your own.

    Args:
        name: A survey to print.
    """
    from haloformer.simulation import describe_survey, get_any_survey, list_surveys

    return Described(describe_survey(get_any_survey(name))) if name else list_surveys()
