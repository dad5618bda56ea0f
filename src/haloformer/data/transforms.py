"""Augmentation of training batches: other views of the same lens, and other observations of it.

What each transform does to the label is argued in ``docs/recipes.md``. Where both are wanted,
turn and shift the noise-free image first and draw the noise afterwards: interpolation then finds no
noise to smooth, and the noise stays as white as the camera's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.data.augment import AUGMENTATIONS, check_augmentation, draw_transforms, transform
from haloformer.errors import InputError
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.instruments import background_rms, magnitude_to_counts
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.surveys import ORIGINAL_NOISE, AnySurvey, get_any_survey
from haloformer.vocabulary import unknown_name

ERASED_AREA = (0.02, 1 / 3)
"""Smallest and largest share of an image that is erased (Zhong et al. 2020, arXiv:1708.04896, as torchvision and timm have it)."""

ERASED_ASPECT = (0.3, 1 / 0.3)
"""Height over width of the erased rectangle, log-uniform (same source)."""

MIRRORED_BAND = 1 / 8
"""Width of the band at the edge that stands for what lies beyond it, in half images: 4 pixels of 64."""


@dataclass(frozen=True)
class Augmentation:
    """Which random views of an image are shown. The default is exact: nothing is interpolated.

    Attributes:
        augment: Symmetries of the pixel grid, one of
            :data:`~haloformer.data.augment.AUGMENTATIONS`.
        rotation: Largest turn either way, in degrees.
        shift: Largest shift along either axis, in pixels; fractions of a pixel occur.
        zoom: Images are enlarged by a factor between 1/(1 + zoom) and 1 + zoom, log-uniform.
        erasing: Probability that a rectangle of an image is overwritten.
    """

    augment: str = "d4"
    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.augment not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.augment, AUGMENTATIONS)
        for name, most, unit in (
            ("rotation", 180, " degrees"),
            ("shift", math.inf, " pixels"),
            ("zoom", 1, ""),
            ("erasing", 1, ""),
        ):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= most
                or value == math.inf
            ):
                bounds = "at least 0" if most == math.inf else f"between 0 and {most}"
                raise InputError(
                    f"augmentation.{name} must be a number {bounds}{unit}, not {value!r}"
                )

    @property
    def interpolates(self) -> bool:
        """Whether pixels are resampled; otherwise every pixel value of an image survives."""
        return self.rotation > 0 or self.shift > 0 or self.zoom > 0


def augment_images(images: Tensor, spec: Augmentation, rng: np.random.Generator) -> Tensor:
    """Shows each image in another random view.

    In this order: a symmetry of the pixel grid (exact), then rotation, zoom and shift in one
    resampling, then erasing. Pixel values are surface brightness, which a change of scale keeps; so
    an enlarged lens is brighter in all, as a more massive one is.

    Args:
        images: (B, C, H, W), any float type and device; square for ``"d4"``.
        spec: What to draw from.
        rng: The only source of random numbers. An image's draws depend neither on the device nor on
            which of rotation, shift, zoom and erasing are on.

    Returns:
        (B, C, H, W); ``images`` itself where nothing is to be done.

    Raises:
        InputError: Images or random numbers of another kind, or views that such images do not have.

    Examples:
        >>> spec = Augmentation(rotation=180, shift=2)
        >>> views = augment_images(images, spec, np.random.default_rng(0))
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        found = f"{type(images).__name__} of {getattr(images, 'dtype', 'no type')}"
        shape = tuple(getattr(images, "shape", ()))
        raise InputError(f"images must be a float tensor (B, C, H, W), not {found} {shape}")
    _check_generator(rng)
    check_augmentation(spec.augment, tuple(images.shape[1:]))
    if not len(images):
        return images
    if not spec.shift < min(images.shape[-2:]) / 2:
        raise InputError(
            f"augmentation.shift of {spec.shift} pixels is half of an image of {tuple(images.shape[-2:])}"
        )
    codes = draw_transforms(spec.augment, len(images), rng)
    view, patch = rng.random((len(images), 4)), rng.random((len(images), 5))
    images = transform(images, codes)
    if spec.interpolates:
        images = _resample(images, spec, view)
    return _erase(images, spec.erasing, patch) if spec.erasing else images


def _check_generator(rng: object) -> None:
    if not isinstance(rng, np.random.Generator):
        raise InputError(
            f"rng must be a generator of NumPy, such as numpy.random.default_rng(0), not {rng!r}"
        )


@dataclass(frozen=True)
class NoiseModel:
    """What a survey's detector does to a noise-free image.

    Attributes:
        kind: ``"double_poisson"``: Model I as released, in counts; ``"instrument"``: the camera's
            own, in counts/s; ``"doubled"``: none, the image is doubled.
        background_rms: Standard deviation of the background in counts/s per pixel, at the survey's
            own exposure time.
        num_exposures: Exposures that are added.
        sky: Counts/s per pixel from the sky, where the background follows from sky and read noise
            and so depends on the exposure time; None where ``background_rms`` holds for every
            exposure time.
        read_noise: e⁻ per pixel and exposure, beside ``sky``.
    """

    kind: str
    background_rms: float
    num_exposures: int
    sky: float | None = None
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ORIGINAL_NOISE:
            raise unknown_name("kind of noise", self.kind, ORIGINAL_NOISE)


def noise_model(
    survey: str | Path | Mapping[str, Any] | AnySurvey, noise: str
) -> NoiseModel | None:
    """Returns the noise of a survey in one of the modes of `NOISE_MODES`.

    Args:
        survey: Whatever :func:`~haloformer.simulation.surveys.get_any_survey` takes.
        noise: ``"original"``, ``"instrument"`` or ``"none"``.

    Returns:
        The model; None for ``"none"``.

    Raises:
        InputError: The camera's noise is correlated, or a map, or images are scaled after it: it is not drawn anew here.
    """
    survey = get_any_survey(survey)
    if noise not in NOISE_MODES:
        raise unknown_name("noise mode", noise, NOISE_MODES)
    if noise == "none":
        return None
    camera = survey.instrument
    if camera.noise_correlation is not None or camera.noise_map is not None:
        raise InputError(
            f"survey {survey.name}: its noise is correlated, or a map, and not drawn anew: fresh_noise must be none"
        )
    if isinstance(survey, ComposedSurvey) and survey.scaling(noise) != "none":
        raise InputError(
            f"survey {survey.name}: its images are scaled after the noise: fresh_noise must be none, or instrument"
        )
    rms = background_rms(camera)
    sky = None
    if (
        camera.background_rms is None
        and camera.sky_brightness is not None
        and camera.magnitude_zero_point is not None
    ):
        sky = (
            float(magnitude_to_counts(camera.sky_brightness, camera.magnitude_zero_point))
            * camera.pixel_scale**2
        )
    kind = survey.noise_kind(noise)
    return NoiseModel(kind, rms, camera.num_exposures, sky, camera.read_noise)


def draw_noise(
    images: Tensor, seconds: Tensor, model: NoiseModel, generator: torch.Generator
) -> Tensor:
    """Observes noise-free images once more, with noise drawn by torch.

    The distribution is that of :func:`haloformer.simulation.noise.add_noise`.

    Args:
        images: (B, C, H, W) noise-free, in counts/s per pixel. What interpolation left below 0
            counts as dark.
        seconds: (B,) time of one exposure, as the parameter ``exposure_time`` stores it.
        model: The survey's noise.
        generator: Of the random numbers, on the device of the images.

    Returns:
        (B, C, H, W) in the unit of that noise (see :class:`NoiseModel`), same type and device.

    Raises:
        InputError: Exposure times that are not positive, or not one for each image.
    """
    if model.kind == "doubled":
        return images * 2
    if images.ndim != 4 or seconds.shape != (len(images),):
        raise InputError(
            f"images {tuple(images.shape)} and exposure times {tuple(seconds.shape)} do not go "
            "together: (B, C, H, W) and (B,) are needed"
        )
    if not bool((seconds > 0).all()):
        raise InputError("exposure_time must be positive in every image that noise is drawn for")
    seconds = seconds.to(images)[:, None, None, None]
    total = seconds * model.num_exposures
    background = torch.randn(
        images.shape, generator=generator, dtype=images.dtype, device=images.device
    )
    background *= _background_rms(model, total)
    counts = torch.poisson((images * total).clamp_(min=0), generator=generator)
    if model.kind == "double_poisson":
        return torch.poisson((counts + total * background).clamp_(min=0), generator=generator)
    return counts / total + background


def draw_exposures(seconds: Tensor, low: float, high: float, rng: np.random.Generator) -> Tensor:
    """Multiplies each exposure time by a factor between ``low`` and ``high``, log-uniform.

    Args:
        seconds: (B,) exposure times.
        low: Smallest factor, positive.
        high: Largest factor, at least ``low``.
        rng: The only source of random numbers.

    Returns:
        (B,) exposure times, same type and device.
    """
    _check_generator(rng)
    if not 0 < low <= high < math.inf:
        raise InputError(
            f"exposure takes two factors with 0 < low ≤ high, such as [0.5, 2], not [{low}, {high}]"
        )
    factors = low * (high / low) ** rng.random(len(seconds))
    return seconds * torch.as_tensor(factors).to(seconds)


def _resample(images: Tensor, spec: Augmentation, u: np.ndarray) -> Tensor:
    """Rotates, zooms and shifts by the uniform draws ``u`` (B, 4), in one bicubic resampling."""
    height, width = images.shape[-2:]
    angle = np.deg2rad(spec.rotation) * (2 * u[:, 0] - 1)
    dx, dy = spec.shift * (2 * u[:, 1] - 1), spec.shift * (2 * u[:, 2] - 1)
    factor = (1 + spec.zoom) ** (2 * u[:, 3] - 1)
    c, s = np.cos(angle) / factor, np.sin(angle) / factor
    # Where each output pixel is read: input = R(−angle)/factor · (output − shift) about the centre, in units of half the image.
    matrix = np.stack(
        [
            c,
            s * height / width,
            -2 * (c * dx + s * dy) / width,
            -s * width / height,
            c,
            -2 * (c * dy - s * dx) / height,
        ],
        axis=1,
    ).reshape(-1, 2, 3)
    grid = F.affine_grid(
        torch.as_tensor(matrix).to(images), list(images.shape), align_corners=False
    )
    # Beyond the edge the outermost band goes on, mirrored to and fro: sky with its own noise. Zeros would be a frame where there is a
    # pedestal, repeated edge pixels streaks, and a mirror image of the whole would bring arcs of the lens into the corners.
    depth = (grid.abs() - 1).clamp_(min=0)
    depth = MIRRORED_BAND - (depth % (2 * MIRRORED_BAND) - MIRRORED_BAND).abs()
    grid = grid.clamp(-1, 1) - grid.sign() * depth
    views = F.grid_sample(
        images, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    # Bicubic interpolation undershoots beside bright arcs: nothing becomes darker than the image was (no negative counts, no dark rims).
    return torch.maximum(views, images.amin((-2, -1), keepdim=True))


def _erase(images: Tensor, probability: float, u: np.ndarray) -> Tensor:
    """Overwrites one rectangle of some images, by the uniform draws ``u`` (B, 5).

    The draws are: whether, area, aspect, row, column.

    The fill is the median of the image's outermost pixels, channel by channel. The edge of a lens
    image is sky, so this is the sky level in any unit and with any pedestal: the patch looks like
    empty sky. Zeros would be a hole where there is a pedestal, the mean of the image a glow that
    grows with the ring, random values a texture that occurs nowhere else.
    """
    height, width = images.shape[-2:]
    chosen = np.flatnonzero(u[:, 0] < probability)
    if not len(chosen):
        return images
    u = u[chosen]
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u[:, 1]) * height * width
    aspect = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** u[:, 2]
    tall = np.clip(np.rint(np.sqrt(area * aspect)), 1, height)
    wide = np.clip(np.rint(np.sqrt(area / aspect)), 1, width)
    top, left = np.floor(u[:, 3] * (height - tall + 1)), np.floor(u[:, 4] * (width - wide + 1))
    rows, columns = np.arange(height), np.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    inside = torch.from_numpy(in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(
        images.device
    )
    which = torch.from_numpy(chosen).to(images.device)
    part = images[which]
    edge = torch.cat([part[..., 0, :], part[..., -1, :], part[..., 0], part[..., -1]], dim=-1)
    # Sorted rather than torch.median, which has no deterministic implementation on CUDA
    fill = edge.sort(dim=-1).values[..., edge.shape[-1] // 2, None, None]
    out = images.clone()
    out[which] = torch.where(inside, fill, part)
    return out


def _background_rms(model: NoiseModel, total: Tensor) -> Tensor | float:
    """Returns the background noise in counts/s per pixel after ``total`` seconds.

    As ``instruments.background_rms`` has it.
    """
    if model.sky is None:
        return model.background_rms
    return torch.sqrt(model.num_exposures * model.read_noise**2 + model.sky * total) / total
