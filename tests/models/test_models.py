"""The model factory: native sizes, names, and what it refuses."""

import copy
import importlib.metadata
import json
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

from haloformer.errors import InputError
from haloformer.models import create_model, factory, find_model, list_models
from haloformer.models.native_size import PaddedInput

# All architectures at their small size; the papers' variants, up to hundreds of megabytes, are built for the table of
# `haloformer models` (benchmarks/model_table.py), at 64 and 150 pixels.
NAMES = [info.name for info in list_models() if info.size == "nano"] + ["efficientnet_b0"]

# timm has no gradient checkpointing for these, and says so.
WITHOUT_CHECKPOINTING = {
    "pit_nano",
    "crossvit_nano",
    "twins_svt_nano",
    "twins_pcpvt_nano",
    "convit_lens_nano",
    "coat_lite_nano",
    "coat_nano",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("uninitialised")
def test_every_architecture_runs_at_the_native_size_of_the_image(name):
    model = create_model(name, 150, in_chans=2, num_classes=5).eval()
    # Laid out as trainings on a CPU do
    images = torch.randn(1, 2, 150, 150).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert model(images).shape == (1, 5)


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_keeps_timms_protocol_and_comes_back_from_its_keywords(
    name, zero_weights
):
    model = create_model(name, (45, 51), in_chans=2, num_classes=5).eval()
    images = torch.randn(2, 2, 45, 51)
    with torch.no_grad():
        features = model.forward_features(images)
        logits = model(images)
        assert logits.shape == (2, 5)
        assert torch.allclose(model.forward_head(features), logits, atol=1e-5)
        maps = model.forward_intermediates(images, indices=1, intermediates_only=True)
        assert maps[0].shape[0] == 2
        assert maps[0].ndim == 4

    # A run folder stores the keywords as JSON.
    keywords = json.loads(json.dumps(dict(find_model(name).kwargs)))
    with zero_weights():
        again = create_model(name, (45, 51), in_chans=2, num_classes=5, **keywords)
    again.load_state_dict(model.state_dict(), strict=True)

    assert model.get_classifier() is not None
    model.reset_classifier(7)
    with torch.no_grad():
        assert model(images).shape == (2, 7)
    if name in WITHOUT_CHECKPOINTING:
        with pytest.raises(AssertionError, match="not supported"):
            model.set_grad_checkpointing(True)
    else:
        model.set_grad_checkpointing(True)


@pytest.mark.parametrize("name", ["vit_nano", "hybrid_nano", "edgenext_xx_small"])
@pytest.mark.parametrize("size", [64, 67, 150])
def test_no_pixel_is_dropped(name, size):
    """Without padding, a 150-pixel image loses its last 6 columns in 8-pixel patches and its last 6 in an EdgeNeXt."""
    torch.manual_seed(0)
    model = create_model(name, size).eval().double()
    images = torch.randn(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    model.forward_features(images).square().sum().backward()
    gradient = images.grad[0, 0]
    assert all(
        (edge != 0).all() for edge in (gradient[0], gradient[-1], gradient[:, 0], gradient[:, -1])
    )


def test_resnet_needs_no_padding_at_any_size():
    """Its strided 3x3 convolutions reach the last pixel; its 1x1 shortcuts skip pixels by design."""
    assert not any(
        isinstance(create_model("resnet18", size), PaddedInput) for size in (64, 67, 150)
    )


def test_padding_is_centred_and_as_small_as_the_patches_allow():
    model = create_model("vit_nano", 150)
    assert isinstance(model, PaddedInput)
    assert model.padding == (1, 1, 1, 1)
    image = torch.arange(150.0 * 150).reshape(1, 1, 150, 150)
    padded = model.pad(image)
    assert padded.shape == (1, 1, 152, 152)
    assert torch.equal(padded[..., 1:-1, 1:-1], image)
    assert padded.sum() == image.sum()
    assert not isinstance(create_model("vit_nano", 64), PaddedInput)
    assert not isinstance(create_model("resnet18", 150), PaddedInput)


def test_a_padded_model_can_be_copied_and_its_exceptions_from_weight_decay_exist():
    model = create_model("vit_nano", 30)
    names = {name for name, _ in model.named_parameters()}
    assert "model.pos_embed" in model.no_weight_decay()
    assert "model.pos_embed" in names
    copied = copy.deepcopy(model)
    images = torch.randn(1, 1, 30, 30)
    assert torch.equal(copied.eval()(images), model.eval()(images))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.no_such_thing


def test_64_pixels_are_not_enlarged():
    """8-pixel patches leave 8 x 8 tokens (and a class token), not (224 / 8) squared."""
    tokens = {
        name: create_model(name, 64).pos_embed.shape[1]
        for name in ("hybrid_nano", "hybrid_nano_s8", "vit_nano")
    }
    assert tokens == {"hybrid_nano": 16, "hybrid_nano_s8": 64, "vit_nano": 65}


def test_same_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(create_model("hybrid_nano", 62).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_any_model_of_timm_is_accepted_with_or_without_prefix():
    counts = [
        sum(p.numel() for p in create_model(name, 64).parameters())
        for name in ("timm:levit_128s", "levit_128s")
    ]
    assert counts[0] == counts[1]
    # A pyramid that cannot run at 150 pixels is padded to the next size that it takes.
    assert create_model("levit_128s", 150).eval()(torch.zeros(1, 1, 150, 150)).shape == (1, 3)


def test_keywords_reach_the_model_and_win_over_the_registry():
    assert len(create_model("vit_nano", 64, depth=2).blocks) == 2
    assert (
        create_model("hybrid_nano", 64, stem_channels=[8, 8], stem_strides=[2, 2]).pos_embed.shape[
            1
        ]
        == 256
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("resnet19", 64), {}, "unknown model 'resnet19': did you mean 'resnet18'"),
        (("hybrid_nan", 64), {}, "did you mean 'hybrid_nano'"),
        (("timm:resnet19", 64), {}, "the nearest are resnet18"),
        (("hf-hub:someone/something", 64), {}, "unknown model"),
        (("timm:hf-hub:someone/something", 64), {}, "unknown timm model"),
        (("resnet18", 64), {"foo": 1}, "resnet18.*foo"),
        (("vit_nano", 64), {"foo": 1}, "model 'vit_nano'.*foo"),
        (("hybrid_nano", 64), {"num_heads": 5}, "num_heads=5 does not divide"),
        (("hybrid_nano", 64), {"pretrained": True}, "no pretrained weights"),
        (("resnet18",), {}, r"img_size is missing: .* create_model\('resnet18', img_size=64\)"),
        (("resnet19",), {}, "unknown model 'resnet19': did you mean 'resnet18'"),
        (("resnet18", 2), {}, "img_size must be"),
        (("resnet18", (64, 64, 64)), {}, "img_size must be"),
        (("resnet18", 64, 0), {}, "in_chans must be"),
        (("resnet18", 64, 1, 0), {}, "num_classes must be"),
        (("crossvit_18_240", 64), {}, "cannot be built for 64×64"),
        (("vit_nano", 64), {"size": 3}, "model 'vit_nano'.*'size'"),
        (("vit_nano", 64), {"called": "x"}, "model 'vit_nano'.*'called'"),
        (("vit_nano", 64), {"timm_name": "x"}, "model 'vit_nano'.*'timm_name'"),
        ((None, 64), {}, "a model is named by a text such as 'vit_nano', not None"),
        (("vit_nano", 64), {"drop_path_rate": 2}, "drop_path_rate must be a number from 0 to 1"),
        (("cct_nano", 64), {"attn_drop_rate": -0.1}, "attn_drop_rate must be a number from 0"),
        (("vit_nano", 64), {"checkpoint_path": "x.pth"}, "pretrained='path/to/file' loads"),
        (("vit_nano", 64), {"global_pool": ""}, r"gives a tensor \(1, 65, 3\) .* \(1, 3\) is"),
        (("vit_nano", 64), {"features_only": True}, "gives a list for one image"),
        (("resnet10t", 64), {"features_only": True}, "gives a list for one image"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments, options, message):
    with pytest.raises(InputError, match=message) as caught:
        create_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_sizes_may_be_whole_numbers_of_any_kind():
    model = create_model("vit_nano", np.int64(64), np.int16(2), np.uint8(5)).eval()
    assert model(torch.zeros(1, 2, 64, 64)).shape == (1, 5)
    assert model.num_classes == 5
    assert create_model("vit_nano", (np.int64(64), 48)).patch_embed.grid_size == (8, 6)


@pytest.mark.parametrize("name", ["vit_nano", "cpvt_nano", "pvt_v2_nano"])
def test_a_padded_model_takes_images_of_its_own_size_alone(name):
    model = create_model(name, (50, 62)).eval()
    assert isinstance(model, PaddedInput)
    with pytest.raises(InputError, match=r"built for images of 50×62 pixels, not 40×40"):
        model(torch.zeros(1, 1, 40, 40))


def test_an_architecture_of_ones_own_is_looked_at_whenever_it_is_registered():
    """A network of any number of classes, and then one of the same name whose patches drop pixels."""

    def thirty_classes(pretrained=False, **more):
        return timm.create_model("resnet10t", in_chans=1, num_classes=30)

    def patches(pretrained=False, num_classes=3, in_chans=1, **more):
        return nn.Sequential(
            nn.Conv2d(in_chans, num_classes, 48, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    def whole(pretrained=False, num_classes=3, in_chans=1, **more):
        return timm.create_model("resnet10t", in_chans=in_chans, num_classes=num_classes)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name is taken, timm says
        for entry in (thirty_classes, whole, patches):
            entry.__name__, entry.__module__ = "an_own_net", __name__
            timm.models.register_model(entry)
            if entry is thirty_classes:
                with pytest.raises(InputError, match=r"gives a tensor \(1, 30\)"):
                    create_model("an_own_net", 64)
            else:
                padded = isinstance(create_model("an_own_net", 64), PaddedInput)
                assert padded == (entry is patches)


def test_registry_entries_say_what_a_reader_needs():
    assert len(set(NAMES)) == len(NAMES)
    for info in list_models():
        assert "arXiv:" in info.paper
        assert info.notes
        assert info.source in ("timm", "haloformer")


def test_what_an_old_timm_cannot_build_names_the_version_that_can(monkeypatch):
    def missing(*args, **options):
        raise ImportError("cannot import name 'Attention2d'")

    monkeypatch.setattr(factory, "build_at_native_size", missing)
    with pytest.raises(ImportError):  # of today's timm that is our fault
        create_model("vit_nano", 64)
    monkeypatch.setattr("timm.__version__", "1.0.9")
    with pytest.raises(
        InputError, match=r"Attention2d.*timm 1\.0\.9 is too old; pip install"
    ) as caught:
        create_model("vit_nano", 64)
    assert "\n" not in str(caught.value)


def test_the_least_timm_is_that_of_the_package():
    requirements = importlib.metadata.requires("haloformer")
    assert f"timm>={factory.LEAST_TIMM}" in requirements
