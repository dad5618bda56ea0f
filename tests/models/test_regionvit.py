"""RegionViT: regional and local tokens."""

import pytest
import timm
import torch
from torch import nn

from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.regionvit import RegionalAttention, RegionViT, RegionViTBlock, Windows


def small(**kwargs):
    options = {
        "img_size": 32,
        "in_chans": 1,
        "num_classes": 3,
        "embed_dims": (8, 16),
        "depths": (1, 2),
    }
    return RegionViT(**{**options, "num_heads": (2, 4), "window_size": 3, **kwargs})


def test_it_keeps_the_protocol(check_protocol):
    check_protocol("regionvit_nano")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("regionvit_tiny_224", 13_842_676),
        ("regionvit_small_224", 30_586_618),
        ("regionvit_medium_224", 41_215_906),
        ("regionvit_base_224", 72_747_232),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_parameters_are_those_of_the_official_code(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "least", "most"), [("regionvit_nano", 0.3e6, 1.5e6), ("regionvit_tiny", 4e6, 7e6)]
)
@pytest.mark.usefixtures("uninitialised")
def test_our_sizes_are_what_their_names_say(name, least, most):
    assert least <= sum(p.numel() for p in create_model(name, 64).parameters()) <= most


@pytest.mark.parametrize("size", [32, 33, (45, 51), 150], ids=str)
def test_every_pixel_of_any_size_counts(size, fill):
    model = fill(create_model("regionvit_nano", size))
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    logits = model(image)
    assert logits.shape == (1, 3)
    logits.square().sum().backward()
    assert (image.grad != 0).all()


@pytest.mark.parametrize("name", ["regionvit_tiny_224", "regionvit_medium_224"])
def test_the_papers_regions_take_150_pixels(name):
    model = create_model(
        name, 150, embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
    )
    with torch.no_grad():
        features, maps = model.forward_intermediates(torch.randn(1, 1, 150, 150))
    assert [tuple(m.shape[2:]) for m in maps] == [(38, 38), (19, 19), (10, 10), (5, 5)]
    assert features.shape == (1, 1, 16), "6, 3, 2 and 1 regions a side"


def test_sides_that_are_no_whole_patches_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        small()(torch.zeros(1, 1, 33, 32))


def test_regions_and_windows_stay_aligned_when_both_are_halved():
    for size in range(1, 9):
        for side in range(1, 80):
            regions = Windows((side, side), (min(size, side),) * 2).regions[0]
            halved = -(-side // 2)
            assert Windows((halved, halved), (min(size, halved),) * 2).regions[0] == -(
                -regions // 2
            )


@pytest.mark.parametrize("grid", [(6, 9), (5, 7), (2, 4), (1, 1)], ids=str)
def test_every_local_token_is_in_exactly_one_window(grid):
    windows = Windows(grid, (min(3, grid[0]), min(3, grid[1])))
    layout = RegionalAttention(8, 2, 3).token_layout(torch.zeros(1), windows, False)
    assert layout.query_grid == layout.key_grid == grid
    assert len(layout.keys) == windows.regions[0] * windows.regions[1]
    assert (layout.keys[:, 0] == -1).all(), (
        "the regional token comes first and is at no single place"
    )
    cells = layout.keys[layout.keys >= 0]
    assert sorted(cells.tolist()) == list(range(grid[0] * grid[1]))
    assert (layout.keys >= 0).any(1).all(), "no window is all padding"


def test_regional_tokens_lie_on_the_grid_of_windows():
    layout = RegionalAttention(8, 2, 3).token_layout(torch.zeros(1), Windows((5, 7), (3, 3)), True)
    assert layout.query_grid == layout.key_grid == (2, 3)
    assert layout.keys.tolist() == [list(range(6))]


def test_windows_are_put_back_where_they_were_cut():
    windows = Windows((5, 7), (3, 3))
    maps = torch.randn(2, 4, 5, 7)
    assert windows.cut(maps).shape == (2 * 6, 9, 4)
    assert torch.equal(windows.join(windows.cut(maps)), maps)
    cells = windows.cells()
    flat = maps.flatten(2).transpose(1, 2)
    for image in range(2):
        for window in range(6):
            real = cells[window] >= 0
            assert torch.equal(
                windows.cut(maps)[image * 6 + window][real], flat[image][cells[window][real]]
            )


def naive_attention(layer, tokens, places):
    """One window, from the paper: tokens (n, D) at (row, column), or None for the regional token."""
    dim, heads = tokens.shape[1], layer.num_heads
    q, k, v = (
        (tokens @ layer.qkv.weight.T + layer.qkv.bias).reshape(-1, 3, heads, dim // heads).unbind(1)
    )
    span = 2 * layer.window_size - 1
    mixed = torch.zeros_like(q)
    for head in range(heads):
        logits = q[:, head] @ k[:, head].T / (dim // heads) ** 0.5
        for i, a in enumerate(places):
            for j, b in enumerate(places):
                if a is not None and b is not None:
                    row, column = (
                        a[0] - b[0] + layer.window_size - 1,
                        a[1] - b[1] + layer.window_size - 1,
                    )
                    logits[i, j] += layer.relative_position_bias_table[row * span + column, head]
        mixed[:, head] = logits.softmax(-1) @ v[:, head]
    return mixed.flatten(1) @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize(
    "grid", [(3, 6), (5, 4), (2, 7)], ids=["whole", "padded", "lower than a window"]
)
def test_each_window_attends_by_itself_with_its_region_and_without_padding(grid, fill):
    layer = fill(RegionalAttention(8, 2, 3))
    windows = Windows(grid, (min(3, grid[0]), min(3, grid[1])))
    local = windows.cut(torch.randn(2, 8, *grid, dtype=torch.float64))
    tokens = torch.cat((torch.randn(len(local), 1, 8, dtype=torch.float64), local), 1)
    mixed = layer(tokens, windows, False)
    layout = layer.token_layout(tokens, windows, False)
    for index, cells in enumerate(layout.keys.repeat(2, 1)):
        real = cells >= 0
        real[0] = True
        places = [None, *(divmod(int(cell), grid[1]) for cell in cells[1:] if cell >= 0)]
        torch.testing.assert_close(
            mixed[index][real], naive_attention(layer, tokens[index][real], places)
        )


def test_regional_tokens_attend_to_all_others_and_know_no_place(fill):
    layer = fill(RegionalAttention(8, 2, 3))
    regions = torch.randn(2, 6, 8, dtype=torch.float64)
    order = torch.randperm(6)
    windows = Windows((5, 7), (3, 3))
    torch.testing.assert_close(
        layer(regions[:, order], windows, True), layer(regions, windows, True)[:, order]
    )
    torch.testing.assert_close(
        layer(regions, windows, True)[0], naive_attention(layer, regions[0], [None] * 6)
    )


def influences(block, tokens, windows, source):
    """Which tokens change, (W, 1 + N), if the one at ``source`` does."""
    changed = tokens.clone()
    changed[source] += torch.linspace(0, 1, 8)  # a constant would be taken away by the norms
    return (block(changed, windows) - block(tokens, windows)).abs().amax(-1) > 1e-9


def test_a_local_token_reaches_its_window_and_a_regional_token_reaches_all(fill):
    block = fill(RegionViTBlock(8, 2, 2, 2.0, True, 0.0, 0.0, 0.0))
    windows = Windows((4, 4), (2, 2))
    tokens = torch.randn(4, 5, 8, dtype=torch.float64)
    own_window = torch.zeros(4, 5, dtype=torch.bool)
    own_window[1] = True
    assert torch.equal(influences(block, tokens, windows, (1, 3)), own_window)
    assert influences(block, tokens, windows, (1, 0)).all()

    def two_blocks(tokens, windows):
        return block(block(tokens, windows), windows)

    assert influences(two_blocks, tokens, windows, (1, 3)).all(), "through its region"


def test_images_of_a_batch_do_not_mix(fill):
    model = fill(small())
    images = torch.randn(3, 1, 36, 44, dtype=torch.float64)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


def test_regions_are_embedded_from_the_pixels_of_their_windows(fill):
    """At 36×44 pixels there are 9×11 local tokens: 3×4 regions of 12 pixels, the last ones hanging over."""
    model = fill(small())
    images = torch.randn(1, 1, 36, 44, dtype=torch.float64, requires_grad=True)
    regions = model._embed_regions(images, Windows((9, 11), (3, 3)))
    assert regions.shape == (1, 8, 3, 4)
    for row, column in [(0, 0), (1, 3), (2, 1)]:
        (gradient,) = torch.autograd.grad(
            regions[0, :, row, column].sum(), images, retain_graph=True
        )
        seen = torch.zeros(36, 44, dtype=torch.bool)
        seen[12 * row : 12 * row + 12, 12 * column : 12 * column + 12] = True
        assert torch.equal(gradient[0, 0] != 0, seen)


def test_only_layer_norms_are_shared_by_both_kinds_of_tokens():
    shared, own = (
        small(batch_norm=batch_norm).downsamples[0].norms for batch_norm in (False, True)
    )
    assert len(shared) == 1
    assert [type(norm) for norm in own] == [nn.BatchNorm2d, nn.BatchNorm2d]
    regions, local = torch.zeros(2, 8, 3, 3), torch.full((2, 8, 9, 9), 5.0)
    small_model = small(batch_norm=True)
    small_model.downsamples[0](regions, local)
    means = [norm.running_mean[0].item() for norm in small_model.downsamples[0].norms]
    assert means == pytest.approx([0.0, 0.5]), (
        "the first is the regions', each with its own statistics"
    )


def official(source):
    """The state dict as the official code would have it (window 3, layer norms)."""
    renamed = {}
    for key, value in source.state_dict().items():
        if key.endswith("relative_position_bias_table"):
            # There, entry [(key row - query row + 1) mod 5, likewise columns] of (heads, 5, 5).
            table = torch.empty(value.shape[1], 5, 5, dtype=value.dtype)
            for row in range(-2, 3):
                for column in range(-2, 3):
                    table[:, row + 1, column + 1] = value[
                        (2 - row) * 5 + 2 - column
                    ]  # ours: query minus key
            value = table.flatten(1)
        key = key.replace("relative_position_bias_table", "rel_pos").replace(
            "region_embed.", "cls_token.proj."
        )
        if key in (
            "patch_embed.proj.1.weight",
            "patch_embed.proj.1.bias",
            "downsamples.0.norms.0.weight",
        ):
            value = value[None, :, None, None]
        if key.startswith("downsamples.0"):
            key = key.replace("downsamples.0.norms.0", "layers.1.block.0.proj.0")
            key = key.replace("downsamples.0.conv", "layers.1.block.0.proj.2")
            renamed[key.replace("proj", "proj_cls")] = value
        parts = key.split(".")
        if parts[0] == "stages":
            key = ".".join(["layers", parts[1], "block", str(int(parts[2]) + 1), *parts[3:]])
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("conv_stem", [True, False])
def test_official_weights_load(conv_stem, fill):
    source = fill(small(conv_stem=conv_stem))
    weights = official(source)
    if not conv_stem:
        weights = {
            key.replace("patch_embed.proj.0.", "patch_embed.proj."): value
            for key, value in weights.items()
        }
    stem = "patch_embed.proj.6.bias" if conv_stem else "patch_embed.proj.weight"
    expected = {
        stem,
        "cls_token.proj.weight",
        "layers.0.block.1.attn.rel_pos",
        "layers.1.block.0.proj_cls.2.bias",
    }
    assert expected | {
        "layers.1.block.2.norm0.weight",
        "layers.1.block.2.mlp.fc2.bias",
        "norm.weight",
    } <= set(weights)
    model = small(conv_stem=conv_stem).double().eval()
    converted = convert_state_dict({"model": weights}, model)
    assert list(convert_state_dict(converted, model)) == list(converted)
    model.load_state_dict(converted, strict=True)
    images = torch.randn(2, 1, 36, 44, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images), rtol=0, atol=0)


def test_weights_of_other_windows_are_resized(fill):
    source = fill(small(window_size=3))
    nn.init.constant_(source.stages[0][0].attn.relative_position_bias_table, 0.7)
    nn.init.constant_(source.region_embed.weight, 0.1)
    model = small(window_size=5).double().eval()
    model.load_state_dict(convert_state_dict(source.state_dict(), model), strict=True)
    table = model.stages[0][0].attn.relative_position_bias_table
    assert table.shape == (81, 2)
    torch.testing.assert_close(table, torch.full_like(table, 0.7))
    # Wider filters with smaller weights: what they make of an even image stays about as it was (144 · 0.1).
    assert model.region_embed.weight.shape[2:] == (20, 20)
    sums = model.region_embed.weight.sum((1, 2, 3))
    torch.testing.assert_close(sums, torch.full_like(sums, 14.4), rtol=0.1, atol=0)


def test_the_same_weights_run_at_any_size(fill):
    weights = fill(timm.create_model("regionvit_nano", img_size=64, in_chans=1)).state_dict()
    model = timm.create_model("regionvit_nano", img_size=(96, 128), in_chans=1).double()
    model.load_state_dict(weights, strict=True)
    assert model(torch.zeros(2, 1, 96, 128, dtype=torch.float64)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("size", "logits"),
    [
        (64, [1.760634215669686, 1.3150292117270452, -0.7732447227420156]),
        ((45, 51), [1.7643098187908643, 0.4662564023502065, -1.6164464990032974]),
    ],
    ids=["64", "45x51"],
)
def test_logits_are_as_they_were(golden, size, logits):
    assert golden("regionvit_nano", size) == pytest.approx(logits, rel=1e-6)
