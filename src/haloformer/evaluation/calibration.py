"""The body of `calibrate`: temperature and out-of-distribution statistics for a model that is already trained."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from haloformer.artefact.read import artefact_folder
from haloformer.artefact.write import write_calibration
from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError, reason_of
from haloformer.evaluation.testset import (
    TestImages,
    class_order,
    classes_of_use,
    is_stored,
    open_test_images,
    order_of,
    own_survey,
    training_of,
)
from haloformer.io.progress import progress_bar
from haloformer.io.strict_json import parse_json
from haloformer.io.writing import file_sha256
from haloformer.outputs.geometry import FORGONE_RATES, GeometryCheck
from haloformer.outputs.out_of_distribution import MIN_IMAGES
from haloformer.outputs.temperature import calibrated
from haloformer.prediction.geometry import Scaled, scaled, smooth_scales
from haloformer.prediction.predictor import Predictor, load
from haloformer.readers.reading import check_batch_size
from haloformer.simulation import Simulator, get_survey

SURE = 0.9
"""Smallest probability of a sure prediction."""

PIXEL_SCALES = (0.97, 0.985, 1.015, 1.03)
"""Factors of the pixel scale at which few sure wrong answers may be left."""

_GEOMETRY_IMAGES = 1500  # of those for calibration; each is fitted four times more
_ELSEWHERE = 4  # of those, one in so many is simulated with pixels of each other size
_ELSEWHERE_SEED = 2**39  # none that training or validation can have
_LEFT = 0.015  # share of the images whose sure wrong answers may stay


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
    check_batch_size(batch_size)
    folder = _writable_artefact(run)
    predictor = load(run, device)
    images = _calibration_images(run, predictor, data, n, seed)
    found = _outputs_for(predictor, images, batch_size, progress)
    _check_classes(predictor, images, found.labels)
    temperature, detector = calibrated(
        predictor.outputs, found.numbers, found.labels, found.features
    )
    used: dict[str, Any] = {
        "data": images.name,
        **{key: images.attributes.get(key) for key in ("survey", "seed")},
    }
    if images.path is not None and images.path.is_file():
        used["file"] = file_sha256(images.path)  # by which it is known where it has no seed
    calibration = None if temperature is None else {**temperature.to_dict(), **used}
    ood = None if detector is None else ({**detector.to_dict(), **used}, detector.tensors())
    now = dataclasses.replace(
        predictor,
        temperature=1.0 if temperature is None else temperature.temperature,
        detector=detector,
    )
    check = _geometry_of(now, found, progress)
    geometry = None if check is None else {**check.model_dump(mode="json"), **used}
    try:
        write_calibration(folder, calibration, ood, geometry)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {reason_of(error)}") from error
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
        wanted = "name images of the same kind (--data; in Python data)"
        data = own_survey(predictor, run, wanted)
        if training.get("data") != data:
            raise InputError(f"{run}: was trained on stored images: {wanted}")
    if seed is None and not is_stored(data):
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
        raw: The first images, batch by batch, for a model whose fit finds where a lens lies.
    """

    numbers: Tensor
    labels: Tensor
    features: list[dict[str, Tensor]]
    raw: list[Tensor]


def _outputs_for(
    predictor: Predictor, images: TestImages, batch_size: int, progress: bool | None
) -> _Outputs:
    order = torch.from_numpy(class_order(images, predictor))
    numbers, all_labels, features = [], [], []
    raw: list[Tensor] = []
    wanted = 0
    if predictor.residual is not None and predictor.residual.fit_place:
        wanted = _GEOMETRY_IMAGES
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
                if left := max(0, wanted - sum(map(len, raw))):
                    raw.append(batch[used][:left])
            advance(len(labels))
    count = sum(map(len, all_labels))
    if count < MIN_IMAGES:
        raise InputError(
            f"{images.name}: {count} images of the model's classes are too few: at least {MIN_IMAGES}"
        )
    return _Outputs(torch.cat(numbers), torch.cat(all_labels), features, raw)


def _geometry_of(
    predictor: Predictor, found: _Outputs, progress: bool | None
) -> GeometryCheck | None:
    """Returns what tells answers that hold for the survey's pixels alone.

    None for a model without classes, or whose fit holds the lens, or fits one that varies anyhow: how large its ring is tells nothing.

    Of the limits, which withdraw some answers for images of the survey itself in vain, those that withdraw fewest of them and still
    nearly all wrong ones where the pixels are of another size.
    """
    logits, n = predictor.outputs.split(found.numbers)[0], sum(map(len, found.raw))
    residual, names = predictor.residual, predictor.class_names
    if logits is None or residual is None or residual.is_composed:
        return None
    if predictor.detector is None or n < _ELSEWHERE:
        return None
    answers, elsewhere = logits.argmax(1)[:n], n // _ELSEWHERE
    with progress_bar("geometry", 2 * n + 2 * elsewhere * len(PIXEL_SCALES), progress) as advance:
        scales = smooth_scales(residual, [predictor.checked(batch) for batch in found.raw], advance)
        check = GeometryCheck.of(names, answers, scales)
        here = scaled(predictor, found.raw, check, scales, advance)
        wrong = [
            _wrong_answers(predictor, check, factor, elsewhere, advance) for factor in PIXEL_SCALES
        ]
        for rate in FORGONE_RATES:
            check = check.with_limits(names, answers, here.leads, rate)
            left = [
                float((of & ~there.withdrawn(check, names, said)).double().mean())
                for of, there, said in wrong
            ]
            if max(left) <= _LEFT:
                break
    return check


def _wrong_answers(
    predictor: Predictor,
    check: GeometryCheck,
    factor: float,
    n: int,
    advance: Callable[[int], None],
) -> tuple[Tensor, Scaled, Tensor]:
    """Returns which answers for images with pixels of another size are wrong, sure and not flagged, (n,); what their scales say; and the answers."""
    assert predictor.residual is not None  # by the caller
    survey = get_survey(parse_json(predictor.residual.survey, "survey"))
    simulator = Simulator(
        survey.with_camera(pixel_scale=survey.instrument.pixel_scale * factor),
        classes=classes_of_use(survey.class_names, predictor),
        seed=_ELSEWHERE_SEED,
        noise=predictor.residual.noise,
    )
    order = torch.tensor(order_of(simulator.class_names, predictor))
    batches, wrong, answers = [], [], []
    for first in range(0, n, 100):
        batch = simulator.batch(range(first, min(first + 100, n)))
        numbers, verdict = predictor.numbers_and_ood(batch.images, geometry=False)
        logits = predictor.outputs.split(numbers)[0]
        assert logits is not None  # by the caller
        assert verdict is not None  # as there is a detector
        p, said = predictor.probabilities_of(logits).max(1)
        wrong.append((said != order[batch.labels]) & (p > SURE) & ~verdict.flag)
        batches.append(batch.images)
        answers.append(said)
    scales = smooth_scales(
        predictor.residual, [predictor.checked(batch) for batch in batches], advance
    )
    there = scaled(predictor, batches, check, scales, advance)
    return torch.cat(wrong), there, torch.cat(answers)


def _check_classes(predictor: Predictor, images: TestImages, labels: Tensor) -> None:
    """Raises InputError if a class has no image: all of its images would later count as unusual."""
    for k, name in enumerate(predictor.class_names):
        if not (labels == k).any():
            raise InputError(f"{images.name}: holds no image of class {name}")
