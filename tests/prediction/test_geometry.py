"""Images whose geometry is a little other than their survey's: answered all the same, or flagged."""

import dataclasses

import pytest
import torch

import haloformer
from haloformer.prediction.geometry import fitted_check
from haloformer.simulation import describe_survey, get_survey, simulate

N = 24


@pytest.fixture(scope="module")
def predictor():
    return haloformer.load("model_iii", "cpu")


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_iii", N, seed=31)


def classes(lenses):
    return [lenses.class_names[k] for k in lenses.labels]


def silently_wrong(answers, truth):
    p = answers.probabilities.max(1).values
    return sum(
        name not in ("unknown", true) and float(q) > 0.9
        for name, true, q in zip(answers.classes, truth, p)
    )


@pytest.mark.parametrize("move", [(0, 0), (2, -3)], ids=str)
def test_a_lens_some_pixels_away_gets_the_same_answer(predictor, lenses, move):
    answers = predictor.answers(lenses.images.roll(move, (2, 3)))
    right = sum(a == b for a, b in zip(answers.classes, classes(lenses)))
    assert right >= N - 3
    assert silently_wrong(answers, classes(lenses)) == 0


def test_the_middle_pixels_of_an_odd_number_do_too(predictor):
    definition = describe_survey(get_survey("model_iii"))
    definition["instrument"]["num_pix"] += 1
    odd = simulate(get_survey(definition), N, seed=31)
    answers = predictor.answers(odd.images[..., :-1, :-1].contiguous())
    assert sum(a == b for a, b in zip(answers.classes, classes(odd))) >= N - 4
    assert silently_wrong(answers, classes(odd)) == 0


@pytest.mark.parametrize("view", ["mirrored", "turned"])
def test_other_orientations_are_flagged(predictor, lenses, view):
    images = lenses.images.flip(-1) if view == "mirrored" else lenses.images.mT
    answers = predictor.answers(images.contiguous())
    assert answers.flagged.all()
    assert sum("mirrored or turned" in reason for reason in answers.reasons) > N / 2


def test_pixels_of_another_size_give_no_sure_wrong_answer(predictor):
    definition = describe_survey(get_survey("model_iii"))
    definition["instrument"]["pixel_scale"] *= 0.985
    smaller = simulate(get_survey(definition), N, seed=31)
    answers = predictor.answers(smaller.images)
    assert silently_wrong(answers, classes(smaller)) <= 1
    assert any("size" in reason for reason in answers.reasons)


def test_a_lens_far_away_is_none_that_was_looked_for(predictor, lenses):
    answers = predictor.answers(lenses.images.roll((0, 9), (2, 3)))
    assert answers.flagged.all()


def test_the_check_is_made_of_images_of_the_survey(predictor, lenses):
    some = simulate("model_iii", 99, seed=32).images
    check = fitted_check(predictor, some.split(50))
    assert check is not None
    assert check.n == 99
    assert set(check.scale) == {"axion", "cdm", "no_sub"}
    assert abs(check.scale["no_sub"].mean) < 1e-3
    without = dataclasses.replace(
        predictor, residual=dataclasses.replace(predictor.residual, fit_place=False)
    )
    assert fitted_check(without, [lenses.images]) is None


def test_an_artefact_with_a_check_that_cannot_be_is_refused(predictor):
    from haloformer.errors import InputError
    from haloformer.outputs.geometry import GeometryCheck

    described = {**predictor.artefact["geometry"], "asked": {"cdm": ["halo"]}}
    with pytest.raises(InputError, match="classes of the model"):
        GeometryCheck.read(described, predictor.class_names, "geometry")
    assert torch.isfinite(torch.tensor(predictor.geometry.scale["cdm"].mean))
