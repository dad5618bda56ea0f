"""The registry as a whole: what must be there, under which names, at which sizes."""

import re

import pytest
import timm
import torch

from haloformer.errors import InputError
from haloformer.models import create_model, find_model, list_models
from haloformer.models.registry import EARLIER_NAMES

MODELS = list_models()
NANO = [info.name for info in MODELS if info.size == "nano"]
SMALL = [info.name for info in MODELS if info.size in ("nano", "tiny")]

PROPOSED = """ViT|TNT|Swin|Swin v2|RegionViT|T2T-ViT|PVT|PVT v2|CPVT|CvT|CrossFormer|CaiT|CrossViT|CCT|Twins-SVT|Twins-PCPVT
A-ViT|RVT|CSWin|Mobile-Former"""
BASELINES = """EfficientNet|ResNet|ConViT|BoTNet|EfficientFormer|EfficientFormer v2|CoaT|CoaT-Lite|CoAtNet|LeViT|PiT
C4 CNN|C8 CNN|D4 CNN|D8 CNN"""
RECENT = """MaxViT|FastViT|MobileViTv2|EfficientViT (MIT)|EfficientViT (MSRA)|TinyViT|Next-ViT|DINOv3-ViT|EVA-02|Hiera|ConvNeXt|ConvNeXt V2"""
FAMILIES = "|".join([PROPOSED, BASELINES, RECENT]).replace("\n", "|").split("|")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_there_with_a_small_model(family):
    sizes = {info.size for info in MODELS if info.family == family}
    # Next-ViT's widths are fixed in timm: only the paper's variants exist.
    assert sizes & {"nano", "tiny"} or (family == "Next-ViT" and "paper" in sizes), sizes
    assert "paper" in sizes or "CNN" in family or {"tiny"} <= sizes


def test_names_are_unique_and_never_mean_another_model_than_timm_means():
    names = [info.name for info in MODELS]
    assert len(set(names)) == len(names)
    shadowing = {
        info.name for info in MODELS if info.timm_name != info.name and timm.is_model(info.name)
    }
    # The same network as timm's, which there runs at 224 pixels only.
    assert shadowing == {"efficientformer_l1", "efficientformer_l3", "efficientformer_l7"}


def test_sizes_of_ours_are_named_alike_and_never_look_like_a_model_of_timms():
    theirs = [name for name in timm.list_models() if not _is_ours(name)]
    for info in MODELS:
        if info.name == info.timm_name and not _is_ours(info.name):
            continue  # timm's own model under timm's own name
        longer = [name for name in theirs if name.startswith(f"{info.name}_")]
        assert not longer, f"{info.name} looks like {longer[0]}"
        if info.size in ("nano", "tiny") and info.name not in theirs:
            assert re.search(rf"_{info.size}(_s8)?$", info.name), info.name


def _is_ours(name):
    return timm.models.model_entrypoint(name).__module__.startswith("haloformer")


@pytest.mark.parametrize(("earlier", "today"), EARLIER_NAMES.items())
def test_earlier_names_still_mean_the_same_model(earlier, today):
    with pytest.warns(FutureWarning, match=today):
        info = find_model(earlier)
    assert info is find_model(today)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("uninitialised")
def test_small_models_are_as_small_as_their_names_say(name):
    info = next(info for info in MODELS if info.name == name)
    parameters = sum(p.numel() for p in create_model(name, 64).parameters())
    low, high = (0, 1.5e6) if info.size == "nano" else (3.95e6, 7.05e6)
    assert low < parameters <= high


@pytest.mark.parametrize("name", NANO)
@pytest.mark.usefixtures("uninitialised")
def test_every_pixel_reaches_the_features_at_an_odd_size(name, fill):
    if name == "efficientvit_m_nano":
        pytest.skip(
            "its attention subsamples queries, and its dead ReLUs leave some inner pixels without a gradient"
        )
    model = fill(create_model(name, 67))
    images = torch.randn(
        1, 1, 67, 67, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    features = model.forward_features(images)
    parts = features if isinstance(features, list | tuple) else [features]
    sum(part.square().sum() for part in parts).backward()
    gradient = images.grad[0, 0]
    edges = (gradient[0], gradient[-1], gradient[:, 0], gradient[:, -1])
    assert all((edge != 0).any() for edge in edges), "a whole row or column is dropped"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vit_tiny_patch16_224", 5.72),
        ("tnt_s_patch16_224", 23.77),
        ("swin_tiny_patch4_window7_224", 28.29),
        ("pvt_v2_b0", 3.67),
        ("cait_xxs24_224", 11.96),
        ("twins_svt_small", 24.06),
        ("twins_pcpvt_small", 24.11),
        ("convit_tiny", 5.71),
        ("efficientformer_l1", 12.29),
        ("efficientformerv2_s0", 3.60),
        ("coat_tiny", 5.50),
        ("coat_lite_tiny", 5.72),
        ("levit_128s", 7.78),
        ("pit_ti_224", 4.85),
    ],
)
@pytest.mark.usefixtures("uninitialised")
def test_the_papers_variants_have_the_papers_parameters(name, parameters):
    model = create_model(name, 224, in_chans=3, num_classes=1000)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == parameters


def test_models_are_listed_by_patterns_as_timm_lists_its_own():
    names = [info.name for info in MODELS]
    nano = [name for name in names if name.endswith("_nano")]
    assert [info.name for info in list_models("*_nano")] == nano
    assert [info.name for info in list_models("*_NANO")] == nano
    assert [info.name for info in list_models(("pvt_nano", "cvt*", "cvt_nano"))] == [
        name for name in names if name == "pvt_nano" or name.startswith("cvt")
    ]
    assert list_models("no such model") == []
    assert [info.name for info in list_models()] == names
    for wrong in (3, ["*_nano", None]):
        with pytest.raises(InputError, match="pattern must be a text"):
            list_models(wrong)
