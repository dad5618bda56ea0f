"""A-ViT: tokens halt when their scores add up to one, and nothing is asked of them afterwards."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.a_vit import Attention, Halting, distribution_loss, ponder_loss
from haloformer.models.convert import convert_state_dict
from haloformer.models.native_size import PaddedInput

SMALL = {
    "stem_channels": (4, 8, 8),
    "stem_strides": (2, 2, 2),
    "embed_dim": 16,
    "depth": 5,
    "num_heads": 2,
}


@pytest.fixture
def gradual(fill):
    """A model whose tokens halt at all depths, and two images."""
    torch.manual_seed(0)
    model = fill(create_model("a_vit_nano", 64, gate_scale=1.0, gate_center=-1.0, **SMALL))
    model.pos_embed.data *= 60  # so that tokens differ
    return model, torch.randn(2, 1, 64, 64, dtype=torch.float64)


def test_a_vit_keeps_timms_protocol(check_protocol):
    check_protocol("a_vit_nano", depth=4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, [-1.0700025293, 0.3846481947, -0.0863896377]),
        ((45, 51), [-0.9323368176, -0.0897933619, -0.2224375903]),
    ],
    ids=str,
)
def test_a_vit_computes_what_it_always_did(golden, size, expected):
    assert golden("a_vit_nano", size, gate_scale=1.0, gate_center=-1.0) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "parameters"), [("a_vit_tiny_224", 5_717_416), ("a_vit_small_224", 22_050_664)]
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_have_the_official_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["a_vit_nano", "a_vit_tiny_224"])
@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
def test_no_pixel_is_ignored_at_any_size(name, size, fill):
    height, width = (size, size) if isinstance(size, int) else size
    model = fill(
        create_model(
            name,
            size,
            gate_center=-40.0,
            **({**SMALL, "depth": 2} if "nano" in name else {"depth": 2}),
        )
    )
    images = torch.randn(2, 1, height, width, dtype=torch.float64, requires_grad=True)
    model(images).square().sum().backward()
    assert (images.grad != 0).all()


# Halting


def test_the_scores_of_every_token_sum_to_one_over_depth(gradual):
    model, images = gradual
    _, halting = model.forward_with_halting(images)
    assert halting.weights.shape == (2, 5, 65)
    torch.testing.assert_close(halting.weights.sum(1), torch.ones(2, 65, dtype=torch.float64))
    assert (halting.weights >= 0).all()


def test_depth_counts_the_blocks_that_a_token_runs_through(gradual):
    model, images = gradual
    _, halting = model.forward_with_halting(images)
    assert halting.depth.shape == (2, 8, 8)
    assert halting.class_depth.shape == (2,)
    depths = torch.cat([halting.class_depth[:, None], halting.depth.flatten(1)], 1)
    assert set(depths.flatten().tolist()) == {2, 3, 4, 5}, (
        "the fixture should halt tokens at many depths"
    )
    # The last block that a token runs through is the last with a weight.
    blocks = torch.arange(1, 6)[:, None]
    assert torch.equal(((halting.weights > 0) * blocks).amax(1), depths)


def test_ponder_cost_is_depth_plus_remainder(gradual):
    model, images = gradual
    _, halting = model.forward_with_halting(images)
    depths = torch.cat([halting.class_depth[:, None], halting.depth.flatten(1)], 1)
    remainder = halting.weights.gather(1, depths[:, None] - 1)[:, 0]
    torch.testing.assert_close(halting.ponder, depths + remainder)
    assert ponder_loss(halting) == halting.ponder.mean()


def test_a_strongly_negative_gate_centre_lets_all_tokens_run_to_the_end():
    model = create_model("a_vit_nano", 64, gate_center=-1000.0, **SMALL).eval()
    images = torch.randn(2, 1, 64, 64)
    features, maps = model.forward_intermediates(images)
    logits, halting = model.forward_with_halting(images)
    assert (halting.depth == 5).all()
    assert (halting.class_depth == 5).all()
    assert (halting.ponder == 6).all()  # five blocks, and a remainder of one
    torch.testing.assert_close(features[:, 1:], model.norm(maps[-1].flatten(2).transpose(1, 2)))
    torch.testing.assert_close(logits, model(images))


def test_a_strongly_positive_gate_centre_halts_all_tokens_after_the_first_block():
    model = create_model("a_vit_nano", 64, gate_center=1000.0, **SMALL).eval()
    images = torch.randn(2, 1, 64, 64)
    before, halting = model.forward_with_halting(images)
    assert (halting.depth == 1).all()
    assert (halting.class_depth == 1).all()
    assert torch.equal(halting.weights[:, 0], torch.ones(2, 65))
    for parameter in model.blocks[1:].parameters():  # what comes later does not matter
        nn.init.normal_(parameter)
    after, _ = model.forward_with_halting(images)
    assert torch.equal(after, before)


def test_a_halted_token_stays_as_it_is(gradual):
    model, images = gradual
    _, halting = model.forward_with_halting(images)
    _, maps = model.forward_intermediates(images)
    for block in range(1, 5):
        still = (maps[block] == maps[block - 1]).all(1)
        assert torch.equal(still, halting.depth <= block)


def test_halted_tokens_are_never_attended_to(gradual):
    """Each block's output for the running tokens is the same whatever the halted ones hold."""
    model, images = gradual
    seen = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda attn, inputs: seen.append((attn, inputs)))
    model(images)
    assert len(seen) == 5
    halted_at_all = 0
    for attention, (tokens, alive, grid) in list(seen):
        nonsense = torch.where(alive[..., None] > 0, tokens, 100 * torch.randn_like(tokens))
        first, second = attention(tokens, alive, grid), attention(nonsense, alive, grid)
        torch.testing.assert_close(first[alive > 0], second[alive > 0], rtol=0, atol=1e-12)
        halted_at_all += int((alive == 0).sum())
    assert halted_at_all > 0


def test_attention_rows_sum_to_one_over_the_running_tokens():
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    attention.proj = nn.Identity()
    alive = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1]], dtype=torch.float64)
    tokens = torch.randn(1, 7, 8, dtype=torch.float64)
    q, k, v = (
        F.linear(tokens, attention.qkv.weight, attention.qkv.bias)
        .unflatten(2, (3, 2, 4))
        .permute(2, 0, 3, 1, 4)
    )
    logits = (q @ k.transpose(-2, -1) / 2).masked_fill(alive[:, None, None] == 0, -math.inf)
    expected = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(tokens, alive, (2, 3)), expected)
    assert attention(tokens, torch.zeros_like(alive), (2, 3)).isfinite().all()


def test_the_image_is_classified_by_the_class_token_averaged_over_depth(gradual):
    model, images = gradual
    states = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: states.append(output[:, 0]))
    logits, halting = model.forward_with_halting(images)
    mean = (halting.weights[:, :, :1] * torch.stack(states, 1)).sum(1)
    torch.testing.assert_close(logits, model.head(model.norm(mean)))


def test_a_score_is_the_sigmoid_of_a_tokens_first_channel(gradual):
    model, images = gradual
    _, maps = model.forward_intermediates(images)
    _, halting = model.forward_with_halting(images)
    score = torch.sigmoid(maps[0][:, 0] - 1.0)
    torch.testing.assert_close(halting.weights[:, 0, 1:], score.flatten(1))
    torch.testing.assert_close(halting.distribution[0], score.mean())
    assert (halting.distribution > 0).all(), (
        "halted tokens are asked, too, or there would be no way back"
    )


# Losses


def _halting(distribution):
    nothing = torch.zeros(1, 1)
    return Halting(nothing, nothing, nothing, nothing, torch.tensor(distribution))


def test_the_distribution_loss_is_least_for_a_gaussian_about_the_target_depth():
    gaussian = [math.exp(-0.5 * (block - 3) ** 2) for block in range(1, 7)]
    least = distribution_loss(_halting(gaussian), 3.0)
    assert 0 <= least < 1e-3
    assert distribution_loss(_halting([0.01 * g for g in gaussian]), 3.0) == pytest.approx(
        least.item(), abs=1e-6
    )
    earlier, later = (
        distribution_loss(_halting(d), 3.0) for d in (gaussian[1:] + gaussian[:1], [1.0] * 6)
    )
    assert earlier > 0.1
    assert later > 0.1


def test_losses_stay_finite_where_no_token_or_every_token_halts():
    for center in (-1000.0, 1000.0):
        model = create_model("a_vit_nano", 64, gate_center=center, **SMALL)
        logits, loss = model.forward_with_auxiliary_loss(torch.randn(2, 1, 64, 64))
        (logits.sum() + loss).backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_auxiliary_loss_is_the_weighted_sum_of_both(gradual):
    model, images = gradual
    model.ponder_loss_scale, model.distribution_loss_scale = 0.3, 0.7
    logits, loss = model.forward_with_auxiliary_loss(images)
    expected_logits, halting = model.forward_with_halting(images)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(
        loss, 0.3 * ponder_loss(halting) + 0.7 * distribution_loss(halting, 10 / 3)
    )


@pytest.mark.parametrize("target", [1.5, 4.0])
def test_training_on_the_losses_alone_moves_halting_to_the_target_depth(target):
    torch.manual_seed(0)
    model = create_model("a_vit_nano", 32, target_depth=target, gate_center=-2.0, **SMALL)
    images = torch.randn(8, 1, 32, 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        _, halting = model.forward_with_halting(images)
        optimizer.zero_grad()
        distribution_loss(halting, target).backward()
        optimizer.step()
    scores = halting.distribution / halting.distribution.sum()
    assert (scores.detach() * torch.arange(1, 6)).sum().item() == pytest.approx(target, abs=0.5)


def test_the_ponder_loss_makes_tokens_halt_earlier():
    torch.manual_seed(0)
    model = create_model("a_vit_nano", 32, gate_center=-2.0, **SMALL)
    images = torch.randn(8, 1, 32, 32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    depths = []
    for _ in range(40):
        _, halting = model.forward_with_halting(images)
        depths.append(halting.depth.float().mean().item())
        optimizer.zero_grad()
        ponder_loss(halting).backward()
        optimizer.step()
    assert depths[-1] < depths[0] - 1


# What it shares with other models


def test_padded_images_are_padded_on_every_way_through_the_model():
    torch.manual_seed(0)
    model = create_model("a_vit_nano", (45, 51), gate_center=-1.0, **SMALL).eval()
    assert isinstance(model, PaddedInput)
    images = torch.randn(2, 1, 45, 51)
    logits, halting = model.forward_with_halting(images)
    torch.testing.assert_close(logits, model(images))
    assert halting.depth.shape == (2, 6, 7)
    torch.testing.assert_close(model.forward_with_auxiliary_loss(images)[0], logits)


def test_the_layout_has_the_class_token_and_every_patch_once():
    layout = Attention(8, 2).token_layout(torch.zeros(1, 7, 8), torch.ones(1, 7), (2, 3))
    assert layout.queries.tolist() == layout.keys.tolist() == [[-1, 0, 1, 2, 3, 4, 5]]
    assert layout.class_query == 0


def test_official_keys_are_ours_and_positions_are_resized():
    numbers = {"depth": 1, "embed_dim": 12, "num_heads": 3}
    source = timm.create_model("a_vit_tiny_224", **numbers)
    keys = set(source.state_dict())
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc2.bias",
    } < keys
    target = timm.create_model("a_vit_tiny_224", img_size=(64, 96), **numbers)
    target.load_state_dict(convert_state_dict(source.state_dict(), target), strict=True)
    assert target.pos_embed.shape == (1, 1 + 4 * 6, 12)
    torch.testing.assert_close(target.pos_embed[:, 0], source.pos_embed[:, 0])
    again = convert_state_dict(target.state_dict(), target)
    assert all(torch.equal(again[name], tensor) for name, tensor in target.state_dict().items())


def test_the_paper_variants_have_the_gates_of_the_published_weights():
    gates = {
        name: timm.create_model(name, depth=1) for name in ("a_vit_tiny_224", "a_vit_small_224")
    }
    assert [(m.gate_scale, m.gate_center) for m in gates.values()] == [(10.0, -30.0), (10.0, -75.0)]


def test_averaging_the_patches_needs_no_class_token(gradual):
    model, images = gradual
    model.global_pool = "avg"
    features = model.forward_features(images)
    torch.testing.assert_close(model(images), model.head(features[:, 1:].mean(1)))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"num_heads": 3}, "num_heads=3"), ({"stem_strides": (2, 2)}, "same length")],
)
def test_what_cannot_be_is_refused(keywords, message):
    with pytest.raises(InputError, match=message):
        create_model("a_vit_nano", 64, **{**SMALL, **keywords})


def test_a_vit_can_be_exported_and_runs_in_bfloat16():
    torch.manual_seed(0)
    model = create_model("a_vit_nano", 64, gate_center=-1.0, **SMALL).eval()
    images = torch.randn(2, 1, 64, 64)
    expected = model(images)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(images).float(), expected, atol=0.05)
