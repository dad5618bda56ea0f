"""`calibrate`: adds to a trained model, without training, what new trainings add by themselves: a temperature, and what images are usual."""

from pathlib import Path
from typing import Any

import torch

from haloformer.artefact.read import artefact_folder
from haloformer.artefact.write import write_calibration
from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError
from haloformer.evaluation.testset import class_order, open_test_images, training_of
from haloformer.io.progress import progress_bar
from haloformer.outputs.out_of_distribution import MIN_IMAGES
from haloformer.outputs.temperature import calibrated
from haloformer.prediction.predictor import load


def calibrate(
    run: str,
    *,
    data: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Calibrates a trained model's probabilities, and lets it tell images unlike those of its training.

    Writes ``calibration`` and ``ood`` into ``artefact.json`` and the file ``ood.safetensors`` beside it; the weights stay as they are. Training
    does so by itself at its end; this is for models trained before it did, and for more images or others. The images should be of the
    training's kind but not have been trained on, and nobody should test the model on them afterwards.

    Args:
        run: Run folder or artefact folder.
        data: A dataset (.h5) with classes, or a survey, of which images are then simulated; by default the survey of the training.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default that of the training's validation images; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        ``calibration`` and ``ood``, as the artefact now holds them, ``n``, ``data`` and ``out``.

    Raises:
        InputError: The model or the data cannot be read, or do not fit each other.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")
    folder = artefact_folder(Path(run))
    if not (folder / "artefact.json").is_file():
        raise InputError(
            f"{folder}: a hub folder is not changed: calibrate the run that it was made of, and export again"
        )
    if not Path(run).exists():
        raise InputError(
            f"{run}: is a model that comes with the package and stays as it is: calibrate a copy of {folder}"
        )
    predictor = load(run, device)
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
    images = open_test_images(data, predictor, n=n, seed=seed)
    order = torch.from_numpy(class_order(images, predictor))
    numbers, all_labels, seen = [], [], []
    with progress_bar("calibrate", images.n, progress) as advance:
        for batch, data_labels, _ in images.batches(batch_size):
            labels = order[data_labels]
            used = labels != LEFT_OUT
            if used.any():
                answer, traits = predictor.numbers_and_ood_features(batch[used])
                if not (torch.isfinite(answer).all() and torch.isfinite(batch).all()):
                    raise InputError(f"{images.name}: holds NaN, infinite or extreme values")
                numbers.append(answer)
                all_labels.append(labels[used])
                seen.append(traits)
            advance(len(labels))
    count = sum(map(len, all_labels))
    if count < MIN_IMAGES:
        raise InputError(
            f"{images.name}: {count} images of the model's classes are too few: at least {MIN_IMAGES}"
        )
    known = torch.cat(all_labels)
    if missing := [name for k, name in enumerate(predictor.class_names) if not (known == k).any()]:
        raise InputError(
            f"{images.name}: holds no image of class {missing[0]}"
        )  # all such images would be strange
    calibration, ood = calibrated(predictor.outputs, torch.cat(numbers), known, seen)
    source = {
        "data": images.name,
        **{key: images.attributes.get(key) for key in ("survey", "seed")},
    }
    calibration = None if calibration is None else {**calibration, **source}
    ood = None if ood is None else ({**ood[0], **source}, ood[1])
    try:
        write_calibration(folder, calibration, ood)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
    return {
        "calibration": calibration,
        "ood": None if ood is None else ood[0],
        "n": count,
        "data": images.name,
        "out": str(folder),
    }
