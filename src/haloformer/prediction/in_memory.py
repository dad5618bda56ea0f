"""Images that are in memory already, of whatever type: tensors, arrays, lists, astropy's quantities, masked arrays."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Images: TypeAlias = Tensor | ArrayLike
    """Raw images (B, C, H, W); a masked pixel is one that is NaN, and a unit is left away, as that of a file is."""


def as_tensor(images: Any, name: str = "images") -> Tensor:
    """Returns images as a tensor of real numbers, in which masked pixels are NaN.

    Raises:
        InputError: They are no numbers, or not all of one shape.
    """
    if isinstance(images, list | tuple) and images and all(isinstance(i, Tensor) for i in images):
        if len({each.shape for each in images}) > 1:
            raise InputError(f"{name} differ in shape: {_shapes(images)}")
        images = torch.stack(list(images))
    if isinstance(images, Tensor):
        if images.is_complex():
            raise InputError(f"{name} hold {images.dtype}, not real numbers")
        return images.detach()
    try:
        if hasattr(images, "filled") and hasattr(images, "mask"):
            images = images.astype(np.float32).filled(np.nan)
        array = np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as one array of numbers: {str(error).splitlines()[0]}"
        ) from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} are {type(images).__name__} of {array.dtype}, not real numbers")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is refused
        return torch.from_numpy(array.astype(np.float32))


def _shapes(images: list[Tensor] | tuple[Tensor, ...]) -> str:
    return ", ".join(str(shape) for shape in dict.fromkeys(tuple(each.shape) for each in images))
