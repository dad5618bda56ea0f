"""``haloformer surveys``."""

from haloformer.cli.present import print_table
from haloformer.cli.registry import Command

COMMAND = Command(
    "list the surveys, or print one as YAML",
    positional=("name",),
    examples=(
        "haloformer surveys",
        "haloformer surveys model_ii > mine.yaml",
    ),
)


def surveys(name: str | None = None) -> None:
    """Lists the shipped surveys, or prints one as YAML: where to start for a survey of your own.

    Args:
        name: A survey to print.
    """
    import yaml

    from haloformer.simulation import describe_survey, get_any_survey, list_surveys

    if name:
        described = describe_survey(get_any_survey(name))
        print(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), end="")
    else:
        print_table("surveys", ["name", "description"], list_surveys().items())
