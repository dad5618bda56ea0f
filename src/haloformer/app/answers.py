"""What the app shows, as plain functions: answers, simulated lenses, tables of models."""

import contextlib
import csv
import dataclasses
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haloformer.artefact.read import artefact_folder, shipped_models
from haloformer.data.reader import (
    DATASET_SUFFIXES,
    InputFile,
    PixelGrid,
    ReadImage,
    Reading,
    read_images,
)
from haloformer.errors import InputError, brief
from haloformer.evaluation.published import best_published
from haloformer.explanation import attention_overlay
from haloformer.io.strict_json import read_json
from haloformer.prediction.predictor import Predictor
from haloformer.readers.images import SUFFIXES, image_suffix
from haloformer.readers.unpacked import check_unpacked
from haloformer.reporting.interval import Interval, format_interval, format_value
from haloformer.simulation import Simulator, get_survey, list_surveys
from haloformer.simulation.distributions import LogUniform, PowerLaw
from haloformer.simulation.substructure import PointSubhalos, Vortex
from haloformer.simulation.surveys import Survey
from haloformer.vocabulary import unknown_name

MAX_UPLOAD_BYTES = 64 * 2**20
STRETCHES = ("asinh", "linear")
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
        text = without_folders(error)
        raise InputError(
            text.replace(_OPTION, "give its pixel scale, choose it again, and it will")
        ) from error
    found = answer(predictor, torch.tensor(image), name)  # a copy: what was read may be read-only
    layers, maps = _attention(predictor, image) if attention else ([], None)
    return dataclasses.replace(
        found, image=image.mean(0), layers=layers, attention=maps, scale=scale
    )


def answer(predictor: Predictor, image: torch.Tensor, name: str = "") -> Answer:
    """Returns what a model says of one raw image (C, H, W)."""
    numbers, verdict = predictor.numbers_and_ood(image[None])
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


def number(value: object, name: str, low: float, high: float) -> float:
    """Returns a number that a visitor gave; raises InputError for what is none, or out of range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must lie between {low:g} and {high:g}, not {str(value)[:60]}")
    return float(value)


def whole(value: object, name: str, low: int, high: int) -> int:
    """Returns a whole number of a visitor's; a fraction is cut off. Raises InputError as `number`."""
    return int(number(value, name, low, high))


def without_folders(error: InputError) -> str:
    """Returns what an error says without the folders of this machine's files."""
    return brief(_FOLDERS.sub("", str(error.args[0] if error.args else error)))


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
        ),  # of the second tab: last
    )
    for step in steps:
        if stopped is not None and stopped.is_set():
            return
        with contextlib.suppress(
            InputError
        ):  # the model finds no answer to a ring: a person's image will tell
            step()


def _read(path: Path, number: int, grid: PixelGrid, reading: Reading) -> tuple[ReadImage, str]:
    """Returns an image and its name."""
    if not path.is_file():
        raise InputError(f"{path} is no longer kept here: choose the file again")
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        raise InputError(
            f"{path} is larger than the {MAX_UPLOAD_BYTES >> 20} MiB that an upload may have"
        )
    dataset = path.suffix.lower() in DATASET_SUFFIXES
    if not dataset and image_suffix(path.name) not in SUFFIXES:
        raise InputError(f"{path} is not an image file: {', '.join(UPLOAD_SUFFIXES)} can be read")
    check_unpacked(path, MAX_UPLOAD_BYTES, number)
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


_FOLDERS = re.compile(r"(?<![\w./])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:'\"]+[/\\])+")
"""The folders of a path, with which it begins."""

_OPTION = "--pixel_scale, in arcsec, lets it"  # what a person at a command line is told


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


# --- pictures ---------------------------------------------------------------------------------------------------------


def light(
    image: np.ndarray, stretch: str = "asinh", percent: float = 99.5, cmap: str = "inferno"
) -> np.ndarray:
    """Returns an image (H, W) as colours (H, W, 3) uint8.

    ``percent`` of the pixels lie between the darkest and the brightest.
    """
    from astropy.visualization import AsinhStretch, LinearStretch, PercentileInterval
    from matplotlib import colormaps

    if stretch not in STRETCHES:
        raise unknown_name("stretch", str(stretch), STRETCHES)
    number(percent, "percent", 1, 100)
    shown = (AsinhStretch(0.1) if stretch == "asinh" else LinearStretch()) + PercentileInterval(
        percent
    )
    if np.ptp(image) == 0:  # nothing to stretch
        return colormaps[cmap](np.zeros(image.shape), bytes=True)[..., :3]
    result: np.ndarray = colormaps[cmap](
        np.nan_to_num(shown(image.astype(np.float64))), bytes=True
    )[..., :3]
    return result


def overlay(
    image: np.ndarray, attention: np.ndarray, stretch: str = "asinh", percent: float = 99.5
) -> np.ndarray:
    """Returns the image in grey with attention (H, W), at most 1, laid over it: (H, W, 3) uint8."""
    from matplotlib import colormaps

    grey = light(image, stretch, percent, "gray") / 255
    strength = np.clip(attention, 0, 1)[..., None] ** 0.6  # so that the weaker half is seen, too
    tint = colormaps["plasma"](np.clip(attention, 0, 1))[..., :3]
    result: np.ndarray = np.round(
        255 * (grey * (1 - 0.75 * strength) + tint * 0.75 * strength)
    ).astype(np.uint8)
    return result


def signed(difference: np.ndarray) -> np.ndarray:
    """Returns a difference (H, W) as colors (H, W, 3) uint8.

    Orange where it is positive, blue where it is negative, black at 0.
    """
    scaled = difference / max(float(np.abs(difference).max()), 1e-12)
    scaled = (np.sign(scaled) * np.abs(scaled) ** 0.5)[..., None]
    orange, blue = np.array([255, 176, 59]), np.array([86, 180, 233])
    result: np.ndarray = np.round(
        np.maximum(scaled, 0) * orange + np.maximum(-scaled, 0) * blue
    ).astype(np.uint8)
    return result


# --- simulation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lens:
    """A simulated lens and its twin without substructure.

    Attributes:
        survey: Its survey's name.
        image: (H, W) float32 with noise.
        smooth: (H, W) float32, the same without substructure, with the noise of the same draw.
        difference: (H, W) float32, with − without, free of noise.
        noise: The noise mode.
        size: Side of the image in arcsec.
    """

    survey: str
    image: np.ndarray
    smooth: np.ndarray
    difference: np.ndarray
    noise: str
    size: float


def simulate(
    survey: str = "model_i",
    class_name: str = "axion",
    *,
    source_x: float = 0.1,
    source_y: float = 0.0,
    log10_m_axion: float = -23.0,
    vortex_angle: float = 45.0,
    n_subhalos: int = 25,
    slope: float = -0.9,
    exposure: float | None = None,
    noise: str = "original",
    draw: int = 0,
) -> Lens:
    """Draws one lens of a survey with these parameters instead of the survey's own.

    Args:
        survey: Name of a shipped survey.
        class_name: One of its classes.
        source_x: Position of the source in arcsec, within 2.
        source_y: The same.
        log10_m_axion: log10 of the axion mass in eV, −24 … −22; for axion.
        vortex_angle: Angle of the vortex to the x axis in degrees; for axion.
        n_subhalos: 0 … 200; for cdm.
        slope: dN/dm ∝ m^slope of the subhalos; for cdm.
        exposure: Seconds per exposure, 10 … 100,000; the survey's if None.
        noise: ``"original"``, ``"instrument"`` or ``"none"``.
        draw: Seed of noise and subhalos.
    """
    limits = {
        "source_x": (source_x, -2, 2), "source_y": (source_y, -2, 2), "log10_m_axion": (log10_m_axion, -24, -22),
        "vortex_angle": (vortex_angle, -360, 360), "n_subhalos": (n_subhalos, 0, 200), "slope": (slope, -4, 2),
        "exposure": (1e3 if exposure is None else exposure, 10, 1e5), "draw": (draw, 0, 2**31),
    }  # fmt: skip
    for name, (value, low, high) in limits.items():
        number(value, name, low, high)  # a number field may be empty
    if survey not in list_surveys(composed=False):
        raise unknown_name("survey", survey, list_surveys(composed=False))
    recipe = get_survey(survey)
    # slopes of −1 need the logarithm
    mass = LogUniform(1e6, 1e10) if abs(slope + 1) < 1e-6 else PowerLaw(1e6, 1e10, slope)
    changed: dict[type, dict[str, Any]] = {
        Vortex: {"log10_m_axion": log10_m_axion, "angle": math.radians(vortex_angle)},
        PointSubhalos: {"number": int(n_subhalos), "mass": mass},
    }
    camera = recipe.instrument
    if exposure is not None:
        camera = dataclasses.replace(camera, exposure_time=exposure)
    recipe = dataclasses.replace(
        recipe,
        source=dataclasses.replace(recipe.source, x=float(source_x), y=float(source_y)),
        instrument=camera,
        substructure={
            name: tuple(dataclasses.replace(part, **changed[type(part)]) for part in parts)
            for name, parts in recipe.substructure.items()
        },
    )
    with _RENDERING:
        noisy, plain = (_images(recipe, class_name, kind, int(draw)) for kind in (noise, "none"))
    instrument = recipe.instrument
    return Lens(
        survey, *noisy, plain[0] - plain[1], noise, instrument.num_pix * instrument.pixel_scale
    )


_RENDERING = threading.Lock()  # the compiled kernel is built once, on first use


def _images(
    recipe: Survey, class_name: str, noise: str, draw: int
) -> tuple[np.ndarray, np.ndarray]:
    simulator = Simulator(recipe, classes=[class_name], seed=draw, noise=noise)
    scenes = simulator.scenes([0])
    return simulator.images(scenes)[0].numpy(), simulator.images(scenes.without_substructure())[
        0
    ].numpy()


def usual_exposure(survey: str) -> float:
    """Returns a survey's exposure time in s; of a distribution, its median."""
    time = get_survey(survey).instrument.exposure_time
    return float(time) if isinstance(time, float | int) else float(time.quantile(np.array(0.5)))


def why_no_answer(predictor: Predictor, lens: Lens) -> str | None:
    """Returns why the model is not asked about a simulated lens; None if it is."""
    survey, noise = (predictor.artefact.get(key) for key in ("survey", "noise"))
    if predictor.image_shape != (1, *lens.image.shape) or survey != lens.survey:
        return f"The model knows images of {survey or 'its own data set'} only: it is not asked about {lens.survey}."
    if noise != lens.noise:
        return f"The model knows images with the noise '{noise}' only: it is not asked about '{lens.noise}'."
    return None


# --- models -----------------------------------------------------------------------------------------------------------

Table = tuple[list[str], list[list[str]]]  # header and rows


def shipped_table() -> Table:
    """Returns the trained models of the package with the AUCs that they were measured to have."""
    rows = []
    for name in shipped_models():
        artefact = read_json(artefact_folder(Path(name)) / "artefact.json")
        measured: dict[str, Any] = artefact.get("measured") or {}
        aucs = [
            measured.get("macro_auc"),
            *((measured.get("auc") or {}).get(c) for c in ("axion", "cdm", "no_sub")),
        ]
        cells = ["–" if auc is None else format_interval(Interval(**auc)) for auc in aucs]
        tested = f"{measured['n_images']:,}, {measured['date']}" if measured else "–"
        rows.append(
            [name, artefact["model"]["name"], str(artefact.get("survey", "–")), *cells, tested]
        )
    return [
        "model",
        "network",
        "survey",
        "macro AUC (95 %)",
        "axion",
        "cdm",
        "no_sub",
        "test images, date",
    ], rows


def published_table() -> Table:
    """Returns the networks for lens cutouts, with the best published AUC of each family."""
    from haloformer.models.table import model_table

    rows = []
    for model in model_table():
        if model["size"] not in ("nano", "tiny"):
            continue
        best = [best_published(model["family"], survey) for survey in list_surveys(composed=False)]
        cells = [f"{format_value(b.macro)} ({b.source})" if b else "–" for b in best]
        rows.append([model["name"], model["family"], f"{model['parameters'] / 1e6:.2f} M", *cells])
    return [
        "model",
        "family",
        "parameters",
        *(f"published, {survey}" for survey in list_surveys(composed=False)),
    ], rows


_BOARD = ("survey", "rank", "model", "family", "macro_auc", "macro_auc_low", "macro_auc_high", "published_macro_auc",
          "accuracy", "parameters")  # fmt: skip
_MAX_BOARD = 5000  # rows


def leaderboard_table(path: str | Path) -> Table:
    """Reads the ``leaderboard.csv`` of ``haloformer benchmark``.

    Raises:
        InputError: It cannot be read, or is no leaderboard.
    """
    wrong = f"{path}: is not the leaderboard.csv that haloformer benchmark writes"
    rows: list[list[str]] = []
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in _BOARD if name not in (reader.fieldnames or ())]:
                raise InputError(f"{wrong}: it has no column '{missing[0]}'")
            for row in reader:
                if len(rows) == _MAX_BOARD:
                    raise InputError(f"{path}: more than {_MAX_BOARD} rows")
                interval = Interval(
                    *(float(row[f"macro_auc{end}"]) for end in ("", "_low", "_high"))
                )
                published = row["published_macro_auc"]
                rows.append([
                    row["survey"], row["rank"], row["model"], row["family"], format_interval(interval),
                    format_value(float(published)) if published else "–", format_value(float(row["accuracy"]), 3),
                    f"{float(row['parameters']) / 1e6:.2f} M",
                ])  # fmt: skip
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{wrong}: {error}") from error
    return [
        "survey",
        "rank",
        "model",
        "family",
        "macro AUC (95 %)",
        "published",
        "accuracy",
        "parameters",
    ], rows
