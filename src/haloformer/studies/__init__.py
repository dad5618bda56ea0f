"""Many trainings compared: studies, and the ranking of networks."""

from haloformer.studies.leaderboard import benchmark
from haloformer.studies.plan import list_studies
from haloformer.studies.results import StudyResult
from haloformer.studies.run import study

__all__ = ["StudyResult", "benchmark", "list_studies", "study"]
