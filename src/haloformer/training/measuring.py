"""How long a training would take: a few steps of it, measured on this machine."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from haloformer.training.config import Experiment, compose
from haloformer.training.engine import assemble
from haloformer.training.examples import Examples
from haloformer.training.hardware import Hardware
from haloformer.training.run_folder import RunFolder

_SECONDS = 0.7  # of each of the three things that are measured
_LONG = 3.0  # of one step: larger ones are not waited for
_STATES = 5  # weights, two moments of the optimizer, moving average, and the artefact


@dataclass(frozen=True)
class TrainingCost:
    """What a training costs on this machine, measured on a few of its images.

    Attributes:
        image: Seconds to make (simulate and fit) or read one image.
        step: Seconds of the network for one image in training.
        answer: The same in validation.
        n_parameters: Of the network.
        n_train: Different training images; of an endless stream, those of one epoch.
        n_val: Validation images.
        epoch_images: Images that the network sees in an epoch.
        epochs: As the experiment says; it may end earlier.
        made_once: Whether the images are made once, and then kept in memory.
        where: What it computes on.
    """

    image: float
    step: float
    answer: float
    n_parameters: int
    n_train: int
    n_val: int
    epoch_images: int
    epochs: int
    made_once: bool
    where: str

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.training + self.images

    @property
    def training(self) -> float:
        """Seconds of the network."""
        return self.epochs * (self.epoch_images * self.step + self.n_val * self.answer)

    @property
    def images(self) -> float:
        """Seconds for the images."""
        n_made = self.n_train if self.made_once else self.epochs * self.epoch_images
        return (n_made + self.n_val) * self.image

    @property
    def n_bytes(self) -> int:
        """Size of the run folder."""
        return _STATES * 4 * self.n_parameters


def check_run_folder(experiment: Experiment) -> str:
    """Returns what a training would do in its folder; writes nothing.

    Raises:
        InputError: The folder holds something else.
    """
    folder = RunFolder(Path(experiment.trainer.out))
    folder.check()
    if folder.result(experiment) is not None:
        return "is finished: nothing would be done"
    return "would go on from its last checkpoint" if folder.can_resume else "would be made"


def measure_training(experiment: Experiment) -> TrainingCost:
    """Does a few steps of a training in memory, for some seconds; nothing is written.

    Raises:
        InputError: What the training itself would raise for its data, network and options.
    """
    from haloformer.training.survey_feed import SurveyMakers

    hardware = Hardware.of(experiment)
    # Of all images of a survey: with few of them other things are wrong.
    plan = SurveyMakers.of(experiment).plan if _is_survey(experiment) else None
    few = _with_few_images(experiment)
    made = assemble(few, hardware, pretrained=False)
    device = torch.device(hardware.accelerator)
    task = made.task.to(device)
    task.train()
    batch = next(iter(made.feed.epoch(0, 0, (0, 1)))).to(device)

    def read() -> None:
        next(iter(made.feed.epoch(0, 0, (0, 1))))

    optimizer = torch.optim.AdamW(task.parameters())

    def step(examples: Examples) -> None:
        task.training_step(examples, 0).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)

    def answer(examples: Examples) -> None:
        with torch.no_grad():
            task(examples.images)
        _wait(device)

    image = _seconds_of(read) / len(batch.labels)
    step_time = _seconds_each(step, batch)
    task.eval()
    answer_time = _seconds_each(answer, batch)
    data, epochs = experiment.data, experiment.schedule.epochs
    if plan is None:
        n_train, n_val = made.feed.n_train, made.feed.n_val
        epoch_images = made.feed.steps * data.batch_size
    else:
        n_train, n_val = plan.n_images, data.val_size
        epoch_images = plan.steps * data.batch_size
    return TrainingCost(
        image=image,
        step=step_time,
        answer=answer_time,
        n_parameters=sum(each.numel() for each in made.task.model.parameters()),
        n_train=n_train,
        n_val=n_val,
        epoch_images=epoch_images,
        epochs=epochs,
        made_once=plan is None or data.n_images is not None,
        where=hardware.in_words(),
    )


def _is_survey(experiment: Experiment) -> bool:
    from haloformer.simulation import names_survey

    return bool(experiment.data.source) and names_survey(experiment.data.source)


def _with_few_images(experiment: Experiment) -> Experiment:
    """Returns the experiment with as few images as will do, and nothing that is written."""
    data = experiment.data
    changes: dict[str, object] = {"compile": False, "loggers": [], "pretrained": False}
    if _is_survey(experiment):
        least = min(data.batch_size, 32)
        changes |= {"batch_size": least, "epoch_size": least, "n_images": None}
        changes |= {"prepared": None, "labels_per_class": None}
        if data.val_data is None:  # few images calibrate what is a promise of little
            changes |= {"val_size": min(data.val_size, 12), "coverage": 0.5}
    return compose(None, experiment.flat(), changes)


def _seconds_each(work: Callable[[Examples], None], batch: Examples) -> float:
    """Returns the time for one image: in a batch, or among as many of its images as take some seconds."""
    n, whole = 2, len(batch.labels)
    while n < whole:
        few = Examples(*(column[:n] for column in batch))
        began = time.perf_counter()
        work(few)
        if (seconds := time.perf_counter() - began) > _LONG:
            return seconds / n
        n *= 2
    return _seconds_of(lambda: work(batch)) / whole


def _seconds_of(work: Callable[[], None]) -> float:
    """Returns the time that it takes, the median of some, once it has been done once."""
    work()
    found: list[float] = []
    until = time.perf_counter() + _SECONDS
    while not found or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
