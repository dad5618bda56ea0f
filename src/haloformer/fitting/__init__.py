"""Fits of smooth lenses: what an image looks like without substructure, and what is left."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haloformer.fitting.command import fit
    from haloformer.fitting.parametric import SmoothFitter, fit_smooth
    from haloformer.fitting.result import SmoothFit

_HOMES = {
    "SmoothFit": "result",
    "SmoothFitter": "parametric",
    "fit_smooth": "parametric",
    "fit": "command",
}

__all__ = ["SmoothFit", "SmoothFitter", "fit", "fit_smooth"]


def __getattr__(name: str) -> Any:  # on first use: the fit itself needs no reader of files
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
