"""The result of an evaluation: the content of ``metrics.json``."""

import datetime
import json
import os
import platform
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.evaluation import physics, regression
from haloformer.evaluation.duplicates import count_duplicates, duplicates_in_words
from haloformer.evaluation.metrics import classification_metrics, log_odds
from haloformer.evaluation.predictions import Predictions
from haloformer.evaluation.testset import (
    TestImages,
    contamination,
    mismatches,
    training_of,
)
from haloformer.outputs.targets import TARGETS
from haloformer.prediction.predictor import Predictor
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.surveys import get_survey

RESULT_FORMAT = 1


_MANY_UNUSUAL = 0.1  # of the images; the detector flags 1 % of usual ones
_FAR_BELOW_HALF = 0.4  # AUC
_LIKE_CHANCE = 0.02  # of a macro AUC above 0.5
_OF_USE = 0.6  # macro AUC
_ONE_FOR_ALL = 0.98  # of the answers
_FEW = 30  # images

_SIGMA_LEVELS = (0.5, 0.68, 0.9, 0.95)


# What the report repeats of the artefact's account of its training.
_TRAINING_FACTS = (
    *(
        "train_seed",
        "val_seed",
        "n_train",
        "n_val",
        "epochs",
        "best_epoch",
        "val_macro_auc",
        "val_mae",
    ),
    *("batch_size", "lr", "weight_decay", "augment", "pretrained"),
)


def result_of(
    predictor: Predictor, run: Path, images: TestImages, predictions: Predictions
) -> dict[str, Any]:
    """Returns the content of ``metrics.json``."""
    labels, logits = predictions.labels, predictions.logits
    classes: dict[str, Any] = {}
    if predictor.class_names:
        names, right = predictor.class_names, logits.argmax(axis=1) == labels
        measured = classification_metrics(labels, logits, names, temperature=predictor.temperature)
        measured["by_quantity"] = physics.by_quantity(
            images, predictions.index, labels, log_odds(logits), right, names, predictions.snr
        )
        classes = {**plain(measured), "n_wrong": int((~right).sum())}
    estimated = {
        name: _target_result(predictor, images, predictions, t)
        for t, name in enumerate(predictor.outputs.targets)
        if (~np.isnan(predictions.truth[:, t])).any()
    }
    duplicates = count_duplicates(predictor, images, predictions.hashes)
    seen = contamination(predictor, images)
    doubles = duplicates_in_words(duplicates, len(predictions.index))
    return {
        "format": RESULT_FORMAT,
        "class_names": list(predictor.class_names),
        "n_images": len(predictions.index),
        "left_out": predictions.left_out,
        **classes,
        "regression": estimated,
        "n_out_of_distribution": predictions.n_flagged,
        "duplicates": duplicates,
        "contaminated": bool(seen or duplicates["in_training"]),
        "warnings": [
            *seen,
            *doubles,
            *unlike_training(predictions.n_flagged, len(predictions.index)),
            *answers_in_words(classes),
            *_other_warnings(predictor, images, classes, estimated),
        ],
        "protocol": {
            **_protocol(predictor, run, images),
            "n_images": len(predictions.index),
            "images_digest": predictions.digest,
        },
    }


def _target_result(
    predictor: Predictor, images: TestImages, predictions: Predictions, t: int
) -> dict[str, Any]:
    """Returns what was measured of target number ``t``, ready for JSON but for NaN."""
    name = predictor.outputs.targets[t]
    target, conformal = TARGETS[name], predictor.conformal
    values = [predictions.estimates[key][:, t] for key in ("mean", "sigma", "low", "high")]
    truth, mean, sigma = predictions.truth[:, t], values[0], values[1]
    calibration = None
    if conformal is not None:
        expected = list(conformal.coverage_by_chance())
        calibration = {"factor": conformal.factors[t], "n": conformal.n, "expected": expected}
    by_sigma = []
    if not np.isnan(sigma).any():
        measured = regression.sigma_coverage(truth, mean, sigma, np.array(_SIGMA_LEVELS))
        by_sigma = [
            {"nominal": nominal, **asdict(share)} for nominal, share in zip(_SIGMA_LEVELS, measured)
        ]
    survey, noise = images.attributes.get("survey"), images.attributes.get("noise")
    is_axion_mass = name == "log10_m_axion"
    # Published errors are of the released images: they do not compare with other noise.
    as_released = is_axion_mass and noise == "original" and isinstance(survey, str)
    return {
        "unit": target.unit,
        "label": target.label,
        "description": target.description,
        "class_name": target.class_name,
        **regression.regression_metrics(truth, *values),
        "nominal_coverage": conformal.coverage if conformal else predictor.outputs.coverage,
        "calibration": calibration,
        "coverage_by_sigma": by_sigma,
        "floor": _floor(images) if is_axion_mass else None,
        "published_mae": regression.published_mae(survey) if as_released else None,
    }


def _floor(images: TestImages) -> dict[str, Any] | None:
    """Returns where the images stop to show the vortex's length; None if it is not known what took them."""
    definition, noise = images.attributes.get("survey_definition"), images.attributes.get("noise")
    try:
        described = json.loads(definition or "null")
        survey = get_survey(described) if isinstance(described, dict) else None
    except (TypeError, ValueError, RecursionError, InputError):
        return None
    # The attributes of a file are not trusted: a survey that contradicts its images is not simulated.
    if survey is None or survey.instrument.num_pix != images.image_shape[-1]:
        return None
    return regression.resolution_floor(survey, noise if noise in NOISE_MODES else None)


def unlike_training(n_flagged: int | None, n: int) -> list[str]:
    """Returns a warning if many images are out of distribution: far more than the detector flags by chance."""
    if not n_flagged or n_flagged / n <= _MANY_UNUSUAL:
        return []
    most = "Most images" if n_flagged > n / 2 else "Many images"
    return [
        f"{most} ({n_flagged:,} of {n:,}) are unlike those that the model was trained on: `haloformer predict` gives "
        "them no class, and the results say little about the model."
    ]


def answers_in_words(classes: dict[str, Any]) -> list[str]:
    """Returns warnings of answers that are none, or the wrong way round, of what :func:`classification_metrics` measured, as for JSON."""
    return [*_exchanged_labels(classes), *_useless(classes)]


def _exchanged_labels(classes: dict[str, Any]) -> list[str]:
    """Returns a warning if the model ranks the images of a class below the others: it is its answers' opposite."""
    rows = classes.get("per_class", {})
    worst = [
        f"{name} ({row['auc']['value']:.3f})"
        for name, row in rows.items()
        if _far_below_half(row["auc"])
    ]
    if not worst:
        return []
    counts = np.array(classes["confusion"])
    labelled, answered = linear_sum_assignment(-counts)
    names = list(rows)
    pairs = [
        f"those labelled {names[k]} as {names[m]}" for k, m in zip(labelled, answered) if k != m
    ]
    likely = f" It sees {', '.join(pairs)}." if pairs else ""
    return [
        f"AUC far below 0.5 for {', '.join(worst)}: worse than guessing, as if labels were exchanged.{likely}"
    ]


def _far_below_half(auc: dict[str, float]) -> bool:
    return auc["value"] < _FAR_BELOW_HALF and auc["high"] < 0.5


def _useless(classes: dict[str, Any]) -> list[str]:
    """Returns warnings if a classifier tells nothing: its AUC is like chance's, or its answer the same for all images."""
    warnings = []
    auc = classes.get("macro_auc")
    if auc is not None and auc["low"] <= 0.5 + _LIKE_CHANCE and auc["high"] >= 0.5:
        measured = f"its macro AUC is {auc['value']:.3f} ({auc['low']:.3f} – {auc['high']:.3f}), that of guessing 0.5"
        if auc["high"] < _OF_USE:
            warnings.append(f"This model is of no use on these images: {measured}.")
        else:
            warnings.append(f"These images do not tell this model from guessing: {measured}.")
    rows = classes.get("per_class", {})
    answers = np.array(classes.get("confusion", [[0]])).sum(axis=0)
    if answers.sum() >= _FEW and answers.max() > _ONE_FOR_ALL * answers.sum():
        name, share = list(rows)[int(answers.argmax())], answers.max() / answers.sum()
        whom = "all images" if share == 1 else f"{share:.1%} of the images"
        warnings.append(f"It answers {name} for {whom}, whatever their class.")
    return warnings


def _other_warnings(
    predictor: Predictor, images: TestImages, classes: dict[str, Any], estimated: dict[str, Any]
) -> list[str]:
    warnings = []
    for name, row in classes.get("per_class", {}).items():
        if row["n"] == 0:
            warnings.append(
                f"There are no images of class {name}: it has no AUC and is left out of the macro AUC."
            )
    for name in predictor.outputs.targets:
        if name not in estimated:
            warnings.append(
                f"No image has a true value of {name}: how well it is estimated was not measured."
            )
        elif predictor.conformal is None:
            warnings.append(f"The model's intervals of {name} are not calibrated.")
    promise = (
        " Calibrated intervals promise nothing for such images."
        if estimated and predictor.conformal
        else ""
    )
    return warnings + [text + promise for text in mismatches(predictor, images)]


def _protocol(predictor: Predictor, run: Path, images: TestImages) -> dict[str, Any]:
    artefact, training = predictor.artefact, training_of(predictor)
    # Names, not paths: a report is passed on.
    source = training.get("data")
    return {
        "data": images.name,
        "survey": images.attributes.get("survey"),
        "noise": images.attributes.get("noise"),
        "seed": images.attributes.get("seed"),
        "n_images": images.n,
        "class_of": predictor.artefact.get("classes"),
        "targets": list(predictor.outputs.targets) or None,
        "loss": predictor.outputs.loss if predictor.outputs.targets else None,
        "data_code_version": images.attributes.get("code_version"),
        "model": artefact["model"]["name"],
        "parameters": sum(parameter.numel() for parameter in predictor.model.parameters()),
        "image_shape": list(predictor.image_shape),
        "network_shape": list(predictor.framing.output_shape(predictor.image_shape)),
        "fit": predictor.framing.fit,
        "normalization": artefact["normalization"].get("kind"),
        "run": run.resolve().name,
        "training_data": Path(source).name if isinstance(source, str) else None,
        "training_survey": artefact.get("survey"),
        "training_noise": artefact.get("noise"),
        "training_seed": training.get("seed"),
        **{key: training.get(key) for key in _TRAINING_FACTS},
        "training_code_version": training.get("code_version"),
        "code_version": code_version(),
        "device": _device_name(predictor.device),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def plain(value: Any) -> Any:
    """Returns intervals and arrays as JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
