"""How far a trained model can be trusted, measured part by part."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.audit.command import audit

__all__ = ["audit"]


def __getattr__(name: str) -> Any:  # on first use, so that importing the package imports no torch
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.command"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
