"""An artefact of a stranger asks for no memory before its network is known to be that of its weights."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from haloformer.errors import LONGEST, InputError
from haloformer.models import create_model
from haloformer.models.shapes import network_shapes
from haloformer.prediction import load, predictor

AMPLE = {"most": 10**6, "most_values": 10**9}


@pytest.fixture
def nothing_is_built(monkeypatch):
    """Fails a test in which a network is built for real."""
    monkeypatch.setattr(
        predictor, "create_model", lambda *_, **__: pytest.fail("a network was built")
    )


def change(run, **fields):
    """Rewrites fields of artefact.json, ``a__b`` standing for a.b."""
    path = run / "artefact" / "artefact.json"
    content = json.loads(path.read_text())
    for key, value in fields.items():
        *parents, last = key.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(content))


def refusal(run) -> str:
    with pytest.raises(InputError) as caught:
        load(run, "cpu")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) <= LONGEST
    return text


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__name": "vit_giant_patch14_dinov2", "model__kwargs": {}}, "numbers"),
        ({"model__name": "timm:vit_7b_patch16_dinov3", "model__kwargs": {}}, "numbers"),
        ({"model__name": "resnet18", "model__kwargs": {"layers": [10_000] * 4}}, "more than"),
        ({"model__kwargs": {"depth": 10_000}}, "more than"),
        ({"model__kwargs": {"embed_dim": 100_000}}, "model.kwargs"),
        ({"model__kwargs": {"embed_dim": 9984, "num_heads": 3}}, "numbers"),
        ({"model__kwargs": {"depth": 3}}, "lacks 'blocks.2.norm1.weight' and 11 more"),
        ({"model__kwargs": {"depth": 1}}, "unknown 'blocks.1.attn.proj.bias' and 11 more"),
        (
            {"model__kwargs": {"depth": 2, "mlp_ratio": 2}},
            "another shape or kind of 'blocks.0.mlp.fc1",
        ),
        ({"model__kwargs": {"depth": 2, "act_layer": "eval"}}, "keywords: 'eval'"),
        ({"model__kwargs": {"depth": 2, "norm_layer": "os.system"}}, "os.system"),
        ({"model__kwargs": {"depth": 2, "block_fn": "eval"}}, "keywords"),
        ({"model__kwargs": {"depth": 2, "act_layer": 9000 * "x"}}, "keywords"),
        ({"model__kwargs": {"depth": 2, 9000 * "x": 1}}, "keywords"),
        ({"model__kwargs": {"depth": "2"}}, "keywords"),
        ({"model__kwargs": {"depth": [2]}}, "keywords"),
        ({"model__kwargs": {"depth": True}}, "keywords"),
        ({"model__kwargs": {"depth": -1}}, "cannot be built"),
        ({"model__kwargs": {"num_heads": 0}}, "cannot be built"),
        ({"model__kwargs": {"depth": 2, "head_norm": []}}, "head_norm"),
        ({"model__kwargs": {"depth": 2, "head_norm": {}}}, "model.kwargs"),
        ({"model__kwargs": {"depth": 2, "drop_rate": 1e308}}, "model.kwargs"),
        ({"model__kwargs": {"depth": 10**300}}, "not valid JSON: a number of 301 digits"),
        ({"model__name": "\ud800"}, "not valid JSON"),
        ({"model__name": 9000 * "x"}, "unknown model 'xxx"),
        ({"model__in_chans": 1.5}, "model.in_chans"),
        ({"format": 9000 * "x"}, "format is 'xxx"),
        ({"normalization__statistics__mean": [float("inf")]}, "mean"),
        ({"image_shape": [1, 64, [64]]}, "image_shape"),
        ({"framing": {"crop": 1e308}}, "framing"),
        ({"class_names": 3 * ["\x1b[31m" + 9000 * "x"]}, "class_names"),
    ],
)
def test_a_description_that_is_not_of_its_weights_is_refused_unbuilt(run, fields, message):
    change(run, **fields)
    text = refusal(run)
    assert message in text
    assert "\x1b" not in text


@pytest.mark.usefixtures("nothing_is_built")
def test_an_image_that_would_fill_the_memory_is_refused_unbuilt(run):
    path = run / "artefact" / "weights.safetensors"
    tiny = {"patch_size": 2, "embed_dim": 32, "depth": 1, "pos_embed": "none", "num_heads": 1}
    torch.manual_seed(0)
    save_file(create_model("vit_nano", img_size=64, **tiny).state_dict(), path)
    sizes = {"model__img_size": 4096, "image_shape": [1, 4096, 4096]}
    change(run, model__name="vit_nano", model__kwargs={**tiny, "embed_dim": 96}, **sizes)
    assert "makes a tensor of 1×96×2048×2048 numbers, more than" in refusal(run)


@pytest.mark.usefixtures("nothing_is_built")
def test_a_header_of_weights_is_bounded(run):
    path = run / "artefact" / "weights.safetensors"
    for length in (9 << 20, 2**63):
        path.write_bytes(struct.pack("<Q", length) + b"{" + bytes(100))
        assert "bytes, more than" in refusal(run)


@pytest.mark.usefixtures("nothing_is_built")
def test_weights_of_another_kind_of_number_are_refused(run):
    path = run / "artefact" / "weights.safetensors"
    weights = load_file(path)
    weights["cls_token"] = weights["cls_token"].to(torch.int8)
    save_file(weights, path)
    assert "another shape or kind of 'cls_token'" in refusal(run)


@pytest.mark.parametrize(
    "name", ["haloformer_nano", "resnet18", "equivariant_c8_nano", "swin_lens_tiny"]
)
def test_shapes_are_those_of_the_network_that_is_built(name):
    options = {"img_size": (50, 50), "in_chans": 2, "num_classes": 4}
    state = create_model(name, **options).state_dict()
    expected = {key: (tuple(t.shape), t.is_floating_point()) for key, t in state.items()}
    assert network_shapes(name, **AMPLE, **options) == expected


def test_bounds_end_with_the_building_and_are_told():
    options = {"img_size": (64, 64), "in_chans": 1, "num_classes": 3}
    with pytest.raises(InputError, match="more than 50 tensors and layers"):
        network_shapes("vit_nano", **{**AMPLE, "most": 50}, **options)
    with pytest.raises(InputError, match="more than 1,000 numbers"):
        network_shapes("vit_nano", **{**AMPLE, "most_values": 1000}, **options)
    assert next(create_model("vit_nano", **options).parameters()).device.type == "cpu"
