"""What an architecture adds to the loss is trained on."""

import csv

import pytest
import torch
import torch.nn.functional as F

from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.models import create_model
from haloformer.outputs.layout import Outputs
from haloformer.training import compose, train
from haloformer.training.examples import Examples
from haloformer.training.tasks import LensTask

SMALL = {"stem_channels": [4, 8, 8, 8], "embed_dim": 16, "depth": 3, "num_heads": 2}


def test_a_vit_trains_with_its_ponder_loss(tmp_path):
    out = tmp_path / "run"
    ponder = {**SMALL, "ponder_loss_scale": 100.0, "distribution_loss_scale": 0.0}
    small = {"epochs": 1, "epoch_size": 32, "batch_size": 16, "val_size": 30, "progress": False}
    train("model_ii", "a_vit_nano", str(out), model_args=ponder, **small)
    (row,) = csv.DictReader((out / "metrics.csv").open())
    # Every token ponders for at least one block and at most three, plus a remainder of at most one.
    assert 100 < float(row["train_loss"]) < 100 * 4 + 3
    assert float(row["val_loss"]) < 3, (
        "validation is the cross-entropy alone, comparable between architectures"
    )


@pytest.mark.parametrize("size", [64, 62], ids=["native", "padded"])
def test_the_training_loss_is_cross_entropy_plus_what_the_model_adds(size):
    torch.manual_seed(0)
    model = create_model("a_vit_nano", size, ponder_loss_scale=1.0, **SMALL)
    experiment = compose(None, {"data": "model_ii", "augment": "none"})
    task = LensTask(
        model,
        Framing(),
        Normalization("none"),
        Outputs(("a", "b", "c")),
        experiment,
        steps_per_epoch=1,
    )
    images, labels = torch.randn(4, 1, size, size), torch.tensor([0, 1, 2, 0])
    logits, auxiliary_loss = model.forward_with_auxiliary_loss(images)
    assert auxiliary_loss > 1
    loss = task.training_step(Examples(images, labels, torch.zeros(4, 0), torch.zeros(4)), 0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels) + auxiliary_loss)
