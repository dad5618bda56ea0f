"""Builds the wheel and the sdist, installs each where no checkout is, and uses it.

    make release-check
    python benchmarks/release.py [--quick] [--only wheel] [--keep dist]

Each is installed into a new virtual environment outside of the checkout, with what pip finds for its
dependencies (PyTorch: up to 3 GB). There it is examined (`haloformer doctor`), tried
(`haloformer try`), and simulates, trains, evaluates, predicts and exports in small. ``--quick`` installs no
dependencies: it lends the environment those of the one that runs this. The wheel is built from the
unpacked sdist, so that what the sdist lacks is noticed. Exit code 1 if anything is wrong.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = {"wheel": 10, "sdist": 20}  # MB
STEPS = {
    "the version": "haloformer --version",
    "the help, by python -m": "python -m haloformer --help",
    "the installation": "haloformer doctor",
    "a first try": "haloformer try --out tried",
    "simulates": "haloformer simulate model_ii --n 60 --seed 1 --out x.h5",
    "trains": "haloformer train --data model_ii --out run --model resnet_nano --epochs 1 --epoch_size 64 --val_size 60 --batch_size 32",
    "evaluates": "haloformer evaluate run --data x.h5 --out tested",
    "predicts": "haloformer predict model_ii x.h5 --out x.ecsv",
    "exports": "haloformer export model_ii --format hub --out hub",
    "predicts again": "haloformer predict hub x.h5 --out y.ecsv",
}
"""What is done with an installation, in this order."""

_SAME = """
import haloformer, sys
from astropy.table import Table
assert haloformer.__file__.startswith(sys.prefix), haloformer.__file__
first, second = Table.read("x.ecsv"), Table.read("y.ecsv")
assert first["class"].tolist() == second["class"].tolist()
right = sum(a == b for a, b in zip(first["class"], first["label"]))
assert right > 50, f"{right} of 60 right"
print(f"{right} of 60 classes are right, and the exported folder says the same")
"""


def build(folder: Path) -> dict[str, Path]:
    """Builds the sdist, and the wheel from it; returns kind → file."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=ROOT)
    sdist = next(folder.glob("*.tar.gz"))
    with tempfile.TemporaryDirectory() as unpacked, tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
        (source,) = Path(unpacked).iterdir()
        _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=source)
    return {"wheel": next(folder.glob("*.whl")), "sdist": sdist}


def contents(file: Path) -> list[str]:
    """Returns the names of the files in a wheel or, without its first folder, in an sdist."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    with tarfile.open(file) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def strays(names: list[str]) -> list[str]:
    """Returns which files of an sdist are not under version control; none where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return []
    return sorted(set(names) - set(listed.stdout.splitlines()) - {"PKG-INFO"})


def problems_of(kind: str, file: Path) -> list[str]:
    """Returns what is wrong with a built file, in lines."""
    found = []
    size = file.stat().st_size / 1e6
    print(f"{kind}: {file.name}, {size:.1f} MB, {len(contents(file)):,} files", flush=True)
    if size > LARGEST[kind]:
        found.append(f"the {kind} has {size:.1f} MB, more than {LARGEST[kind]}")
    if kind == "sdist" and (more := strays(contents(file))):
        found.append(f"the sdist holds {len(more)} files that are not committed, such as {more[0]}")
    return found


def install(file: Path, folder: Path, quick: bool) -> Path:
    """Installs a built file into a new environment; returns the folder of its programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    command = [programs / "python", "-m", "pip", "install", "--quiet"]
    if quick:
        place = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (place / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
        command += ["--no-deps", "--no-build-isolation"]
    _run([*command, file], cwd=folder)
    return programs


def use(programs: Path, folder: Path) -> list[str]:
    """Carries out all steps with an installation; returns what went wrong, in lines."""
    found = []
    steps = {what: line.split() for what, line in STEPS.items()}
    steps["the same answers"] = ["python", "-c", _SAME]
    for what, (program, *arguments) in steps.items():
        began = time.perf_counter()
        done = subprocess.run(
            [programs / program, *arguments], cwd=folder, env=_surroundings(programs), capture_output=True, text=True, check=False
        )  # fmt: skip
        text = (done.stdout + done.stderr).strip()
        last = text.splitlines()[-1] if text else "said nothing"
        state = "fails" if done.returncode else "works"
        print(
            f"  {what:<24} {state}  {time.perf_counter() - began:5.1f} s  {last[:90]}", flush=True
        )
        if done.returncode:
            found.append(f"{what} ({program} {' '.join(arguments)[:80]}): {text[-600:]}")
    return found


def _surroundings(programs: Path) -> dict[str, str]:
    """Returns the environment of a user who has no checkout."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")])}


def _run(command: list[object], cwd: Path) -> None:
    environment = _surroundings(Path(str(command[0])).parent)
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def main() -> int:
    """Builds, installs, uses, and says what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="without dependencies of its own")
    parser.add_argument("--only", choices=("wheel", "sdist"), help="of the two")
    parser.add_argument("--keep", type=Path, help="folder for what was built")
    options = parser.parse_args()
    problems = []
    with tempfile.TemporaryDirectory(prefix="haloformer-release-") as name:
        folder = Path(name)
        built = build(folder / "dist")
        for kind, file in built.items():
            problems += problems_of(kind, file)
            if options.only not in (None, kind):
                continue
            began = time.perf_counter()
            programs = install(file, folder / kind, options.quick)
            print(f"installed the {kind} in {time.perf_counter() - began:.0f} s", flush=True)
            work = folder / f"{kind}-work"
            work.mkdir()
            problems += [f"{kind}: {line}" for line in use(programs, work)]
            shutil.rmtree(folder / kind)  # some GB
        if options.keep is not None:
            shutil.copytree(folder / "dist", options.keep, dirs_exist_ok=True)
    print("\n".join(problems) or "nothing is wrong")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
