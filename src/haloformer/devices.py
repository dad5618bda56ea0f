"""Which device to compute on: one reading of its name for simulation, training and prediction; and how many threads."""

import contextlib
import os
from collections.abc import Iterator

import torch

from haloformer.errors import InputError


def resolve_device(name: "str | torch.device") -> torch.device:
    """Returns the device of that name, checking that it is there.

    Args:
        name: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Raises:
        InputError: There is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"unknown device '{name}': known are auto, cpu, cuda, cuda:N, mps"
        ) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(
            f"device '{name}' is not supported: known are auto, cpu, cuda, cuda:N, mps"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{name}' is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices; use 'cpu'"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device '{name}' is not there; use 'cpu'")
    return device


def process_device(device: torch.device) -> torch.device:
    """Returns the device of this process, of several that train together: each has a GPU of its own.

    Args:
        device: What they all were told; one that has a number is only for a process that works alone.
    """
    if device.type != "cuda" or device.index is not None:
        return device
    # torchrun and Lightning say the first, SLURM the second.
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        number = os.environ.get(name, "")
        if number.isdigit() and int(number) < torch.cuda.device_count():
            return torch.device("cuda", int(number))
    return torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """Lets PyTorch and linear algebra use one thread for a while; yields how many PyTorch had.

    Where other work runs, the many short operations of a fit would wait for a second thread for far longer than they take.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with one_blas_thread():
            yield before
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Lets linear algebra use one thread for a while.

    Matrices of a thousand rows gain nothing from a second one; and where other work runs, threads that wait for each other take much longer.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield
