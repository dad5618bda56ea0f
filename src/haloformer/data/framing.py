"""How images come to the size and the channels that a network takes: the same step in training and in prediction."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from haloformer.data.normalization import Normalization
from haloformer.errors import InputError
from haloformer.validation import Strict, validated
from haloformer.vocabulary import unknown_name

FITS = {
    "resize": "interpolated to the size (bilinear, antialiased): no light is lost, but pixels are mixed",
    "crop": "the central part: pixels stay what they are, the margin is lost",
    "pad": "a frame of zeros around it: nothing is lost or mixed",
}
"""How an image comes to another size, each with what it does."""


Size = Annotated[int, Field(strict=True, ge=1, le=4096)]


class _FramingFields(Strict):
    """What a file may say of a framing."""

    img_size: Size | None = None
    fit: str = "resize"
    channels: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    crop: Size | None = None


@dataclass(frozen=True)
class Framing:
    """Size and channels of the network's input; the default changes nothing.

    Attributes:
        img_size: Side of the square that the network gets, in pixels; None: the image's own height and width.
        fit: One of :data:`FITS`.
        channels: A one-channel image is repeated to so many; None: the image's own.
        crop: Side of the central part that is cut out first; None: all of the image.
    """

    img_size: int | None = None
    fit: str = "resize"
    channels: int | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise unknown_name("fit", self.fit, FITS)

    def output_shape(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns (C, H, W) of the network's input for images of this shape, or says why that cannot be."""
        channels, height, width = image_shape
        if self.channels is not None and channels not in (1, self.channels):
            raise InputError(
                f"channels {self.channels}: the images have {channels}; only one channel can be repeated"
            )
        if self.crop is not None:
            if self.crop > min(height, width):
                raise InputError(f"crop {self.crop}: more than there is of {height}×{width} images")
            height = width = self.crop
        if self.img_size is not None:
            if self.fit == "crop" and self.img_size > min(height, width):
                raise InputError(
                    f"img_size {self.img_size}: cannot be cropped out of {height}×{width} images: fit: pad"
                )
            if self.fit == "pad" and self.img_size < max(height, width):
                raise InputError(
                    f"img_size {self.img_size}: {height}×{width} images cannot be padded to it: fit: crop"
                )
            height = width = self.img_size
        return self.channels or channels, height, width

    def __call__(self, images: Tensor) -> Tensor:
        """Frames a batch.

        Args:
            images: (B, C, H, W).

        Returns:
            (B, C', H', W'), the tensor itself where nothing changes.
        """
        channels, height, width = self.output_shape(tuple(images.shape[1:]))
        if self.crop is not None:
            images = _centred(images, self.crop, self.crop)
        if (height, width) != images.shape[-2:]:
            if self.fit == "resize":
                images = F.interpolate(
                    images, (height, width), mode="bilinear", align_corners=False, antialias=True
                )
            else:
                images = _centred(images, height, width)
        return images if channels == images.shape[1] else images.expand(-1, channels, -1, -1)

    def back(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Puts what was found in a framed image back to its place in the image.

        Args:
            maps: (B, C, H', W'), of the framed image.
            size: (H, W) of the images before they were framed.

        Returns:
            (B, C, H, W): 0 where the image was cut off.
        """
        before = size if self.crop is None else (self.crop, self.crop)
        if before != maps.shape[-2:]:
            if self.fit == "resize":
                maps = F.interpolate(
                    maps, before, mode="bilinear", align_corners=False, antialias=True
                )
            else:
                maps = _uncentred(maps, before)
        return _uncentred(maps, size)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Framing":
        """Makes a framing of what `to_dict` wrote; raises InputError."""
        return cls(**validated(_FramingFields, values, "framing").model_dump())


def network_input(
    images: Tensor, framing: Framing, normalization: Normalization, with_residual: bool
) -> Tensor:
    """Returns what the network gets (B, C', H', W') of raw images (B, C, H, W), whose channels after the first may be a residual.

    A residual is in units of the noise already: it is framed with the image, but not normalised.
    """
    framed = framing(images)
    if not with_residual:
        return normalization(framed)
    return torch.cat([normalization(framed[:, :1]), framed[:, 1:]], dim=1)


def _centred(images: Tensor, height: int, width: int) -> Tensor:
    """Cuts out the centre, or puts a frame of zeros around; an odd pixel is cut from, or put to, the far side."""
    return F.pad(images, _margins((images.shape[-2], images.shape[-1]), (height, width)))


def _uncentred(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Undoes `_centred` for images that were of this size: what was cut off comes back as zeros."""
    return F.pad(maps, [-margin for margin in _margins(size, (maps.shape[-2], maps.shape[-1]))])


def _margins(before: tuple[int, int], after: tuple[int, int]) -> list[int]:
    """Returns what is added left, right, above and below; negative where it is cut off."""
    top, left = (after[0] - before[0]) // 2, (after[1] - before[1]) // 2
    return [left, after[1] - before[1] - left, top, after[0] - before[0] - top]
