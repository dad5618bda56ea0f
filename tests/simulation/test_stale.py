"""Compiled functions that numba has kept are forgotten when what was compiled into them has changed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import haloformer
from haloformer.simulation.stale import FOLDERS, MODULES, drop_stale

pytest.importorskip("numba")

PACKAGE = Path(haloformer.__file__).parent


@pytest.fixture
def package(tmp_path):
    """A package of two modules, each with an index."""
    for folder, module in (("simulation", "kernels"), ("fitting", "kernel")):
        (tmp_path / folder / "__pycache__").mkdir(parents=True)
        (tmp_path / folder / f"{module}.py").write_text("")
        (tmp_path / folder / "__pycache__" / f"{module}.f-1.py311.nbi").write_text("")
    return tmp_path


def aged(path, seconds):
    """Sets when a file was written, in seconds before now."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def indexes(package):
    return {path.parent.parent.name for path in package.rglob("*.nbi")}


def test_what_is_newer_than_all_modules_stays(package):
    for path in package.rglob("*.py"):
        aged(path, 60)
    assert drop_stale(package) == 0
    assert indexes(package) == {"simulation", "fitting"}


def test_a_change_of_one_module_drops_what_was_compiled_before_of_another(package):
    aged(package / "simulation" / "kernels.py", 60)
    aged(package / "fitting" / "kernel.py", 600)
    aged(next(package.rglob("kernel.f*")), 300)
    assert drop_stale(package) == 1
    assert indexes(package) == {"simulation"}


def test_a_module_from_the_future_drops_nothing(package):
    aged(package / "simulation" / "kernels.py", -3600)
    aged(package / "fitting" / "kernel.py", 60)
    assert drop_stale(package) == 0


def test_all_modules_whose_compiled_functions_use_others_are_looked_after():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if re.search(r"^@njit", text, re.M) and re.search(
            r"^from haloformer\S*kernel\S* import", text, re.M
        ):
            assert str(path.parent.relative_to(PACKAGE)) in FOLDERS, path
            assert path.match(MODULES), path
            assert "haloformer.simulation.kernels" in text, path  # which drops what is stale


TOLD = """
import numpy as np
from haloformer.fitting.composed.sums_kernel import moments
rows = np.ones((6, 4), np.float32)
moments(rows[0], 1.0, np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), rows[1], rows[1], *rows[2:], np.ones(4, np.float32), np.ones(4, np.int32))
print(rows[2, 0])
"""


def test_a_change_of_what_was_compiled_into_another_function_is_seen(tmp_path):
    """In a copy of the package, in which another exponential is put into the noise of the fit."""
    shutil.copytree(PACKAGE, tmp_path / "haloformer", ignore=shutil.ignore_patterns("*.nb[ic]"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)

    def answer():
        return subprocess.run([sys.executable, "-c", TOLD], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout  # fmt: skip

    before = answer()
    assert answer() == before
    changed = tmp_path / "haloformer" / "simulation" / "kernels.py"
    text = changed.read_text()
    assert "f(1.4426950408889634)" in text
    changed.write_text(text.replace("f(1.4426950408889634)", "f(1.1)"))
    assert answer() != before
