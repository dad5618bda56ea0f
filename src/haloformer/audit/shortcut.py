"""Part `shortcut`: how much of the answer rests on the mass that substructure adds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from haloformer.audit.bench import Bench, PointAnswers, interval
from haloformer.audit.figures import chance_line, draw_points
from haloformer.audit.words import auc_cells, change_cell, signed, with_ci
from haloformer.data.grouping import LEFT_OUT
from haloformer.evaluation.testset import order_of
from haloformer.io.progress import progress_bar
from haloformer.reporting.interval import percent_interval, wilson
from haloformer.reporting.style import new_figure, styled
from haloformer.simulation import Scenes
from haloformer.simulation.matching import add_mass, match_mass

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOMENTS = ("flux", "peak", "x", "y", "xx", "yy", "xy", "ring radius", "ring width")


def image_moments(images: Tensor) -> np.ndarray:
    """Returns a few numbers of each image (B, 1, H, W) that know nothing of its details, (B, 9): :data:`MOMENTS`.

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


def shortcut(bench: Bench) -> dict[str, Any]:
    """How far image moments get, and how far the model falls, when all classes have the same mass within the ring."""

    def match(scenes: Scenes) -> Scenes:
        return match_mass(scenes, bench.survey)

    points = {"original": bench.plain, "matched": dataclasses.replace(bench.plain, change=match)}
    model = bench.ask({"matched": points["matched"]}, "audit: matched masses")["matched"]
    heavy = dataclasses.replace(
        bench.plain, change=lambda scenes: add_mass(scenes, bench.survey), n=bench.fewer
    )
    n_train, train_seed = 2 * bench.n, bench.seed + 1
    moments: dict[str, Any] = {}
    with progress_bar("audit: moments", 2 * (n_train + bench.n), bench.progress) as advance:
        for name, point in points.items():
            sets = []
            for n, seed in ((n_train, train_seed), (bench.n, bench.seed)):
                values, labels = [], []
                for images, truth, _ in bench.images(dataclasses.replace(point, n=n), seed):
                    values.append(image_moments(images))
                    labels.append(truth)
                    advance(len(images))
                sets.append((np.concatenate(values), np.concatenate(labels)))
            moments[name] = {
                kind: PointAnswers(sets[1][1], logits).aucs(bench.names)
                for kind, logits in _moment_classifiers(*sets[0], sets[1][0]).items()
            }
    return {
        "moments": moments,
        "moment_names": list(MOMENTS),
        "n_train": n_train,
        "train_seed": train_seed,
        "heavier": _heavier(bench, bench.ask({"": heavy}, "audit: heavier lenses")[""]),
        "model": {
            "original": bench.base.aucs(bench.names),
            "matched": model.aucs(bench.names, bench.base),
        },
    }


def _heavier(bench: Bench, heavier: PointAnswers) -> dict[str, Any] | None:
    """Returns how many of the smooth lenses the model knows as such, as they are and with more mass."""
    names = bench.survey.class_names
    order = order_of(names, bench.predictor)
    smooth = [
        k for name, k in zip(names, order) if k != LEFT_OUT and not bench.survey.substructure[name]
    ]
    n = len(heavier.labels)
    which = np.isin(heavier.labels, smooth)
    if not which.any():
        return None
    known = {}
    for key, logits in (("original", bench.base.logits[:n]), ("heavier", heavier.logits)):
        right = logits[which].argmax(axis=1) == heavier.labels[which]
        known[key] = asdict(wilson(int(right.sum()), int(which.sum())))
    return {"n": int(which.sum()), **known}


def _moment_classifiers(
    x: np.ndarray, labels: np.ndarray, new: np.ndarray
) -> dict[str, np.ndarray]:
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


def shortcut_says(part: dict[str, Any]) -> str:
    """Returns what the part found, in sentences."""
    before, after = part["model"]["original"], part["model"]["matched"]
    simple = {
        name: max((kinds[k]["macro_auc"] for k in kinds), key=lambda auc: auc["value"])
        for name, kinds in part["moments"].items()
    }
    original, matched = interval(simple["original"]), interval(simple["matched"])
    model, loss = interval(before["macro_auc"]), interval(after["difference"])
    text = (
        f"The better of two classifiers that see only {len(part['moment_names'])} moments of the image reaches a macro AUC of {with_ci(original)}; the model, {with_ci(model)}. "
        f"With the mass within the Einstein radius matched across the classes, the moments are left with {with_ci(matched)}"
    )
    text += " (not told from chance), " if matched.low <= 0.5 else ", "
    text += (
        f"and the model with {with_ci(interval(after['macro_auc']))}, a change of {signed(loss)}: "
    )
    if loss.high >= -_SMALL:
        text += "it hardly leans on the mass."
    elif interval(after["macro_auc"]).value <= matched.high:
        text += "without the mass it knows no more than the moments."
    else:
        share = -loss.value / max(model.value - 0.5, 1e-9)
        text += (
            f"{100 * share:.0f} % of what it has above chance hung on the mass, or on lenses just as heavy as those of its training; "
            "the rest is about finer structure."
        )
    if part["heavier"]:
        plain, heavier = (interval(part["heavier"][key]) for key in ("original", "heavier"))
        text += (
            f" Of smooth lenses it recognises {100 * plain.value:.0f} % as such, and {100 * heavier.value:.0f} % if they are made "
            "heavier by what substructure weighs."
        )
    return text


def shortcut_tables(
    part: dict[str, Any], names: Sequence[str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the header and rows of the part's tables."""
    rows = []
    for kind, what in (("original", "as it is"), ("matched", "mass matched")):
        rows += [
            [f"moments, {name}", what, *auc_cells(row, names), ""]
            for name, row in part["moments"][kind].items()
        ]
    for kind, what in (("original", "as it is"), ("matched", "mass matched")):
        row = part["model"][kind]
        rows.append(["the model", what, *auc_cells(row, names), change_cell(row)])
    tables = [(["Classifier", "Survey", "Macro AUC", *names, "Change, paired"], rows)]
    if part["heavier"]:
        shown = (("original", "as they are"), ("heavier", "heavier by what substructure weighs"))
        recognised = [
            [what, percent_interval(interval(part["heavier"][key]))] for key, what in shown
        ]
        tables.append(
            ([f"Smooth lenses ({part['heavier']['n']:,})", "Recognised as such"], recognised)
        )
    return tables


@styled
def draw_shortcut(part: dict[str, Any]) -> "Figure":
    """Draws the AUCs with their intervals, one line per classifier."""
    figure = new_figure(6.8, 3.2)
    axes = figure.add_subplot()
    kinds = list(part["moments"]["original"])
    labels = [*(f"moments,\n{kind}" for kind in kinds), "the model"]
    for k, (variant, text) in enumerate(
        (("original", "survey as it is"), ("matched", "mass matched"))
    ):
        rows = [*(part["moments"][variant][kind] for kind in kinds), part["model"][variant]]
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
