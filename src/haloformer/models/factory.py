"""Builds a model by name, for images of any size."""

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from torch import nn

from haloformer.errors import InputError
from haloformer.models.native_size import build_at_native_size
from haloformer.models.registry import ModelInfo, find_model


def create_model(
    name: str,
    img_size: int | tuple[int, int],
    in_chans: int = 1,
    num_classes: int = 3,
    pretrained: bool = False,
    **kw: Any,
) -> nn.Module:
    """Builds a model that takes images (B, in_chans, H, W) of exactly this size and returns logits (B, num_classes).

    Images are neither enlarged nor cropped. Where a model's patches do not divide the size, the images are padded with
    zeros on all sides (see :mod:`haloformer.models.native_size`).

    Args:
        name: A model of ``list_models()``, or any model of timm's, with or without the prefix ``timm:``.
        img_size: Height and width in pixels, or one number for both.
        in_chans: Channels of the images; pretrained filters are summed over RGB for one channel.
        num_classes: Length of the output.
        pretrained: Start from ImageNet weights, which timm downloads.
        **kw: Goes to the model, such as ``depth=6`` or ``drop_path_rate=0.1``.

    Raises:
        InputError: Unknown name or keyword, a size that cannot be, or weights that cannot be had.
    """
    size = _checked_size(img_size)
    for what, value in (("in_chans", in_chans), ("num_classes", num_classes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{what} must be a whole number of at least 1, not {value!r}")
    info = find_model(name)
    options = {**info.kwargs, **kw}
    if not pretrained:
        return build_at_native_size(info.timm_name, size, in_chans, num_classes, **options)
    if not info.pretrained:
        raise InputError(f"there are no pretrained weights of model '{name}': pretrained must be false")
    return _build_pretrained(info, size, in_chans, num_classes, options)


def _build_pretrained(
    info: ModelInfo, size: tuple[int, int], in_chans: int, num_classes: int, options: dict[str, Any]
) -> nn.Module:
    # The bare model first: an impossible size or keyword is told apart from a missing download.
    build_at_native_size(info.timm_name, size, in_chans, num_classes, **options)
    try:
        with _no_waiting_for_a_missing_network():
            return build_at_native_size(info.timm_name, size, in_chans, num_classes, pretrained=True, **options)
    except Exception as error:  # the hub's client raises many kinds: no network, no cache, a proxy's refusal
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"cannot get the pretrained weights of model '{info.name}' (no network, and not in the cache?); "
            f"pretrained=False starts from scratch. The hub's client says: {reason[:160]}"
        ) from error


@contextlib.contextmanager
def _no_waiting_for_a_missing_network() -> Iterator[None]:
    """Lets the hub's client look only into its cache when its host has no address: it would retry for a minute."""
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


def _checked_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or not 8 <= s <= 4096 for s in sides):
        raise InputError(f"img_size must be one or two whole numbers of pixels from 8 to 4096, not {img_size!r}")
    return sides[0], sides[1]
