"""CvT: convolutional tokens and projections."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.cvt import ConvAttention, ConvEmbed, CvT
from haloformer.models.native_size import PaddedInput


def small(**kwargs):
    options = {
        "img_size": 32,
        "in_chans": 1,
        "num_classes": 3,
        "embed_dims": (8, 16, 24),
        "depths": (1, 1, 2),
    }
    return CvT(**{**options, "num_heads": (1, 2, 3), **kwargs})


def test_it_keeps_the_protocol(check_protocol):
    check_protocol("cvt_nano")


def test_it_keeps_the_protocol_with_the_papers_class_token(check_protocol):
    check_protocol("cvt_nano", class_token=True, global_pool="token")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("cvt_13_224", 19_997_480), ("cvt_21_224", 31_622_696), ("cvt_w24_384", 277_196_392)],
)
@pytest.mark.usefixtures("uninitialised")
def test_parameters_are_those_of_the_official_code(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "least", "most"), [("cvt_nano", 0.3e6, 1.5e6), ("cvt_tiny", 4e6, 7e6)]
)
@pytest.mark.usefixtures("uninitialised")
def test_our_sizes_are_what_their_names_say(name, least, most):
    assert least <= sum(p.numel() for p in create_model(name, 64).parameters()) <= most


@pytest.mark.parametrize("size", [32, 33, (45, 51), 150], ids=str)
def test_every_pixel_of_any_size_counts(size, fill):
    model = fill(create_model("cvt_nano", size))
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.randn(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    logits = model(image)
    assert logits.shape == (1, 3)
    logits.square().sum().backward()
    assert (image.grad != 0).all()


def test_only_the_papers_stem_needs_padding_at_150_pixels():
    """Its 7-pixel windows every 4 pixels would miss the last row; two 3-pixel ones every 2 miss nothing."""
    assert isinstance(create_model("cvt_13_224", 150, depths=(1, 1, 1)), PaddedInput)
    assert not any(
        isinstance(create_model("cvt_nano", size), PaddedInput) for size in (150, (45, 51))
    )


def test_first_tokens_of_the_paper_see_overlapping_windows_of_7_pixels():
    embed = ConvEmbed(1, 4, 7, 4)
    nn.init.ones_(embed.proj.weight)
    embed.norm = nn.Identity()
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    tokens = embed(image)
    assert tokens.shape == (1, 4, 4, 4)
    tokens[0, 1, 2, 0].backward()
    rows, columns = image.grad[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 6, 12)


def naive_attention(layer, tokens, grid):
    """Written from the paper, the class token first."""
    first, places = tokens[:, :1], tokens[:, 1:]
    maps = places.transpose(1, 2).reshape(len(tokens), -1, *grid)

    def project(conv, linear, stride):
        norm = conv.bn
        x = F.conv2d(maps, conv.conv.weight, None, stride, 1, groups=maps.shape[1])
        shape = (1, -1, 1, 1)
        x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
        x = x * norm.weight.view(shape) + norm.bias.view(shape)
        x = linear(torch.cat([first, x.flatten(2).transpose(1, 2)], 1))
        return x.reshape(len(x), -1, layer.num_heads, x.shape[2] // layer.num_heads).transpose(1, 2)

    q, k, v = (
        project(layer.conv_q, layer.q, 1),
        project(layer.conv_k, layer.k, 2),
        project(layer.conv_v, layer.v, 2),
    )
    weights = (q @ k.transpose(2, 3) / tokens.shape[2] ** 0.5).softmax(-1)
    return layer.proj((weights @ v).transpose(1, 2).reshape(tokens.shape)), weights


@pytest.mark.parametrize("grid", [(6, 4), (5, 7)], ids=str)
def test_projections_are_convolved_and_the_class_token_passes_them_by(fill, grid):
    layer = fill(ConvAttention(12, 3))
    tokens = torch.randn(2, 1 + grid[0] * grid[1], 12, dtype=torch.float64)
    expected, weights = naive_attention(layer, tokens, grid)
    torch.testing.assert_close(layer(tokens, grid), expected)
    layout = layer.token_layout(tokens, grid)
    assert weights.shape[2:] == (layout.queries.shape[1], layout.keys.shape[1])


def test_keys_lie_on_a_map_of_half_the_side_and_odd_sides_keep_their_last_row():
    layer = ConvAttention(8, 2)
    layout = layer.token_layout(torch.zeros(3, 1 + 35, 8), (5, 7))
    assert (layout.query_grid, layout.key_grid, layout.class_query) == ((5, 7), (3, 4), 0)
    assert layout.queries.tolist() == [[-1, *range(35)]]
    assert layout.keys.tolist() == [[-1, *range(12)]]
    without = layer.token_layout(torch.zeros(3, 35, 8), (5, 7))
    assert without.class_query is None
    assert without.keys.tolist() == [list(range(12))]


def test_attention_weights_sum_to_one(fill):
    """So tokens of the same value get that value, whatever they look at."""
    layer = fill(ConvAttention(12, 3))
    nn.init.zeros_(layer.conv_v.bn.weight)
    mixed = layer(torch.randn(2, 35, 12, dtype=torch.float64), (5, 7))
    torch.testing.assert_close(mixed, layer.proj(layer.v(layer.conv_v.bn.bias)).expand_as(mixed))


def test_attention_has_no_sense_of_place_beyond_its_kernels(fill):
    """With mirror-symmetric kernels a mirrored map (of odd width, for the stride) gives the mirrored result."""
    layer = fill(ConvAttention(12, 3))
    for conv in (layer.conv_q, layer.conv_k, layer.conv_v):
        conv.conv.weight.data += conv.conv.weight.data.flip(3)
    maps = torch.randn(2, 5, 7, 12, dtype=torch.float64)
    mirrored = layer(maps.flip(2).flatten(1, 2), (5, 7))
    torch.testing.assert_close(
        mirrored.unflatten(1, (5, 7)).flip(2).flatten(1, 2), layer(maps.flatten(1, 2), (5, 7))
    )


def test_the_class_token_joins_in_the_last_stage(fill):
    model = fill(small())
    seen = []
    for stage in model.stages:
        for block in stage.blocks:
            block.attn.register_forward_hook(
                lambda module, args, result: seen.append(result.shape[1])
            )
    features, maps = model.forward_intermediates(torch.randn(1, 1, 32, 32, dtype=torch.float64))
    assert seen == [8 * 8, 4 * 4, 1 + 2 * 2, 1 + 2 * 2]
    assert [tuple(m.shape) for m in maps] == [(1, 8, 8, 8), (1, 16, 4, 4), (1, 24, 2, 2)]
    torch.testing.assert_close(model.pool(features), features[:, 0])


def test_a_class_token_must_be_there_to_be_read():
    with pytest.raises(ValueError, match="class_token"):
        small(class_token=False, global_pool="token")


def test_the_papers_norm_is_of_each_token_and_ours_takes_off_what_all_images_share():
    paper, ours = (
        small(global_pool="avg"),
        small(class_token=False, global_pool="avg", final_norm="batch"),
    )
    images = torch.randn(8, 1, 32, 32)
    torch.testing.assert_close(
        paper.forward_features(images).mean(-1), torch.zeros(8, 5), atol=1e-5, rtol=0
    )
    features = ours.train().forward_features(images)
    torch.testing.assert_close(features.mean((0, 1)), torch.zeros(24), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="final_norm"):
        small(final_norm="group")


def test_stochastic_depth_rises_over_the_last_stage_alone():
    model = small(depths=(1, 2, 3), drop_path_rate=0.2)
    rates = [
        [getattr(block.drop_path, "drop_prob", 0.0) for block in stage.blocks]
        for stage in model.stages
    ]
    assert rates == [[0], [0, 0], pytest.approx([0, 0.1, 0.2])]


def official_key(key: str) -> str:
    if key.startswith("patch_embed."):
        return f"stage0.{key}"
    if key == "cls_token":
        return "stage2.cls_token"
    key = key.replace("stages.", "stage").replace(".downsample.", ".patch_embed.")
    for kind in "qkv":
        key = key.replace(f".attn.conv_{kind}.", f".attn.conv_proj_{kind}.")
        key = key.replace(f".attn.{kind}.", f".attn.proj_{kind}.")
    return key


def test_official_weights_load_with_their_batch_statistics(fill):
    source = fill(small())
    official = {official_key(key): value for key, value in source.state_dict().items()}
    assert {
        "stage0.patch_embed.proj.weight",
        "stage1.patch_embed.norm.bias",
        "stage2.cls_token",
        "stage2.blocks.1.attn.conv_proj_k.conv.weight",
        "stage2.blocks.1.attn.conv_proj_k.bn.running_var",
        "stage0.blocks.0.attn.proj_v.bias",
        "stage0.blocks.0.mlp.fc1.weight",
    } <= set(official)
    model = small().double().eval()
    converted = convert_state_dict(official, model)
    assert list(convert_state_dict(converted, model)) == list(converted)
    model.load_state_dict(converted, strict=True)
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images), source(images), rtol=0, atol=0)


def test_the_same_weights_run_at_any_size(fill):
    weights = fill(timm.create_model("cvt_nano", img_size=64)).state_dict()
    model = timm.create_model("cvt_nano", img_size=(96, 130)).double().eval()
    model.load_state_dict(weights, strict=True)
    assert model.forward_features(torch.zeros(1, 1, 96, 130, dtype=torch.float64)).shape[1] == 6 * 9


@pytest.mark.parametrize(
    ("size", "logits"),
    [
        (64, [0.903557618595945, -2.3563671116790474, -1.32138183200633]),
        ((45, 51), [0.6377827315087796, -2.777738276672955, -0.18327141453364537]),
    ],
    ids=["64", "45x51"],
)
def test_logits_are_as_they_were(golden, size, logits):
    assert golden("cvt_nano", size) == pytest.approx(logits, rel=1e-6)
