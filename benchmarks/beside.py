"""How much slower is training beside another program? By how the threads of PyTorch wait for each other.

    python benchmarks/beside.py            # some 2 minutes

Each setting is measured in a process of its own, first alone, then beside another program that computes on one core: the time of an
answer to two images, and of a training step, of `hybrid_nano` and `resnet18` on 96 pixels, median of some. `GOMP_SPINCOUNT=10000` is what
haloformer's commands set; the first row is PyTorch's own.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

import haloformer
from simulation import hardware, table

SETTINGS: dict[str, dict[str, str]] = {
    "as PyTorch is": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
WORK = (("hybrid_nano", 2, 0, 15), ("hybrid_nano", 64, 1, 5), ("resnet18", 32, 1, 4))
"""Network, images, whether it is a training step, repetitions."""
_OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def milliseconds(work: Callable[[], object], repetitions: int) -> float:
    """Returns the median time of a piece of work, once it has been done twice."""
    found = []
    for k in range(repetitions + 2):
        began = time.perf_counter()
        work()
        if k >= 2:
            found.append(1e3 * (time.perf_counter() - began))
    return statistics.median(found)


def measure() -> None:
    """Prints the times of all work, in this process."""
    times = []
    for name, n, training, repetitions in WORK:
        torch.manual_seed(0)
        model = haloformer.create_model(name, img_size=96, in_chans=1, num_classes=3)
        model.train(bool(training))
        images = torch.randn(n, 1, 96, 96)

        def step(model: torch.nn.Module = model, images: torch.Tensor = images) -> None:
            model(images).square().mean().backward()
            model.zero_grad()

        def answer(model: torch.nn.Module = model, images: torch.Tensor = images) -> None:
            with torch.no_grad():
                model(images)

        times.append(milliseconds(step if training else answer, repetitions))
    print(*times)


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keeps cores busy by programs of sessions of their own, as those of other terminals are: Linux shares its time out among sessions."""
    loop = "while True: sum(range(100_000))"
    programs = [
        subprocess.Popen([sys.executable, "-c", loop], start_new_session=True) for _ in range(cores)
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main() -> None:
    """Measures all settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().one:
        measure()
        return
    rows = []
    for title, settings in SETTINGS.items():
        clean = {key: value for key, value in os.environ.items() if key not in _OURS}
        cells = []
        for others in (0, 1):
            with busy(others):
                command = [sys.executable, __file__, "--one"]
                done = subprocess.run(command, env={**clean, **settings}, capture_output=True, text=True, check=True)  # fmt: skip
            cells += [f"{float(each):.0f}" for each in done.stdout.split()]
        rows.append([title, *cells])
    what = [f"{name}, {'step' if training else 'answer'}, {n}" for name, n, training, _ in WORK]
    print(f"{hardware()}; ms, alone and beside one program")
    print(table([["setting", *what, *(f"{each}, beside" for each in what)], *rows]))


if __name__ == "__main__":
    main()
