"""CrossFormer: cross-scale tokens, short- and long-distance groups."""

import pytest
import timm
import torch
from torch import nn

from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.crossformer import (
    CrossFormer,
    CrossScaleConvs,
    DynamicPositionBias,
    GroupAttention,
    from_groups,
    groups_along,
    to_groups,
)

SHORT, LONG = False, True


def small(**kwargs):
    options = {"img_size": 32, "in_chans": 1, "num_classes": 3, "embed_dim": 16, "depths": (2, 2)}
    return CrossFormer(**{**options, "num_heads": (2, 4), "group_size": 3, **kwargs})


def test_it_keeps_the_protocol(check_protocol):
    check_protocol("crossformer_nano")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("crossformer_tiny_224", 27_776_794),
        ("crossformer_small_224", 30_657_394),
        ("crossformer_base_224", 51_971_554),
        ("crossformer_large_224", 91_971_184),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_parameters_are_those_of_the_official_code(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "least", "most"), [("crossformer_nano", 0.3e6, 1.5e6), ("crossformer_tiny", 4e6, 7e6)]
)
@pytest.mark.usefixtures("uninitialised")
def test_our_sizes_are_what_their_names_say(name, least, most):
    assert least <= sum(p.numel() for p in create_model(name, 64).parameters()) <= most


@pytest.mark.parametrize("size", [32, 33, (45, 51), 150], ids=str)
def test_every_pixel_of_any_size_counts(size, fill):
    model = fill(create_model("crossformer_nano", size))
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    logits = model(image)
    assert logits.shape == (1, 3)
    logits.square().sum().backward()
    assert (image.grad != 0).all()


def test_the_papers_groups_take_150_pixels():
    """Maps of 38, 19, 10 and 5 tokens, two of them odd before they are halved or after."""
    model = create_model(
        "crossformer_tiny_224", 150, depths=(2, 2, 2, 2), embed_dim=16, num_heads=(1, 1, 2, 2)
    )
    with torch.no_grad():
        features, maps = model.forward_intermediates(torch.randn(1, 1, 150, 150))
    assert [tuple(m.shape) for m in maps] == [
        (1, 16, 38, 38),
        (1, 32, 19, 19),
        (1, 64, 10, 10),
        (1, 128, 5, 5),
    ]
    torch.testing.assert_close(model.pool(features), features.mean((2, 3)))


def test_sides_that_are_no_whole_patches_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        small()(torch.zeros(1, 1, 33, 32))


def test_at_224_pixels_intervals_and_groups_are_the_papers():
    assert [groups_along(side, 7) for side in (56, 28, 14, 7)] == [(8, 7), (4, 7), (2, 7), (1, 7)]


def test_groups_are_no_larger_than_allowed_and_none_is_all_padding():
    for size in range(1, 10):
        for side in range(1, 70):
            n, width = groups_along(side, size)
            assert width <= size
            assert (n - 1) * width < side <= n * width  # the last of the neighbours' groups
            assert n <= side  # the last interval begins within the map


@pytest.mark.parametrize("long", [SHORT, LONG])
@pytest.mark.parametrize("grid", [(6, 9), (5, 7), (2, 4), (1, 1)], ids=str)
def test_every_token_is_in_exactly_one_group(long, grid):
    layout = GroupAttention(16, 2, 3, long).token_layout(torch.zeros(2, *grid, 16))
    assert layout.query_grid == layout.key_grid == grid
    cells = layout.keys[layout.keys >= 0]
    assert sorted(cells.tolist()) == list(range(grid[0] * grid[1]))
    assert (layout.keys >= 0).any(1).all()
    assert torch.equal(layout.queries, layout.keys)


def test_short_groups_are_neighbours_and_long_ones_at_equal_intervals():
    short, long = (
        GroupAttention(16, 2, 2, kind).token_layout(torch.zeros(1, 4, 3, 16)).keys
        for kind in (SHORT, LONG)
    )
    assert short.tolist() == [[0, 1, 3, 4], [2, -1, 5, -1], [6, 7, 9, 10], [8, -1, 11, -1]]
    assert long.tolist() == [[0, 2, 6, 8], [1, -1, 7, -1], [3, 5, 9, 11], [4, -1, 10, -1]]


@pytest.mark.parametrize("long", [SHORT, LONG])
def test_groups_are_put_back_where_they_were_cut(long):
    maps = torch.randn(2, 5, 7, 4)
    groups = to_groups(maps, 3, long)
    assert torch.equal(from_groups(groups, (5, 7), 3, long), maps)
    cells = GroupAttention(16, 2, 3, long).token_layout(maps).keys.repeat(2, 1)
    for index, (group, places) in enumerate(zip(groups, cells)):
        image = index // (len(cells) // 2)
        assert torch.equal(group[places >= 0], maps[image].flatten(0, 1)[places[places >= 0]])


def naive_attention(layer, tokens, bias):
    """One group, from the paper: softmax(q k / √d + B) v for tokens (n, D)."""
    dim, heads = tokens.shape[1], layer.num_heads
    q, k, v = (
        (tokens @ layer.qkv.weight.T + layer.qkv.bias).reshape(-1, 3, heads, dim // heads).unbind(1)
    )
    mixed = [
        (q[:, h] @ k[:, h].T / (dim // heads) ** 0.5 + bias[h]).softmax(-1) @ v[:, h]
        for h in range(heads)
    ]
    return torch.cat(mixed, 1) @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize("long", [SHORT, LONG])
@pytest.mark.parametrize(
    "grid", [(6, 6), (5, 7), (2, 7)], ids=["whole", "padded", "lower than a group"]
)
def test_each_group_attends_by_itself_and_without_padding(long, grid, fill):
    layer = fill(GroupAttention(16, 2, 3, long))
    maps = torch.randn(2, *grid, 16, dtype=torch.float64)
    mixed = layer(maps)
    (_, rows), (_, columns) = (groups_along(side, 3) for side in grid)
    bias = layer.pos((rows, columns))
    for image in range(2):
        for cells in layer.token_layout(maps).keys:
            real = cells >= 0
            tokens = maps[image].flatten(0, 1)[cells[real]]
            expected = naive_attention(layer, tokens, bias[:, real][:, :, real])
            torch.testing.assert_close(mixed[image].flatten(0, 1)[cells[real]], expected)


def test_position_bias_is_a_function_of_the_offset_whatever_the_group(fill):
    bias = fill(DynamicPositionBias(4, 2))
    wide = bias((3, 4)).reshape(2, 3, 4, 3, 4)
    torch.testing.assert_close(wide[:, 0, 1, 1, 1], wide[:, 1, 2, 2, 2])
    assert not torch.allclose(wide[:, 0, 1, 1, 1], wide[:, 1, 1, 0, 1]), "opposite offsets differ"
    torch.testing.assert_close(bias((2, 3)).reshape(2, 2, 3, 2, 3), wide[:, :2, :3, :2, :3])
    expected = bias.pos_proj(torch.tensor([[-1.0, 2.0]], dtype=torch.float64))  # query minus key
    for layer in bias.layers:
        expected = layer(expected)
    torch.testing.assert_close(wide[:, 0, 3, 1, 1], expected[0])


def test_short_and_long_distance_are_one_where_a_group_holds_the_map(fill):
    short, long = fill(GroupAttention(16, 2, 7, SHORT)), fill(GroupAttention(16, 2, 7, LONG))
    maps = torch.randn(2, 7, 4, 16, dtype=torch.float64)
    torch.testing.assert_close(short(maps), long(maps))


def test_a_token_sees_its_group_and_through_both_kinds_the_whole_map(fill):
    short, long = fill(GroupAttention(16, 2, 4, SHORT)), fill(GroupAttention(16, 2, 4, LONG))
    maps = torch.randn(1, 16, 16, 16, dtype=torch.float64, requires_grad=True)

    def seen(result):
        (gradient,) = torch.autograd.grad(result[0, 5, 10].sum(), maps)
        return gradient[0].abs().sum(-1) > 0

    block, comb = torch.zeros(16, 16, dtype=torch.bool), torch.zeros(16, 16, dtype=torch.bool)
    block[4:8, 8:12] = True
    comb[1::4, 2::4] = True
    assert torch.equal(seen(short(maps)), block)
    assert torch.equal(seen(long(maps)), comb)
    assert seen(long(short(maps))).all()


def test_blocks_alternate_between_short_and_long_distance():
    model = small(depths=(3, 2))
    assert [[block.attn.long for block in stage] for stage in model.stages] == [
        [SHORT, LONG, SHORT],
        [SHORT, LONG],
    ]


def test_patches_of_all_sizes_share_their_centre(fill):
    convs = fill(CrossScaleConvs(1, 16, (4, 8, 16, 32)))
    assert [conv.out_channels for conv in convs.convs] == [8, 4, 2, 2]
    images = torch.randn(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    tokens = convs(images)
    assert tokens.shape == (1, 16, 16, 16)
    for channel, width in [(0, 4), (8, 8), (12, 16), (14, 32)]:
        (gradient,) = torch.autograd.grad(tokens[0, channel, 7, 8], images, retain_graph=True)
        rows, columns = (gradient[0, 0] != 0).nonzero(as_tuple=True)
        assert len(rows) == width**2
        assert (rows.min() + rows.max() + 1) / 2 == 4 * 7 + 2
        assert (columns.min() + columns.max() + 1) / 2 == 4 * 8 + 2


def test_images_of_a_batch_do_not_mix(fill):
    model = fill(small())
    images = torch.randn(3, 1, 36, 44, dtype=torch.float64)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


OFFICIAL_NAMES = (
    ("patch_embed.proj.convs.", "patch_embed.projs."),
    ("merges.0.proj.convs.", "layers.0.downsample.reductions."),
    ("merges.0.", "layers.0.downsample."),
    ("stages.0.", "layers.0.blocks."),
    ("stages.1.", "layers.1.blocks."),
    (".pos.layers.0.", ".pos.pos1."),
    (".pos.layers.1.", ".pos.pos2."),
    (".pos.layers.2.", ".pos.pos3."),
)


def official_key(key):
    for ours, theirs in OFFICIAL_NAMES:
        key = key.replace(ours, theirs)
    return key


def test_official_weights_load(fill):
    source = fill(small())
    weights = {official_key(key): value for key, value in source.state_dict().items()}
    assert {
        "patch_embed.projs.3.weight",
        "layers.0.downsample.reductions.1.bias",
        "layers.0.downsample.norm.weight",
        "layers.1.blocks.1.attn.pos.pos_proj.weight",
        "layers.0.blocks.0.attn.pos.pos3.2.bias",
        "norm.weight",
    } <= set(weights)
    for buffer in ("biases", "relative_position_index"):  # which earlier official code saved
        weights[f"layers.0.blocks.0.attn.{buffer}"] = torch.zeros(9)
    weights["layers.0.blocks.0.attn_mask"] = torch.zeros(9)
    model = small().double().eval()
    converted = convert_state_dict({"model": weights}, model)
    assert list(convert_state_dict(converted, model)) == list(converted)
    model.load_state_dict(converted, strict=True)
    images = torch.randn(2, 1, 36, 44, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images), rtol=0, atol=0)


def test_batch_norm_replaces_the_norms_of_maps_alone():
    model = small(batch_norm=True)
    assert {
        name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)
    } == {
        "patch_embed.norm",
        "merges.0.norm",
    }
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small().modules())


def test_the_same_weights_run_at_any_size(fill):
    weights = fill(timm.create_model("crossformer_nano", img_size=64, in_chans=1)).state_dict()
    model = timm.create_model("crossformer_nano", img_size=(96, 128), in_chans=1).double()
    model.load_state_dict(weights, strict=True)
    assert model(torch.zeros(2, 1, 96, 128, dtype=torch.float64)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("size", "logits"),
    [
        (64, [-0.33817731950022956, -0.40928776411545287, -0.25753690991816236]),
        ((45, 51), [0.25289803413107365, -0.6141500311331765, -0.5808040690266306]),
    ],
    ids=["64", "45x51"],
)
def test_logits_are_as_they_were(golden, size, logits):
    assert golden("crossformer_nano", size) == pytest.approx(logits, rel=1e-6)
