"""What models say of a visitor's images, as plain functions."""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from haloformer.app.given import on_the_page, without_folders
from haloformer.app.lenses import Lens, compose, simulate
from haloformer.app.pictures import overlay
from haloformer.data.reader import (
    DATASET_SUFFIXES,
    InputFile,
    PixelGrid,
    ReadImage,
    Reading,
    read_images,
)
from haloformer.errors import InputError
from haloformer.explanation import attention_overlay
from haloformer.outputs.out_of_distribution import OodVerdict
from haloformer.prediction.predictor import Predictor
from haloformer.prediction.resampled import Scales, also_resampled
from haloformer.readers.images import SUFFIXES, image_suffix
from haloformer.readers.unpacked import check_unpacked
from haloformer.simulation import list_surveys

MAX_UPLOAD_BYTES = 64 * 2**20
UPLOAD_SUFFIXES = (*SUFFIXES, *DATASET_SUFFIXES)
_MAX_DATASET_VALUES = 2**24  # C·H·W of one image of an uploaded dataset: 64 MiB


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    Attributes:
        name: Of the file, and the image's number in a dataset.
        class_name: Its class, ``unknown`` if the image is unlike those of the training; None for a
            model that only estimates.
        probabilities: Class → calibrated probability; empty for a model that only estimates.
        warning: Why the image is unlike those of the training; empty if it is not, None if the
            model cannot tell.
        estimates: Parameter → (value, low, high) of its interval, where there is something to say.
        coverage: Share of true values that the intervals shall hold.
        image: (H, W) float32, the mean over the channels; None where the image was drawn here.
        layers: Names of the L layers with attention.
        attention: (L, H, W) float32, each layer's largest value 1.
        scale: What was done about the pixel scale, in words.
        pixel_scale: Of ``image`` in arcsec; None if the model does not know it.
        residual: (H', W') what the best smooth lens leaves of the image's middle, in standard
            deviations of the noise, within ±8; None for a model that does not fit.
    """

    name: str
    class_name: str | None
    probabilities: dict[str, float]
    warning: str | None
    estimates: dict[str, tuple[float, float, float]]
    coverage: float
    image: np.ndarray | None = None
    layers: list[str] = field(default_factory=list)
    attention: np.ndarray | None = None
    scale: str = ""
    pixel_scale: float | None = None
    residual: np.ndarray | None = None


def classify(
    predictor: Predictor,
    path: str | Path,
    *,
    number: int = 0,
    attention: bool = True,
    pixel_scale: float | None = None,
) -> Answer:
    """Reads an image file or image ``number`` of a dataset (.h5), and answers.

    Args:
        predictor: Of ``haloformer.load``.
        path: At most `MAX_UPLOAD_BYTES`, unpacked, too; never unpickled.
        number: Of the image, from 0; for datasets only.
        attention: Ask where the network looks, too.
        pixel_scale: Of the image in arcsec; goes before what a FITS header says. The image is
            resampled to the model's.

    Raises:
        InputError: The file is too large, no image, damaged, of another size than the model takes,
            or full of NaN. The message has the file's name without its folder.
    """
    path = Path(path)
    reading = Reading(pixel_scale=pixel_scale)
    try:
        reading.check()
        read, name = _read(path, number, predictor.grid, reading)
        image = read.pixels
        scale = _scale_in_words(read.scales, predictor.grid, pixel_scale)
    except InputError as error:
        raise InputError(on_the_page(without_folders(error))) from error
    found = seen(predictor, image, name, attention=attention, scales=read.scales)
    return dataclasses.replace(found, scale=scale)


def seen(
    predictor: Predictor,
    image: np.ndarray,
    name: str,
    *,
    attention: bool = True,
    scales: Scales = None,
) -> Answer:
    """Returns what a model says of a raw image (C, H, W), with what it sees in it; of one that was resampled, ``scales`` are those before."""
    batch = torch.tensor(image)[None]  # a copy: what was read may be read-only
    look = None if predictor.residual is None else predictor.look(batch)
    numbers, verdict = predictor.numbers_and_ood(batch, look=look)
    verdict = also_resampled(verdict, predictor, [scales])
    found = _in_words(predictor, numbers, verdict, name)
    layers, maps = _attention(predictor, image) if attention else ([], None)
    return dataclasses.replace(
        found,
        image=image.mean(0),
        layers=layers,
        attention=maps,
        pixel_scale=predictor.grid.pixel_scale,
        residual=None if look is None else look.channels[0, 1].cpu().numpy(),
    )


def answer(predictor: Predictor, image: torch.Tensor, name: str = "") -> Answer:
    """Returns what a model says of one raw image (C, H, W)."""
    return _in_words(predictor, *predictor.numbers_and_ood(image[None]), name)


def _in_words(
    predictor: Predictor, numbers: torch.Tensor, verdict: OodVerdict | None, name: str
) -> Answer:
    found = predictor.answers_of(numbers, verdict)
    probabilities, estimates = {}, {}
    if found.probabilities is not None:
        probabilities = dict(
            zip(predictor.class_names, found.probabilities[0].tolist(), strict=True)
        )
    for t, target in enumerate(predictor.outputs.targets):
        value, low, high = (float(found.estimates[key][0, t]) for key in ("mean", "low", "high"))
        if math.isfinite(value):
            estimates[target] = (value, low, high)
    warning = None if verdict is None else found.reasons[0] if bool(found.flagged[0]) else ""
    class_name = found.classes[0] if found.classes else None
    return Answer(name, class_name, probabilities, warning, estimates, predictor.outputs.coverage)


def why_no_answer(predictor: Predictor, lens: Lens) -> str | None:
    """Returns why the model is not asked about a simulated lens; None if it is."""
    survey, noise = (predictor.artefact.get(key) for key in ("survey", "noise"))
    if predictor.image_shape != (1, *lens.image.shape) or survey != lens.survey:
        return f"The model knows images of {survey or 'its own data set'} only: it is not asked about {lens.survey}."
    if noise != lens.noise:
        return f"The model knows images with the noise '{noise}' only: it is not asked about '{lens.noise}'."
    return None


def warm_up(predictor: Predictor, stopped: threading.Event | None = None) -> None:
    """Answers and draws once, so that kernels are compiled before a person waits for them.

    Args:
        predictor: That shall answer.
        stopped: Ends it at the next step when set.
    """
    survey = predictor.artefact.get("survey")
    height, width = predictor.image_shape[1:]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ring = np.exp(-(((np.hypot(x, y) - 0.4) / 0.1) ** 2)) + 0.01 * np.random.default_rng(0).random(
        (height, width)
    )
    image = np.broadcast_to(ring.astype(np.float32), predictor.image_shape).copy()
    steps: tuple[Callable[[], object], ...] = (
        lambda: answer(predictor, torch.from_numpy(image)),
        lambda: _attention(predictor, image),
        lambda: overlay(image[0], image[0]),
        lambda: simulate(
            survey
            if survey in list_surveys(composed=False)
            else next(iter(list_surveys(composed=False)))
        ),  # of other tabs: last
        lambda: compose("hst", "cdm"),
        lambda: compose("hst", "axion"),
    )
    for step in steps:
        if stopped is not None and stopped.is_set():
            return
        with contextlib.suppress(
            InputError
        ):  # the model finds no answer to a ring: a person's image will tell
            step()


def check_upload(path: Path, number: int = 0) -> None:
    """Raises InputError for a file that is too large, also unpacked, or of no kind that is read."""
    if not path.is_file():
        raise InputError(f"{path} is no longer kept here: choose the file again")
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        raise InputError(
            f"{path} is larger than the {MAX_UPLOAD_BYTES >> 20} MiB that an upload may have"
        )
    if path.suffix.lower() not in DATASET_SUFFIXES and image_suffix(path.name) not in SUFFIXES:
        raise InputError(f"{path} is not an image file: {', '.join(UPLOAD_SUFFIXES)} can be read")
    check_unpacked(path, MAX_UPLOAD_BYTES, number)


def _read(path: Path, number: int, grid: PixelGrid, reading: Reading) -> tuple[ReadImage, str]:
    """Returns an image and its name."""
    check_upload(path, number)
    dataset = path.suffix.lower() in DATASET_SUFFIXES
    source, name = InputFile(path), path.name
    if dataset:
        n = _dataset_length(path)
        if not 0 <= number < n:
            raise InputError(f"{path} has the images 0 … {n - 1}; there is no number {number}")
        source, name = (
            InputFile(path, 1, start=number, is_dataset=True),
            f"{path.name}, image {number}",
        )
    for (found,) in read_images([source], grid, reading, batch_size=1):
        return found, name
    # Every image of a dataset has the same shape, and it is told once, of the first.
    return _read(path, 0, grid, reading)


def _scale_in_words(
    scales: tuple[float, float] | None, grid: PixelGrid, given: float | None
) -> str:
    if grid.pixel_scale is None:
        return (
            ""
            if given is None
            else "The model does not know its pixel scale: the image was taken as it is."
        )
    if scales is None:
        return (
            f"The file does not say its pixel scale: taken for the model's {grid.pixel_scale:g}″."
        )
    if all(math.isclose(scale, grid.pixel_scale, rel_tol=1e-3) for scale in scales):
        return ""
    found = "″ × ".join(
        f"{scale:.4g}" for scale in dict.fromkeys(round(scale, 6) for scale in reversed(scales))
    )
    return f"Resampled from pixels of {found}″ to the model's {grid.pixel_scale:g}″."


def _dataset_length(path: Path) -> int:
    from haloformer.data.dataset import LensDataset

    with LensDataset(path) as dataset:
        if math.prod(dataset.image_shape) > _MAX_DATASET_VALUES:
            raise InputError(f"{path}: images of {dataset.image_shape} are too large")
        return len(dataset)


def _attention(predictor: Predictor, image: np.ndarray) -> tuple[list[str], np.ndarray | None]:
    try:
        layers, maps = attention_overlay(predictor, image)
    except InputError:  # a network without attention between places
        return [], None
    return layers, maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
