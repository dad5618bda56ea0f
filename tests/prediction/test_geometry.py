"""Images whose geometry is a little other than their survey's: answered all the same, or flagged."""

import pytest
import torch

import haloformer
from haloformer.audit.audited import audited_model
from haloformer.audit.geometry import answered, conditions
from haloformer.outputs.geometry import FORGONE_RATES, GeometryCheck
from haloformer.prediction.geometry import scaled, smooth_scales
from haloformer.simulation import simulate

N = 24


@pytest.fixture(scope="module")
def predictor():
    return haloformer.load("model_iii", "cpu")


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_iii", N, seed=31)


@pytest.fixture(scope="module")
def audited(predictor):
    return audited_model(
        predictor, "model_iii", survey=None, n=N, seed=31, batch_size=N, progress=False
    )


@pytest.mark.parametrize(
    "name",
    [
        "as the survey",
        "moved by -0.5, 0 pixels",
        "moved by 2, 1 pixels",
        "one pixel more, the lens on the middle one",
        "rotated by 180°",
    ],
)
def test_a_lens_some_pixels_away_gets_the_same_answer(audited, name):
    shares = answered(audited, conditions(audited)[name], lambda _: None)
    assert shares["right"]["value"] > 0.9
    assert shares["flagged"]["value"] < 0.25
    assert shares["silent"]["value"] == 0


@pytest.mark.parametrize("name", ["pixels × 0.985", "gain × 0.5", "sky + 2 % of the peak"])
def test_what_is_a_little_other_gives_no_sure_wrong_answer(audited, name):
    shares = answered(audited, conditions(audited)[name], lambda _: None)
    assert shares["flagged"]["value"] > 0.4
    assert shares["silent"]["value"] < 0.1  # two of 24


@pytest.mark.parametrize("view", ["mirrored", "turned"])
def test_other_orientations_are_flagged(predictor, lenses, view):
    images = lenses.images.flip(-1) if view == "mirrored" else lenses.images.mT
    answers = predictor.answers(images.contiguous())
    assert answers.flagged.all()
    assert sum("mirrored or turned" in reason for reason in answers.reasons) > N / 2


def test_a_lens_far_away_is_none_that_was_looked_for(predictor, lenses):
    answers = predictor.answers(lenses.images.roll((0, 9), (2, 3)))
    assert answers.flagged.all()


def test_limits_withdraw_what_other_pixels_explain(predictor, lenses):
    images = [simulate("model_iii", 99, seed=32).images]
    answers = predictor.predict_logits(images[0]).argmax(1)
    scales = smooth_scales(predictor.residual, images, lambda _: None)
    check = GeometryCheck.of(predictor.class_names, answers, scales)
    assert set(check.scale) == {"axion", "cdm", "no_sub"}
    assert abs(check.scale["no_sub"].mean) < 1e-3
    found = scaled(predictor, images, check, scales, lambda _: None)
    names = predictor.class_names
    assert not found.withdrawn(check, names, answers).any()  # nothing is unusual, and no limits yet
    shares = [
        float(found.withdrawn(check.with_limits(names, answers, found.leads, rate), names, answers)
              .double().mean())
        for rate in FORGONE_RATES
    ]  # fmt: skip
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 2 * FORGONE_RATES[-1] + 0.02  # two questions for each answer


def test_an_artefact_with_a_check_that_cannot_be_is_refused(predictor):
    from haloformer.errors import InputError
    from haloformer.outputs.geometry import GeometryCheck

    described = {**predictor.artefact["geometry"], "limits": {"cdm": {"halo": 0}}}
    with pytest.raises(InputError, match="classes of the model"):
        GeometryCheck.read(described, predictor.class_names, "geometry")
    assert torch.isfinite(torch.tensor(predictor.geometry.scale["cdm"].mean))
