"""Search for good hyper-parameters."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haloformer.tuning.command import tune
    from haloformer.tuning.plan import list_searches
    from haloformer.tuning.report import SearchResult

_HOMES = {"SearchResult": "report", "list_searches": "plan", "tune": "command"}

__all__ = ["SearchResult", "list_searches", "tune"]


def __getattr__(name: str) -> object:  # on first use: the command's help needs none of it
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
