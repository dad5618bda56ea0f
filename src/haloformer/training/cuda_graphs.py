"""A network's forward and backward pass as CUDA graphs, where that is faster.

The kernels of a small network take less time than Python takes to start them one by one. Recorded
once, they are started together.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WARMUP, _STEPS = 3, 10
_WORTH = 0.9  # of the time without graphs
_AGREEMENT = {torch.float32: 1e-2, torch.bfloat16: 0.1, torch.float16: 0.05}
"""By the precision: largest difference of the gradients, relative to their size, of the same step
with and without graphs. A graph that leaves something out is off by more than rounding."""


@dataclass(frozen=True)
class GraphedNetwork:
    """A network whose training steps on batches of one shape replay what was recorded.

    Attributes:
        network: The network itself, which answers for all other input.
        replay: What was recorded; takes inputs and returns the network's outputs.
        shape: (B, C, H, W) of the inputs.
    """

    network: nn.Module
    replay: Callable[[Tensor], Tensor]
    shape: torch.Size

    def __call__(self, inputs: Tensor) -> Tensor:
        """Returns the network's outputs."""
        fits = inputs.shape == self.shape and self.network.training and torch.is_grad_enabled()
        outputs: Tensor = self.replay(inputs) if fits else self.network(inputs)
        return outputs


def graphed(
    network: nn.Module, inputs: Tensor, precision: torch.dtype
) -> tuple[GraphedNetwork | None, str]:
    """Records a network's training step on a GPU, and keeps it if it is right and faster.

    Nothing of the network changes: running statistics of norms are put back.

    Args:
        network: On the GPU, with all its parameters to be trained.
        inputs: (B, C, H, W) on the GPU, as they will come, whatever they show.
        precision: In which autocast computes; float32 for no autocast.

    Returns:
        What replays it, or None; and why, in words.
    """
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    was_training = network.training
    network.train()
    try:
        return _recorded(network, inputs, precision)
    except Exception as error:  # what cannot be recorded fails in many ways, and works without
        _repair(inputs.device)
        why = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"without CUDA graphs, as this network cannot be recorded ({why[0][:120]})"
    finally:
        network.train(was_training)
        torch.cuda.synchronize(inputs.device)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(kept[name])


def _recorded(
    network: nn.Module, inputs: Tensor, precision: torch.dtype
) -> tuple[GraphedNetwork | None, str]:
    # Casts of the weights that are kept from one use to the next must not outlive the recording.
    autocast = torch.autocast(
        "cuda", precision, enabled=precision != torch.float32, cache_enabled=False
    )
    with autocast, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a stream that gradients were not accumulated on
        alone = _seconds(network, network, inputs)
        wanted = _gradients(network, network, inputs)
        _check_that_nothing_waits(network, inputs)
        torch.cuda.make_graphed_callables(network, (inputs,), allow_unused_input=True)
        replay: Callable[[Tensor], Tensor] = network.forward
        del network.forward  # the recorded one, put in front of the class's
        with torch.no_grad():
            network.zero_grad(set_to_none=True)
        found = _gradients(network, replay, inputs)
        off = max(
            (float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in zip(found, wanted)),
            default=0.0,
        )
        if not off <= _AGREEMENT[precision]:  # NaN neither
            return None, f"without CUDA graphs, whose gradients would be off by {off:.1%}"
        together = _seconds(network, replay, inputs)
    said = f"{1e3 * together:.1f} ms per batch instead of {1e3 * alone:.1f} ms"
    if together > _WORTH * alone:
        return None, f"without CUDA graphs, which do not pay here ({said})"
    return GraphedNetwork(network, replay, inputs.shape), f"by CUDA graphs: {said}"


def _repair(device: torch.device) -> None:
    """Puts a fresh state under a GPU's random numbers, whose own a failed recording may still hold."""
    index = torch.cuda.current_device() if device.index is None else device.index
    fresh = torch.Generator(device).graphsafe_get_state()
    torch.cuda.default_generators[index].graphsafe_set_state(fresh)


def _check_that_nothing_waits(network: nn.Module, inputs: Tensor) -> None:
    """Raises RuntimeError if a step waits for the GPU.

    A recording would fail, too, but would leave the GPU's random numbers unusable.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(network(inputs).float().sum(), _parameters(network), allow_unused=True)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _parameters(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _gradients(
    network: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns outputs and all gradients of a step whose random numbers are always the same."""
    torch.manual_seed(0)
    outputs = forward(inputs)
    # Not the sum, which a softmax or a norm may hold constant.
    weights = torch.linspace(-1, 1, outputs.numel(), device=outputs.device).view_as(outputs)
    found = torch.autograd.grad(
        (outputs.float() * weights).sum(), _parameters(network), allow_unused=True
    )
    gradients = torch.cat([each.float().flatten() for each in found if each is not None])
    return outputs.detach().float().clone(), gradients.clone()


def _seconds(network: nn.Module, forward: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Returns the time of a step: the shortest of several."""
    times = []
    for _ in range(_WARMUP + _STEPS):
        torch.cuda.synchronize(inputs.device)
        began = time.perf_counter()
        torch.autograd.grad(forward(inputs).float().sum(), _parameters(network), allow_unused=True)
        torch.cuda.synchronize(inputs.device)
        times.append(time.perf_counter() - began)
    return min(times[_WARMUP:])
