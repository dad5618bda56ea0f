"""What a training run computes on."""

from dataclasses import dataclass
from typing import Literal

import torch

from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.training.config import Experiment

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Hardware:
    """What a run computes on, in Lightning's words.

    Attributes:
        accelerator: ``cpu``, ``cuda``, …
        devices: How many devices, or the index of the one.
        precision: Of the numbers.
        reason: Why this precision.
    """

    accelerator: str
    devices: int | list[int]
    precision: Precision
    reason: str

    @classmethod
    def of(cls, experiment: Experiment) -> "Hardware":
        """Returns what an experiment asks for.

        Raises:
            InputError: This machine does not have it, or settings that exclude each other.
        """
        settings = experiment.trainer
        device, wanted = resolve_device(settings.device), settings.devices
        if wanted > 1 and experiment.data.batch_size % (wanted * settings.nodes):
            raise InputError(
                f"batch_size {experiment.data.batch_size} cannot be divided among "
                f"{wanted} devices × {settings.nodes} nodes"
            )
        if device.index is not None and wanted > 1:
            raise InputError(
                f"device {settings.device} names one device, devices says {wanted}: device: cuda"
            )
        if device.type == "cuda" and wanted > torch.cuda.device_count():
            raise InputError(f"devices {wanted}: this machine has {torch.cuda.device_count()} GPUs")
        devices = wanted if device.index is None else [device.index]
        return cls(device.type, devices, *_precision(settings.precision, device.type))

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes."""
        halves = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        return halves.get(self.precision, torch.float32)

    def in_words(self) -> str:
        """Returns where and how a run computes, and why."""
        names: dict[Precision, str] = {
            "32-true": "32 bits",
            "bf16-mixed": "bf16",
            "16-mixed": "16 bits",
        }
        where = f"on {self.accelerator}"
        if self.accelerator == "cuda":
            numbers = self.devices if isinstance(self.devices, list) else range(self.devices)
            found = dict.fromkeys(torch.cuda.get_device_name(number) for number in numbers)
            where = f"on {len(numbers)} × {', '.join(found)}"
        return f"{where} in {names[self.precision]} ({self.reason})"


def _precision(precision: str, accelerator: str) -> tuple[Precision, str]:
    """Returns the precision of the numbers, and why."""
    names: dict[str, Precision] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
    reason = "as precision says"
    if precision == "auto":
        if accelerator == "cuda" and torch.cuda.is_bf16_supported():
            precision, reason = "bf16", "precision: auto; this GPU computes in it"
        elif accelerator == "cuda":
            precision, reason = "32", "precision: auto; this GPU has no bf16"
        else:
            precision, reason = "32", "precision: auto; bf16 is for GPUs"
    if precision not in names:
        raise InputError(f"precision must be auto, 32, bf16 or 16, not '{precision}'")
    if precision == "16" and accelerator != "cuda":
        raise InputError("precision '16' needs a CUDA GPU: take auto or 32")
    return names[precision], reason
