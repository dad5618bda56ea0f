"""Which answers another pixel scale would change: what is usual, what is asked, and what is refused."""

import pytest
import torch

from haloformer.errors import InputError
from haloformer.outputs.geometry import FORGONE_RATES, LEAST_LEAD, GeometryCheck

NAMES = ("axion", "cdm", "no_sub")


def observed(n=300):
    """Answers and scales as of a survey whose substructure widens the ring."""
    generator = torch.Generator().manual_seed(1)
    answers = torch.arange(n) % 3
    means, widths = torch.tensor([-0.026, -0.022, 0.0]), torch.tensor([0.004, 0.009, 0.001])
    noise = torch.randn(n, generator=generator)
    return answers, (means[answers] + widths[answers] * noise).double()


def test_what_is_usual_is_what_images_of_the_survey_have():
    answers, scales = observed()
    check = GeometryCheck.of(NAMES, answers, scales)
    assert check.unusual_scale(NAMES, answers, scales).float().mean() <= 0.02
    elsewhere = check.unusual_scale(NAMES, answers, scales + 0.015)
    assert elsewhere[answers == 2].all()  # smooth lenses tell the scale best
    assert check.scale["cdm"].mean == pytest.approx(-0.022, abs=0.003)


def leads(answers, of_cdm):
    """By how much each class would lead with other pixels: alike for all images, but for answers of cdm."""
    found = {name: torch.full((len(answers),), -3.0, dtype=torch.float64) for name in NAMES}
    for name, values in of_cdm.items():
        found[name][answers == 1] = values
    return found


def test_a_class_that_is_hardly_ever_the_answer_has_no_limits():
    answers, scales = observed()
    some = (answers != 1) | (torch.arange(len(answers)) < 30)
    answers, scales = answers[some], scales[some]
    check = GeometryCheck.of(NAMES, answers, scales)
    assert set(check.scale) == {"axion", "no_sub"}
    assert not check.unusual_scale(NAMES, torch.tensor([1]), torch.tensor([9.0])).any()
    lead = {name: lead for name, lead in leads(answers, {}).items() if name != "cdm"}
    check = check.with_limits(NAMES, answers, lead)
    assert check.limits == {"axion": {"no_sub": -3.0}, "no_sub": {"axion": -3.0}}
    cdm = torch.tensor([1, 0])
    assert check.limits_of(NAMES, cdm, "no_sub").tolist() == [float("inf"), -3.0]


def test_another_class_must_come_nearer_than_for_images_of_the_survey_to_withdraw_an_answer():
    answers, scales = observed()
    n = int((answers == 1).sum())
    rising = torch.linspace(-5.0, 5.0, n, dtype=torch.float64)
    lead = leads(answers, {"axion": rising, "no_sub": torch.full_like(rising, -30.0)})
    check = GeometryCheck.of(NAMES, answers, scales)
    for rate in FORGONE_RATES:
        limits = check.with_limits(NAMES, answers, lead, rate).limits
        assert limits["cdm"] == {"axion": pytest.approx(5 - 10 * rate), "no_sub": LEAST_LEAD}
        assert limits["axion"] == {"cdm": -3.0, "no_sub": -3.0}
        assert (rising > limits["cdm"]["axion"]).double().mean() == pytest.approx(rate, abs=0.01)


def test_it_survives_json_and_nothing_else_is_taken():
    answers, scales = observed()
    check = GeometryCheck.of(NAMES, answers, scales)
    check = check.with_limits(NAMES, answers, leads(answers, {}))
    written = check.model_dump(mode="json")
    assert GeometryCheck.read({**written, "seed": 5}, NAMES, "x") == check
    for wrong in (
        [],
        {**written, "n": 0},
        {**written, "scale": {"cdm": {"low": -9, "high": 0, "mean": 0}}},
        {**written, "limits": {"halo": {"cdm": 0}}},
        {**written, "limits": {"cdm": {"halo": 0}}},
        {**written, "limits": {"cdm": {"axion": float("inf")}}},
        {**written, "scale": {}},
    ):
        with pytest.raises(InputError, match=r"^x"):
            GeometryCheck.read(wrong, NAMES, "x")
