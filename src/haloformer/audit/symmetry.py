"""Part `symmetry`: rotated and mirrored images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from haloformer.audit.bench import Bench, PointAnswers, interval
from haloformer.audit.figures import draw_points
from haloformer.audit.words import change_cell, with_ci
from haloformer.data.augment import transform
from haloformer.data.framing import network_input
from haloformer.io.progress import progress_bar
from haloformer.reporting.interval import percent_interval, wilson
from haloformer.reporting.style import FAINT, new_figure, styled
from haloformer.simulation import Survey
from haloformer.simulation.distributions import Normal, Quantity, Uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ELEMENTS = (
    *("identity", "turned by 90°", "turned by 180°", "turned by 270°"),
    *(
        "mirrored left-right",
        "mirrored at a diagonal",
        "mirrored up-down",
        "mirrored at the other diagonal",
    ),
)
"""The symmetries of the square, by the codes of :mod:`haloformer.data.augment`."""


@torch.inference_mode()
def symmetry(bench: Bench) -> dict[str, Any]:
    """What the eight symmetries of the square change, for the whole predictor and for its network alone.

    A predictor with a residual first fits a smooth lens that lies as the survey's lenses lie. The network alone gets the residual of the
    unturned image, turned with it, as in training.
    """
    predictor, n = bench.predictor, bench.fewer
    with_residual = predictor.residual is not None
    whole: list[list[np.ndarray]] = [[] for _ in ELEMENTS]
    network: list[list[np.ndarray]] = [[] for _ in ELEMENTS]
    labels = []
    with progress_bar(
        "audit: symmetry", n * len(ELEMENTS) * (1 + with_residual), bench.progress
    ) as advance:
        for images, truth, _ in bench.images(dataclasses.replace(bench.plain, n=n)):
            labels.append(truth)
            for code, logits in enumerate(whole):
                logits.append(bench.logits(_turned(images, code)))
                advance(len(images))
            if predictor.residual is None:
                continue
            fitted = predictor.residual(images.to(predictor.device))
            for code, logits in enumerate(network):
                ready = network_input(
                    _turned(fitted, code), predictor.framing, predictor.normalization, True
                )
                numbers = predictor.outputs.split(predictor.model(ready).float().cpu())[0]
                assert numbers is not None  # the bench takes classifiers only
                logits.append(numbers.double().numpy())
                advance(len(images))
    truth = np.concatenate(labels)
    found: dict[str, Any] = {
        "n": n,
        "elements": _elements(bench, truth, whole),
        "network": _elements(bench, truth, network) if with_residual else None,
    }
    return found


def _turned(images: Tensor, code: int) -> Tensor:
    return transform(images, np.full(len(images), code))


def _elements(
    bench: Bench, labels: np.ndarray, parts: list[list[np.ndarray]]
) -> list[dict[str, Any]]:
    logits = [np.concatenate(part) for part in parts]
    # A number added to all logits changes no probability.
    centred = [values - values.mean(axis=1, keepdims=True) for values in logits]
    upright = PointAnswers(labels, logits[0])
    rows = []
    for code, name in enumerate(ELEMENTS):
        changed = int((logits[code].argmax(1) != logits[0].argmax(1)).sum())
        rows.append(
            {
                "code": code,
                "name": name,
                "keeps_survey": keeps_survey(bench.survey, code),
                "mean_abs_delta_logit": float(np.abs(centred[code] - centred[0]).mean()),
                "changed": asdict(wilson(changed, len(labels))),
                **PointAnswers(labels, logits[code]).aucs(bench.names, upright),
            }
        )
    return rows


def keeps_survey(survey: Survey, code: int) -> bool:
    """Says whether turned images are as likely as others in this survey: its lens, shear, and source are drawn alike then.

    Ellipticities and shear are spin 2: a quarter turn changes the sign of both components, a mirror at an axis that of the second.
    """
    if code == 0:
        return True
    lens, source = survey.deflector, survey.source
    for x, y in ((lens.x, lens.y), (source.x, source.y)):
        if x != y or not _is_even(x):
            return code == 2 and _is_even(x) and _is_even(y)
    quarter, mirror = code % 2 == 1, code >= 4
    for first, second in ((lens.e1, lens.e2), (lens.gamma1, lens.gamma2), (source.e1, source.e2)):
        if (quarter and not _is_even(first)) or (quarter != mirror and not _is_even(second)):
            return False
    return True


def _is_even(quantity: Quantity) -> bool:
    """Says whether a quantity and its negative are drawn alike."""
    if isinstance(quantity, Uniform):
        return quantity.low == -quantity.high
    if isinstance(quantity, Normal):
        return quantity.mean == 0
    return quantity == 0


def symmetry_says(part: dict[str, Any]) -> str:
    """Returns what the part found, in sentences."""
    rows = [row for row in part["elements"] if row["code"]]
    worst = max(rows, key=lambda row: row["changed"]["value"])
    text = (
        f"Turning or mirroring an image changes the class of {100 * np.mean([row['changed']['value'] for row in rows]):.0f} % on average, at most "
        f"{100 * worst['changed']['value']:.0f} % ({worst['name']}, macro AUC {worst['macro_auc']['value']:.3f})"
    )
    kept = [row for row in rows if row["keeps_survey"]]
    if kept:
        text += f"; where the survey's own lenses lie as before ({', '.join(row['name'] for row in kept)}), {100 * max(row['changed']['value'] for row in kept):.0f} %"
    if part["network"]:
        alone = [row for row in part["network"] if row["code"]]
        share = float(np.mean([row["changed"]["value"] for row in alone]))
        lowest = min(row["macro_auc"]["value"] for row in alone)
        text += f"; for the network alone, with image and residual turned together, {100 * share:.0f} %, macro AUC {lowest:.3f} or more"
        if share < 0.5 * np.mean([row["changed"]["value"] for row in rows]):
            text += ": the network hardly minds, but the smooth fit knows only lenses that lie as the survey's"
    return text + "."


def symmetry_tables(
    part: dict[str, Any], names: Sequence[str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the header and rows of the part's tables."""
    tables = []
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
            for row in part[key] or []
        ]
        if rows:
            tables.append(
                (
                    [
                        what,
                        "Survey lies alike",
                        "Δ logit",
                        "Changed",
                        "Macro AUC",
                        "Change, paired",
                    ],
                    rows,
                )
            )
    return tables


@styled
def draw_symmetry(part: dict[str, Any]) -> "Figure":
    """Draws AUC and changed decisions of each symmetry."""
    figure = new_figure(8.4, 4.2)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    series = {"whole predictor": part["elements"]}
    if part["network"]:
        series["network alone"] = part["network"]
    for k, (text, rows) in enumerate(series.items()):
        places = np.arange(len(rows)) + (0.13 * (2 * k - 1) if len(series) > 1 else 0)
        draw_points(left, [row["macro_auc"] for row in rows], places, k, text)
        draw_points(right, [row["changed"] for row in rows[1:]], places[1:], k, None)
    rows = part["elements"]
    left.set_yticks(
        range(len(rows)),
        [row["name"] + (" *" if row["keeps_survey"] and row["code"] else "") for row in rows],
    )
    left.invert_yaxis()
    left.set(xlabel="Macro AUC", title="AUC")
    right.set(xlabel="Share of images with another class", title="Changed decisions")
    right.set_xlim(left=-0.02)
    if any(row["keeps_survey"] and row["code"] for row in rows):
        left.annotate("* the survey's lenses lie as before", (0, 0), xycoords="figure fraction", xytext=(4, 4), textcoords="offset points", fontsize=9, color=FAINT)  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
