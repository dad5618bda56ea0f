"""The Python interface takes images of any array type, and refuses what the command refuses."""

import numpy as np
import pytest
import torch

import haloformer
from haloformer.errors import InputError
from haloformer.explanation import attention_overlay, explain_images
from haloformer.prediction import load
from haloformer.prediction.in_memory import as_tensor


@pytest.fixture(scope="module")
def predictor(original_run):
    return load(original_run, "cpu")


def quantity(images):
    from astropy import units

    return images.numpy() * units.electron


def masked_quantity(images):
    from astropy.utils.masked import Masked

    return Masked(quantity(images), mask=np.zeros(images.shape, bool))


KINDS = {
    "tensor": lambda images: images,
    "with gradient": lambda images: images.clone().requires_grad_(),
    "double": lambda images: images.double(),
    "array": lambda images: images.numpy(),
    "big-endian": lambda images: images.numpy().astype(">f8"),
    "list": lambda images: images.tolist(),
    "list of tensors": list,
    "list of arrays": lambda images: list(images.numpy()),
    "masked array": lambda images: np.ma.masked_array(images.numpy()),
    "quantity": quantity,
    "masked quantity": masked_quantity,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_type_have_the_same_answer(predictor, lenses, kind):
    images = KINDS[kind](lenses.images[:2])
    expected = predictor.probabilities(lenses.images[:2])
    torch.testing.assert_close(predictor.probabilities(images), expected)
    torch.testing.assert_close(predictor.answers(images).probabilities, expected)
    found = explain_images(predictor, images, methods=["attention"])
    torch.testing.assert_close(found.images, lenses.images[:2])
    assert attention_overlay(predictor, images[0])[1].shape == (2, 64, 64)


WRONG = {
    "None": None,
    "text": "a.fits",
    "texts": ["a.fits"],
    "empty list": [],
    "number": 3.0,
    "complex": np.zeros((1, 1, 64, 64), complex),
    "complex tensor": torch.zeros(1, 1, 64, 64, dtype=torch.complex64),
    "objects": np.full((1, 1, 64, 64), None),
    "ragged": [[[1.0]], [[1.0, 2.0]]],
    "tensors of two shapes": [torch.zeros(1, 64, 64), torch.zeros(1, 32, 32)],
    "mapping": {"images": np.zeros((1, 1, 64, 64))},
    "other size": np.zeros((1, 1, 50, 50)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_is_refused_in_one_line(predictor, kind):
    for ask in (predictor.probabilities, predictor.answers, predictor.numbers):
        with pytest.raises(InputError) as caught:
            ask(WRONG[kind])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy, np.ma.asarray, list])
def test_values_too_large_for_single_precision_are_told_as_such(predictor, as_kind):
    images = np.ones((2, 1, 64, 64))
    images[1, 0, 3, 4] = -1e300
    with pytest.raises(InputError, match=r"1 of 8192 values are too large for 32-bit .*1e\+300"):
        predictor.numbers(as_kind(images))
    masked = np.ma.masked_less(images, -1e100)  # what is masked does not count
    assert predictor.answers(masked, masked=True).probabilities.isfinite().all()


NOT_FINITE = {
    "nan": lambda images: images.index_put((torch.tensor(1), *3 * [torch.tensor(0)]), torch.tensor(float("nan"))),
    "infinite": lambda images: images.index_put((torch.tensor(1), *3 * [torch.tensor(0)]), torch.tensor(float("inf"))),
    "masked": lambda images: np.ma.masked_where(np.arange(2)[:, None, None, None] * np.ones(images.shape) > 0, images.numpy()),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_a_pixel_that_is_no_number_is_refused_wherever_it_lies(predictor, lenses, kind):
    """A corner that the network may never look at is refused, too, as the command does."""
    images = NOT_FINITE[kind](lenses.images[:2])
    for ask in (predictor.numbers, predictor.answers, predictor.probabilities, predictor.prepared):
        with pytest.raises(InputError, match=r"image 1 .* NaN or infinite"):
            ask(images)
    with pytest.raises(InputError, match=r"image 1 .* NaN or infinite"):
        explain_images(predictor, images, methods=["attention"])
    assert predictor.answers(images, masked=True).probabilities.isfinite().all()


def test_an_empty_batch_is_refused_in_one_line(predictor, lenses):
    for ask in (predictor.numbers, predictor.answers, predictor.probabilities):
        with pytest.raises(InputError, match=r"the shape \(0, 1, 64, 64\): there are none"):
            ask(lenses.images[:0])


def test_what_is_advised_for_pixels_that_are_no_numbers_can_be_done(predictor, lenses):
    images = lenses.images[:2].clone()
    images[1, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"haloformer.predict reads it, by nan='mask'"):
        predictor.probabilities(images)
    assert len(haloformer.predict(predictor, images, nan="mask")) == 2


def of_magnitudes(images):
    from astropy import units

    return list(images.numpy() * units.mag)


def of_masked_quantities(images):
    from astropy.utils.masked import Masked

    return [Masked(quantity(each), mask=each.numpy() > 0) for each in images]


APART = {
    "masked arrays": lambda images: [np.ma.masked_greater(each.numpy(), 0) for each in images],
    "planes": lambda images: tuple(np.ma.masked_greater(each[0].numpy(), 0) for each in images),
    "masked quantities": of_masked_quantities,
}


@pytest.mark.parametrize("kind", APART)
def test_masks_of_images_in_a_list_are_kept(predictor, lenses, kind):
    images = APART[kind](lenses.images[:2])
    for ask in (predictor.numbers, predictor.answers, predictor.probabilities):
        with pytest.raises(InputError, match="NaN or infinite"):
            ask(images)
    with pytest.raises(InputError, match="NaN or infinite"):
        haloformer.predict(predictor, images)
    assert as_tensor(images).isnan().any()  # what LensClassifier takes


def test_units_of_images_in_a_list_are_kept(predictor, lenses):
    from astropy import units

    for ask in (as_tensor, predictor.numbers, lambda each: haloformer.predict(predictor, each)):
        with pytest.raises(InputError, match="'mag', which are logarithms"):
            ask(of_magnitudes(lenses.images[:2]))
    plain = lenses.images[:2].numpy()
    for unit in (units.electron, units.MJy / units.sr):  # the second is resampled otherwise
        together, apart = (
            haloformer.predict(predictor, each, pixel_scale=0.09).probabilities
            for each in (plain * unit, list(plain * unit))
        )
        np.testing.assert_allclose(apart, together, rtol=1e-5)


def test_a_sparse_tensor_is_the_dense_one(predictor, lenses):
    expected = predictor.numbers(lenses.images[:2])
    torch.testing.assert_close(predictor.numbers(lenses.images[:2].to_sparse()), expected)
