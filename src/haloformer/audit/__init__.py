"""How far a trained model can be trusted, measured part by part."""

from typing import TYPE_CHECKING

from haloformer.lazy import lazy

if TYPE_CHECKING:
    from haloformer.audit.command import audit

__all__ = ["audit"]

# On first use, so that importing the package imports no torch.
__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "command"))
