"""The models that haloformer knows by name, as data.

A model is a timm model (our own architectures register themselves with timm, too) and the keywords that fit it to small
single-channel images. To add one, add an entry here; an architecture that timm lacks gets a file of its own beside this
one, which opens with its paper and ends with functions under ``@register_model``, and is imported in ``__init__.py``.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before it is built.

    Attributes:
        name: The name that ``create_model`` takes.
        family: The architecture it is a variant of.
        paper: Title and arXiv number of its paper.
        timm_name: The entry of timm's registry that builds it.
        kwargs: What that entry is given; the caller's keywords come after and win.
        notes: One line for whoever must choose.
        pretrained: Whether ImageNet weights exist for exactly this variant.
        source: ``timm``, or ``haloformer`` where the architecture is put together here.
    """

    name: str
    family: str
    paper: str
    timm_name: str
    notes: str
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    pretrained: bool = False
    source: str = "timm"


_VIT = "An Image is Worth 16x16 Words (arXiv:2010.11929)"
_EARLY_CONV = "Early Convolutions Help Transformers See Better (arXiv:2106.14881)"
_EDGENEXT = "EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture (arXiv:2206.10589)"
_RESNET = "Deep Residual Learning for Image Recognition (arXiv:1512.03385)"

MODELS: tuple[ModelInfo, ...] = (
    # Plain transformers.
    ModelInfo(
        "vit_nano",
        "ViT",
        _VIT,
        "vit_tiny_patch16_224",
        "plain ViT of 0.7 M parameters for tests and comparisons; slow to learn from scratch",
        {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3},
    ),
    ModelInfo(
        "vit_tiny",
        "ViT",
        _VIT,
        "vit_tiny_patch16_224",
        "ViT-Ti with 8-pixel patches, as 16 leave 4×4 tokens of a 64-pixel image",
        {"patch_size": 8},
        pretrained=True,  # timm resamples the 16-pixel patch embedding and the position embedding
    ),
    # Hybrids: convolutions first, then attention.
    ModelInfo(
        "hybrid_nano",
        "Hybrid ViT",
        _EARLY_CONV,
        "hybrid_nano",
        "convolutional stem of stride 16, four transformer blocks; the default: learns fastest on two CPU cores",
        source="haloformer",
    ),
    ModelInfo(
        "hybrid_nano_s8",
        "Hybrid ViT",
        _EARLY_CONV,
        "hybrid_nano",
        "the same with a stem of stride 8: finer attention maps at twice the cost",
        {"stem_channels": (32, 64, 128), "stem_strides": (2, 2, 2)},
        source="haloformer",
    ),
    ModelInfo(
        "edgenext_xx_small",
        "EdgeNeXt",
        _EDGENEXT,
        "edgenext_xx_small",
        "mobile hybrid with attention over channels",
        pretrained=True,
    ),
    # Convolutional baselines.
    ModelInfo("resnet18", "ResNet", _RESNET, "resnet18", "the usual convolutional baseline", pretrained=True),
)

_BY_NAME = {info.name: info for info in MODELS}


def list_models() -> list[ModelInfo]:
    """Returns the models that haloformer knows by name, in the order of the registry."""
    return list(MODELS)


def find_model(name: str) -> ModelInfo:
    """Returns the entry of a name: one of ours, or any name of timm's, with or without the prefix ``timm:``.

    Args:
        name: Such as ``hybrid_nano``, ``resnet18``, ``timm:convnext_atto`` or ``convnext_atto``.

    Raises:
        InputError: Neither haloformer nor timm has it.
    """
    import timm

    if name in _BY_NAME:
        return _BY_NAME[name]
    timm_name = name.removeprefix("timm:")
    # A tag such as ".a1_in1k" only chooses weights. A name with a colon elsewhere ("hf-hub:…") would be a download.
    if ":" not in timm_name and timm.is_model(timm_name):
        has_weights = timm.models.is_model_pretrained(timm_name)
        return ModelInfo(
            name, timm.models.get_arch_name(timm_name), "see timm", timm_name, "as timm has it", pretrained=has_weights
        )
    if name.startswith("timm:"):
        nearest = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
        hint = f"the nearest are {', '.join(nearest)}" if nearest else "timm.list_models() lists them"
        raise InputError(f"unknown timm model '{timm_name}': {hint}")
    # Of timm's 1,300 names only the nearest: the others would drown ours.
    raise unknown_name("model", name, {*_BY_NAME, *difflib.get_close_matches(name, timm.list_models(), n=1)})
