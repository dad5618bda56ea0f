"""Part `ood`: whether images unlike those of the training are flagged."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.audit.audited import (
    AuditedModel,
    Condition,
    at_camera,
    brightness_of,
    interval,
)
from haloformer.audit.figures import draw_points
from haloformer.audit.part import Inputs, Measured, Part, Table, statistics_of
from haloformer.audit.words import listed
from haloformer.data.framing import Framing
from haloformer.data.reader import ReadImage, Reading, find_inputs, read_images
from haloformer.errors import InputError
from haloformer.evaluation.calibration import SURE
from haloformer.evaluation.testset import classes_of_use
from haloformer.io.writing import file_sha256
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.interval import percent_interval, wilson
from haloformer.reporting.style import FAINT, literal, new_figure, styled
from haloformer.simulation import Scenes, get_survey, list_surveys
from haloformer.simulation.composed import ComposedSurvey

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FALSE_ALARMS = 0.01


def measure(audited: AuditedModel, inputs: Inputs) -> Measured:
    """Measures how often images unlike those of the training get a sure prediction, and how often they are flagged."""
    why_not = _why_no_ood(audited.predictor, audited.reference[:1])
    measured: Measured = {
        "available": why_not is None,
        "why": why_not,
        "false_alarms": FALSE_ALARMS,
        "sets": [],
    }
    threshold = math.nan
    for name, batches in _foreign_sets(audited, inputs).items():
        found = _Collected(name)
        for images in batches:
            found.add(audited, images, with_scores=why_not is None)
        if not found.n:
            continue
        if why_not is None and math.isnan(threshold):  # the first set is the in-distribution one
            score = np.concatenate(found.scores)
            threshold = float(np.quantile(score, 1 - FALSE_ALARMS, method="higher"))
            measured["threshold"] = threshold
        measured["sets"].append(found.row(threshold))
    return measured


@dataclass
class _Collected:
    """Predictions for one kind of images: confidence, score and flag, batch by batch."""

    name: str
    n: int = 0
    confidence: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    flags: list[np.ndarray] = field(default_factory=list)

    def add(self, audited: AuditedModel, images: Tensor, with_scores: bool) -> None:
        self.n += len(images)
        probabilities = audited.predictor.probabilities(audited.channels(images))
        self.confidence.append(probabilities.amax(1).numpy())
        if with_scores:
            verdict = _ood(audited.predictor, images)
            self.scores.append(np.asarray(verdict.score, np.float64))
            self.flags.append(np.asarray(verdict.flag, bool))

    def row(self, threshold: float) -> dict[str, Any]:
        sure = int((np.concatenate(self.confidence) >= SURE).sum())
        row: dict[str, Any] = {
            "name": self.name,
            "n": self.n,
            "sure": asdict(wilson(sure, self.n)),
        }
        if self.scores:
            score, flags = np.concatenate(self.scores), np.concatenate(self.flags)
            row["flagged"] = asdict(wilson(int(flags.sum()), self.n))
            row["flagged_at_threshold"] = asdict(wilson(int((score > threshold).sum()), self.n))
            row["median_score"] = float(np.median(score))
        return row


def _why_no_ood(predictor: Predictor, image: Tensor) -> str | None:
    """Returns why the predictor cannot detect images out of distribution; None if it can."""
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


def _ood(predictor: Predictor, images: Tensor) -> Any:
    return predictor.ood(images.expand(-1, predictor.image_shape[0], -1, -1))


def _foreign_sets(audited: AuditedModel, inputs: Inputs) -> dict[str, Iterator[Tensor]]:
    """Returns batches (B, 1, H, W) of each kind of image; the first kind is the in-distribution one."""
    n = audited.fewer

    def simulated(condition: Condition) -> Iterator[Tensor]:
        return (
            images
            for images, _, _ in audited.images(dataclasses.replace(condition, n=condition.n or n))
        )

    reference = audited.reference
    generator = torch.Generator().manual_seed(audited.seed % 2**63)
    white = (
        torch.randn((n, *reference.shape[1:]), generator=generator) * reference.std()
        + reference.mean()
    )
    blank = torch.stack(
        [torch.zeros_like(reference[0]), torch.full_like(reference[0], float(reference.mean()))]
    )
    sets = {
        # all n: the 1 % quantile of fewer images would rest on a handful
        "as trained": simulated(dataclasses.replace(audited.plain, n=audited.n)),
        **{name: simulated(condition) for name, condition in _lensless(audited).items()},
        "white noise": iter(white.clamp(min=float(reference.min())).split(audited.batch_size)),
        "blank": iter([blank]),
    }
    for name in list_surveys(composed=False):
        if name != audited.survey.name:
            survey = get_survey(name)
            if classes_of_use(survey.class_names, audited.predictor):
                condition = Condition(
                    survey, "instrument", prepare=at_camera(audited, survey, "instrument")
                )
                sets[f"lenses of {name}"] = simulated(condition)
    if inputs.real:
        sets["real lenses"] = _from_files(audited, inputs.real)
    if inputs.galaxies:
        sets["real galaxies"] = _from_files(audited, inputs.galaxies)
    return sets


def _lensless(audited: AuditedModel) -> dict[str, Condition]:
    """Returns images of the survey without its lenses, or without what they lens."""
    plain, survey, dark = audited.plain, audited.survey, "sky without a source"
    if isinstance(survey, ComposedSurvey):
        faint = without_source(survey)
        return {} if faint is None else {dark: dataclasses.replace(plain, survey=faint)}
    return {
        "galaxies without a lens, simulated": dataclasses.replace(plain, change=_unlensed),
        dark: dataclasses.replace(plain, change=_dark),
    }


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


_NO_LIGHT = {"snr": 1e-6, "flux": 1e-9, "amp": 1e-9, "magnitude": 60.0}


def without_source(survey: ComposedSurvey) -> ComposedSurvey | None:
    """Returns the survey with sources too faint to be seen; None where each band has a brightness of its own."""
    source: Any = survey.source
    faint = {name: value for name, value in _NO_LIGHT.items() if getattr(source, name) is not None}
    if not faint or any(band.source_magnitude is not None for band in survey.bands.values()):
        return None
    return dataclasses.replace(survey, source=dataclasses.replace(source, **faint))


def _dark(scenes: Scenes) -> Scenes:
    return dataclasses.replace(scenes, source_amp=np.zeros_like(scenes.source_amp))


def _from_files(audited: AuditedModel, paths: Sequence[str]) -> Iterator[Tensor]:
    """Yields images of files, brought to the model's size and to the brightness of its own."""
    reading = Reading(nan="zero")
    inputs = find_inputs(list(paths), keep_errors=False, channels=None, reading=reading)
    return (
        _cutout(audited, image)
        for batch in read_images(inputs, None, reading, batch_size=1)
        for image in batch
    )


def _cutout(audited: AuditedModel, found: ReadImage) -> Tensor:
    image = torch.tensor(found.pixels).mean(0)[None, None]
    side = min(image.shape[-2:])
    image = Framing(img_size=None, crop=min(side, audited.size))(image)
    if (
        side < audited.size
    ):  # its scale is not known; a small cutout shows the same lens on fewer pixels
        image = F.interpolate(
            image,
            (audited.size, audited.size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
    image = image - image.median()
    image = image * (brightness_of(audited.reference) / max(brightness_of(image), 1e-30))
    return (
        image.clamp(min=min(0.0, float(audited.reference.min())))
        if audited.reference.min() >= 0
        else image
    )


_FLAGGED = 0.9  # share of flagged images that the sentences call reliable


def sentences(measured: Measured) -> str:
    """Says what was found."""
    foreign = measured["sets"][1:]
    surest = max(foreign, key=lambda row: row["sure"]["value"])
    text = f"For {surest['name']} it gives a sure prediction (probability ≥ {SURE:g}) in {100 * surest['sure']['value']:.0f} % of the cases."
    if not measured["available"]:
        return text + f" Nothing is flagged: {measured['why']}."
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


def tables(measured: Measured, names: Sequence[str]) -> list[Table]:
    """Returns the tables of the report."""
    header = ["Images", "Number", "Sure"]
    if measured["available"]:
        header += ["Flagged by the model", "Flagged at 1 % false alarms"]
    rows = []
    for row in measured["sets"]:
        shown = [row["name"], f"{row['n']:,}", percent_interval(interval(row["sure"]))]
        if measured["available"]:
            shown += [
                percent_interval(interval(row[key])) for key in ("flagged", "flagged_at_threshold")
            ]
        rows.append(shown)
    return [Table(header, rows)]


@styled
def draw(measured: Measured) -> "Figure":
    """Draws the shares of sure predictions and of flagged images."""
    rows = measured["sets"]
    figure = new_figure(7.4, 1.6 + 0.42 * len(rows))
    axes = figure.add_subplot()
    series = {"sure": f"sure prediction (probability ≥ {SURE:g})"}
    if measured["available"]:
        series["flagged_at_threshold"] = "flagged at 1 % false alarms"
    for k, (key, text) in enumerate(series.items()):
        places = np.arange(len(rows)) + (0.13 * (2 * k - 1) if len(series) > 1 else 0)
        draw_points(axes, [row[key] for row in rows], places, k, text)
    axes.set_yticks(range(len(rows)), [f"{literal(row['name'])} ({row['n']:,})" for row in rows])
    axes.invert_yaxis()
    axes.set(
        xlim=(-0.03, 1.03), xlabel="Share of images", title="Images unlike those of the training"
    )
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _content(given: Sequence[str]) -> str:
    """Returns a digest of what the files hold that are found at these places."""
    found = find_inputs(given, keep_errors=False, channels=None)
    paths = dict.fromkeys(each.path for each in found if each.path.is_file())
    return hashlib.sha256("".join(map(file_sha256, paths)).encode()).hexdigest()[:16]


def _settings(audited: AuditedModel, inputs: Inputs) -> dict[str, object]:
    files = {"real": inputs.real, "galaxies": inputs.galaxies}
    return {
        **{name: list(given) for name, given in files.items()},
        # Folders of the same name may hold other images by now.
        **{f"{name}_content": _content(given) for name, given in files.items() if given},
        **statistics_of(audited, "calibration", "ood"),
    }


PART = Part(
    name="ood",
    title="Images unlike those of the training",
    measure=measure,
    describe=lambda measured, n: (
        "Predictions for images that are not of the model's survey. 'Sure' is the share that gets a class with a "
        f"probability of at least {SURE:g}. Files are cut to their central part (enlarged, if smaller than the model's "
        "images), their median is subtracted, and their brightness is scaled to that of the survey's images. 'At 1 % false "
        f"alarms': the score is above the one that 1 % of {n:,} images as trained exceed."
    ),
    sentences=sentences,
    tables=tables,
    figures=lambda measured: {"ood": draw(measured)},
    captions={"ood": "Share of images that get a sure prediction, and share that is flagged."},
    settings=_settings,
)
