"""How the classes of the data become labels and targets of the task, and images get residuals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haloformer.data.grouping import LEFT_OUT, group_classes
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.outputs.conformal import check_enough
from haloformer.outputs.targets import TARGETS, of_their_class, target_values
from haloformer.simulation import NOISE_MODES, LensBatch
from haloformer.training.config import Experiment
from haloformer.training.examples import Examples


@dataclass(frozen=True)
class Labelling:
    """How the classes of the data become labels and targets of the task.

    Attributes:
        class_names: Classes of the task, in the order of its labels.
        labels: (K,) int64: label of the data → label of the task, or ``LEFT_OUT``.
        targets: Names of the regression's targets; empty for a classification.
        data_classes: (K,) classes of the data.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    targets: tuple[str, ...]
    data_classes: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Experiment, class_names: tuple[str, ...]) -> "Labelling":
        """Returns the labelling of data with these classes.

        Raises:
            InputError: The task needs images of a class that the data lack.
        """
        task = experiment.task
        targets = () if task.name == "classification" else task.targets
        if task.name == "regression":  # the images of other classes would teach nothing
            wanted = [TARGETS[name].class_name for name in targets if name in TARGETS]
            if missing := [name for name in wanted if name not in class_names]:
                raise InputError(
                    f"task regression of {list(targets)} needs images of '{missing[0]}': "
                    f"{list(class_names)}"
                )
            names = tuple(name for name in class_names if name in wanted)
            labels = np.array(
                [names.index(name) if name in names else LEFT_OUT for name in class_names]
            )
        else:
            names, labels = group_classes(class_names, experiment.data.classes)
        return cls(names, labels, targets, class_names)

    def target_values(
        self, parameters: Mapping[str, np.ndarray], labels: Tensor, where: str = "the data"
    ) -> Tensor:
        """Returns the true values (B, T) of the targets, NaN where an image is not of their class.

        Args:
            parameters: Those that travel with the B images.
            labels: (B,) of the data.
            where: What they come from, for errors.

        Raises:
            InputError: See :func:`haloformer.outputs.targets.target_values`.
        """
        values = target_values(self.targets, parameters, where)
        return of_their_class(values, self.targets, self.data_classes, labels)

    def examples(self, batch: LensBatch) -> Examples:
        """Returns a simulated batch as training examples, where its images are."""
        n = len(batch.labels)
        targets = torch.zeros(n, 0)
        if self.targets:
            targets = self.target_values(batch.parameters, batch.labels.cpu())
        seconds = torch.from_numpy(batch.parameters["exposure_time"].astype(np.float32))
        labels = torch.from_numpy(self.labels[batch.labels.numpy()])
        others = (labels, targets, seconds)
        return Examples(batch.images.float(), *(each.to(batch.images.device) for each in others))


def check_calibration(experiment: Experiment, counts: Mapping[str, int], more: str) -> None:
    """Checks before a training that its intervals can be calibrated after it.

    Args:
        experiment: Its ``coverage`` counts.
        counts: Target of the regression → how many calibration images have it; empty without one.
        more: Which option gives more of them.

    Raises:
        InputError: Too few images.
    """
    for name, n in counts.items():
        instead = f"{more} gives more, or take a smaller coverage"
        check_enough(n, experiment.task.coverage, name, instead)


def residual_of(experiment: Experiment, definition: object, noise: object) -> Residual | None:
    """Returns what adds the residual channels that ``physics`` asks for.

    None where it asks for none.

    Args:
        experiment: Its ``physics``, ``crop``, ``fresh_noise`` and ``wrong_fits`` count.
        definition: The survey of the images as JSON, or whatever the data hold in its place.
        noise: Their noise mode, or whatever the data hold in its place.

    Raises:
        InputError: Options that exclude each other, or data without their survey or noise.
    """
    physics = experiment.data.physics
    if physics == "none":
        if experiment.regularization.wrong_fits:
            raise InputError("wrong_fits needs a fit: physics: residual or detail")
        if experiment.data.fit_place:
            raise InputError("fit_place needs a fit: physics: residual or detail")
        return None
    if experiment.augmentation.fresh_noise != "none":
        raise InputError(
            f"physics {physics}: the fit needs the noise that the network sees: "
            "fresh_noise must be none"
        )
    if not isinstance(definition, str) or not isinstance(noise, str) or noise not in NOISE_MODES:
        raise InputError(
            f"physics {physics}: {experiment.data.source} does not say of which survey and noise "
            "its images are; haloformer convert --survey NAME says it"
        )
    residual = Residual(
        definition,
        noise,
        experiment.data.crop,
        detail=physics == "detail",
        fit_place=experiment.data.fit_place,
    )
    residual.check()
    return residual
