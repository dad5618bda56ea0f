"""The run folder: the files of a training run, and whether the run can be continued."""

import contextlib
import datetime
import errno
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch

from haloformer._version import code_version
from haloformer.artefact.read import weights_description
from haloformer.errors import InputError, reason_of
from haloformer.io.locks import LOCK, one_process_only
from haloformer.io.strict_json import read_any_json, read_json
from haloformer.io.writing import check_parents, file_sha256, write_text
from haloformer.models import find_model
from haloformer.models.weights import weights_file, weights_url
from haloformer.reporting.tabular import Column, Tabular
from haloformer.training.config import Experiment, read_config
from haloformer.training.console import is_first_process
from haloformer.validation import Strict, WholeNumber, validated

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunResult(Tabular):
    """Result of a training run; its table has a row for each epoch.

    Attributes:
        out: The run folder.
        best_epoch: The epoch (from 1) whose weights are in the artefact.
        epochs: Epochs done; fewer than asked for after early stopping.
        metrics: The best epoch's ``val_macro_auc``, ``val_auc_CLASS``, ``val_accuracy``,
            ``val_loss``, ``train_loss``; of a regression ``val_mae``, ``val_mae_TARGET``,
            ``val_rmse_TARGET``.
    """

    out: Path
    best_epoch: int
    epochs: int
    metrics: dict[str, float]

    def columns(self) -> list[Column]:
        """Returns what was logged: epoch, losses, quality; none if the folder is gone."""
        from haloformer.reporting.learning import learning_log

        log = learning_log(RunFolder(self.out).metrics)
        epochs = sorted({float(epoch) for found, _ in log.values() for epoch in found})
        found = [Column("epoch", np.array(epochs, dtype=int))] if epochs else []
        for name, (at, values) in log.items():
            known = dict(zip(at.tolist(), values.tolist()))
            column = np.array([known.get(epoch, np.nan) for epoch in epochs])
            found.append(Column(name, column, "dex" if name.startswith("val_mae_") else ""))
        return found

    def provenance(self) -> dict[str, Any]:
        """Returns data, network, seed and code version of the run."""
        config = RunFolder(self.out).config
        told = read_config(config).flat() if config.exists() else {}
        names = ("data", "model", "seed", "noise", "epochs", "batch_size", "lr")
        return {
            "run": str(self.out),
            **{name: told.get(name) for name in names},
            "best_epoch": self.best_epoch,
            "code_version": code_version(),
        }

    def summary(self) -> str:
        """Returns the best epoch and its quality, in one line."""
        told = [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        return f"{self.out}: best epoch {self.best_epoch} of {self.epochs}: {', '.join(told)}"

    def plot(self) -> "Figure":
        """Draws losses and quality against the epoch.

        Raises:
            InputError: The run folder is gone.
        """
        from haloformer.reporting.learning import learning_curves, learning_log

        log = learning_log(RunFolder(self.out).metrics)
        if not log:
            raise InputError(f"{RunFolder(self.out).metrics}: holds no epochs to draw")
        return learning_curves(log, self.best_epoch)

    def picture(self) -> "Figure | None":
        """Returns the learning curves, while the run folder is there."""
        return self.plot() if RunFolder(self.out).metrics.exists() else None


class _Summary(Strict, allow_inf_nan=True):
    """What ``finished.json`` holds."""

    best_epoch: WholeNumber
    epochs: WholeNumber
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The experiment, in full."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Where an interrupted run goes on."""
        return self.checkpoints / "last.ckpt"

    @property
    def artefact(self) -> Path:
        """The folder of what ships."""
        return self.path / "artefact"

    @property
    def finished(self) -> Path:
        """Summary, written when the run is complete."""
        return self.path / "finished.json"

    @property
    def environment(self) -> Path:
        """Machine and packages, an entry per start."""
        return self.path / "environment.json"

    @property
    def pretrained(self) -> Path:
        """The weights that the run started from."""
        return self.path / "pretrained.json"

    @property
    def data(self) -> Path:
        """What the images of the run are known by."""
        return self.path / "data.json"

    @property
    def can_resume(self) -> bool:
        """Whether there is a state to go on from."""
        return self.last_checkpoint.exists()

    @property
    def holds_results(self) -> bool:
        """Whether a run has saved anything in it; a start that failed has not."""
        return self.can_resume or self.finished.exists()

    def result(self, experiment: Experiment) -> RunResult | None:
        """Returns the result of a finished run, None if there is none.

        Raises:
            InputError: The folder holds a run of another configuration, or ``resume`` is false.
        """
        if not self.config.exists():
            return None
        # Only the first process: it may have made the folder, for the others, a moment ago.
        if not experiment.trainer.resume and is_first_process():
            raise InputError(
                f"{self.path}: there is a run already, and resume is false: choose another out"
            )
        if not self.holds_results:
            return None  # a failed start must not keep the corrected one from its folder
        if differences := experiment.differences(read_config(self.config)):
            raise InputError(
                f"{self.path}: holds a run of another configuration "
                f"({'; '.join(differences[:4])}): choose another out, or the same values"
            )
        if not self.finished.exists():
            return None
        found = validated(_Summary, read_json(self.finished), str(self.finished))
        return RunResult(self.path, found.best_epoch, found.epochs, found.metrics)

    def check(self) -> None:
        """Refuses a path that holds something else than a run; writes nothing.

        Raises:
            InputError: Says so.
        """
        path = self.path
        check_parents(path)
        if (
            not self.config.exists()
            and path.exists()
            and (not path.is_dir() or any(each.name != LOCK for each in path.iterdir()))
        ):
            raise InputError(f"{path}: exists and is not a run folder: choose another out")

    def begin(self, experiment: Experiment) -> None:
        """Makes the folder, or checks that it holds the beginning of this run.

        Raises:
            InputError: The folder is something else, or cannot be written.
        """
        path, is_run = self.path, self.config.exists()
        self.check()
        if not (is_run and self.holds_results):
            try:
                path.mkdir(parents=True, exist_ok=True)
                write_text(self.config, experiment.to_yaml())
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                raise InputError(f"{path}: cannot be written: {reason_of(error)}") from error
        # One entry per start: a run may go on elsewhere.
        file = self.environment
        before = read_any_json(file) if file.exists() else []
        if not isinstance(before, list):
            raise InputError(f"{file}: must be a JSON list, an entry per start; delete it to go on")
        write_text(file, json.dumps([*before, _environment()], indent=2) + "\n")

    def one_process_only(self) -> contextlib.AbstractContextManager[None]:
        """Keeps a second process off the folder, whose checkpoints and metrics would be mixed with those of the first; raises InputError."""
        return one_process_only(
            self.path, "another process trains in it: wait until that ends, or choose another out"
        )

    def check_free(self) -> None:
        """Raises InputError if another process trains in the folder."""
        if (self.path / LOCK).exists():
            with self.one_process_only():
                pass

    def check_data(self, digest: str | None) -> None:
        """Raises InputError if a run that goes on would do so with other images than it began with.

        Args:
            digest: Of the dataset files, or the survey of one's own, that the images come from; None: there are none.
        """
        if digest is None or not (self.can_resume and self.data.exists()):
            return
        if read_json(self.data).get("digest") != digest:
            raise InputError(
                f"{self.path}: the run began with other images: a file that they come from has changed since; choose another out"
            )

    def record_data(self, digest: str | None) -> None:
        """Writes what the files that images come from are known by, once."""
        if digest is not None and not self.data.exists():
            write_text(self.data, json.dumps({"digest": digest}) + "\n")

    def record_pretrained(self, experiment: Experiment) -> dict[str, Any]:
        """Writes to ``pretrained.json`` which weights the run starts from, and returns it.

        Of weights that come from an artefact it tells which images these have seen. Empty for none.
        A run that goes on reads what was written: the weights' file may be gone.
        """
        pretrained = experiment.transfer.pretrained
        if not pretrained:
            return {}
        record: dict[str, Any]
        if self.can_resume:
            return read_json(self.pretrained) if self.pretrained.exists() else {}
        if isinstance(pretrained, str):
            record = {"file": pretrained, "sha256": file_sha256(weights_file(pretrained))}
            if described := weights_description(pretrained):
                record["trainings"] = _trainings(described)
        else:
            record = {"url": weights_url(find_model(experiment.model.name))}
        write_text(self.pretrained, json.dumps(record, indent=2) + "\n")
        return record

    def finish(self, result: RunResult) -> None:
        """Writes the summary that marks the run as complete."""
        summary = {
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
            "metrics": result.metrics,
        }
        write_text(self.finished, json.dumps(summary, indent=2) + "\n")


def _trainings(described: Mapping[str, Any]) -> list[Any]:
    """Returns what trainings saw of which the weights of an artefact come, its own first."""
    told = described.get("training")
    training = told if isinstance(told, dict) else {}
    own = {key: training.get(key) for key in ("data", "val_data", "train_seed", "val_seed")}
    weights = training.get("pretrained_weights")
    before = weights.get("trainings") if isinstance(weights, dict) else None
    own = {"survey": described.get("survey"), **own}
    return [own, *(before if isinstance(before, list) else [])]


def _environment() -> dict[str, object]:
    """Returns what a result may depend on besides its configuration."""
    import numpy
    import timm
    import torchvision

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = (torch, torchvision, timm, pl, numpy)
    ours = Path(sys.argv[0]).stem in ("haloformer", "__main__")
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "python": platform.python_version(),
        "packages": {package.__name__: package.__version__ for package in packages},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if gpus else None,
        "gpus": gpus,
        "command": sys.argv[1:] if ours else None,
    }
