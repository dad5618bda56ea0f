"""PVT v1: keys stand for whole squares of cells and none is left out; positions and official weights load."""

import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.pvt import Attention, PatchEmbed, PyramidVisionTransformer, pad_to_multiple

SMALL = {"embed_dims": (8, 16, 32), "depths": (1, 1, 1), "stem_channels": (8, 8)}


def test_pvt_keeps_timms_protocol(check_protocol):
    check_protocol("pvt_nano", depths=(1, 1, 2))


def test_the_papers_pvt_with_patches_and_a_class_token_keeps_timms_protocol(check_protocol):
    check_protocol("pvt_tiny_224", embed_dims=(16, 32, 40, 64), depths=(1, 1, 1, 2))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, [1.61492356, 0.252956386, -0.148314038]),
        ((45, 51), [1.6777582, -0.0421870771, 0.193417869]),
    ],
    ids=str,
)
def test_pvt_computes_what_it_always_did(golden, size, expected):
    assert golden("pvt_nano", size) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pvt_tiny_224", 13_229_288),
        ("pvt_small_224", 24_485_864),
        ("pvt_medium_224", 44_208_104),
        ("pvt_large_224", 61_369_320),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_have_the_official_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("stem_channels", [(), (8, 8)], ids=["patches", "stem"])
@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
def test_no_pixel_is_ignored_at_any_size(size, stem_channels, fill):
    height, width = (size, size) if isinstance(size, int) else size
    model = fill(create_model("pvt_nano", size, **{**SMALL, "stem_channels": stem_channels}))
    images = torch.randn(3, 1, height, width, dtype=torch.float64, requires_grad=True)
    model(images).square().sum().backward()
    assert (
        (images.grad != 0).any(0).all()
    )  # around any one pixel of one image, all of the stem's units may be silent


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (3, 2)], ids=str)
def test_every_cell_is_in_exactly_one_key(grid):
    """Also of maps that whole squares do not fill, or that are smaller than one."""
    attention = Attention(4, 2, sr_ratio=4)
    nn.init.ones_(attention.sr.weight)
    cells = torch.zeros(grid[0] * grid[1], 4, grid[0] * grid[1])
    cells[:, 0] = torch.eye(grid[0] * grid[1])
    summed = nn.functional.conv2d(
        pad_to_multiple(cells.unflatten(2, grid), 4), attention.sr.weight, stride=4
    )
    assert (summed[:, 0] > 0).sum((1, 2)).eq(1).all()
    layout = attention.token_layout(torch.zeros(1, grid[0] * grid[1], 4), grid)
    assert layout.key_grid == summed.shape[2:]
    assert layout.keys.tolist() == [list(range(summed[0, 0].numel()))]
    assert layout.queries.tolist() == [list(range(grid[0] * grid[1]))]


def test_padding_is_shared_between_the_sides():
    padded = pad_to_multiple(torch.ones(1, 1, 5, 8), 8)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, :, 0].tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_without_reduction_the_order_of_the_tokens_is_immaterial():
    torch.manual_seed(0)
    attention = Attention(8, 2, sr_ratio=1).eval()
    tokens, order = torch.randn(2, 12, 8), torch.randperm(12)
    torch.testing.assert_close(
        attention(tokens[:, order], (3, 4)), attention(tokens, (3, 4))[:, order]
    )


def test_reduced_attention_does_not_see_where_within_its_key_a_cell_lies_if_the_kernel_does_not():
    """With a constant kernel, shuffling the cells within each square leaves the keys: only the queries move."""
    torch.manual_seed(0)
    attention = Attention(4, 1, sr_ratio=2).eval()
    nn.init.constant_(attention.sr.weight, 0.25)
    tokens = torch.randn(1, 16, 4)
    flipped_in_squares = tokens.reshape(1, 2, 2, 2, 2, 4).flip(2, 4).reshape(1, 16, 4)
    expected = attention(tokens, (4, 4)).reshape(1, 2, 2, 2, 2, 4).flip(2, 4).reshape(1, 16, 4)
    torch.testing.assert_close(attention(flipped_in_squares, (4, 4)), expected)


def test_attention_rows_sum_to_one():
    attention = Attention(8, 2, sr_ratio=2).eval()
    nn.init.zeros_(attention.kv.weight)  # values that are the same everywhere come out as they were
    attention.proj.load_state_dict({"weight": torch.eye(8), "bias": torch.zeros(8)})
    output = attention(torch.randn(1, 15, 8), (3, 5))
    torch.testing.assert_close(output[0], attention.kv.bias[8:].expand(15, 8))


def test_the_class_token_joins_in_the_last_stage_only():
    model = create_model("pvt_tiny_224", 64, depths=(1, 1, 1, 1)).eval()
    seen = {}
    for index, stage in enumerate(model.stages):
        stage.blocks[0].attn.register_forward_hook(
            lambda layer, inputs, _, index=index: seen.update(
                {index: (inputs[0].shape[1], layer.token_layout(*inputs))}
            )
        )
    model(torch.randn(1, 1, 64, 64))
    assert [tokens for tokens, _ in seen.values()] == [256, 64, 16, 5]
    assert [layout.class_query for _, layout in seen.values()] == [None, None, None, 0]
    assert [layout.key_grid for _, layout in seen.values()] == [(2, 2)] * 4
    assert seen[3][1].keys.tolist() == [[-1, 0, 1, 2, 3]]


@pytest.mark.parametrize("size", [33, 45, 64, 150])
def test_positions_fit_the_maps(size):
    model = create_model("pvt_tiny_224", size, depths=(1, 1, 1, 1)).eval()
    _, maps = model.forward_intermediates(torch.randn(1, 1, size, size))
    side = -(-size // 4)
    for stage, stage_map in zip(model.stages, maps):
        assert stage.pos_embed.shape[1:3] == stage_map.shape[2:] == (side, side)
        side = -(-side // 2)


def _official(model: PyramidVisionTransformer) -> dict[str, torch.Tensor]:
    """The weights as the official code would name and shape them."""
    official = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] != "stages":
            official[name] = tensor
        elif parts[2] == "pos_embed":
            official[f"pos_embed{int(parts[1]) + 1}"] = tensor.flatten(1, 2)
        else:
            official[
                ".".join(
                    [
                        {"embed": "patch_embed", "blocks": "block"}[parts[2]]
                        + str(int(parts[1]) + 1),
                        *parts[3:],
                    ]
                )
            ] = tensor
    last = f"pos_embed{len(model.stages)}"
    official[last] = torch.cat([official.pop("cls_pos_embed"), official[last]], dim=1)
    return official


def test_official_weights_load_strictly_and_our_own_stay_as_they_are():
    ours = timm.create_model("pvt_tiny_224", img_size=64, depths=(1, 1, 2, 1))
    converted = convert_state_dict(_official(ours), ours)
    assert converted.keys() == ours.state_dict().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in ours.state_dict().items())
    again = convert_state_dict(converted, ours)
    assert all(torch.equal(again[name], tensor) for name, tensor in converted.items())


def test_positions_are_resized_to_the_image():
    source = timm.create_model("pvt_tiny_224", img_size=64, depths=(1, 1, 1, 1))
    for stage in source.stages:
        nn.init.constant_(stage.pos_embed[..., 0], 3.0)
    target = timm.create_model("pvt_tiny_224", img_size=(45, 150), depths=(1, 1, 1, 1))
    for weights in (_official(source), source.state_dict()):
        target.load_state_dict(convert_state_dict(weights, target), strict=True)
        assert [stage.pos_embed.shape[1:3] for stage in target.stages] == [
            (12, 38),
            (6, 19),
            (3, 10),
            (2, 5),
        ]
        for stage in target.stages:
            torch.testing.assert_close(stage.pos_embed[..., 0], torch.full((1, *stage.grid), 3.0))
        assert torch.equal(target.cls_pos_embed, source.cls_pos_embed)


def test_a_patch_is_a_linear_map_of_its_pixels():
    torch.manual_seed(0)
    embed = PatchEmbed(1, 4, 2)
    image = torch.randn(1, 1, 4, 4)
    expected = embed.norm(
        embed.proj.weight.flatten(1) @ image[0, 0, 2:, :2].flatten() + embed.proj.bias
    )
    torch.testing.assert_close(embed(image)[0, 1, 0], expected)


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"depths": (1, 1)}, "must be of the same length"),
        ({"stem_strides": (2, 2)}, "stem_strides must be 3 numbers"),
        ({"num_heads": (1, 5, 4)}, "5 heads do not divide the width 96"),
        ({"sr_ratios": (4, 2, 2)}, "the last of sr_ratios must be 1"),
        ({"window_size": 7}, "window_size"),
    ],
)
def test_a_keyword_that_cannot_be_is_named(keywords, told):
    with pytest.raises(InputError, match=told):
        create_model("pvt_nano", 64, **keywords)
