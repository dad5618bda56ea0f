"""What is known of a model before it is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Size = Literal["nano", "tiny", "paper", "other"]


@dataclass(frozen=True)
class ModelInfo:
    """An entry of the registry.

    A timm model (our own are registered with timm, too) and the keywords that fit it.

    Attributes:
        name: The name that ``create_model`` takes.
        family: The architecture it is a variant of.
        paper: Title and arXiv number of its paper.
        timm_name: The entry of timm's registry that builds it.
        notes: One line for whoever must choose.
        kwargs: What that entry is given; the caller's keywords come after and win.
        pretrained: Whether timm can download ImageNet weights of exactly this variant.
        source: ``timm``, or ``haloformer`` where the architecture is written here.
        size: ``nano`` (at most 1.5 M parameters) and ``tiny`` (4–7 M) are ours, for images of
            64–150 pixels; ``paper`` is a variant that the paper names, at its widths and depths.
    """

    name: str
    family: str
    paper: str
    timm_name: str
    notes: str
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    pretrained: bool = False
    source: Literal["timm", "haloformer"] = "timm"
    size: Size = "other"


def our_model(
    family: str,
    paper: str,
    name: str,
    size: Size,
    notes: str,
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> ModelInfo:
    """Returns the entry of a variant of ours that is registered with timm by this name."""
    return ModelInfo(name, family, paper, name, notes, kwargs, source="haloformer", size=size)


SMALL_HEAD: Mapping[str, Any] = MappingProxyType({"head_norm": "batch"})
"""What small models are given whose features end in a layer norm.

Without it they do not start to learn (see head.py).
"""


def small_head(size: Size) -> Mapping[str, Any]:
    """Returns the keywords of a model of this size.

    :data:`SMALL_HEAD` for ours, nothing for the papers' variants.
    """
    return SMALL_HEAD if size in ("nano", "tiny") else MappingProxyType({})
