"""T2T-ViT: soft splits lose no pixel, the Performer is attention, places are fixed, official weights load."""

import math
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.t2t_vit import (
    NarrowingAttention,
    PerformerAttention,
    TokensToToken,
    sinusoids,
    soft_split,
)

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "token_dim": 8}
PAPER_SPLITS = {"kernel_sizes": (7, 3, 3), "strides": (4, 2, 2)}


def test_t2t_vit_keeps_timms_protocol(check_protocol):
    check_protocol("t2t_vit_nano", depth=2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, [0.228193597, -0.290608966, -1.844690403]),
        ((45, 51), [0.146389061, -0.302670369, -1.900119694]),
    ],
    ids=str,
)
def test_t2t_vit_computes_what_it_always_did(golden, size, expected):
    assert golden("t2t_vit_nano", size) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("t2t_vit_7_224", 4_310_222),
        ("t2t_vit_10_224", 5_889_230),
        ("t2t_vit_12_224", 6_941_902),
        ("t2t_vit_14_224", 21_545_550),
        ("t2t_vit_19_224", 39_177_422),
        ("t2t_vit_24_224", 64_105_934),
        ("t2t_vit_t_14_224", 21_541_070),
        ("t2t_vit_t_19_224", 39_172_942),
        ("t2t_vit_t_24_224", 64_101_454),
        ("t2t_vit_14_resnext_224", 21_545_550),
        ("t2t_vit_14_wide_224", 25_156_302),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_have_the_official_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (3, 1, 1)])
def test_a_soft_split_is_the_official_one_where_the_stride_divides(kernel, stride, padding):
    maps = torch.randn(2, 3, 8, 12)
    tokens, grid = soft_split(maps, kernel, stride)
    torch.testing.assert_close(
        tokens, nn.Unfold(kernel, padding=padding, stride=stride)(maps).transpose(1, 2)
    )
    assert grid == (8 // stride, 12 // stride)


@pytest.mark.parametrize("size", [(5, 5), (6, 7), (33, 45), (149, 150)], ids=str)
@pytest.mark.parametrize(("kernel", "stride"), [(7, 4), (5, 3), (3, 2), (3, 1), (2, 2)])
def test_every_pixel_is_in_a_window_of_a_soft_split(size, kernel, stride):
    maps = torch.zeros(1, 1, *size, requires_grad=True)
    tokens, (rows, columns) = soft_split(maps, kernel, stride)
    assert tokens.shape == (1, rows * columns, kernel**2)
    tokens.sum().backward()
    assert (maps.grad >= 1).all()


@pytest.mark.parametrize("name", ["t2t_vit_nano", "t2t_vit_7_224", "t2t_vit_t_14_224"])
@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
def test_no_pixel_is_dropped_at_any_size_even_without_padding_the_image(name, size, fill):
    """The official code fails at 150 pixels, and its first split would not see the last one."""
    model = fill(timm.create_model(name, img_size=size, in_chans=1, **SMALL))
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    model(images).square().sum().backward()
    assert (images.grad != 0).all()


def test_without_attention_a_token_of_the_paper_sees_31_pixels(fill):
    """7, then twice two windows further at 4 and at 8 pixels: 7 + 2·4 + 2·8."""
    embed = fill(TokensToToken(96, 1, 16, "performer", 8, (), **PAPER_SPLITS, drop=0.0))
    for block in embed.blocks:
        nn.init.zeros_(block.attn.proj.weight)  # only the shortcut is left
    images = torch.randn(1, 1, 96, 96, dtype=torch.float64, requires_grad=True)
    embed(images)[0, 2 * 6 + 3].sum().backward()
    seen = images.grad[0, 0].nonzero()
    assert seen.min(0).values.tolist() == [2 * 16 - 14, 3 * 16 - 14]
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [31, 31]


def test_the_performers_kernel_tends_to_that_of_softmax():
    generator = torch.Generator().manual_seed(0)
    attention = PerformerAttention(8, 4, kernel_ratio=1.0)
    attention.features = nn.Parameter(
        torch.randn(200_000, 4, generator=generator), requires_grad=False
    )
    queries, keys, values = torch.randn(3, 1, 10, 4, generator=generator)
    queries, keys = queries / 2, keys / 2
    exact = (queries @ keys.transpose(1, 2)).softmax(-1) @ values
    assert (exact - values.mean(1)).abs().max() > 0.1
    torch.testing.assert_close(attention.mix(queries, keys, values), exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", [PerformerAttention, NarrowingAttention])
def test_attention_weights_are_positive_and_sum_to_one(kind):
    """Values of one channel that are 0 or 1 are mixed to something between; equal ones stay as they are."""
    torch.manual_seed(0)
    attention = kind(8, 4).eval()
    nn.init.zeros_(attention.proj.bias)
    attention.proj.weight.data = torch.eye(4)
    tokens = torch.randn(2, 9, 8)
    _, _, values = attention.qkv(tokens).chunk(3, -1)
    mixed = attention(tokens, (3, 3)) - values
    assert (mixed > values.amin(1, keepdim=True)).all()
    assert (mixed < values.amax(1, keepdim=True)).all()
    same = tokens[:, :1].expand(-1, 9, -1)
    torch.testing.assert_close(attention(same, (3, 3)), 2 * attention.qkv(same)[..., -4:])


def test_softmax_attention_is_scaled_by_the_incoming_width():
    attention = NarrowingAttention(16, 4)
    tokens = torch.randn(1, 5, 16)
    queries, keys, values = attention.qkv(tokens).chunk(3, -1)
    mixed = (queries @ keys.transpose(1, 2) / 4).softmax(-1) @ values
    torch.testing.assert_close(attention(tokens, (1, 5)), values + attention.proj(mixed))


def test_the_performer_is_as_exact_in_half_precision_training():
    attention = PerformerAttention(8, 16)
    queries, keys, values = 3 * torch.randn(3, 1, 50, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attention.mix(queries, keys, values)
    torch.testing.assert_close(mixed, attention.mix(queries, keys, values))


def test_random_features_are_orthogonal_frozen_and_part_of_the_weights():
    model = timm.create_model("t2t_vit_7_224", depth=1)
    features = model.patch_embed.blocks[0].attn.features
    torch.testing.assert_close(features @ features.T, 32 * torch.eye(32), atol=1e-4, rtol=0)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "pos_embed",
        "patch_embed.blocks.0.attn.features",
        "patch_embed.blocks.1.attn.features",
    }
    assert frozen <= model.state_dict().keys()


def test_places_are_sines_and_cosines_of_the_order_of_the_tokens():
    table = sinusoids(50, 6).double().numpy()
    place = np.arange(50)
    for pair in range(3):
        np.testing.assert_allclose(
            table[:, 2 * pair], np.sin(place / 10000 ** (pair / 3)), atol=1e-6
        )
        np.testing.assert_allclose(
            table[:, 2 * pair + 1], np.cos(place / 10000 ** (pair / 3)), atol=1e-6
        )
    model = timm.create_model("t2t_vit_nano", img_size=(40, 64), **SMALL)
    torch.testing.assert_close(model.pos_embed[0], sinusoids(1 + 5 * 8, 32))


def test_an_image_of_another_shape_is_refused_even_with_as_many_tokens():
    model = timm.create_model("t2t_vit_nano", img_size=(32, 64), **SMALL)
    with pytest.raises(ValueError, match=r"built for images of \(32, 64\) pixels, not \(64, 32\)"):
        model(torch.zeros(1, 1, 64, 32))


def test_layouts_cover_the_image_once():
    model = timm.create_model("t2t_vit_t_14_224", img_size=(45, 51), in_chans=1, **SMALL)
    assert model.patch_embed.grid_size == (3, 4)
    asked = []
    for block in model.patch_embed.blocks:
        block.attn.register_forward_pre_hook(
            lambda layer, inputs: asked.append(layer.token_layout(*inputs))
        )
    model(torch.zeros(1, 1, 45, 51))
    assert [layout.query_grid for layout in asked] == [(12, 13), (6, 7)]
    for layout in asked:
        expected = list(range(math.prod(layout.query_grid)))
        assert layout.queries.tolist() == layout.keys.tolist() == [expected]


def _official(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights as the official code would name and order them."""
    official = {}
    performer = isinstance(model.patch_embed.blocks[0].attn, PerformerAttention)
    for key, tensor in model.state_dict().items():
        key = key.replace("patch_embed.proj", "tokens_to_token.project")
        key = re.sub(
            r"patch_embed\.blocks\.(\d)", lambda m: f"tokens_to_token.attention{int(m[1]) + 1}", key
        )
        if performer and key.startswith("tokens_to_token.attention"):
            if ".qkv." in key:
                queries, keys, values = tensor.chunk(3)
                tensor = torch.cat([keys, queries, values])
            for ours, theirs in (
                ("attn.qkv", "kqv"),
                ("attn.proj", "proj"),
                ("attn.features", "w"),
            ):
                key = key.replace(ours, theirs)
            key = key.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
        official[key] = tensor
    return official


@pytest.mark.parametrize("name", ["t2t_vit_7_224", "t2t_vit_t_14_224"])
def test_official_weights_load_strictly_and_our_own_stay_as_they_are(name):
    ours = timm.create_model(name, **SMALL)
    official = _official(ours)
    assert "tokens_to_token.attention1.norm1.weight" in official
    assert not [key for key in official if "patch_embed" in key]
    converted = convert_state_dict(official, ours)
    assert converted.keys() == ours.state_dict().keys()
    assert all(torch.equal(converted[key], tensor) for key, tensor in ours.state_dict().items())
    again = convert_state_dict(converted, ours)
    assert all(torch.equal(again[key], tensor) for key, tensor in converted.items())


def test_places_are_resized_to_the_image():
    """A loaded place keeps its position relative to the image, since that is what the weights have learned."""
    source = timm.create_model("t2t_vit_7_224", depth=1)
    target = timm.create_model("t2t_vit_7_224", depth=1, img_size=(64, 100))
    target.load_state_dict(convert_state_dict(source.state_dict(), target), strict=True)
    assert target.pos_embed.shape == (1, 1 + 4 * 7, 256)
    torch.testing.assert_close(target.pos_embed[:, 0], source.pos_embed[:, 0])
    slow = target.pos_embed[0, 1:, -2].reshape(
        4, 7
    )  # nearly linear in the place: rows come one after the other
    assert (slow.diff(dim=0) > 0).all()
    assert (slow.diff(dim=1) > 0).all()
    with pytest.raises(InputError, match="28 places are of no square image"):
        convert_state_dict(target.state_dict(), source)


def test_three_equal_channels_give_what_one_gives():
    """The first layer normalises windows over pixels and channels: summing its filters takes care of the norm's gain."""
    torch.manual_seed(0)
    color = timm.create_model("t2t_vit_7_224", img_size=32, **SMALL).eval()
    norm = color.patch_embed.blocks[0].norm1
    nn.init.normal_(norm.weight, 1.0)
    nn.init.normal_(norm.bias)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = color(images.expand(-1, 3, -1, -1))
        for channels in (1, 6):
            gray = timm.create_model(
                "t2t_vit_7_224", img_size=32, in_chans=channels, **SMALL
            ).eval()
            gray.load_state_dict(convert_state_dict(color.state_dict(), gray), strict=True)
            torch.testing.assert_close(
                gray(images.expand(-1, channels, -1, -1)), expected, atol=1e-5, rtol=1e-5
            )


def test_softmax_variants_are_fitted_to_one_channel_as_nearly_as_their_layers_allow():
    """Without a bias in the first layer, the norm's shift is the only thing that can take up the colours' shifts."""
    torch.manual_seed(0)
    color = timm.create_model("t2t_vit_t_14_224", img_size=32, **SMALL).eval()
    gray = timm.create_model("t2t_vit_t_14_224", img_size=32, in_chans=1, **SMALL).eval()
    norm = color.patch_embed.blocks[0].norm1
    nn.init.normal_(norm.weight, 1.0)
    shift = torch.randn(49)
    norm.bias.data = (
        shift.repeat(3) / norm.weight.data
    )  # equal for the colours but for their gains: this can be held
    images = torch.randn(2, 1, 32, 32)
    color.patch_embed.blocks[0].attn.qkv.weight.data[:, 49:] = 0
    gray.load_state_dict(convert_state_dict(color.state_dict(), gray), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(
            gray(images), color(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )


def test_checkpointing_takes_the_stems_statistics_once():
    buffers = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("t2t_vit_nano", **SMALL).train()
        model.set_grad_checkpointing(checkpointing)
        model(torch.randn(4, 1, 64, 64)).sum().backward()
        buffers.append(dict(model.named_buffers()))
    assert buffers[0]
    assert all(torch.equal(value, buffers[1][name]) for name, value in buffers[0].items())


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"strides": (2, 4, 1)}, "leave gaps"),
        ({"num_heads": 5}, "a multiple of num_heads=5"),
        ({"token_attention": "linear"}, "must be performer or transformer, not 'linear'"),
        ({"window_size": 7}, "window_size"),
    ],
)
def test_a_keyword_that_cannot_be_is_named(keywords, told):
    with pytest.raises(InputError, match=told):
        create_model("t2t_vit_nano", 64, **keywords)
