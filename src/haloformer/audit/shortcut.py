"""Part `shortcut`: how much of the classification rests on the mass that substructure adds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from haloformer.audit.audited import AuditedModel, Condition, LabelledLogits, interval
from haloformer.audit.figures import chance_line, draw_points
from haloformer.audit.part import Inputs, Measured, Part, Table
from haloformer.audit.words import auc_cells, change_cell, signed, with_ci
from haloformer.data.grouping import LEFT_OUT
from haloformer.evaluation.testset import order_of
from haloformer.io.progress import progress_bar
from haloformer.reporting.interval import percent_interval, wilson
from haloformer.reporting.style import new_figure, styled
from haloformer.simulation import Scenes, Survey
from haloformer.simulation.matching import add_mass, match_mass

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOMENTS = ("flux", "peak", "x", "y", "xx", "yy", "xy", "ring radius", "ring width")


def image_moments(images: Tensor) -> np.ndarray:
    """Returns :data:`MOMENTS` of images (B, 1, H, W), (B, 9): a few numbers that hold no detail.

    Lengths are in pixels; the ring's radius and width are the mean and the standard deviation of the distance from the centre, weighted by light
    (pixels brighter than a tenth of the image's 99.5 % quantile).
    """
    pixels = images[:, 0].flatten(1)
    peak = pixels.quantile(0.995, dim=1, keepdim=True)
    light = torch.where(pixels > peak / 10, pixels, 0.0).double()
    axis = torch.arange(images.shape[-1], dtype=torch.float64) - (images.shape[-1] - 1) / 2
    x, y = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="xy"))
    weights = torch.stack(
        [torch.ones_like(x), x, y, x * x, y * y, x * y, torch.hypot(x, y)], dim=1
    )  # (H W, 7)
    total, *sums = (light @ weights).unbind(1)
    cx, cy, xx, yy, xy, radius = (value / total.clamp(min=1e-30) for value in sums)
    width = (xx + yy - radius**2).clamp(min=0).sqrt()
    columns = (
        pixels.double().sum(1),
        peak[:, 0].double(),
        cx,
        cy,
        xx - cx**2,
        yy - cy**2,
        xy - cx * cy,
        radius,
        width,
    )
    return torch.stack(columns, dim=1).numpy()


def measure(audited: AuditedModel, inputs: Inputs) -> Measured:
    """Measures AUCs of moment classifiers and of the model, on the survey as it is and with matched masses."""
    survey = audited.survey
    assert isinstance(survey, Survey)

    def match(scenes: Scenes) -> Scenes:
        return match_mass(scenes, survey)

    def make_heavier(scenes: Scenes) -> Scenes:
        return add_mass(scenes, survey)

    original, names = audited.plain, audited.names
    matched = dataclasses.replace(original, change=match)
    heavier = dataclasses.replace(original, change=make_heavier, n=audited.fewer)
    n_train, train_seed = 2 * audited.n, audited.seed + 1
    with_match = audited.predictions({"": matched}, "audit: matched masses")[""]
    return {
        "moments": _moment_aucs(
            audited, {"original": original, "matched": matched}, n_train, train_seed
        ),
        "moment_names": list(MOMENTS),
        "n_train": n_train,
        "train_seed": train_seed,
        "heavier": _heavier(
            audited, audited.predictions({"": heavier}, "audit: heavier lenses")[""]
        ),
        "model": {
            "original": audited.base.aucs(names),
            "matched": with_match.aucs(names, audited.base),
        },
    }


def _moment_aucs(
    audited: AuditedModel, conditions: Mapping[str, Condition], n_train: int, train_seed: int
) -> dict[str, dict[str, Any]]:
    """Returns the AUCs of each moment classifier under each condition, under which it is also trained."""
    found: dict[str, dict[str, Any]] = {}
    total = len(conditions) * (n_train + audited.n)
    with progress_bar("audit: moments", total, audited.progress) as advance:

        def moments(condition: Condition, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
            values, labels = [], []
            for images, truth, _ in audited.images(dataclasses.replace(condition, n=n), seed):
                values.append(image_moments(images))
                labels.append(truth)
                advance(len(images))
            return np.concatenate(values), np.concatenate(labels)

        for name, condition in conditions.items():
            x, labels = moments(condition, n_train, train_seed)
            new, truth = moments(condition, audited.n, audited.seed)
            found[name] = {
                kind: LabelledLogits(truth, logits).aucs(audited.names)
                for kind, logits in moment_classifiers(x, labels, new).items()
            }
    return found


def _heavier(audited: AuditedModel, heavier: LabelledLogits) -> dict[str, Any] | None:
    """Returns the share of smooth lenses that the model recognises, as they are and with more mass."""
    names = audited.survey.class_names
    order = order_of(names, audited.predictor)
    smooth = [
        k
        for name, k in zip(names, order)
        if k != LEFT_OUT and not audited.survey.substructure[name]
    ]
    n = len(heavier.labels)
    which = np.isin(heavier.labels, smooth)
    if not which.any():
        return None
    known = {}
    for key, logits in (("original", audited.base.logits[:n]), ("heavier", heavier.logits)):
        right = logits[which].argmax(axis=1) == heavier.labels[which]
        known[key] = asdict(wilson(int(right.sum()), int(which.sum())))
    return {"n": int(which.sum()), **known}


def moment_classifiers(x: np.ndarray, labels: np.ndarray, new: np.ndarray) -> dict[str, np.ndarray]:
    """Returns log-probabilities (N, K) of new images by two kinds of classifier; nothing is chosen by the test images."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    kinds = {
        "logistic regression": make_pipeline(
            StandardScaler(),
            PolynomialFeatures(2, include_bias=False),
            StandardScaler(),
            LogisticRegression(max_iter=3000),
        ),
        "gradient boosting": HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.08, max_leaf_nodes=15, random_state=0
        ),
    }
    return {
        name: np.log(np.clip(kind.fit(x, labels).predict_proba(new), 1e-12, None))
        for name, kind in kinds.items()
    }


_SMALL = 0.005  # a loss of AUC that a sentence calls small


def sentences(measured: Measured) -> str:
    """Says what was found."""
    before, after = measured["model"]["original"], measured["model"]["matched"]
    simple = {
        name: max((kinds[k]["macro_auc"] for k in kinds), key=lambda auc: auc["value"])
        for name, kinds in measured["moments"].items()
    }
    original, matched = interval(simple["original"]), interval(simple["matched"])
    model, loss = interval(before["macro_auc"]), interval(after["difference"])
    text = (
        f"The better of two classifiers that see only {len(measured['moment_names'])} moments of the image reaches a macro AUC of {with_ci(original)}; the model, {with_ci(model)}. "
        f"With the mass within the Einstein radius matched across the classes, the moments are left with {with_ci(matched)}"
    )
    text += " (compatible with chance), " if matched.low <= 0.5 else ", "
    text += (
        f"and the model with {with_ci(interval(after['macro_auc']))}, a change of {signed(loss)}: "
    )
    if loss.high >= -_SMALL:
        text += "it hardly depends on the mass."
    elif interval(after["macro_auc"]).value <= matched.high:
        text += "without the mass it is no better than the moments."
    else:
        share = -loss.value / max(model.value - 0.5, 1e-9)
        text += (
            f"{100 * share:.0f} % of its AUC above chance came from the mass, or from lenses as heavy as those of its training; "
            "the rest comes from finer structure."
        )
    if measured["heavier"]:
        plain, heavier = (interval(measured["heavier"][key]) for key in ("original", "heavier"))
        text += (
            f" Of smooth lenses it recognises {100 * plain.value:.0f} % as such, and {100 * heavier.value:.0f} % if they are made "
            "heavier by what substructure weighs."
        )
    return text


def tables(measured: Measured, names: Sequence[str]) -> list[Table]:
    """Returns the tables of the report."""
    rows = []
    for kind, what in (("original", "as it is"), ("matched", "mass matched")):
        rows += [
            [f"moments, {name}", what, *auc_cells(row, names), ""]
            for name, row in measured["moments"][kind].items()
        ]
    for kind, what in (("original", "as it is"), ("matched", "mass matched")):
        row = measured["model"][kind]
        rows.append(["the model", what, *auc_cells(row, names), change_cell(row)])
    found = [Table(["Classifier", "Survey", "Macro AUC", *names, "Change, paired"], rows)]
    if measured["heavier"]:
        shown = (("original", "as they are"), ("heavier", "heavier by what substructure weighs"))
        recognised = [
            [what, percent_interval(interval(measured["heavier"][key]))] for key, what in shown
        ]
        found.append(
            Table(
                [f"Smooth lenses ({measured['heavier']['n']:,})", "Recognised as such"], recognised
            )
        )
    return found


@styled
def draw(measured: Measured) -> "Figure":
    """Draws the AUCs with their intervals, one line per classifier."""
    figure = new_figure(6.8, 3.2)
    axes = figure.add_subplot()
    kinds = list(measured["moments"]["original"])
    labels = [*(f"moments,\n{kind}" for kind in kinds), "the model"]
    for k, (variant, text) in enumerate(
        (("original", "survey as it is"), ("matched", "mass matched"))
    ):
        rows = [*(measured["moments"][variant][kind] for kind in kinds), measured["model"][variant]]
        draw_points(
            axes,
            [row["macro_auc"] for row in rows],
            np.arange(len(rows)) + 0.13 * (2 * k - 1),
            k,
            text,
        )
    chance_line(axes)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="Macro AUC", title="What the mass alone gives away")
    axes.set_title(axes.get_title(loc="left"), pad=16)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


PART = Part(
    name="shortcut",
    of_composed=False,
    title="Shortcuts",
    measure=measure,
    describe=lambda measured, n: (
        "In the DeepLense surveys substructure is added to a lens of fixed mass, so the ring grows with it, and the class "
        f"can be read from the ring's size. Two classifiers get only {len(MOMENTS)} numbers of each image "
        f"({', '.join(MOMENTS)}) and are trained on {measured.get('n_train', 0):,} images of another seed. Then the main "
        "lens of every scene is made lighter by the mass of its substructure, so that all classes have the same mass within "
        "the same Einstein radius: the same scenes, seen by the model as it is, and by moment classifiers that are trained "
        "anew on such images."
    ),
    sentences=sentences,
    tables=tables,
    figures=lambda measured: {"shortcut": draw(measured)},
    captions={
        "shortcut": "Macro AUC of the model and of classifiers that get a few moments only, on the survey as it is and with "
        "matched masses."
    },
)
