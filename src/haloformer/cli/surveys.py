"""``haloformer surveys``."""

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command


def present(found: dict[str, str]) -> None:
    """Prints the list of surveys."""
    print_table("surveys", ["name", "description"], found.items())


def as_json(found: dict[str, str] | str) -> object:
    """Returns the survey, or the list."""
    import yaml

    return yaml.safe_load(found) if isinstance(found, str) else found


COMMAND = Command(
    "list the surveys, or print one as YAML",
    positional=("name",),
    present=present,
    as_json=as_json,
    text=True,
    examples=(
        "haloformer surveys",
        "haloformer surveys model_ii > mine.yaml",
        "haloformer surveys common_task",
    ),
)


def surveys(name: str | None = None) -> dict[str, str] | str:
    """Lists the shipped surveys, or prints one as YAML: where to start for a survey of your own.

    Args:
        name: A survey to print.
    """
    import yaml

    from haloformer.simulation import describe_survey, get_any_survey, list_surveys
    from haloformer.simulation.visible import check_visible

    if not name:
        return list_surveys()
    survey = get_any_survey(name)
    check_visible(survey)
    described = describe_survey(survey)
    return str(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
