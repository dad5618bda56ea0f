"""Part `ood`: whether images unlike those of the training are flagged."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.audit.bench import SURE, Bench, Point, at_camera, brightness_of, interval
from haloformer.audit.figures import draw_points
from haloformer.audit.words import listed
from haloformer.data.framing import Framing
from haloformer.data.reader import ReadImage, Reading, find_inputs, read_images
from haloformer.errors import InputError
from haloformer.evaluation.testset import classes_of_use
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.interval import percent_interval, wilson
from haloformer.reporting.style import FAINT, literal, new_figure, styled
from haloformer.simulation import Scenes, get_survey, list_surveys

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FALSE_ALARMS = 0.01


def ood(bench: Bench, real: Sequence[str], galaxies: Sequence[str]) -> dict[str, Any]:
    """What the model says of images that it should not answer, and which of them it flags.

    Args:
        bench: The model.
        real: Folders or files of real lens cutouts.
        galaxies: The same of galaxies that are no lenses.
    """
    n = bench.fewer
    sets = _foreign_sets(bench, n, real, galaxies)
    why_not = _why_no_ood(bench.predictor, bench.reference[:1])
    found: dict[str, Any] = {
        "available": why_not is None,
        "why": why_not,
        "false_alarms": FALSE_ALARMS,
        "sets": [],
    }
    threshold = math.nan
    for label, batches in sets.items():
        confidence, scores, flags, size = [], [], [], 0
        for images in batches:
            confidence.append(bench.predictor.probabilities(bench.channels(images)).amax(1).numpy())
            size += len(images)
            if why_not is None:
                verdict = _ood(bench.predictor, images)
                scores.append(np.asarray(verdict.score, np.float64))
                flags.append(np.asarray(verdict.flag, bool))
        if not size:
            continue
        row: dict[str, Any] = {
            "name": label,
            "n": size,
            "sure": asdict(wilson(int((np.concatenate(confidence) >= SURE).sum()), size)),
        }
        if why_not is None:
            score = np.concatenate(scores)
            if math.isnan(threshold):  # the first set is the in-distribution one
                threshold = float(np.quantile(score, 1 - FALSE_ALARMS, method="higher"))
                found["threshold"] = threshold
            row["flagged"] = asdict(wilson(int(np.concatenate(flags).sum()), size))
            row["flagged_at_threshold"] = asdict(wilson(int((score > threshold).sum()), size))
            row["median_score"] = float(np.median(score))
        found["sets"].append(row)
    return found


def _why_no_ood(predictor: Predictor, image: Tensor) -> str | None:
    """Returns why the predictor cannot say what is out of distribution; None if it can."""
    if not hasattr(predictor, "ood"):
        return "this version has no detection of unusual images"
    try:
        return (
            None
            if _ood(predictor, image) is not None
            else "the model holds no statistics of its training images"
        )
    except InputError as error:
        return str(error)


def _ood(predictor: Any, images: Tensor) -> Any:
    return predictor.ood(images.expand(-1, predictor.image_shape[0], -1, -1))


def _foreign_sets(
    bench: Bench, n: int, real: Sequence[str], galaxies: Sequence[str]
) -> dict[str, Iterator[Tensor]]:
    """Returns batches (B, 1, H, W) of each kind of image; the first kind is the in-distribution one."""

    def simulated(point: Point) -> Iterator[Tensor]:
        return (images for images, _, _ in bench.images(dataclasses.replace(point, n=point.n or n)))

    reference = bench.reference
    generator = torch.Generator().manual_seed(bench.seed % 2**63)
    white = (
        torch.randn((n, *reference.shape[1:]), generator=generator) * reference.std()
        + reference.mean()
    )
    blank = torch.stack(
        [torch.zeros_like(reference[0]), torch.full_like(reference[0], float(reference.mean()))]
    )
    sets = {
        # all n: the 1 % quantile of fewer images would rest on a handful
        "as trained": simulated(dataclasses.replace(bench.plain, n=bench.n)),
        "galaxies without a lens, simulated": simulated(
            dataclasses.replace(bench.plain, change=_unlensed)
        ),
        "sky without a source": simulated(dataclasses.replace(bench.plain, change=_dark)),
        "white noise": iter(white.clamp(min=float(reference.min())).split(bench.batch_size)),
        "blank": iter([blank]),
    }
    for name in list_surveys():
        if name != bench.survey.name:
            survey = get_survey(name)
            if classes_of_use(survey.class_names, bench.predictor):
                point = Point(survey, "instrument", prepare=at_camera(bench, survey, "instrument"))
                sets[f"lenses of {name}"] = simulated(point)
    if real:
        sets["real lenses"] = _from_files(bench, real)
    if galaxies:
        sets["real galaxies"] = _from_files(bench, galaxies)
    return sets


def _unlensed(scenes: Scenes) -> Scenes:
    """The sources as they are without anything in front of them."""
    return dataclasses.replace(
        scenes,
        lens_theta_E=np.full_like(scenes.lens_theta_E, 1e-6),
        **{
            name: np.zeros_like(getattr(scenes, name))
            for name in ("gamma1", "gamma2", "vortex_theta_E", "vortex_n_masses")
        },
        **{
            name: np.full_like(getattr(scenes, name), np.nan)
            for name in ("vortex_mass", "subhalo_mass")
        },
        subhalo_theta_E=np.zeros_like(scenes.subhalo_theta_E),
    )


def _dark(scenes: Scenes) -> Scenes:
    return dataclasses.replace(scenes, source_amp=np.zeros_like(scenes.source_amp))


def _from_files(bench: Bench, paths: Sequence[str]) -> Iterator[Tensor]:
    """Yields images of files, brought to the model's size and to the brightness of its own."""
    reading = Reading(nan="zero")
    inputs = find_inputs(list(paths), keep_errors=False, channels=None, reading=reading)
    return (
        _cutout(bench, image)
        for batch in read_images(inputs, None, reading, batch_size=1)
        for image in batch
    )


def _cutout(bench: Bench, found: ReadImage) -> Tensor:
    image = torch.tensor(found.pixels).mean(0)[None, None]
    side = min(image.shape[-2:])
    image = Framing(img_size=None, crop=min(side, bench.size))(image)
    if (
        side < bench.size
    ):  # its scale is not known; a small cutout shows the same lens on fewer pixels
        image = F.interpolate(
            image, (bench.size, bench.size), mode="bilinear", align_corners=False, antialias=True
        )
    image = image - image.median()
    image = image * (brightness_of(bench.reference) / max(brightness_of(image), 1e-30))
    return (
        image.clamp(min=min(0.0, float(bench.reference.min())))
        if bench.reference.min() >= 0
        else image
    )


_FLAGGED = 0.9  # a share of flagged images that a sentence calls most


def ood_says(part: dict[str, Any]) -> str:
    """Returns what the part found, in sentences."""
    foreign = part["sets"][1:]
    surest = max(foreign, key=lambda row: row["sure"]["value"])
    text = f"Of {surest['name']} it is sure (probability ≥ {SURE:g}) in {100 * surest['sure']['value']:.0f} % of the cases."
    if not part["available"]:
        return text + f" Nothing of this is flagged: {part['why']}."
    least = min(foreign, key=lambda row: row["flagged_at_threshold"]["value"])
    caught = [row["name"] for row in foreign if row["flagged_at_threshold"]["value"] >= _FLAGGED]
    text += (
        f" At 1 % false alarms its score flags at least {100 * _FLAGGED:g} % of {listed(caught)}"
        if caught
        else " Its score flags no kind of image reliably"
    )
    if len(caught) == len(foreign):
        return text + "."
    return (
        text
        + f"; least of all {least['name']} ({100 * least['flagged_at_threshold']['value']:.0f} %)."
    )


def ood_tables(
    part: dict[str, Any], names: Sequence[str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the header and rows of the part's tables."""
    header = ["Images", "Number", "Sure"]
    if part["available"]:
        header += ["Flagged by the model", "Flagged at 1 % false alarms"]
    rows = []
    for row in part["sets"]:
        shown = [row["name"], f"{row['n']:,}", percent_interval(interval(row["sure"]))]
        if part["available"]:
            shown += [
                percent_interval(interval(row[key])) for key in ("flagged", "flagged_at_threshold")
            ]
        rows.append(shown)
    return [(header, rows)]


@styled
def draw_ood(part: dict[str, Any]) -> "Figure":
    """Draws the shares of sure answers and of flagged images."""
    rows = part["sets"]
    figure = new_figure(7.4, 1.6 + 0.42 * len(rows))
    axes = figure.add_subplot()
    series = {"sure": f"sure answer (probability ≥ {SURE:g})"}
    if part["available"]:
        series["flagged_at_threshold"] = "flagged at 1 % false alarms"
    for k, (key, text) in enumerate(series.items()):
        places = np.arange(len(rows)) + (0.13 * (2 * k - 1) if len(series) > 1 else 0)
        draw_points(axes, [row[key] for row in rows], places, k, text)
    axes.set_yticks(range(len(rows)), [f"{literal(row['name'])} ({row['n']:,})" for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(-0.03, 1.03), xlabel="Share of images", title="Images that it should not answer")
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
