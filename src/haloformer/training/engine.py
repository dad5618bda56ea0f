"""`train`: from data and a few numbers to a run folder with everything that one training leaves behind."""

import contextlib
import dataclasses
import json
import logging
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from haloformer._version import code_version
from haloformer.data.augment import check_augmentation
from haloformer.data.normalization import Normalization
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.models import create_model, find_model
from haloformer.models.weights import weights_url
from haloformer.training.artefact import file_sha256, write_artefact, write_text
from haloformer.training.callbacks import Checkpoints, History, Progress, SafeCheckpointIO
from haloformer.training.config import RUN_ONLY, TrainConfig, read_config
from haloformer.training.sources import Source, open_source
from haloformer.training.tasks import ClassificationTask


@dataclass(frozen=True)
class RunResult:
    """What a training came to.

    Attributes:
        out: The run folder.
        best_epoch: The epoch (from 1) whose weights are in the artefact.
        epochs: Epochs done; fewer than asked for after early stopping.
        metrics: The best epoch's ``val_macro_auc``, ``val_auc_CLASS``, ``val_accuracy``, ``val_loss``, ``train_loss``.
    """

    out: Path
    best_epoch: int
    epochs: int
    metrics: dict[str, float]


def train(
    data: str,
    model: str = "hybrid_nano",
    out: str = "runs/latest",
    *,
    val_data: str | None = None,
    val_size: int = 1500,
    val_fraction: float = 0.1,
    noise: Literal["original", "instrument", "none"] = "original",
    epochs: int = 10,
    epoch_size: int = 6000,
    batch_size: int = 64,
    normalization: str = "sqrt",
    augment: Literal["d4", "flips", "none"] = "d4",
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    clip: float = 1.0,
    label_smoothing: float = 0.0,
    patience: int = 20,
    model_args: dict[str, Any] | None = None,
    pretrained: bool | str = False,
    seed: int = 0,
    precision: Literal["auto", "32", "bf16", "16"] = "auto",
    device: str = "auto",
    num_workers: int = 2,
    resume: bool = True,
    progress: bool = True,
) -> RunResult:
    """Trains a classifier and leaves a run folder: configuration, metrics, checkpoints and the artefact for prediction.

    Calling it again with the same arguments continues an interrupted run from its last finished epoch and gives the same
    weights as if it had never been interrupted (on a CPU, bit for bit). A test set is never touched.

    Args:
        data: What to train on: a dataset file (train.h5), or a survey (model_ii, or a YAML file of your own) whose
            images are simulated as they are needed, each seen once.
        model: Name of the network; `haloformer models` lists them, and any timm name works.
        out: The run folder to write, or to continue.
        val_data: A dataset file to validate on, with the classes and shape of the training images. Without it, a share
            of the data file or freshly simulated images serve.
        val_size: Validation images to simulate, for a survey.
        val_fraction: Share of a dataset file's images kept for validation, the same share of every class.
        noise: Noise of simulated images: as the survey was released, the instrument's own, or none.
        epochs: Passes over a dataset file, or blocks of epoch_size simulated images. Each ends with a validation.
        epoch_size: Simulated images per epoch. Of no effect for a dataset file, all of which is used.
        batch_size: Images per optimiser step.
        normalization: How pixel values become network input; fitted on training images and stored with the model.
            Kinds: standard, sqrt, asinh, asinh_faint (for images
            with little noise), image_standard, image_max, image_minmax, none.
        augment: Random transforms of training images: d4 (the eight quarter turns and mirrors of a square), flips
            (those that keep a rectangle's shape), or none.
        lr: Peak learning rate of AdamW. If the loss stays near ln(classes) or becomes NaN, try a third of it.
        weight_decay: Pull of the weights towards zero; not applied to norms, biases and position embeddings.
        warmup: Share of all steps over which the learning rate rises; then it falls along a cosine.
        clip: Largest norm of a step's gradient; 0 turns clipping off.
        label_smoothing: Share of each label spread over all classes.
        patience: Stop after so many epochs without a better validation macro AUC; 0 never stops early.
        model_args: More keywords for the network, such as {depth: 6, drop_path_rate: 0.1}.
        pretrained: Start from weights that are there already: true for ImageNet's, which timm downloads, or a file
            (.safetensors, .pth, .pt, .bin, .tar) of the official code, of timm, or of another run's artefact. It is
            read when the run begins, not when it goes on.
        seed: Of initial weights, image order, transforms, and simulated images.
        precision: auto takes bf16 mixed precision on GPUs that have it, otherwise 32 bits.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
        num_workers: Processes that read a dataset file too large for memory.
        resume: Continue a run found in out; if false, such a folder is an error.
        progress: Show a progress bar and a line per epoch.

    Returns:
        The best epoch and its validation metrics.

    Raises:
        InputError: Unusable data, an unknown name, a value out of range, a run folder of another configuration, or a
            loss that became NaN.
        KeyboardInterrupt: Ctrl-C; everything up to the last finished epoch is kept.
    """
    arguments = dict(locals())
    given = {"data": str(data), "out": str(out), "model_args": dict(model_args or {})}
    if not isinstance(pretrained, bool):
        given["pretrained"] = str(pretrained)
    config = TrainConfig(**{**arguments, **given})
    folder = Path(out)
    if (result := _finished_result(folder, config)) is not None:
        _say(
            config, f"{folder}: this run is finished (best epoch {result.best_epoch}); choose another out to train anew"
        )
        return result
    accelerator, devices = _accelerator(config.device)
    numbers = _precision(config.precision, accelerator)

    source = open_source(config)
    check_augmentation(config.augment, source.image_shape)
    normalize = Normalization(config.normalization).fit(source.fit_images)
    last = folder / "checkpoints" / "last.ckpt"
    network = _network(config, source, resuming=last.exists())
    task = ClassificationTask(
        network,
        normalize,
        source.class_names,
        augment=config.augment,
        lr=config.lr,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        label_smoothing=config.label_smoothing,
        total_steps=config.epochs * source.steps,
        seed=config.seed,
    )
    _prepare_folder(folder, config)
    start = _pretrained_record(folder, config, last.exists())

    def export(trainer: pl.Trainer, epoch: int, metrics: dict[str, float]) -> None:
        write_artefact(folder / "artefact", network, _description(config, source, normalize, start, epoch, metrics))

    checkpoints = Checkpoints(folder / "checkpoints", export)
    callbacks: list[pl.Callback] = [History(folder / "metrics.csv", source.steps * config.batch_size), checkpoints]
    if config.patience:
        callbacks.append(EarlyStopping("val_macro_auc", mode="max", patience=config.patience, min_delta=0.0))
    if config.progress:
        callbacks.append(Progress())
    if config.progress:
        _announce(config, source, network, last.exists())

    with _quiet_lightning(), _keyboard_interrupt(folder, config):
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            max_epochs=config.epochs,
            precision=numbers,  # type: ignore[arg-type]
            gradient_clip_val=config.clip or None,
            logger=_logger(folder),
            callbacks=callbacks,
            plugins=[SafeCheckpointIO()],
            default_root_dir=str(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,  # every epoch has batches of its own
            log_every_n_steps=50,
        )
        trainer.fit(task, datamodule=_Epochs(source), ckpt_path=str(last) if last.exists() else None)
    epochs_done = trainer.current_epoch
    summary = {"best_epoch": checkpoints.best_epoch, "epochs": epochs_done, "metrics": checkpoints.best}
    write_text(folder / "finished.json", json.dumps(summary, indent=2) + "\n")
    _say(
        config,
        f"best epoch {checkpoints.best_epoch}: validation macro AUC {checkpoints.best['val_macro_auc']:.4f}; {folder}",
    )
    return RunResult(folder, checkpoints.best_epoch, epochs_done, checkpoints.best)


class _Epochs(pl.LightningDataModule):
    """Hands Lightning the batches of the epoch that it is about to run."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return self.source.epoch(self.trainer.current_epoch)

    def val_dataloader(self) -> Any:
        return self.source.validation


def _logger(folder: Path) -> TensorBoardLogger | bool:
    """TensorBoard's log where TensorBoard is installed; ``metrics.csv`` is written anyway."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    return TensorBoardLogger(str(folder), name="tensorboard", version="")


def _network(config: TrainConfig, source: Source, resuming: bool) -> nn.Module:
    channels, height, width = source.image_shape
    torch.manual_seed(config.seed)
    return create_model(
        config.model,
        img_size=height if height == width else (height, width),
        in_chans=channels,
        num_classes=len(source.class_names),
        pretrained=False if resuming else config.pretrained,  # a run that goes on has its weights already
        **config.model_args,
    )


def _prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Makes the run folder, or checks that the one that is there is the beginning of this run."""
    saved = folder / "config.yaml"
    if saved.exists():
        if not config.resume:
            raise InputError(f"{folder}: there is a run already, and resume is false: choose another out")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not a run folder: choose another out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(saved, config.to_yaml())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error


def _finished_result(folder: Path, config: TrainConfig) -> RunResult | None:
    """Returns the result of a finished run; refuses a folder whose run was configured differently."""
    if not (folder / "config.yaml").exists():
        return None
    if not config.resume:
        raise InputError(f"{folder}: there is a run already, and resume is false: choose another out")
    if differences := config.differences(read_config(folder / "config.yaml")):
        raise InputError(
            f"{folder}: holds a run of another configuration ({'; '.join(differences[:4])}): choose another out, or the same values"
        )
    if not (folder / "finished.json").exists():
        return None
    summary = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    return RunResult(folder, summary["best_epoch"], summary["epochs"], summary["metrics"])


def _pretrained_record(folder: Path, config: TrainConfig, resuming: bool) -> dict[str, Any]:
    """Returns what weights the run started from, as ``pretrained.json`` of the run folder keeps it; empty for none."""
    path = folder / "pretrained.json"
    if not config.pretrained:
        return {}
    if resuming:  # the file itself is needed no more
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if isinstance(config.pretrained, str):
        record: dict[str, Any] = {"file": config.pretrained, "sha256": file_sha256(Path(config.pretrained))}
    else:
        record = {"url": weights_url(find_model(config.model))}
    write_text(path, json.dumps(record, indent=2) + "\n")
    return record


def _description(
    config: TrainConfig,
    source: Source,
    normalize: Normalization,
    start: dict[str, Any],
    epoch: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Returns what ``artefact.json`` says beside its format."""
    channels, height, width = source.image_shape
    seeds = {key: source.facts[key] for key in ("train_seed", "val_seed")}
    return {
        "model": {
            "name": config.model,
            "img_size": height if height == width else [height, width],
            "in_chans": channels,
            "num_classes": len(source.class_names),
            "kwargs": {
                **find_model(config.model).kwargs,
                **config.model_args,
            },  # as built, whatever the registry says later
        },
        "class_names": list(source.class_names),
        "normalization": normalize.to_dict(),
        "image_shape": list(source.image_shape),
        "survey": source.facts["survey"],
        "noise": source.facts["noise"],
        "pixel_scale": source.facts["pixel_scale"],
        "training": {
            **{key: value for key, value in dataclasses.asdict(config).items() if key not in RUN_ONLY},
            "pretrained_weights": start or None,
            **seeds,
            "n_train": source.n_train,
            "n_val": source.n_val,
            "code_version": code_version(),
            "best_epoch": epoch,
            **metrics,
        },
    }


def _accelerator(device: str) -> tuple[str, Any]:
    """Translates ``cuda:1`` and the like into Lightning's words."""
    resolved = resolve_device(device)
    return resolved.type, 1 if resolved.index is None else [resolved.index]


def _precision(precision: str, accelerator: str) -> str:
    names = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    if precision == "auto":
        precision = "bf16" if accelerator == "cuda" and torch.cuda.is_bf16_supported() else "32"
    if precision not in names:
        raise InputError(f"precision must be auto, 32, bf16 or 16, not '{precision}'")
    if precision == "16" and accelerator != "cuda":
        raise InputError("precision '16' needs a CUDA GPU: take auto or 32")
    return names[precision]


def _announce(config: TrainConfig, source: Source, network: nn.Module, resuming: bool) -> None:
    million = sum(p.numel() for p in network.parameters()) / 1e6
    _say(config, config.to_yaml().rstrip())
    _say(
        config,
        f"{config.model} ({million:.2f} M parameters) on {source.n_train} images"
        f"{' per epoch' if source.facts['val_seed'] is not None else ''} of {source.image_shape}, validated on {source.n_val}",
    )
    if resuming:
        _say(config, f"resuming the run in {config.out}")


def _say(config: TrainConfig, text: str) -> None:
    if config.progress:
        print(text, flush=True)


@contextlib.contextmanager
def _keyboard_interrupt(folder: Path, config: TrainConfig) -> Iterator[None]:
    """Turns Lightning's ``sys.exit(1)`` after Ctrl-C back into the interrupt, and SIGINT's handler into what it was."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            kept = (
                "the last finished epoch is kept"
                if (folder / "checkpoints" / "last.ckpt").exists()
                else "no epoch was finished"
            )
            _say(config, f"interrupted; {kept}. The same command resumes the run in {folder}")
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
