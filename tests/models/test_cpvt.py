"""CPVT: where a token lies it learns from its neighbours; one set of weights for all sizes; official weights load."""

import re

import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.native_size import PaddedInput

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def test_cpvt_keeps_timms_protocol(check_protocol):
    check_protocol("cpvt_nano", depth=2)


def test_cpvt_with_a_class_token_keeps_timms_protocol(check_protocol):
    check_protocol("cpvt_nano", depth=2, class_token=True)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, [-0.926823769, -1.317787746, 0.021047107]),
        ((45, 51), [-1.157250561, -1.079543197, 0.212314911]),
    ],
    ids=str,
)
def test_cpvt_computes_what_it_always_did(golden, size, expected):
    assert golden("cpvt_nano", size) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cpvt_tiny_224", 5_681_512),
        ("cpvt_small_224", 21_978_856),
        ("cpvt_base_224", 86_424_040),
        ("cpvt_tiny_gap_224", 5_681_320),
        ("cpvt_small_gap_224", 21_978_472),
        ("cpvt_base_gap_224", 86_423_272),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_are_deits_with_a_peg_for_the_position_embedding(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
        deit = timm.create_model("deit_" + name.split("_")[1] + "_patch16_224")
    count = sum(p.numel() for p in model.parameters())
    width = model.num_features
    prefix = 0 if "gap" in name else width
    assert count == parameters
    assert count == sum(p.numel() for p in deit.parameters()) - 198 * width + prefix + 10 * width


@pytest.mark.parametrize("name", ["cpvt_nano", "cpvt_tiny_224", "cpvt_tiny_gap_224"])
@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
def test_no_pixel_is_dropped_at_any_size(name, size, fill):
    model = fill(create_model(name, size, **SMALL))
    assert isinstance(model, PaddedInput)
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    model(images).square().sum().backward()
    assert (images.grad != 0).all()


def test_one_set_of_weights_serves_images_of_every_size(fill):
    """No tensor depends on the size, so a model built for 64 pixels is the one built for 40×96."""
    model = fill(
        timm.create_model("cpvt_tiny_224", img_size=64, in_chans=1, class_token=True, **SMALL)
    )
    other = timm.create_model(
        "cpvt_tiny_224", img_size=(48, 96), in_chans=1, class_token=True, **SMALL
    ).double()
    other.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(1, 1, 48, 96, dtype=torch.float64)
    torch.testing.assert_close(model(images), other.eval()(images))


def _peg(model: nn.Module, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_position(tokens, grid)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_peg_adds_a_convolution_of_the_grid_and_passes_the_class_token_by(class_token, fill):
    model = fill(timm.create_model("cpvt_nano", class_token=class_token, **SMALL))
    prefix = int(class_token)
    tokens = torch.randn(2, prefix + 30, 32, dtype=torch.float64)
    encoded = _peg(model, tokens, (5, 6))
    assert torch.equal(encoded[:, :prefix], tokens[:, :prefix])
    grid = tokens[:, prefix:].transpose(1, 2).reshape(2, 32, 5, 6)
    layer = model.peg.proj[0]
    padded = nn.functional.pad(grid, (1, 1, 1, 1))
    expected = grid + layer.bias[:, None, None]
    for row in range(3):
        for column in range(3):
            taps = layer.weight[:, 0, row, column, None, None]
            expected = expected + taps * padded[:, :, row : row + 5, column : column + 6]
    torch.testing.assert_close(encoded[:, prefix:], expected.flatten(2).transpose(1, 2))


def test_a_uniform_image_is_uniform_until_the_peg_tells_the_border_from_the_inside(fill):
    """Zero padding is where the absolute position comes from: equal tokens leave the PEG with nine values."""
    model = fill(timm.create_model("cpvt_tiny_gap_224", img_size=96, in_chans=1, **SMALL))
    tokens = torch.randn(1, 1, 32, dtype=torch.float64).expand(1, 36, 32)
    before = model.blocks[0](tokens)
    torch.testing.assert_close(before, before[:, :1].expand_as(before))
    encoded = _peg(model, before, (6, 6))[0, :, 0].reshape(6, 6)
    torch.testing.assert_close(encoded[1:-1, 1:-1], encoded[1, 1].expand(4, 4))
    torch.testing.assert_close(encoded[0, 1:-1], encoded[0, 1].expand(4))
    assert len(encoded.mul(1e6).round().unique()) == 9


def test_the_encoding_moves_with_the_tokens(fill):
    model = fill(timm.create_model("cpvt_nano", **SMALL))
    grid = torch.zeros(1, 32, 9, 9, dtype=torch.float64)
    grid[..., 2:5, 2:5] = torch.randn(32, 3, 3)
    moved = grid.roll((2, 1), (2, 3))
    here, there = (
        _peg(model, maps.flatten(2).transpose(1, 2), (9, 9)).transpose(1, 2).reshape(1, 32, 9, 9)
        for maps in (grid, moved)
    )
    torch.testing.assert_close(here.roll((2, 1), (2, 3)), there)


def test_without_the_peg_the_order_of_the_patches_is_immaterial(fill):
    """And with it, it is not: it is the only thing that knows of places."""
    model = fill(
        timm.create_model("cpvt_tiny_224", img_size=64, in_chans=1, class_token=True, **SMALL)
    )
    images = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    patches = images.reshape(1, 1, 4, 16, 4, 16)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = patches[:, :, order][:, :, :, :, order].reshape(1, 1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(model(shuffled), model(images), atol=1e-3)
        nn.init.zeros_(model.peg.proj[0].weight)
        torch.testing.assert_close(model(shuffled), model(images))


def test_the_stem_makes_one_token_of_eight_pixels():
    model = create_model("cpvt_nano", 150, **SMALL)
    assert isinstance(model, PaddedInput)
    assert model.padding == (1, 1, 1, 1)
    assert model.patch_embed.grid_size == (19, 19)
    maps = model.forward_intermediates(torch.zeros(1, 1, 150, 150), intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(1, 32, 19, 19)] * 2


@pytest.mark.parametrize("name", ["cpvt_tiny_224", "cpvt_tiny_gap_224"])
def test_official_weights_load_strictly_and_our_own_stay_as_they_are(name):
    """The official keys are those of a pyramid of one stage, with queries apart from keys and values."""
    ours = timm.create_model(name, **SMALL)
    official = {}
    for key, tensor in ours.state_dict().items():
        key = re.sub(r"^blocks\.", "blocks.0.", key)
        key = re.sub(r"^patch_embed\.", "patch_embeds.0.", key)
        key = re.sub(r"^peg\.", "pos_block.0.", key)
        if ".qkv." in key:
            official[key.replace("qkv", "q")] = tensor[:32]
            official[key.replace("qkv", "kv")] = tensor[32:]
        else:
            official[key] = tensor
    assert "pos_block.0.proj.0.weight" in official
    converted = convert_state_dict(official, ours)
    assert converted.keys() == ours.state_dict().keys()
    assert all(torch.equal(converted[key], tensor) for key, tensor in ours.state_dict().items())
    again = convert_state_dict(converted, ours)
    assert all(torch.equal(again[key], tensor) for key, tensor in converted.items())


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=128"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"global_pool": "token"}, "needs class_token=True"),
        ({"window_size": 7}, "window_size"),
    ],
)
def test_a_keyword_that_cannot_be_is_named(keywords, told):
    with pytest.raises(InputError, match=told):
        create_model("cpvt_nano", 64, **keywords)
