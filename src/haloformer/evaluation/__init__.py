"""How good a trained model is on images that it has not seen: numbers with intervals, figures, and a report."""

import csv
import datetime
import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import beta

from haloformer._version import code_version
from haloformer.data.grouping import LEFT_OUT
from haloformer.deploy.predictor import Predictor, load
from haloformer.deploy.tables import progress_bar, write_csv
from haloformer.errors import InputError
from haloformer.evaluation import figures, physics, regression, report
from haloformer.evaluation.folder import new_folder, refuse_existing
from haloformer.evaluation.metrics import Interval, classification_metrics, log_odds
from haloformer.evaluation.testset import (
    ImageSource,
    class_order,
    contamination,
    mismatches,
    open_test_images,
    training_of,
)
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.surveys import get_survey
from haloformer.training.regression import TARGETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["evaluate"]

RESULT_FORMAT = 1
N_SHOWN = 9  # images that were wrong, or hard
_DIGEST_STEP = 8

_FILES = ("metrics.json", "report.html")  # by which an evaluation is known

_SIGMA_LEVELS = (0.5, 0.68, 0.9, 0.95)
# What the report repeats of the artefact's account of its training.
_TRAINING_FACTS = (
    *("train_seed", "val_seed", "n_train", "n_val", "epochs", "best_epoch", "val_macro_auc", "val_mae"),
    *("batch_size", "lr", "weight_decay", "augment", "pretrained"),
)


def evaluate(
    run: str,
    data: str,
    *,
    out: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    noise: Literal["original", "instrument", "none"] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Tests a trained model and writes metrics, figures, predictions and a report.

    The folder ``out`` gets ``report.html`` (one self-contained page), ``report.md``, ``metrics.json``,
    ``predictions.csv`` and ``figures/`` (PNG, SVG and PDF). It appears only when all of it is written.

    Args:
        run: Run folder or artefact folder, or the name of a shipped model.
        data: A dataset (.h5), or the name of a survey, of which fresh test images are then simulated.
        out: Folder to write; ``run/evaluation/NAME`` by default, and for a shipped model ``evaluations/run/evaluation/NAME``.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default the first after the seeds of the training; for a survey only.
        noise: Of the images to simulate; by default that of the training; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Replace an earlier evaluation in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``metrics.json`` (NaN where that says null), with ``out`` and ``report``, the paths of the folder
        and of the page.
        ``contaminated`` is True if the model was trained or selected on these images.

    Raises:
        InputError: The model or the data cannot be read, or do not fit each other, or ``out`` exists.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")
    predictor = load(run, device)
    images = open_test_images(data, predictor, n=n, seed=seed, noise=noise)
    home = (
        _run_folder(Path(run)) if Path(run).exists() else Path("evaluations") / run
    )  # a shipped model has no folder of the user's
    target = Path(out) if out is not None else home / "evaluation" / images.stem
    refuse_existing(target, overwrite, _FILES, "evaluation")

    order = class_order(images, predictor)
    answers = answers_of(predictor, images, order, batch_size, progress)
    check_that_something_can_be_measured(predictor, images, answers)

    result = _result(predictor, Path(run), images, answers)
    drawn = _draw(result, predictor, Path(run), images, answers)
    _write_folder(target, overwrite, result, drawn, _rows(predictor, images, answers))
    return {**result, "out": str(target), "report": str(target / "report.html")}


@dataclass(frozen=True)
class Answers:
    """What is true of the N images that were tested, and what the model says of them.

    Attributes:
        index: (N,) number of each image in the data.
        data_labels: (N,) index into the data's classes.
        labels: (N,) index into the model's classes; of no meaning for a regression alone.
        logits: (N, K) float64; K = 0 for a regression alone.
        truth: (N, T) true values of the targets, NaN where an image has none; T = 0 for a classification alone.
        estimates: ``mean``, ``sigma``, ``low`` and ``high``, (N, T) each.
        left_out: Class of the data → number of its images that were not tested.
        snr: (N,) of `physics.peak_to_noise`.
        digest: Of the images, to tell whether another evaluation had the same.
    """

    index: np.ndarray
    data_labels: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    truth: np.ndarray
    estimates: dict[str, np.ndarray]
    left_out: dict[str, int]
    snr: np.ndarray
    digest: str


def answers_of(
    predictor: Predictor, images: ImageSource, order: np.ndarray, batch_size: int, progress: bool | None
) -> Answers:
    """Asks the model about every image that has something to be tested; holds one batch of images at a time."""
    index, all_labels, truth, numbers, snr = [], [], [], [], []
    done, digest = 0, hashlib.sha256()
    with progress_bar("evaluate", images.n, progress) as advance:
        for batch, labels, values in images.batches(batch_size):
            used = torch.from_numpy(order)[labels] != LEFT_OUT
            if not predictor.class_names:
                used &= ~torch.isnan(values).all(dim=1)
            places = used.nonzero()[:, 0]
            batch = batch[places]
            bad = ~torch.isfinite(batch).flatten(1).all(dim=1)
            if bad.any():
                first = done + int(places[bad][0])
                raise InputError(f"{images.name}: image {first} holds NaN or infinite values")
            # Every eighth row and column of every image tells images apart as well as all of them, and costs nothing.
            digest.update(batch[..., ::_DIGEST_STEP, ::_DIGEST_STEP].float().cpu().numpy().tobytes())
            if len(batch):
                snr.append(physics.peak_to_noise(batch))
                try:
                    numbers.append(predictor.numbers(batch))
                except InputError as error:
                    raise InputError(f"{images.name}: images from {done} on: {error}") from error
            index.append(done + places)
            truth.append(values[places])
            all_labels.append(labels)
            done += len(labels)
            advance(len(labels))
    tested, data_labels = torch.cat(index).numpy(), torch.cat(all_labels).numpy()
    logits, estimates = _meaning(predictor, numbers)
    n_classes = len(images.class_names)
    rest = np.bincount(np.delete(data_labels, tested), minlength=n_classes)
    return Answers(
        index=tested,
        data_labels=data_labels[tested],
        labels=order[data_labels[tested]],
        logits=logits,
        truth=torch.cat(truth).double().numpy(),
        estimates=estimates,
        left_out={name: n for name, n in zip(images.class_names, rest.tolist()) if n},
        snr=torch.cat(snr).double().cpu().numpy() if snr else np.zeros(0),
        digest=digest.hexdigest()[:16],
    )


def _meaning(predictor: Predictor, numbers: list[torch.Tensor]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns logits (N, K) and the estimates (N, T) in what the model put out."""
    if not numbers:
        return np.zeros((0, len(predictor.class_names))), {}
    everything = torch.cat(numbers)
    logits = predictor.outputs.split(everything)[0]
    estimates = predictor.estimates_of(everything) if predictor.outputs.targets else {}
    return (
        logits.double().numpy() if logits is not None else np.zeros((len(everything), 0)),
        {name: values.double().numpy() for name, values in estimates.items()},
    )


def check_that_something_can_be_measured(predictor: Predictor, images: ImageSource, answers: Answers) -> None:
    """Raises InputError if the images have fewer than two classes, or nothing to estimate."""
    names = predictor.class_names
    if names:
        present = np.unique(answers.labels)
        if len(present) < 2:
            what = f"all images are of class '{names[present[0]]}'" if len(present) else "no image has a known class"
            raise InputError(f"{images.name}: {what}; an AUC needs two")
    elif not len(answers.index):
        wanted = ", ".join(f"{name} (of class {TARGETS[name].class_name})" for name in predictor.outputs.targets)
        raise InputError(f"{images.name}: no image has a true value of {wanted}")


# --- the result -------------------------------------------------------------------------------------------------------


def _result(predictor: Predictor, run: Path, images: ImageSource, answers: Answers) -> dict[str, Any]:
    labels, logits = answers.labels, answers.logits
    classes: dict[str, Any] = {}
    if predictor.class_names:
        names, right = predictor.class_names, logits.argmax(axis=1) == labels
        measured = classification_metrics(labels, logits, names, temperature=predictor.temperature)
        measured["by_quantity"] = physics.by_quantity(
            images, answers.index, labels, log_odds(logits), right, names, answers.snr
        )
        classes = {**plain(measured), "n_wrong": int((~right).sum())}
    estimated = {
        name: _target_result(predictor, images, answers, t)
        for t, name in enumerate(predictor.outputs.targets)
        if (~np.isnan(answers.truth[:, t])).any()
    }
    seen = contamination(predictor, images)
    return {
        "format": RESULT_FORMAT,
        "class_names": list(predictor.class_names),
        "n_images": len(answers.index),
        "left_out": answers.left_out,
        **classes,
        "regression": estimated,
        "contaminated": bool(seen),
        "warnings": seen + _other_warnings(predictor, images, classes, estimated),
        "protocol": {
            **_protocol(predictor, run, images),
            "n_images": len(answers.index),
            "images_digest": answers.digest,
        },
    }


def _target_result(predictor: Predictor, images: ImageSource, answers: Answers, t: int) -> dict[str, Any]:
    """Returns what was measured of target number ``t``, ready for JSON but for NaN."""
    name = predictor.outputs.targets[t]
    target, conformal = TARGETS[name], predictor.conformal
    values = [answers.estimates[key][:, t] for key in ("mean", "sigma", "low", "high")]
    truth, mean, sigma = answers.truth[:, t], values[0], values[1]
    calibration = None
    if conformal is not None:
        # Which images calibrated it is chance, too: over them the coverage of new images is Beta-distributed (Vovk 2012).
        k = np.ceil((conformal.n + 1) * conformal.coverage)
        expected = beta.ppf([0.025, 0.975], k, conformal.n + 1 - k).tolist()
        calibration = {"factor": conformal.factors[t], "n": conformal.n, "expected": expected}
    by_sigma = []
    if not np.isnan(sigma).any():
        measured = regression.sigma_coverage(truth, mean, sigma, np.array(_SIGMA_LEVELS))
        by_sigma = [{"nominal": nominal, **asdict(share)} for nominal, share in zip(_SIGMA_LEVELS, measured)]
    survey, noise = images.attributes.get("survey"), images.attributes.get("noise")
    is_axion_mass = name == "log10_m_axion"
    # What others reached on the released images says nothing about images with other noise.
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


def _floor(images: ImageSource) -> dict[str, Any] | None:
    """Returns where the images stop to show the vortex's length; None if it is not known what took them."""
    definition, noise = images.attributes.get("survey_definition"), images.attributes.get("noise")
    try:
        described = json.loads(definition or "null")
        survey = get_survey(described) if isinstance(described, dict) else None
    except (TypeError, ValueError, RecursionError, InputError):
        return None
    # A file may say anything of itself; what contradicts its images is not simulated.
    if survey is None or survey.instrument.num_pix != images.image_shape[-1]:
        return None
    return regression.resolution_floor(survey, noise if noise in NOISE_MODES else None)


def _other_warnings(
    predictor: Predictor, images: ImageSource, classes: dict[str, Any], estimated: dict[str, Any]
) -> list[str]:
    warnings = []
    for name, row in classes.get("per_class", {}).items():
        if row["n"] == 0:
            warnings.append(f"There are no images of class {name}: it has no AUC and is left out of the macro AUC.")
    for name in predictor.outputs.targets:
        if name not in estimated:
            warnings.append(f"No image has a true value of {name}: how well it is estimated was not measured.")
        elif predictor.conformal is None:
            warnings.append(f"The model's intervals of {name} are not calibrated.")
    promise = " Calibrated intervals promise nothing for such images." if estimated and predictor.conformal else ""
    return warnings + [text + promise for text in mismatches(predictor, images)]


def _protocol(predictor: Predictor, run: Path, images: ImageSource) -> dict[str, Any]:
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
    """Returns intervals and arrays as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


# --- the folder -------------------------------------------------------------------------------------------------------


def _draw(
    result: dict[str, Any], predictor: Predictor, run: Path, images: ImageSource, answers: Answers
) -> dict[str, "Figure"]:
    drawn = _draw_classes(result, predictor, images, answers) if predictor.class_names else {}
    for t, name in enumerate(predictor.outputs.targets):
        if name in result["regression"]:
            drawn |= _draw_target(result["regression"][name], name, answers, t)
    log = _learning_log(_run_folder(run) / "metrics.csv")
    if log:
        drawn["learning"] = figures.learning_curves(log, training_of(predictor).get("best_epoch"))
    return drawn


def _draw_classes(
    result: dict[str, Any], predictor: Predictor, images: ImageSource, answers: Answers
) -> dict[str, "Figure"]:
    labels, logits = answers.labels, answers.logits
    names, odds = predictor.class_names, log_odds(logits)
    aucs = [Interval(**result["per_class"][name]["auc"]) for name in names]
    drawn = {
        "roc": figures.roc(labels, odds, names, aucs),
        "confusion": figures.confusion(np.array(result["confusion"]), names),
        "scores": figures.scores(labels, odds, names),
    }
    calibration = result["calibration"]
    lines = {"as the network says": calibration["before"]["reliability"]}
    if "after" in calibration:
        lines[f"with temperature {calibration['temperature']:.3g}"] = calibration["after"]["reliability"]
    drawn["reliability"] = figures.reliability(lines)
    for name, measured in result["by_quantity"].items():
        drawn[f"by_{name}"] = _draw_quantity(result, measured, names)

    predicted, probabilities = logits.argmax(axis=1), softmax(logits / predictor.temperature, axis=1)
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
                f"#{answers.index[i]}: {names[labels[i]]},\nread as {names[predicted[i]]}, "
                f"{figures.format_value(confidence[i], 2)}"
                for i in which
            ]
            drawn[kind] = figures.image_grid(images.images_at(answers.index[which]).numpy(), captions, scale)
    return drawn


def _draw_quantity(result: dict[str, Any], measured: dict[str, Any], names: tuple[str, ...]) -> "Figure":
    name = measured["class_name"]
    if name is None:
        overall = result["accuracy"]["value"], result["macro_auc"]["value"]
        texts = {"share": "Accuracy", "auc": "Macro AUC"}
        return figures.by_parameter(measured["bins"], measured["label"], overall=overall, hue=3, **texts)
    row = result["per_class"][name]
    texts = {"share": f"Share of {name} recognised", "auc": f"AUC of {name} against the rest"}
    overall = row["recall"]["value"], row["auc"]["value"]
    return figures.by_parameter(measured["bins"], measured["label"], overall=overall, hue=names.index(name), **texts)


def _draw_target(measured: dict[str, Any], name: str, answers: Answers, t: int) -> dict[str, "Figure"]:
    truth = answers.truth[:, t]
    mean, sigma, low, high = (answers.estimates[key][:, t] for key in ("mean", "sigma", "low", "high"))
    label, floor = measured["label"], measured["floor"]
    drawn = {
        f"predicted_{name}": regression.predicted_against_true(truth, mean, low, high, label=label, floor=floor),
        f"error_{name}": regression.error_by_bin(
            measured, label=label, floor=floor, published=measured["published_mae"]
        ),
    }
    calibrated = {measured["nominal_coverage"]: Interval(**measured["coverage"])} if measured["calibration"] else None
    if calibrated or measured["coverage_by_sigma"]:
        drawn[f"coverage_{name}"] = regression.coverage_curve(truth, mean, sigma, calibrated)
    return drawn


def _learning_log(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns (epochs, values) of each quantity in a run's log; an artefact that was copied out has none."""
    if not path.is_file():
        return {}
    points: dict[str, dict[float, float]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row in csv.DictReader(stream):
            # Training and validation lines of one epoch may be apart; a cell that is empty was not measured.
            for name, cell in row.items():
                try:
                    epoch, value = float(row["epoch"]), float(cell or "")
                except (KeyError, TypeError, ValueError):
                    continue
                if np.isfinite(epoch) and np.isfinite(value):
                    points.setdefault(name, {})[epoch] = value
    wanted = {
        name: values
        for name, values in points.items()
        if name.endswith(("loss", "auc", "auroc", "acc", "accuracy")) or name.startswith("val_mae_")
    }
    return {name: (np.array(list(values)), np.array(list(values.values()))) for name, values in wanted.items()}


def _rows(predictor: Predictor, images: ImageSource, answers: Answers) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {"index": answers.index.tolist()}
    names, logits = predictor.class_names, answers.logits
    if names:
        columns["label"] = [names[label] for label in answers.labels]
        columns["class"] = [names[k] for k in logits.argmax(axis=1)]
        columns |= {
            f"p_{name}": p.tolist() for name, p in zip(names, softmax(logits / predictor.temperature, axis=1).T)
        }
        columns |= {f"logit_{name}": z.tolist() for name, z in zip(names, logits.T)}
    else:
        columns["label"] = [images.class_names[label] for label in answers.data_labels]
    for t, name in enumerate(predictor.outputs.targets):
        values = {"_true": answers.truth, "": answers.estimates["mean"]}
        values |= {f"_{key}": answers.estimates[key] for key in ("sigma", "low", "high")}
        for what, array in values.items():
            columns[name + what] = [value if np.isfinite(value) else None for value in array[:, t].tolist()]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _run_folder(path: Path) -> Path:
    """Returns the run folder of a run folder or of the artefact folder in it."""
    inside = path.name == "artefact" and not (path / "artefact").exists()
    return path.parent if inside else path


def save_figures(part: Path, drawn: dict[str, "Figure"]) -> tuple[dict[str, str], dict[str, str]]:
    """Writes ``figures/`` into a folder; returns each figure's ``<svg>`` element and the path of its PNG."""
    (part / "figures").mkdir()
    svgs = {}
    for name, figure in drawn.items():
        figures.save(figure, part / "figures" / name)
        svgs[name] = figures.inline_svg(figure, name)
    return svgs, {name: f"figures/{name}.png" for name in drawn}


def _write_folder(
    target: Path, overwrite: bool, result: dict[str, Any], drawn: dict[str, "Figure"], rows: list[dict[str, Any]]
) -> None:
    """Writes everything; an old evaluation goes only when the new one is whole."""
    with new_folder(target, overwrite, _FILES, "evaluation") as part:
        in_order = {name: drawn[name] for name in report.captions(result) if name in drawn}
        svgs, pngs = save_figures(part, in_order)
        (part / "report.html").write_text(report.to_html(result, svgs), encoding="utf-8")
        (part / "report.md").write_text(report.to_markdown(result, pngs), encoding="utf-8")
        (part / "metrics.json").write_text(report.to_json(result), encoding="utf-8")
        with write_csv(part / "predictions.csv", list(rows[0])) as write:
            write(rows)
