"""What a training run is told: one flat, typed record that is printed, saved as YAML and compared before a run goes on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from haloformer.errors import InputError

# How and where a run is carried out, not what is learned: free to change when it is resumed, and not in the artefact.
RUN_ONLY = {"out", "resume", "device", "num_workers", "progress"}


@dataclass(frozen=True)
class TrainConfig:
    """The arguments of :func:`haloformer.training.train`, which documents them and holds their defaults."""

    data: str
    model: str
    out: str
    val_data: str | None
    val_size: int
    val_fraction: float
    noise: str
    epochs: int
    epoch_size: int
    batch_size: int
    normalization: str
    augment: str
    lr: float
    weight_decay: float
    warmup: float
    clip: float
    label_smoothing: float
    patience: int
    model_args: dict[str, Any]
    pretrained: bool | str
    seed: int
    precision: str
    device: str
    num_workers: int
    resume: bool
    progress: bool

    def __post_init__(self) -> None:
        """Checks every number's range, so that nothing fails an hour into the training."""
        _require(0 <= self.seed < 2**32, "seed", "a whole number from 0 to 2^32 - 1", self.seed)
        for name in ("epochs", "epoch_size", "batch_size", "val_size"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.batch_size >= 2, "batch_size", "at least 2, as batch norm needs", self.batch_size)
        for name in ("patience", "num_workers"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        _require(0 < self.lr < 100, "lr", "above 0", self.lr)
        _require(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay)
        _require(self.clip >= 0, "clip", "0 (off) or more", self.clip)
        _require(0 <= self.warmup < 1, "warmup", "a share of the training from 0 to below 1", self.warmup)
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "from 0 to below 1", self.label_smoothing)
        _require(0 < self.val_fraction < 1, "val_fraction", "between 0 and 1", self.val_fraction)

    def to_yaml(self) -> str:
        """Returns the YAML that ``haloformer train --config`` takes."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Returns what another run's saved configuration says differently, as ``lr: 0.001 there, 0.002 here``."""
        mine = dataclasses.asdict(self)
        keys = [key for key in mine if key not in RUN_ONLY and mine[key] != other.get(key)]
        return [f"{key}: {other.get(key)!r} there, {mine[key]!r} here" for key in keys]


def read_config(path: Path) -> dict[str, Any]:
    """Returns the configuration that a run folder holds, as plain values."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a training configuration")
    return content


def _require(fine: bool, name: str, wanted: str, value: Any) -> None:
    if not fine:
        raise InputError(f"{name} must be {wanted}, not {value!r}")
