"""Worker processes: each task is done, killed workers are replaced, and none outlives the work."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from haloformer.io import jobs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

TASKS = """
import os, signal, time
from pathlib import Path

def double(x):
    return 2 * x

def fail(x):
    raise ValueError(f"no {x}")

def sleep_and_tell(x, seconds):
    time.sleep(seconds)
    return x

def wait_for(x, file):
    deadline = time.monotonic() + 60
    while file and not Path(file).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return x

def die_until(folder, x, times):
    (Path(folder) / f"{x}.{os.getpid()}").touch()
    if len(list(Path(folder).glob(f"{x}.*"))) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return x, os.getpid()

def surroundings():
    import torch
    time.sleep(0.5)  # so that no worker does two of them
    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")

def tell_and_sleep(folder):
    part = Path(folder) / f"{os.getpid()}.part"
    part.touch()
    part.rename(part.with_suffix(""))
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A module of functions that worker processes can import."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "tasks_of_test_jobs.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import tasks_of_test_jobs

        yield tasks_of_test_jobs
    del sys.modules["tasks_of_test_jobs"]


def _ends(pid):
    """Tells whether a process that is no child of this one ends within a minute."""
    for _ in range(600):
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", [0, 2])
def test_each_task_is_done_once(tasks, workers):
    found = list(jobs.results(tasks.double, ((k, (k,)) for k in range(9)), workers=workers))
    assert sorted(found) == [(k, 2 * k) for k in range(9)]
    assert not multiprocessing.active_children()


def test_results_come_as_they_end_and_tasks_are_taken_when_a_worker_is_free(tasks, tmp_path):
    taken, seen, others_done = [], [], tmp_path / "others_done"

    def wanted():
        for name in ("slow", "a", "b", "c"):
            taken.append((name, len(seen)))
            yield name, (name, str(others_done) if name == "slow" else "")

    for key, result in jobs.results(tasks.wait_for, wanted(), workers=2):
        assert key == result
        seen.append(key)
        if seen == ["a", "b", "c"]:
            others_done.touch()
    assert seen == ["a", "b", "c", "slow"]
    assert taken == [("slow", 0), ("a", 0), ("b", 1), ("c", 2)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_ends_it_and_all_workers(tasks, workers):
    with pytest.raises(ValueError, match=r"no \d"):
        list(jobs.results(tasks.fail, ((k, (k,)) for k in range(9)), workers=workers))
    assert not multiprocessing.active_children()


def test_the_task_of_a_killed_worker_is_done_again_by_a_new_one(tasks, tmp_path):
    wanted = [(x, (str(tmp_path), x, 2 if x == "b" else 0)) for x in "abcd"]
    found = dict(jobs.results(tasks.die_until, wanted, workers=2, retries=2))
    assert {x: value[0] for x, value in found.items()} == {x: x for x in "abcd"}
    times = {x: len(list(tmp_path.glob(f"{x}.*"))) for x in "abcd"}
    assert times == {"a": 1, "b": 3, "c": 1, "d": 1}  # of the others none is done twice


def test_a_task_that_kills_each_worker_is_given_up(tasks, tmp_path):
    wanted = [(x, (str(tmp_path), x, 99)) for x in "ab"]
    with pytest.raises(jobs.WorkerKilled) as caught:
        list(jobs.results(tasks.die_until, wanted, workers=1, retries=2))
    assert (caught.value.key, caught.value.times) == ("a", 3)
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_without_a_task_is_replaced(tasks):
    def wanted():
        yield "a", (1,)
        (idle,) = multiprocessing.active_children()
        idle.kill()
        idle.join()
        yield "b", (2,)

    found = jobs.results(tasks.double, wanted(), workers=1, retries=1)
    assert list(found) == [("a", 2), ("b", 4)]


def test_closing_the_results_stops_the_workers(tasks):
    found = jobs.results(tasks.sleep_and_tell, [("a", ("a", 0)), ("b", ("b", 600))], workers=2)
    assert next(found) == ("a", "a")
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


def test_each_worker_has_its_threads_and_its_gpu(tasks, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    wanted = [(k, ()) for k in range(2)]
    found = [r for _, r in jobs.results(tasks.surroundings, wanted, workers=2, threads=1, gpus=2)]
    assert sorted(found) == [(1, "1", "4"), (1, "1", "6")]


def test_a_script_that_starts_workers_when_it_is_imported_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import math\nfrom haloformer.io import jobs\n"
        "print(list(jobs.results(math.sqrt, [(4, (4,))], workers=1, retries=5)))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "WorkerFailedToStart" in ended.stderr.splitlines()[-1]
    assert "__main__" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["ctrl_c", "kill"])
def test_workers_end_with_their_parent(tasks, tmp_path, sign):
    script = tmp_path / "script.py"
    folder = tmp_path / "pids"
    folder.mkdir()
    script.write_text(
        "import signal, sys\n"
        f"sys.path.insert(0, {os.path.dirname(tasks.__file__)!r})\n"
        "import tasks_of_test_jobs\nfrom haloformer.io import jobs\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    wanted = [(k, ({str(folder)!r},)) for k in range(2)]\n"
        "    list(jobs.results(tasks_of_test_jobs.tell_and_sleep, wanted, workers=2))\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = []
    for _ in range(600):
        pids = [int(path.name) for path in folder.iterdir() if not path.suffix]
        if len(pids) == 2:
            break
        time.sleep(0.1)
    assert len(pids) == 2
    if sign == signal.SIGINT:
        os.killpg(process.pid, sign)  # as a terminal does: all processes get it
    else:
        process.kill()
    _, text = process.communicate(timeout=60)
    assert all(_ends(pid) for pid in pids)
    if sign == signal.SIGINT:
        assert text.count("KeyboardInterrupt") == 1  # of the parent alone
