"""RVT and RVT*: attention scaled by position, patches changed each by itself, and official weights that load."""

import re

import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.native_size import PaddedInput
from haloformer.models.rvt import (
    Attention,
    Block,
    PatchwiseAugment,
    patchwise_augment,
    resize_scaling,
)

SMALL = {"embed_dims": (24, 48), "depths": (2, 1), "num_heads": (2, 4)}


@pytest.mark.parametrize("name", ["rvt_nano", "rvt_star_nano"])
def test_rvt_keeps_timms_protocol(check_protocol, name):
    check_protocol(name)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("rvt_nano", 64, [0.4880265209, 1.7236051175, -1.1408016784]),
        ("rvt_nano", (45, 51), [0.6527068544, 1.9056605683, -1.2575210819]),
        ("rvt_star_nano", 64, [-0.8173307816, -0.1884053963, -0.3450074593]),
        ("rvt_star_nano", (45, 51), [-0.5883230986, -0.073957934, -0.36641742]),
    ],
    ids=str,
)
def test_rvt_computes_what_it_always_did(golden, name, size, expected):
    assert golden(name, size) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("rvt_tiny_224", 8_646_376),
        ("rvt_small_224", 22_148_392),
        ("rvt_base_224", 86_223_784),
        ("rvt_star_tiny_224", 10_951_336),
        ("rvt_star_small_224", 23_300_872),
        ("rvt_star_base_224", 88_528_744),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_have_the_official_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["rvt_nano", "rvt_star_nano", "rvt_star_tiny_224"])
@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
def test_no_pixel_is_ignored_at_any_size(name, size, fill):
    model = fill(create_model(name, size, **{**SMALL, "scaled_blocks": 1}))
    height, width = (size, size) if isinstance(size, int) else size
    touched = torch.zeros(height, width, dtype=torch.bool)
    torch.manual_seed(0)
    for _ in range(4):  # a pixel may lose the stem's max pooling, but not always
        images = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
        model(images).square().sum().backward()
        touched |= images.grad[0, 0] != 0
    assert touched.all()


def test_images_are_padded_to_whole_patches_and_no_further():
    model = create_model("rvt_nano", 150, **SMALL)
    assert isinstance(model, PaddedInput)
    assert model.pad(torch.zeros(1, 1, 150, 150)).shape[-2:] == (152, 152)
    assert not isinstance(create_model("rvt_nano", (40, 72), **SMALL), PaddedInput)


def test_the_map_is_halved_between_stages_and_odd_rows_are_kept(fill):
    model = fill(create_model("rvt_nano", (56, 64), **SMALL))  # 7×8 patches
    features, maps = model.forward_intermediates(torch.randn(1, 1, 56, 64, dtype=torch.float64))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 7, 8), (24, 7, 8), (48, 4, 4)]
    assert features.shape == (1, 48, 4, 4)


def _attention(scaled_grid, value):
    torch.manual_seed(0)
    attention = Attention(8, 2, scaled_grid).double()
    if scaled_grid is not None:
        nn.init.constant_(attention.scaling, value)
    return attention


def test_a_scaling_of_one_is_plain_attention_and_one_of_zero_forgets_the_content():
    tokens = torch.randn(2, 6, 8, dtype=torch.float64)
    plain, open_, shut = _attention(None, 0), _attention((2, 3), 50.0), _attention((2, 3), -800.0)
    torch.testing.assert_close(open_(tokens, (2, 3)), plain(tokens, (2, 3)))
    # Logits of zero: everybody is given the mean of the values.
    values = nn.functional.linear(tokens, shut.qkv.weight[16:], shut.qkv.bias[16:])
    torch.testing.assert_close(
        shut(tokens, (2, 3)), shut.proj(values.mean(1, keepdim=True)).expand(2, 6, 8)
    )


def test_the_scaling_is_of_a_pair_of_places_and_a_head():
    """Turning one pair off in one head changes what that query gets, in that head's channels, and nothing else."""
    attention = _attention((2, 3), 1.0)
    attention.proj = nn.Identity()
    tokens = torch.randn(1, 6, 8, dtype=torch.float64)
    before = attention(tokens, (2, 3))
    attention.scaling.data[1, 4, 2] = -800.0
    changed = (attention(tokens, (2, 3)) != before)[0].nonzero()
    assert set(changed[:, 0].tolist()) == {4}
    assert set(changed[:, 1].tolist()) == {4, 5, 6, 7}


def test_a_fresh_scaling_is_near_plain_attention_and_can_learn():
    scaling = Attention(8, 2, (2, 3)).scaling
    assert (scaling.sigmoid() > 0.8).all()
    slope = torch.autograd.grad(scaling.sigmoid().sum(), scaling)[0]
    assert (slope > 0.1).all()


@pytest.mark.parametrize("scaled_grid", [None, (2, 3)])
def test_attention_rows_sum_to_one(scaled_grid):
    attention = _attention(scaled_grid, 0.3)
    attention.qkv.weight.data[16:] = 0  # all values are the bias
    attention.qkv.bias.data[16:] = torch.arange(8.0)
    attention.proj = nn.Identity()
    mixed = attention(torch.randn(1, 6, 8, dtype=torch.float64), (2, 3))
    torch.testing.assert_close(mixed, torch.arange(8.0, dtype=torch.float64).expand(1, 6, 8))


def test_a_token_mixes_with_its_neighbours_in_the_feed_forward_network(fill):
    block = fill(Block(8, 2, 2.0, True, None, 0.0, 0.0, 0.0))
    # Two images: for one, torch 2.14's batch norm on a CPU returns a wrong gradient (channels last, from a contiguous input).
    tokens = torch.randn(2, 30, 8, dtype=torch.float64, requires_grad=True)  # 5×6
    block.mlp(tokens, (5, 6))[0, 2 * 6 + 3].sum().backward()
    seen = tokens.grad[0].abs().sum(1).reshape(5, 6) > 0
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(seen, expected)


def test_places_are_known_by_convolutions_and_scaling_alone(fill):
    tokens = torch.randn(1, 6, 8, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    blind = fill(Block(8, 2, 2.0, False, None, 0.0, 0.0, 0.0))
    torch.testing.assert_close(blind(tokens[:, order], (2, 3)), blind(tokens, (2, 3))[:, order])
    scaled = fill(Block(8, 2, 2.0, False, (2, 3), 0.0, 0.0, 0.0))
    assert not torch.allclose(
        scaled(tokens[:, order], (2, 3)), scaled(tokens, (2, 3))[:, order], atol=1e-4
    )


def test_the_layout_has_every_token_once():
    attention = Attention(8, 2)
    layout = attention.token_layout(torch.zeros(1, 6, 8), (2, 3))
    assert layout.query_grid == layout.key_grid == (2, 3)
    assert layout.queries.tolist() == layout.keys.tolist() == [list(range(6))]
    assert layout.class_query is None


def test_weight_decay_spares_the_scaling():
    model = create_model("rvt_star_nano", 64, **SMALL)
    assert model.no_weight_decay() == {"stages.0.0.attn.scaling", "stages.0.1.attn.scaling"}


def _official(state_dict):
    """Our keys as the official code has them."""
    renamed = {}
    for key, value in state_dict.items():
        key = re.sub(r"^stages\.(\d+)\.", r"transformers.\1.blocks.", key)
        key = re.sub(r"^pools\.(\d+)\.", r"pools.\1.conv.", key)
        for ours, official in (("proj", "proj.3"), ("conv", "proj.0"), ("norm", "proj.1")):
            if key.startswith(f"patch_embed.{ours}."):
                key = key.replace(ours, official, 1)
                break
        key = key.replace("attn.scaling", "attn.att_mask")
        renamed[re.sub(r"mlp\.norm(\d)", r"mlp.bn\1", key)] = value
    return renamed


def test_official_weights_load_and_ours_stay_as_they_are():
    model = timm.create_model("rvt_star_tiny_224", img_size=64, **SMALL, scaled_blocks=1)
    official = _official(model.state_dict())
    assert "patch_embed.proj.3.weight" in official
    assert "transformers.0.blocks.0.attn.att_mask" in official
    assert "transformers.1.blocks.0.mlp.bn3.running_var" in official
    for weights in (official, model.state_dict()):
        converted = convert_state_dict(weights, model)
        assert converted.keys() == model.state_dict().keys()
        assert all(
            torch.equal(converted[name], tensor) for name, tensor in model.state_dict().items()
        )


def test_a_scaling_is_resized_to_another_image():
    numbers = {**SMALL, "scaled_blocks": 1}
    source = timm.create_model("rvt_star_nano", img_size=64, **numbers)  # 8×8 tokens
    target = timm.create_model("rvt_star_nano", img_size=(96, 48), **numbers)  # 12×6
    target.load_state_dict(convert_state_dict(source.state_dict(), target), strict=True)
    assert torch.allclose(target.stages[0][0].attn.scaling, torch.tensor(2.0))


def test_resizing_keeps_who_is_near_whom():
    """A scaling by the distance of the tokens is, on a grid twice as fine, one by half the distance."""

    def distances(rows, columns, spacing):
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        places = spacing * torch.stack([y.flatten(), x.flatten()], 1)
        return torch.cdist(places, places)[None]

    fine = resize_scaling(distances(6, 6, 1.0), (12, 12))
    assert (
        fine - distances(12, 12, 0.5)
    ).abs().max() < 0.8  # the kink at 0 and the edges are smoothed
    flat = resize_scaling(distances(6, 6, 1.0), (6, 3))
    assert flat.shape == (1, 18, 18)
    assert torch.equal(flat.argmin(-1)[0], torch.arange(18))
    with pytest.raises(InputError, match="7 tokens"):
        resize_scaling(torch.zeros(1, 7, 7), (3, 3))


def test_a_scaling_of_an_oblong_image_is_resized_to_the_same_proportions():
    scaling = torch.arange(8.0).expand(1, 8, 8)  # 2×4, growing along the keys
    assert resize_scaling(scaling, (4, 8)).shape == (1, 32, 32)


# Patch-wise augmentation


@pytest.fixture
def images():
    return torch.randn(3, 2, 32, 48, generator=torch.Generator().manual_seed(0))


def _seeded():
    return torch.Generator().manual_seed(5)


def test_augmentation_acts_only_in_training_and_keeps_the_shape(images):
    augment = PatchwiseAugment(8, 0.5)
    assert augment.eval()(images) is images
    changed = augment.train()(images, _seeded())
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
    assert torch.equal(augment(images, _seeded()), changed)


def test_every_patch_is_changed_by_itself(images):
    """With the same dice, what is in one patch decides that patch and no other."""
    other = images.clone()
    other[1, :, 8:16, 16:24] += 10
    first, second = (
        patchwise_augment(i, (8, 8), 0.9, generator=_seeded()) for i in (images, other)
    )
    differs = (first != second).nonzero()
    assert set(differs[:, 0].tolist()) == {1}
    assert (differs[:, 2].min(), differs[:, 2].max()) == (8, 15)
    assert (differs[:, 3].min(), differs[:, 3].max()) == (16, 23)


def test_patches_have_dice_of_their_own(images):
    changed = patchwise_augment(images, (8, 8), 0.1, generator=_seeded())
    patches = (changed != images).unflatten(3, (6, 8)).unflatten(2, (4, 8)).any(5).any(3).any(1)
    assert 0 < patches.float().mean() < 0.5  # 1 - 0.9³ = 27 % of them
    assert torch.equal(patchwise_augment(images, (8, 8), 0.0), images)


def test_mirrored_patches_stay_in_their_place(images):
    mirrored = patchwise_augment(images, (8, 8), 1.0, min_area=1.0, noise=0.0)
    expected = images.unflatten(3, (6, 8)).flip(-1).flatten(3)
    torch.testing.assert_close(mirrored, expected)


def test_noise_has_the_standard_deviation_it_is_given():
    flat = torch.ones(8, 1, 64, 64)
    noisy = patchwise_augment(
        flat, (16, 16), 1.0, noise=0.3, generator=_seeded()
    )  # crops and mirrors leave it flat
    assert noisy.std() == pytest.approx(0.3, rel=0.02)
    assert noisy.mean() == pytest.approx(1.0, abs=0.01)


def test_crops_are_enlarged_alike_in_all_channels():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    images = torch.cat([ramp, -2 * ramp, 5 + 0 * ramp], 1).repeat(40, 1, 1, 1)
    crops = patchwise_augment(
        images, (16, 16), 1.0, min_area=0.25, noise=0.0, generator=_seeded()
    ).flip(-1)
    slopes = (crops[:, 0, 8, 12] - crops[:, 0, 8, 4]) / 8  # the side of the part that was kept
    assert slopes.min() >= 0.5 - 1e-5
    assert slopes.max() <= 1 + 1e-5
    assert slopes.std() > 0.05
    torch.testing.assert_close(crops[:, 1], -2 * crops[:, 0])
    torch.testing.assert_close(crops[:, 2], images[:, 2])


def test_what_is_beyond_the_last_whole_patch_stays(images):
    changed = patchwise_augment(images, (10, 10), 1.0)
    assert torch.equal(changed[..., 30:, :], images[..., 30:, :])
    assert torch.equal(changed[..., 40:], images[..., 40:])
    assert not torch.equal(changed[..., :30, :40], images[..., :30, :40])


def test_a_model_changes_patches_only_if_asked_and_only_in_training():
    assert create_model("rvt_star_nano", 64, **SMALL).augment is None
    torch.manual_seed(0)
    model = create_model("rvt_star_nano", 64, patch_augment=0.5, **SMALL).eval()
    seen = []
    model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 1, 64, 64)
    model(images)
    model.train()(images)
    assert torch.equal(seen[0], images)
    assert not torch.equal(seen[1], images)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"patch_size": 6}, "multiple of 4"),
        ({"num_heads": (5, 4)}, "5 heads"),
        ({"depths": (2,)}, "same length"),
        ({"patch_augment": 1.5}, "probability"),
    ],
)
def test_what_cannot_be_is_refused(keywords, message):
    with pytest.raises(InputError, match=message):
        create_model("rvt_nano", 64, **{**SMALL, **keywords})


@pytest.mark.parametrize("name", ["rvt_nano", "rvt_star_nano"])
def test_rvt_can_be_exported_and_runs_in_bfloat16(name):
    model = create_model(name, 64, **SMALL).eval()
    images = torch.randn(2, 1, 64, 64)
    expected = model(images)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(images).float(), expected, atol=0.05)
