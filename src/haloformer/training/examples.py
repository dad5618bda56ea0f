"""What training gets from its data: batches of examples, and the feed that hands them out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from haloformer.data.transforms import NoiseModel
from haloformer.fitting.channels import Residual

Share = tuple[int, int]
"""(k, of): the k-th of so many processes that divide every batch among them."""

WHOLE: Share = (0, 1)
"""The share of a process that works alone."""


class Examples(NamedTuple):
    """A batch of training examples.

    Attributes:
        images: (B, C, H, W), raw.
        labels: (B,) int64.
        targets: (B, T) float32 of the regression, NaN where there is none; T may be 0.
        exposure_time: (B,) seconds; NaN where unknown.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    exposure_time: Tensor

    def to(self, device: torch.device) -> "Examples":
        """Returns the same on a device."""
        return Examples(*(column.to(device) for column in self))


class Batches(Protocol):
    """Batches of examples that can be counted, and gone through more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Examples]: ...


class Facts(TypedDict):
    """Where the images come from, for the artefact; None where the data do not say."""

    survey: str | None
    noise: str | None
    pixel_scale: float | None
    train_seed: int | None
    val_seed: int | None
    digest: str | None


@dataclass(frozen=True)
class Feed:
    """Everything that training asks of its data; `haloformer.training.feeds.open_feed` makes it.

    Attributes:
        class_names: In the order of the labels.
        image_shape: (C, H, W) of the examples, residual channels included.
        raw_shape: (C, H, W) of the images before residual channels are added.
        residual: Adds the residual channels, which the examples have already; None without them.
        epoch: (epoch, first batch, share) → that epoch's batches from the first on; always the
            same ones.
        steps: Batches per epoch.
        validation: share → batches of the validation images, as many for every process.
        calibration: Batches of images for the intervals of a regression. They neither train nor
            choose weights.
        n_train: Different training images; of an endless stream, those of one epoch.
        n_val: Validation images.
        fit: Training examples on which normalisation and the targets' scaling are fitted.
        noise_model: Draws fresh noise; None: the images are used as they are.
        facts: Survey, noise, pixel scale and seeds.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    raw_shape: tuple[int, int, int]
    residual: Residual | None
    epoch: Callable[[int, int, Share], Batches]
    steps: int
    validation: Callable[[Share], Batches]
    calibration: Batches
    n_train: int
    n_val: int
    fit: Examples
    noise_model: NoiseModel | None
    facts: Facts
