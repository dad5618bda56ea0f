"""Runs timm's models at the image's own size: no enlargement, and no pixel dropped.

Models that cut an image into patches, or that halve it by 2×2 convolutions, silently ignore the
last pixels of a side that does not divide. Here such an image is padded with zeros, equally on all
sides, up to the next size that fits: 150 pixels become 152 for 8-pixel patches. Everything else
runs at the size as it is.
"""

import math
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haloformer.errors import InputError


class PaddedInput(nn.Module):
    """A model that sees its images padded with zeros to the size it was built for.

    Images of another size are refused: of these the model might drop pixels. It answers to timm's
    protocol; what it does not define itself is the inner model's. Feature maps (and those of
    ``forward_intermediates``) are of the padded image.

    Attributes:
        model: The model inside.
        padding: Pixels added on the left, right, top and bottom.
        img_size: Height and width of the images.
    """

    def __init__(
        self, model: nn.Module, img_size: tuple[int, int], padded_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.model = model
        self.img_size = img_size
        extra_h, extra_w = padded_size[0] - img_size[0], padded_size[1] - img_size[1]
        self.padding = (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)

    def pad(self, images: Tensor) -> Tensor:
        """Pads (B, C, H, W) to the inner model's size; raises InputError if they are not of the size that it was built for."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and tuple(images.shape[-2:]) != self.img_size:  # a trace cannot ask
            height, width = images.shape[-2:]
            raise InputError(
                f"the model was built for images of {self.img_size[0]}×{self.img_size[1]} pixels, not {height}×{width}"
            )
        return F.pad(images, self.padding)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, num_classes) of images (B, C, H, W)."""
        out: Tensor = self.model(self.pad(images))
        return out

    def forward_features(self, images: Tensor, **kwargs: Any) -> Tensor:
        """Returns the features before pooling."""
        inner: Any = self.model
        features: Tensor = inner.forward_features(self.pad(images), **kwargs)
        return features

    def forward_intermediates(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns intermediate features, as timm defines them."""
        inner: Any = self.model
        return inner.forward_intermediates(self.pad(images), *args, **kwargs)

    def no_weight_decay(self) -> set[str]:
        """Returns the inner model's exceptions, under the names that they have here."""
        inner = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in inner()}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # `model` itself is missing only before __init__ (unpickling, copying): do not recurse
            # then.
            if name == "model":
                raise
            inner = getattr(super().__getattr__("model"), name)
            # An architecture's own ways from images to more than logits.
            if name.startswith("forward_with_"):
                return lambda images, *args, **kwargs: inner(self.pad(images), *args, **kwargs)
            return inner


def build_at_native_size(
    timm_name: str,
    img_size: tuple[int, int],
    in_chans: int,
    num_classes: int,
    called: str | None = None,
    /,  # the model's keywords may have any name
    **kwargs: Any,
) -> nn.Module:
    """Builds a timm model for images of exactly ``img_size``, padded only where it must be.

    Args:
        timm_name: The entry of timm's registry.
        img_size: Height and width in pixels.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        called: What it is called in messages; None: as in timm's registry.
        **kwargs: What else the entry is given.

    Raises:
        InputError: The model cannot run at this size, or gives something else than so many numbers.
    """
    called = called or timm_name
    reasons: list[str] = []
    for size in _sizes_to_try(img_size):
        try:
            model = _build(timm_name, called, size, in_chans, num_classes, **kwargs)
        except InputError:
            raise
        except _SIZE_ERRORS as error:
            reasons.append(_one_line(error))
            continue
        multiple = patch_size(model)
        if size[0] % multiple[0] or size[1] % multiple[1]:
            reasons.append(f"its {multiple[0]}-pixel patches do not divide {size[0]}×{size[1]}")
            rounded = (_round_up(size[0], multiple[0]), _round_up(size[1], multiple[1]))
            model = _build(timm_name, called, rounded, in_chans, num_classes, **kwargs)
            size = rounded
        # The function, too: an own architecture may be registered anew.
        described = repr((timm_name, size, num_classes, sorted(kwargs.items())))
        built = (timm.models.model_entrypoint(timm_name), described)
        failure = (
            None if built in _RUNNING else _dry_run(model, in_chans, size, num_classes, called)
        )
        if failure is None:
            _RUNNING.add(built)
            return model if size == img_size else PaddedInput(model, img_size, size)
        reasons.append(failure)
    raise InputError(
        f"model '{called}' cannot be built for {img_size[0]}×{img_size[1]} images: {reasons[0]}"
    )


_RUNNING: set[tuple[Any, str]] = set()
"""What was built before in this process and did run: a second dry run would find the same.

The number of channels does not change the size of any map.
"""

# What timm and torch raise when a size does not fit an architecture.
_SIZE_ERRORS = (AssertionError, RuntimeError, ValueError, IndexError, ZeroDivisionError)


def _sizes_to_try(img_size: tuple[int, int]) -> list[tuple[int, int]]:
    """The size itself, then multiples of 16, 32 and 64 (strides of pyramids), then of 48."""
    rounded = [
        (_round_up(img_size[0], multiple), _round_up(img_size[1], multiple))
        for multiple in (1, 16, 32, 64, 48)
    ]
    return list(dict.fromkeys(rounded))


def _round_up(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple


def patch_size(model: nn.Module) -> tuple[int, int]:
    """Returns the (height, width) in pixels of the patches of a model.

    It is (1, 1) if the model cuts none.
    """
    embed = getattr(model, "patch_embed", None)
    if embed is None or not hasattr(embed, "patch_size"):
        return (1, 1)
    projection = getattr(embed, "proj", None)
    if isinstance(projection, nn.Conv2d) and projection.kernel_size != projection.stride:
        return (1, 1)  # overlapping patches: a strided convolution like any other
    patch = embed.feat_ratio(as_scalar=False) if hasattr(embed, "feat_ratio") else embed.patch_size
    height, width = (patch, patch) if isinstance(patch, int) else patch
    return int(height), int(width)


def _build(
    timm_name: str,
    called: str,
    size: tuple[int, int],
    in_chans: int,
    num_classes: int,
    /,
    **kwargs: Any,
) -> nn.Module:
    """Builds with ``img_size`` where the model takes it.

    Convolutional models run at any size and do not.
    """
    options = {"in_chans": in_chans, "num_classes": num_classes, **kwargs}
    square = size[0] if size[0] == size[1] else size  # some models take only one number
    try:
        try:
            return _timm_model(timm_name, img_size=square, **options)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        return _timm_model(timm_name, **options)
    except (MemoryError, *_SIZE_ERRORS):
        raise
    except Exception as error:  # what an unfit keyword leads to is of every kind
        raise InputError(
            f"model '{called}' cannot be built with these keywords: {_one_line(error)}"
        ) from error


def _timm_model(timm_name: str, /, **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(timm_name, **options)
    return model


def _dry_run(
    model: nn.Module, in_chans: int, size: tuple[int, int], num_classes: int, called: str
) -> str | None:
    """Returns why the model does not suit the size, or None.

    It sees a blank image in evaluation mode: no random numbers are drawn and no batch statistics
    change.

    Raises:
        InputError: It gives something else than ``num_classes`` numbers.
    """
    dropping: list[str] = []

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if _drops_pixels(layer, inputs[0]):
            height, width = inputs[0].shape[-2:]
            dropping.append(
                f"a layer of stride {layer.stride} drops pixels of a {height}×{width} map"
            )

    hooks = [
        layer.register_forward_pre_hook(watch)
        for layer in model.modules()
        if isinstance(layer, _STRIDED)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            numbers = model(torch.zeros(1, in_chans, *size))
    except MemoryError:
        raise
    except Exception as error:  # a size, or a keyword that only shows when the model runs
        return _one_line(error)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    _check_numbers(numbers, num_classes, called)
    return dropping[0] if dropping else None


def _check_numbers(numbers: object, num_classes: int, called: str) -> None:
    """Raises InputError unless a model gave (1, num_classes) numbers for one image."""
    is_tensor = isinstance(numbers, Tensor)
    shape = tuple(numbers.shape) if isinstance(numbers, Tensor) else None
    if shape != (1, num_classes):
        found = f"a tensor {shape}" if is_tensor else f"a {type(numbers).__name__}"
        raise InputError(
            f"model '{called}' gives {found} for one image, where (1, {num_classes}) is needed: is "
            "there a keyword, such as features_only or global_pool, that takes its classifier away?"
        )


_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.Unfold)


def _drops_pixels(layer: Any, maps: Tensor) -> bool:
    """Whether a strided layer ends before the last row or column of its input."""
    # timm's "Same" layers pad as they go, whatever their attribute says; ceil_mode lets windows
    # hang over the edge.
    if (
        "Same" in type(layer).__name__
        or isinstance(layer.padding, str)
        or getattr(layer, "ceil_mode", False)
    ):
        return False
    for side, kernel, stride, padding, dilation in zip(
        maps.shape[-2:],
        *(
            _pair(getattr(layer, name, 1))
            for name in ("kernel_size", "stride", "padding", "dilation")
        ),
    ):
        # A kernel narrower than its stride (a ResNet's shortcut) samples on purpose.
        left_over = (side + 2 * padding - dilation * (kernel - 1) - 1) % stride
        if kernel >= stride and left_over > padding:
            return True
    return False


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
