"""What an installation has, and whether it works: for :mod:`haloformer.cli.doctor`."""

import dataclasses
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement

from haloformer._version import code_version
from haloformer.errors import how_to_install, kind_and_reason, reason_of
from haloformer.fitting import fit_smooth
from haloformer.simulation import Simulator

_IMAGES = range(6)


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        topics: Heading → what it is → what was found.
        problems: What is wrong, each in a line that says what to do; empty if nothing is.
    """

    topics: dict[str, dict[str, str]]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Returns it as what JSON has."""
        return {**self.topics, "problems": list(self.problems)}


def examine() -> Examination:
    """Looks at versions, devices, threads and caches, and tries to simulate and to fit."""
    problems: list[str] = []
    topics = {
        "haloformer": _ourselves(),
        "packages": _packages(problems),
        "optional parts": _extras(),
        "computing": _computing(problems),
        "caches and disk": _storage(problems),
        "does it work?": _trials(problems),
    }
    return Examination(topics, tuple(problems))


def _ourselves() -> dict[str, str]:
    return {
        "version": code_version(),
        "installed in": str(Path(__file__).resolve().parents[1]),
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def _requirements() -> dict[str, list[Requirement]]:
    """Returns what each extra needs; of "" what is always needed. Empty where nothing is installed."""
    try:
        ours = metadata.metadata("haloformer")
    except metadata.PackageNotFoundError:  # a bare checkout on PYTHONPATH
        return {"": []}
    found: dict[str, list[Requirement]] = {"": []}
    for text in ours.get_all("Requires-Dist") or ():
        need = Requirement(text)
        for extra in ("", *(ours.get_all("Provides-Extra") or ())):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                found.setdefault(extra, []).append(need)
                break
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages(problems: list[str]) -> dict[str, str]:
    found = {}
    if not _requirements()[""]:
        problems.append("haloformer runs from a folder and is not installed: pip install . there")
    for need in sorted(_requirements()[""], key=lambda need: need.name):
        version = _version(need.name)
        found[need.name] = version or "missing"
        if version is None or not need.specifier.contains(version, prereleases=True):
            problems.append(
                f"{need.name} {version or 'is missing'}, {need.specifier} is needed: "
                f"pip install '{need.name}{need.specifier}'"
            )
    torch_version, vision = _version("torch"), _version("torchvision")
    if torch_version and vision and importlib.util.find_spec("torchvision") is not None:
        try:
            import torchvision.ops  # noqa: F401 - its compiled part is for one version of torch
        except (ImportError, RuntimeError, OSError) as error:
            problems.append(
                f"torchvision {vision} does not fit torch {torch_version} ({reason_of(error, 80)}): "
                "install both together, from one index"
            )
    return found


def _extras() -> dict[str, str]:
    found = {}
    for extra, needs in sorted(_requirements().items()):
        if extra in ("", "dev", "docs"):
            continue
        missing = [need.name for need in needs if _version(need.name) is None]
        hint = f"missing {', '.join(missing)}: {how_to_install(extra)}"
        found[extra] = hint if missing else "there"
    return found


def _computing(problems: list[str]) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [
        f"{name}={os.environ[name]}"
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        if name in os.environ
    ]
    found = {
        "CPU cores": str(cores),
        "torch threads": ", ".join([str(torch.get_num_threads()), *limits]),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "compiled kernels": f"numba {_version('numba')}"
        if _version("numba")
        else "no numba: ten times slower",
    }
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            found[f"GPU {i}"] = (
                f"{torch.cuda.get_device_name(i)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
            )
    elif torch.backends.mps.is_available():
        found["GPU"] = "Apple, by mps"
    else:
        found["GPU"] = "none that PyTorch sees"
        if shutil.which("nvidia-smi") and torch.version.cuda is None:
            problems.append(
                "there seems to be an NVIDIA GPU, but PyTorch was built for CPUs: install one built for CUDA"
            )
    return found


def _storage(problems: list[str]) -> dict[str, str]:
    from torch.hub import get_dir

    found = {"temporary files": tempfile.gettempdir(), "weights of others": get_dir()}
    for name, folder in [*found.items(), ("here", ".")]:
        there = Path(folder)
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free / 1e9
        found[name] = f"{folder}, {free:.1f} GB free"
        if free < 1:
            problems.append(f"{folder}: only {free:.1f} GB are free")
        if not os.access(there, os.W_OK):
            problems.append(f"{folder} cannot be written ({name})")
    if _version("numba"):
        kernels = Path(os.environ.get("NUMBA_CACHE_DIR", Path(__file__).resolve().parents[1]))
        compiled = sum(1 for _ in kernels.rglob("*.nbc"))
        found["compiled kernels"] = f"{compiled} in {kernels}" if compiled else "none yet"
    return found


def _trials(problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    images: dict[str, np.ndarray] = {}
    ways = ["torch", *(["numba"] if _version("numba") else [])]
    devices = [*((way, "cpu") for way in ways)]
    if torch.cuda.is_available():
        devices.append(("torch", "cuda"))
    for backend, device in devices:
        name = f"simulation by {backend}{' on a GPU' if device == 'cuda' else ''}"
        try:
            simulator = Simulator("model_ii", noise="none", backend=backend, device=device, seed=1)
            images[name] = simulator.batch(_IMAGES).images.cpu().numpy()
            found[name] = "works"
        except (
            Exception
        ) as error:  # whatever is wrong with an installation is said, and the rest still tried
            found[name] = "fails"
            problems.append(f"{name} fails: {kind_and_reason(error)}")
    if len(images) > 1:
        first, *others = images.values()
        apart = max(np.abs(first - other).max() / first.max() for other in others)
        found["largest difference"] = f"{apart:.1e} of the peak"
        if apart > 1e-4:
            problems.append(f"the ways to simulate differ by {apart:.1e} of the peak")
    try:
        fit = fit_smooth(torch.as_tensor(next(iter(images.values()))), "model_ii", noise="none")
        found["fit of the smooth lens"] = (
            f"works, {int(fit.converged.sum())} of {len(_IMAGES)} converged"
        )
    except Exception as error:  # as above; no image is one reason
        found["fit of the smooth lens"] = "fails"
        problems.append(f"the fit fails: {kind_and_reason(error)}")
    return found
