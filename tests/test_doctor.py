"""``haloformer doctor``: what it tells of an installation, and of a broken one."""

import json
from importlib import metadata

import pytest
import torch

from haloformer.cli import examination, main
from haloformer.simulation import Simulator


def test_a_sound_installation_is_found_sound(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "nothing is wrong" in told
    assert metadata.version("torch") in told
    assert "6 of 6 converged" in told


def test_as_json_it_says_the_same(capsys, monkeypatch):
    monkeypatch.setattr(examination, "_trials", lambda problems: {})
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    assert told["packages"]["timm"] == metadata.version("timm")
    assert "tune" in told["optional parts"]


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"timm": "1.0.2"}, "timm 1.0.2, >=1.0.31 is needed: pip install 'timm>=1.0.31'"),
        ({"h5py": None}, "h5py is missing, >=3.10 is needed"),
    ],
)
def test_packages_that_are_old_or_missing_are_named_with_what_to_install(
    monkeypatch, capsys, versions, message
):
    real = examination._version
    monkeypatch.setattr(
        examination, "_version", lambda name: versions[name] if name in versions else real(name)
    )
    monkeypatch.setattr(examination, "_trials", lambda problems: {})
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert f"✗ {message}" in told
    assert "nothing is wrong" not in told


def test_a_newer_version_than_the_least_is_enough(monkeypatch):
    monkeypatch.setattr(examination, "_version", lambda name: "99.0")
    problems = []
    examination._packages(problems)
    assert [each for each in problems if "needed" in each] == []


def test_extras_that_are_not_there_are_no_problem_but_said(monkeypatch):
    real = examination._version
    monkeypatch.setattr(
        examination, "_version", lambda name: None if name == "optuna" else real(name)
    )
    assert (
        examination._extras()["tune"]
        == "missing optuna: pip install '.[tune]' (in haloformer's checkout)"
    )


def test_what_cannot_be_computed_is_said_and_the_rest_still_tried(monkeypatch):
    real = Simulator.batch

    def broken(self, numbers):
        if self.backend == "numba":
            raise RuntimeError("LLVM is not there")
        return real(self, numbers)

    monkeypatch.setattr(Simulator, "batch", broken)
    problems = []
    found = examination._trials(problems)
    assert problems == ["simulation by numba fails: RuntimeError: LLVM is not there"]
    assert found["simulation by torch"] == "works"
    assert found["fit of the smooth lens"].startswith("works")


def test_backends_that_differ_are_a_problem(monkeypatch):
    real = Simulator.batch

    def wrong(self, numbers):
        found = real(self, numbers)
        if self.backend == "numba":
            found.images[:, :, 3, 3] += 0.01 * found.images.max()
        return found

    monkeypatch.setattr(Simulator, "batch", wrong)
    problems = []
    examination._trials(problems)
    assert len(problems) == 1
    assert "differ by" in problems[0]


def test_a_full_disk_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(
        examination.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5e7})
    )
    problems = []
    examination._storage(problems)
    assert any(
        "only 0.1 GB are free" in each or "only 0.0 GB are free" in each for each in problems
    )


def test_a_gpu_that_pytorch_was_not_built_for_is_a_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(examination.shutil, "which", lambda name: f"/bin/{name}")
    problems = []
    examination._computing(problems)
    assert len(problems) == 1
    assert "built for CUDA" in problems[0]
