"""How pixel values become network input: one choice per model, fitted on training images, stored with the weights.

The same object is applied in training and in prediction, so the two cannot drift apart. Everything is batched tensor
arithmetic and safe for blank images: a constant image becomes zeros (or stays constant), never NaN.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

NORMALIZATIONS: dict[str, str] = {
    "none": "pixel values as they are",
    "standard": "(x − mean) / std, both over the training images, per channel",
    "image_standard": "(x − mean) / std of each image by itself",
    "image_max": "x / max |x| of each image",
    "image_minmax": "each image brought to 0 … 1",
    "asinh": "arcsinh(x / σ), σ the training images' std, per channel; then as 'standard'",
    "asinh_faint": "arcsinh(400 x / σ): faint light beside bright, for images with little noise; then as 'standard'",
    "sqrt": "sign(x) √|x|, then as 'standard'",
}
"""The kinds, each with what it does."""

_STATISTICS = {
    "standard": ("mean", "std"),
    "sqrt": ("mean", "std"),
    "asinh": ("scale", "mean", "std"),
    "asinh_faint": ("scale", "mean", "std"),
}

_SOFTENING = {
    "asinh": 1.0,
    "asinh_faint": 400.0,
}  # the images' std over the flux where arcsinh turns from linear to log

_FIT_IMAGES = 4096
_FIT_VALUES = 2**24  # 64 MiB of float32: what fitting may hold in memory


@dataclass(frozen=True)
class Normalization:
    """One normalisation, fitted or in no need of it; a pure function of image batches."""

    kind: str = "standard"
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Per-channel numbers that `fit` found: ``mean``, ``std`` and, for asinh, ``scale``. Empty before fitting."""

    def __post_init__(self) -> None:
        if self.kind not in NORMALIZATIONS:
            raise unknown_name("normalization", self.kind, NORMALIZATIONS)

    @property
    def is_fitted(self) -> bool:
        """Whether it can be applied: per-image kinds always can."""
        return set(self.statistics) == set(_STATISTICS.get(self.kind, ()))

    def fit(self, images: Tensor | Iterable[Tensor]) -> "Normalization":
        """Returns this normalisation with the statistics of training images.

        Args:
            images: (N, C, H, W), or batches of that form; from a long tensor some thousand images evenly spread over it
                are used, from batches the first that many (so they should come shuffled).
        """
        if self.kind not in _STATISTICS:
            return Normalization(self.kind)
        sample = _sample(images)
        if not torch.isfinite(sample).all():
            raise InputError(
                f"normalization '{self.kind}' cannot be fitted: the images hold NaN or infinite values"
            )
        statistics = {}
        if self.kind in _SOFTENING:
            statistics["scale"] = tuple(
                std / _SOFTENING[self.kind] for std in _mean_and_std(sample)[1]
            )
        mean, std = _mean_and_std(_stretch(self.kind, sample, statistics))
        return Normalization(self.kind, {**statistics, "mean": mean, "std": std})

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises a batch.

        Args:
            images: (B, C, H, W), any real dtype and device.

        Returns:
            (B, C, H, W) on the same device; float64 for float64, otherwise float32.

        Raises:
            InputError: They are no tensor of this form: of (B, H, W) the images would be taken for
                the channels of one.
        """
        if not isinstance(images, Tensor) or images.ndim != 4:
            shape = tuple(getattr(images, "shape", ()))
            raise InputError(
                f"images must be a tensor (B, C, H, W), not {type(images).__name__} {shape}"
            )
        if not self.is_fitted:
            raise RuntimeError(
                f"normalization '{self.kind}' must be fitted on training images before it is applied"
            )
        x = images if images.dtype == torch.float64 else images.float()
        if self.kind == "none":
            return x
        if self.kind in _STATISTICS:
            channels = len(self.statistics["mean"])
            if x.shape[-3] != channels:
                raise InputError(
                    f"images have {x.shape[-3]} channels where the normalization was fitted on {channels}"
                )
            x = _stretch(self.kind, x, self.statistics)
            return (x - _per_channel(self.statistics["mean"], x)) / _per_channel(
                self.statistics["std"], x
            )
        return _PER_IMAGE[self.kind](x)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON or YAML."""
        return {
            "kind": self.kind,
            "statistics": {name: list(values) for name, values in self.statistics.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Normalization":
        """Makes a normalisation from what `to_dict` wrote, refusing what cannot be one."""
        kind = values.get("kind")
        if not isinstance(kind, str) or kind not in NORMALIZATIONS:
            raise unknown_name("normalization", str(kind), NORMALIZATIONS)
        described = values.get("statistics") or {}
        if not isinstance(described, Mapping):
            raise InputError(f"normalization '{kind}': statistics must be a mapping")
        statistics: dict[str, tuple[float, ...]] = {}
        for name, numbers in described.items():
            try:
                statistics[name] = tuple(float(number) for number in numbers)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"normalization '{kind}': {name} must be a list of numbers, not {numbers!r}"
                ) from error
            positive = name in ("std", "scale")
            if not all(
                math.isfinite(number) and (number > 0 or not positive)
                for number in statistics[name]
            ):
                raise InputError(
                    f"normalization '{kind}': {name} = {statistics[name]} is not usable"
                )
        wanted = _STATISTICS.get(kind, ())
        if statistics and set(statistics) != set(wanted):
            raise InputError(
                f"normalization '{kind}' needs the statistics {list(wanted)}, not {sorted(statistics)}"
            )
        if len({len(numbers) for numbers in statistics.values()}) > 1:
            raise InputError(
                f"normalization '{kind}': the statistics differ in their number of channels"
            )
        return cls(kind, statistics)


def _stretch(kind: str, x: Tensor, statistics: Mapping[str, tuple[float, ...]]) -> Tensor:
    """The pointwise part, before mean and standard deviation of the training set are applied."""
    if kind in _SOFTENING:
        return torch.asinh(x / _per_channel(statistics["scale"], x))
    if kind == "sqrt":
        # The clamp changes no value; it keeps the gradient of the many pixels that are exactly 0 finite.
        return torch.sign(x) * torch.sqrt(torch.abs(x).clamp_min(torch.finfo(x.dtype).tiny))
    return x


def _image_standard(x: Tensor) -> Tensor:
    # Dividing by the peak first keeps squares in float32's range for any unit of flux.
    peak = _peak(x)
    x = x / peak
    x = x - x.mean(dim=(-3, -2, -1), keepdim=True)
    variance = x.square().mean(dim=(-3, -2, -1), keepdim=True)
    # A constant image leaves rounding errors near 1e-7 of its peak, which must not be blown up to unit variance.
    blank = variance < 1e-12
    return torch.where(blank, torch.zeros_like(x), x / variance.clamp_min(1e-12).sqrt())


def _image_max(x: Tensor) -> Tensor:
    return x / _peak(x)


def _image_minmax(x: Tensor) -> Tensor:
    x = x / _peak(x)  # so that max − min cannot overflow
    low, high = x.amin(dim=(-3, -2, -1), keepdim=True), x.amax(dim=(-3, -2, -1), keepdim=True)
    span = high - low
    return (x - low) / torch.where(span > 0, span, torch.ones_like(span))


_PER_IMAGE = {
    "image_standard": _image_standard,
    "image_max": _image_max,
    "image_minmax": _image_minmax,
}


def _peak(x: Tensor) -> Tensor:
    """Returns max |x| of each image over all its channels, (B, 1, 1, 1); 1 for a blank image."""
    peak = x.abs().amax(dim=(-3, -2, -1), keepdim=True)
    return torch.where(peak > 0, peak, torch.ones_like(peak))


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _mean_and_std(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel; a channel without any variation has std 1, so that applying it is harmless."""
    means, stds = [], []
    for channel in x.unbind(1):
        std, mean = torch.std_mean(channel.double(), correction=0)
        means.append(float(mean))
        stds.append(float(std) if std > 1e-6 * channel.abs().max() else 1.0)
    return tuple(means), tuple(stds)


def _sample(images: Tensor | Iterable[Tensor]) -> Tensor:
    """Takes as many images as fitting needs, (n, C, H, W) float32."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or not images.numel():
            raise InputError(
                f"a normalization is fitted on images (N, C, H, W), not on {tuple(images.shape)}"
            )
        n = min(len(images), _sample_size(images))
        return images[torch.linspace(0, len(images) - 1, n).round().long()].float()
    batches: list[Tensor] = []
    count = 0
    for batch in images:
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            shape = tuple(getattr(batch, "shape", ()))
            raise InputError(
                "a normalization is fitted on a tensor (N, C, H, W), or several, not on "
                f"{type(batch).__name__} {shape}"
            )
        batches.append(batch[: _sample_size(batch) - count].float())
        count += len(batches[-1])
        if count >= _sample_size(batch):
            break
    if not count:
        raise InputError("a normalization cannot be fitted without images")
    return torch.cat(batches)


def _sample_size(images: Tensor) -> int:
    return max(1, min(_FIT_IMAGES, _FIT_VALUES // max(1, images[0].numel())))
