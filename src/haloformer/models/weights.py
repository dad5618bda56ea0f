"""Starts a model from weights that are there already.

ImageNet's through timm, or those of a local file.

Files may come from anybody: safetensors, or PyTorch's format read without running what a pickle
asks for.
"""

import argparse
import contextlib
import logging
import os
import pickle
import socket
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv, clean_state_dict
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.files import check_regular
from haloformer.models.convert import StateDict, convert_state_dict, resize_positions
from haloformer.models.head import classifier_names
from haloformer.models.info import ModelInfo
from haloformer.models.native_size import PaddedInput

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
_log = logging.getLogger(__name__)
_MAX_BYTES = 8 << 30  # ten times the largest model here, with its optimizer's state
# Where training scripts put the weights; averaged ones first, as timm prefers them.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "module")
# Tables of indices that older code saved and today's computes.
_RECOMPUTED = (
    "relative_position_index",
    "relative_coords_table",
    "attention_bias_idxs",
    "attn_mask",
)


def weights_file(path: str | os.PathLike[str]) -> Path:
    """Returns the weights file that a path names: a file, or a run or artefact folder."""
    path = Path(path)
    candidates = (path / "artefact" / "weights.safetensors", path / "weights.safetensors")
    if path.is_dir() and not any(file.is_file() for file in candidates):
        raise InputError(
            f"{path}: holds no weights (artefact/weights.safetensors); has its training finished an epoch?"
        )
    return next((file for file in candidates if file.is_file()), path)


def read_weights(path: str | os.PathLike[str]) -> StateDict:
    """Returns the tensors of a weights file by name, without containers and prefixes.

    Args:
        path: A file that ends with .safetensors, or with .pth, .pt, .bin, .tar for PyTorch's
            format; or the folder of a run.

    Raises:
        InputError: No such file, not of these formats, damaged, without weights, or one that asks
            for more than that.
    """
    file = weights_file(path)
    _log.info("weights %s", file)
    _check_file(file)
    try:
        with warnings.catch_warnings():  # of what is odd in the file: it is checked below
            warnings.simplefilter("ignore")
            content = _load(file)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file}: cannot be read as weights: it is damaged, or holds more than tensors and plain values"
            f"{_what_else(file)}, and what a file asks for is never run; its state dict saved as .safetensors would do"
        ) from error
    except (
        Exception
    ) as error:  # what the two readers raise for damaged or hostile bytes is of every kind
        raise InputError(f"{file}: cannot be read as weights: {_reason(error)}") from error
    weights = _unwrapped(content)
    if not weights:
        raise InputError(f"{file}: holds no weights")
    for name, tensor in weights.items():
        plain = tensor.layout == torch.strided and not (
            tensor.is_meta or tensor.is_quantized or tensor.is_complex()
        )
        # An expanded tensor claims more numbers than the file has: a few bytes could stand for
        # terabytes.
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{file}: '{_shorter(name)}' is not an ordinary tensor")
    return weights


def load_into(
    model: nn.Module,
    weights: StateDict,
    where: str,
    img_size: tuple[int, int],
    in_chans: int,
    num_classes: int,
    keep_classifier: bool = True,
) -> None:
    """Loads weights into a model that may have other channels, classes and image size.

    The filters of the first layer are summed over the channels for one channel, and repeated and
    scaled for more, as timm does; a classifier of other classes is left out; positions are resized.
    All else must fit.

    Args:
        model: From ``build_at_native_size``.
        weights: Under the official code's names, timm's, or haloformer's.
        where: Where they come from, for messages.
        img_size: Height and width of the images.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        keep_classifier: False leaves the classifier out even if it fits.

    Raises:
        InputError: The weights are of another architecture or variant, or not finite.
    """
    if isinstance(model, PaddedInput):
        left, right, top, bottom = model.padding
        img_size = (img_size[0] + top + bottom, img_size[1] + left + right)
        model = model.model
    wanted = model.state_dict()
    weights = _converted(_without_prefix(weights, wanted), model, where, img_size)
    _adapt_channels(weights, wanted, model, in_chans)
    heads = tuple(f"{name}." for name in classifier_names(model))
    if not keep_classifier or not _same_classifier(weights, wanted, heads):
        _log.info("%s: its classifier is left out, and starts anew", where)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(heads)}
    headless = not any(name.startswith(heads) for name in weights)
    message = f"{where}: these weights do not fit {type(model).__name__}"
    _check_fit(weights, wanted, heads if headless else (), message)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{where}: '{_shorter(name)}' holds NaN or infinite values")
    model.load_state_dict(weights, strict=False)  # what may be missing was checked


def download_weights(info: ModelInfo) -> StateDict:
    """Returns the ImageNet weights of a model, through timm's own hub mechanism and its cache.

    Raises:
        InputError: They cannot be had; the message says how to supply them as a file.
    """
    try:
        with _no_waiting_for_a_missing_network():
            model: nn.Module = timm.create_model(info.timm_name, pretrained=True)
            return model.state_dict()
    except (
        Exception
    ) as error:  # the hub's client raises many kinds: no network, no cache, a proxy's refusal
        raise InputError(
            f"cannot get the pretrained weights of model '{info.name}' (no network, and not in the cache?): "
            f"download {weights_url(info)} elsewhere and give the file, pretrained: path/to/file.safetensors "
            f"({_reason(error, 40)})"
        ) from error


def weights_url(info: ModelInfo) -> str | None:
    """Returns where the ImageNet weights of a model can be downloaded; None if there are none."""
    cfg = timm.get_pretrained_cfg(info.timm_name, allow_unregistered=True)
    if cfg is None or not info.pretrained:
        return None
    if cfg.hf_hub_id:
        return f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/{cfg.hf_hub_filename or 'model.safetensors'}"
    return cfg.url if isinstance(cfg.url, str) and cfg.url else None


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise InputError(
            f"{file}: is a folder: give the file itself, such as artefact/weights.safetensors of a run"
        )
    check_regular(file)
    if not file.is_file():
        raise InputError(f"{file}: no such file of pretrained weights")
    if file.suffix not in SUFFIXES:
        raise InputError(f"{file}: pretrained weights must be a file of {', '.join(SUFFIXES)}")
    size = file.stat().st_size
    if size == 0:
        raise InputError(f"{file}: is empty")
    if size > _MAX_BYTES:
        raise InputError(
            f"{file}: {size / 1e9:.0f} GB are too many for the weights of one of these models"
        )


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(
            file
        ) as archive:  # PyTorch never compresses: what does could grow without end
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise InputError("its parts are compressed, which PyTorch never does")
    # Training scripts of the papers save their options beside the weights, as a Namespace of plain
    # values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _what_else(file: Path) -> str:
    """The names of what a pickle asks for beyond weights, if it can be told."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # not even a pickle
        return ""
    return f" ({_few(sorted(names))})" if names else ""


def _unwrapped(content: Any) -> StateDict:
    """The named tensors in what a file holds."""
    for _ in range(4):  # deep enough for a checkpoint in a checkpoint
        inner = (
            next(
                (content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None
            )
            if (isinstance(content, Mapping))
            else None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    return clean_state_dict(tensors)


def _without_prefix(weights: StateDict, wanted: StateDict) -> StateDict:
    """Takes off ``model.``, which a padded model and many trainers put before every name, or both do."""
    found = dict(weights)
    if any(name.startswith("model.") for name in wanted):
        return found
    while found and all(name.startswith("model.") for name in found):
        found = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    return found


def _converted(
    weights: StateDict, model: nn.Module, where: str, img_size: tuple[int, int]
) -> StateDict:
    try:
        converted = dict(convert_state_dict(dict(weights), model))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception:  # weights of another architecture: the comparison of names tells it better
        converted = weights
    tensors = {name: tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)}
    known = model.state_dict()
    return resize_positions(
        {n: t for n, t in tensors.items() if n in known or not n.endswith(_RECOMPUTED)},
        model,
        img_size,
    )


def _adapt_channels(weights: StateDict, wanted: StateDict, model: nn.Module, in_chans: int) -> None:
    """Fits the filters of the first layers, in place, to the channels of the images."""
    for conv in _first_convs(model, in_chans):
        name = f"{conv}.weight"
        if name in weights and name in wanted and weights[name].shape != wanted[name].shape:
            weights[name] = _adapted(weights[name], wanted[name], in_chans)


def _same_classifier(weights: StateDict, wanted: StateDict, heads: tuple[str, ...]) -> bool:
    """Whether none of the classifiers is one of another number of classes."""
    common = [name for name in weights.keys() & wanted.keys() if name.startswith(heads)]
    return all(weights[name].shape == wanted[name].shape for name in common)


def _first_convs(model: nn.Module, in_chans: int) -> tuple[str, ...]:
    """The names of the layers that see the image."""
    named: Any = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    convs = (name for name, module in model.named_modules() if _sees(module, in_chans))
    return tuple(convs)[:1]


def _sees(module: nn.Module, in_chans: int) -> bool:
    """Whether a layer is a convolution, of a group of rotations, too, of so many channels."""
    if isinstance(module, nn.Conv2d):
        return module.in_channels == in_chans
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 4 and weight.shape[1] == in_chans


def _adapted(weight: Tensor, wanted: Tensor, in_chans: int) -> Tensor:
    """The filters of the first layer for other channels.

    They stay as they are if they do not fit otherwise.
    """
    if (
        weight.ndim != 4
        or weight.shape[0] != wanted.shape[0]
        or weight.shape[2:] != wanted.shape[2:]
    ):
        return weight
    channels, rest = divmod(
        weight.shape[1] * in_chans, wanted.shape[1]
    )  # space-to-depth stems have several per channel
    try:
        return (
            weight
            if rest or channels < 1
            else adapt_input_conv(in_chans, weight, base_chans=channels)
        )
    except (NotImplementedError, AssertionError):
        return weight


def _check_fit(
    weights: StateDict, wanted: StateDict, optional: tuple[str, ...], message: str
) -> None:
    """Demands that names and shapes agree.

    Only what is ``optional`` and the counters of batch norms may be missing.
    """
    absent = [name for name in wanted if name not in weights and not name.startswith(optional)]
    common = [name for name in wanted if name in weights]
    other = [name for name in common if not _alike(weights[name], wanted[name])]
    faults = {
        "are missing": [name for name in absent if not name.endswith("num_batches_tracked")],
        "are of another shape or kind": [_both(name, weights, wanted) for name in other],
        "of the file's are unknown": [name for name in weights if name not in wanted],
    }
    problems = [f"{len(names)} {what} ({_few(names)})" for what, names in faults.items() if names]
    if problems:
        matching = f"{len(common) - len(other)} of the model's {len(wanted)} tensors match"
        raise InputError(f"{message}: {', '.join([matching, *problems])}")


def _both(name: str, weights: StateDict, wanted: StateDict) -> str:
    """Returns the shapes of a tensor in the file and in the model."""
    here, there = _shape(weights[name]), _shape(wanted[name])
    return f"{_shorter(name)}: {here} in the file, {there} in the model"


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape and kind of numbers."""
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def _few(names: list[str]) -> str:
    return ", ".join(_shorter(n, 80) for n in names[:3]) + (", …" if len(names) > 3 else "")


def _shorter(text: str, most: int = 60) -> str:
    """A text from outside, fit for a message: one line, printable, not long."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _reason(error: BaseException, most: int = 160) -> str:
    return _shorter(" ".join(str(error).split()) or type(error).__name__, most)


@contextlib.contextmanager
def _no_waiting_for_a_missing_network() -> Iterator[None]:
    """Lets the hub's client look only into its cache when its host has no address.

    It would retry for a minute.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    host = urllib.parse.urlparse(constants.ENDPOINT).hostname or "huggingface.co"
    if not urllib.request.getproxies():
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
