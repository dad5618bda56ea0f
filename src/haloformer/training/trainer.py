"""Lightning's trainer as we use it: devices, precision, interruptions, and what it prints."""

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from haloformer.errors import InputError
from haloformer.training.callbacks import Interruption, SafeCheckpointIO
from haloformer.training.config import Experiment
from haloformer.training.console import say
from haloformer.training.hardware import Hardware
from haloformer.training.run_folder import RunFolder


def make_trainer(
    experiment: Experiment,
    hardware: Hardware,
    folder: RunFolder,
    loggers: list[Logger],
    callbacks: list[pl.Callback],
) -> pl.Trainer:
    """Returns the trainer of a run; best inside :func:`lightning_session`."""
    settings = experiment.trainer
    return pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=settings.nodes,
        strategy=_strategy(experiment),
        max_epochs=experiment.schedule.epochs,
        precision=hardware.precision,
        gradient_clip_val=experiment.optimizer.clip or None,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[SafeCheckpointIO()],
        default_root_dir=str(folder.path),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # every process takes its share of each batch itself
        reload_dataloaders_every_n_epochs=1,  # every epoch has batches of its own
        log_every_n_steps=50,
    )


@contextlib.contextmanager
def lightning_session(
    experiment: Experiment, folder: RunFolder, interruption: Interruption
) -> Iterator[None]:
    """Prepares a process for Lightning: fewer warnings, determinism, signals that save the run."""
    with (
        _quiet_lightning(),
        _determinism(experiment.trainer.deterministic),
        interruption.handled(),
        _explained_interruption(experiment, folder),
    ):
        yield


@contextlib.contextmanager
def explained_memory(experiment: Experiment) -> Iterator[None]:
    """Turns the many ways of saying that memory is short into one line that says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        phrases = ("out of memory", "can't allocate memory", "not enough memory")
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(phrase in text for phrase in phrases):
            raise
        raise InputError(
            f"out of memory with batch_size {experiment.data.batch_size}: a smaller one, a smaller "
            "model, or precision: bf16 needs less; what was saved is kept"
        ) from error


def _strategy(experiment: Experiment) -> str:
    settings = experiment.trainer
    if settings.strategy != "auto" or settings.devices * settings.nodes == 1:
        return settings.strategy
    # Some networks have parts that a batch may not use (frozen weights, early exits): these must
    # not be waited for.
    return "ddp_find_unused_parameters_true"


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
def _explained_interruption(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Turns Lightning's ``sys.exit(1)`` after an interruption back into the signal's exception."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            kept = (
                "the run is saved where it stood" if folder.can_resume else "nothing was saved yet"
            )
            say(
                experiment,
                f"interrupted; {kept}. The same command resumes the run in {folder.path}",
            )
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
    ".*recommended to use .*sync_dist=True.*",  # logged without: the same in every process
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
