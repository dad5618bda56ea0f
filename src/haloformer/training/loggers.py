"""Where a run is logged besides its own ``metrics.csv``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from haloformer.errors import InputError
from haloformer.training.config import Experiment
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

LOGGERS = {
    "tensorboard": "event files in the run folder; left out where TensorBoard is not installed",
    "wandb": "Weights & Biases; offline unless WANDB_API_KEY is set, so it never asks for a login",
    "mlflow": "MLflow; into the run folder unless MLFLOW_TRACKING_URI is set",
}
"""The loggers, each with what it does."""


def make_loggers(names: tuple[str, ...], folder: Path, experiment: Experiment) -> "list[Logger]":
    """Returns Lightning's loggers of these names.

    Raises:
        InputError: An unknown name, or one whose package is not installed.
    """
    made = (_make(name, folder, experiment) for name in names)
    return [logger for logger in made if logger is not None]


def _make(name: str, folder: Path, experiment: Experiment) -> "Logger | None":
    if name not in LOGGERS:
        raise unknown_name("logger", name, LOGGERS)
    if name == "tensorboard":
        try:
            import tensorboard  # noqa: F401  - only whether it is there
        except ImportError:
            return None  # metrics.csv is written anyway
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(str(folder), name="tensorboard", version="")
    try:
        if name == "wandb":
            from pytorch_lightning.loggers import WandbLogger

            offline = "WANDB_API_KEY" not in os.environ
            return WandbLogger(
                name=folder.name,
                save_dir=str(folder),
                project="haloformer",
                offline=offline,
                config=experiment.flat(),
            )
        from pytorch_lightning.loggers import MLFlowLogger

        where = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow").resolve().as_uri()
        return MLFlowLogger(experiment_name="haloformer", run_name=folder.name, tracking_uri=where)
    except ModuleNotFoundError as error:
        raise InputError(
            f"logger '{name}' is not installed: pip install {name}, or leave it out of loggers"
        ) from error
