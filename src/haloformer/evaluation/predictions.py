"""Predictions of a model for test images, beside the true values."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError
from haloformer.evaluation import physics
from haloformer.evaluation.duplicates import image_hashes
from haloformer.evaluation.testset import TestImages
from haloformer.fitting.channels import Look, Residual, own_camera
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
    return predictions_of_all([predictor], images, [order], batch_size, progress)[0]


def predictions_of_all(
    predictors: Sequence[Predictor],
    images: TestImages,
    orders: Sequence[np.ndarray],
    batch_size: int,
    progress: bool | None,
) -> list[Predictions]:
    """Returns the predictions of several models for the same images, each of which is made and fitted once.

    Args:
        predictors: The models.
        images: Opened for the first of them, whose true values they have.
        orders: For each model, its number of each class of the data.
        batch_size: Images in memory at a time.
        progress: Show a bar.
    """
    fits = _Fits(predictors, images)
    collected = [_Collected(*each, images) for each in zip(predictors, orders, strict=True)]
    with progress_bar("evaluate", images.n, progress) as advance:
        for batch, labels, values in images.batches(batch_size):
            fits.begin()
            for one in collected:
                one.add(batch, labels, values, fits)
            advance(len(labels))
    return [one.result() for one in collected]


class _Fits:
    """What the smooth fit leaves of a batch, fitted once for all models that want the same, with the images' own camera where it is another."""

    def __init__(self, predictors: Sequence[Predictor], images: TestImages) -> None:
        asked = [predictor.residual for predictor in predictors if predictor.residual is not None]
        # The detail comes after the fit, and beside what the others see.
        self.fits = {
            replace(one, detail=False): replace(one, detail=replace(one, detail=True) in asked)
            for one in asked
        }
        definition = images.attributes.get("survey_definition")
        self.cameras = {
            kind: own_camera(kind, images.calibration, definition) for kind in self.fits
        }
        self.looks: dict[tuple[Residual, bytes], Look] = {}

    def begin(self) -> None:
        """Forgets the batch before."""
        self.looks.clear()

    def of(self, predictor: Predictor, batch: torch.Tensor, places: torch.Tensor) -> Look | None:
        """Returns what a model sees of images (B, C, H, W), those of a batch at places (B,); None for one that sees no fit."""
        residual = predictor.residual
        if residual is None:
            return None
        kind = replace(residual, detail=False)
        key = kind, places.numpy().tobytes()
        if key not in self.looks:
            self.looks[key] = self.fits[kind].look(predictor.checked(batch), **self.cameras[kind])
        look = self.looks[key]
        return replace(look, channels=look.channels[:, : 2 + residual.detail])


class _Collected:
    """The predictions of one model, batch by batch."""

    def __init__(self, predictor: Predictor, order: np.ndarray, images: TestImages) -> None:
        self.predictor, self.order, self.images = predictor, torch.from_numpy(order), images
        self.index: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.truth: list[torch.Tensor] = []
        self.numbers: list[torch.Tensor] = []
        self.snr: list[torch.Tensor] = []
        self.flagged: list[torch.Tensor] = []
        self.hashes: list[bytes] = []
        self.done, self.digest = 0, hashlib.sha256()

    def add(
        self, batch: torch.Tensor, labels: torch.Tensor, values: torch.Tensor, fits: _Fits
    ) -> None:
        """Predicts those images of a batch that have a true class or value."""
        used = self.order[labels] != LEFT_OUT
        if not self.predictor.class_names:
            used &= ~torch.isnan(values).all(dim=1)
        places, name = used.nonzero()[:, 0], self.images.name
        batch = batch[places]
        bad = ~torch.isfinite(batch).flatten(1).all(dim=1)
        if bad.any():
            first = self.done + int(places[bad][0])
            raise InputError(f"{name}: image {first} holds NaN or infinite values")
        self.digest.update(
            batch[..., ::_DIGEST_STEP, ::_DIGEST_STEP].float().cpu().numpy().tobytes()
        )
        if len(batch):
            self.snr.append(physics.peak_to_noise(batch))
            self.hashes += image_hashes(batch)
            try:
                look = fits.of(self.predictor, batch, places)
                output, verdict = self.predictor.numbers_and_ood(batch, geometry=False, look=look)
            except InputError as error:
                raise InputError(f"{name}: images from {self.done} on: {error}") from error
            self.numbers.append(output)
            self.flagged += [] if verdict is None else [verdict.flag]
        self.index.append(self.done + places)
        self.truth.append(values[places])
        self.labels.append(labels)
        self.done += len(labels)

    def result(self) -> Predictions:
        """Returns them all."""
        tested, data_labels = torch.cat(self.index).numpy(), torch.cat(self.labels).numpy()
        logits, estimates = _decoded(self.predictor, self.numbers)
        names = self.images.class_names
        rest = np.bincount(np.delete(data_labels, tested), minlength=len(names))
        return Predictions(
            index=tested,
            data_labels=data_labels[tested],
            labels=self.order.numpy()[data_labels[tested]],
            logits=logits,
            truth=torch.cat(self.truth).double().numpy(),
            estimates=estimates,
            left_out={name: n for name, n in zip(names, rest.tolist()) if n},
            snr=torch.cat(self.snr).double().cpu().numpy() if self.snr else np.zeros(0),
            digest=self.digest.hexdigest()[:16],
            hashes=self.hashes,
            flagged=torch.cat(self.flagged).numpy() if self.flagged else None,
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
