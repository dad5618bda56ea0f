"""Exact symmetries of the pixel grid as augmentation: every pixel value survives.

The eight transforms of a square are numbered 0 … 7: code % 4 quarter turns (counter-clockwise, as
``torch.rot90`` turns rows towards columns), then a left-right mirror for codes 4 … 7.
"""

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

AUGMENTATIONS: dict[str, tuple[int, ...]] = {
    "none": (0,),
    "flips": (0, 2, 4, 6),  # mirrors and the half turn: these keep a rectangle's shape
    "d4": (0, 1, 2, 3, 4, 5, 6, 7),
}
"""The choices, each with the codes that it draws from."""


def check_augmentation(name: str, image_shape: tuple[int, ...]) -> None:
    """Raises InputError unless the augmentation exists and keeps the image shape (C, H, W)."""
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    if name == "d4" and image_shape[-1] != image_shape[-2]:
        raise InputError(
            f"augment 'd4' turns images by 90°, but these are {image_shape[-2]}×{image_shape[-1]}: take 'flips'"
        )


def draw_transforms(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the codes of ``n`` images, (n,) int64, each transform being equally likely."""
    return np.asarray(AUGMENTATIONS[name], dtype=np.int64)[
        rng.integers(len(AUGMENTATIONS[name]), size=n)
    ]


def transform(images: Tensor, codes: np.ndarray) -> Tensor:
    """Applies to each image the transform of its code.

    Args:
        images: (B, C, H, W); square where a code is odd.
        codes: (B,) whole numbers from 0 to 7.

    Returns:
        (B, C, H, W), newly allocated unless all codes are 0.
    """
    if not codes.any():
        return images
    out = torch.empty_like(images)
    for code in range(8):  # groups, not images: at most eight copies
        chosen = torch.from_numpy(np.flatnonzero(codes == code)).to(images.device)
        if len(chosen):
            part = torch.rot90(images[chosen], code % 4, (-2, -1))
            out[chosen] = part.flip(-1) if code >= 4 else part
    return out
