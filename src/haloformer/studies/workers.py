"""Worker processes that train side by side."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import torch


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Opens a pool of worker processes; leaving it early, as by Ctrl-C, ends them.

    Args:
        workers: How many; this process's threads are shared out among them.
    """
    before = set(multiprocessing.active_children())
    # New processes, not forks: torch's threads and CUDA do not survive a fork.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        _start_worker,
        (max(1, torch.get_num_threads() // workers),),
    )
    try:
        yield pool
        pool.shutdown()
    finally:  # after Ctrl-C; otherwise nothing is left to stop
        children = set(multiprocessing.active_children()) - before
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        for child in children:
            child.join(30)  # it may have a checkpoint to write
            child.kill()


def _start_worker(threads: int) -> None:
    """Prepares a worker process: its threads, and that it ends with its parent."""
    torch.set_num_threads(threads)  # the simulator uses as many
    # Ctrl-C reaches all processes; the first one stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the first process was killed: do not go on alone

    threading.Thread(target=follow, daemon=True).start()


def time_left(began: float, now: float, finished: int, waiting: int) -> str:
    """Returns how long the rest takes, for a line of progress; empty below a second.

    Args:
        began: When the first began, in seconds.
        now: The time now, in seconds.
        finished: How many are done.
        waiting: How many there are in all.
    """
    seconds = (now - began) / finished * (waiting - finished)
    if seconds < 1:
        return ""
    return (
        f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"
    )
