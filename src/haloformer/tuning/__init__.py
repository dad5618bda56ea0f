"""Search for good hyper-parameters."""

from haloformer.tuning.plan import list_searches
from haloformer.tuning.report import SearchResult
from haloformer.tuning.search import tune

__all__ = ["SearchResult", "list_searches", "tune"]
