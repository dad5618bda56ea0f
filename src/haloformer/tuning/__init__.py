"""Search for good hyper-parameters."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.tuning.command import tune
    from haloformer.tuning.plan import list_searches
    from haloformer.tuning.report import SearchResult

_HOMES = {"SearchResult": "report", "list_searches": "plan", "tune": "command"}

__all__ = ["SearchResult", "list_searches", "tune"]

# On first use: the command's help needs none of it.
__getattr__, __dir__ = lazy(__name__, _HOMES)
