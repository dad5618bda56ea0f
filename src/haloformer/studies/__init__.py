"""Many trainings compared: studies, and the ranking of networks."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.studies.command import benchmark, study
    from haloformer.studies.plan import list_studies
    from haloformer.studies.results import StudyResult

_HOMES = {
    "StudyResult": "results",
    "benchmark": "command",
    "list_studies": "plan",
    "study": "command",
}

__all__ = ["StudyResult", "benchmark", "list_studies", "study"]

# On first use: the commands' help needs none of it.
__getattr__, __dir__ = lazy(__name__, _HOMES)
