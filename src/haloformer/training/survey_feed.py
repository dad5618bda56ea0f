"""Training data from a survey: images are simulated as training goes on."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from haloformer.data.grouping import LEFT_OUT
from haloformer.data.prepared import PreparedImages
from haloformer.data.stream import BLOCK_IMAGES, stream_batches, validation_seed
from haloformer.data.transforms import NoiseModel, noise_model
from haloformer.devices import process_device, resolve_device
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.fitting.fitted import FittedSimulator
from haloformer.outputs.targets import TARGETS, Scaling, target_values
from haloformer.simulation import BatchMaker, Simulator, batches_ahead
from haloformer.simulation.surveys import digest_of_own
from haloformer.training.batches import (
    FIT_IMAGES,
    VALIDATION_BATCH,
    EpochPlan,
    MemoryBatches,
    choose_labelled,
    fits_in_memory,
    with_noise,
)
from haloformer.training.config import Experiment
from haloformer.training.examples import WHOLE, Batches, Examples, Feed, Share
from haloformer.training.file_feed import open_validation_file, seed_of, shared_lenses
from haloformer.training.labels import Labelling, check_calibration, residual_of

STREAM_EPOCH = 6000
"""Images per epoch of an endless stream, unless epoch_size says otherwise."""

_TRIED = 64  # images whose parameters tell what a survey has


Maker = FittedSimulator | PreparedImages
"""Makes images by their number, with the channels that the network wants."""


@dataclass(frozen=True)
class SurveyMakers:
    """Who makes the images of an experiment on a survey.

    Attributes:
        survey: Of all the survey's classes.
        labelling: How its classes become labels and targets.
        train: Makes the training images.
        held_out: Makes the images for validation, and those after them for calibration.
        plan: Which training images each epoch uses.
        residual: Adds the residual channels; None without them.
        noise_model: Draws fresh noise; None: the images are used as they are.
        held_out_noise: Noise mode of the held-out images.
        device: Where the images are wanted.
    """

    survey: Simulator
    labelling: Labelling
    train: Maker
    held_out: Maker
    plan: EpochPlan
    residual: Residual | None
    noise_model: NoiseModel | None
    held_out_noise: str
    device: torch.device

    @classmethod
    def of(cls, experiment: Experiment) -> "SurveyMakers":
        """Returns those of an experiment.

        Raises:
            InputError: An unknown survey or class, or options that do not go together.
        """
        data, seed = experiment.data, experiment.trainer.seed
        device = image_device(experiment)
        made_on = torch.device("cpu") if experiment.trainer.simulate_on == "cpu" else device
        survey = Simulator(data.source, seed=seed, noise=data.noise)  # of all classes
        every = Labelling.of(experiment, survey.class_names)
        used = [name for name, k in zip(survey.class_names, every.labels) if k != LEFT_OUT]
        if data.val_size < len(used):
            raise InputError(
                f"val_size {data.val_size} leaves a class without an image: at least {len(used)}"
            )
        check_calibration(
            experiment, _with_targets(every, used, data.val_size), "a larger val_size"
        )
        fresh = experiment.augmentation.fresh_noise
        model = None if fresh == "none" else noise_model(survey.survey, fresh)
        residual = residual_of(experiment, survey.attributes["survey_definition"], data.noise)
        crop = _crop_first(experiment, survey.image_shape)

        def maker(seed: int, noise: str, wrong_fits: float = 0.0, paired: bool = False) -> Maker:
            simulator = Simulator(
                data.source, classes=used, seed=seed, noise=noise, device=made_on, paired=paired
            )
            return stored(FittedSimulator(simulator, residual, wrong_fits, crop), experiment)

        wrong_fits = experiment.regularization.wrong_fits
        held_out_noise = fresh if model else data.noise
        return cls(
            survey=survey,
            labelling=Labelling.of(experiment, tuple(used)),
            train=maker(seed, "none" if model else data.noise, wrong_fits, data.paired),
            held_out=maker(validation_seed(seed), held_out_noise),
            plan=_epoch_plan(experiment, Labelling.of(experiment, tuple(used))),
            residual=residual,
            noise_model=model,
            held_out_noise=held_out_noise,
            device=device,
        )


def image_device(experiment: Experiment) -> torch.device:
    """Returns where an experiment's images are wanted: on the GPU that trains, or else on the CPU."""
    device = process_device(resolve_device(experiment.trainer.device))
    return device if device.type == "cuda" else torch.device("cpu")


def stored(maker: FittedSimulator, experiment: Experiment) -> Maker:
    """Returns a maker that stores its images, if the experiment says where."""
    settings = experiment.trainer
    if settings.prepared is None:
        return maker
    return PreparedImages(maker, settings.prepared, gigabytes=settings.prepared_gb)


def open_survey_feed(experiment: Experiment) -> Feed:
    """Returns the feed of a survey.

    Raises:
        InputError: An unknown survey or class, or options that do not go together.
    """
    data, seed = experiment.data, experiment.trainer.seed
    makers = SurveyMakers.of(experiment)
    survey, labelling, plan = makers.survey, makers.labelling, makers.plan
    train, held_out = makers.train, makers.held_out
    residual, model, device = makers.residual, makers.noise_model, makers.device
    _check_targets(survey, labelling)
    batches = _training_batches(plan, train, labelling, device)
    if data.val_data is None:
        validation, n_val = _simulated_validation(held_out, labelling, data.val_size, device)
        val_seed: int | None = validation_seed(seed)
    else:
        file = open_validation_file(experiment, survey.class_names, survey.image_shape, residual)
        validation, n_val = file.batches(file.usable, None), len(file.usable)
        val_seed = seed_of(file.reader.dataset, survey.survey.name)
        if val_seed == seed:
            raise shared_lenses(data.val_data, survey.survey.name, seed)
    # The images after those of the validation neither train nor choose the best epoch.
    spare = spare_images(data.val_size)
    fit = _simulated(train, labelling, np.unique(plan.numbers(0))[:FIT_IMAGES], device)
    fit = fit.to(torch.device("cpu"))
    return Feed(
        class_names=labelling.class_names,
        image_shape=train.image_shape,
        raw_shape=survey.image_shape,
        residual=residual,
        epoch=lambda epoch, first, share: batches(plan.rest(epoch, first), share),
        steps=plan.steps,
        validation=validation,
        calibration=AllSimulated(held_out, labelling, spare, VALIDATION_BATCH, device),
        n_train=plan.n_images,
        n_val=n_val,
        fit=with_noise(fit, model, seed),
        noise_model=model,
        facts={
            "survey": survey.survey.name,
            "noise": makers.held_out_noise,
            "pixel_scale": survey.attributes["pixel_scale"],
            "train_seed": seed,
            "val_seed": val_seed,
            "digest": digest_of_own(survey.survey),
        },
    )


def _check_targets(survey: Simulator, labelling: Labelling) -> None:
    """Raises InputError for a target that the survey's images do not have, before any is made."""
    if labelling.targets:
        some = survey.parameters(range(_TRIED))
        Scaling.fit(target_values(labelling.targets, some, survey.survey.name), labelling.targets)


def spare_images(val_size: int) -> np.ndarray:
    """Returns the numbers of the images that calibrate: as many as validate, after those."""
    return np.arange(val_size, 2 * val_size)


def _with_targets(labelling: Labelling, used: Sequence[str], val_size: int) -> dict[str, int]:
    """Returns how many of the images that calibrate can have each target: those of its class."""
    counts = np.bincount(spare_images(val_size) % len(used), minlength=len(used))
    of_class = dict(zip(used, counts.tolist()))
    return {name: of_class.get(TARGETS[name].class_name, 0) for name in labelling.targets}


def _crop_first(experiment: Experiment, image_shape: tuple[int, int, int]) -> int | None:
    """Returns the side to which images are cut as they are made, so that less is stored.

    Only where nothing follows that looks beyond: those that do not get a residual are otherwise
    cut after they are augmented.
    """
    crop, augmentation = experiment.data.crop, experiment.augmentation
    if crop is None or experiment.data.physics != "none" or experiment.trainer.prepared is None:
        return None
    interpolated = augmentation.rotation or augmentation.shift or augmentation.zoom
    if interpolated or augmentation.erasing or augmentation.fresh_noise != "none":
        return None
    # With an odd margin the part that is cut out is not in the middle: turned, it is another.
    centred = all(side >= crop and (side - crop) % 2 == 0 for side in image_shape[1:])
    return crop if centred else None


class SimulatedBatches:
    """Batches of images that are simulated as they are needed.

    An incomplete last one is left out.
    """

    def __init__(
        self,
        simulator: BatchMaker,
        labelling: Labelling,
        numbers: np.ndarray,
        batch_size: int,
        device: torch.device,
        share: Share = WHOLE,
    ) -> None:
        self.simulator, self.labelling, self.device = simulator, labelling, device
        self.numbers, self.batch_size, self.share = numbers, batch_size, share

    def __len__(self) -> int:
        return len(self.numbers) // self.batch_size

    def __iter__(self) -> Iterator[Examples]:
        made = stream_batches(
            self.simulator, self.numbers, self.batch_size, share=self.share, device=self.device
        )
        return map(self.labelling.examples, made)


class AllSimulated:
    """Batches of images that are simulated as they are needed, the last one of what is left.

    See :class:`SimulatedBatches` for the arguments.
    """

    def __init__(
        self,
        simulator: BatchMaker,
        labelling: Labelling,
        numbers: np.ndarray,
        batch_size: int,
        device: torch.device,
    ) -> None:
        whole = len(numbers) // batch_size * batch_size
        parts = [(numbers[:whole], batch_size), (numbers[whole:], len(numbers) - whole)]
        self._parts = [
            SimulatedBatches(simulator, labelling, some, size, device)
            for some, size in parts
            if len(some)
        ]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Examples]:
        return itertools.chain.from_iterable(self._parts)


def _epoch_plan(experiment: Experiment, labelling: Labelling) -> EpochPlan:
    data, seed = experiment.data, experiment.trainer.seed
    if data.n_images is None:
        if data.labels_per_class is not None:
            raise InputError(
                "labels_per_class: an endless stream has as many as it likes: "
                "give n_images, too, or a file"
            )
        return EpochPlan(None, data.epoch_size or STREAM_EPOCH, data.batch_size, seed)
    if data.paired:
        raise InputError(
            "paired is for an endless stream, in which images of one lens follow one another; with n_images they would be shuffled"
        )
    labels = labelling.labels[np.arange(data.n_images) % len(labelling.labels)]
    images = choose_labelled(
        labels, data.labels_per_class, seed, labelling.class_names, data.source
    )
    return EpochPlan(images, data.epoch_size or len(images), data.batch_size, seed)


def _training_batches(
    plan: EpochPlan, train: Maker, labelling: Labelling, device: torch.device
) -> Callable[[np.ndarray, Share], Batches]:
    """Returns (image numbers, share) → batches: from memory if there is room, or else simulated."""
    if plan.images is None or not fits_in_memory(len(plan.images), train.image_shape, device):
        return lambda numbers, share: SimulatedBatches(
            train, labelling, numbers, plan.batch_size, device, share
        )
    images = plan.images  # rising, so that a number's place can be searched
    stored = _simulated(train, labelling, images, device)
    return lambda numbers, share: MemoryBatches(
        stored, np.searchsorted(images, numbers), plan.batch_size, share
    )


def _simulated_validation(
    simulator: BatchMaker, labelling: Labelling, n: int, device: torch.device
) -> tuple[Callable[[Share], Batches], int]:
    stored = _simulated(simulator, labelling, np.arange(n), device)

    def validation(share: Share) -> Batches:
        return MemoryBatches(stored, np.arange(n), VALIDATION_BATCH, share, uneven=True)

    return validation, n


def _simulated(
    simulator: BatchMaker, labelling: Labelling, numbers: np.ndarray, device: torch.device
) -> Examples:
    """Simulates images into the memory of a device, a block at a time."""
    blocks = [numbers[i : i + BLOCK_IMAGES] for i in range(0, len(numbers), BLOCK_IMAGES)]
    made = [labelling.examples(batch) for batch in batches_ahead(simulator, blocks, device)]
    return Examples(*(torch.cat(parts) for parts in zip(*made)))
