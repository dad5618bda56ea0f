"""The names and shapes of a network's tensors without its memory: what a stranger's file asks for.

A description of a few bytes can name a network of any size. Here it is built on torch's meta
device, where tensors have shapes and no numbers, and no further than a bound.
"""

import contextlib
import functools
import json
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from haloformer.errors import InputError
from haloformer.models.factory import create_model

MAX_VALUES = 2**28
"""Numbers that one tensor of a pass of one image may have: 1 GiB in single precision."""

Shapes = dict[str, tuple[tuple[int, ...], bool]]
"""Name → shape, and whether its numbers are floating-point ones."""


def network_shapes(name: str, *, most: int, most_values: int, **options: Any) -> Shapes:
    """Returns what the state dict of a network holds, and checks that it suits its images.

    Args:
        name: As `create_model` takes it.
        most: Tensors and layers after which the building ends.
        most_values: Numbers in them after which it ends.
        **options: What else `create_model` takes, as JSON has it.

    Raises:
        InputError: `create_model` could not build it either, it has more than ``most`` tensors and
            layers or ``most_values`` numbers, or an image on its way becomes larger than
            `MAX_VALUES`.
    """
    return _shapes(name, most, most_values, json.dumps(options))


@functools.lru_cache(maxsize=64)
def _shapes(name: str, most: int, most_values: int, options: str) -> Shapes:
    with _counted(name, most, most_values), torch.device("meta"), _BoundedTensors(name):
        state = create_model(name, **json.loads(options)).state_dict()
    return {key: (tuple(found.shape), found.is_floating_point()) for key, found in state.items()}


@contextlib.contextmanager
def _counted(name: str, most: int, most_values: int) -> Iterator[None]:
    """Raises InputError as soon as this thread has given layers more parts or numbers than that."""
    thread, n, values = threading.get_ident(), 0, 0

    def count(module: nn.Module, key: str, part: object) -> None:
        nonlocal n, values
        if threading.get_ident() != thread:
            return
        n, values = n + 1, values + (part.numel() if isinstance(part, Tensor) else 0)
        if n > most:
            raise InputError(f"model '{name}' has more than {most:,} tensors and layers")
        if values > most_values:
            raise InputError(f"model '{name}' has more than {most_values:,} numbers")

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _BoundedTensors(TorchDispatchMode):
    """Raises InputError for a tensor of more than `MAX_VALUES` numbers."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.numel() > MAX_VALUES:
                shape = "×".join(map(str, leaf.shape))
                raise InputError(
                    f"model '{self.name}' makes a tensor of {shape} numbers, more than {MAX_VALUES:,}"
                )
        return result
