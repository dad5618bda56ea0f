"""What a training run ships: the artefact's description, prediction intervals and calibration."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from haloformer._version import code_version
from haloformer.artefact.write import write_calibration
from haloformer.data.framing import Framing, network_input
from haloformer.data.grouping import GROUPINGS
from haloformer.data.normalization import Normalization
from haloformer.models import find_model
from haloformer.models.head import numbers_and_features
from haloformer.outputs.conformal import Conformal
from haloformer.outputs.layout import Outputs
from haloformer.outputs.losses import predictions
from haloformer.outputs.out_of_distribution import ood_features
from haloformer.outputs.temperature import calibrated
from haloformer.training.config import RUN_ONLY, Experiment
from haloformer.training.examples import WHOLE, Feed
from haloformer.training.network import network_args
from haloformer.training.run_folder import RunFolder
from haloformer.training.tasks import LensTask


@dataclass(frozen=True)
class Exporter:
    """Describes and calibrates what one run ships.

    Attributes:
        experiment: What the run was told.
        feed: Its data.
        framing: From images to the network's size and channels.
        normalization: Fitted.
        outputs: What the network's numbers mean.
    """

    experiment: Experiment
    feed: Feed
    framing: Framing
    normalization: Normalization
    outputs: Outputs

    def description(
        self, pretrained: dict[str, Any], epoch: int, metrics: dict[str, float]
    ) -> dict[str, Any]:
        """Returns the content of ``artefact.json``.

        Args:
            pretrained: The weights that the run started from, empty for none.
            epoch: The epoch (from 1) of the weights.
            metrics: That epoch's metrics.
        """
        experiment, feed = self.experiment, self.feed
        channels, height, width = self.framing.output_shape(feed.image_shape)
        name = experiment.model.name
        return {
            "model": {
                "name": name,
                "img_size": height if height == width else [height, width],
                "in_chans": channels,
                "num_classes": self.outputs.n,
                # As built, whatever the registry says later.
                "kwargs": {**find_model(name).kwargs, **network_args(experiment)},
            },
            "class_names": list(self.outputs.class_names),
            "outputs": self.outputs.to_dict(),
            "classes": GROUPINGS[experiment.data.classes],
            "framing": self.framing.to_dict(),
            "normalization": self.normalization.to_dict(),
            "image_shape": list(feed.raw_shape),
            "residual": None if feed.residual is None else feed.residual.to_dict(),
            "survey": feed.facts["survey"],
            "noise": feed.facts["noise"],
            "pixel_scale": feed.facts["pixel_scale"],
            "training": {
                **{key: value for key, value in experiment.flat().items() if key not in RUN_ONLY},
                "pretrained_weights": pretrained or None,
                "train_seed": feed.facts["train_seed"],
                "val_seed": feed.facts["val_seed"],
                "n_train": feed.n_train,
                "n_val": feed.n_val,
                "code_version": code_version(),
                "best_epoch": epoch,
                **metrics,
            },
        }

    def intervals(self, task: LensTask) -> dict[str, Any]:
        """Returns the conformal factors of the regression, from images of the feed's calibration.

        With them, predicted intervals hold the wished share of true values.
        """
        outputs = self.outputs
        assert outputs.scaling is not None
        was_training = task.best_model.training
        task.best_model.eval()
        answers, truths = [], []
        with torch.no_grad():
            for batch in self.feed.calibration:
                values = outputs.split(task(batch.images.to(task.device)).float())[1]
                assert values is not None
                answer = predictions(
                    values, loss=outputs.loss, scaling=outputs.scaling, coverage=outputs.coverage
                )
                answers.append({name: tensor.cpu() for name, tensor in answer.items()})
                truths.append(batch.targets.cpu())
        task.best_model.train(was_training)
        together = {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}
        return Conformal.fit(
            **together, truth=torch.cat(truths), coverage=outputs.coverage, loss=outputs.loss
        ).to_dict()

    def calibrate(self, folder: RunFolder, network: nn.Module) -> None:
        """Adds a temperature and an out-of-distribution detector to a finished artefact.

        Both are fitted on the validation images, once, at the end: no epoch is chosen by them.

        Args:
            folder: Holds the artefact, whose weights are used, in the precision that ships.
            network: As the artefact's, with any weights; on the device to compute on.
        """
        from safetensors.torch import load_file

        network.load_state_dict(load_file(folder.artefact / "weights.safetensors"))
        network.eval()
        device = next(network.parameters()).device
        with_residual = self.feed.residual is not None
        numbers, labels, seen = [], [], []
        with torch.inference_mode():
            for batch in self.feed.validation(WHOLE):
                images = batch.images.to(device)
                inputs = network_input(images, self.framing, self.normalization, with_residual)
                answer, features = numbers_and_features(network, inputs)
                numbers.append(answer.float().cpu())
                labels.append(batch.labels.cpu())
                seen.append(ood_features(self.framing(images), features, with_residual))
        temperature, detector = calibrated(
            self.outputs, torch.cat(numbers), torch.cat(labels), seen
        )
        write_calibration(
            folder.artefact,
            None if temperature is None else temperature.to_dict(),
            None if detector is None else (detector.to_dict(), detector.tensors()),
        )
