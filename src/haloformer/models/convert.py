"""Turns the state dicts of published weights into those of haloformer's models.

Keys are renamed, and positions resized to another image size.
"""

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.layers import (
    resample_abs_pos_embed,
    resample_abs_pos_embed_nhwc,
    resize_rel_pos_bias_table,
)
from torch import Tensor, nn

from haloformer.errors import InputError

StateDict = dict[str, Tensor]


def convert_state_dict(state_dict: StateDict, model: nn.Module) -> StateDict:
    """Takes a state dict with the official code's keys, or ours, to a model's keys and shapes.

    Args:
        state_dict: Weights of the official implementation of the same variant.
        model: A model of haloformer's or timm's; each architecture's file knows its own conversion.
    """
    home = type(model).__module__
    convert: Callable[[StateDict, Any], StateDict] | None
    convert = _CONVERSIONS.get(home) or getattr(sys.modules[home], "checkpoint_filter_fn", None)
    return state_dict if convert is None else convert(state_dict, model)


def resize_positions(
    state_dict: StateDict, model: nn.Module, img_size: tuple[int, int]
) -> StateDict:
    """Interpolates the position embeddings and relative biases of a state dict to a model's sizes.

    Most architectures do this themselves in :func:`convert_state_dict`; here is what is left. What
    cannot be resized is returned as it is: positions of an image that was neither square nor of the
    same proportions.

    Args:
        state_dict: With the keys of the model.
        model: What it is for.
        img_size: Height and width of the images that the model was built for.
    """
    wanted = model.state_dict()
    resized = dict(state_dict)
    for name, tensor in state_dict.items():
        if name in wanted and wanted[name].shape != tensor.shape:
            owner = model.get_submodule(name.rpartition(".")[0])
            fitted = _resized(
                name, tensor, tuple(wanted[name].shape), owner, model, img_size[0] / img_size[1]
            )
            if fitted is not None:
                resized[name] = fitted
    return resized


def _resized(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    owner: nn.Module,
    model: nn.Module,
    aspect: float,
) -> Tensor | None:
    """Returns a position embedding or relative bias in another shape; None if unknown."""
    leaf = name.rpartition(".")[2]
    if leaf == "relative_position_bias_table":
        window: Any = getattr(owner, "window_size", None)
        if window is None:
            return None
        table: Tensor = resize_rel_pos_bias_table(tensor, window, shape)
        return table
    if leaf in ("height_rel", "width_rel") and tensor.shape[1:] == shape[1:]:
        # BoTNet: (2·side − 1, D)
        resized = F.interpolate(tensor.float().T[None], size=shape[0], mode="linear")
        return resized[0].T.to(tensor.dtype)
    if leaf == "attention_biases" and tensor.ndim == 2 and tensor.shape[0] == shape[0]:
        return _resized_biases(tensor, shape, aspect)
    if "pos" in leaf and len(shape) == tensor.ndim == 4:
        return _resized_map(tensor, shape)
    if "pos" in leaf and len(shape) == tensor.ndim == 3 and tensor.shape[::2] == shape[::2]:
        return _resized_sequence(tensor, shape, model, aspect)
    return None


def _resized_biases(tensor: Tensor, shape: tuple[int, ...], aspect: float) -> Tensor | None:
    """LeViT, EfficientFormer: (heads, h·w), one bias per distance in rows and columns."""
    old = _grid(tensor.shape[1], 1.0) or _grid(tensor.shape[1], aspect)
    new = _grid(shape[1], aspect)
    if old is None or new is None:
        return None
    biases = tensor.float().unflatten(1, old)[None]
    resized = F.interpolate(biases, size=new, mode="bicubic", align_corners=False)
    return resized[0].flatten(1).to(tensor.dtype)


def _resized_map(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Position embeddings (1, h, w, D); of PiT (1, D, h, w)."""
    resized: Tensor
    if tensor.shape[-1] == shape[-1] and tensor.shape[1] != shape[1]:
        resized = resample_abs_pos_embed_nhwc(tensor, [shape[1], shape[2]])
        return resized
    if tensor.shape[:2] == shape[:2]:
        last = tensor.permute(0, 2, 3, 1)
        resized = resample_abs_pos_embed_nhwc(last, [shape[2], shape[3]])
        return resized.permute(0, 3, 1, 2)
    return None


def _resized_sequence(
    tensor: Tensor, shape: tuple[int, ...], model: nn.Module, aspect: float
) -> Tensor | None:
    """Position embeddings (1, prefix + h·w, D)."""
    grid: Any = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    likely = [shape[1] - grid[0] * grid[1]] if isinstance(grid, tuple) else []
    for prefix in dict.fromkeys((*likely, getattr(model, "num_prefix_tokens", 1), 0, 1, 2)):
        new = grid if likely and prefix == likely[0] else _grid(shape[1] - prefix, aspect)
        old = _grid(tensor.shape[1] - prefix, 1.0) or _grid(tensor.shape[1] - prefix, aspect)
        if prefix >= 0 and new is not None and old is not None:
            resized: Tensor = resample_abs_pos_embed(
                tensor, list(new), list(old), num_prefix_tokens=prefix
            )
            return resized
    return None


def _grid(cells: int, aspect: float) -> tuple[int, int] | None:
    """The rows and columns of so many cells on an image of so many times its width in height."""
    rows = round(math.sqrt(max(cells, 0) * aspect))
    return (rows, cells // rows) if rows > 0 and cells % rows == 0 else None


_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_NOT_EXPANDING = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def from_efficientnet_pytorch(state_dict: StateDict, model: Any) -> StateDict:
    """Takes EfficientNet weights of efficientnet-pytorch and -lite-pytorch to timm's keys.

    Raises:
        InputError: The model pads or normalises otherwise: these are ports of TensorFlow's weights.
    """
    if "_conv_stem.weight" not in state_dict:
        return state_dict
    if type(model.conv_stem).__name__ != "Conv2dSame" or model.bn1.eps != 1e-3:
        raise InputError(
            "these weights need TensorFlow's padding and batch norm: take the model 'tf_efficientnet_…' of the same "
            "variant, or give the keywords pad_type: same, bn_eps: 0.001"
        )
    # There, blocks are numbered through; in timm, within stages.
    places = [
        f"blocks.{stage}.{i}"
        for stage, blocks in enumerate(model.blocks)
        for i in range(len(blocks))
    ]
    converted = {}
    for name, tensor in state_dict.items():
        if block := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name):
            number, layer, kind = block.groups()
            expands = f"_blocks.{number}._expand_conv.weight" in state_dict
            layers = {**(_EXPANDING if expands else _NOT_EXPANDING), **_SQUEEZE}
            place = places[int(number)] if int(number) < len(places) else f"blocks.{number}"
            name = f"{place}.{layers.get(layer, layer)}.{kind}"
        else:
            layer, _, kind = name.partition(".")
            name = f"{_OUTSIDE.get(layer, layer)}.{kind}"
        converted[name] = tensor
    return converted


def _from_crossvit(state_dict: StateDict, model: nn.Module) -> StateDict:
    return {
        re.sub(r"^(pos_embed|cls_token)\.", r"\1_", name): tensor
        for name, tensor in state_dict.items()
    }


_CONVERSIONS: dict[str, Callable[[StateDict, Any], StateDict]] = {
    "timm.models.efficientnet": from_efficientnet_pytorch,
    "timm.models.crossvit": _from_crossvit,
}
"""Conversions for modules of timm's that have none, or none that can be reached."""
