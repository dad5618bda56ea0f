import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.data import NORMALIZATIONS, Normalization
from haloformer.errors import InputError

TRAIN = torch.from_numpy(
    np.random.default_rng(0).gamma(0.3, 5.0, (40, 2, 12, 10)).astype(np.float32)
)
PER_IMAGE = ["image_standard", "image_max", "image_minmax"]


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_what_is_stored_with_a_model_normalises_identically(kind):
    fitted = Normalization(kind).fit(TRAIN)
    again = Normalization.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert torch.equal(again(TRAIN), fitted(TRAIN))


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_an_image_is_normalised_alike_alone_and_in_a_batch(kind):
    fitted = Normalization(kind).fit(TRAIN)
    together = fitted(TRAIN)
    for i in (0, 17):
        torch.testing.assert_close(fitted(TRAIN[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e4, 1e-30, 1e30, 0.1])
def test_blank_images_give_finite_constant_output(kind, value):
    blank = torch.full((2, 2, 12, 10), value)
    for train in (TRAIN, blank):
        out = Normalization(kind).fit(train)(blank)
        assert torch.isfinite(out).all()
        assert (out == out[0, :1, :1, :1]).all() or kind in (
            "standard",
            "asinh",
            "asinh_faint",
            "sqrt",
        )
    assert not Normalization("image_standard")(blank).any()


@pytest.mark.parametrize("kind", PER_IMAGE)
@given(gain=st.floats(1e-15, 1e15), image=st.integers(0, 39))
@settings(max_examples=30, deadline=None)
def test_per_image_kinds_do_not_see_the_gain(kind, gain, image):
    x = TRAIN[image : image + 1]
    torch.testing.assert_close(
        Normalization(kind)(x * gain), Normalization(kind)(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["image_standard", "image_minmax"])
@given(offset=st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_standard_and_minmax_do_not_see_a_constant_background(kind, offset):
    torch.testing.assert_close(
        Normalization(kind)(TRAIN + offset), Normalization(kind)(TRAIN), rtol=1e-3, atol=1e-3
    )


def test_each_kind_does_what_it_says():
    for kind in ("standard", "sqrt", "asinh"):
        out = Normalization(kind).fit(TRAIN)(TRAIN)
        assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)
        assert torch.allclose(out.std((0, 2, 3)), torch.ones(2), atol=1e-3)
    out = Normalization("image_standard")(TRAIN)
    assert torch.allclose(out.mean((1, 2, 3)), torch.zeros(40), atol=1e-4)
    assert torch.allclose(out.std((1, 2, 3), correction=0), torch.ones(40), atol=1e-4)
    assert torch.equal(Normalization("image_max")(-TRAIN).abs().amax((1, 2, 3)), torch.ones(40))
    out = Normalization("image_minmax")(TRAIN)
    assert torch.equal(out.amin((1, 2, 3)), torch.zeros(40))
    assert torch.equal(out.amax((1, 2, 3)), torch.ones(40))
    assert torch.equal(Normalization("none")(TRAIN), TRAIN)
    std = TRAIN.std((0, 2, 3), correction=0).view(2, 1, 1)
    stretched = torch.asinh(TRAIN / std)
    out = Normalization("asinh").fit(TRAIN)(TRAIN)
    assert (
        torch.corrcoef(torch.stack([out[:, 0].flatten(), stretched[:, 0].flatten()]))[0, 1]
        > 0.99999
    )


def test_batches_give_the_statistics_of_the_whole():
    whole, parts = (
        Normalization("standard").fit(TRAIN),
        Normalization("standard").fit(TRAIN.split(7)),
    )
    assert whole == parts


def test_fitting_holds_a_bounded_number_of_images_in_memory():
    served = 0

    def endless():
        nonlocal served
        while True:
            served += 256
            yield torch.rand(256, 1, 64, 64)

    Normalization("standard").fit(endless())
    assert served <= 4096 + 256


def test_integers_and_halves_come_out_as_float32_and_float64_stays():
    x = torch.arange(60).view(1, 1, 6, 10)
    for kind in NORMALIZATIONS:
        fitted = Normalization(kind).fit(x)
        assert fitted(x).dtype == fitted(x.half()).dtype == torch.float32
        assert fitted(x.double()).dtype == torch.float64


def test_gradients_reach_the_pixels_even_of_blank_images():
    for kind in NORMALIZATIONS:
        x = torch.zeros(2, 2, 12, 10)
        x[1] = TRAIN[0]
        x.requires_grad_()
        Normalization(kind).fit(TRAIN)(x).square().sum().backward()
        assert torch.isfinite(x.grad).all(), kind


def test_an_unfitted_normalisation_and_wrong_channels_are_refused():
    with pytest.raises(RuntimeError, match="must be fitted"):
        Normalization("standard")(TRAIN)
    with pytest.raises(InputError, match=r"1 channels where .* on 2"):
        Normalization("standard").fit(TRAIN)(TRAIN[:, :1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "standart"}, "did you mean 'standard'"),
        ({}, "unknown normalization"),
        ({"kind": "standard", "statistics": {"mean": [0]}}, "needs the statistics"),
        ({"kind": "standard", "statistics": {"mean": [0], "std": [0]}}, "not usable"),
        ({"kind": "standard", "statistics": {"mean": [0], "std": [float("nan")]}}, "not usable"),
        ({"kind": "standard", "statistics": {"mean": [0, 1], "std": [1]}}, "number of channels"),
        ({"kind": "standard", "statistics": {"mean": 3, "std": [1]}}, "list of numbers"),
    ],
)
def test_a_damaged_description_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        Normalization.from_dict(values)


def test_training_images_with_nan_cannot_be_fitted_on():
    with pytest.raises(InputError, match="NaN"):
        Normalization("standard").fit(torch.full((3, 1, 4, 4), torch.nan))
    with pytest.raises(InputError, match="without images"):
        Normalization("standard").fit([])


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_images_without_a_channel_are_not_taken_for_channels_of_one(kind):
    images = torch.rand(4, 1, 8, 8)
    fitted = Normalization(kind).fit(images)
    for wrong in (images[:, 0], images.numpy()):
        with pytest.raises(InputError, match=r"images must be a tensor \(B, C, H, W\), not "):
            fitted(wrong)
        if kind in ("standard", "sqrt", "asinh", "asinh_faint"):
            with pytest.raises(InputError, match=r"a normalization is fitted on "):
                Normalization(kind).fit(wrong)
