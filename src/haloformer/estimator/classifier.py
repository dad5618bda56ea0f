"""`LensClassifier`: arrays and labels in, a trained network out, as scikit-learn's tools expect it."""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.outputs.out_of_distribution import MIN_IMAGES
from haloformer.prediction.in_memory import as_tensor
from haloformer.prediction.predictor import Predictor, load
from haloformer.readers.pixels import IN_TRAINING, bands_are_last, known_pixels
from haloformer.training import train
from haloformer.training.config import GROUPS, compose, short_name
from haloformer.validation import check_name, whole_number

_BATCH = 256  # images answered at once
_LEAST = 10  # images of each class: one of them validates


class LensClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # it has no types
    """Classifies images of lenses: the package's training, in the manner of scikit-learn.

    For arrays and labels that are in memory already, in pipelines, grid searches and
    ``cross_val_score``. `fit` trains on nine tenths of the images and keeps the epoch that is best
    on the rest. Physics-aware training and images by the million are `haloformer.train`'s.

    Args:
        model: Name of the network (`haloformer.list_models`).
        epochs: Passes over the images.
        batch_size: Images per step; of few images fewer.
        lr: Peak learning rate.
        augment: ``"d4"``: quarter turns and mirrors; ``"flips"``; ``"none"``.
        normalization: How pixel values become the network's input (`DataConfig`).
        preset: Recipe to start from (``haloformer presets``); the arguments above go before it.
        options: More fields of an experiment by their short names, such as ``{"ema": 0.99}``; they
            go before all others. Images, classes and task are those of `fit`.
        image_shape: (H, W) or (C, H, W) of flattened images (N, F); None: images have axes.
        random_state: Of initial weights, order and split: a whole number, or what scikit-learn takes.
        device: ``"auto"`` takes a GPU if there is one.
        out: Run folder to keep, a new one for each `fit`; None keeps the trained network in memory
            alone.
        verbose: Show the progress of the training.

    Attributes:
        classes_: The K labels, sorted.
        predictor_: The trained `Predictor`, for what scikit-learn has no words for: ``predictor_(X)``
            is a table that gives unusual images no class.
        metrics_: The metrics of the best epoch on the images that were held back.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 60, seed=1)
        >>> labels = [lenses.class_names[k] for k in lenses.labels]
        >>> small = {"model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}}
        >>> classifier = haloformer.LensClassifier("vit_nano", epochs=1, options=small)
        >>> classifier.fit(lenses.images, labels).predict_proba(lenses.images).shape
        (60, 3)
        >>> classifier.classes_.tolist()
        ['axion', 'cdm', 'no_sub']
    """

    classes_: np.ndarray
    predictor_: Predictor

    def __init__(
        self,
        model: str = "hybrid_nano",
        *,
        epochs: int = 30,
        batch_size: int = 64,
        lr: float = 1e-3,
        augment: str = "d4",
        normalization: str = "sqrt",
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        image_shape: Sequence[int] | None = None,
        random_state: Any = 0,
        device: str = "auto",
        out: str | os.PathLike[str] | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.augment = augment
        self.normalization = normalization
        self.preset = preset
        self.options = options
        self.image_shape = image_shape
        self.random_state = random_state
        self.device = device
        self.out = out
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "LensClassifier":
        """Trains a network.

        Args:
            X: (N, H, W) or (N, C, H, W) raw images, of any array type; or (N, F), see ``image_shape``.
            y: (N,) labels: names or whole numbers.

        Returns:
            The estimator itself.

        Raises:
            InputError: Images and labels do not fit, or are too few; or an argument of the
                estimator cannot be.
        """
        images, labels = self._images(X), _labels(y)
        known_pixels(images.numpy(), "error", "X", IN_TRAINING)
        if labels.shape != (len(images),):
            raise InputError(
                f"y has the shape {labels.shape}, X holds {len(images)} images: one label each is needed"
            )
        try:
            self.classes_, numbers = np.unique(labels, return_inverse=True)
        except TypeError:
            kinds = ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))
            raise InputError(
                f"y mixes labels that cannot be sorted ({kinds}): all are names, or all numbers"
            ) from None
        counts = np.bincount(numbers)
        if len(counts) < 2 or counts.min() < _LEAST:
            told = ", ".join(f"{n} of {name}" for name, n in zip(self.classes_, counts))
            raise InputError(
                f"two classes or more are needed, of {_LEAST} images each at least; y has {told}"
            )
        names = _names(self.classes_)
        with tempfile.TemporaryDirectory(prefix="haloformer-") as folder:
            path, out = Path(folder) / "train.h5", os.fspath(self.out or Path(folder) / "run")
            options = self._experiment(path, out, len(images))
            write_dataset(path, images, numbers, {}, names)
            result = train(preset=self.preset, **options)
            self.predictor_ = load(out, self.device)
        self.metrics_ = dict(result.metrics)
        self.predictor_.name = os.fspath(self.out) if self.out else f"LensClassifier({self.model})"
        self._columns = [self.predictor_.class_names.index(name) for name in names]
        self.n_features_in_ = int(images[0].numel())
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns calibrated probabilities (N, K) of `classes_`.

        Args:
            X: Images of the size that was trained on; see `fit`.
        """
        check_is_fitted(self, "predictor_")
        parts = [self.predictor_.probabilities(part) for part in self._images(X).split(_BATCH)]
        found: np.ndarray = torch.cat(parts).numpy()[:, self._columns]
        return found

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable label (N,), of unusual images, too: scikit-learn has no word for none.

        Args:
            X: Images; see `fit`. `unusual` tells which of them are unlike those of the training.
        """
        best = self.predict_proba(X).argmax(axis=1)  # says so where nothing was trained
        found: np.ndarray = self.classes_[best]
        return found

    def unusual(self, X: Any) -> np.ndarray:
        """Returns which images (N,) bool are unlike those of the training: their labels mean nothing.

        Args:
            X: Images; see `fit`.

        Raises:
            InputError: There were too few images to learn what is usual: 200 and more are needed.
        """
        check_is_fitted(self, "predictor_")
        if self.predictor_.detector is None:
            raise InputError(
                f"which images are unusual is learned from those held back, a tenth: {MIN_IMAGES} "
                "of these are needed, and there were fewer"
            )
        verdicts = [self.predictor_.ood(part) for part in self._images(X).split(_BATCH)]
        return np.concatenate([each.flag.numpy() for each in verdicts if each is not None])

    def _images(self, X: Any) -> Tensor:
        """Returns images (N, C, H, W) float32 on the CPU."""
        images = as_tensor(X, "X").to("cpu", torch.float32)
        shape = tuple(images.shape)
        if images.ndim == 2 and self.image_shape is not None:
            wanted = _image_shape(self.image_shape)
            if np.prod(wanted) != shape[1]:
                raise InputError(f"X has {shape[1]} numbers per image, image_shape {wanted} others")
            images = images.reshape(-1, *((1, *wanted) if len(wanted) == 2 else wanted))
        elif images.ndim == 3:
            images = images[:, None]
        elif images.ndim == 4 and bands_are_last(shape[1:]):
            images = images.movedim(3, 1)
        elif images.ndim != 4:
            raise InputError(
                f"X has the shape {shape}: (N, H, W) or (N, C, H, W) is needed, or image_shape=(H, W) "
                "for flattened images (N, F)"
            )
        if not len(images):
            raise InputError(f"X has the shape {shape}: there are no images")
        return images.contiguous()

    def _experiment(self, path: Path, out: str, n: int) -> dict[str, Any]:
        """Returns the options of the training; raises InputError if it would not be one of these images."""
        if not isinstance(self.options or {}, Mapping):
            raise InputError(
                f"options must be a mapping such as {{'ema': 0.99}}, not {self.options!r}"
            )
        if self.out is not None and Path(self.out).is_dir() and any(Path(self.out).iterdir()):
            raise InputError(f"out: {self.out} is not empty, and each fit needs a new folder")
        seed = self.random_state
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        batch_size = self.batch_size  # of another type it is told by its name
        if isinstance(batch_size, int | np.integer):
            batch_size = min(batch_size, max(2, n // 4))
        fields = {
            "data": str(path),
            "model": self.model,
            "out": out,
            "epochs": self.epochs,
            "batch_size": batch_size,
            "lr": self.lr,
            "augment": self.augment,
            "normalization": self.normalization,
            "seed": int(seed),
            "device": self.device,
            "loggers": (),
            "progress": self.verbose,
            **_short(self.options or {}),
        }
        said = compose(self.preset, fields)
        for field, found, wanted, why in (
            ("data", said.data.source, str(path), "X and y are what is learned from"),
            ("out", said.trainer.out, out, "give it as an argument"),
            ("classes", said.data.classes, "all", "the labels of y are the classes"),
            ("task", said.task.name, "classification", "haloformer.train has the others"),
        ):
            if found != wanted:
                raise InputError(f"{field} cannot be {found!r} here: {why}")
        return fields

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        return tags


def _short(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of any spelling by their short names."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        if key == "preset":
            raise InputError("options cannot hold preset: give it as an argument")
        if key in GROUPS and isinstance(value, Mapping):
            found |= {short_name(f"{key}.{name}"): inner for name, inner in value.items()}
        else:
            found[short_name(str(key))] = value
    return found


def _image_shape(given: Any) -> tuple[int, ...]:
    """Returns (H, W) or (C, H, W); raises InputError if it is neither."""
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if len(found) not in (2, 3):
        raise InputError(f"image_shape must be (H, W) or (C, H, W), not {given!r}")
    return tuple(whole_number(each, "image_shape", 1) for each in found)


def _labels(y: Any) -> np.ndarray:
    """Returns labels as an array.

    Raises:
        InputError: One is missing, or is no name and no whole number.
    """
    if y is None:
        raise InputError("y is missing: give a label for each image, a name or a whole number")
    labels = np.asarray(y)
    masked = np.ma.getmaskarray(y) if isinstance(y, np.ma.MaskedArray) else np.zeros(labels.shape)
    # Of a list of names NumPy would make NaN a name.
    given = np.asarray(y, dtype=object) if isinstance(y, list | tuple) else labels
    for k, (label, is_masked) in enumerate(zip(given.ravel().tolist(), masked.ravel())):
        if is_masked or _is_missing(label):
            raise InputError(
                f"y holds no label for image {k} ({'masked' if is_masked else label}): leave out such images"
            )
        if isinstance(label, complex) or (isinstance(label, float) and label % 1):
            raise InputError(
                f"y holds {label} for image {k}, where a label is a name or a whole number; for numbers "
                "to be estimated see train's task: regression"
            )
    return labels


def _is_missing(label: object) -> bool:
    """Tells None, NaN, NaT and pandas' NA, none of which equals itself."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # NA is neither true nor false
        return True


def _names(labels: np.ndarray) -> list[str]:
    """Returns names of classes that a dataset can have: the labels where they can be names."""
    names = [str(label) for label in labels.tolist()]
    try:
        for name in names:
            check_name("label", name)
    except InputError:
        return [f"class_{k}" for k in range(len(labels))]
    return names if len(set(names)) == len(names) else [f"class_{k}" for k in range(len(labels))]
