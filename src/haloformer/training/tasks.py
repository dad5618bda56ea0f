"""What one training step does: transform, normalise, classify, compare."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from haloformer.data.augment import draw_transforms, transform
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError
from haloformer.training.optim import adamw, warmup_cosine


class ClassificationTask(pl.LightningModule):
    """Tells classes apart by cross-entropy; measured by one-vs-rest AUC.

    Raw images (B, C, H, W) go in; augmentation and normalisation happen here, on the device of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        normalization: Normalization,
        class_names: tuple[str, ...],
        *,
        augment: str,
        lr: float,
        weight_decay: float,
        warmup: float,
        label_smoothing: float,
        total_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization
        self.class_names = class_names
        self.augment, self.seed = augment, seed
        self.lr, self.weight_decay, self.label_smoothing = lr, weight_decay, label_smoothing
        self.total_steps, self.warmup_steps = total_steps, round(warmup * total_steps)
        self.auc = MulticlassAUROC(len(class_names), average=None, validate_args=False)
        self.accuracy = MulticlassAccuracy(len(class_names), average="micro", validate_args=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, K) of raw images (B, C, H, W)."""
        return self.model(self.normalization(images))

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Makes the random numbers of a step (dropout, stochastic depth) a function of the seed and its place alone."""
        # Neither what came before nor an interruption then matters: a repeated epoch is the same epoch.
        torch.manual_seed(int(self._rng("model", batch_idx).integers(2**63)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean cross-entropy of a batch, and what the architecture's paper adds to it."""
        images, labels = batch
        codes = draw_transforms(self.augment, len(images), self._rng("augment", batch_idx))
        images = transform(images, codes)
        if hasattr(self.model, "forward_with_auxiliary_loss"):
            logits, auxiliary_loss = self.model.forward_with_auxiliary_loss(self.normalization(images))  # type: ignore[operator]
        else:
            logits, auxiliary_loss = self(images), 0.0
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing) + auxiliary_loss
        if not torch.isfinite(loss):
            raise InputError(
                f"training stopped: the loss became {loss.item()} in epoch {self.current_epoch + 1}, step {batch_idx + 1}; "
                "a smaller lr, a longer warmup, or another normalization should help (the best weights so far are kept)"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to the validation metrics."""
        images, labels = batch
        logits = self(images).float()
        self.log("val_loss", F.cross_entropy(logits, labels), on_epoch=True, batch_size=len(labels))
        self.auc.update(logits.softmax(1), labels)
        self.accuracy.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Logs the AUC of every class against the rest, their mean, and the accuracy."""
        aucs = self.auc.compute()
        self.log("val_macro_auc", aucs.mean())
        self.log_dict({f"val_auc_{name}": auc for name, auc in zip(self.class_names, aucs, strict=True)})
        self.log("val_accuracy", self.accuracy.compute())
        self.auc.reset()
        self.accuracy.reset()

    def configure_optimizers(self) -> Any:
        """AdamW and its learning rate, stepped after every batch."""
        optimizer = adamw(self.model, self.lr, self.weight_decay)
        schedule = warmup_cosine(optimizer, self.total_steps, self.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rng(self, purpose: str, batch_idx: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.current_epoch, batch_idx, *purpose.encode()])
