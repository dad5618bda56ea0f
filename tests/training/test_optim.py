"""The optimiser's parameter groups and the learning rate's course."""

import itertools

import pytest
import torch

from haloformer.models import create_model
from haloformer.training.optim import adamw, warmup_cosine


@pytest.mark.parametrize("size", [64, 62], ids=["native", "padded"])
def test_norms_biases_and_position_embeddings_are_not_decayed(size):
    model = create_model("hybrid_nano", size)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(p)] for p in group["params"]}
        for group in adamw(model, 1e-3, 0.05).param_groups
    }
    assert set(groups) == {0.0, 0.05}
    assert len(groups[0.0]) + len(groups[0.05]) == len(names)
    assert all(name.endswith("weight") for name in groups[0.05])
    assert any(name.endswith("pos_embed") for name in groups[0.0])
    assert all(dict(model.named_parameters())[name].ndim > 1 for name in groups[0.05])


def test_learning_rate_rises_linearly_then_falls_along_a_cosine_to_almost_zero():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, total_steps=100, warmup_steps=10)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
