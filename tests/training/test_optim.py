"""The optimiser's parameter groups and the learning rate's course."""

import io
import itertools

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from timm.models import group_parameters
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.training.optim import (
    OPTIMIZERS,
    SCHEDULES,
    build_optimizer,
    build_plateau,
    build_schedule,
    scaled_lr,
)
from haloformer.training.transfer import prepare_for_tuning

STEPS, PER_EPOCH = 100, 10


@pytest.fixture
def two_groups():
    """Plain SGD of two numbers, the first of which has a tenth of the learning rate of the second."""
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 1.0}])


def course(
    optimizer: torch.optim.Optimizer, schedule: LRScheduler, steps: int = STEPS
) -> list[float]:
    """The last group's learning rate in each step."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def through_a_file(state: dict) -> dict:
    """What comes back of a state that is saved, and read as carefully as a checkpoint is."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def layers(model: nn.Module) -> tuple[nn.Module, list[list[str]]]:
    inner = model.model if hasattr(model, "padding") else model
    return inner, list(group_parameters(inner, inner.group_matcher(coarse=False)).values())


@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
@pytest.mark.parametrize("size", [64, 62], ids=["native", "padded"])
def test_norms_biases_and_position_embeddings_are_not_decayed(size, layer_decay):
    model = create_model("hybrid_nano", size)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05, layer_decay=layer_decay)
    groups: dict[float, set[str]] = {}
    for group in optimizer.param_groups:
        groups.setdefault(group["weight_decay"], set()).update(
            names[id(p)] for p in group["params"]
        )
    assert set(groups) == {0.0, 0.05}
    assert len(groups[0.0]) + len(groups[0.05]) == len(names)
    assert all(name.endswith("weight") for name in groups[0.05])
    assert any(name.endswith("pos_embed") for name in groups[0.0])
    assert all(dict(model.named_parameters())[name].ndim > 1 for name in groups[0.05])


@pytest.mark.parametrize("name", ["botnet_nano", "fastvit_nano", "swinv2_nano"])
def test_positions_scales_and_temperatures_that_timm_forgets_are_not_decayed(name):
    model = create_model(name, 64)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05)
    (decayed,) = [group["params"] for group in optimizer.param_groups if group["weight_decay"]]
    assert not [names[id(p)] for p in decayed if not names[id(p)].endswith("weight")]


@pytest.mark.parametrize("name", ["vit_nano", "swin_nano", "resnet_nano", "equivariant_c4_nano"])
@pytest.mark.parametrize("size", [64, 62])
def test_each_layer_learns_slower_than_the_one_after_it(name, size):
    model = create_model(name, size)
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    inner, names = layers(model)
    rates = [{rate[id(inner.get_parameter(name))] for name in layer} for layer in names]
    assert all(len(of_layer) == 1 for of_layer in rates)
    assert [r for (r,) in rates] == pytest.approx(
        [1e-3 * 0.5**back for back in reversed(range(len(names)))]
    )


def test_frozen_layers_are_left_out_and_change_no_other_layers_rate():
    free, frozen = create_model("vit_nano", 64), create_model("vit_nano", 64)
    prepare_for_tuning(frozen, "last_blocks", last_blocks=2)
    rates = []
    for model in (free, frozen):
        names = {id(p): name for name, p in model.named_parameters()}
        groups = build_optimizer(model, lr=1e-3, weight_decay=0.05, layer_decay=0.75).param_groups
        rates.append({names[id(p)]: group["lr"] for group in groups for p in group["params"]})
    assert (
        set(rates[1])
        == {name for name, p in frozen.named_parameters() if p.requires_grad}
        != set(rates[0])
    )
    assert rates[1].items() <= rates[0].items()


def test_a_model_that_does_not_tell_its_layers_is_refused_a_layer_decay():
    model = nn.Linear(2, 2)
    assert build_optimizer(model, lr=1e-3, weight_decay=0.1)
    with pytest.raises(InputError, match="layer_decay: Linear does not tell"):
        build_optimizer(model, lr=1e-3, weight_decay=0.1, layer_decay=0.9)
    with pytest.raises(InputError, match="at most 1"):
        build_optimizer(model, lr=1e-3, weight_decay=0.1, layer_decay=1.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_and_goes_on_exactly_from_its_saved_state(name):
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 4), torch.randn(64, 2)

    def start() -> tuple[nn.Module, torch.optim.Optimizer, LRScheduler]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 2))
        optimizer = build_optimizer(model, name=name, lr=3e-3, weight_decay=0.01)
        schedule = build_schedule(optimizer, name="cosine", total_steps=20, steps_per_epoch=5)
        return model, optimizer, schedule

    def steps(model, optimizer, schedule, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss = (model(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return losses

    whole = steps(*(run := start()), 20)
    assert whole[-1] < whole[0]
    before = start()
    steps(*before, 7)
    after = start()
    for old, new in zip(before, after):
        new.load_state_dict(through_a_file(old.state_dict()))
    assert steps(*after, 13) == whole[7:]
    assert all(torch.equal(a, b) for a, b in zip(run[0].parameters(), after[0].parameters()))


def test_momentum_and_betas_reach_the_optimizers_that_have_them():
    model = nn.Linear(2, 2)
    given = {"lr": 1e-3, "weight_decay": 0.0, "momentum": 0.8, "betas": (0.7, 0.95)}
    assert build_optimizer(model, name="adamw", **given).defaults["betas"] == (0.7, 0.95)
    assert build_optimizer(model, name="lion", **given).defaults["betas"] == (0.7, 0.95)
    sgd = build_optimizer(model, name="sgd", **given).defaults
    assert (sgd["momentum"], sgd["nesterov"]) == (0.8, True)


def test_fused_adamw_takes_the_same_steps_and_lets_lightning_clip_gradients():
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        optimizer = build_optimizer(model, lr=1e-2, weight_decay=0.1, fused=fused)
        assert bool(optimizer.defaults["fused"]) == fused
        for _ in range(5):
            model(torch.ones(2, 8)).square().sum().backward()
            MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 1.0)
            optimizer.step()
        weights.append(model.weight)
    torch.testing.assert_close(*weights)


def test_unknown_names_suggest_the_nearest(two_groups):
    with pytest.raises(InputError, match="unknown optimizer 'adamv': did you mean 'adam"):
        build_optimizer(nn.Linear(2, 2), name="adamv", lr=1.0, weight_decay=0.0)
    with pytest.raises(InputError, match="unknown schedule 'cosin': did you mean 'cosine'"):
        build_schedule(two_groups, name="cosin", total_steps=STEPS, steps_per_epoch=PER_EPOCH)


def test_cosine_rises_linearly_then_falls_to_its_least(two_groups):
    schedule = build_schedule(
        two_groups, name="cosine", total_steps=STEPS, steps_per_epoch=PER_EPOCH, min_lr=0.2
    )
    rates = course(two_groups, schedule, STEPS + 5)
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.6, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[STEPS:] == pytest.approx([0.2] * 5), "steps past the last do no harm"


def test_step_falls_by_gamma_every_so_many_epochs_but_not_below_the_least(two_groups):
    options = {
        "total_steps": STEPS,
        "steps_per_epoch": PER_EPOCH,
        "step_size": 3,
        "gamma": 0.1,
        "min_lr": 0.005,
    }
    rates = course(two_groups, build_schedule(two_groups, name="step", **options))
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert [rates[step] for step in (10, 29, 30, 59, 60, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.005]
    )


def test_one_cycle_is_torchs(two_groups):
    schedule = build_schedule(
        two_groups,
        name="one_cycle",
        total_steps=STEPS,
        steps_per_epoch=PER_EPOCH,
        warmup=0.3,
        min_lr=0.001,
    )
    rates = course(two_groups, schedule)
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    torchs = OneCycleLR(
        reference,
        1.0,
        STEPS,
        pct_start=0.3,
        div_factor=25,
        final_div_factor=1 / 25 / 0.001,
        cycle_momentum=False,
    )
    assert rates == pytest.approx(course(reference, torchs))


def test_constant_stays_after_its_rise(two_groups):
    rates = course(
        two_groups,
        build_schedule(two_groups, name="constant", total_steps=STEPS, steps_per_epoch=PER_EPOCH),
    )
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:] == pytest.approx([1.0] * 90)


def test_plateau_falls_when_validation_stops_improving_also_during_the_rise(two_groups):
    warmup = build_schedule(
        two_groups, name="plateau", total_steps=STEPS, steps_per_epoch=PER_EPOCH, warmup=0.4
    )
    plateau = build_plateau(two_groups, gamma=0.5, plateau_patience=1, min_lr=0.2)
    rates = []
    for auc in (
        0.5,
        0.6,
        0.6,
        0.6,
        0.7,
        0.7,
        0.7,
        0.7,
        0.7,
        0.7,
    ):  # the fourth does not beat the second
        rates += course(two_groups, warmup, PER_EPOCH)
        plateau.step(torch.tensor(auc))
    assert rates[39] == pytest.approx(40 / 41)
    assert rates[40::10] == pytest.approx([0.5, 0.5, 0.5, 0.25, 0.25, 0.2]), (
        "and no lower than min_lr"
    )
    assert two_groups.param_groups[0]["lr"] == pytest.approx(0.02), "in proportion in all groups"

    two_groups.param_groups[0]["lr"], two_groups.param_groups[1]["lr"] = 0.1, 1.0
    early = build_schedule(
        two_groups, name="plateau", total_steps=STEPS, steps_per_epoch=PER_EPOCH, warmup=0.4
    )
    plateau = build_plateau(two_groups, gamma=0.5, plateau_patience=0)
    course(two_groups, early, 20)
    for auc in (0.6, 0.6):
        plateau.step(auc)
    assert course(two_groups, early, 40)[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_on_exactly_from_its_saved_state(name, warmup):
    options = {
        "name": name,
        "total_steps": STEPS,
        "steps_per_epoch": PER_EPOCH,
        "warmup": warmup,
        "step_size": 2,
    }

    def start() -> tuple[torch.optim.Optimizer, LRScheduler, LRScheduler]:
        slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 1.0}])
        return (
            optimizer,
            build_schedule(optimizer, **options),
            build_plateau(optimizer, plateau_patience=1),
        )

    def epochs(optimizer, schedule, plateau, count: int) -> list[float]:
        rates = []
        for _ in range(count):
            rates += course(optimizer, schedule, PER_EPOCH)
            if name == "plateau":
                plateau.step(0.5)
        return rates

    whole = epochs(*start(), 10)
    before, after = start(), start()
    epochs(*before, 4)
    for old, new in zip(before, after):
        new.load_state_dict(through_a_file(old.state_dict()))
    assert epochs(*after, 6) == whole[40:]
    slow, fast = (group["lr"] for group in after[0].param_groups)
    assert slow == pytest.approx(0.1 * fast), "layers keep the ratio of their learning rates"


@pytest.mark.parametrize(
    ("name", "lr_batch", "batch_size", "factor"),
    [
        ("adamw", None, 512, 1.0),
        ("adamw", 64, 64, 1.0),
        ("adamw", 64, 256, 2.0),
        ("lion", 64, 16, 0.5),
        ("lamb", 64, 256, 2.0),
        ("sgd", 64, 256, 4.0),
        ("lars", 64, 256, 4.0),
    ],
)
def test_learning_rate_of_another_batch_size(name, lr_batch, batch_size, factor):
    assert scaled_lr(1e-3, lr_batch, batch_size, name) == pytest.approx(factor * 1e-3)


def test_sgd_without_momentum_is_the_plain_step():
    weight = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(weight, name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0)
    before = weight.weight.item()
    for _ in range(2):
        weight.weight.grad = torch.ones_like(weight.weight)
        optimizer.step()
    assert weight.weight.item() == pytest.approx(before - 0.2)
