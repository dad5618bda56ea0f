"""Opens test images, and checks whether they fit the model and are new to it."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haloformer.data.conversion import open_labelled
from haloformer.data.dataset import LensDataset
from haloformer.data.grouping import LEFT_OUT
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.io.writing import file_sha256, same_content
from haloformer.outputs.targets import (
    TARGETS,
    MissingParameterError,
    of_their_class,
    target_values,
)
from haloformer.prediction.predictor import Predictor
from haloformer.simulation import NOISE_MODES, Simulator, batches_ahead, list_surveys
from haloformer.vocabulary import CLASS_ALIASES

N_SIMULATED = 3000
NAME_DATA = "name a dataset or a survey (--data; in Python data)"
_YAML = (".yaml", ".yml")


@dataclass
class TestImages:
    """Images to test on, from a file or from the simulator.

    Attributes:
        name: For messages and the report.
        stem: For the folder of the evaluation.
        n: Number of images.
        class_names: What the labels index.
        image_shape: (C, H, W).
        attributes: Provenance: survey, noise, seed …
        batches: From a batch size to batches of images (B, C, H, W), labels (B,), and true values (B, T) of what the
            model estimates, NaN where an image has none.
        images_at: From numbers (M,) of images to the images.
        parameters: The physical parameters of all images by name, each (n, …), those that there are; a parameter of a
            file is read on first use.
        path: The file, if it is one.
        notes: What of it was left out.
        simulator: Makes the images, if they are not of a file.
        calibration: What belongs to their camera: ``psf`` and perhaps ``noise_map``.
    """

    name: str
    stem: str
    n: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    attributes: dict[str, Any]
    batches: Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]
    images_at: Callable[[np.ndarray], torch.Tensor]
    parameters: Callable[[], Mapping[str, np.ndarray]]
    path: Path | None = None
    notes: tuple[str, ...] = ()
    simulator: Simulator | None = None
    calibration: Mapping[str, np.ndarray] = field(default_factory=dict)


def survey_of(artefact: Mapping[str, Any]) -> str | None:
    """Returns the survey that a model was trained on: a shipped one's name, or the YAML file of another, if it is there."""
    survey, data = artefact.get("survey"), (artefact.get("training") or {}).get("data")
    if isinstance(data, str) and Path(data).suffix.lower() in _YAML:  # of whatever name
        return data if Path(data).is_file() else None
    return survey if isinstance(survey, str) and survey in list_surveys() else None


def own_survey(predictor: Predictor, run: str, wanted: str = NAME_DATA) -> str:
    """Returns what :func:`survey_of` does.

    Args:
        predictor: The model.
        run: What the user calls it.
        wanted: What the user can do where the survey is not known.

    Raises:
        InputError: It was trained on something else, or the YAML file is not where it was.
    """
    found = survey_of(predictor.artefact)
    if found is None:
        data = training_of(predictor).get("data")
        on = f"on {data}, of which" if isinstance(data, str) else "on what"
        raise InputError(f"{run}: was trained {on} no survey is found here: {wanted}")
    return found


def is_stored(data: str) -> bool:
    """Tells whether images are those of a file or folder; those of a survey are simulated."""
    path = Path(data)
    suffix = path.suffix.lower()
    return suffix in DATASET_SUFFIXES or path.is_dir() or (path.is_file() and suffix not in _YAML)


def training_noise(predictor: Predictor) -> str:
    """Returns the noise mode that a model was trained with; of files from elsewhere, which do not say theirs, the survey's own."""
    found = predictor.artefact.get("noise")
    return found if isinstance(found, str) and found in NOISE_MODES else "original"


def open_test_images(
    data: str,
    predictor: Predictor,
    *,
    n: int | None = None,
    seed: int | None = None,
    noise: str | None = None,
    skip_bad: bool = False,
) -> TestImages:
    """Opens labelled images, or prepares to simulate ``n`` new images of a survey; arguments as in ``evaluate``."""
    if is_stored(data):
        for option, value in (("n", n), ("seed", seed), ("noise", noise)):
            if value is not None:
                raise InputError(
                    f"'{option}' is for images simulated from a survey; '{data}' is a file"
                )
        return _from_file(Path(data), predictor, skip_bad)
    seed = unused_seed(predictor) if seed is None else seed
    n = N_SIMULATED if n is None else n
    if n < 1:
        raise InputError(f"n is {n}: at least one image is needed")
    noise = noise or training_noise(predictor)
    return _from_survey(data, predictor, n, seed, noise)


def _from_file(path: Path, predictor: Predictor, skip_bad: bool) -> TestImages:
    dataset, notes = open_labelled(path, skip_bad=skip_bad)
    truth = _truth(
        predictor,
        _Parameters(dataset),
        dataset.class_names,
        torch.from_numpy(dataset.labels),
        path.name,
    )

    def batches(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for (images, labels), values in zip(dataset.batches(size), truth.split(size), strict=True):
            yield images, labels, values

    return TestImages(
        name=path.name,
        stem=path.stem,
        n=len(dataset),
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        attributes=dataset.attributes,
        batches=batches,
        images_at=dataset.images_at,
        parameters=lambda: _Parameters(dataset),
        path=path,
        notes=tuple(notes),
        calibration=dataset.calibration,
    )


def _from_survey(data: str, predictor: Predictor, n: int, seed: int, noise: str) -> TestImages:
    simulator = Simulator(data, seed=seed, noise=noise)
    of_use = classes_of_use(simulator.class_names, predictor)
    if len(of_use) < len(simulator.class_names):
        if not of_use:
            raise InputError(
                f"survey {simulator.survey.name} has classes {', '.join(simulator.class_names)}, {_wanted_in_words(predictor)}"
            )
        simulator = Simulator(data, classes=of_use, seed=seed, noise=noise)

    def batches(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        # The same images whatever the model computes on, simulated beside that.
        blocks = [range(start, min(start + size, n)) for start in range(0, n, size)]
        for batch in batches_ahead(simulator, blocks):
            truth = _truth(
                predictor,
                batch.parameters,
                batch.class_names,
                batch.labels,
                simulator.survey.name,
            )
            yield batch.images, batch.labels, truth

    survey = simulator.survey.name
    return TestImages(
        name=f"{n:,} simulated images of {survey}",
        stem=f"{survey}-seed{seed}",
        n=n,
        class_names=simulator.class_names,
        image_shape=simulator.image_shape,
        attributes=simulator.attributes,
        batches=batches,
        images_at=lambda indices: simulator.batch(np.asarray(indices)).images,
        parameters=lambda: simulator.parameters(range(n)),
        simulator=simulator,
        calibration=simulator.calibration,
    )


class _Parameters(dict[str, np.ndarray]):
    """The parameters of a file, each read on first use."""

    def __init__(self, dataset: LensDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def __missing__(self, name: str) -> np.ndarray:
        if name not in self.dataset.parameter_names:
            raise KeyError(name)
        return self.dataset.parameters(name)


def _truth(
    predictor: Predictor,
    parameters: Mapping[str, np.ndarray],
    class_names: tuple[str, ...],
    labels: torch.Tensor,
    where: str,
) -> torch.Tensor:
    """Returns the true values (B, T) of what the model estimates.

    Images that come without a parameter can still tell how well a model of both tasks tells their classes apart: all
    values are NaN then. Of a regression alone nothing would be left to measure.
    """
    targets = predictor.outputs.targets
    columns = []
    for target in targets:
        try:
            columns.append(target_values([target], parameters, where))
        except MissingParameterError:
            if not predictor.class_names:
                raise
            columns.append(torch.full((len(labels), 1), torch.nan))
    if not columns:
        return torch.zeros(len(labels), 0)
    return of_their_class(torch.cat(columns, dim=1), targets, class_names, labels)


def class_order(images: TestImages, predictor: Predictor, *, some: bool = False) -> np.ndarray:
    """Returns for each class of the data its number in the model; also checks that the images fit the model.

    With ``some``, a model's class may be missing, unless it is a group of classes.

    :data:`~haloformer.data.grouping.LEFT_OUT` stands for classes that a grouping leaves out.
    """
    if tuple(images.image_shape) != predictor.image_shape:
        found, wanted = (
            " × ".join(map(str, shape)) for shape in (images.image_shape, predictor.image_shape)
        )
        raise InputError(
            f"{images.name}: images are {found} (channels, height, width), but the model takes {wanted}"
        )
    order = order_of(images.class_names, predictor)
    known = {number for number in order if number != LEFT_OUT}
    missing = len(predictor.class_names) - len(known)
    if not known or (missing > 0 and (not some or _groups(predictor))):
        raise InputError(
            f"{images.name}: classes are {', '.join(images.class_names)}, {_wanted_in_words(predictor)}"
        )
    return np.array(order)


def order_of(class_names: tuple[str, ...], predictor: Predictor) -> list[int]:
    """Returns the model's label of each class of the data, `LEFT_OUT` where it has none."""
    names = [_canonical(name) for name in class_names]
    if not predictor.class_names:
        return [0] * len(names)  # the true values decide which images are used
    learned = [_canonical(name) for name in predictor.class_names]
    groups = {_canonical(name): _canonical(group) for name, group in _groups(predictor).items()}
    # Without a grouping, and where the data are already grouped, the classes must be among those of the model.
    if not groups or sorted(names) == sorted(learned):
        among = set(names) <= set(learned)
        return [learned.index(name) for name in names] if among else [LEFT_OUT] * len(names)
    return [learned.index(groups[name]) if name in groups else LEFT_OUT for name in names]


def _groups(predictor: Predictor) -> dict[str, str]:
    """Returns which class of the data each learned class stands for; empty if each is itself."""
    groups = predictor.artefact.get("classes")
    if groups is None or not predictor.class_names:
        return {}
    texts = isinstance(groups, Mapping) and all(isinstance(name, str) for name in groups.values())
    if not texts or set(groups.values()) != set(predictor.class_names):
        raise InputError(
            "artefact.json: classes must be null, or say for classes of the data which class is learned"
        )
    return dict(groups)


def classes_of_use(class_names: tuple[str, ...], predictor: Predictor) -> list[str]:
    """Returns the classes worth simulating; all where none is left out by a grouping or a regression alone."""
    if predictor.class_names and not _groups(predictor):
        return list(class_names)
    if not predictor.class_names:
        wanted = {TARGETS[target].class_name for target in predictor.outputs.targets}
        return [name for name in class_names if _canonical(name) in wanted]
    return [
        name
        for name, number in zip(class_names, order_of(class_names, predictor))
        if number != LEFT_OUT
    ]


def _wanted_in_words(predictor: Predictor) -> str:
    if not predictor.class_names:
        wanted = [
            f"{target} (of {TARGETS[target].class_name})" for target in predictor.outputs.targets
        ]
        return f"but the model estimates {', '.join(wanted)}"
    return f"but the model knows {', '.join(_groups(predictor) or predictor.class_names)}"


def _canonical(class_name: str) -> str:
    return CLASS_ALIASES.get(class_name.lower(), class_name)


def contamination(predictor: Predictor, images: TestImages) -> list[str]:
    """Returns a warning if the model is known to have been trained, selected or calibrated on these images, else nothing."""
    survey, seed = (images.attributes.get(key) for key in ("survey", "seed"))
    found = known_by_seed(predictor, survey, seed) or _known_by_file(predictor, images)
    if found is None:
        return []
    return [f"{found} The results do not hold for new images; test on another seed."]


def known_by_seed(predictor: Predictor, survey: object, seed: object) -> str | None:
    """Returns what a model is known to have done with images of a survey and a seed; None if nothing is."""
    training = training_of(predictor)
    if survey is None or seed is None:
        return None
    # Noise and number of images do not matter: the same seed gives the same lenses.
    if survey == predictor.artefact.get("survey"):
        if seed == training.get("train_seed"):
            return (
                f"These images were trained on: survey {survey} with seed {seed}, as in training."
            )
        if seed == training.get("val_seed"):
            return f"These images chose the weights: survey {survey} with seed {seed}, as in validation."
    for before in _pretrainings(training):
        seen = (before.get("train_seed"), before.get("val_seed"))
        if survey == before.get("survey") and seed in seen:
            return f"These images were used in a pretraining: survey {survey} with seed {seed}."
    if (survey, seed) in _calibrated_on(predictor):
        return f"These images calibrated the model: survey {survey} with seed {seed}."
    return None


def _known_by_file(predictor: Predictor, images: TestImages) -> str | None:
    training = training_of(predictor)
    uses = [
        (training.get("data"), "trained on"),
        (training.get("val_data"), "used to choose the weights"),
    ]
    for before in _pretrainings(training):
        uses += [(before.get(key), "used in a pretraining") for key in ("data", "val_data")]
    for file, what in uses:
        if not (images.path and isinstance(file, str) and Path(file).exists()):
            continue
        if same_content(images.path, file):
            return f"These images were {what}: {images.name} is the file that training read, or a copy of it."
    if images.path is not None and images.path.is_file():
        files = {item.get("file") for item in _calibrations(predictor)} - {None}
        if files and file_sha256(images.path) in files:
            return f"These images calibrated the model: {images.name} is the file that was read, or a copy of it."
    return None


def _pretrainings(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what is known of the trainings that the weights of a training come from."""
    weights = training.get("pretrained_weights")
    found = weights.get("trainings") if isinstance(weights, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _calibrated_on(predictor: Predictor) -> list[tuple[Any, Any]]:
    """Returns survey and seed of the images that ``haloformer calibrate`` used, if the artefact names them."""
    return [(item.get("survey"), item.get("seed")) for item in _calibrations(predictor)]


def _calibrations(predictor: Predictor) -> list[dict[str, Any]]:
    """Returns what the artefact says of its calibration and its detector."""
    used = (predictor.artefact.get(key) for key in ("calibration", "ood"))
    return [item for item in used if isinstance(item, dict)]


def mismatches(predictor: Predictor, images: TestImages) -> list[str]:
    """Returns a warning for each of survey, noise and pixel scale that is not that of the training."""
    found = []
    for key, what in (("survey", "survey"), ("noise", "noise"), ("pixel_scale", "pixel scale")):
        trained, tested = predictor.artefact.get(key), images.attributes.get(key)
        if trained not in (None, "") and tested not in (None, "") and trained != tested:
            found.append(
                f"The model was trained with {what} {trained}, these images have {tested}."
            )
    return found


def unused_seed(*predictors: Predictor) -> int:
    """Returns the first seed after those of the models' trainings, and their pretrainings, whose images none used to train, to select or to calibrate."""
    trainings = [training_of(predictor) for predictor in predictors]
    all_of_them = [
        *trainings,
        *(each for training in trainings for each in _pretrainings(training)),
    ]
    used = [
        training.get(key) for training in all_of_them for key in ("seed", "train_seed", "val_seed")
    ]
    used += [seed for predictor in predictors for _, seed in _calibrated_on(predictor)]
    starts = [
        start for training in all_of_them if isinstance(start := training.get("train_seed"), int)
    ]
    candidates = itertools.count(
        max((start + 1 for start in starts if 0 <= start < 2**62), default=1)
    )
    return next(seed for seed in candidates if seed not in used)


def training_of(predictor: Predictor) -> dict[str, Any]:
    """Returns the artefact's record of its training; empty if it has none."""
    training = predictor.artefact.get("training")
    return training if isinstance(training, dict) else {}
