"""The SLURM scripts, with stand-ins for the cluster's commands: what they would start is what haloformer takes."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from haloformer.cli import main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SLURM = {
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_JOB_NODELIST": "node[1-2]",
}
STAND_INS = {
    # srun passes its command on without its own options.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
    "scontrol": "echo node1; echo node2",
    "ray": 'echo "$@" >> ray.txt',
    "haloformer": "printf '%s\\0' \"$@\" > haloformer.txt",
}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def _started(script, folder) -> list[str]:
    """The arguments with which a script starts haloformer."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {**os.environ, **SLURM, "PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(
        ["bash", "-u", EXAMPLES / script], cwd=folder, env=environment, check=True, timeout=30
    )
    return (folder / "haloformer.txt").read_text().split("\0")[:-1]


def test_training_takes_every_gpu_of_every_node(tmp_path, capsys):
    arguments = _started("slurm_train.sh", tmp_path)
    assert main([*arguments, "--print_config"]) == 0
    experiment = yaml.safe_load(capsys.readouterr().out)
    trainer = experiment["trainer"]
    assert (trainer["devices"], trainer["nodes"], trainer["device"]) == (4, 2, "cuda")
    assert experiment["data"]["batch_size"] % (4 * 2) == 0


def test_simulation_asks_the_cluster_that_the_script_starts(tmp_path, capsys):
    arguments = _started("slurm_simulate_ray.sh", tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--print_config"])
    assert exit_.value.code == 0
    options = yaml.safe_load(capsys.readouterr().out)
    assert (options["workers"], options["ray_address"]) == (2 * 8, "node1:6379")
    until = time.monotonic() + 20  # it is started in the background
    while "start --head --port=6379" not in (said := (tmp_path / "ray.txt").read_text()):
        assert time.monotonic() < until, said
        time.sleep(0.05)
