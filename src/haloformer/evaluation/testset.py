"""Where test images come from, whether they fit the model, and whether it has seen them in training."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haloformer.data.store import LensDataset
from haloformer.deploy.predictor import DATASET_SUFFIXES, Predictor
from haloformer.errors import InputError
from haloformer.simulation import Simulator
from haloformer.vocabulary import CLASS_ALIASES

N_SIMULATED = 3000


@dataclass
class ImageSource:
    """Images to test on, from a file or from the simulator."""

    name: str
    stem: str
    n: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    attributes: dict[str, Any]
    batches: Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]
    images_at: Callable[[np.ndarray], torch.Tensor]
    path: Path | None = None


def open_test_images(
    data: str, predictor: Predictor, *, n: int | None = None, seed: int | None = None, noise: str | None = None
) -> ImageSource:
    """Opens a dataset file, or prepares to simulate ``n`` new images of a survey; arguments as in ``evaluate``."""
    path = Path(data)
    yaml = path.suffix.lower() in (".yaml", ".yml")
    if path.suffix.lower() in DATASET_SUFFIXES or path.is_dir() or (path.is_file() and not yaml):
        for option, value in (("n", n), ("seed", seed), ("noise", noise)):
            if value is not None:
                raise InputError(f"'{option}' is for images simulated from a survey; '{data}' is a file")
        dataset = LensDataset(path)
        return ImageSource(
            name=path.name,
            stem=path.stem,
            n=len(dataset),
            class_names=dataset.class_names,
            image_shape=dataset.image_shape,
            attributes=dataset.attributes,
            batches=dataset.batches,
            images_at=dataset.images_at,
            path=path,
        )
    seed = _unused_seed(training_of(predictor)) if seed is None else seed
    n = N_SIMULATED if n is None else n
    if n < 1:
        raise InputError(f"n is {n}: at least one image is needed")
    trained_with = predictor.artefact.get("noise")
    noise = noise or (trained_with if isinstance(trained_with, str) else "original")
    simulator = Simulator(data, seed=seed, noise=noise)

    def batches(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, n, size):
            batch = simulator.batch(range(start, min(start + size, n)))
            yield batch.images, batch.labels

    survey = simulator.survey.name
    return ImageSource(
        name=f"{n:,} simulated images of {survey}",
        stem=f"{survey}-seed{seed}",
        n=n,
        class_names=simulator.class_names,
        image_shape=simulator.image_shape,
        attributes=simulator.attributes,
        batches=batches,
        images_at=lambda indices: simulator.batch(np.asarray(indices)).images,
    )


def class_order(images: ImageSource, predictor: Predictor) -> np.ndarray:
    """Returns for each class of the data its number in the model; also checks that the images fit the model."""
    if tuple(images.image_shape) != predictor.image_shape:
        found, wanted = (" × ".join(map(str, shape)) for shape in (images.image_shape, predictor.image_shape))
        raise InputError(f"{images.name}: images are {found} (channels, height, width), but the model takes {wanted}")
    canonical = [
        [CLASS_ALIASES.get(name.lower(), name) for name in names]
        for names in (images.class_names, predictor.class_names)
    ]
    if sorted(canonical[0]) != sorted(canonical[1]):
        found, wanted = (", ".join(names) for names in (images.class_names, predictor.class_names))
        raise InputError(f"{images.name}: classes are {found}, but the model knows {wanted}")
    return np.array([canonical[1].index(name) for name in canonical[0]])


def contamination(predictor: Predictor, images: ImageSource) -> list[str]:
    """Says on which grounds the model is known to have been trained, or selected, on these images."""
    training = training_of(predictor)
    found = []
    survey, seed = images.attributes.get("survey"), images.attributes.get("seed")
    if survey is not None and seed is not None and survey == predictor.artefact.get("survey"):
        # Noise and number of images do not matter: the same seed gives the same lenses.
        if seed == training.get("train_seed"):
            found.append(f"These images were trained on: survey {survey} with seed {seed}, as in training.")
        elif seed == training.get("val_seed"):
            found.append(f"These images chose the weights: survey {survey} with seed {seed}, as in validation.")
    for key, what in (("data", "trained on"), ("val_data", "used to choose the weights")):
        source = training.get(key)
        if (
            not found
            and images.path
            and isinstance(source, str)
            and Path(source).exists()
            and images.path.samefile(source)
        ):
            found.append(f"These images were {what}: {images.name} is the file that training read.")
    if found:
        found[0] += " The results say nothing about new images; test on another seed."
    return found


def _unused_seed(training: dict[str, Any]) -> int:
    """Returns the first seed after that of the training whose images were used neither to train nor to select."""
    used = {training.get(key) for key in ("seed", "train_seed", "val_seed")}
    start = training.get("train_seed")
    candidates = itertools.count(start + 1 if isinstance(start, int) and 0 <= start < 2**62 else 1)
    return next(seed for seed in candidates if seed not in used)


def training_of(predictor: Predictor) -> dict[str, Any]:
    """Returns what the artefact says of its training; empty if nothing."""
    training = predictor.artefact.get("training")
    return training if isinstance(training, dict) else {}
