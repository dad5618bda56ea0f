"""The Dockerfile, read as a linter would: pinned, small, without root. `HALOFORMER_TEST_INSTALL=1` also runs what it installs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "docker" / "install.sh"


def _instructions() -> list[list[str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def _stages() -> dict[str, list[list[str]]]:
    stages: dict[str, list[list[str]]] = {}
    for words in _instructions():
        if words[0] == "FROM":
            stages[words[-1]] = []
        stages[list(stages)[-1]].append(words)
    return stages


def test_base_images_are_pinned_to_a_patch_release():
    stages = _stages()
    bases = [words[1] for words in _instructions() if words[0] == "FROM" and words[1] not in stages]
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base), base


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_runs_is_not_root_and_holds_no_build(target):
    stage = _stages()[target]
    assert [words[1] for words in stage if words[0] == "USER"][-1] not in ("root", "0")
    assert not [words for words in stage if words[0] == "RUN"]
    assert all("--from=" in words[1] for words in stage if words[0] == "COPY")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_user_is_a_number_as_hosts_that_forbid_root_ask_for(target):
    made = next(words for words in _stages()["base"] if words[:2] == ["RUN", "useradd"])
    assert _stages()[target][-4:-2] == [["USER", made[made.index("--uid") + 1]], ["WORKDIR", "/home/lens"]]  # fmt: skip


def test_what_is_copied_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        name
        for words in _instructions()
        if words[0] == "COPY" and "--from" not in words[1]
        for name in words[1:-1]
    ]
    assert {"src", "docker/install.sh"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name


def test_no_cache_of_a_package_manager_stays():
    commands = " ".join(" ".join(words) for words in _instructions() if words[0] == "RUN")
    script = SCRIPT.read_text(encoding="utf-8")
    assert "apt" not in commands
    assert "apt" not in script
    assert "--no-cache-dir" in script


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs sh")
def test_the_script_is_sound_and_refuses_another_variant(tmp_path):
    assert subprocess.run(["sh", "-n", SCRIPT], check=False).returncode == 0
    (tmp_path / "python3").write_text("#!/bin/sh\n")  # instead of making an environment
    (tmp_path / "python3").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PREFIX": str(tmp_path / "prefix")}
    result = subprocess.run(
        ["sh", SCRIPT, "tpu"], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, "neither cpu nor cuda" in result.stderr) == (2, True)


@pytest.mark.skipif(
    "HALOFORMER_TEST_INSTALL" not in os.environ,
    reason="downloads PyTorch: set HALOFORMER_TEST_INSTALL=1",
)
def test_the_script_installs_a_working_haloformer(tmp_path):
    environment = {**os.environ, "PREFIX": str(tmp_path / "venv")}
    environment.pop("PYTHONPATH", None)
    subprocess.run(["sh", SCRIPT, "cpu"], env=environment, check=True)
    haloformer = str(tmp_path / "venv" / "bin" / "haloformer")
    made = ["simulate", "model_ii", "--n", "3", "--out", "three.h5", "--quiet"]
    subprocess.run([haloformer, *made], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "three.h5").is_file()


def test_the_page_is_a_command_with_these_options_and_open_to_this_machine_only():
    import inspect

    import yaml

    from haloformer.app import app
    from haloformer.cli import COMMANDS

    page = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["page"]
    assert page["command"][0] in COMMANDS
    options = {word.removeprefix("--") for word in page["command"] if word.startswith("--")}
    assert options <= set(inspect.signature(app).parameters)
    assert all(port.startswith("127.0.0.1:") for port in page["ports"])
    assert page["build"]["target"] in _stages()
