"""Predictions of a model for test images, beside the true values."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError
from haloformer.evaluation import physics
from haloformer.evaluation.duplicates import image_hashes
from haloformer.evaluation.testset import TestImages
from haloformer.io.progress import progress_bar
from haloformer.outputs.targets import TARGETS
from haloformer.prediction.predictor import Predictor

_DIGEST_STEP = 8  # rows and columns: enough to distinguish images, at no cost


@dataclass(frozen=True)
class Predictions:
    """True values of the N tested images, and the model's predictions.

    Attributes:
        index: (N,) number of each image in the data.
        data_labels: (N,) index into the data's classes.
        labels: (N,) index into the model's classes; of no meaning for a regression alone.
        logits: (N, K) float64; K = 0 for a regression alone.
        truth: (N, T) true values of the targets, NaN where an image has none; T = 0 for a classification alone.
        estimates: ``mean``, ``sigma``, ``low`` and ``high``, (N, T) each.
        left_out: Class of the data → number of its images that were not tested.
        snr: (N,) of `physics.peak_to_noise`.
        digest: Hash of the images, by which other evaluations of the same are found.
        hashes: N hashes, one of each image.
        flagged: (N,) bool: out of distribution; None if the model cannot tell.
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
    hashes: list[bytes]
    flagged: np.ndarray | None

    @property
    def n_flagged(self) -> int | None:
        """Images out of distribution; None if the model cannot tell."""
        return None if self.flagged is None else int(self.flagged.sum())


def predictions_of(
    predictor: Predictor,
    images: TestImages,
    order: np.ndarray,
    batch_size: int,
    progress: bool | None,
) -> Predictions:
    """Predicts every image that has a true class or value; one batch of images is in memory at a time."""
    index, all_labels, truth, numbers, snr = [], [], [], [], []
    hashes: list[bytes] = []
    flagged: list[torch.Tensor] = []
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
            digest.update(
                batch[..., ::_DIGEST_STEP, ::_DIGEST_STEP].float().cpu().numpy().tobytes()
            )
            if len(batch):
                snr.append(physics.peak_to_noise(batch))
                hashes += image_hashes(batch)
                try:
                    output, verdict = predictor.numbers_and_ood(batch, geometry=False)
                except InputError as error:
                    raise InputError(f"{images.name}: images from {done} on: {error}") from error
                numbers.append(output)
                flagged += [] if verdict is None else [verdict.flag]
            index.append(done + places)
            truth.append(values[places])
            all_labels.append(labels)
            done += len(labels)
            advance(len(labels))
    tested, data_labels = torch.cat(index).numpy(), torch.cat(all_labels).numpy()
    logits, estimates = _decoded(predictor, numbers)
    n_classes = len(images.class_names)
    rest = np.bincount(np.delete(data_labels, tested), minlength=n_classes)
    return Predictions(
        index=tested,
        data_labels=data_labels[tested],
        labels=order[data_labels[tested]],
        logits=logits,
        truth=torch.cat(truth).double().numpy(),
        estimates=estimates,
        left_out={name: n for name, n in zip(images.class_names, rest.tolist()) if n},
        snr=torch.cat(snr).double().cpu().numpy() if snr else np.zeros(0),
        digest=digest.hexdigest()[:16],
        hashes=hashes,
        flagged=torch.cat(flagged).numpy() if flagged else None,
    )


def _decoded(
    predictor: Predictor, outputs: list[torch.Tensor]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns logits (N, K) and estimates (N, T each) from batches of raw outputs."""
    if not outputs:
        return np.zeros((0, len(predictor.class_names))), {}
    everything = torch.cat(outputs)
    logits = predictor.outputs.split(everything)[0]
    estimates = predictor.estimates_of(everything) if predictor.outputs.targets else {}
    return (
        logits.double().numpy() if logits is not None else np.zeros((len(everything), 0)),
        {name: values.double().numpy() for name, values in estimates.items()},
    )


def check_measurable(predictor: Predictor, images: TestImages, predictions: Predictions) -> None:
    """Raises InputError if the images have fewer than two classes, or nothing to estimate."""
    names = predictor.class_names
    if names:
        present = np.unique(predictions.labels)
        if len(present) < 2:
            what = (
                f"all images are of class '{names[present[0]]}'"
                if len(present)
                else "no image has a known class"
            )
            raise InputError(f"{images.name}: {what}; an AUC needs two")
    elif not len(predictions.index):
        wanted = ", ".join(
            f"{name} (of class {TARGETS[name].class_name})" for name in predictor.outputs.targets
        )
        raise InputError(f"{images.name}: no image has a true value of {wanted}")


def rows_of(
    predictor: Predictor, images: TestImages, predictions: Predictions
) -> list[dict[str, Any]]:
    """Returns the rows of ``predictions.csv``."""
    columns: dict[str, list[Any]] = {"index": predictions.index.tolist()}
    names, logits = predictor.class_names, predictions.logits
    if names:
        columns["label"] = [names[label] for label in predictions.labels]
        columns["class"] = [names[k] for k in logits.argmax(axis=1)]
        columns |= {
            f"p_{name}": p.tolist()
            for name, p in zip(names, softmax(logits / predictor.temperature, axis=1).T)
        }
        columns |= {f"logit_{name}": z.tolist() for name, z in zip(names, logits.T)}
    else:
        columns["label"] = [images.class_names[label] for label in predictions.data_labels]
    for t, name in enumerate(predictor.outputs.targets):
        values = {"_true": predictions.truth, "": predictions.estimates["mean"]}
        values |= {f"_{key}": predictions.estimates[key] for key in ("sigma", "low", "high")}
        for what, array in values.items():
            columns[name + what] = [
                value if np.isfinite(value) else None for value in array[:, t].tolist()
            ]
    if predictions.flagged is not None:
        columns["ood"] = predictions.flagged.tolist()
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
