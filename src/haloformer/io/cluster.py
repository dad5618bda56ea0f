"""Tasks on several machines: the same as :mod:`haloformer.io.jobs`, by Ray."""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from types import ModuleType
from typing import TypeVar

from haloformer.errors import InputError, how_to_install, reason_of
from haloformer.io.jobs import WorkerKilled

Key = TypeVar("Key")
Result = TypeVar("Result")

_PATIENCE_SECONDS = 10  # in which a cluster must answer


def results(
    function: Callable[..., Result],
    tasks: Iterable[tuple[Key, tuple[object, ...]]],
    *,
    address: str,
    workers: int = 0,
    gpu: bool = False,
    retries: int = 0,
) -> Generator[tuple[Key, Result], None, None]:
    """Calls a function for each task and yields (key, result) in the order in which tasks end.

    Args:
        function: Of a module that all machines have.
        tasks: (key, arguments) each; taken when a worker is free for it.
        address: Of a running cluster, ``HOST:PORT``, or ``"auto"``. If the caller has connected to
            Ray, that connection is used.
        workers: Tasks at a time; 0: as many as the cluster has CPUs (or GPUs).
        gpu: Each task takes a GPU besides its CPU.
        retries: How many more times a task is done whose worker was killed.

    Raises:
        InputError: Ray is missing or does not answer, or ``function`` raises it.
        WorkerKilled: The worker of a task was killed more than ``retries`` times.
    """
    with _connected(address, gpu) as (ray, there):
        remote = ray.remote(function).options(num_cpus=1, num_gpus=int(gpu), max_retries=retries)
        running: dict[object, Key] = {}
        waiting = iter(tasks)
        try:
            while True:
                while len(running) < (workers or there) and (task := next(waiting, None)):
                    running[remote.remote(*task[1])] = task[0]
                if not running:
                    return
                (ended,), _ = ray.wait(list(running), num_returns=1)
                key = running.pop(ended)
                with _errors_of_tasks(ray, key, retries):
                    result: Result = ray.get(ended)
                yield key, result
        except BaseException:
            for reference in running:
                ray.cancel(reference, force=True)
            raise


@contextlib.contextmanager
def _errors_of_tasks(ray: ModuleType, key: object, retries: int) -> Iterator[None]:
    """Raises an InputError of a task as it was, and WorkerKilled for what befell Ray."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise WorkerKilled(key, retries + 1) from error


@contextlib.contextmanager
def _connected(address: str, gpu: bool) -> Iterator[tuple[ModuleType, int]]:
    """Yields Ray's module and how many CPUs (or GPUs) the cluster has."""
    try:
        import ray
    except ImportError as error:
        raise InputError(f"ray_address needs ray: {how_to_install('scale')}") from error
    ours = not ray.is_initialized()
    before = signal.getsignal(signal.SIGTERM)  # which Ray makes its own
    if ours:
        _connect(ray, address)
    try:
        there = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 0))
        if there < 1:
            raise InputError(f"Ray has no {'GPU' if gpu else 'CPU'} to offer")
        yield ray, there
    finally:
        if ours:
            ray.shutdown()
            # Only the main thread may, and only there Ray has.
            with contextlib.suppress(ValueError, TypeError):
                signal.signal(signal.SIGTERM, before)


def _connect(ray: ModuleType, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Spares a warning on machines without a GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    check_answers(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"Ray does not answer at {address}: {text}") from error


def check_answers(address: str) -> None:
    """Raises InputError unless a cluster's port can be reached.

    Ray itself tries for many minutes, and reports every attempt.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at '{address}' ({reason_of(error)}): HOST:PORT or auto is needed"
        ) from error
