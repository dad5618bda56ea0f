"""How good a trained model is on images that it has not seen: numbers with intervals, figures, and a report."""

import csv
import datetime
import os
import platform
import shutil
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.special import softmax

from haloformer._version import code_version
from haloformer.deploy.predictor import Predictor, load
from haloformer.deploy.tables import progress_bar, write_csv
from haloformer.errors import InputError
from haloformer.evaluation import figures, report
from haloformer.evaluation.metrics import classification_metrics, log_odds
from haloformer.evaluation.testset import ImageSource, class_order, contamination, open_test_images, training_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["evaluate"]

RESULT_FORMAT = 1
N_WRONG_SHOWN = 9

# What the report repeats of the artefact's account of its training.
_TRAINING_FACTS = (
    *("train_seed", "val_seed", "n_train", "n_val", "epochs", "best_epoch", "val_macro_auc"),
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
    ``predictions.csv`` and ``figures/`` (PNG and SVG). It appears only when all of it is written.

    Args:
        run: Run folder or artefact folder.
        data: A dataset (.h5), or the name of a survey, of which fresh test images are then simulated.
        out: Folder to write; ``run/evaluation/NAME`` by default.
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
    target = Path(out) if out is not None else _run_folder(Path(run)) / "evaluation" / images.stem
    _refuse_existing(target, overwrite)

    order = class_order(images, predictor)
    labels, logits = _answers(predictor, images, batch_size, progress)
    labels = order[labels]
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"{images.name}: all images are of class '{predictor.class_names[labels[0]]}'; an AUC needs two"
        )

    result = _result(predictor, Path(run), images, labels, logits)
    drawn = _draw(result, predictor, Path(run), images, labels, logits)
    _write_folder(target, overwrite, result, drawn, _rows(predictor.class_names, labels, logits))
    return {**result, "out": str(target), "report": str(target / "report.html")}


def _answers(
    predictor: Predictor, images: ImageSource, batch_size: int, progress: bool | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (N,) as the data has them, and logits (N, K); holds one batch of images at a time."""
    labels, logits = [], []
    done = 0
    with progress_bar("evaluate", images.n, progress) as advance:
        for batch, numbers in images.batches(batch_size):
            bad = ~torch.isfinite(batch).flatten(1).all(dim=1)
            if bad.any():
                raise InputError(f"{images.name}: image {done + int(bad.nonzero()[0])} holds NaN or infinite values")
            try:
                logits.append(predictor.predict_logits(batch).numpy())
            except InputError as error:
                raise InputError(f"{images.name}: images from {done} on: {error}") from error
            labels.append(numbers.numpy())
            done += len(batch)
            advance(len(batch))
    return np.concatenate(labels), np.concatenate(logits).astype(np.float64)


# --- the result -------------------------------------------------------------------------------------------------------


def _result(
    predictor: Predictor, run: Path, images: ImageSource, labels: np.ndarray, logits: np.ndarray
) -> dict[str, Any]:
    metrics = _plain(classification_metrics(labels, logits, predictor.class_names))
    seen = contamination(predictor, images)
    return {
        "format": RESULT_FORMAT,
        "class_names": list(predictor.class_names),
        **metrics,
        "n_wrong": int((logits.argmax(axis=1) != labels).sum()),
        "contaminated": bool(seen),
        "warnings": seen + _other_warnings(predictor, images, metrics),
        "protocol": _protocol(predictor, run, images),
    }


def _other_warnings(predictor: Predictor, images: ImageSource, metrics: dict[str, Any]) -> list[str]:
    warnings = []
    for name, row in metrics["per_class"].items():
        if row["n"] == 0:
            warnings.append(f"There are no images of class {name}: it has no AUC and is left out of the macro AUC.")
    for key, what in (("survey", "survey"), ("noise", "noise"), ("pixel_scale", "pixel scale")):
        trained, tested = predictor.artefact.get(key), images.attributes.get(key)
        if trained is not None and tested is not None and trained != tested:
            warnings.append(f"The model was trained with {what} {trained}, these images have {tested}.")
    return warnings


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
        "data_code_version": images.attributes.get("code_version"),
        "model": artefact["model"]["name"],
        "parameters": sum(parameter.numel() for parameter in predictor.model.parameters()),
        "image_shape": list(predictor.image_shape),
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


def _plain(value: Any) -> Any:
    """Returns intervals and arrays as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


# --- the folder -------------------------------------------------------------------------------------------------------


def _draw(
    result: dict[str, Any],
    predictor: Predictor,
    run: Path,
    images: ImageSource,
    labels: np.ndarray,
    logits: np.ndarray,
) -> dict[str, "Figure"]:
    names, odds = predictor.class_names, log_odds(logits)
    aucs = [figures.Interval(**result["per_class"][name]["auc"]) for name in names]
    drawn = {
        "roc": figures.roc(labels, odds, names, aucs),
        "confusion": figures.confusion(np.array(result["confusion"]), names),
        "scores": figures.scores(labels, odds, names),
    }
    predicted, confidence = logits.argmax(axis=1), softmax(logits, axis=1).max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:N_WRONG_SHOWN]
    if len(worst):
        captions = [
            f"#{i}: {names[labels[i]]},\nread as {names[predicted[i]]}, {figures.format_value(confidence[i], 2)}"
            for i in worst
        ]
        scale = images.attributes.get("pixel_scale") or predictor.artefact.get("pixel_scale")
        shown = images.images_at(worst).numpy()
        drawn["wrong"] = figures.wrong_images(
            shown, captions, float(scale) if isinstance(scale, int | float) and 0 < scale < np.inf else None
        )
    log = _learning_log(_run_folder(run) / "metrics.csv")
    if log:
        drawn["learning"] = figures.learning_curves(log, training_of(predictor).get("best_epoch"))
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
        name: values for name, values in points.items() if name.endswith(("loss", "auc", "auroc", "acc", "accuracy"))
    }
    return {name: (np.array(list(values)), np.array(list(values.values()))) for name, values in wanted.items()}


def _rows(class_names: tuple[str, ...], labels: np.ndarray, logits: np.ndarray) -> list[dict[str, Any]]:
    probabilities = softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)
    return [
        {"index": i, "label": class_names[labels[i]], "class": class_names[predicted[i]]}
        | {f"p_{name}": p for name, p in zip(class_names, probabilities[i].tolist())}
        | {f"logit_{name}": z for name, z in zip(class_names, logits[i].tolist())}
        for i in range(len(labels))
    ]


def _run_folder(path: Path) -> Path:
    """Returns the run folder of a run folder or of the artefact folder in it."""
    inside = path.name == "artefact" and not (path / "artefact").exists()
    return path.parent if inside else path


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: is not a folder; choose another name for the evaluation")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target}: exists already; choose another folder or overwrite it")
    if not (target / "metrics.json").is_file() or not (target / "report.html").is_file():
        raise InputError(f"{target}: holds something else than an evaluation and is not overwritten")


def _write_folder(
    target: Path, overwrite: bool, result: dict[str, Any], drawn: dict[str, "Figure"], rows: list[dict[str, Any]]
) -> None:
    """Writes everything into a folder beside and renames it; an old evaluation goes only when the new one is whole."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    old = target.with_name(f"{target.name}.{os.getpid()}.old")
    made = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        made = True
        (part / "figures").mkdir()
        in_order = {name: drawn[name] for name in report.CAPTIONS if name in drawn}
        for name, figure in in_order.items():
            figures.save(figure, part / "figures" / name)
        svgs = {name: figures.inline_svg(figure, name) for name, figure in in_order.items()}
        pngs = {name: f"figures/{name}.png" for name in in_order}
        (part / "report.html").write_text(report.to_html(result, svgs), encoding="utf-8")
        (part / "report.md").write_text(report.to_markdown(result, pngs), encoding="utf-8")
        (part / "metrics.json").write_text(report.to_json(result), encoding="utf-8")
        with write_csv(part / "predictions.csv", list(rows[0])) as write:
            write(rows)
        _refuse_existing(target, overwrite)  # another process may have written it meanwhile
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
    except BaseException as error:
        if made:
            shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        if isinstance(error, OSError):
            raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
        raise
    shutil.rmtree(old, ignore_errors=True)
