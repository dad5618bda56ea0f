"""Part `geometry`: a lens a little elsewhere, pixels a little larger, an image mirrored."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from haloformer.audit.audited import AuditedModel, Condition, times
from haloformer.audit.part import Inputs, Measured, Part, Table, statistics_of
from haloformer.audit.symmetry import ELEMENTS, rotated
from haloformer.evaluation.calibration import PIXEL_SCALES, SURE
from haloformer.io.progress import progress_bar
from haloformer.reporting.interval import Interval, percent_interval, wilson
from haloformer.reporting.style import INK, new_figure, styled
from haloformer.simulation import Scenes, Survey
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.surveys import AnySurvey

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL = 0.02
"""Largest share of images with a sure wrong answer that is not flagged."""

MOVES = ((0.25, 0.25), (0.5, 0.5), (-0.5, 0.0), (1.0, -1.0), (2.0, 1.0), (3.0, 3.0))
"""Pixels to the right and in the order of the rows by which lenses are moved."""

PSF_WIDTHS = (0.9, 1.1)
BACKGROUNDS = (0.8, 1.2)
GAINS = (0.5, 0.8, 1.2, 2.0)
OFFSET = 0.02  # of each image's peak

_POSITIONS = ("source", "lens", "vortex", "subhalo")


def measure(audited: AuditedModel, inputs: Inputs) -> Measured:
    """Measures how many answers are right, flagged, and wrong but sure and not flagged."""
    found = []
    chosen = conditions(audited)
    with progress_bar("audit: geometry", audited.fewer * len(chosen), audited.progress) as advance:
        for name, condition in chosen.items():
            found.append({"name": name, **answered(audited, condition, advance)})
    return {"rows": found, "n": audited.fewer}


def conditions(audited: AuditedModel) -> dict[str, Condition]:
    """Returns what is tried, by its name."""
    survey, n = audited.survey, audited.fewer
    camera = survey.instrument

    def condition(
        changed: AnySurvey = survey,
        prepare: Callable[[Tensor], Tensor] | None = None,
        change: Callable[[Scenes], Scenes] | None = None,
    ) -> Condition:
        return Condition(changed, audited.noise, change, prepare, n)

    found = {"as the survey": condition()}
    for x, y in MOVES:
        name = f"moved by {x:g}, {y:g} pixels"
        if isinstance(survey, Survey):
            found[name] = condition(change=_moved(survey, x, y))
        elif x == round(x) and y == round(y) and camera.noise_map is None:
            found[name] = condition(*_cut_elsewhere(survey, int(x), int(y)))
    if camera.noise_map is None:
        found["one pixel more, the lens on the middle one"] = condition(
            survey.with_camera(num_pix=camera.num_pix + 1),
            prepare=lambda images: images[..., :-1, :-1],
        )
    for factor in PIXEL_SCALES:
        scale = camera.pixel_scale * factor
        found[f"pixels × {factor:g}"] = condition(survey.with_camera(pixel_scale=scale))
    if camera.psf_fwhm > 0 and camera.psf_file is None:
        for factor in PSF_WIDTHS:
            found[f"PSF × {factor:g}"] = condition(
                survey.with_camera(psf_fwhm=camera.psf_fwhm * factor)
            )
    if (
        audited.noise_mode != "none"
        and camera.noise_map is None
        and (rms := background_rms(camera)) > 0
    ):
        for factor in BACKGROUNDS:
            found[f"background noise × {factor:g}"] = condition(
                survey.with_camera(background_rms=rms * factor)
            )
    for code, name in list(enumerate(ELEMENTS))[1:]:
        found[name] = condition(prepare=functools.partial(rotated, code=code))
    for factor in GAINS:
        found[f"gain × {factor:g}"] = condition(prepare=times(factor))
    found[f"sky + {100 * OFFSET:g} % of the peak"] = condition(
        prepare=lambda images: images + OFFSET * images.amax((1, 2, 3), keepdim=True)
    )
    return found


def answered(
    audited: AuditedModel, condition: Condition, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Returns the shares of images of a condition that are right, flagged, and wrong with p > `SURE` but not flagged."""
    right, flagged, silent = [], [], []
    for images, labels, _ in audited.images(condition):
        predictor = audited.predictor
        numbers, verdict = predictor.numbers_and_ood(audited.channels(images).contiguous())
        logits = predictor.outputs.split(numbers)[0]
        assert logits is not None  # an audited model has classes
        p, answer = predictor.probabilities_of(logits).max(1)
        wrong = answer.numpy() != labels
        flag = np.zeros(len(labels), bool) if verdict is None else verdict.flag.numpy()
        right.append(~wrong)
        flagged.append(flag)
        silent.append(wrong & (p.numpy() > SURE) & ~flag)
        advance(len(images))
    shares = {"right": right, "flagged": flagged, "silent": silent}
    together = {name: np.concatenate(values) for name, values in shares.items()}
    return {
        name: dataclasses.asdict(wilson(int(values.sum()), len(values)))
        for name, values in together.items()
    }


def _moved(survey: Survey, x: float, y: float) -> Callable[[Scenes], Scenes]:
    """Moves all that a scene shows by pixels."""
    scale = survey.instrument.pixel_scale

    def change(scenes: Scenes) -> Scenes:
        moved = {
            f"{what}_{axis}": getattr(scenes, f"{what}_{axis}") + pixels * scale
            for what in _POSITIONS
            for axis, pixels in (("x", x), ("y", y))
        }
        return dataclasses.replace(scenes, **moved)

    return change


def _cut_elsewhere(
    survey: AnySurvey, x: int, y: int
) -> tuple[AnySurvey, Callable[[Tensor], Tensor]]:
    """Returns a larger survey, and what cuts images from it in which the lens is moved by whole pixels."""
    margin, side = max(abs(x), abs(y)), survey.instrument.num_pix
    top, left = margin - y, margin - x

    def cut(images: Tensor) -> Tensor:
        return images[..., top : top + side, left : left + side]

    return survey.with_camera(num_pix=side + 2 * margin), cut


def sentences(measured: Measured) -> str:
    """Says what was found."""
    rows = measured["rows"]
    worst = max(rows, key=lambda row: row["silent"]["value"])
    bad = [row["name"] for row in rows if row["silent"]["value"] > GOAL]
    text = (
        f"At most {100 * worst['silent']['value']:.1f} % of the images had a wrong answer with p > {SURE:g} that was not "
        f"flagged ({worst['name']})."
    )
    if bad:
        text += f" More than {100 * GOAL:g} % had one under: {'; '.join(bad)}."
    usual = rows[0]
    return (
        f"{text} Of the survey's own images {100 * usual['flagged']['value']:.1f} % were flagged."
    )


def tables(measured: Measured, names: Sequence[str]) -> list[Table]:
    """Returns the tables of the report."""
    return [
        Table(
            ["Images", "Right", "Flagged", f"Wrong, p > {SURE:g}, not flagged"],
            [
                [row["name"], *(_percent(row[part]) for part in ("right", "flagged", "silent"))]
                for row in measured["rows"]
            ],
        )
    ]


def _percent(share: dict[str, float]) -> str:
    return percent_interval(Interval(**share))


@styled
def draw(measured: Measured) -> "Figure":
    """Draws the shares of sure wrong answers that are not flagged."""
    rows = measured["rows"][::-1]
    figure = new_figure(6.4, 1.2 + 0.22 * len(rows))
    axes = figure.add_subplot()
    values = np.array([100 * row["silent"]["value"] for row in rows])
    low = np.array([100 * row["silent"]["low"] for row in rows])
    high = np.array([100 * row["silent"]["high"] for row in rows])
    axes.errorbar(
        values, range(len(rows)), xerr=[values - low, high - values], fmt="o", color=INK, ms=4, lw=1
    )
    axes.axvline(100 * GOAL, color=INK, linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set(xlabel=f"Wrong, p > {SURE:g}, not flagged [%]", xlim=(0, None))
    return figure


PART = Part(
    name="geometry",
    title="A little elsewhere, a little larger, mirrored",
    measure=measure,
    describe=lambda measured, n: (
        f"{measured['n']} images each, simulated anew with everything moved by pixels, with other pixels, another PSF or "
        "another background; or the survey's own, mirrored, turned, multiplied or with light added. The model is not "
        "informed. Flagged are images that it calls unlike those of its training, or whose answer another pixel scale or "
        "orientation would change. Intervals of 95 %."
    ),
    sentences=sentences,
    tables=tables,
    figures=lambda measured: {"geometry": draw(measured)},
    settings=lambda audited, inputs: statistics_of(audited, "calibration", "ood", "geometry"),
    captions={"geometry": "Wrong answers with p > 0.9 that are not flagged; dotted: two per cent."},
)
