"""Optimisers by name, with weight decay only where it belongs, and the learning rate's course."""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_info,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau

from haloformer.errors import InputError
from haloformer.models.native_size import PaddedInput
from haloformer.vocabulary import unknown_name

OPTIMIZERS: dict[str, str] = {
    "adamw": "Adam with weight decay apart from the gradient; the usual one for transformers",
    "adam": "Adam, whose weight decay is part of the gradient: keep it near 1e-4 or 0",
    "adamax": "Adam with the largest gradient so far in place of the mean square",
    "adabelief": "Adam that trusts gradients as they were predicted",
    "adopt": "Adam that converges for any second beta",
    "nadam": "Adam with Nesterov momentum",
    "nadamw": "AdamW with Nesterov momentum",
    "radam": "Adam that warms itself up while its variance is uncertain",
    "adagrad": "steps shrink with the sum of all squared gradients",
    "rmsprop": "steps divided by a running root mean square, with momentum",
    "adafactor": "Adam in little memory: factored second moments, no first",
    "sgd": "stochastic gradient descent with Nesterov momentum: lr of about 0.1, weight decay near 1e-4",
    "lamb": "AdamW with steps in proportion to each layer's weights, for large batches",
    "lars": "SGD with steps in proportion to each layer's weights, for large batches",
    "lion": "sign of the momentum: a third to a tenth of AdamW's lr, three to ten times its weight decay",
}
"""What :func:`build_optimizer` knows by name."""

SCHEDULES: dict[str, str] = {
    "cosine": "a linear rise, then half a cosine down",
    "step": "a linear rise, then a fall by a factor every so many epochs",
    "plateau": "a linear rise, then a fall by a factor whenever validation has not improved for a while",
    "one_cycle": "half a cosine up from a 25th, then half a cosine down",
    "constant": "a linear rise, then no change",
}
"""What :func:`build_schedule` knows by name."""

_IN_PROPORTION = ("sgd", "lars")
"""Optimisers whose steps are as long as the gradient, of a batch or of a layer."""

_ONE_CYCLE_START = 1 / 25  # share of the peak; torch's OneCycleLR starts there too (div_factor)


def build_optimizer(
    model: nn.Module,
    *,
    name: str = "adamw",
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    layer_decay: float = 1.0,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Returns an optimiser of a model's trainable parameters; only matrices and filters decay.

    Args:
        model: Norms, biases, tokens, position embeddings and other lone parameters of it are not
            decayed.
        name: One of :data:`OPTIMIZERS`.
        lr: Peak learning rate.
        weight_decay: As the optimiser means it: a share of lr per step (adamw), or part of the
            gradient (adam, sgd).
        momentum: Of sgd, lars and rmsprop.
        betas: Decay rates of the running means of Adam and its kin, and of lion.
        layer_decay: Factor of the learning rate from each layer to the one before it, as the
            model's ``group_matcher`` counts layers; the classifier has ``lr`` itself.
        fused: One kernel for all of AdamW, on CUDA and on CPUs. On one CPU thread a step of
            hybrid_nano then takes 0.6 ms instead of 2.7 ms, beside 150 ms for the gradient of 64
            images.

    Raises:
        InputError: No such optimiser, or layer-wise rates for a model that does not tell its
            layers.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", str(name), OPTIMIZERS)
    options: dict[str, Any] = {"momentum": momentum}
    if takes_betas(name):
        options["betas"] = tuple(betas)
    if fused and name == "adamw" and _has_fused_kernel(model):
        options["fused"] = True
    if name == "sgd" and not momentum:
        name = "momentum"  # timm's sgd is Nesterov's, which needs some
    groups = _parameter_groups(model, lr, weight_decay, layer_decay)
    optimizer = create_optimizer_v2(groups, name, lr=lr, weight_decay=weight_decay, **options)
    if "fused" in options:
        # It could undo the scaling of 16-bit gradients in its step; Lightning then refuses to clip
        # them, even where nothing is scaled. Told that it cannot, Lightning undoes the scaling
        # before, as for any other optimiser.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def takes_betas(name: str) -> bool:
    """Tells whether an optimiser is given ``betas``."""
    # Adafactor would keep a first moment for them.
    return bool(get_optimizer_info(name).has_betas) and name != "adafactor"


def takes_momentum(name: str) -> bool:
    """Tells whether an optimiser heeds ``momentum``."""
    return bool(get_optimizer_info(name).has_momentum)


def scaled_lr(lr: float, lr_batch: int | None, batch_size: int, name: str) -> float:
    """Returns the learning rate for a batch size, from that for another.

    A larger batch's gradient has less noise. Where steps follow the gradient's size, k times as
    many images allow k times the rate (Goyal et al. 2017, arXiv:1706.02677); where it is divided by
    its own running size, as in Adam, or steps follow its sign, √k (Malladi et al. 2022,
    arXiv:2205.10287).

    Args:
        lr: For batches of ``lr_batch``.
        lr_batch: None: ``lr`` holds for any batch size.
        batch_size: Images per step.
        name: One of :data:`OPTIMIZERS`.
    """
    if lr_batch is None:
        return lr
    ratio = batch_size / lr_batch
    return lr * (ratio if name in _IN_PROPORTION else math.sqrt(ratio))


def build_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    name: str,
    total_steps: int,
    steps_per_epoch: int,
    warmup: float = 0.1,
    min_lr: float = 0.001,
    step_size: int = 10,
    gamma: float = 0.1,
) -> LRScheduler:
    """Returns a schedule to be stepped after every batch.

    The learning rate is a function of the step alone.

    All groups of the optimiser rise and fall in proportion. For ``plateau`` this is the rise only,
    which multiplies with what :func:`build_plateau` does.

    Args:
        optimizer: Its learning rates are the peaks.
        name: One of :data:`SCHEDULES`.
        total_steps: Batches of the whole training.
        steps_per_epoch: Batches of an epoch.
        warmup: Share of all steps over which the learning rate rises.
        min_lr: Where cosine and one_cycle end, and what step does not go below, as a share of the
            peak.
        step_size: Epochs between the falls of step.
        gamma: Factor of each fall of step.

    Raises:
        InputError: No such schedule.
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", str(name), SCHEDULES)
    rise = round(warmup * total_steps)
    if name == "plateau":
        return LinearLR(optimizer, start_factor=1 / (rise + 1), total_iters=rise)
    if name == "one_cycle":
        return LambdaLR(optimizer, _one_cycle(total_steps, warmup, min_lr))

    def after_warmup(step: int) -> float:
        if name == "cosine":
            return _half_cosine(1.0, min_lr, (step - rise) / max(1, total_steps - rise))
        if name == "step":
            return max(min_lr, gamma ** (step // max(1, steps_per_epoch) // step_size))
        return 1.0

    return LambdaLR(
        optimizer, lambda step: (step + 1) / (rise + 1) if step < rise else after_warmup(step)
    )


def build_plateau(
    optimizer: torch.optim.Optimizer,
    *,
    gamma: float = 0.1,
    plateau_patience: int = 5,
    min_lr: float = 0.001,
) -> ReduceLROnPlateau:
    """Returns what lowers the learning rates when a metric stops rising.

    To be stepped once per validation with it.

    Args:
        optimizer: As given to :func:`build_schedule`, before or after.
        gamma: Factor of each fall.
        plateau_patience: Validations in a row without a better metric that are let pass; the next
            such one lowers.
        min_lr: Smallest learning rate, as a share of the peak.
    """
    floors = [min_lr * group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    # Any rise counts, as it does for the best weights; no change is too small for the slow layers
    # of a layer-wise decay.
    return ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=gamma,
        patience=plateau_patience,
        threshold=0.0,
        min_lr=floors,
        eps=0.0,
    )


def _parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay must be above 0 and at most 1, not {layer_decay!r}")
    inner: Any = model.model if isinstance(model, PaddedInput) else model
    # What is not some layer's weight stands alone: tokens, positions, biases, scales, temperatures.
    alone = {name for name, _ in inner.named_parameters() if not name.endswith("weight")}
    exceptions = alone | set(inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else ())
    groups: list[dict[str, Any]]
    if layer_decay == 1:
        groups = param_groups_weight_decay(inner, weight_decay, no_weight_decay_list=exceptions)
        return groups
    if not hasattr(inner, "group_matcher"):
        raise InputError(
            f"layer_decay: {type(inner).__name__} does not tell which layer a parameter belongs to: set layer_decay to 1"
        )
    groups = param_groups_layer_decay(
        inner, weight_decay, no_weight_decay_list=exceptions, layer_decay=layer_decay
    )
    return [{**group, "lr": lr * group.pop("lr_scale")} for group in groups]


def _has_fused_kernel(model: nn.Module) -> bool:
    devices = {parameter.device.type for parameter in model.parameters() if parameter.requires_grad}
    return devices in ({"cuda"}, {"cpu"})


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lays out what an optimiser has of each parameter as the parameter lies in memory.

    Fused kernels go through memory as it comes. What was read from a checkpoint lies as it did in the run that wrote it.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            alike = isinstance(value, Tensor) and value.shape == parameter.shape
            if alike and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _one_cycle(total_steps: int, warmup: float, min_lr: float) -> Callable[[int], float]:
    """The factor of torch's OneCycleLR, without its cycle of the momentum, for any step."""
    peak, last = max(0.0, warmup * total_steps - 1), max(1, total_steps - 1)

    def factor(step: int) -> float:
        if step < peak:
            return _half_cosine(_ONE_CYCLE_START, 1.0, step / peak)
        return _half_cosine(1.0, min_lr, (step - peak) / max(1e-9, last - peak))

    return factor
