"""Independent fits in threads: nearly all of their time is linear algebra and compiled loops, which run beside each other."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from haloformer.fitting.reallens.optimise import Report

Found = TypeVar("Found")


class _Stopped(Exception):
    """Others have failed, or the program is to end."""


def side_by_side(
    jobs: Sequence[Callable[[Report], Found]], report: Report | None = None, *, threads: int = 1
) -> list[Found]:
    """Does jobs in threads; returns what each found, in their order.

    If one fails, or Ctrl-C is pressed, the others end at their next step.

    Args:
        jobs: Called with what they report their steps to.
        report: Called with all of these, one at a time.
        threads: At most so many; with one, jobs are done in the caller's.
    """
    lock, ended = threading.Lock(), threading.Event()

    def told(what: str, evidence: float) -> None:
        if ended.is_set():
            raise _Stopped
        if report is not None:
            with lock:
                report(what, evidence)

    threads = min(len(jobs), threads)
    if threads <= 1:
        return [job(told) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(job, told) for job in jobs]
        try:
            for each in wait(waiting, return_when=FIRST_EXCEPTION).done:
                each.result()  # raises what went wrong
            return [each.result() for each in waiting]
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
