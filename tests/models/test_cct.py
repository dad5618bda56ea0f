"""CCT: nothing of the image is lost in the tokenizer, tokens are pooled by attention, and official weights load."""

import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.cct import Attention, CompactConvolutionalTransformer, SequencePool
from haloformer.models.convert import convert_state_dict

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "stem_channels": (8, 16)}


def test_cct_keeps_timms_protocol(check_protocol):
    check_protocol("cct_nano", depth=2)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, [-0.128420136, 1.14875263, -0.930354188]),
        ((45, 51), [-0.0514335474, 1.24062145, -0.887460122]),
    ],
    ids=str,
)
def test_cct_computes_what_it_always_did(golden, size, expected):
    assert golden("cct_nano", size) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("cct_2_3x2_32", 32, 411_433),
        ("cct_4_3x2_32", 32, 609_833),
        ("cct_6_3x1_32", 32, 3_488_233),
        ("cct_7_3x1_32", 32, 4_014_569),
        ("cct_7_7x2_224", 224, 4_804_521),
        ("cct_14_7x2_224", 224, 22_367_273),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_have_the_official_number_of_parameters(name, size, parameters):
    with torch.device("meta"):
        model = timm.create_model(name, img_size=size, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
@pytest.mark.parametrize("name", ["cct_7_7x2_224", "cct_nano"])
def test_no_pixel_is_ignored_at_any_size(name, size, fill):
    height, width = (size, size) if isinstance(size, int) else size
    model = fill(create_model(name, size, depth=1))
    images = torch.randn(3, 1, height, width, dtype=torch.float64, requires_grad=True)
    model(images).square().sum().backward()
    assert (images.grad != 0).any(0).all()  # any one pixel of one image may lose every maximum


def test_a_token_sees_only_the_pixels_around_it(fill):
    """7×2: convolution and pooling see 11 pixels, the second pair 11 cells of 4: 51 pixels around each token."""
    model = fill(create_model("cct_7_7x2_224", 224, depth=1))
    images = torch.randn(1, 1, 224, 224, dtype=torch.float64, requires_grad=True)
    model.stem(images)[0, :, 7, 7].sum().backward()
    rows = images.grad[0, 0].any(1).nonzero().flatten()
    columns = images.grad[0, 0].any(0).nonzero().flatten()
    assert rows.min() >= 7 * 16 - 25
    assert rows.max() <= 7 * 16 + 25
    assert columns.max() - columns.min() + 1 > 40


def test_without_positions_the_order_of_the_tokens_is_immaterial(fill):
    model = fill(create_model("cct_nano", 64, **SMALL))
    tokens = torch.randn(2, 64, 32, dtype=torch.float64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))

    def logits(tokens):
        for block in model.blocks:
            tokens = block(tokens, (8, 8))
        return model.head(model.seq_pool(model.norm(tokens), (8, 8)))

    torch.testing.assert_close(logits(tokens[:, order]), logits(tokens))


def test_pooling_weighs_each_token_by_the_softmax_of_its_score():
    torch.manual_seed(0)
    pool = SequencePool(4)
    tokens = torch.randn(1, 3, 4)
    weights = pool.score(tokens)[0, :, 0].exp()
    torch.testing.assert_close(pool(tokens, (1, 3))[0], (weights @ tokens[0]) / weights.sum())
    # A token with a far higher score is the image.
    nn.init.constant_(pool.score.weight, 1.0)
    tokens[0, 1] += 100
    torch.testing.assert_close(pool(tokens, (1, 3))[0], tokens[0, 1])


def test_attention_rows_sum_to_one():
    attention = Attention(8, 2).eval()
    nn.init.zeros_(attention.proj.bias)
    attention.proj.weight.data.copy_(torch.eye(8))
    attention.qkv.weight.data[16:] = 0
    bias = torch.randn(8)
    # Values that are the same everywhere come out as they were, whatever queries and keys are.
    attention.qkv.bias = nn.Parameter(torch.cat([torch.randn(16), bias]))
    torch.testing.assert_close(attention(torch.randn(1, 6, 8), (2, 3))[0], bias.expand(6, 8))


def test_layouts_cover_the_image_once():
    model = create_model("cct_nano", (45, 51), **SMALL)
    assert model.grid == (6, 7)
    tokens = torch.randn(1, 42, 32)
    layout = model.blocks[0].attn.token_layout(tokens, model.grid)
    assert layout.queries.tolist() == layout.keys.tolist() == [list(range(42))]
    pooling = model.seq_pool.token_layout(tokens, model.grid)
    assert pooling.queries.tolist() == [[-1]]
    assert pooling.keys.tolist() == [list(range(42))]
    assert pooling.class_query == 0


def _official(model: CompactConvolutionalTransformer) -> dict[str, torch.Tensor]:
    """The weights as the official code would name and shape them."""
    inner = {"norm1": "pre_norm", "norm2": "norm1", "attn": "self_attn"}
    official = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            official[".".join(["tokenizer.conv_layers", *parts[1:]])] = tensor
        elif parts[0] == "blocks":
            tail = (
                [p.replace("fc", "linear") for p in parts[3:]]
                if parts[2] == "mlp"
                else [inner[parts[2]], *parts[3:]]
            )
            official[".".join(["classifier", *parts[:2], *tail])] = tensor
        elif parts[0] == "pos_embed":
            official["classifier.positional_emb"] = tensor.flatten(1, 2)
        else:
            first = {"head": "fc", "seq_pool": "attention_pool", "norm": "norm"}[parts[0]]
            official[f"classifier.{first}.{parts[-1]}"] = tensor
    return official


def test_official_weights_load_strictly_and_our_own_stay_as_they_are():
    ours = timm.create_model("cct_7_3x1_32", depth=2)
    converted = convert_state_dict(_official(ours), ours)
    assert converted.keys() == ours.state_dict().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in ours.state_dict().items())
    again = convert_state_dict(converted, ours)
    assert all(torch.equal(again[name], tensor) for name, tensor in converted.items())


def test_positions_are_resized_to_the_image():
    source = timm.create_model("cct_nano", img_size=64, **SMALL)
    nn.init.constant_(source.pos_embed[..., 0], 3.0)
    target = timm.create_model("cct_nano", img_size=(45, 150), **SMALL)
    target.load_state_dict(convert_state_dict(source.state_dict(), target), strict=True)
    assert target.pos_embed.shape == (1, 6, 19, 32)
    torch.testing.assert_close(target.pos_embed[..., 0], torch.full((1, 6, 19), 3.0))
    back = timm.create_model(
        "cct_nano", img_size=64, **SMALL
    )  # ours are kept as a grid: not only squares can be resized
    back.load_state_dict(convert_state_dict(target.state_dict(), back), strict=True)


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=128"),
        ({"stem_strides": (2, 1)}, "stem_strides must be one number or 3"),
        ({"window_size": 7}, "window_size"),
    ],
)
def test_a_keyword_that_cannot_be_is_named(keywords, told):
    with pytest.raises(InputError, match=told):
        create_model("cct_nano", 64, **keywords)
