"""The training task: what one step does with a batch, and how it is validated."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from haloformer.data.framing import Framing, network_input
from haloformer.data.normalization import Normalization
from haloformer.data.transforms import (
    Augmentation,
    NoiseModel,
    augment_images,
    draw_exposures,
    draw_noise,
)
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.outputs.layout import Outputs
from haloformer.outputs.losses import predictions, regression_loss
from haloformer.training.config import Experiment
from haloformer.training.cuda_graphs import GraphedNetwork
from haloformer.training.examples import Examples
from haloformer.training.optim import (
    build_optimizer,
    build_plateau,
    build_schedule,
    match_layout,
    scaled_lr,
)
from haloformer.training.transfer import frozen_modules_to_eval


class LensTask(pl.LightningModule):
    """Classification by cross-entropy, regression of physical parameters, or both.

    Raw images (B, C, H, W) go in; augmentation, framing and normalisation happen here, on the
    device of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        framing: Framing,
        normalization: Normalization,
        outputs: Outputs,
        experiment: Experiment,
        *,
        steps_per_epoch: int,
        noise_model: NoiseModel | None = None,
        residual: Residual | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Puts the parts of a training run together.

        Args:
            model: Takes what framing and normalisation make of images, and returns (B, outputs.n).
            framing: To the size and channels of the network.
            normalization: Fitted.
            outputs: What the network's numbers mean.
            experiment: The rest.
            steps_per_epoch: Batches per epoch.
            noise_model: Draws fresh noise on noise-free images; None: images are used as they are.
            residual: Examples come with a residual channel, which this has added.
            layout: Of the network's input in memory.
        """
        super().__init__()
        self.model = model
        self.graphed: GraphedNetwork | None = None
        self.layout = layout
        self.framing, self.normalization, self.outputs, self.experiment = (
            framing,
            normalization,
            outputs,
            experiment,
        )
        self.steps_per_epoch, self.noise_model, self.residual = (
            steps_per_epoch,
            noise_model,
            residual,
        )
        self.augmentation = _augmentation(experiment)
        self.mix = _mixing(experiment, len(outputs.class_names))
        ema = experiment.regularization.ema
        self.ema = ModelEmaV3(model, decay=ema, use_warmup=True) if ema else None
        self.monitor, self.monitor_mode = (
            ("val_macro_auc", "max") if outputs.class_names else ("val_mae", "min")
        )
        self.loss_sum: Tensor
        self.register_buffer(
            "loss_sum", torch.zeros(2, dtype=torch.float64)
        )  # saved: an epoch may be interrupted
        if outputs.class_names:
            self.auc = MulticlassAUROC(len(outputs.class_names), average=None, validate_args=False)
            self.accuracy = MulticlassAccuracy(
                len(outputs.class_names), average="micro", validate_args=False
            )
        # In the order of the targets
        self.errors = nn.ModuleList(MeanMetric(nan_strategy="ignore") for _ in outputs.targets)
        self.squares = nn.ModuleList(MeanMetric(nan_strategy="ignore") for _ in outputs.targets)
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None

    @property
    def best_model(self) -> nn.Module:
        """The network that is validated and shipped.

        The moving average of the weights where there is one.
        """
        return self.model if self.ema is None else self.ema.module

    def forward(self, images: Tensor) -> Tensor:
        """Returns the outputs (B, outputs.n) of raw images (B, C, H, W)."""
        numbers: Tensor = self.best_model(self.prepare(images))
        return numbers

    def prepare(self, images: Tensor) -> Tensor:
        """Returns the network's input (B, C', H', W') for raw images (B, C, H, W)."""
        inputs = network_input(images, self.framing, self.normalization, self.residual is not None)
        return inputs.contiguous(memory_format=self.layout)

    def on_train_batch_start(self, batch: Examples, batch_idx: int) -> None:
        """Seeds a step's random numbers by the run's seed and the step's place alone."""
        # Neither what came before nor an interruption then matters: a repeated step is the same
        # step.
        torch.manual_seed(int(self._rng("model", batch_idx).integers(2**63)))
        if self.experiment.transfer.tune != "full":
            frozen_modules_to_eval(self.model)

    def training_step(self, batch: Examples, batch_idx: int) -> Tensor:
        """Returns the mean loss of a batch, with what the architecture's paper adds to it."""
        inputs = self.prepare(self.augmented(batch, batch_idx))
        labels: Tensor = batch.labels
        if self.mix is not None:
            inputs, labels = self.mix(inputs, labels)
        if hasattr(self.model, "forward_with_auxiliary_loss"):
            numbers, auxiliary_loss = self.model.forward_with_auxiliary_loss(inputs)  # type: ignore[operator]
        else:
            numbers, auxiliary_loss = (self.graphed or self.model)(inputs), 0.0
        smoothing = self.experiment.regularization.label_smoothing
        loss = self.loss(numbers.float(), labels, batch.targets, smoothing) + auxiliary_loss
        # Of the whole batch, whatever part of it is here: all processes stop together, and every
        # checkpoint has the same sum.
        mean = loss.detach().clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean /= torch.distributed.get_world_size()
        if not torch.isfinite(mean):
            raise InputError(self._diagnosis(mean, inputs, numbers, batch_idx))
        with torch.no_grad():
            self.loss_sum += torch.stack(
                [mean.double(), torch.ones_like(mean, dtype=torch.float64)]
            )
        out: Tensor = loss
        return out

    def augmented(self, batch: Examples, batch_idx: int) -> Tensor:
        """Returns the training images of a batch, transformed, and with fresh noise if wanted."""
        rng = self._rng("augment", batch_idx)
        images = augment_images(batch.images, self.augmentation, rng)
        if self.noise_model is not None:
            seconds = batch.exposure_time
            if (factors := self.experiment.augmentation.exposure) is not None:
                seconds = draw_exposures(seconds, *factors, rng)
            generator = torch.Generator(images.device).manual_seed(int(rng.integers(2**63)))
            images = draw_noise(images, seconds, self.noise_model, generator)
        share = self.experiment.regularization.residual_dropout
        if share and self.residual is not None:
            keep = torch.from_numpy(rng.random(len(images)) >= share).to(images)
            images = torch.cat([images[:, :1], images[:, 1:] * keep[:, None, None, None]], dim=1)
        return images

    def loss(
        self, numbers: Tensor, labels: Tensor, targets: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Returns the loss of outputs (B, outputs.n).

        Labels (B,) or, mixed, (B, K); targets (B, T) with NaN where there is none.
        """
        logits, values = self.outputs.split(numbers)
        task = self.experiment.task
        loss = numbers.new_zeros(())
        if logits is not None:
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if values is not None:
            assert self.outputs.scaling is not None
            weight = 1.0 if logits is None else task.regression_weight
            loss = loss + weight * regression_loss(
                values,
                targets,
                loss=task.loss,
                beta=task.beta,
                scaling=self.outputs.scaling,
                coverage=task.coverage,
            )
        return loss

    def validation_step(self, batch: Examples, batch_idx: int) -> None:
        """Adds a batch to the validation metrics."""
        numbers = self(batch.images).float()
        loss = self.loss(numbers, batch.labels, batch.targets)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(batch.labels), sync_dist=True)
        logits, values = self.outputs.split(numbers)
        if logits is not None:
            self.auc.update(logits.softmax(1), batch.labels)
            self.accuracy.update(logits, batch.labels)
        if values is not None:
            assert self.outputs.scaling is not None
            answer = predictions(
                values,
                loss=self.outputs.loss,
                scaling=self.outputs.scaling,
                coverage=self.outputs.coverage,
            )
            errors = answer["mean"] - batch.targets
            for i in range(len(self.outputs.targets)):
                known = torch.isfinite(batch.targets[:, i])
                self.errors[i].update(errors[known, i].abs())  # type: ignore[operator]
                self.squares[i].update(errors[known, i].square())  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        """Logs the epoch's metrics: one-vs-rest AUCs, their mean and accuracy.

        Mean absolute and rms errors of the targets.
        """
        # Here, not at the end of the training epoch: those who listen for that moment want to see
        # it.
        total, steps = self.loss_sum.tolist()
        self.log("train_loss", total / max(1.0, steps))
        self.loss_sum.zero_()
        if self.outputs.class_names:
            aucs = self.auc.compute()
            self.log("val_macro_auc", aucs.mean())
            self.log_dict(
                {
                    f"val_auc_{name}": auc
                    for name, auc in zip(self.outputs.class_names, aucs, strict=True)
                }
            )
            self.log("val_accuracy", self.accuracy.compute())
            self.auc.reset()
            self.accuracy.reset()
        if self.outputs.targets:
            maes = [metric.compute() for metric in self.errors]  # type: ignore[operator]
            squares = [metric.compute() for metric in self.squares]  # type: ignore[operator]
            self.log("val_mae", torch.stack(maes).mean())
            for name, mae, square in zip(self.outputs.targets, maes, squares, strict=True):
                self.log_dict({f"val_mae_{name}": mae, f"val_rmse_{name}": square.sqrt()})
            for metric in (*self.errors, *self.squares):
                metric.reset()
        if self.plateau is not None:
            value = float(self.trainer.callback_metrics[self.monitor])
            self.plateau.step(value if self.monitor_mode == "max" else -value)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser and its learning rate, stepped after every batch."""
        settings, course = self.experiment.optimizer, self.experiment.schedule
        batch_size = self.experiment.data.batch_size
        optimizer = build_optimizer(
            self.model,
            name=settings.name,
            lr=scaled_lr(settings.lr, settings.lr_batch, batch_size, settings.name),
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            betas=settings.betas,
            layer_decay=self.experiment.transfer.layer_decay,
            fused=True,
        )
        schedule = build_schedule(
            optimizer,
            name=course.name,
            total_steps=course.epochs * self.steps_per_epoch,
            steps_per_epoch=self.steps_per_epoch,
            warmup=course.warmup,
            min_lr=course.min_lr,
            step_size=course.step_size,
            gamma=course.gamma,
        )
        if course.name == "plateau":
            # Ours to step: Lightning would skip a step when an interrupted epoch goes on.
            self.plateau = build_plateau(
                optimizer,
                gamma=course.gamma,
                plateau_patience=course.plateau_patience,
                min_lr=course.min_lr,
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Makes the step, then updates the moving average of the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.model, step=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state of the plateau schedule."""
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the state of the plateau schedule until there is an optimiser."""
        self._plateau_state = checkpoint.get("plateau")

    def on_train_start(self) -> None:
        """Restores the state of the plateau schedule, and lays out that of the optimisers."""
        for optimizer in self.trainer.optimizers:
            match_layout(optimizer)
        if self.plateau is not None and self._plateau_state:
            self.plateau.load_state_dict(self._plateau_state)

    def _rng(self, purpose: str, batch_idx: int) -> np.random.Generator:
        place = [self.experiment.trainer.seed, self.current_epoch, batch_idx, *purpose.encode()]
        # Each of several processes has a part of the batch, and random numbers of its own.
        return np.random.default_rng(place + [self.global_rank] * (self.global_rank > 0))

    def _diagnosis(self, loss: Tensor, inputs: Tensor, numbers: Tensor, batch_idx: int) -> str:
        """Says where the first NaN or infinity appeared, and what helps."""
        broken = [name for name, p in self.model.named_parameters() if not torch.isfinite(p).all()]
        if not torch.isfinite(inputs).all():
            where = "the network's input holds such numbers: another normalization should help"
        elif broken:
            where = f"{len(broken)} weights had become so in the step before ('{broken[0]}' first)"
        elif not torch.isfinite(numbers).all():
            where = "the network's outputs overflowed" + (
                " in half precision: precision: 32 or bf16"
                if self.trainer.precision == "16-mixed"
                else ""
            )
        else:
            where = "inputs, weights and outputs are finite"
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        return (
            f"training stopped: the loss became {loss.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}, at a "
            f"learning rate of {rate:.2g}; {where}; a smaller lr, a longer warmup, or another normalization should help "
            "(the best weights so far are kept)"
        )


_Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images, labels) → both, mixed with those of others."""


def _augmentation(experiment: Experiment) -> Augmentation:
    given = experiment.augmentation
    return Augmentation(given.augment, given.rotation, given.shift, given.zoom, given.erasing)


def _mixing(experiment: Experiment, n_classes: int) -> _Mix | None:
    """Returns a function of (images, labels) that mixes pairs and their labels, or None."""
    mixup, cutmix = experiment.regularization.mixup, experiment.regularization.cutmix
    if not mixup and not cutmix:
        return None
    if experiment.task.name != "classification":
        raise InputError("mixup and cutmix mix labels: they are for task classification")
    from torchvision.transforms import v2

    choices = [
        kind(alpha=alpha, num_classes=n_classes)
        for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    # A function, not the transform itself, which is a module and would become part of the task.
    return functools.partial(_mixed, v2.RandomChoice(choices) if len(choices) > 1 else choices[0])


def _mixed(transform: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    images, labels = transform(images, labels)
    return images, labels
