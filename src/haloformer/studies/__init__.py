"""Many trainings at once: studies that compare them, and the search for good settings."""

from haloformer.studies.leaderboard import benchmark
from haloformer.studies.runner import StudyResult, list_studies, study
from haloformer.studies.search import SearchResult, list_searches, tune

__all__ = ["SearchResult", "StudyResult", "benchmark", "list_searches", "list_studies", "study", "tune"]
