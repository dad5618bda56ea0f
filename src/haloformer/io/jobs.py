"""Tasks in worker processes: one pool for simulation, prediction, studies and searches.

Worker processes are spawned, not forked: neither PyTorch's threads nor CUDA survive a fork. A
spawned process imports the module of the main program again, so a script that starts workers needs
``if __name__ == "__main__":``.

No numerical library is imported here, so that :func:`_prepare` can limit the threads of numerical
libraries before a worker loads them.
"""

import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Generic, TypeVar

from haloformer.errors import InputError

Key = TypeVar("Key")
Result = TypeVar("Result")

_GRACE_SECONDS = 30  # for a worker to end after SIGTERM: it may have a checkpoint to write
_KILLED_SECONDS = 5  # for a worker to end after SIGKILL: at once, unless a disk holds it
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerKilled(InputError):
    """The worker processes of a task were killed (say, for want of memory) once too often.

    Attributes:
        key: Of the task.
        times: How many of its workers were killed.
    """

    def __init__(self, key: object, times: int) -> None:
        super().__init__(f"{key}: its worker was killed {times} times")
        self.key, self.times = key, times


class WorkerFailedToStart(InputError):
    """A worker process ended before it took its first task."""

    def __init__(self) -> None:
        super().__init__(
            "a worker process could not start (a script that starts workers needs "
            'if __name__ == "__main__":)'
        )


def results(
    function: Callable[..., Result],
    tasks: Iterable[tuple[Key, tuple[object, ...]]],
    *,
    workers: int,
    threads: int = 1,
    retries: int = 0,
    gpus: int = 0,
) -> Generator[tuple[Key, Result], None, None]:
    """Calls a function for each task and yields (key, result) in the order in which tasks end.

    A task is taken from ``tasks`` only when a worker is free for it, so a generator of tasks may
    depend on the results yielded so far. When the generator is closed, or ends by an exception
    (Ctrl-C included), all workers are stopped; they also end when this process does.

    Args:
        function: Of a module's top level, so that it can be pickled; likewise its arguments and
            results.
        tasks: (key, arguments) each.
        workers: Number of processes; 0 calls the function in this process, one task after the
            other.
        threads: Threads per worker, for PyTorch and for linear algebra.
        retries: How many more times a task is done whose worker was killed; each time in a new
            process.
        gpus: If positive, worker k sees only the GPU number ``k % gpus`` of those that this process
            sees.

    Raises:
        WorkerKilled: The worker of a task was killed more than ``retries`` times.
        WorkerFailedToStart: A worker ended before it took a task.
        Exception: What ``function`` raises.
    """
    if workers < 1:
        for key, arguments in tasks:
            yield key, function(*arguments)
        return
    with _stopped_at_the_end([_Worker(k, threads, gpus) for k in range(workers)]) as free:
        waiting = iter(tasks)
        running: dict[Future[Result], _Running[Key]] = {}
        while True:
            while free and (task := next(waiting, None)) is not None:
                started = _Running(free.pop(0), *task)
                running[started.worker.submit(function, *started.arguments)] = started
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                ended = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    again = ended.again(retries)
                    running[again.worker.submit(function, *again.arguments)] = again
                    continue
                free.insert(0, ended.worker)  # rather than to start another process
                yield ended.key, result


@dataclass(frozen=True)
class _Running(Generic[Key]):
    """A task, the worker that does it, and how many workers were killed by then."""

    worker: "_Worker"
    key: Key
    arguments: tuple[object, ...]
    killed: int = 0

    def again(self, retries: int) -> "_Running[Key]":
        """Returns the same task with a new process."""
        if not self.worker.had_started():
            raise WorkerFailedToStart
        if self.killed >= retries:
            raise WorkerKilled(self.key, self.killed + 1)
        self.worker.replace()
        return _Running(self.worker, self.key, self.arguments, self.killed + 1)


class _Worker:
    """A pool of one process, so that it is known which task a killed process had."""

    def __init__(self, number: int, threads: int, gpus: int) -> None:
        self._number, self._threads, self._gpus = number, threads, gpus
        self._context = _RecordingContext()
        self._executor = self._new_executor()

    def _new_executor(self) -> ProcessPoolExecutor:
        self._started = self._context.Event()
        arguments = (self._started, self._threads, _environment(self._number, self._gpus))
        return ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_prepare, initargs=arguments
        )

    def submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Starts a task; the process is started if need be."""
        with _interrupts_kept_from_children():
            try:
                return self._executor.submit(function, *arguments)
            except BrokenProcessPool:  # killed while it had nothing to do
                self.replace()
                return self._executor.submit(function, *arguments)

    def had_started(self) -> bool:
        """Tells whether the process came as far as taking tasks."""
        return self._started.is_set()

    def replace(self) -> None:
        """Takes a new process in place of one that was killed."""
        self._executor.shutdown(wait=False)
        self._executor = self._new_executor()

    def close(self) -> None:
        """Ends the process, which has nothing to do any more."""
        self._executor.shutdown()

    def terminate(self) -> None:
        """Asks the process to end, whatever it does."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in self._alive():
            process.terminate()

    def kill(self) -> None:
        """Ends the process at once."""
        for process in self._alive():
            process.kill()

    def join(self, timeout: float) -> None:
        """Waits until the process has ended, or for ``timeout`` seconds.

        The executor's own thread waits for it, too. While that thread has taken the exit status
        but not yet written it down, the process counts as alive and cannot be waited for.
        """
        end = time.monotonic() + timeout
        while (alive := self._alive()) and (left := end - time.monotonic()) > 0:
            alive[0].join(left)
            time.sleep(0.001)

    def _alive(self) -> list[multiprocessing.process.BaseProcess]:
        return [process for process in self._context.processes if process.is_alive()]


class _RecordingContext(SpawnContext):
    """The spawn context, which remembers its processes: an executor does not tell them."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[multiprocessing.process.BaseProcess] = []

    def Process(self, *arguments: object, **options: object) -> SpawnProcess:  # type: ignore[override]  # a class in the base
        """Returns a new process; called by the executor."""
        process = SpawnProcess(*arguments, **options)  # type: ignore[arg-type]  # passed on as they are
        self.processes.append(process)
        return process


@contextmanager
def _stopped_at_the_end(workers: list[_Worker]) -> Iterator[list[_Worker]]:
    """Yields a list of the workers; waits for them in the end, or stops them after an error."""
    try:
        yield list(workers)
    except BaseException:
        try:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join(_GRACE_SECONDS)
        finally:  # also after an impatient second Ctrl-C
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.join(_KILLED_SECONDS)
        raise
    for worker in workers:
        worker.close()


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Blocks SIGINT in a process that starts meanwhile, until it can ignore it.

    Ctrl-C reaches it, too.

    In this process another thread takes the signal, so that it is not lost.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(number: int, gpus: int) -> dict[str, str]:
    """Returns the environment variables by which a worker sees one GPU."""
    if gpus < 1:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()] or [
        *map(str, range(gpus))
    ]
    return {"CUDA_VISIBLE_DEVICES": names[number % min(gpus, len(names))]}


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _prepare(
    started: Event, threads: int, environment: dict[str, str]
) -> None:  # in the worker process
    """Sets a worker's threads and GPU; leaves Ctrl-C to its parent, with which it ends.

    Asked to end, it removes what it has half-written.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(environment | dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # this process must not go on alone

    threading.Thread(target=follow, daemon=True).start()
    if "torch" in sys.modules:  # by the main program's module; otherwise the variables are in time
        sys.modules["torch"].set_num_threads(threads)
    started.set()
