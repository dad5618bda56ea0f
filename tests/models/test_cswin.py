"""CSWin: cross-shaped windows."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.cswin import Block, CSWinTransformer, StripeAttention

COLUMNS, ROWS, WHOLE = (None, 2), (2, None), (None, None)


def small(**kwargs):
    options = {
        "img_size": 32,
        "in_chans": 1,
        "num_classes": 3,
        "embed_dim": 8,
        "depths": (1, 2, 1, 1),
    }
    return CSWinTransformer(**{**options, "num_heads": (2, 2, 4, 4), **kwargs})


def test_it_keeps_the_protocol(check_protocol):
    check_protocol("cswin_nano")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cswin_tiny_224", 22_320_552),
        ("cswin_small_224", 34_643_304),
        ("cswin_base_224", 77_382_184),
        ("cswin_large_224", 173_262_664),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_parameters_are_those_of_the_official_code(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "least", "most"), [("cswin_nano", 0.3e6, 1.5e6), ("cswin_tiny", 4e6, 7e6)]
)
@pytest.mark.usefixtures("uninitialised")
def test_our_sizes_are_what_their_names_say(name, least, most):
    assert least <= sum(p.numel() for p in create_model(name, 64).parameters()) <= most


@pytest.mark.parametrize("size", [32, 33, (45, 51), 150], ids=str)
def test_every_pixel_of_any_size_counts(size, fill):
    model = fill(create_model("cswin_nano", size))
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    logits = model(image)
    assert logits.shape == (1, 3)
    logits.square().sum().backward()
    assert (image.grad != 0).all()


def test_the_papers_stripes_take_150_pixels():
    """Stripes of 2 and 7 do not divide the maps of 20 and 10 tokens."""
    model = create_model("cswin_tiny_224", 150, depths=(1, 1, 1, 1), embed_dim=16)
    with torch.no_grad():
        assert model(torch.randn(1, 1, 150, 150)).shape == (1, 3)


@pytest.mark.parametrize("stripe", [COLUMNS, ROWS, WHOLE, (None, 7), (3, None)], ids=str)
@pytest.mark.parametrize("grid", [(6, 4), (5, 7), (1, 1)], ids=str)
def test_every_token_is_in_exactly_one_window(stripe, grid):
    layout = StripeAttention(4, 2, stripe).token_layout(torch.zeros(3, 2, *grid, 4))
    assert layout.query_grid == layout.key_grid == grid
    cells = layout.queries
    assert sorted(cells[cells >= 0].tolist()) == list(range(grid[0] * grid[1]))
    assert (cells >= 0).any(1).all(), "no window is all padding"


def test_stripes_are_whole_columns_or_whole_rows():
    columns = StripeAttention(4, 2, COLUMNS).token_layout(torch.zeros(3, 1, 2, 3, 4)).queries
    rows = StripeAttention(4, 2, ROWS).token_layout(torch.zeros(3, 1, 3, 2, 4)).queries
    assert columns.tolist() == [[0, 1, 3, 4], [2, -1, 5, -1]]
    assert rows.tolist() == [[0, 1, 2, 3], [4, 5, -1, -1]]


@pytest.mark.parametrize("stripe", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_a_token_sees_its_window_and_nothing_else(stripe, fill):
    layer = fill(StripeAttention(4, 2, stripe))
    qkv = torch.randn(3, 1, 5, 7, 4, dtype=torch.float64, requires_grad=True)
    windows = layer.token_layout(qkv).keys.tolist()
    for cell in (0, 6, 17, 34):
        (window,) = (w for w in windows if cell in w)
        (gradient,) = torch.autograd.grad(layer(qkv).flatten(1, 2)[0, cell].sum(), qkv)
        seen = gradient[1:].abs().sum((0, 1, 4)).flatten().nonzero().flatten().tolist()
        assert seen == sorted(set(window) - {-1})


def test_a_block_sees_a_cross(fill):
    block = fill(Block(8, 2, split_size=2, mlp_ratio=1))
    maps = torch.randn(1, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    block(maps)[0, 3, 4].sum().backward()
    seen = (maps.grad[0] != 0).any(-1)
    cross = torch.zeros(6, 8, dtype=torch.bool)
    cross[2:4] = True  # the stripe of rows 2 and 3
    cross[:, 4:6] = True  # the stripe of columns 4 and 5
    assert torch.equal(seen, cross)


def naive_attention(layer, q, k, v):
    """One window (h, w, D), written from the paper: softmax(q k / √d) v, and a convolution of v."""
    height, width, dim = q.shape
    result = F.conv2d(
        v.permute(2, 0, 1)[None], layer.lepe.weight, layer.lepe.bias, padding=1, groups=dim
    )[0]
    result = result.permute(1, 2, 0).reshape(height * width, dim)
    size = dim // layer.num_heads
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        a, b, c = (x.reshape(-1, dim)[:, part] for x in (q, k, v))
        result[:, part] += (a @ b.T / size**0.5).softmax(-1) @ c
    return result.reshape(height, width, dim)


def test_each_stripe_is_attended_and_convolved_by_itself_the_narrower_last_one_too(fill):
    """What the padding of a map of 7 columns to 8 must not change."""
    layer = fill(StripeAttention(4, 2, COLUMNS))
    qkv = torch.randn(3, 2, 5, 7, 4, dtype=torch.float64)
    mixed = layer(qkv)
    for image in range(2):
        for first in (0, 2, 4, 6):
            stripe = slice(first, first + 2)
            expected = naive_attention(layer, *qkv[:, image, :, stripe])
            torch.testing.assert_close(mixed[image, :, stripe], expected)


def test_padding_gets_no_weight(fill):
    """Weights sum to one over the tokens alone: equal values come out as they are."""
    layer = fill(StripeAttention(4, 2, (3, None)))
    nn.init.zeros_(layer.lepe.weight)
    nn.init.zeros_(layer.lepe.bias)
    qkv = torch.randn(3, 2, 5, 7, 4, dtype=torch.float64)
    qkv[2] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(layer(qkv), qkv[2])


def test_stripes_wider_than_the_map_are_the_map(fill):
    whole, wide = fill(StripeAttention(4, 2, WHOLE)), fill(StripeAttention(4, 2, (None, 7)))
    qkv = torch.randn(3, 2, 5, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(wide(qkv), whole(qkv))


def test_rows_of_the_transposed_map_are_its_columns(fill):
    columns, rows = fill(StripeAttention(4, 2, COLUMNS)), fill(StripeAttention(4, 2, ROWS))
    rows.lepe.weight.data = columns.lepe.weight.data.transpose(2, 3)
    qkv = torch.randn(3, 2, 5, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(rows(qkv.transpose(2, 3)).transpose(1, 2), columns(qkv))


def test_attention_has_no_sense_of_place_beyond_its_kernel(fill):
    """With a mirror-symmetric kernel, mirrored whole stripes give the mirrored result; without, they do not."""
    layer = fill(StripeAttention(4, 2, COLUMNS))
    qkv = torch.randn(3, 2, 5, 6, 4, dtype=torch.float64)
    assert not torch.allclose(layer(qkv.flip(3)).flip(2), layer(qkv))
    layer.lepe.weight.data += layer.lepe.weight.data.flip(3)
    torch.testing.assert_close(layer(qkv.flip(3)).flip(2), layer(qkv))


def test_half_the_heads_look_each_way_and_the_last_stage_everywhere():
    model = small()
    directions = [[a.stripe for a in stage.blocks[0].attns] for stage in model.stages]
    assert directions == [[(None, s), (s, None)] for s in (1, 2, 7)] + [[(None, None)]]
    assert [a.num_heads for stage in model.stages for a in stage.blocks[0].attns] == [
        1,
        1,
        1,
        1,
        2,
        2,
        4,
    ]
    with pytest.raises(ValueError, match="halved"):
        small(num_heads=(1, 2, 4, 4))


def test_stage_maps_halve(fill):
    model = fill(small())
    features, maps = model.forward_intermediates(torch.randn(1, 1, 36, 64, dtype=torch.float64))
    assert [tuple(m.shape) for m in maps] == [
        (1, 8, 9, 16),
        (1, 16, 5, 8),
        (1, 32, 3, 4),
        (1, 64, 2, 2),
    ]
    torch.testing.assert_close(model.pool(features), features.mean((2, 3)))


def official_key(key: str) -> str:
    key = key.replace("patch_embed.proj", "stage1_conv_embed.0").replace(
        "patch_embed.norm", "stage1_conv_embed.2"
    )
    for i in range(4):
        key = key.replace(f"stages.{i}.downsample.proj", f"merge{i}.conv").replace(
            f"stages.{i}.downsample", f"merge{i}"
        )
        key = key.replace(f"stages.{i}.blocks", f"stage{i + 1}")
    return key.replace(".lepe.", ".get_v.")


def test_official_weights_load(fill):
    source = fill(small())
    official = {official_key(key): value for key, value in source.state_dict().items()}
    assert {
        "stage1_conv_embed.0.weight",
        "stage1_conv_embed.2.bias",
        "stage1.0.attns.1.get_v.weight",
        "merge1.conv.weight",
        "merge3.norm.bias",
        "stage2.1.qkv.bias",
        "stage4.0.mlp.fc2.bias",
        "norm.weight",
    } <= set(official)
    model = small().double().eval()
    converted = convert_state_dict(official, model)
    assert list(convert_state_dict(converted, model)) == list(converted)
    model.load_state_dict(converted, strict=True)
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images), rtol=0, atol=0)


def test_the_same_weights_run_at_any_size(fill):
    weights = fill(timm.create_model("cswin_nano", img_size=64)).state_dict()
    model = timm.create_model("cswin_nano", img_size=(96, 128)).double()
    model.load_state_dict(weights, strict=True)
    assert model(torch.zeros(1, 1, 96, 128, dtype=torch.float64)).shape == (1, 3)


@pytest.mark.parametrize(
    ("size", "logits"),
    [
        (64, [1.9888025401357008, -0.2779441323736749, -0.8652131599790093]),
        ((45, 51), [0.7693679197336749, -0.04685180412162362, -1.4662779303525]),
    ],
    ids=["64", "45x51"],
)
def test_logits_are_as_they_were(golden, size, logits):
    assert golden("cswin_nano", size) == pytest.approx(logits, rel=1e-6)
