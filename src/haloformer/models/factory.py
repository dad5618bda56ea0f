"""Builds a model by name, for images of any size."""

import operator
import os
from typing import Any

from torch import nn
from torch.torch_version import TorchVersion

from haloformer.errors import InputError, brief
from haloformer.models.convert import StateDict
from haloformer.models.head import normalize_head
from haloformer.models.native_size import PaddedInput, build_at_native_size
from haloformer.models.registry import find_model
from haloformer.models.weights import download_weights, load_into, read_weights
from haloformer.validation import whole_number
from haloformer.vocabulary import TIMMS_OWN

LEAST_TIMM = "1.0.31"
"""Older ones lack what some of the models are built with; those that they can build still serve."""


def create_model(
    name: str,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int = 1,
    num_classes: int = 3,
    pretrained: bool | str | os.PathLike[str] = False,
    **kw: Any,
) -> nn.Module:
    """Builds a model from images (B, in_chans, H, W) of exactly this size to (B, num_classes).

    Images are neither enlarged nor cropped. Where a model's patches do not divide the size, the
    images are padded with zeros on all sides (see :mod:`haloformer.models.native_size`).

    Args:
        name: A model of ``list_models()``, or any model of timm's, with or without the prefix
            ``timm:``.
        img_size: Height and width in pixels, or one number for both; must be given.
        in_chans: Channels of the images; pretrained filters are summed over RGB for one channel.
        num_classes: Length of the output.
        pretrained: Start from weights that are there already: true for ImageNet's, which timm
            downloads, or a file (.safetensors, .pth, .pt, .bin, .tar) of the official code, of
            timm, or of a run's artefact. Positions are resized to the image; a classifier of
            another length starts anew.
        **kw: Goes to the model, such as ``depth=6`` or ``drop_path_rate=0.1``; but
            ``head_norm="batch"`` puts a batch norm before the classifier, as our small transformers
            have it (see :mod:`haloformer.models.head`).

    Raises:
        InputError: Unknown name or keyword, no size or one that cannot be, or weights that cannot
            be had.

    Examples:
        >>> import haloformer
        >>> model = haloformer.create_model("vit_nano", img_size=64)
        >>> sum(p.numel() for p in model.parameters()) < 1_500_000
        True
        >>> haloformer.create_model("vit_nano")
        Traceback (most recent call last):
        ...
        haloformer.errors.InputError: img_size is missing: networks are built for images of one size; give the side in pixels, such as create_model('vit_nano', img_size=64)
    """
    return build_model(True, name, img_size, in_chans, num_classes, pretrained, **kw)


def build_model(
    keep_classifier: bool,
    /,  # the model's keywords may have any name
    name: str,
    img_size: int | tuple[int, int] | None,
    in_chans: int,
    num_classes: int,
    pretrained: bool | str | os.PathLike[str],
    **kw: Any,
) -> nn.Module:
    """Builds a model as `create_model` does; ``keep_classifier`` as `load_into` takes it."""
    info = find_model(name)
    if img_size is None:
        raise InputError(
            "img_size is missing: networks are built for images of one size; give the side in "
            f"pixels, such as create_model('{name}', img_size=64)"
        )
    size = _checked_size(img_size)
    in_chans = whole_number(in_chans, "in_chans", 1)
    num_classes = whole_number(num_classes, "num_classes", 1)
    _check_keywords(kw)
    weights = _file_weights(pretrained)
    if pretrained is True and not info.pretrained:
        raise InputError(
            f"there are no pretrained weights of model '{name}' to download: give a file, "
            "pretrained: path/to/file.safetensors, or false"
        )
    options = {**info.kwargs, **kw}
    head_norm = options.pop("head_norm", "none")
    try:
        model = build_at_native_size(info.timm_name, size, in_chans, num_classes, name, **options)
    except Exception as error:
        _mind_old_timm(name, error)
        raise
    normalize_head(model.model if isinstance(model, PaddedInput) else model, head_norm)
    where = str(pretrained)
    if pretrained is True:  # only now: an impossible size or keyword needs no download
        weights, where = download_weights(info), f"the ImageNet weights of '{info.timm_name}'"
    if weights is not None:
        load_into(model, weights, where, size, in_chans, num_classes, keep_classifier)
    return model


def _mind_old_timm(name: str, error: Exception) -> None:
    """Raises InputError if a model may have failed because timm is older than what we ask for."""
    import timm

    if TorchVersion(timm.__version__) < LEAST_TIMM:
        raise InputError(
            f"model '{name}' cannot be built ({brief(error)}): perhaps because timm "
            f"{timm.__version__} is too old; pip install -U 'timm>={LEAST_TIMM}'"
        ) from error


def _file_weights(pretrained: bool | str | os.PathLike[str]) -> StateDict | None:
    if isinstance(pretrained, bool):
        return None
    if not isinstance(pretrained, str | os.PathLike) or not str(pretrained):
        raise InputError(
            f"pretrained must be true, false or the path of a weights file, not {pretrained!r}"
        )
    return read_weights(pretrained)


def _checked_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    given = tuple(img_size) if isinstance(img_size, tuple | list) else (img_size, img_size)
    sides = [_whole(side) for side in given]
    if len(sides) != 2 or any(side is None or not 8 <= side <= 4096 for side in sides):
        raise InputError(
            f"img_size must be one or two whole numbers of pixels from 8 to 4096, not {img_size!r}"
        )
    height, width = (int(side) for side in sides if side is not None)
    return height, width


def _whole(value: object) -> int | None:
    """Returns a whole number of any integer type, also NumPy's; None for all else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _check_keywords(kw: dict[str, Any]) -> None:
    """Raises InputError for keywords that no network takes, or that fail only when it is trained."""
    for name, value in kw.items():
        if name in TIMMS_OWN:
            raise InputError(f"{name} is no keyword here: pretrained='path/to/file' loads weights")
        if name.endswith("_rate") and isinstance(value, int | float) and not 0 <= value <= 1:
            raise InputError(f"{name} must be a number from 0 to 1, not {value!r}")
