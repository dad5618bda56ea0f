"""Part `symmetry`: rotated and mirrored images."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from haloformer.audit.audited import AuditedModel, LabelledLogits, interval
from haloformer.audit.figures import draw_points
from haloformer.audit.part import Inputs, Measured, Part, Table
from haloformer.audit.words import change_cell, with_ci
from haloformer.data.augment import transform
from haloformer.data.framing import network_input
from haloformer.io.progress import progress_bar
from haloformer.reporting.interval import percent_interval, wilson
from haloformer.reporting.style import FAINT, new_figure, styled
from haloformer.simulation import Survey
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.distributions import Normal, Quantity, Uniform
from haloformer.simulation.surveys import AnySurvey

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ELEMENTS = (
    *("identity", "rotated by 90°", "rotated by 180°", "rotated by 270°"),
    *(
        "mirrored left-right",
        "mirrored at a diagonal",
        "mirrored up-down",
        "mirrored at the other diagonal",
    ),
)
"""The symmetries of the square, by the codes of :mod:`haloformer.data.augment`."""


@torch.inference_mode()
def measure(audited: AuditedModel, inputs: Inputs) -> Measured:
    """Measures what the eight symmetries of the square change, for the whole predictor and for its network alone.

    A predictor with a residual first fits a smooth lens, with the survey's distribution of lenses as prior. The network
    alone gets the residual of the unrotated image, rotated with it, as in training.
    """
    n, with_residual = audited.fewer, audited.predictor.residual is not None
    whole: list[list[np.ndarray]] = [[] for _ in ELEMENTS]
    network: list[list[np.ndarray]] = [[] for _ in ELEMENTS]
    labels = []
    total = n * len(ELEMENTS) * (1 + with_residual)
    with progress_bar("audit: symmetry", total, audited.progress) as advance:
        for images, truth, _ in audited.images(dataclasses.replace(audited.plain, n=n)):
            labels.append(truth)
            for code, logits in enumerate(whole):
                logits.append(audited.logits(rotated(images, code)))
                advance(len(images))
            for code, values in enumerate(_network_logits(audited, images)):
                network[code].append(values)
                advance(len(images))
    truth = np.concatenate(labels)
    return {
        "n": n,
        "elements": _elements(audited, truth, whole),
        "network": _elements(audited, truth, network) if with_residual else None,
    }


def _network_logits(audited: AuditedModel, images: Tensor) -> Iterator[np.ndarray]:
    """Yields the logits of the network alone for each symmetry; nothing without a residual."""
    predictor = audited.predictor
    if predictor.residual is None:
        return
    fitted = predictor.residual(images.to(predictor.device))
    for code in range(len(ELEMENTS)):
        turned = rotated(fitted, code)
        ready = network_input(turned, predictor.framing, predictor.normalization, True)
        logits = predictor.outputs.split(predictor.model(ready).float().cpu())[0]
        assert logits is not None  # only classifiers are audited
        yield logits.double().numpy()


def rotated(images: Tensor, code: int) -> Tensor:
    """Returns images (B, C, H, W) under one of `ELEMENTS`."""
    return transform(images, np.full(len(images), code))


def _elements(
    audited: AuditedModel, labels: np.ndarray, parts: list[list[np.ndarray]]
) -> list[dict[str, Any]]:
    logits = [np.concatenate(part) for part in parts]
    # A number added to all logits changes no probability.
    centred = [values - values.mean(axis=1, keepdims=True) for values in logits]
    upright = LabelledLogits(labels, logits[0])
    rows = []
    for code, name in enumerate(ELEMENTS):
        changed = int((logits[code].argmax(1) != logits[0].argmax(1)).sum())
        rows.append(
            {
                "code": code,
                "name": name,
                "keeps_survey": keeps_survey(audited.survey, code),
                "mean_abs_delta_logit": float(np.abs(centred[code] - centred[0]).mean()),
                "changed": asdict(wilson(changed, len(labels))),
                **LabelledLogits(labels, logits[code]).aucs(audited.names, upright),
            }
        )
    return rows


def keeps_survey(survey: AnySurvey, code: int) -> bool:
    """Returns whether rotated images are as likely as others in this survey: its lens, shear and source are drawn alike then.

    Ellipticities and shear are spin 2: a quarter turn changes the sign of both components, a mirror at an axis that of the second.
    """
    if code == 0:
        return True
    if not isinstance(survey, Survey):
        return is_isotropic(survey)
    lens, source = survey.deflector, survey.source
    for x, y in ((lens.x, lens.y), (source.x, source.y)):
        if x != y or not _is_even(x):
            return code == 2 and _is_even(x) and _is_even(y)
    quarter, mirror = code % 2 == 1, code >= 4
    flips_first, flips_second = quarter, quarter != mirror
    shapes = ((lens.e1, lens.e2), (lens.gamma1, lens.gamma2), (source.e1, source.e2))
    return all(
        (_is_even(first) or not flips_first) and (_is_even(second) or not flips_second)
        for first, second in shapes
    )


_PAIRS = {"e1": "e2", "gamma1": "gamma2", "x": "y"}


def is_isotropic(survey: ComposedSurvey) -> bool:
    """Returns whether the symmetries of the square change nothing of how ellipticities, shears, places and angles are drawn."""
    groups = (*survey.substructure.values(), *survey.lens_of_class.values())
    parts: list[Any] = [
        *survey.lens,
        survey.source,
        *survey.source.light,
        *itertools.chain(*groups),
    ]
    for part in parts:
        given = {each.name: getattr(part, each.name) for each in dataclasses.fields(part)}
        for first, second in _PAIRS.items():
            one, other = given.get(first), given.get(second)
            if one != other or not (one is None or _is_even(one)):
                return False
        angle = given.get("angle")
        if angle is not None and not (isinstance(angle, Uniform) and _is_round(angle)):
            return False
    return True


def _is_round(angle: Uniform) -> bool:
    """Returns whether what looks the same after half a turn points everywhere alike."""
    turns = (angle.high - angle.low) / math.pi
    return turns > 0.5 and abs(turns - round(turns)) < 1e-3


def _is_even(quantity: Quantity) -> bool:
    """Returns whether a quantity and its negative are drawn alike."""
    if isinstance(quantity, Uniform):
        return quantity.low == -quantity.high
    if isinstance(quantity, Normal):
        return quantity.mean == 0
    return quantity == 0


def sentences(measured: Measured) -> str:
    """Says what was found."""
    rows = [row for row in measured["elements"] if row["code"]]
    worst = max(rows, key=_changed)
    mean = float(np.mean([_changed(row) for row in rows]))
    text = (
        f"Rotating or mirroring an image changes the class of {100 * mean:.0f} % on average, at most "
        f"{100 * _changed(worst):.0f} % ({worst['name']}, macro AUC {worst['macro_auc']['value']:.3f})"
    )
    if kept := [row for row in rows if row["keeps_survey"]]:
        names = ", ".join(row["name"] for row in kept)
        most = max(_changed(row) for row in kept)
        text += f"; where the survey stays the same ({names}), {100 * most:.0f} %"
    if measured["network"]:
        alone = [row for row in measured["network"] if row["code"]]
        share = float(np.mean([_changed(row) for row in alone]))
        lowest = min(row["macro_auc"]["value"] for row in alone)
        text += f"; for the network alone, with image and residual rotated together, {100 * share:.0f} %, macro AUC {lowest:.3f} or more"
        if share < 0.5 * mean:
            text += ": the network is hardly affected, but the smooth fit assumes lenses oriented as in the survey"
    return text + "."


def _changed(row: Mapping[str, Any]) -> float:
    result: float = row["changed"]["value"]
    return result


def tables(measured: Measured, names: Sequence[str]) -> list[Table]:
    """Returns the tables of the report."""
    header = ["Survey stays the same", "Δ logit", "Changed", "Macro AUC", "Change, paired"]
    found = []
    for key, what in (("elements", "Whole predictor"), ("network", "Network alone")):
        rows = [
            [
                row["name"],
                "yes" if row["keeps_survey"] else "no",
                f"{row['mean_abs_delta_logit']:.3f}",
                percent_interval(interval(row["changed"])),
                with_ci(interval(row["macro_auc"])),
                change_cell(row) if row["code"] else "",
            ]
            for row in measured[key] or []
        ]
        if rows:
            found.append(Table([what, *header], rows))
    return found


@styled
def draw(measured: Measured) -> "Figure":
    """Draws AUC and changed decisions of each symmetry."""
    figure = new_figure(8.4, 4.2)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    series = {"whole predictor": measured["elements"]}
    if measured["network"]:
        series["network alone"] = measured["network"]
    for k, (text, rows) in enumerate(series.items()):
        places = np.arange(len(rows)) + (0.13 * (2 * k - 1) if len(series) > 1 else 0)
        draw_points(left, [row["macro_auc"] for row in rows], places, k, text)
        draw_points(right, [row["changed"] for row in rows[1:]], places[1:], k, None)
    rows = measured["elements"]
    left.set_yticks(
        range(len(rows)),
        [row["name"] + (" *" if row["keeps_survey"] and row["code"] else "") for row in rows],
    )
    left.invert_yaxis()
    left.set(xlabel="Macro AUC", title="AUC")
    right.set(xlabel="Share of images with another class", title="Changed decisions")
    right.set_xlim(left=-0.02)
    if any(row["keeps_survey"] and row["code"] for row in rows):
        left.annotate("* the survey stays the same", (0, 0), xycoords="figure fraction", xytext=(4, 4), textcoords="offset points", fontsize=9, color=FAINT)  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


PART = Part(
    name="symmetry",
    title="Symmetry",
    measure=measure,
    describe=lambda measured, n: (
        "The eight symmetries of the square. Physics does not depend on the orientation of a lens on the detector; a survey "
        "whose lenses all have the same orientation does. Δ logit is the mean of |change| over classes and images, after "
        "the mean over the classes is subtracted; 'changed' is the share of images that get another class."
    ),
    sentences=sentences,
    tables=tables,
    figures=lambda measured: {"symmetry": draw(measured)},
    captions={
        "symmetry": "Macro AUC and share of changed classes under the symmetries of the square."
    },
)
