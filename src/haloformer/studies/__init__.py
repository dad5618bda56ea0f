"""Many trainings compared: studies, and the ranking of networks."""

import importlib
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:  # on first use: the commands' help needs none of it
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
