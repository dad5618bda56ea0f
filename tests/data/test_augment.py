"""The eight transforms of a square as augmentation."""

import numpy as np
import pytest
import torch

from haloformer.data.augment import AUGMENTATIONS, check_augmentation, draw_transforms, transform
from haloformer.errors import InputError


def _one_by_one(image, code):
    turned = torch.rot90(image, code % 4, (-2, -1))
    return turned.flip(-1) if code >= 4 else turned


def test_each_image_gets_exactly_its_own_transform():
    images = torch.randn(64, 2, 7, 7)
    codes = np.random.default_rng(0).integers(8, size=64)
    out = transform(images, codes)
    assert all(torch.equal(out[i], _one_by_one(images[i], codes[i])) for i in range(64))


def test_the_eight_transforms_are_different_and_form_a_group():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    results = [transform(image, np.array([code])).numpy().tobytes() for code in range(8)]
    assert len(set(results)) == 8
    for first in range(8):
        once = transform(image, np.array([first]))
        assert {
            transform(once, np.array([second])).numpy().tobytes() for second in range(8)
        } == set(results)


def test_flips_keep_a_rectangle_and_d4_refuses_one():
    images = torch.randn(16, 1, 4, 6)
    codes = draw_transforms("flips", 16, np.random.default_rng(1))
    assert transform(images, codes).shape == images.shape
    check_augmentation("flips", (1, 4, 6))
    with pytest.raises(InputError, match="flips"):
        check_augmentation("d4", (1, 4, 6))


def test_draws_are_uniform_and_repeatable():
    codes = draw_transforms("d4", 80_000, np.random.default_rng(2))
    assert np.array_equal(codes, draw_transforms("d4", 80_000, np.random.default_rng(2)))
    counts = np.bincount(codes, minlength=8)
    assert np.abs(counts - 10_000).max() < 500  # five standard deviations
    assert not draw_transforms("none", 10, np.random.default_rng(0)).any()


def test_unknown_augmentation_is_named():
    with pytest.raises(InputError, match="unknown augmentation 'd5': known are d4, flips, none"):
        check_augmentation("d5", (1, 4, 4))
    assert set(AUGMENTATIONS) == {"none", "flips", "d4"}
