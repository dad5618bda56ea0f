"""`train`: from an experiment to a run folder, in three steps: prepare, fit, finish."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger

from haloformer.artefact.write import write_artefact
from haloformer.data.augment import check_augmentation
from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.devices import resolve_device
from haloformer.errors import InputError, InputWarning, reason_of
from haloformer.files import as_name
from haloformer.models import find_model
from haloformer.outputs.layout import Outputs
from haloformer.outputs.out_of_distribution import MIN_IMAGES
from haloformer.outputs.targets import Scaling
from haloformer.simulation import names_survey
from haloformer.training.callbacks import (
    Checkpoints,
    EpochHook,
    History,
    Interruption,
    Progress,
)
from haloformer.training.config import Experiment, compose
from haloformer.training.console import announce, is_first_process, say
from haloformer.training.cuda_graphs import graphed
from haloformer.training.examples import Batches, Examples, Feed, Share
from haloformer.training.export import Exporter
from haloformer.training.feeds import open_feed
from haloformer.training.hardware import Hardware
from haloformer.training.idle import warn_of_idle
from haloformer.training.loggers import make_loggers
from haloformer.training.network import build_network, tuned_network
from haloformer.training.run_folder import RunFolder, RunResult
from haloformer.training.tasks import LensTask
from haloformer.training.trainer import (
    explained_memory,
    lightning_session,
    make_trainer,
)
from haloformer.training.transfer import merged_weights

_log = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], bool]
"""(epoch from 1, its metrics) → whether the run ends there."""

AT_CHANCE = 0.6
"""Macro AUC on validation images below which a network has learnt nothing worth the name."""


_INSTEAD = {
    "data": "name a survey or a dataset file; haloformer.LensClassifier learns from images in memory",
    "model": "give the name of a network; one of your own gets a name by timm's register_model",
    "out": "name a folder",
}


def train(
    data: str | None = None,
    model: str | None = None,
    out: str | None = None,
    *,
    preset: str | list[str] | None = None,
    on_epoch: OnEpoch | None = None,
    **options: Any,
) -> RunResult:
    """Trains a network and leaves a run folder: configuration, metrics, checkpoints, artefact.

    Calling it again with the same arguments continues an interrupted run and gives the same weights
    as if it had never been interrupted (on a CPU, bit for bit). A test set is never touched.

    Args:
        data: A dataset file (train.h5), or a survey (model_ii) whose images are simulated as they
            are needed.
        model: Name of the network.
        out: The run folder to write, or to continue.
        preset: Shipped recipes and models to start from, such as ``"quick"`` or
            ``["standard", "swin"]``, or YAML files.
        on_epoch: Called after every epoch with its number (from 1) and its metrics; if it returns
            True the run ends there.
        **options: Any field of :class:`~haloformer.training.config.Experiment` by its short name,
            such as ``epochs=20, lr=3e-4``.

    Returns:
        The best epoch and its validation metrics.

    Raises:
        InputError: Unusable data, an unknown name, a value out of range, a run folder of another
            configuration, a loss that became NaN, or too little memory.
        KeyboardInterrupt: Ctrl-C; the run is saved where it stands.
        SystemExit: SIGTERM, likewise.

    Examples:
        >>> import haloformer
        >>> small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
        >>> result = haloformer.train("model_ii", "vit_nano", "runs/y", epochs=1, epoch_size=64,
        ...     val_size=30, model_args=small, progress=False)
        >>> result.epochs
        1
        >>> result.to_table().colnames[0]
        'epoch'
    """
    named = {"data": data, "model": model, "out": out}
    given = {
        key: as_name(value, key, _INSTEAD[key]) for key, value in named.items() if value is not None
    }
    experiment = compose(preset, {**given, **options})
    warn_of_idle(experiment, options)
    return run(experiment, on_epoch=on_epoch)


def run(experiment: Experiment, *, on_epoch: OnEpoch | None = None) -> RunResult:
    """Carries out an experiment; see :func:`train`."""
    folder = RunFolder(Path(experiment.trainer.out))
    if (result := folder.result(experiment)) is not None:
        say(
            experiment,
            f"{folder.path}: this run is finished (best epoch {result.best_epoch}); "
            "choose another out to train anew",
        )
        return result
    hardware = Hardware.of(experiment)
    if is_first_process():
        folder.check_free()
        folder.check()
    with explained_memory(experiment), contextlib.ExitStack() as held:
        prepared = _prepare(experiment, folder, hardware, held)
        _log.info("data and network are ready")
        trainer, checkpoints = _fit(prepared, on_epoch)
        _log.info("trained")
        return _finish(prepared, trainer, checkpoints)


@dataclass(frozen=True)
class _Prepared:
    """A run that is ready to be trained.

    Attributes:
        experiment: What the run is told.
        folder: Where it is written.
        hardware: What it computes on.
        feed: The data.
        exporter: Describes and calibrates what ships.
        task: The network, and what one step does with it.
        input_shape: (C, H, W) of the network's input.
        loggers: Where metrics go besides ``metrics.csv``.
        pretrained: The weights that the network started from, empty for none.
    """

    experiment: Experiment
    folder: RunFolder
    hardware: Hardware
    feed: Feed
    exporter: Exporter
    task: LensTask
    input_shape: tuple[int, int, int]
    loggers: list[Logger]
    pretrained: dict[str, Any]


@dataclass(frozen=True)
class Assembled:
    """Data and network of a run, put together; nothing is written.

    Attributes:
        feed: The data.
        task: The network, and what one step does with it.
        input_shape: (C, H, W) of the network's input.
        framing: From images to that.
        normalization: Fitted.
        outputs: What the network's numbers mean.
    """

    feed: Feed
    task: LensTask
    input_shape: tuple[int, int, int]
    framing: Framing
    normalization: Normalization
    outputs: Outputs


def assemble(experiment: Experiment, hardware: Hardware, *, pretrained: bool | str) -> Assembled:
    """Opens the data, fits what is fitted to them, and builds the network.

    Args:
        experiment: What the run is told.
        hardware: What it computes on.
        pretrained: Weights to start from, as ``transfer.pretrained``; False for none.
    """
    data, settings = experiment.data, experiment.trainer
    find_model(experiment.model.name)  # which fails before images are made, not after
    feed = open_feed(experiment)
    processes = settings.devices * settings.nodes
    if feed.n_val < processes:
        raise InputError(
            f"{feed.n_val} validation images for {processes} processes: each needs at least one"
        )
    check_augmentation(experiment.augmentation.augment, feed.image_shape)
    framing = Framing(data.img_size, data.fit, data.channels, data.crop)
    framed = framing(feed.fit.images)
    normalization = Normalization(data.normalization).fit(
        framed if feed.residual is None else framed[:, :1]
    )
    outputs = _outputs(experiment, feed)
    input_shape = framing.output_shape(feed.image_shape)
    network = build_network(experiment, input_shape, outputs, pretrained=pretrained)
    task = LensTask(
        tuned_network(network, experiment, hardware),
        framing,
        normalization,
        outputs,
        experiment,
        steps_per_epoch=feed.steps,
        noise_model=feed.noise_model,
        residual=feed.residual,
        layout=hardware.layout,
    )
    return Assembled(feed, task, input_shape, framing, normalization, outputs)


def _prepare(
    experiment: Experiment, folder: RunFolder, hardware: Hardware, held: contextlib.ExitStack
) -> _Prepared:
    """Puts the run together, and makes the run folder, which is this process's own for as long as it is held."""
    if experiment.data.source:
        say(experiment, f"preparing images of {experiment.data.source}, those for validation first")
    # Dropout and the like are seeded anew at every step, but the initial weights here. A run that
    # goes on has its weights already.
    pretrained = False if folder.can_resume else experiment.transfer.pretrained
    made = assemble(experiment, hardware, pretrained=pretrained)
    folder.check_data(made.feed.facts["digest"])
    loggers = make_loggers(experiment.trainer.loggers, folder.path, experiment)
    record: dict[str, Any] = {}
    if is_first_process():
        folder.begin(experiment)
        held.enter_context(folder.one_process_only())
        folder.record_data(made.feed.facts["digest"])
        record = folder.record_pretrained(experiment)
    exporter = Exporter(experiment, made.feed, made.framing, made.normalization, made.outputs)
    return _Prepared(
        experiment,
        folder,
        hardware,
        made.feed,
        exporter,
        made.task,
        made.input_shape,
        loggers,
        record,
    )


def _fit(run: _Prepared, on_epoch: OnEpoch | None) -> tuple[pl.Trainer, Checkpoints]:
    """Trains, from where the run folder stands; writes checkpoints, metrics and the artefact."""
    settings, folder, task = run.experiment.trainer, run.folder, run.task
    resuming = folder.can_resume
    if settings.compile:
        task.model.compile()
    elif (reason := _graph(run)) is not None:
        say(run.experiment, reason)

    def export(trainer: pl.Trainer, epoch: int, metrics: dict[str, float]) -> None:
        if trainer.is_global_zero:
            description = run.exporter.description(run.pretrained, epoch, metrics)
            if run.exporter.outputs.targets:
                description["conformal"] = run.exporter.intervals(task)
            write_artefact(folder.artefact, merged_weights(task.best_model), description)

    interruption = Interruption()
    monitor = (task.monitor, task.monitor_mode)
    checkpoints = Checkpoints(
        folder.checkpoints, export, monitor, settings.checkpoint_minutes, interruption
    )
    images_per_epoch = run.feed.steps * run.experiment.data.batch_size
    callbacks: list[pl.Callback] = [History(folder.metrics, images_per_epoch), checkpoints]
    if on_epoch is not None:
        callbacks.append(EpochHook(on_epoch))
    if settings.patience:
        callbacks.append(
            EarlyStopping(
                task.monitor, mode=task.monitor_mode, patience=settings.patience, min_delta=0.0
            )
        )
    if settings.progress:
        if is_first_process():
            callbacks.append(Progress())
        announce(run.experiment, run.feed, task.model, run.hardware, resuming)
    with lightning_session(run.experiment, folder, interruption):
        trainer = make_trainer(run.experiment, run.hardware, folder, run.loggers, callbacks)
        try:
            trainer.fit(
                task,
                datamodule=_Epochs(run.feed),
                ckpt_path=str(folder.last_checkpoint) if resuming else None,
            )
        except (InputError, MemoryError, OSError):
            raise
        except Exception as error:  # a checkpoint that does not fit fails in many ways
            if not resuming or checkpoints.begun:
                raise
            raise InputError(
                f"{folder.last_checkpoint}: the run cannot go on from it ({reason_of(error)}); "
                "without this file it starts anew"
            ) from error
        finally:
            task.graphed = None  # and with it what it keeps on the GPU
    return trainer, checkpoints


def _graph(run: _Prepared) -> str | None:
    """Makes the network's steps CUDA graphs where they can be, and pay; returns what became of it.

    Before anything else works on the GPU, which must not interfere with a recording.
    """
    settings, task, hardware = run.experiment.trainer, run.task, run.hardware
    alone = hardware.accelerator == "cuda" and settings.devices * settings.nodes == 1
    auxiliary = hasattr(task.model, "forward_with_auxiliary_loss")
    if not (settings.cuda_graphs and alone) or auxiliary or run.experiment.transfer.tune != "full":
        return None
    task.to(resolve_device(settings.device))
    shape = (run.experiment.data.batch_size, *run.input_shape)
    inputs = torch.randn(shape, device=task.device).contiguous(memory_format=hardware.layout)
    task.graphed, reason = graphed(task.model, inputs, hardware.dtype)
    return f"trained {reason}"


def _finish(run: _Prepared, trainer: pl.Trainer, checkpoints: Checkpoints) -> RunResult:
    """Calibrates the artefact and marks the run as complete."""
    experiment, folder, task = run.experiment, run.folder, run.task
    # Not current_epoch: of a run that is resumed after its last epoch, that is still the last one.
    epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # Lightning declares less
    result = RunResult(folder.path, checkpoints.best_epoch, epochs, checkpoints.best)
    if trainer.is_global_zero:
        if run.feed.n_val < MIN_IMAGES:
            warnings.warn(
                f"{run.feed.n_val} validation images are too few to know out-of-distribution images by ({MIN_IMAGES} are needed): none will be "
                "marked, and probabilities are calibrated by as few: val_fraction, val_size or val_data give more",
                InputWarning,
                stacklevel=2,
            )
        say(experiment, "calibrating it by validation images, to know out-of-distribution images")
        network = build_network(experiment, run.input_shape, run.exporter.outputs, pretrained=False)
        run.exporter.calibrate(folder, network.to(task.device))
        folder.finish(result)
    metric = {"val_macro_auc": "validation macro AUC", "val_mae": "validation MAE"}[task.monitor]
    value = result.metrics[task.monitor]
    say(experiment, f"best epoch {result.best_epoch}: {metric} {value:.4f}; {folder.path}")
    if task.monitor == "val_macro_auc" and value < AT_CHANCE:
        say(experiment, _learnt_nothing(experiment))
    return result


def _learnt_nothing(experiment: Experiment) -> str:
    """Returns what to try with a network that stays at chance."""
    rate, physics = experiment.optimizer.lr, experiment.data.physics
    tips = [f"a lower learning rate, such as {rate / 3:.1g}", "more images or epochs"]
    if physics == "none" and names_survey(experiment.data.source):
        tips.append("the residual of a smooth lens (physics: detail)")
    return f"it tells the classes hardly better than guessing, 0.5: try {', '.join(tips[:-1])}, or {tips[-1]}"


def _outputs(experiment: Experiment, feed: Feed) -> Outputs:
    task = experiment.task
    classes = () if task.name == "regression" else feed.class_names
    if task.name == "classification":
        return Outputs(classes)
    return Outputs(classes, task.targets, task.loss, task.coverage, Scaling.fit(feed.fit.targets))


class _Epochs(pl.LightningDataModule):
    """Gives Lightning the batches of the next epoch, from where the run stands."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.feed = feed

    def train_dataloader(self) -> "_RestOfEpoch":
        assert self.trainer is not None
        epoch, steps = self.trainer.current_epoch, self.feed.steps
        # More than 0 when an interrupted epoch goes on.
        done = self.trainer.global_step - epoch * steps
        return _RestOfEpoch(self.feed, epoch, max(0, done), self._share())

    def val_dataloader(self) -> Batches:
        return self.feed.validation(self._share())

    def _share(self) -> Share:
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size


class _RestOfEpoch:
    """An epoch's batches from some batch on.

    Its length is the whole epoch's, as Lightning counts on.
    """

    def __init__(self, feed: Feed, epoch: int, first_batch: int, share: Share) -> None:
        self.feed, self.epoch, self.first_batch, self.share = feed, epoch, first_batch, share

    def __len__(self) -> int:
        return self.feed.steps

    def __iter__(self) -> Iterator[Examples]:
        # Before Lightning has counted the finished epoch it asks once for what comes after its end:
        # nothing.
        if self.first_batch < self.feed.steps:
            yield from self.feed.epoch(self.epoch, self.first_batch, self.share)
