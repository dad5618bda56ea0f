"""The body of `calibrate`: temperature and out-of-distribution statistics for a model that is already trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from haloformer.artefact.read import artefact_folder
from haloformer.artefact.write import write_calibration
from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError
from haloformer.evaluation.testset import TestImages, class_order, open_test_images, training_of
from haloformer.io.progress import progress_bar
from haloformer.outputs.out_of_distribution import MIN_IMAGES
from haloformer.outputs.temperature import calibrated
from haloformer.prediction.geometry import fitted_check
from haloformer.prediction.predictor import Predictor, load

_GEOMETRY_IMAGES = 1500  # of those; each is fitted five times


def run_calibration(
    run: str,
    *,
    data: str | None,
    n: int | None,
    seed: int | None,
    batch_size: int,
    device: str,
    progress: bool | None,
) -> dict[str, Any]:
    """Carries out :func:`haloformer.evaluation.calibrate` (see there for the arguments)."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")
    folder = _writable_artefact(run)
    predictor = load(run, device)
    images = _calibration_images(run, predictor, data, n, seed)
    found = _outputs_for(predictor, images, batch_size, progress)
    _check_classes(predictor, images, found.labels)
    calibration, ood = calibrated(predictor.outputs, found.numbers, found.labels, found.features)
    used = {
        "data": images.name,
        **{key: images.attributes.get(key) for key in ("survey", "seed")},
    }
    calibration = None if calibration is None else {**calibration, **used}
    ood = None if ood is None else ({**ood[0], **used}, ood[1])
    geometry = _geometry_for(predictor, images, batch_size, progress)
    if geometry is not None:
        geometry = {**geometry, **used}
    try:
        write_calibration(folder, calibration, ood, geometry)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
    return {
        "calibration": calibration,
        "ood": None if ood is None else ood[0],
        "geometry": geometry,
        "n": len(found.labels),
        "data": images.name,
        "out": str(folder),
    }


def _writable_artefact(run: str) -> Path:
    """Returns the artefact's folder; raises InputError for an export and for a shipped model."""
    folder = artefact_folder(Path(run))
    if not (folder / "artefact.json").is_file():
        raise InputError(
            f"{folder}: a hub folder is not changed: calibrate the run that it was made of, and export again"
        )
    if not Path(run).exists():
        raise InputError(
            f"{run}: is a model that comes with the package and stays as it is: calibrate a copy of {folder}"
        )
    return folder


def _calibration_images(
    run: str, predictor: Predictor, data: str | None, n: int | None, seed: int | None
) -> TestImages:
    """Opens the images to calibrate with: by default those that validated the training."""
    training = training_of(predictor)
    if data is None:
        data = predictor.artefact.get("survey")
        if not isinstance(data, str) or training.get("data") != data:
            raise InputError(
                f"{run}: was not trained on a shipped survey: name images of the same kind (data)"
            )
    if seed is None and not Path(data).is_file():
        seed = training.get("val_seed")
        if not isinstance(seed, int):
            raise InputError(
                f"{run}: does not say which images validated it: give the seed of images to simulate"
            )
    return open_test_images(data, predictor, n=n, seed=seed)


@dataclass(frozen=True)
class _Outputs:
    """Outputs of a model for N images of its classes.

    Attributes:
        numbers: (N, outputs.n) raw outputs of the network.
        labels: (N,) true classes.
        features: Of each batch, for out-of-distribution detection.
    """

    numbers: Tensor
    labels: Tensor
    features: list[dict[str, Tensor]]


def _outputs_for(
    predictor: Predictor, images: TestImages, batch_size: int, progress: bool | None
) -> _Outputs:
    order = torch.from_numpy(class_order(images, predictor))
    numbers, all_labels, features = [], [], []
    with progress_bar("calibrate", images.n, progress) as advance:
        for batch, data_labels, _ in images.batches(batch_size):
            labels = order[data_labels]
            used = labels != LEFT_OUT
            if used.any():
                output, feature = predictor.numbers_and_ood_features(batch[used])
                if not (torch.isfinite(output).all() and torch.isfinite(batch).all()):
                    raise InputError(f"{images.name}: holds NaN, infinite or extreme values")
                numbers.append(output)
                all_labels.append(labels[used])
                features.append(feature)
            advance(len(labels))
    count = sum(map(len, all_labels))
    if count < MIN_IMAGES:
        raise InputError(
            f"{images.name}: {count} images of the model's classes are too few: at least {MIN_IMAGES}"
        )
    return _Outputs(torch.cat(numbers), torch.cat(all_labels), features)


def _geometry_for(
    predictor: Predictor, images: TestImages, batch_size: int, progress: bool | None
) -> dict[str, Any] | None:
    order = torch.from_numpy(class_order(images, predictor))
    some, left = [], _GEOMETRY_IMAGES
    for batch, data_labels, _ in images.batches(batch_size):
        if left <= 0:
            break
        some.append(batch[order[data_labels] != LEFT_OUT][:left])
        left -= len(some[-1])
    n = sum(map(len, some))
    with progress_bar("geometry", n, progress) as advance:
        check = fitted_check(predictor, some, advance)
    return None if check is None else check.model_dump(mode="json")


def _check_classes(predictor: Predictor, images: TestImages, labels: Tensor) -> None:
    """Raises InputError if a class has no image: all of its images would later count as unusual."""
    for k, name in enumerate(predictor.class_names):
        if not (labels == k).any():
            raise InputError(f"{images.name}: holds no image of class {name}")
