"""Fits of smooth lenses: what an image looks like without substructure, and what is left."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

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

# On first use: the fit itself needs no reader of files.
__getattr__, __dir__ = lazy(__name__, _HOMES)
