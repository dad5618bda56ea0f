"""Prepares the images of a training beforehand."""

import numpy as np

from haloformer.data.prepared import PreparedImages
from haloformer.errors import InputError
from haloformer.fitting.fitted import FittedSimulator
from haloformer.simulation import Simulator, names_survey
from haloformer.training.config import Experiment
from haloformer.training.survey_feed import SurveyMakers, stored


def parts_of(
    experiment: Experiment, n: int | None = None, n_test: int = 0, test_seed: int = 0
) -> list[tuple[str, PreparedImages, np.ndarray]]:
    """Returns what a training with these settings needs: (what for, who stores it, image numbers).

    Args:
        experiment: Its ``prepared`` says where images are stored.
        n: Training images; None: all that its epochs use.
        n_test: Test images, as a study simulates them.
        test_seed: Their seed.

    Raises:
        InputError: Not a survey, no folder, or options that do not go together.
    """
    source = experiment.data.source
    if not source:
        raise InputError("data is missing: name a survey, such as --data model_ii")
    if not names_survey(source):
        raise InputError(f"data: '{source}' is not a survey: only simulated images are prepared")
    if experiment.trainer.prepared is None:
        raise InputError(
            "prepared is missing: name the folder in which the images are stored, such as --prepared images"
        )
    for name, value, least in (("n", n, 1), ("n_test", n_test, 0)):
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    makers = SurveyMakers.of(experiment)
    plan, epochs = makers.plan, experiment.schedule.epochs
    if n is not None:
        numbers = np.arange(n)
    elif plan.images is None:
        numbers = np.arange(epochs * plan.epoch_size)
    else:
        numbers = plan.images
    parts = [("training", makers.train, numbers)]
    if experiment.data.val_data is None:
        parts.append(("validation", makers.held_out, np.arange(experiment.data.val_size)))
    if makers.labelling.targets:
        spare = np.arange(experiment.data.val_size, 2 * experiment.data.val_size)
        parts.append(("calibration", makers.held_out, spare))
    if n_test:
        classes, noise = makers.train.class_names, makers.held_out_noise
        simulator = Simulator(source, classes=classes, seed=test_seed, noise=noise)
        test = FittedSimulator(simulator, makers.residual, crop=experiment.data.crop)
        parts.append(("test", stored(test, experiment), np.arange(n_test)))
    return [(name, made, of) for name, made, of in parts if isinstance(made, PreparedImages)]
