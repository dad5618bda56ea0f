"""`train`: from an experiment to a run folder with everything that one training leaves behind."""

import contextlib
import datetime
import errno
import json
import logging
import os
import platform
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities import rank_zero_only
from timm.layers import convert_sync_batchnorm
from torch import nn

from haloformer._version import code_version
from haloformer.artefact.write import write_artefact, write_calibration
from haloformer.data.augment import check_augmentation
from haloformer.data.framing import Framing, network_input
from haloformer.data.grouping import GROUPINGS
from haloformer.data.normalization import Normalization
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.io.writing import file_sha256, write_text
from haloformer.models import create_model, find_model
from haloformer.models.head import numbers_and_features
from haloformer.models.weights import weights_file, weights_url
from haloformer.outputs.conformal import Conformal
from haloformer.outputs.layout import Outputs
from haloformer.outputs.losses import predictions
from haloformer.outputs.out_of_distribution import ood_features
from haloformer.outputs.targets import Scaling
from haloformer.outputs.temperature import calibrated
from haloformer.training.callbacks import (
    Checkpoints,
    EpochHook,
    History,
    Interruption,
    Progress,
    SafeCheckpointIO,
)
from haloformer.training.config import RUN_ONLY, Experiment, compose, read_config
from haloformer.training.feeds import Feed, open_feed
from haloformer.training.loggers import make_loggers
from haloformer.training.tasks import LensTask
from haloformer.training.transfer import merged_weights, prepare_for_tuning, trainable_parameters


@dataclass(frozen=True)
class RunResult:
    """What a training came to.

    Attributes:
        out: The run folder.
        best_epoch: The epoch (from 1) whose weights are in the artefact.
        epochs: Epochs done; fewer than asked for after early stopping.
        metrics: The best epoch's ``val_macro_auc``, ``val_auc_CLASS``, ``val_accuracy``, ``val_loss``, ``train_loss``; of a
            regression ``val_mae``, ``val_mae_TARGET``, ``val_rmse_TARGET``.
    """

    out: Path
    best_epoch: int
    epochs: int
    metrics: dict[str, float]


def train(
    data: str | None = None,
    model: str | None = None,
    out: str | None = None,
    *,
    preset: str | list[str] | None = None,
    on_epoch: Callable[[int, dict[str, float]], bool] | None = None,
    **options: Any,
) -> RunResult:
    """Trains a network and leaves a run folder: configuration, metrics, checkpoints and the artefact for prediction.

    Calling it again with the same arguments continues an interrupted run and gives the same weights as if it had never
    been interrupted (on a CPU, bit for bit). A test set is never touched.

    Args:
        data: A dataset file (train.h5), or a survey (model_ii) whose images are simulated as they are needed.
        model: Name of the network.
        out: The run folder to write, or to continue.
        preset: Shipped recipes and models to start from, such as ``"quick"`` or ``["standard", "swin"]``, or YAML files.
        on_epoch: Called after every epoch with its number (from 1) and its metrics; if it returns True the run ends there.
        **options: Any field of :class:`~haloformer.training.config.Experiment` by its short name, such as ``epochs=20,
            lr=3e-4``.

    Returns:
        The best epoch and its validation metrics.

    Raises:
        InputError: Unusable data, an unknown name, a value out of range, a run folder of another configuration, a
            loss that became NaN, or too little memory.
        KeyboardInterrupt: Ctrl-C; the run is saved where it stands.
        SystemExit: SIGTERM, likewise.

    Example:
        >>> from haloformer.training import train
        >>> result = train("model_ii", "hybrid_nano", "runs/x", epochs=12, lr=1e-3)  # doctest: +SKIP
    """
    given = {"data": data, "model": model, "out": out}
    experiment = compose(
        preset,
        {**{key: str(value) for key, value in given.items() if value is not None}, **options},
    )
    return run(experiment, on_epoch=on_epoch)


def run(
    experiment: Experiment, *, on_epoch: Callable[[int, dict[str, float]], bool] | None = None
) -> RunResult:
    """Carries out an experiment; see :func:`train`."""
    settings = experiment.trainer
    folder = Path(settings.out)
    if (result := _finished_result(folder, experiment)) is not None:
        _say(
            experiment,
            f"{folder}: this run is finished (best epoch {result.best_epoch}); choose another out to train anew",
        )
        return result
    accelerator, devices = _accelerator(experiment)
    numbers = _precision(settings.precision, accelerator)
    with _explained_memory(experiment):
        return _run(experiment, folder, accelerator, devices, numbers, on_epoch)


def _run(
    experiment: Experiment,
    folder: Path,
    accelerator: str,
    devices: Any,
    numbers: str,
    on_epoch: Callable[[int, dict[str, float]], bool] | None,
) -> RunResult:
    settings = experiment.trainer
    source = open_feed(experiment)
    processes = settings.devices * settings.nodes
    if source.n_val < processes:
        raise InputError(
            f"{source.n_val} validation images for {processes} processes: each needs at least one"
        )
    check_augmentation(experiment.augmentation.augment, source.image_shape)
    framing = _framing(experiment)
    input_shape = framing.output_shape(source.image_shape)
    framed = framing(source.fit.images)
    normalize = Normalization(experiment.data.normalization).fit(
        framed if source.residual is None else framed[:, :1]
    )
    outputs = _outputs(experiment, source)
    last = folder / "checkpoints" / "last.ckpt"
    # Deterministic from here on: dropout and the like are seeded anew at every step, but initial weights here.
    network = _network(experiment, input_shape, outputs.n, resuming=last.exists())
    tuned = prepare_for_tuning(
        network,
        experiment.transfer.tune,
        last_blocks=experiment.transfer.last_blocks,
        lora_rank=experiment.transfer.lora_rank,
        lora_alpha=experiment.transfer.lora_alpha,
    )
    if processes > 1 and accelerator == "cuda":
        tuned = convert_sync_batchnorm(
            tuned
        )  # timm's, as torch's would lose the activations of timm's norms
    if settings.channels_last:
        tuned = tuned.to(memory_format=torch.channels_last)
    task = LensTask(
        tuned,
        framing,
        normalize,
        outputs,
        experiment,
        steps_per_epoch=source.steps,
        noise_model=source.noise_model,
        residual=source.residual,
    )
    loggers = make_loggers(settings.loggers, folder, experiment)
    start: dict[str, Any] = {}
    if is_first_process():
        _prepare_folder(folder, experiment)
        start = _pretrained_record(folder, experiment, last.exists())
    if settings.compile:
        tuned.compile()

    def export(trainer: pl.Trainer, epoch: int, metrics: dict[str, float]) -> None:
        if trainer.is_global_zero:
            description = _description(
                experiment, source, framing, normalize, outputs, start, epoch, metrics
            )
            if outputs.targets:
                description["conformal"] = _calibrated(task, source, outputs)
            write_artefact(folder / "artefact", merged_weights(task.best_model), description)

    interruption = Interruption()
    checkpoints = Checkpoints(
        folder / "checkpoints",
        export,
        (task.monitor, task.monitor_mode),
        settings.checkpoint_minutes,
        interruption,
    )
    callbacks: list[pl.Callback] = [
        History(folder / "metrics.csv", source.steps * experiment.data.batch_size),
        checkpoints,
    ]
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
        _announce(experiment, source, tuned, last.exists())

    with (
        _quiet_lightning(),
        _determinism(settings.deterministic),
        interruption.handled(),
        _interrupts(folder, experiment),
    ):
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=settings.nodes,
            strategy=_strategy(experiment),
            max_epochs=experiment.schedule.epochs,
            precision=numbers,  # type: ignore[arg-type]
            gradient_clip_val=experiment.optimizer.clip or None,
            logger=loggers,
            callbacks=callbacks,
            plugins=[SafeCheckpointIO()],
            default_root_dir=str(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # every process takes its share of each batch itself
            reload_dataloaders_every_n_epochs=1,  # every epoch has batches of its own
            log_every_n_steps=50,
        )
        trainer.fit(
            task, datamodule=_Epochs(source), ckpt_path=str(last) if last.exists() else None
        )
    epochs_done = trainer.current_epoch
    summary = {
        "best_epoch": checkpoints.best_epoch,
        "epochs": epochs_done,
        "metrics": checkpoints.best,
    }
    if trainer.is_global_zero:
        shipped = _network(experiment, input_shape, outputs.n, resuming=True)
        _calibrate(
            folder / "artefact", shipped.to(task.device), source, framing, normalize, outputs
        )
        write_text(folder / "finished.json", json.dumps(summary, indent=2) + "\n")
    name, value = task.monitor, checkpoints.best[task.monitor]
    _say(
        experiment, f"best epoch {checkpoints.best_epoch}: {_in_words(name)} {value:.4f}; {folder}"
    )
    return RunResult(folder, checkpoints.best_epoch, epochs_done, checkpoints.best)


class _Epochs(pl.LightningDataModule):
    """Hands Lightning the batches of the epoch that it is about to run, from where the run stands."""

    def __init__(self, source: Feed) -> None:
        super().__init__()
        self.source = source

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        epoch, steps = self.trainer.current_epoch, self.source.steps
        done = (
            self.trainer.global_step - epoch * steps
        )  # more than 0 when an interrupted epoch goes on
        return _RestOfEpoch(self.source, epoch, max(0, done), self._share())

    def val_dataloader(self) -> Any:
        return self.source.validation(self._share())

    def _share(self) -> tuple[int, int]:
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size


class _RestOfEpoch:
    """An epoch's batches from some batch on; its length is the whole epoch's, as Lightning counts on."""

    def __init__(self, source: Feed, epoch: int, done: int, share: tuple[int, int]) -> None:
        self.source, self.arguments = source, (epoch, done, share)

    def __len__(self) -> int:
        return self.source.steps

    def __iter__(self) -> Iterator[Any]:
        # Before Lightning has counted the finished epoch it asks once for what comes after its end: nothing.
        if self.arguments[1] < self.source.steps:
            yield from self.source.epoch(*self.arguments)


def _framing(experiment: Experiment) -> Framing:
    data = experiment.data
    return Framing(data.img_size, data.fit, data.channels, data.crop)


def _outputs(experiment: Experiment, source: Feed) -> Outputs:
    task = experiment.task
    classes = () if task.name == "regression" else source.class_names
    if task.name == "classification":
        return Outputs(classes)
    return Outputs(classes, task.targets, task.loss, task.coverage, Scaling.fit(source.fit.targets))


def _calibrated(task: LensTask, source: Feed, outputs: Outputs) -> dict[str, Any]:
    """Returns what makes the predicted intervals hold the wished share of true values, found on images of its own."""
    device = task.device
    was_training = task.best_model.training
    task.best_model.eval()
    answers, truths = [], []
    with torch.no_grad():
        for batch in source.calibration:
            values = outputs.split(task(batch.images.to(device)).float())[1]
            assert values is not None
            assert outputs.scaling is not None
            answer = predictions(
                values, loss=outputs.loss, scaling=outputs.scaling, coverage=outputs.coverage
            )
            answers.append({name: tensor.cpu() for name, tensor in answer.items()})
            truths.append(batch.targets)
    task.best_model.train(was_training)
    together = {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}
    return Conformal.fit(
        **together, truth=torch.cat(truths), coverage=outputs.coverage, loss=outputs.loss
    ).to_dict()


def _calibrate(
    folder: Path,
    network: nn.Module,
    source: Feed,
    framing: Framing,
    normalize: Normalization,
    outputs: Outputs,
) -> None:
    """Adds to a finished artefact what its answers for the validation images say: a temperature, and what is usual.

    Once, at the end: no epoch is chosen by it. The weights are the artefact's, in the precision in which they will answer.
    """
    from safetensors.torch import load_file

    network.load_state_dict(load_file(folder / "weights.safetensors"))
    network.eval()
    device = next(network.parameters()).device
    with_residual = source.residual is not None
    numbers, labels, seen = [], [], []
    with torch.inference_mode():
        for batch in source.validation((0, 1)):
            images = batch.images.to(device)
            answer, features = numbers_and_features(
                network, network_input(images, framing, normalize, with_residual)
            )
            numbers.append(answer.float().cpu())
            labels.append(batch.labels)
            seen.append(ood_features(framing(images), features, with_residual))
    write_calibration(folder, *calibrated(outputs, torch.cat(numbers), torch.cat(labels), seen))


def _network(
    experiment: Experiment, input_shape: tuple[int, int, int], n_outputs: int, resuming: bool
) -> nn.Module:
    channels, height, width = input_shape
    torch.manual_seed(experiment.trainer.seed)
    return create_model(
        experiment.model.name,
        img_size=height if height == width else (height, width),
        in_chans=channels,
        num_classes=n_outputs,
        pretrained=False
        if resuming
        else experiment.transfer.pretrained,  # a run that goes on has its weights already
        **_model_args(experiment),
    )


def _model_args(experiment: Experiment) -> dict[str, Any]:
    """Returns the network's keywords, with the regularisation's in timm's words."""
    given = experiment.regularization
    words = {
        "drop_rate": given.dropout,
        "attn_drop_rate": given.attention_dropout,
        "drop_path_rate": given.stochastic_depth,
    }
    return {
        **{name: value for name, value in words.items() if value is not None},
        **experiment.model.model_args,
    }


def _prepare_folder(folder: Path, experiment: Experiment) -> None:
    """Makes the run folder, or checks that the one that is there is the beginning of this run."""
    saved = folder / "config.yaml"
    if not saved.exists() or not _saved_anything(folder):
        if (
            not saved.exists()
            and folder.exists()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise InputError(f"{folder}: exists and is not a run folder: choose another out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(saved, experiment.to_yaml())
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
    # One entry per start: a run may go on elsewhere.
    starts = folder / "environment.json"
    before = json.loads(starts.read_text(encoding="utf-8")) if starts.exists() else []
    write_text(starts, json.dumps([*before, _environment()], indent=2) + "\n")


def _environment() -> dict[str, Any]:
    """Returns what a result may depend on besides its configuration."""
    import numpy
    import timm
    import torchvision

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "python": platform.python_version(),
        "packages": {
            module.__name__: module.__version__ for module in (torch, torchvision, timm, pl, numpy)
        },
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if gpus else None,
        "gpus": gpus,
        "command": sys.argv[1:] if Path(sys.argv[0]).stem in ("haloformer", "__main__") else None,
    }


def _saved_anything(folder: Path) -> bool:
    return (folder / "checkpoints" / "last.ckpt").exists() or (folder / "finished.json").exists()


def _finished_result(folder: Path, experiment: Experiment) -> RunResult | None:
    """Returns the result of a finished run; refuses a folder whose run was configured differently."""
    if not (folder / "config.yaml").exists():
        return None
    if (
        not experiment.trainer.resume and is_first_process()
    ):  # which may have made it, for the others, a moment ago
        raise InputError(
            f"{folder}: there is a run already, and resume is false: choose another out"
        )
    if not _saved_anything(folder):
        return None  # a start that failed shall not keep the corrected one from its folder
    if differences := experiment.differences(read_config(folder / "config.yaml")):
        raise InputError(
            f"{folder}: holds a run of another configuration ({'; '.join(differences[:4])}): choose another out, or the same values"
        )
    if not (folder / "finished.json").exists():
        return None
    summary = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    return RunResult(folder, summary["best_epoch"], summary["epochs"], summary["metrics"])


def _pretrained_record(folder: Path, experiment: Experiment, resuming: bool) -> dict[str, Any]:
    """Returns what weights the run started from, as ``pretrained.json`` of the run folder keeps it; empty for none."""
    path = folder / "pretrained.json"
    pretrained = experiment.transfer.pretrained
    if not pretrained:
        return {}
    if resuming:  # the file itself is needed no more
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if isinstance(pretrained, str):
        record: dict[str, Any] = {
            "file": pretrained,
            "sha256": file_sha256(weights_file(pretrained)),
        }
    else:
        record = {"url": weights_url(find_model(experiment.model.name))}
    write_text(path, json.dumps(record, indent=2) + "\n")
    return record


def _description(
    experiment: Experiment,
    source: Feed,
    framing: Framing,
    normalize: Normalization,
    outputs: Outputs,
    start: dict[str, Any],
    epoch: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Returns what ``artefact.json`` says beside its format."""
    channels, height, width = framing.output_shape(source.image_shape)
    seeds = {key: source.facts[key] for key in ("train_seed", "val_seed")}
    name = experiment.model.name
    return {
        "model": {
            "name": name,
            "img_size": height if height == width else [height, width],
            "in_chans": channels,
            "num_classes": outputs.n,
            "kwargs": {
                **find_model(name).kwargs,
                **_model_args(experiment),
            },  # as built, whatever the registry says later
        },
        "class_names": list(outputs.class_names),
        "outputs": outputs.to_dict(),
        "classes": GROUPINGS[experiment.data.classes],
        "framing": framing.to_dict(),
        "normalization": normalize.to_dict(),
        "image_shape": list(source.raw_shape),
        "residual": None if source.residual is None else source.residual.to_dict(),
        "survey": source.facts["survey"],
        "noise": source.facts["noise"],
        "pixel_scale": source.facts["pixel_scale"],
        "training": {
            **{key: value for key, value in experiment.flat().items() if key not in RUN_ONLY},
            "pretrained_weights": start or None,
            **seeds,
            "n_train": source.n_train,
            "n_val": source.n_val,
            "code_version": code_version(),
            "best_epoch": epoch,
            **metrics,
        },
    }


def _accelerator(experiment: Experiment) -> tuple[str, Any]:
    """Translates ``cuda:1`` and the like into Lightning's words."""
    resolved, wanted = resolve_device(experiment.trainer.device), experiment.trainer.devices
    if wanted > 1 and experiment.data.batch_size % (wanted * experiment.trainer.nodes):
        raise InputError(
            f"batch_size {experiment.data.batch_size} cannot be divided among {wanted} devices × {experiment.trainer.nodes} nodes"
        )
    if resolved.index is not None and wanted > 1:
        raise InputError(
            f"device {experiment.trainer.device} names one device, devices says {wanted}: device: cuda"
        )
    if resolved.type == "cuda" and wanted > torch.cuda.device_count():
        raise InputError(f"devices {wanted}: this machine has {torch.cuda.device_count()} GPUs")
    if experiment.trainer.strategy == "fsdp":
        _check_fsdp(experiment, resolved.type)
    return resolved.type, wanted if resolved.index is None else [resolved.index]


def _check_fsdp(experiment: Experiment, accelerator: str) -> None:
    if accelerator != "cuda":
        raise InputError(
            f"strategy fsdp needs CUDA GPUs, and the device is {accelerator}: take ddp"
        )
    if experiment.optimizer.clip:
        raise InputError(
            "strategy fsdp cannot clip gradients by their norm: set clip to 0, or take ddp"
        )


def _strategy(experiment: Experiment) -> str:
    several = experiment.trainer.devices * experiment.trainer.nodes > 1
    if experiment.trainer.strategy != "auto" or not several:
        return experiment.trainer.strategy
    # Some networks have parts that a batch may not use (frozen weights, early exits): these must not be waited for.
    return "ddp_find_unused_parameters_true"


def _precision(precision: str, accelerator: str) -> str:
    names = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    if precision == "auto":
        precision = "bf16" if accelerator == "cuda" and torch.cuda.is_bf16_supported() else "32"
    if precision not in names:
        raise InputError(f"precision must be auto, 32, bf16 or 16, not '{precision}'")
    if precision == "16" and accelerator != "cuda":
        raise InputError("precision '16' needs a CUDA GPU: take auto or 32")
    return names[precision]


def _announce(experiment: Experiment, source: Feed, network: nn.Module, resuming: bool) -> None:
    trainable, everything = (count / 1e6 for count in trainable_parameters(network))
    some = "" if trainable == everything else f", {trainable:.3f} M of them learn"
    default = Experiment().flat()
    changed = {
        key: value
        for key, value in experiment.flat().items()
        if value != default[key] and key != "out"
    }
    settings = ", ".join(f"{key}: {value}" for key, value in changed.items())
    _say(
        experiment,
        f"{settings}; all else by default, as {experiment.trainer.out}/config.yaml says in full",
    )
    _say(
        experiment,
        f"{experiment.model.name} ({everything:.2f} M parameters{some}) on {source.n_train} images"
        f"{' per epoch' if source.n_train == source.steps * experiment.data.batch_size else ''} of {source.image_shape}, "
        f"validated on {source.n_val}",
    )
    if experiment.trainer.devices * experiment.trainer.nodes > 1 and any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
        for module in network.modules()
    ):
        _say(
            experiment,
            "batch norm here sees one process's share of each batch: across processes it needs GPUs",
        )
    if resuming:
        _say(experiment, f"resuming the run in {experiment.trainer.out}")


def _in_words(metric: str) -> str:
    return {"val_macro_auc": "validation macro AUC", "val_mae": "validation MAE"}[metric]


def is_first_process() -> bool:
    """Returns whether this process writes and speaks: the only one, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def _say(experiment: Experiment, text: str) -> None:
    if experiment.trainer.progress and is_first_process():
        print(text, flush=True)


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Turns deterministic algorithms on for a while; Lightning alone would leave them on."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True, warn_only=False)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextlib.contextmanager
def _explained_memory(experiment: Experiment) -> Iterator[None]:
    """Turns the many ways of saying that memory is short into one that says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            words in text
            for words in ("out of memory", "can't allocate memory", "not enough memory")
        )
        if not short:
            raise
        raise InputError(
            f"out of memory with batch_size {experiment.data.batch_size}: a smaller one, a smaller model, or precision: bf16 needs "
            "less; what was saved is kept"
        ) from error


@contextlib.contextmanager
def _interrupts(folder: Path, experiment: Experiment) -> Iterator[None]:
    """Turns Lightning's ``sys.exit(1)`` after an interruption back into what the process was sent."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            saved = (folder / "checkpoints" / "last.ckpt").exists()
            kept = "the run is saved where it stood" if saved else "nothing was saved yet"
            _say(experiment, f"interrupted; {kept}. The same command resumes the run in {folder}")
            if error.__context__.args == (signal.SIGTERM,):
                raise SystemExit(128 + signal.SIGTERM) from None
            raise KeyboardInterrupt from None
        raise
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: then it was never changed
            signal.signal(signal.SIGINT, before)


_NOT_OUR_WARNINGS = (
    ".*does not have many workers.*",  # batches come from memory or from a thread
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*GPU available but not used.*",
    ".*treespec.*",  # Lightning's use of a deprecated part of torch
    ".*your dataloader is not resumable.*",  # it is: it begins where the run stands
    ".*module\\(s\\) in eval mode.*",  # frozen parts
    ".*find_unused_parameters.*",
    ".*recommended to use .*sync_dist=True.*",  # what is logged without is the same in every process
    ".*lr_scheduler.step.*before.*optimizer.step.*",
)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silences Lightning's hints and the warnings that do not apply here."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for message in _NOT_OUR_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
