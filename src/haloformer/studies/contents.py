"""What the images of a study's or search's runs come from, so that it is known whether it is still what it was when they ran."""

from collections.abc import Mapping
from pathlib import Path

from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.simulation import get_any_survey, names_survey
from haloformer.simulation.named_files import content_digest
from haloformer.simulation.surveys import digest_of_own
from haloformer.studies.runs import Run


def contents_of(run: Run) -> dict[str, str]:
    """Returns what tells the content of files that a run's images come from: dataset files, and surveys of one's own.

    Returns:
        The name of each, as the study has it → a digest. Shipped surveys have none.
    """
    tested = None if run.test is None else run.test["data"]
    return contents(run.options, tested)


def contents(options: Mapping[str, object], *more: object) -> dict[str, str]:
    """Returns the same of a training's options, and of ``more`` images."""
    found = {}
    given = (options.get("data"), options.get("val_data"), *more)
    for source in dict.fromkeys(str(each) for each in given if each):
        if Path(source).suffix.lower() in DATASET_SUFFIXES:
            found[source] = content_digest(source)
        elif names_survey(source) and (own := digest_of_own(get_any_survey(source))):
            found[source] = own
    return found
