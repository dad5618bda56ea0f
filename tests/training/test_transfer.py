"""What learns in a pretrained network, and that the rest stays exactly as it was."""

import copy
import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.head import classifier_names
from haloformer.training.optim import build_optimizer
from haloformer.training.transfer import (
    TUNING,
    frozen_modules_to_eval,
    merged_weights,
    plain_model,
    prepare_for_tuning,
    trainable_parameters,
)

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
EVERYONE = [
    "vit_nano", "hybrid_nano", "swin_nano", "pvt_nano", "cct_nano", "resnet_nano", "equivariant_c4_nano",
    "equivariant_d4_nano", "convnext_lens_nano", "cvt_nano", "crossformer_nano", "crossvit_nano", "efficientformer_nano",
    "pit_nano", "a_vit_nano",
]  # fmt: skip
# Among them two heads, attention that takes its weight without calling the layer (Swin V2, EVA), and parts used twice (CoaT).
WITH_LINEAR_LAYERS = [
    "vit_nano", "hybrid_nano", "swin_nano", "cct_nano", "resnet_nano", "convnext_lens_nano", "efficientformer_nano",
    "pit_nano", "swinv2_nano", "eva02_nano", "coat_nano",
]  # fmt: skip
DROPPING = {
    "drop_path_rate": 0.5,
    "attn_drop_rate": 0.5,
    "proj_drop_rate": 0.5,
    "pos_drop_rate": 0.5,
}


def build(name: str, size: int = 64, **kwargs) -> nn.Module:
    """A model none of whose weights are zero, so that everything that is connected gets a gradient."""
    torch.manual_seed(0)
    model = create_model(name, size, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def inner(model: nn.Module) -> nn.Module:
    return model.model if hasattr(model, "padding") else model


def images(size: int = 64) -> Tensor:
    return torch.randn(4, 1, size, size, generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, size: int = 64) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images(size))


def train(
    model: nn.Module, steps: int = 3, size: int = 64, between=lambda model: None
) -> nn.Module:
    optimizer = build_optimizer(model, lr=3e-3, weight_decay=0.05)
    for step in range(steps):
        torch.manual_seed(step)
        model.train()
        frozen_modules_to_eval(model)
        out = model(images(size))
        out = (
            sum(out) if isinstance(out, tuple) else out
        )  # distilled models have two heads in training
        optimizer.zero_grad()
        F.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        between(model)
    return model


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", EVERYONE)
def test_probe_trains_the_classifier_and_nothing_else_even_with_dropout_and_batch_norm(name):
    try:
        model = build(name, **DROPPING)
    except InputError:  # not all architectures have all kinds
        model = build(name, drop_path_rate=0.5)
    assert prepare_for_tuning(model, "probe") is model
    classifiers = classifier_names(model)
    seen: list[Tensor] = []
    for classifier in classifiers:
        model.get_submodule(classifier).register_forward_pre_hook(
            lambda _, args: seen.append(args[0].detach())
        )
    before = state(model)
    train(model, steps=2)
    first, second = seen[: len(classifiers)], seen[len(classifiers) :]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), (
        "the frozen part is a fixed function"
    )
    learned = changed(before, state(model))
    assert all(name.startswith(classifiers) for name in learned)
    assert {f"{c}.weight" for c in classifiers} <= learned


def test_the_batch_norm_before_our_classifiers_is_part_of_them():
    model = build("vit_nano")
    before = state(model)
    learned = changed(before, state(train(prepare_for_tuning(model, "probe"))))
    assert {
        "head.norm.weight",
        "head.norm.bias",
        "head.norm.running_mean",
        "head.norm.running_var",
    } <= learned


def test_dropout_before_a_probed_classifier_still_drops():
    model = prepare_for_tuning(build("vit_nano", drop_rate=0.5), "probe").train()
    frozen_modules_to_eval(model)
    assert model.head_drop.training
    assert not model.pos_drop.training


@pytest.mark.parametrize("name", EVERYONE)
def test_last_blocks_trains_the_end_of_the_network_alone(name):
    model = prepare_for_tuning(build(name), "last_blocks")
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert 0 < sum(flags.values()) < len(flags)
    before = state(model)
    learned = changed(before, state(train(model)))
    parts = {name.rpartition(".")[0] for name, learns in flags.items() if learns}
    assert {name for name, learns in flags.items() if learns} - learned <= {
        n for n in flags if n.endswith("bias")
    }
    assert {name.rpartition(".")[0] for name in learned} <= parts, (
        "no running statistics of frozen parts"
    )
    assert all(flags[f"{name}.weight"] for name in classifier_names(inner(model)))


@pytest.mark.parametrize("size", [64, 62], ids=["native", "padded"])
def test_two_last_blocks_of_a_vit_are_those_two_its_norm_and_its_head(size):
    model = prepare_for_tuning(build("vit_nano", size), "last_blocks", last_blocks=2)
    learning = {name for name, p in inner(model).named_parameters() if p.requires_grad}
    assert {name.split(".")[0] if "blocks" not in name else name[:8] for name in learning} == {
        "blocks.4", "blocks.5", "norm", "head",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vit_nano", "pit_nano"])
def test_more_last_blocks_than_there_are_is_an_error(name):
    with pytest.raises(InputError, match=r"last_blocks must be from 1 to the 6 blocks"):
        prepare_for_tuning(build(name), "last_blocks", last_blocks=7)
    assert prepare_for_tuning(build(name), "last_blocks", last_blocks=6)


def test_full_leaves_everything_as_it_is():
    model = build("vit_nano")
    assert prepare_for_tuning(model) is model
    assert trainable_parameters(model) == (sum(p.numel() for p in model.parameters()),) * 2
    model.train()
    frozen_modules_to_eval(model)
    assert all(module.training for module in model.modules())
    assert plain_model(model) is model
    assert not changed(model.state_dict(), merged_weights(model))


def test_trainable_parameters_are_counted():
    learning, total = trainable_parameters(
        prepare_for_tuning(build("vit_nano", head_norm="none"), "probe")
    )
    assert learning == 96 * 3 + 3
    assert total > 500_000


def test_an_unknown_way_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown tune 'lorra': did you mean 'lora'"):
        prepare_for_tuning(nn.Linear(2, 2), "lorra")
    assert set(TUNING) == {"full", "probe", "last_blocks", "lora"}


@needs_peft
@pytest.mark.parametrize("name", WITH_LINEAR_LAYERS)
def test_lora_starts_from_the_model_learns_everywhere_and_merges_into_a_plain_model(name):
    model = build(name)
    before, start = state(model), logits(model)
    assert prepare_for_tuning(model, "lora", lora_rank=4) is model
    if TorchVersion(torch.__version__) < "2.11":  # adds up in another order
        torch.testing.assert_close(logits(model), start, atol=1e-6, rtol=1e-6)
    else:
        assert torch.equal(logits(model), start)
    train(model)
    added = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert added
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in added.values())
    tuned, plain = logits(model), create_model(name, 64)
    assert (tuned - start).abs().max() > 1e-3
    plain.load_state_dict(merged_weights(model), strict=True)
    torch.testing.assert_close(logits(plain), tuned, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits(plain_model(model)), tuned, atol=1e-5, rtol=1e-4)
    learned = changed(before, merged_weights(model))
    heads = classifier_names(model)
    assert all(before[name].ndim > 1 for name in learned if not name.startswith(heads)), (
        "matrices and the classifier"
    )
    learning, total = trainable_parameters(model)
    assert learning < 0.2 * total


@needs_peft
def test_merging_does_not_disturb_the_training_that_goes_on():
    alone, merged = (
        train(prepare_for_tuning(build("vit_nano"), "lora"), 4, between=b)
        for b in (id, merged_weights)
    )
    watched = train(prepare_for_tuning(build("vit_nano"), "lora"), 4, between=plain_model)
    assert not changed(alone.state_dict(), merged.state_dict())
    assert not changed(alone.state_dict(), watched.state_dict())


@needs_peft
def test_a_saved_lora_run_goes_on_in_a_fresh_model():
    first = train(prepare_for_tuning(build("vit_nano", 62), "lora"), size=62)
    torch.manual_seed(5)
    second = prepare_for_tuning(create_model("vit_nano", 62), "lora")
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(logits(second, 62), logits(first, 62))
    assert merged_weights(second).keys() == create_model("vit_nano", 62).state_dict().keys()


@needs_peft
@pytest.mark.parametrize("size", [64, 62], ids=["native", "padded"])
def test_lora_keeps_what_the_model_can_do(size):
    """The auxiliary loss of A-ViT, layer groups for a layer-wise decay, and more."""
    model = prepare_for_tuning(build("a_vit_nano", size), "lora")
    out, auxiliary_loss = model.forward_with_auxiliary_loss(images(size))
    (F.cross_entropy(out, torch.tensor([0, 1, 2, 0])) + auxiliary_loss).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: rates.get(id(p)) for name, p in inner(model).named_parameters()}
    assert by_name["head.weight"] == pytest.approx(1e-3)
    assert by_name["blocks.5.attn.proj.lora_A.default.weight"] == pytest.approx(5e-4)
    assert by_name["blocks.4.attn.proj.lora_A.default.weight"] == pytest.approx(2.5e-4)
    assert by_name["blocks.4.attn.proj.base_layer.weight"] is None


@needs_peft
def test_dropout_of_blocks_that_lora_changes_still_drops():
    model = prepare_for_tuning(build("vit_nano", **DROPPING), "lora").train()
    frozen_modules_to_eval(model)
    block = model.blocks[0]
    assert all(part.training for part in (block.attn.attn_drop, block.drop_path1, block.mlp.drop1))
    assert not block.norm1.training


@needs_peft
def test_lora_says_what_it_cannot_change():
    with pytest.raises(
        InputError, match="lora finds no linear layer wider than lora_rank=8 in EquivariantCNN"
    ):
        prepare_for_tuning(build("equivariant_c4_nano"), "lora")
    with pytest.raises(InputError, match="lora_rank must be a whole number of at least 1, not 0"):
        prepare_for_tuning(build("vit_nano"), "lora", lora_rank=0)


def test_without_peft_lora_names_the_extra_and_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install '\.\[lora\]'"):
        prepare_for_tuning(build("vit_nano"), "lora")
    train(prepare_for_tuning(build("vit_nano"), "probe"), 1)
