"""An interruption at any moment costs at most the time since the last save, and changes nothing of the result."""

import csv
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping

from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.simulation import simulate
from haloformer.training import train
from haloformer.training.callbacks import Checkpoints
from haloformer.training.config import compose, read_config
from haloformer.training.export import Exporter
from haloformer.training.feeds import open_feed
from haloformer.training.tasks import LensTask

pytestmark = pytest.mark.usefixtures("opened_at_once")

SMALL = {
    "epochs": 3,
    "epoch_size": 96,
    "batch_size": 16,
    "val_size": 60,
    "lr": 3e-3,
    "device": "cpu",
    "progress": False,
    # Dropout and stochastic depth draw random numbers: resuming must repeat them, too.
    "model_args": {
        "stem_channels": [8, 8, 8, 8],
        "embed_dim": 32,
        "depth": 2,
        "drop_path_rate": 0.2,
        "proj_drop_rate": 0.1,
    },
}


@pytest.fixture(scope="module")
def run(train_once):
    """The folder of a finished run on simulated images."""
    return train_once(data="model_ii", **SMALL).out


def _assert_same(whole, out):
    """Weights, optimiser steps and metrics of two runs are the same to the last bit."""
    for part in ("last", "best"):
        a = torch.load(whole / "checkpoints" / f"{part}.ckpt", weights_only=True)
        b = torch.load(out / "checkpoints" / f"{part}.ckpt", weights_only=True)
        assert all(
            torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"]
        )
        assert a["global_step"] == b["global_step"]
    mine, theirs = (
        list(csv.DictReader((folder / "metrics.csv").open())) for folder in (whole, out)
    )
    for row in (*mine, *theirs):
        row.pop("seconds"), row.pop("images_per_second")
    assert mine == theirs


_CHILD = """
import time, torch
from haloformer.training import train
from haloformer.training.callbacks import History
start = History.on_train_epoch_start
def unhurried(self, trainer, module):  # or the run might end before the signal arrives
    time.sleep(0.5)
    start(self, trainer, module)
History.on_train_epoch_start = unhurried
torch.set_num_threads(threads)
train("model_ii", out=out, **options)
"""


def _wait_for_an_epoch(out, child):
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "last.ckpt").exists():
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate(1)
        time.sleep(0.002)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_of_a_killed_process_the_resumed_run_has_the_same_weights_bit_for_bit(
    run, forked, tmp_path
):
    out = tmp_path / "interrupted"
    child = forked(
        exec, _CHILD, {"out": str(out), "options": SMALL, "threads": torch.get_num_threads()}
    )
    _wait_for_an_epoch(out, child)
    child.kill()
    child.communicate(timeout=300)
    assert child.returncode != 0
    assert not (out / "finished.json").exists()
    assert (out / "artefact" / "artefact.json").exists()  # what was best so far is usable

    train("model_ii", out=str(out), **SMALL)
    _assert_same(run, out)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "term"])
def test_interrupted_and_resumed_run_has_the_same_weights_bit_for_bit(
    run, tmp_path, monkeypatch, sign
):
    out = tmp_path / "interrupted"
    training_step = LensTask.training_step

    def signalled(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            os.kill(os.getpid(), sign)
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LensTask, "training_step", signalled)
        # How Python ends with a traceback, or with the code that a shell gives to what SIGTERM ended
        with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
            train("model_ii", out=str(out), **SMALL)
    if sign == signal.SIGINT:
        assert ended.type is KeyboardInterrupt
    if sign == signal.SIGTERM:
        assert ended.value.code == 128 + signal.SIGTERM
    assert not (out / "finished.json").exists()
    assert (out / "artefact" / "artefact.json").exists()

    train("model_ii", out=str(out), **SMALL)
    _assert_same(run, out)


class PowerCut(Exception):
    """What no code of ours sees coming."""


def _interrupted_at(monkeypatch, epoch, step, **options):
    """Trains until a step, which never comes; everything before it was saved."""
    training_step = LensTask.training_step

    def cut(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, step):
            raise PowerCut
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LensTask, "training_step", cut)
        with pytest.raises(PowerCut):
            train(**options, checkpoint_minutes=0.0)


def test_a_run_does_not_go_on_with_other_images(tmp_path, monkeypatch):
    for seed, name in ((1, "one"), (2, "other")):
        lenses = simulate("model_ii", 120, seed=seed)
        labels, names = lenses.labels, lenses.class_names
        write_dataset(tmp_path / f"{name}.h5", lenses.images, labels, {}, names)
    shutil.copy(tmp_path / "one.h5", tmp_path / "data.h5")
    small = {k: v for k, v in SMALL.items() if k != "val_size"}
    options = {**small, "data": str(tmp_path / "data.h5"), "out": str(tmp_path / "run")}
    _interrupted_at(monkeypatch, 1, 1, **options)
    shutil.copy(tmp_path / "other.h5", tmp_path / "data.h5")
    with pytest.raises(InputError, match="began with other images"):
        train(**options)
    shutil.copy(tmp_path / "one.h5", tmp_path / "data.h5")
    assert train(**options).epochs == SMALL["epochs"]


def test_a_run_does_not_go_on_with_another_survey_of_the_same_name(tmp_path, monkeypatch):
    survey = tmp_path / "mine.yaml"
    shallow = "base: model_ii\ninstrument: {base: euclid_vis, exposure_time: 300}\n"
    survey.write_text(shallow)
    options = {**SMALL, "data": str(survey), "out": str(tmp_path / "run")}
    _interrupted_at(monkeypatch, 1, 1, **options)
    survey.write_text(shallow.replace("300", "3000"))
    with pytest.raises(InputError, match="began with other images"):
        train(**options)
    survey.write_text("# as it was\n" + shallow)
    assert train(**options).epochs == SMALL["epochs"]


def test_of_epochs_with_the_same_auc_the_one_of_the_smaller_loss_is_kept():
    checkpoints = object.__new__(Checkpoints)
    checkpoints.sign, checkpoints.metric = 1.0, "val_macro_auc"
    first, later = ({"val_macro_auc": 1.0, "val_loss": loss} for loss in (1.38, 0.62))
    assert checkpoints._quality(later) > checkpoints._quality(first)
    assert checkpoints._quality({**first, "val_macro_auc": 0.9}) < checkpoints._quality(first)


RECIPES = {
    "stream": {},
    "average_of_weights": {"ema": 0.9, "mixup": 0.2, "cutmix": 1.0},
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "optimizer": "sgd", "lr": 0.05},
    "one_cycle": {"schedule": "one_cycle"},
    "fresh_noise": {
        "n_images": 150,
        "fresh_noise": "instrument",
        "exposure": [0.5, 2.0],
        "rotation": 20.0,
        "erasing": 0.5,
    },
    "both_tasks": {"task": "both", "targets": ["log10_m_axion", "log10_m_subhalos"]},
    "head_only": {"tune": "probe"},
}


@pytest.mark.parametrize("recipe", ["stream", "fresh_noise", "both_tasks"])
def test_an_epoch_goes_on_with_the_batches_that_it_would_have_had(recipe, tmp_path):
    options = {"data": "model_ii", **SMALL, **RECIPES[recipe], "out": str(tmp_path / "x")}
    feed = open_feed(compose(None, options))
    for epoch in (0, 2):
        whole = list(feed.epoch(epoch, 0, (0, 1)))
        assert len(whole) == feed.steps
        for first in range(feed.steps):
            rest = list(feed.epoch(epoch, first, (0, 1)))
            assert len(rest) == feed.steps - first
            for batch, again in zip(whole[first:], rest, strict=True):
                assert all(
                    torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(batch, again)
                )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_power_cut_within_an_epoch_changes_nothing(recipe, train_once, tmp_path, monkeypatch):
    options = {"data": "model_ii", **SMALL, **RECIPES[recipe]}
    whole = train_once(**options).out
    out = str(tmp_path / "cut")
    if recipe == "stream":
        _interrupted_at(monkeypatch, 0, 3, **options, out=out)
    # Six steps an epoch: the last of one, and one in the middle of another.
    _interrupted_at(monkeypatch, 0, 5, **options, out=out)
    _interrupted_at(monkeypatch, 2, 2, **options, out=out)
    train(**options, out=out)
    _assert_same(whole, tmp_path / "cut")


def _after_two_epochs(epoch, metrics):
    return epoch == 2


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    "why", [{"patience": 2}, {"on_epoch": _after_two_epochs}], ids=["patience", "hook"]
)
@pytest.mark.parametrize("when", ["last_step", "calibration"])
def test_a_run_that_was_stopped_early_trains_no_further_when_resumed(
    why, when, tmp_path, monkeypatch
):
    options = {"data": "model_ii", **SMALL, **why, "epochs": 6}
    # No epoch is an improvement, so patience ends the run as soon as it can.
    monkeypatch.setattr(EarlyStopping, "monitor_op", lambda self, value, best: False)
    whole = train(**options, out=str(tmp_path / "whole"))
    assert whole.epochs == 2
    training_step = LensTask.training_step

    def terminated(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 5):
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, batch, batch_idx)

    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch:
        if when == "last_step":
            patch.setattr(LensTask, "training_step", terminated)
        else:
            patch.setattr(Exporter, "calibrate", cut)
        with pytest.raises((SystemExit, PowerCut)):
            train(**options, out=str(tmp_path / "cut"))
    assert not (tmp_path / "cut" / "finished.json").exists()
    resumed = train(**options, out=str(tmp_path / "cut"))
    assert (resumed.epochs, resumed.best_epoch) == (whole.epochs, whole.best_epoch)
    _assert_same(whole.out, resumed.out)
    weights = [out / "artefact" / "weights.safetensors" for out in (whole.out, resumed.out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_power_cut_within_an_epoch_of_a_file_changes_nothing(tmp_path, monkeypatch):
    batch = simulate("model_ii", 240, seed=3)
    file = tmp_path / "train.h5"
    write_dataset(
        file, batch.images, batch.labels, batch.parameters, batch.class_names, batch.attributes
    )
    options = {"data": str(file), **SMALL, "num_workers": 1}
    train(**options, out=str(tmp_path / "whole"))
    monkeypatch.setattr(
        "haloformer.training.batches.MEMORY_BUDGET", 0
    )  # now read by a worker process
    _interrupted_at(monkeypatch, 1, 2, **options, out=str(tmp_path / "cut"))
    train(**options, out=str(tmp_path / "cut"))
    _assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_run_can_be_repeated_from_its_configuration_alone(run, tmp_path, capsys):
    from haloformer.cli import main

    assert (
        main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    )
    _assert_same(run, tmp_path / "again")


def test_a_save_in_between_does_not_overwrite_good_weights_with_nan(tmp_path, monkeypatch):
    out = tmp_path / "x"
    training_step = LensTask.training_step

    def spoilt(self, batch, batch_idx):
        loss = training_step(self, batch, batch_idx)
        if (self.current_epoch, batch_idx) == (1, 2):
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(LensTask, "training_step", spoilt)
    with pytest.raises(
        InputError, match=r"the loss became nan in epoch 2, step 4, .*weights had become so"
    ):
        train("model_ii", out=str(out), **SMALL, checkpoint_minutes=0.0)
    saved = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6 + 2
    assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("state_dict", {}),
        ("state_dict", {"model.cls_token": torch.zeros(1)}),
        ("loops", {}),
        ("callbacks", {"Checkpoints": 5}),
        ("optimizer_states", [{"state": 5, "param_groups": []}]),
        ("pytorch-lightning_version", "x"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(trained_run, tmp_path, part, value):
    out = tmp_path / "run"
    shutil.copytree(trained_run, out)
    (out / "finished.json").unlink()
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, part: value}, out / "checkpoints" / "last.ckpt")
    options = read_config(out / "config.yaml").flat()
    with pytest.raises(InputError, match=r"last\.ckpt: the run cannot go on from it") as caught:
        train(**{**options, "out": str(out), "progress": False})
    assert "\n" not in str(caught.value)
