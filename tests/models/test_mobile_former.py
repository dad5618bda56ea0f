"""Mobile-Former: bridges with places and without, dynamic activations, every size, and the reference's weights."""

import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict
from haloformer.models.mobile_former import (
    DownMobile,
    DynamicReLU,
    Former,
    FormerToMobile,
    MobileFormer,
    MobileToFormer,
    PlainMobile,
)

SMALL = {
    "blocks": (("lite", 8, 3, 2), ("down", 16, 3, 2), ("plain", 16, 2, 1)),
    "head_dim": 32,
    "token_dim": 32,
}


def test_mobile_former_keeps_timms_protocol(check_protocol):
    check_protocol("mobile_former_nano", **SMALL)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (64, [-0.0648912636, 1.14581871, 1.60421143]),
        ((45, 51), [-0.0503600839, 0.966324216, 1.46953909]),
    ],
    ids=str,
)
def test_mobile_former_computes_what_it_always_did(golden, size, expected):
    assert golden("mobile_former_nano", size) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mobile_former_26m_224", 3_232_788),
        ("mobile_former_52m_224", 3_469_092),
        ("mobile_former_96m_224", 4_585_252),
        ("mobile_former_151m_224", 7_595_828),
        ("mobile_former_214m_224", 9_425_920),
        ("mobile_former_294m_224", 11_422_648),
        ("mobile_former_508m_224", 13_976_976),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_variants_have_the_references_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("size", [33, (45, 51), 150], ids=str)
def test_no_pixel_is_ignored_at_any_size(size, fill):
    height, width = (size, size) if isinstance(size, int) else size
    model = fill(create_model("mobile_former_nano", size, **SMALL))
    images = torch.randn(3, 1, height, width, dtype=torch.float64, requires_grad=True)
    model(images).square().sum().backward()
    assert (
        (images.grad != 0).any(0).all()
    )  # around any one pixel of one image, all of the stem's units may be silent


def test_one_model_runs_at_every_size():
    model = create_model("mobile_former_nano", 64, **SMALL).eval()
    maps = model.forward_intermediates(torch.randn(1, 1, 45, 51), intermediates_only=True)
    assert [tuple(m.shape[2:]) for m in maps] == [(12, 13), (6, 7)]


def test_mobile_to_former_averages_cells_that_it_is_given_as_they_are():
    torch.manual_seed(0)
    bridge = MobileToFormer(4, 6, num_heads=1).eval()
    tokens, maps = torch.randn(1, 2, 6), torch.randn(1, 4, 3, 5)
    cells = maps[0].flatten(1).T
    weights = (bridge.q(tokens[0]) @ cells.T / 2).softmax(-1)
    assert torch.allclose(weights.sum(-1), torch.ones(2))
    gathered = (weights @ cells) * (bridge.alpha(tokens[0]) / 6 + 0.5).clamp(0, 1) * 2
    torch.testing.assert_close(
        bridge(tokens, maps)[0], bridge.norm(tokens[0] + bridge.proj(gathered))
    )


def test_mobile_to_former_does_not_care_where_cells_lie_but_its_layout_tells():
    torch.manual_seed(0)
    bridge = MobileToFormer(8, 12, num_heads=2).eval()
    tokens, maps = torch.randn(2, 3, 12), torch.randn(2, 8, 4, 5)
    order = torch.randperm(20)
    shuffled = maps.flatten(2)[:, :, order].unflatten(2, (4, 5))
    torch.testing.assert_close(bridge(tokens, shuffled), bridge(tokens, maps))
    layout = bridge.token_layout(tokens, maps)
    assert layout.key_grid == (4, 5)
    assert layout.keys.tolist() == [list(range(20))]
    assert layout.queries.tolist() == [[-1, -1, -1]]
    assert layout.class_query == 0


def test_former_to_mobile_gives_each_cell_a_mixture_of_the_tokens():
    torch.manual_seed(0)
    bridge = FormerToMobile(4, 6, num_heads=1).eval()
    maps, tokens = torch.randn(1, 4, 2, 3), torch.randn(1, 5, 6)
    weights = (maps[0].flatten(1).T @ bridge.k(tokens[0]).T / 2).softmax(-1)
    expected = maps[0] + (weights @ bridge.v(tokens[0])).T.unflatten(1, (2, 3))
    torch.testing.assert_close(bridge(maps, tokens)[0], expected)
    assert bridge.token_layout(maps, tokens) is None


def test_former_treats_all_tokens_alike():
    torch.manual_seed(0)
    former = Former(12, num_heads=4).eval()
    tokens, order = torch.randn(2, 5, 12), torch.randperm(5)
    torch.testing.assert_close(former(tokens[:, order]), former(tokens)[:, order])
    assert former.token_layout(tokens) is None


def test_dynamic_relu_starts_as_relu_and_can_become_anything_between_its_slopes():
    activation = DynamicReLU(8, 3)
    maps, token = torch.randn(2, 3, 4, 4), torch.randn(2, 8)
    nn.init.zeros_(activation.slopes.fc2.weight)
    nn.init.zeros_(activation.slopes.fc2.bias)
    torch.testing.assert_close(activation(maps, token), maps.relu())
    nn.init.constant_(activation.slopes.fc2.bias, 9.0)  # a = 2, b = 1
    torch.testing.assert_close(activation(maps, token), torch.maximum(2 * maps, maps))
    activation.slopes.fc2.bias.data = torch.tensor(
        [9.0, 9.0, 9.0, -9.0, -9.0, -9.0]
    )  # a = 2, b = −1
    torch.testing.assert_close(activation(maps, token), torch.maximum(2 * maps, -maps))


def test_the_first_token_steers_the_convolutions(fill):
    mobile = fill(PlainMobile(8, 8, 2, groups=1, token_dim=16, drop_path=0.0))
    maps = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    one, other = torch.randn(2, 1, 16, dtype=torch.float64)
    assert not torch.allclose(mobile(maps, one), mobile(maps, other))
    block = fill(create_model("mobile_former_nano", 64, **SMALL)).blocks[1]
    steering = []
    block.mobile.register_forward_hook(lambda _, inputs, __: steering.append(inputs[1]))
    _, tokens = block(
        torch.randn(1, 8, 6, 6, dtype=torch.float64), torch.randn(1, 4, 32, dtype=torch.float64)
    )
    torch.testing.assert_close(steering[0], tokens[:, 0])


@pytest.mark.parametrize("kind", [PlainMobile, DownMobile])
def test_grouped_convolutions_see_all_channels_by_shuffling(kind, fill):
    """Without the shuffle, the first group of the output would depend on the first group of the input alone."""
    mobile = fill(kind(8, 16, 2, groups=4, token_dim=16, drop_path=0.0))
    maps = torch.randn(1, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    mobile(maps, torch.zeros(1, 16, dtype=torch.float64))[0, :4].square().sum().backward()
    assert maps.grad.abs().sum((0, 2, 3)).gt(0).sum() > 2


def test_the_map_of_features_ends_with_the_class_token_in_every_cell(fill):
    model = fill(create_model("mobile_former_nano", 64, **SMALL))
    images = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    seen = []
    model.mobile_to_former.register_forward_hook(lambda *call: seen.append(call[2]))
    features = model.forward_features(images)
    assert features.shape == (1, 16 * 6 + 32, 8, 8)
    torch.testing.assert_close(features[0, -32:], seen[0][0, 0, :, None, None].expand(-1, 8, 8))


def test_training_on_a_batch_of_one_image_works():
    model = create_model("mobile_former_nano", 64, **SMALL).train()
    model(torch.randn(1, 1, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def _reference(model: MobileFormer) -> dict[str, torch.Tensor]:
    """The weights as AAboys/MobileFormer would name and shape them."""
    words = {
        "mobile_to_former": "local_global", "former": "global_block", "former_to_mobile": "global_local",
        "norm": "layer_norm", "alpha": "alpha.0", "conv": "0", "bn": "1", "v": "proj",
    }  # fmt: skip
    first = {
        "final_fc": "classifier.fc.0", "final_norm": "classifier.fc.1", "head": "classifier.classifier.1",
        "mobile_to_former": "local_global", "stem": "stem",
    }  # fmt: skip
    reference = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if name == "tokens":
            reference["tokens.weight"] = tensor[0]
        elif parts[0] == "final_conv":
            reference[f"classifier.conv.{1 if parts[1] == 'conv' else 2}.{parts[2]}"] = tensor
        elif parts[0] != "blocks":
            reference[".".join([first[parts[0]], *(words.get(p, p) for p in parts[1:])])] = tensor
        elif parts[2] in ("conv1", "conv2"):  # the block without tokens: one sequence
            place = {"conv1": 0, "conv2": 4}[parts[2]] + (parts[3] == "bn")
            reference[f"features.{parts[1]}.conv.{place}.{parts[4]}"] = tensor
        elif parts[3].startswith("act"):
            down = isinstance(model.blocks[int(parts[1])].mobile, DownMobile)
            number = {"act1": 1, "act2": 3 if down else 2}[parts[3]]
            layer = {"fc1": 0, "fc2": 2}[parts[5]]
            reference[f"features.{parts[1]}.hyper{number}.hyper.{layer}.{parts[6]}"] = tensor
        elif parts[3] == "ffn":
            reference[
                f"features.{parts[1]}.global_block.ffn.{0 if parts[4] == 'fc1' else 2}.{parts[5]}"
            ] = tensor
        else:
            own = {**words, "proj": "channel_mlp"} if parts[2] == "former" else words
            rest = [own.get(p, p) for p in parts[2:] if p != "mobile"]
            reference[".".join(["features", parts[1], *rest])] = tensor
    return reference


@pytest.mark.parametrize("name", ["mobile_former_26m_224", "mobile_former_96m_224"])
def test_reference_weights_load_strictly_and_our_own_stay_as_they_are(name):
    ours = timm.create_model(name)
    reference = _reference(ours)
    for key in (
        "features.0.conv.5.weight",
        "features.1.conv1.1.running_mean",
        "features.3.global_local.proj.bias",
    ):
        assert key in reference  # names found in the reference's own state dict
    assert not reference.keys() & ours.state_dict().keys()
    converted = convert_state_dict(reference, ours)
    assert converted.keys() == ours.state_dict().keys()
    assert all(torch.equal(converted[key], tensor) for key, tensor in ours.state_dict().items())
    again = convert_state_dict(converted, ours)
    assert all(torch.equal(again[key], tensor) for key, tensor in converted.items())


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"blocks": (("wide", 16, 3, 1),)}, "not 'wide'"),
        ({"blocks": (("plain", 16, 3, 2),)}, "a plain block cannot have stride 2"),
        ({"blocks": (("plain", 15, 3, 1),)}, "must divide the 15 channels"),
        ({"former_heads": 5}, "former_heads=5 and 4 must divide token_dim=96"),
        ({"window_size": 7}, "window_size"),
    ],
)
def test_a_keyword_that_cannot_be_is_named(keywords, told):
    with pytest.raises(InputError, match=told):
        create_model("mobile_former_nano", 64, **keywords)
