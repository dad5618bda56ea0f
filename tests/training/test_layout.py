"""How images and weights lie in memory while a network trains."""

import pytest
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.training import train
from haloformer.training.config import compose
from haloformer.training.hardware import Hardware
from haloformer.training.network import tuned_network
from haloformer.training.tasks import LensTask

SMALL = {"model": "resnet_nano", "epochs": 1, "epoch_size": 32, "batch_size": 16, "val_size": 24}
CPU = {"data": "model_ii", "device": "cpu", "out": "x"}
FIRST, LAST = torch.contiguous_format, torch.channels_last


def _hardware(**given):
    return Hardware.of(compose(None, {**CPU, **given}))


@pytest.mark.parametrize(
    ("given", "layout", "reason"),
    [
        ({}, LAST, "channels last (channels_last: auto; convolutions on CPUs are faster so)"),
        ({"precision": "bf16"}, FIRST, "channels first (channels_last: auto; last is for CPUs in 32 bits)"),
        ({"devices": 2, "batch_size": 32}, FIRST, "channels first (channels_last: auto; of one process alone)"),
        ({"channels_last": False}, FIRST, "channels first (as channels_last says)"),
        ({"channels_last": True, "precision": "bf16"}, LAST, "channels last (as channels_last says)"),
    ],
)  # fmt: skip
def test_the_layout_is_chosen_by_what_computes_and_says_why(given, layout, reason):
    hardware = _hardware(**given)
    assert hardware.layout is layout
    assert hardware.in_words().endswith(reason)


@pytest.mark.parametrize("last", [True, False])
def test_weights_and_images_of_a_training_lie_as_it_says(tmp_path, monkeypatch, last):
    seen = []
    step = LensTask.training_step

    def watched(self, batch, number):
        inputs = self.prepare(batch.images)
        weights = [p for p in self.model.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
        seen.append([x.is_contiguous(memory_format=LAST) for x in (inputs, *weights)])
        return step(self, batch, number)

    monkeypatch.setattr(LensTask, "training_step", watched)
    given = {**SMALL, "physics": "residual", "device": "cpu", "channels_last": last}
    train("model_ii", out=str(tmp_path / "x"), **given)
    assert len(seen) == 2
    assert all(len(each) > 5 and set(each) == {last} for each in seen)


def test_a_run_that_goes_on_with_another_layout_comes_to_the_same(tmp_path, monkeypatch):
    given = {**SMALL, "epochs": 2, "epoch_size": 96, "device": "cpu", "checkpoint_minutes": 0.0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train("model_ii", out=str(whole), **given, channels_last=False)
    step = LensTask.training_step

    def cut(self, batch, number):
        if (self.current_epoch, number) == (1, 2):
            raise RuntimeError("power cut")
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(LensTask, "training_step", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train("model_ii", out=str(parts), **given, channels_last=False)
    with pytest.raises(InputError, match="precision"):
        train("model_ii", out=str(parts), **given, precision="bf16")
    train("model_ii", out=str(parts), **given, channels_last=True)
    one, other = (
        torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for out in (whole, parts)
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


def test_weights_of_more_than_four_axes_stay_as_they_are():
    network = nn.Module()
    network.kernels = nn.Parameter(torch.randn(2, 3, 4, 5, 5))
    network.filters = nn.Parameter(torch.randn(2, 3, 5, 5))
    before = network.filters.detach().clone()
    tuned = tuned_network(network, compose(None, CPU), _hardware())
    assert tuned.kernels.is_contiguous()
    assert tuned.filters.is_contiguous(memory_format=LAST)
    assert torch.equal(tuned.filters, before)
