"""AdamW with weight decay only where it belongs, and the learning rate's course."""

import math

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Returns AdamW that decays matrices and filters, but no norm, bias, token or position embedding."""
    exceptions = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exceptions)
    return torch.optim.AdamW(groups, lr=lr)


def warmup_cosine(optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int) -> LambdaLR:
    """Returns a schedule, per step: a linear rise over ``warmup_steps``, then half a cosine down to nearly zero."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
