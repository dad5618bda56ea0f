"""All that can be said of one model, found out by building and running it."""

from typing import Any

import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models.attention_maps import attention, has_attention
from haloformer.models.cost import count_macs, count_parameters
from haloformer.models.factory import create_model
from haloformer.models.info import ModelInfo
from haloformer.models.weights import weights_url

SIZES = (64, 150)
"""Sides in pixels of the images for which costs are listed."""


def describe_model(info: ModelInfo, img_size: int | None = None) -> dict[str, Any]:
    """Builds a model for images of one channel and three classes, and describes it.

    Args:
        info: Which model.
        img_size: Side of the images in pixels; by default the first of :data:`SIZES`.

    Returns:
        ``parameters``, ``macs_64``, ``macs_150`` (and ``macs_S`` for another size S; None if it
        cannot be built), ``padding``, ``feature_width``, ``attention_layers``, ``weights_url`` and
        the rest of its entry.
    """
    size = SIZES[0] if img_size is None else img_size
    model = create_model(info.name, size)
    layers, reason = _attention_layers(model, size)
    return {
        "name": info.name,
        "family": info.family,
        "size": info.size,
        "notes": info.notes,
        "paper": info.paper,
        "source": info.source,
        "timm_name": info.timm_name,
        "keywords": dict(info.kwargs),
        "image": f"{size}×{size}",
        "padding": _padding(model, size),
        "parameters": count_parameters(model),
        **{
            f"macs_{side}": macs_at(info, side, model if side == size else None)
            for side in dict.fromkeys((*SIZES, size))
        },
        "feature_width": int(getattr(model, "head_hidden_size", getattr(model, "num_features", 0))),
        "attention": bool(layers),
        "attention_layers": layers,
        "no_attention": reason,
        "pretrained": info.pretrained,
        "weights_url": weights_url(info),
    }


def macs_at(info: ModelInfo, size: int, model: nn.Module | None = None) -> int | None:
    """Returns the multiply-accumulate operations for one image of one channel.

    None where it cannot be built.

    Args:
        info: Which model.
        size: Side of the image in pixels.
        model: The model for this size, if it was built already.
    """
    try:
        return count_macs(model or create_model(info.name, size), (1, size, size))
    except InputError:
        return None


def _padding(model: nn.Module, size: int) -> str:
    left, right, top, bottom = getattr(model, "padding", None) or (0, 0, 0, 0)
    if not any((left, right, top, bottom)):
        return "none"
    return f"zeros on all sides, to {size + top + bottom}×{size + left + right}"


def _attention_layers(model: nn.Module, size: int) -> tuple[list[str], str]:
    """The layers whose attention can be shown, with kind and shape; and why, if there are none."""
    if not has_attention(model):
        return [], "none that can be shown"
    try:
        maps = attention(model, torch.zeros(1, 1, size, size))
    except InputError as error:
        return [], str(error)
    return [
        f"{m.layer}: {m.kind}, {m.maps.shape[1]} heads on {m.grid[0]}×{m.grid[1]}" for m in maps
    ], ""
