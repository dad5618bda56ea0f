"""Independent fits in threads."""

import threading
import time

import pytest

from haloformer.fitting.reallens.side_by_side import side_by_side


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_the_order_of_the_jobs_and_reports_one_at_a_time(threads):
    within, most, told = [], [], []

    def report(what, evidence):
        within.append(what)
        most.append(len(within))
        time.sleep(0.001)
        told.append(evidence)
        within.pop()

    def job(k):
        def work(report):
            for step in range(5):
                report("lens", 10 * k + step)
            return k, threading.get_ident()

        return work

    found = side_by_side([job(k) for k in range(6)], report, threads=threads)
    assert [k for k, _ in found] == list(range(6))
    assert sorted(told) == [10 * k + step for k in range(6) for step in range(5)]
    assert max(most) == 1
    assert len({thread for _, thread in found}) <= threads
    assert side_by_side([]) == []


@pytest.mark.parametrize("error", [ValueError("no arcs"), KeyboardInterrupt()])
def test_when_one_fails_the_others_end_at_their_next_step_and_no_more_begin(error):
    begun, steps = threading.Event(), []

    def long(report):
        for step in range(1000):
            report("lens", step)
            steps.append(step)
            begun.set()
            time.sleep(0.01)

    def fails(report):
        begun.wait(5)
        raise error

    later = []
    with pytest.raises(type(error)):
        side_by_side([long, fails, lambda report: later.append(1) or long(report)], threads=2)
    assert 0 < len(steps) < 100
    assert threading.active_count() < 20
