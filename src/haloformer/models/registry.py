"""The models that haloformer knows by name, as data.

A model is a timm model (our own architectures register themselves with timm, too) and the keywords
that fit it to small single-channel images. To add one that timm has, add an entry to
``timm_models.py``; an architecture that it lacks gets a file of its own, which opens with its
paper, registers its variants with timm and ends with their entries, and is listed here.

Names: ``FAMILY_nano``, ``FAMILY_tiny`` and ``FAMILY_small`` are sizes of ours. Where timm has a
model of that name, or one whose name begins with it, ``lens`` stands before the size. A paper's
variant has timm's name where timm has it, else the paper's with the image size at its end.
"""

import difflib
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase

from haloformer.errors import InputError
from haloformer.models import (
    a_vit,
    cct,
    cpvt,
    crossformer,
    cswin,
    cvt,
    efficientformer,
    equivariant,
    haloformer,
    hybrid_vit,
    mobile_former,
    pvt,
    regionvit,
    rvt,
    t2t_vit,
    timm_models,
)
from haloformer.models.info import ModelInfo
from haloformer.vocabulary import unknown_name

# The files of the architectures that are written here; each ends with its own ``MODELS``.
_ARCHITECTURES = (
    hybrid_vit,
    regionvit,
    t2t_vit,
    pvt,
    cpvt,
    cvt,
    crossformer,
    cct,
    a_vit,
    rvt,
    cswin,
    mobile_former,
    efficientformer,
    equivariant,
    haloformer,
)

MODELS: tuple[ModelInfo, ...] = (
    *timm_models.MODELS,
    *(info for file in _ARCHITECTURES for info in file.MODELS),
)

_BY_NAME = {info.name: info for info in MODELS}

EARLIER_NAMES = {
    "coatnet_nano": "coatnet_lens_nano",
    "crossvit_tiny": "crossvit_lens_tiny",
    "eva02_tiny": "eva02_lens_tiny",
    "hiera_tiny": "hiera_lens_tiny",
    "maxvit_nano": "maxvit_lens_nano",
    "maxvit_tiny": "maxvit_lens_tiny",
    "swin_tiny": "swin_lens_tiny",
    "swinv2_tiny": "swinv2_lens_tiny",
    "vit_tiny": "vit_lens_tiny",
}
"""Names that looked like another model of timm's → today's.

Artefacts, runs and studies keep them.
"""


def list_models(pattern: str | Iterable[str] | None = None) -> list[ModelInfo]:
    """Returns the models that haloformer knows by name, in the order of the registry.

    Args:
        pattern: Only those whose name matches it, such as ``"*_nano"``, or one of several; in any
            case of letters. None: all.

    Raises:
        InputError: It is no text.

    Examples:
        >>> import haloformer
        >>> [model.name for model in haloformer.list_models() if model.family == "CvT"]
        ['cvt_nano', 'cvt_tiny', 'cvt_13_224', 'cvt_21_224', 'cvt_w24_384']
        >>> [model.name for model in haloformer.list_models(["cvt_[nt]*", "pvt_nano"])]
        ['pvt_nano', 'cvt_nano', 'cvt_tiny']
    """
    if pattern is None:
        return list(MODELS)
    several = isinstance(pattern, Iterable) and not isinstance(pattern, str)
    patterns = list(pattern) if several else [pattern]
    for each in patterns:
        if not isinstance(each, str):
            raise InputError(f"pattern must be a text such as '*_nano', or several, not {each!r}")
    lower = [str(each).lower() for each in patterns]
    return [info for info in MODELS if any(fnmatchcase(info.name.lower(), one) for one in lower)]


def find_model(name: str) -> ModelInfo:
    """Returns the entry of a name.

    One of ours, or any name of timm's, with or without the prefix ``timm:``.

    Args:
        name: Such as ``hybrid_nano``, ``resnet18``, ``timm:convnext_atto`` or ``convnext_atto``.

    Raises:
        InputError: Neither haloformer nor timm has it, or it is no text.
    """
    import timm

    if not isinstance(name, str):
        raise InputError(f"a model is named by a text such as 'vit_nano', not {name!r}")
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name in EARLIER_NAMES:
        today = EARLIER_NAMES[name]
        warnings.warn(f"model '{name}' is now called '{today}'", FutureWarning, stacklevel=2)
        return _BY_NAME[today]
    timm_name = name.removeprefix("timm:")
    # A tag such as ".a1_in1k" only chooses weights. A name with a colon elsewhere ("hf-hub:…")
    # would be a download.
    if ":" not in timm_name and timm.is_model(timm_name):
        has_weights = timm.models.is_model_pretrained(timm_name)
        return ModelInfo(
            name,
            timm.models.get_arch_name(timm_name),
            "see timm",
            timm_name,
            "as timm has it",
            pretrained=has_weights,
        )
    if name.startswith("timm:"):
        nearest = difflib.get_close_matches(timm_name, timm.list_models(), n=3)
        hint = (
            f"the nearest are {', '.join(nearest)}" if nearest else "timm.list_models() lists them"
        )
        raise InputError(f"unknown timm model '{timm_name}': {hint}")
    # Of timm's 1,300 names only the nearest: the others would drown ours.
    raise unknown_name(
        "model", name, {*_BY_NAME, *difflib.get_close_matches(name, timm.list_models(), n=1)}
    )
