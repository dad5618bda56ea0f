"""What a model costs: parameters and multiply-accumulate operations."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Returns the number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Returns the multiply-accumulate operations of one forward pass over one image.

    Counted are convolutions and matrix products, those of attention included; not norms,
    activations and sums.

    Args:
        model: Takes images of this shape.
        image_shape: (C, H, W).
    """
    training = model.training
    model.eval()
    # The counter's bookkeeping stumbles over parameters that are handed from layer to layer as they
    # are (class tokens).
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    image = torch.zeros(1, *image_shape, device=next(model.parameters()).device)
    try:
        # The fused attention of CPUs is not known to the counter; the plain one is made of matrix
        # products.
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            model(image)
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)
    operations: int = counter.get_total_flops()
    return operations // 2
