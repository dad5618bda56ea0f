"""Which answers another pixel scale would change: what is usual, what is asked, and what is refused."""

import pytest
import torch

from haloformer.errors import InputError
from haloformer.outputs.geometry import FORGONE_RATE, GeometryCheck

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


def test_a_class_that_is_hardly_ever_the_answer_has_no_limits():
    answers, scales = observed()
    some = (answers != 1) | (torch.arange(len(answers)) < 30)
    check = GeometryCheck.of(NAMES, answers[some], scales[some])
    assert set(check.scale) == {"axion", "no_sub"}
    assert check.asked["axion"] == ("no_sub",)
    assert not check.unusual_scale(NAMES, torch.tensor([1]), torch.tensor([9.0])).any()


def test_questions_that_cost_too_much_are_not_asked():
    answers, scales = observed()
    others = {name: torch.zeros(len(answers), dtype=torch.bool) for name in NAMES}
    cdm = (answers == 1).nonzero()[:, 0]
    others["no_sub"][cdm[: int(FORGONE_RATE * len(cdm)) - 1]] = True
    others["axion"][cdm[: int(FORGONE_RATE * len(cdm)) + 2]] = True
    check = GeometryCheck.of(NAMES, answers, scales).without_costly(NAMES, answers, others)
    assert check.asked["cdm"] == ("no_sub",)
    assert check.asked["axion"] == ("cdm", "no_sub")


def test_it_survives_json_and_nothing_else_is_taken():
    answers, scales = observed()
    check = GeometryCheck.of(NAMES, answers, scales)
    written = check.model_dump(mode="json")
    assert GeometryCheck.read({**written, "seed": 5}, NAMES, "x") == check
    for wrong in (
        [],
        {**written, "n": 0},
        {**written, "scale": {"cdm": {"low": -9, "high": 0, "mean": 0}}},
        {**written, "asked": {"halo": ["cdm"]}},
        {**written, "asked": {"cdm": ["halo"]}},
        {**written, "scale": {}},
    ):
        with pytest.raises(InputError, match=r"^x"):
            GeometryCheck.read(wrong, NAMES, "x")
