"""What happens around the training steps: the history file, checkpoints, the artefact, progress."""

import contextlib
import csv
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.utilities.types import STEP_OUTPUT

from haloformer.errors import InputError, reason_of
from haloformer.files import check_regular
from haloformer.io.writing import whole_file, write_text
from haloformer.training.examples import Examples

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


_PARTS = {
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
"""What every checkpoint of ours has, and of which type."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are never half-written, and are read without executing what is in them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes beside the file and renames."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's own word for a full disk
            raise InputError(
                f"{path}: cannot be written (is the disk full?): {reason_of(error)}"
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads tensors and plain values, nothing else."""
        check_regular(path)
        try:
            found = torch.load(path, map_location=map_location or "cpu", weights_only=True)
            if not isinstance(found, dict):
                raise ValueError("it is no dictionary")
            for key, kind in _PARTS.items():
                if not isinstance(found[key], kind):
                    raise ValueError(f"its {key} is no {kind.__name__}")
        except MemoryError:
            raise
        except Exception as error:  # what damaged or hostile bytes lead to is of every kind
            raise InputError(
                f"{path}: cannot be read as a checkpoint ({reason_of(error)}); without this file the run starts anew"
            ) from error
        checkpoint: dict[str, Any] = found
        return checkpoint


class Interruption:
    """Remembers that the process was asked to stop, to do so where its state can be saved."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Listens for SIGINT and SIGTERM.

        A second SIGINT ends the process at once, as without us.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may listen
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def remember(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        for number in before:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Ends the training if that was asked for."""
        if self.signal is not None:
            raise KeyboardInterrupt(self.signal)


class Checkpoints(pl.callbacks.Checkpoint):
    """After every epoch: ``best.ckpt`` and the artefact if validation improved, then ``last.ckpt``.

    In between, ``last.ckpt`` alone.

    Lightning's own callback ties its memory to an absolute path, so a moved run folder would forget
    its best score.

    Attributes:
        begun: Whether the training has, from a checkpoint or anew.
        stopped: Whether the last epoch ended the run before its time.
    """

    _ASK_EVERY = 20  # steps; several processes must agree on saving, which costs a message

    def __init__(
        self,
        folder: Path,
        export: Callable[[pl.Trainer, int, dict[str, float]], None],
        monitor: tuple[str, str],
        minutes: float,
        interruption: Interruption,
    ) -> None:
        """Prepares the callback.

        Args:
            folder: Where the checkpoints go.
            export: Writes the artefact; called with the trainer, the epoch (from 1) and that
                epoch's metrics.
            monitor: The metric that says what is best, and ``max`` or ``min``.
            minutes: Time between two saves within an epoch.
            interruption: Says that the process was asked to stop.
        """
        self.folder, self.export, self.interruption = folder, export, interruption
        self.metric, self.sign = monitor[0], 1.0 if monitor[1] == "max" else -1.0
        self.seconds = 60 * minutes
        self.best_epoch = 0
        self.best: dict[str, float] = {}
        self.begun = False
        self.stopped = False
        self._saved_at = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets a run that had been stopped before it was interrupted train no further: Lightning forgets that."""
        trainer.should_stop = self.stopped

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; all that is restored has been, for this callback is asked last."""
        self.begun = True
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Examples,
        batch_idx: int,
    ) -> None:
        """Saves within an epoch, but for its last step.

        What comes then (validation, the choice of the best) saves by itself.
        """
        if batch_idx + 1 == trainer.num_training_batches:
            return
        stop, due = (
            self.interruption.signal is not None,
            time.monotonic() - self._saved_at >= self.seconds,
        )
        if trainer.world_size > 1:
            if (batch_idx + 1) % self._ASK_EVERY:
                return
            stop, due = (
                trainer.strategy.reduce_boolean_decision(wish, all=False) for wish in (stop, due)
            )
        if stop or due:
            self._save_last(trainer, pl_module)
        if stop:
            raise KeyboardInterrupt(self.interruption.signal or signal.SIGTERM)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning calls checkpoint callbacks last, so all other state is up to date."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if math.isnan(metrics[self.metric]):
            raise InputError(
                f"training stopped: {self.metric} of epoch {trainer.current_epoch + 1} is not a number; a smaller lr or "
                "another normalization should help"
            )
        if not self.best or self._quality(metrics) > self._quality(self.best):
            self.best_epoch, self.best = trainer.current_epoch + 1, metrics
            self.export(trainer, self.best_epoch, metrics)
            trainer.save_checkpoint(self.folder / "best.ckpt")
        self.stopped = trainer.should_stop
        self._save_last(trainer, pl_module)
        self.interruption.stop()

    def _quality(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Returns what is the larger the better: the metric, and the loss where two epochs have the same, as an AUC of 1."""
        return self.sign * metrics[self.metric], -metrics.get("val_loss", 0.0)

    def _save_last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A step may have spoilt the weights without the loss having shown it yet: the last good
        # state must outlive that.
        if all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            trainer.save_checkpoint(self.folder / "last.ckpt")
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Returns what resuming needs."""
        return {"best_epoch": self.best_epoch, "best": self.best, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        self.best_epoch, self.best = state_dict["best_epoch"], state_dict["best"]
        self.stopped = state_dict.get("stopped", False)  # earlier versions kept none


class EpochHook(pl.Callback):
    """Gives every epoch's metrics to a function, which may end the run."""

    def __init__(self, on_epoch: Callable[[int, dict[str, float]], bool]) -> None:
        self.on_epoch = on_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calls the function."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.on_epoch(trainer.current_epoch + 1, metrics):
            trainer.should_stop = True


class History(pl.Callback):
    """One row per epoch in ``metrics.csv``, which keeps its rows when a run is resumed."""

    def __init__(self, path: Path, images_per_epoch: int) -> None:
        self.path, self.images_per_epoch = path, images_per_epoch
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over the rows of the epochs that are not going to be repeated."""
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                self.rows = [
                    row
                    for row in csv.DictReader(file)
                    if int(row["epoch"]) <= trainer.current_epoch
                ]
        self.on_train_epoch_start(
            trainer, pl_module
        )  # which an interrupted epoch that goes on does not call

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock: the speed is that of training alone."""
        self._train_seconds = time.monotonic() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the file anew with this epoch's row."""
        row: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        row |= {name: f"{float(value):.6g}" for name, value in trainer.callback_metrics.items()}
        images = (
            self.images_per_epoch
            * (trainer.global_step - self._first_step)
            / trainer.num_training_batches
        )
        row["images_per_second"] = f"{images / max(1e-9, self._train_seconds):.1f}"
        row["seconds"] = f"{time.monotonic() - self._started:.2f}"
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(
            text, fieldnames=list(row), extrasaction="ignore", restval="", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


class Progress(pl.Callback):
    """A bar over the steps of the whole training, and a line per epoch that stays.

    Where there is no terminal, and so no bar, a line after the first steps says how long it takes.
    """

    _TELL_AFTER = 20  # steps: the first ones are slower

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._loss = float("nan")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar where the run stands."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        text = "{task.description}"
        status = TextColumn("{task.fields[status]}")
        self._bar = RichProgress(
            TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), status
        )
        total = (trainer.max_epochs or 1) * trainer.num_training_batches
        self._task = self._bar.add_task(
            "training", total=total, completed=trainer.global_step, status=""
        )
        self._seen, self._batches, self._clock = 0, 0, time.monotonic()
        self._told = self._bar.console.is_terminal
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Examples,
        batch_idx: int,
    ) -> None:
        """Moves the bar; the loss is a running mean, read seldom as it makes a GPU wait."""
        assert self._bar is not None
        assert self._task is not None
        self._seen += len(batch.labels)
        self._batches += 1
        if batch_idx % 10 == 0:
            loss = float(outputs["loss"])  # type: ignore[index]  # a mapping, of ours
            self._loss = loss if math.isnan(self._loss) else 0.9 * self._loss + 0.1 * loss
            now = time.monotonic()
            status = (
                f"loss {self._loss:.3f}  {self._seen / max(1e-9, now - self._clock):.0f} images/s"
            )
            self._bar.update(self._task, status=status)
            self._bar.update(
                self._task, description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            )
        self._bar.update(self._task, completed=trainer.global_step)
        if not self._told and batch_idx >= self._TELL_AFTER:
            self._told = True
            self._bar.console.print(self._left(trainer, batch_idx), highlight=False, soft_wrap=True)

    def _left(self, trainer: pl.Trainer, batch_idx: int) -> str:
        """Says how fast the training is, and what is left of it."""
        speed = self._seen / max(1e-9, time.monotonic() - self._clock)
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch
        batches = epochs * int(trainer.num_training_batches) - batch_idx - 1
        images = batches * self._seen / self._batches
        return (
            f"training: {speed:.0f} images/s, about {time_in_words(images / speed)} for "
            f"{epochs} epoch{'s' if epochs > 1 else ''}; a line after each"
        )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the speed before validation."""
        self._speed = self._seen / max(1e-9, time.monotonic() - self._clock)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the epoch's line."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert self._bar is not None
        self._bar.console.print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {metrics['train_loss']:.3f}  {_quality(metrics)}  "
            f"{self._speed:.0f} images/s",
            highlight=False,
            soft_wrap=True,  # one line, whatever the terminal's width
        )
        self._seen, self._batches, self._clock = 0, 0, time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def time_in_words(seconds: float) -> str:
    """Returns a time to two digits or so: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _quality(metrics: dict[str, float]) -> str:
    """The validation metrics of an epoch, in one line."""
    parts = []
    if "val_macro_auc" in metrics:
        aucs = {
            k.removeprefix("val_auc_"): v for k, v in metrics.items() if k.startswith("val_auc_")
        }
        classes = ", ".join(f"{name} {value:.4f}" for name, value in aucs.items())
        parts += [
            f"val AUC {metrics['val_macro_auc']:.4f} ({classes})",
            f"acc {metrics['val_accuracy']:.3f}",
        ]
    maes = {k.removeprefix("val_mae_"): v for k, v in metrics.items() if k.startswith("val_mae_")}
    parts += [f"val MAE {name} {value:.4f}" for name, value in maes.items()]
    return "  ".join(parts)
