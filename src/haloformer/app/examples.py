"""Images for those who have none at hand: freshly simulated ones, and those that come with the package."""

import secrets

from haloformer.app import answers
from haloformer.app.answers import Answer
from haloformer.app.known import Models
from haloformer.errors import InputError
from haloformer.simulation import Simulator, list_surveys
from haloformer.trial.run import IMAGES, LENS

_SEEDS = 10**6
Found = tuple[Answer, str, str]
"""An answer, the name of its model, and what is said of it."""


def simulated(models: Models, name: str, seed: int | None = None) -> Found:
    """Returns what a model says of an image of its own survey, simulated now.

    Args:
        models: The models.
        name: Of the one that is asked.
        seed: Of the image, whose class it draws, too; None draws one.

    Raises:
        InputError: The model's survey is not one of the package.
    """
    predictor, facts = models.get(name), models.facts[name]
    if facts.survey not in list_surveys() or facts.noise is None:
        raise InputError(
            f"the model {name} was not trained on a survey of this package: it has no example. Drop an image of yours"
        )
    seed = secrets.randbelow(_SEEDS) if seed is None else seed
    simulator = Simulator(facts.survey, seed=seed, noise=facts.noise)
    number = seed % len(simulator.class_names)
    batch = simulator.batch([number])
    truth = simulator.class_names[number]
    found = answers.seen(predictor, batch.images[0].numpy(), f"{facts.survey}, seed {seed}")
    said = f"Simulated just now: its true class is {truth}. Answered by the model {name}."
    return found, name, said


def hst(models: Models, name: str) -> Found:
    """Returns what a model says of the simulated HST image of a lens that `haloformer try` fits."""
    chosen = models.of_survey("hst", None, name) or name
    found = answers.classify(models.get(chosen), IMAGES / LENS[0])
    said = f"A simulated lens of the survey hst, with one subhalo. Answered by the model {chosen}."
    return found, chosen, said
