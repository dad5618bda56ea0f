"""Is this image like those that the network was trained on? A verdict beside each answer, from what validation images look like.

Three things of an image are measured, its *features*:

- ``features``: what the network gives its classifier (Lee et al. 2018, arXiv:1807.03888);
- ``image``: brightness, sky, noise, sharpness and the place of the light, which a network may overlook (`IMAGE_FEATURES`);
- ``fit``: what the survey's best smooth lens leaves, for networks that see the residual.

Each is compared with those of validation images: half of them say where such features lie (`Cloud`), the other half how far from there an image
of the same kind may be, so that a share `ALARM_RATE` of new images of that kind is flagged (split conformal prediction, as for the
regression's intervals).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.errors import InputError, reason_of
from haloformer.files import check_regular

ALARM_RATE = 0.01
"""Share of images of the training's own kind that are flagged."""

MIN_IMAGES = 20
"""Validation images below which nothing is said of what is usual; below 200, `ALARM_RATE` is less than they can tell, and the farthest counts."""

_FEW, _COMMON = 5, 0.25
"""Images, and largest share of all, that lie beyond what is rare in each part before the parts are put together."""

SCORE_BOUND = 1e6

IMAGE_FEATURES: tuple[tuple[str, str], ...] = (
    ("log_rms", "brightness"),
    ("log_peak", "peak"),
    ("mean", "total light"),
    ("sky", "sky level"),
    ("minimum", "darkest pixels"),
    ("log_sky_rms", "noise of the sky"),
    ("log_sky_grain", "noise of the sky"),
    ("log_grain", "sharpness"),
    ("centre", "place of the light"),
    ("inner", "place of the light"),
    ("outer", "place of the light"),
    ("x", "place of the light"),
    ("y", "place of the light"),
    ("size", "size of the light"),
    ("asymmetry", "symmetry of the light"),
)
"""Name of each number that is measured of an image, and what it is of, in words."""

_WORDS = {
    "features": "features unlike those of the training images",
    "image": "{what} unlike that of the training images",
    "fit": "{fit} (chi2 = {chi2:.3g})",
}
_COMPONENTS = 64
_FLOOR = 1e-3  # standard deviation that features have at least, those of the network in units of their own: what never varied may by rounding
_LARGE = 1e30
_MAX_DIM, _MAX_CLASSES = 16_384, 1000


@dataclass(frozen=True)
class OodVerdict:
    """How unlike the training images B images are.

    Attributes:
        score: (B,) float64: distance from the validation images in units of the farthest that is usual.
        flag: (B,) bool: the score is above 1; so it is for a share `ALARM_RATE` of images of the training's own kind.
        reasons: B texts, what is unusual, the most unusual first; empty where nothing is.
    """

    score: Tensor
    flag: Tensor
    reasons: list[str]

    def also(self, further: Sequence[str]) -> "OodVerdict":
        """Returns the verdict with further reasons: B texts, empty where there is none.

        Where there is one, the image is flagged, and its score is above 1.
        """
        flag = self.flag | torch.tensor([bool(text) for text in further], device=self.flag.device)
        score = torch.where(flag, self.score.clamp(min=1.01), self.score)
        reasons = [
            "; ".join(filter(None, pair)) for pair in zip(self.reasons, further, strict=True)
        ]
        return OodVerdict(score, flag, reasons)

    def because(self, causes: Sequence[str]) -> "OodVerdict":
        """Returns the verdict with causes before the reasons of images that are flagged: B texts, empty where none is known."""
        reasons = [
            "; ".join(filter(None, (cause if flag else "", reason)))
            for cause, flag, reason in zip(causes, self.flag.tolist(), self.reasons, strict=True)
        ]
        return OodVerdict(self.score, self.flag, reasons)


@torch.no_grad()
def image_features(images: Tensor) -> Tensor:
    """Returns the numbers (B, C · len(IMAGE_FEATURES)) float64 that describe images (B, C, H, W); finite whatever the images hold.

    All but the first two are in units of the image's rms, or shares of it.
    """
    x = torch.nan_to_num(images.double(), nan=0.0, posinf=_LARGE, neginf=-_LARGE).clamp(
        -_LARGE, _LARGE
    )
    n, channels, height, width = x.shape
    x = x.reshape(n * channels, height, width)
    rms = x.square().mean((1, 2)).sqrt().clamp(min=1 / _LARGE)
    x = x / rms[:, None, None]
    v, u = (torch.linspace(-1, 1, side, dtype=x.dtype, device=x.device) for side in (height, width))
    radius = torch.maximum(
        v.abs()[:, None], u.abs()[None, :]
    )  # of square rings, so that the frame is one
    power = x.square() / x.square().sum((1, 2), keepdim=True).clamp(min=1 / _LARGE)
    across, down = (power.sum(1) * u).sum(1), (power.sum(2) * v).sum(1)
    spread = (
        (power.sum(1) * u.square()).sum(1)
        + (power.sum(2) * v.square()).sum(1)
        - across.square()
        - down.square()
    )
    frame = radius > 0.8
    sky = x[:, frame]
    # Second differences see noise and edges, not slopes (Immerkær 1996).
    kernel = (
        torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=x.dtype, device=x.device) / 6
    )
    grain = F.conv2d(x[:, None], kernel[None, None], padding=1)[:, 0].square()
    inside = torch.zeros_like(frame)
    inside[1:-1, 1:-1] = True
    # The frame of a small image is its outermost pixels, which have no second differences.
    sky_inside = frame & inside if (frame & inside).any() else inside

    def log(value: Tensor) -> Tensor:
        return value.clamp(min=1e-6).log()

    def share(ring: Tensor) -> Tensor:
        return power[:, ring].sum(1)

    columns = {
        "log_rms": rms.log(),
        "log_peak": log(x.amax((1, 2))),
        "mean": x.mean((1, 2)),
        "sky": sky.median(1).values,
        "minimum": x.amin((1, 2)),
        "log_sky_rms": log(sky.std(1)),
        "log_sky_grain": log(grain[:, sky_inside].mean(1).sqrt()),
        "log_grain": log(grain[:, inside].mean(1).sqrt()),
        "centre": share(radius < 0.2),
        "inner": share((radius >= 0.2) & (radius < 0.5)),
        "outer": share((radius >= 0.5) & (radius < 0.8)),
        "x": across,
        "y": down,
        "size": spread.clamp(min=0).sqrt(),
        "asymmetry": (x - x.flip(1, 2)).square().mean((1, 2)).sqrt(),
    }
    return torch.stack([columns[name] for name, _ in IMAGE_FEATURES], dim=1).reshape(n, -1)


def ood_features(framed: Tensor, features: Tensor, with_residual: bool) -> dict[str, Tensor]:
    """Returns the features, (B, D) float64 each on the CPU.

    Args:
        framed: (B, C, H, W) what the network looks at, before normalisation; all channels but the first may be a residual.
        features: (B, …) what the network's classifier was given.
        with_residual: Whether it is.
    """
    images = framed[:, :1] if with_residual else framed
    found = {
        "features": torch.nan_to_num(features.double(), nan=_LARGE),
        "image": image_features(images),
    }
    if with_residual:
        residual = torch.nan_to_num(framed[:, 1:].double(), nan=_LARGE).clamp(-1e6, 1e6)
        found["fit"] = residual.square().mean((2, 3)).clamp(min=1e-6).log()
    return {name: value.clamp(-_LARGE, _LARGE).cpu() for name, value in found.items()}


@dataclass(frozen=True)
class Cloud:
    """Where features of K classes lie: a mean each, and a covariance that they share.

    The covariance is that of probabilistic PCA (Tipping & Bishop 1999): as observed along its main directions, and the same along all others,
    so that a few hundred images are enough for hundreds of features.

    Attributes:
        means: (K, D).
        basis: (k, D) orthonormal main directions.
        variances: (k,) along them.
        rest: Variance along each other direction.
    """

    means: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def fit(cls, values: Tensor, labels: Tensor, relative: bool = False) -> "Cloud":
        """Returns the cloud of features (N, D) float64 of images with classes (N,); ``relative``: they have a unit of their own."""
        classes, index = labels.unique(return_inverse=True)
        means = torch.stack([values[index == k].mean(0) for k in range(len(classes))])
        centred = values - means[index]
        n, dim = max(1, len(values) - len(classes)), values.shape[1]
        _, singular, basis = torch.linalg.svd(centred, full_matrices=False)
        kept = min(_COMPONENTS, dim, max(1, n // 10), len(singular))
        variances = singular.square() / n
        left = (centred.square().sum() / n - variances[:kept].sum()).clamp(min=0) / max(
            1, dim - kept
        )
        floor = max(_FLOOR**2 * (float(centred.square().mean()) if relative else 1.0), 1e-20)
        return cls(means, basis[:kept], variances[:kept] + floor, float(left) + floor)

    def distance(self, values: Tensor) -> Tensor:
        """Returns (B,) Mahalanobis distances of features (B, D) from the nearest class."""
        from_each = values[:, None] - self.means  # (B, K, D)
        along = from_each @ self.basis.T
        beside = (from_each.square().sum(2) - along.square().sum(2)).clamp(min=0)
        return ((along.square() / self.variances).sum(2) + beside / self.rest).amin(1).sqrt()

    def deviations(self, values: Tensor) -> Tensor:
        """Returns (B, D): by how many standard deviations each trait alone differs from the mean of all."""
        squares = self.basis.square()
        total = (squares * self.variances[:, None]).sum(0) + self.rest * (1 - squares.sum(0)).clamp(
            min=0
        )
        return (values - self.means.mean(0)).abs() / total.sqrt()


@dataclass(frozen=True)
class OodDetector:
    """Tells images unlike those of the training.

    Attributes:
        clouds: Part → where its features lie.
        thresholds: Part → distance beyond which an image is unusual.
        alarm_rate: Share of usual images that are beyond one of them: `ALARM_RATE`, or of few validation images the least that they can tell.
        n: Validation images that it was made of.
    """

    clouds: dict[str, Cloud]
    thresholds: dict[str, float]
    alarm_rate: float
    n: int

    @classmethod
    def fit(
        cls, features: Mapping[str, Tensor], labels: Tensor, alarm_rate: float = ALARM_RATE
    ) -> "OodDetector | None":
        """Returns the detector for features (N, D) of validation images with classes (N,); None for fewer than `MIN_IMAGES`."""
        n = len(labels)
        if n < MIN_IMAGES:
            return None
        # By chance, as classes may alternate in the order of the images
        order = torch.from_numpy(np.random.default_rng(0).permutation(n))
        one, other = order[: n // 2], order[n // 2 :]
        clouds = {
            part: Cloud.fit(values[one], labels[one], part == "features")
            for part, values in features.items()
        }
        distances = {part: cloud.distance(features[part][other]) for part, cloud in clouds.items()}
        # Equally rare in every part first, then all parts together as rare as is wished. What is rare is seen of a few images at least: were it
        # the farthest one of each part, new ones would lie beyond any of them far more often.
        first = max(alarm_rate, min(_COMMON, _FEW / len(other)))
        separate = {part: max(_upper(values, first), 1e-6) for part, values in distances.items()}
        worst = torch.stack([values / separate[part] for part, values in distances.items()]).amax(0)
        together = max(_upper(worst, alarm_rate), 1e-6)
        thresholds = {part: value * together for part, value in separate.items()}
        return cls(clouds, thresholds, max(alarm_rate, 1 / (len(other) + 1)), n)

    def verdict(self, features: Mapping[str, Tensor]) -> OodVerdict:
        """Returns what the features (B, D) of B images say."""
        names = list(self.clouds)
        ratios = torch.stack(
            [self.clouds[name].distance(features[name]) / self.thresholds[name] for name in names],
            1,
        )
        ratios = torch.nan_to_num(ratios, nan=SCORE_BOUND, posinf=SCORE_BOUND).clamp(
            max=SCORE_BOUND
        )  # (B, parts)
        score = ratios.amax(1)
        flag = score > 1
        usual_chi2 = (
            math.exp(float(self.clouds["fit"].means.mean())) if "fit" in self.clouds else math.nan
        )
        strange = self.clouds["image"].deviations(features["image"]).argmax(1) % len(IMAGE_FEATURES)
        reasons = [""] * len(score)
        for i in flag.nonzero()[:, 0].tolist():
            chi2 = math.exp(float(features["fit"][i, 0])) if "fit" in features else math.nan
            what = IMAGE_FEATURES[int(strange[i])][1]
            fit = (
                "no smooth lens of the survey fits"
                if chi2 > usual_chi2
                else "less noise than the survey's images have"
            )
            order = [int(k) for k in ratios[i].argsort(descending=True) if ratios[i, k] > 1]
            reasons[i] = "; ".join(
                _WORDS[names[k]].format(what=what, fit=fit, chi2=chi2) for k in order
            )
        return OodVerdict(score, flag, reasons)

    def to_dict(self) -> dict[str, Any]:
        """Returns what ``artefact.json`` says of it."""
        return {"alarm_rate": self.alarm_rate, "n": self.n, "thresholds": self.thresholds}

    def tensors(self) -> dict[str, Tensor]:
        """Returns what ``ood.safetensors`` holds, float32."""
        found = {}
        for part, cloud in self.clouds.items():
            rest = torch.tensor([cloud.rest])
            for name, tensor in (
                ("means", cloud.means), ("basis", cloud.basis), ("variances", cloud.variances), ("rest", rest)
            ):  # fmt: skip
                found[f"{part}.{name}"] = tensor.float().contiguous()
        return found

    @classmethod
    def read(
        cls, description: Any, path: Path, n_features: int, channels: int, n_residual: int
    ) -> "OodDetector":
        """Makes a detector of what `to_dict` and `tensors` gave, refusing what cannot be one.

        Args:
            description: Of ``artefact.json``.
            path: Of ``ood.safetensors``.
            n_features: What the network gives its classifier.
            channels: Of the images that the network looks at, without a residual.
            n_residual: How many further channels show what a fit leaves.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        parts = ("features", "image", "fit") if n_residual else ("features", "image")
        if not _describes_detector(description, parts):
            raise InputError(
                f"{path.parent / 'artefact.json'}: ood must hold alarm_rate, n and thresholds of {', '.join(parts)}"
            )
        check_regular(path)
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; the artefact lacks the statistics that its 'ood' speaks of"
            )
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read as safetensors: {reason_of(error)}"
            ) from error
        clouds = {part: _cloud(tensors, part, path) for part in parts}
        dims = {"features": n_features, "image": channels * len(IMAGE_FEATURES), "fit": n_residual}
        for part, dim in dims.items():
            if part in clouds and clouds[part].means.shape[1] != dim:
                raise InputError(f"{path}: '{part}.means' must have {dim} columns")
        thresholds = {part: float(description["thresholds"][part]) for part in parts}
        return cls(clouds, thresholds, float(description["alarm_rate"]), description["n"])


def _describes_detector(description: Any, parts: tuple[str, ...]) -> bool:
    if not isinstance(description, dict):
        return False
    n, thresholds = description.get("n"), description.get("thresholds")
    return (
        _number(description.get("alarm_rate"), 1)
        and isinstance(n, int)
        and not isinstance(n, bool)
        and n >= 1
        and isinstance(thresholds, dict)
        and set(thresholds) == set(parts)
        and all(_number(value, 1e12) for value in thresholds.values())
    )


def _cloud(tensors: dict[str, Tensor], part: str, path: Path) -> Cloud:
    names = ("means", "basis", "variances", "rest")
    found = [tensors.get(f"{part}.{name}") for name in names]
    means, basis, variances, rest = found
    if means is None or basis is None or variances is None or rest is None:
        raise InputError(f"{path}: lacks '{part}.{names[[t is None for t in found].index(True)]}'")
    fits = (
        (means.ndim, basis.ndim, variances.ndim, tuple(rest.shape)) == (2, 2, 1, (1,))
        and 1 <= means.shape[1] <= _MAX_DIM
        and 1 <= means.shape[0] <= _MAX_CLASSES
        and basis.shape == (len(variances), means.shape[1])
        and 1 <= len(variances) <= means.shape[1]
    )
    doubles = [tensor.double() for tensor in (means, basis, variances, rest)]
    if not fits or not all(torch.isfinite(tensor).all() for tensor in doubles):
        raise InputError(
            f"{path}: '{part}' does not hold finite means (K, D), basis (k, D), variances (k,) and rest (1,)"
        )
    if min(float(doubles[2].min()), float(doubles[3])) <= 0:
        raise InputError(f"{path}: '{part}' holds variances that are not above 0")
    return Cloud(doubles[0], doubles[1], doubles[2], float(doubles[3]))


def _number(value: Any, below: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < below


def _upper(values: Tensor, rate: float) -> float:
    """Returns what a share ``rate`` of new values will exceed; the largest where there are too few to say."""
    rank = min(len(values), math.ceil((len(values) + 1) * (1 - rate) - 1e-9))
    return float(values.kthvalue(rank).values)
