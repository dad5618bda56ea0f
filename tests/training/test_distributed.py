"""Two processes learn what one learns, interrupted or not: the same losses, the same weights, one set of files."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from haloformer.errors import InputError
from haloformer.training import compose, train

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without torch.distributed"
)

# No batch norm, dropout or random transform, whose statistics and random numbers are each process's own. 600 validation images
# are three batches, which two processes cannot share evenly as wholes.
OPTIONS = {
    "data": "model_ii",
    "model": "vit_nano",
    "model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2, "head_norm": "none"},
    "augment": "none",
    "epochs": 2,
    "epoch_size": 96,
    "batch_size": 32,
    "val_size": 600,
    # Not Adam, which makes whole steps of the rounding errors of gradients that should be zero, such as those of keys' biases.
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "device": "cpu",
    "progress": False,
    "loggers": [],
}
TOLERANCE = 1e-4  # relative; float32 sums in another order, over six steps


_CHILD = """
import sys
from haloformer.cli import main
from haloformer.training.callbacks import Checkpoints
from haloformer.training.tasks import LensTask
training_step = LensTask.training_step
def cut(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (1, 2):
        raise ConnectionError  # what no code of ours sees coming
    return training_step(self, batch, batch_idx)
command = ["train", "--config", sys.argv[1]]
LensTask.training_step, Checkpoints._ASK_EVERY = cut, 1
if main([*command, "--checkpoint_minutes", "0"]) != 70:
    sys.exit("no error")
LensTask.training_step = training_step
sys.exit(main(command))
"""


def _torchrun(out):
    """Trains in two processes, as a user would on two GPUs; interrupts them within the second epoch, and goes on.

    Returns:
        Standard error and exit code.
    """
    config, script = out.with_suffix(".yaml"), out.with_suffix(".py")
    config.write_text(compose(None, {**OPTIONS, "out": str(out), "devices": 2}).to_yaml())
    script.write_text(_CHILD)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            script,
            config,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        return process.communicate(timeout=240)[1], process.returncode
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes, which may wait for each other for ever
        raise


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of one process, and one of two that was interrupted and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    train(**OPTIONS, out=str(folder / "one"))
    errors, code = _torchrun(folder / "two")
    assert code == 0, errors[-3000:]
    return folder / "one", folder / "two"


def _metrics(run):
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert all(float(row["seconds"]) < 60 for row in rows)  # of the interrupted epoch, too
    return [
        {k: float(v) for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in rows
    ]


def test_losses_and_validation_metrics_are_those_of_one_process(runs):
    one, two = map(_metrics, runs)
    assert [row["epoch"] for row in two] == [1, 2]
    for mine, theirs in zip(one, two, strict=True):
        assert theirs.keys() == mine.keys()
        for name, value in mine.items():
            # AUCs are counts of pairs: of 40,000 a class, a few change places when the last digits do.
            wanted = (
                pytest.approx(value, abs=1e-3)
                if "auc" in name
                else pytest.approx(value, rel=TOLERANCE)
            )
            assert theirs[name] == wanted, name
    assert one[0]["train_loss"] != pytest.approx(
        one[1]["train_loss"], rel=10 * TOLERANCE
    )  # it did learn


def _assert_same_weights(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=TOLERANCE, atol=1e-6, msg=name)


def test_weights_are_those_of_one_process(runs):
    files = [run / "artefact" / "weights.safetensors" for run in runs]
    _assert_same_weights(*map(load_file, files))
    last = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in runs
    ]
    _assert_same_weights(*last)


def test_every_file_is_written_once(runs):
    one, two = (
        {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in runs
    )
    assert one == two
    assert (
        len(json.loads((runs[1] / "environment.json").read_text())) == 2
    )  # one entry per start, not per process
    assert json.loads((runs[1] / "finished.json").read_text())["epochs"] == 2


def test_fsdp_which_was_never_run_is_none_of_the_strategies(tmp_path):
    with pytest.raises(InputError, match="strategy must be one of 'auto' or 'ddp'"):
        train(**OPTIONS, out=str(tmp_path / "x"), devices=2, strategy="fsdp")
    assert not (tmp_path / "x").exists()


def test_fewer_validation_images_than_processes_are_refused(tmp_path):
    with pytest.raises(InputError, match="3 validation images for 4 processes"):
        train(**{**OPTIONS, "val_size": 3}, out=str(tmp_path / "x"), devices=4)
    assert not (tmp_path / "x").exists()
