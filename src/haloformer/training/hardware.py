"""What a training run computes on."""

from dataclasses import dataclass
from typing import Literal

import torch

from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.training.config import Experiment, TrainerConfig

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Hardware:
    """What a run computes on, in Lightning's words.

    Attributes:
        accelerator: ``cpu``, ``cuda``, …
        devices: How many devices, or the index of the one.
        precision: Of the numbers.
        reason: Why this precision.
        layout: How images lie in memory: ``torch.channels_last`` or ``torch.contiguous_format``.
        layout_reason: Why they lie so.
    """

    accelerator: str
    devices: int | list[int]
    precision: Precision
    reason: str
    layout: torch.memory_format
    layout_reason: str

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
        precision = _precision(settings.precision, device.type)
        return cls(device.type, devices, *precision, *_layout(settings, device.type, precision[0]))

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
        layout = {torch.channels_last: "last", torch.contiguous_format: "first"}[self.layout]
        return f"{where} in {names[self.precision]} ({self.reason}), channels {layout} ({self.layout_reason})"


def _layout(
    settings: TrainerConfig, accelerator: str, precision: Precision
) -> tuple[torch.memory_format, str]:
    """Returns how images lie in memory, and why."""
    formats = {True: torch.channels_last, False: torch.contiguous_format}
    if settings.channels_last != "auto":
        return formats[settings.channels_last], "as channels_last says"
    if settings.devices * settings.nodes > 1:
        # DDP would copy the gradients of 1×1 convolutions.
        return formats[False], "channels_last: auto; of one process alone"
    if accelerator != "cpu" or precision != "32-true":
        return formats[False], "channels_last: auto; last is for CPUs in 32 bits"
    return formats[True], "channels_last: auto; convolutions on CPUs are faster so"


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
