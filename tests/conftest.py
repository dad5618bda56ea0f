"""Fixtures that several folders share."""

import dataclasses
import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
from filelock import FileLock

# Workers side by side share the cores: a thread that has to wait for one which another worker's thread is on costs both. Read by torch
# when it is imported, and by what the tests start.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# As commands have it: huge pages may cost far more than they gain. The workers of pytest-xdist read it before they load NumPy.
os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")

# A shell starts what runs in its background deaf to Ctrl-C, and children inherit that; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Begun early: one of them begun last would leave the other processes with nothing to do. And those that fork are together,
# so that one process imports for all of them.
LONG = {
    "test_cli.py",
    "test_scale.py",
    "test_package.py",
    "test_examples.py",
    "test_resume.py",
    "test_distributed.py",
    "test_search.py",
    "test_study.py",
    "test_export.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of data first, then the long files; within and among the others the order stays.

    Those of data fork most, for each HDF5 file that is opened, which takes longer the more a process has in its memory.
    """
    items.sort(key=lambda item: (item.path.parent.name != "data", item.path.name not in LONG))
    if any(item.get_closest_marker("cuda") for item in items):
        import torch

        skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Spares the garbage collector what lives to the end: half a million objects of libraries and tests, searched each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


# What most of the processes that tests start import, in seconds each.
PRELOADED = [
    "haloformer.training.engine",
    "haloformer.prediction.predictor",
    "haloformer.data.shards",
]

# How a forked process begins: where it is told, with the output that it is told.
BEGINNING = """
import os, sys
os.environ.clear()
os.environ.update(environment)
os.chdir(folder)
for descriptor, path in enumerate(outputs, 1):
    os.dup2(os.open(path, os.O_WRONLY), descriptor)
sys.exit(function(*arguments))
"""


class Forked:
    """A process that calls a function; used as one of `subprocess.Popen`, with pipes for its output."""

    def __init__(self, context: BaseContext, folder: Path, function: Callable, *arguments):
        self._outputs = [folder / "stdout", folder / "stderr"]
        for path in self._outputs:
            path.touch()
        names = {
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "outputs": [str(path) for path in self._outputs],
            "function": function,
            "arguments": arguments,
        }
        self._process = context.Process(target=exec, args=(BEGINNING, names))
        self._process.start()
        self.kill = self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits until the process has ended; returns what it wrote to standard output and error."""
        self._process.join(timeout)
        assert self.poll() is not None, "it did not end in time"
        out, err = (path.read_text(encoding="utf-8") for path in self._outputs)
        return out, err

    @property
    def returncode(self) -> int | None:
        return self.poll()


@pytest.fixture(scope="session")
def fork_server() -> BaseContext:
    """Starts processes by forking one that has imported PyTorch and ours: each new one is spared that.

    For tests of what processes do; not of how they start and end when all has gone well, and not of several that train
    together, for Lightning reads a process's rank when it is imported.
    """
    if sys.platform != "linux":  # libraries of macOS do not survive a fork, and Windows has none
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()  # in these surroundings, not in those of one test
    return context


@pytest.fixture(scope="session")
def forked(fork_server, tmp_path_factory):
    """Starts `function(*arguments)` in a process of its own."""
    return lambda *call: Forked(fork_server, tmp_path_factory.mktemp("forked"), *call)


@pytest.fixture
def forked_workers(fork_server, monkeypatch):
    """Worker processes that are forked rather than spawned; `io/test_jobs.py` has those as they are."""
    monkeypatch.setattr("haloformer.io.jobs.SpawnProcess", fork_server.Process)


@pytest.fixture
def opened_at_once(monkeypatch):
    """HDF5 files are opened without a process that tries each first: where all are whole, most time would go into forking it.

    For tests of what comes after; those of `data` are about the files.
    """
    for module in ("data.conversion", "data.dataset", "readers.unpacked"):
        monkeypatch.setattr(f"haloformer.{module}.survives_hdf5", lambda path, check: None)


_STARTING_POINTS: dict = {}


@pytest.fixture(scope="session", autouse=True)
def _all_of_the_disk():
    """Prepared images are stored however little of the disk is free: tests store little, and say how much they found."""
    from haloformer.data import prepared

    prepared.LEAST_FREE = 0


@pytest.fixture(scope="module", autouse=True)
def _rendered_once(request):
    """The images with which a fit begins are rendered once for each problem and not for each fitter, which takes longer than a fit."""
    # None of the collected tests fits; or they trace what a fit does, and tracing leaves its own tensors there.
    if "haloformer.fitting.start" not in sys.modules or request.path.name == "test_export.py":
        yield
        return
    import torch

    from haloformer.fitting.behind import kernel_serves
    from haloformer.fitting.start import StartingPoints
    from haloformer.simulation import describe_survey

    of, made = StartingPoints.of, _STARTING_POINTS

    def known(model):
        if torch.is_inference_mode_enabled():
            return of(model)  # tensors that do not serve elsewhere
        problem, device = model.problem, model.problem.axis.device
        key = (
            json.dumps(describe_survey(problem.survey)),
            *(problem.size, problem.noise, problem.names, str(device), kernel_serves(device)),
        )
        if key not in made:
            made[key] = of(model)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StartingPoints, "of", known)
        yield


def _save_png(figure, stem: Path) -> list[Path]:
    import matplotlib

    from haloformer.reporting import style

    with matplotlib.rc_context(style.STYLE):
        figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=50)
    figure.set_layout_engine("none")  # as `style.save` leaves it
    return [stem.with_name(f"{stem.name}.png")]


@pytest.fixture(scope="session")
def save_png() -> Callable:
    """What draws a figure and writes it as `style.save` does, but as a small PNG alone: the other forms take longest."""
    return _save_png


@pytest.fixture
def unsaved(monkeypatch):
    """Draws for the page alone: an empty file stands for those of each figure, whose writing is the slow part."""

    def touch(figure, stem: Path) -> list[Path]:
        stem.with_name(f"{stem.name}.png").touch()
        return [stem.with_name(f"{stem.name}.png")]

    monkeypatch.setattr("haloformer.reporting.style.save", touch)


@pytest.fixture
def unpictured(unsaved, monkeypatch):
    """Draws, but not for the page either, where an empty element stands for each figure: for tests of what else is on it."""
    from markupsafe import Markup

    monkeypatch.setattr(
        "haloformer.reporting.style.inline_svg",
        lambda figure, name: Markup('<svg id="{}-figure"></svg>').format(name),
    )


@pytest.fixture(scope="session")
def write_untrained_run():
    """A function that writes a run folder with the artefact of a small untrained network, by default a transformer."""
    import torch
    from safetensors.torch import save_file

    from haloformer.models import create_model

    def write(
        run: Path, depth: int, normalization: dict, noise: str, model: str = "vit_nano"
    ) -> Path:
        (run / "artefact").mkdir(parents=True)
        torch.manual_seed(0)
        kwargs = {"depth": depth} if model == "vit_nano" else {}
        network = create_model(model, img_size=64, **kwargs)
        save_file(network.state_dict(), run / "artefact" / "weights.safetensors")
        artefact = {
            "format": 1,
            "model": {
                "name": model,
                "img_size": 64,
                "in_chans": 1,
                "num_classes": 3,
                "kwargs": kwargs,
            },
            "class_names": ["axion", "cdm", "no_sub"],
            "normalization": normalization,
            "image_shape": [1, 64, 64],
            "survey": "model_ii",
            "noise": noise,
            "pixel_scale": 0.101,
            "training": {
                "data": "model_ii",
                "seed": 0,
                "train_seed": 10,
                "val_seed": 11,
                "epochs": 2,
                "best_epoch": 1,
            },
        }
        (run / "artefact" / "artefact.json").write_text(json.dumps(artefact))
        return run

    return write


@pytest.fixture(scope="session")
def train_once(tmp_path_factory):
    """A function of the options of `train` that returns the result of a run with them, not to be changed.

    Whichever test asks first trains it; later ones find it, in all processes of the session.
    """
    from haloformer.training import RunResult, train

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared_runs"

    def run(**options):
        text = json.dumps(options, sort_keys=True)
        folder = shared / hashlib.sha256(text.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "result.json"
        with FileLock(folder / "lock"):
            if not kept.exists():
                result = train(**{"progress": False, **options, "out": str(folder / "run")})
                kept.write_text(json.dumps({**dataclasses.asdict(result), "out": str(result.out)}))
        found = json.loads(kept.read_text())
        return RunResult(**{**found, "out": Path(found["out"])})

    return run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, train_once):
    """A run folder of a tiny network after one short epoch: real, and bad at its job."""
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    result = train_once(
        data="model_ii", model="vit_nano", epochs=1, epoch_size=64, val_size=30, model_args=small
    )
    return shutil.copytree(result.out, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(autouse=True)
def no_end_of_long_commands(monkeypatch):
    """Keeps what commands print the same, however slow the machine is."""
    monkeypatch.setattr("haloformer.cli.session.LONG", float("inf"))
