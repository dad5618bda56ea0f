"""Draws and saves the figures of an evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from scipy.special import softmax

from haloformer.artefact.read import run_folder
from haloformer.evaluation import figures, regression
from haloformer.evaluation.metrics import log_odds
from haloformer.evaluation.predictions import Predictions
from haloformer.evaluation.testset import (
    TestImages,
    training_of,
)
from haloformer.prediction.predictor import Predictor
from haloformer.reporting import interval, style
from haloformer.reporting.images import image_grid
from haloformer.reporting.interval import Interval
from haloformer.reporting.learning import learning_curves, learning_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure


N_SHOWN = 9  # images that were wrong, or hard


def draw(
    result: dict[str, Any],
    predictor: Predictor,
    run: Path,
    images: TestImages,
    predictions: Predictions,
) -> dict[str, "Figure"]:
    """Draws all figures; returns them by name."""
    drawn = _draw_classes(result, predictor, images, predictions) if predictor.class_names else {}
    for t, name in enumerate(predictor.outputs.targets):
        if name in result["regression"]:
            drawn |= _draw_target(result["regression"][name], name, predictions, t)
    log = learning_log(run_folder(run) / "metrics.csv")
    if log:
        drawn["learning"] = learning_curves(log, training_of(predictor).get("best_epoch"))
    return drawn


def _draw_classes(
    result: dict[str, Any], predictor: Predictor, images: TestImages, predictions: Predictions
) -> dict[str, "Figure"]:
    labels, logits = predictions.labels, predictions.logits
    names, odds = predictor.class_names, log_odds(logits)
    aucs = [Interval(**result["per_class"][name]["auc"]) for name in names]
    drawn = {
        "roc": figures.roc(labels, odds, names, aucs),
        "confusion": figures.confusion(np.array(result["confusion"]), names),
        "scores": figures.scores(labels, odds, names),
    }
    calibration = result["calibration"]
    lines = {"without temperature": calibration["before"]["reliability"]}
    if "after" in calibration:
        lines[f"with temperature {calibration['temperature']:.3g}"] = calibration["after"][
            "reliability"
        ]
    drawn["reliability"] = figures.reliability(lines)
    for name, measured in result["by_quantity"].items():
        drawn[f"by_{name}"] = _draw_quantity(result, measured, names)

    predicted, probabilities = (
        logits.argmax(axis=1),
        softmax(logits / predictor.temperature, axis=1),
    )
    confidence = probabilities.max(axis=1)
    ordered = np.sort(logits, axis=1)
    hardest = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    scale = images.attributes.get("pixel_scale") or predictor.artefact.get("pixel_scale")
    scale = float(scale) if isinstance(scale, int | float) and 0 < scale < np.inf else None
    for kind, which in (("wrong", wrong[:N_SHOWN]), ("hardest", hardest[:N_SHOWN])):
        if len(which):
            captions = [
                f"#{predictions.index[i]}: {names[labels[i]]},\nread as {names[predicted[i]]}, "
                f"{interval.format_value(confidence[i], 2)}"
                for i in which
            ]
            drawn[kind] = image_grid(
                images.images_at(predictions.index[which]).numpy(), captions, scale
            )
    return drawn


def _draw_quantity(
    result: dict[str, Any], measured: dict[str, Any], names: tuple[str, ...]
) -> "Figure":
    name = measured["class_name"]
    if name is None:
        overall = result["accuracy"]["value"], result["macro_auc"]["value"]
        texts = {"share": "Accuracy", "auc": "Macro AUC"}
        return figures.by_parameter(
            measured["bins"], measured["label"], overall=overall, hue=3, **texts
        )
    row = result["per_class"][name]
    texts = {"share": f"Recall of {name}", "auc": f"AUC of {name} against the rest"}
    overall = row["recall"]["value"], row["auc"]["value"]
    return figures.by_parameter(
        measured["bins"], measured["label"], overall=overall, hue=names.index(name), **texts
    )


def _draw_target(
    measured: dict[str, Any], name: str, predictions: Predictions, t: int
) -> dict[str, "Figure"]:
    truth = predictions.truth[:, t]
    mean, sigma, low, high = (
        predictions.estimates[key][:, t] for key in ("mean", "sigma", "low", "high")
    )
    label, floor = measured["label"], measured["floor"]
    drawn = {
        f"predicted_{name}": regression.predicted_against_true(
            truth, mean, low, high, label=label, floor=floor
        ),
        f"error_{name}": regression.error_by_bin(
            measured, label=label, floor=floor, published=measured["published_mae"]
        ),
    }
    calibrated = (
        {measured["nominal_coverage"]: Interval(**measured["coverage"])}
        if measured["calibration"]
        else None
    )
    if calibrated or measured["coverage_by_sigma"]:
        drawn[f"coverage_{name}"] = regression.coverage_curve(truth, mean, sigma, calibrated)
    return drawn


def save_figures(
    part: Path, drawn: dict[str, "Figure"]
) -> tuple[dict[str, Markup], dict[str, str]]:
    """Writes ``figures/`` into a folder; returns each figure's ``<svg>`` element and the path of its PNG."""
    (part / "figures").mkdir()
    svgs = {}
    for name, figure in drawn.items():
        style.save(figure, part / "figures" / name)
        svgs[name] = style.inline_svg(figure, name)
    return svgs, {name: f"figures/{name}.png" for name in drawn}
