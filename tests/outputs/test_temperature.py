"""Calibrated probabilities are as right as they say, and what cannot be a temperature is refused."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from haloformer.errors import InputError
from haloformer.outputs.temperature import Calibration, temperature_of
from haloformer.prediction import load


def honest(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the probability by which the labels were drawn."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, 3))
    return logits, (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_by_which_honest_logits_were_spoilt_is_found(temperature):
    logits, labels = honest(6000)
    found = Calibration.fit(temperature * logits, labels)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.n == 6000
    assert found.nll_after <= found.nll_before + 1e-6
    if temperature != 1:
        assert found.nll_after < found.nll_before - 0.01


def test_a_few_images_that_are_all_right_do_not_make_the_network_certain():
    labels = np.arange(30) % 3
    found = Calibration.fit(np.eye(3)[labels], labels)
    assert softmax(np.eye(3)[0] / found.temperature)[0] < 0.99


def test_logits_that_say_nothing_are_left_as_they_are():
    assert Calibration.fit(np.zeros((30, 3)), np.arange(30) % 3).temperature == 1


@pytest.mark.parametrize(
    "value",
    [
        5,
        [],
        {},
        *(
            {"temperature": t}
            for t in (0, -1, 0.001, 101, float("nan"), float("inf"), "1", True, None)
        ),
    ],
)
def test_what_cannot_be_a_temperature_is_refused(value):
    with pytest.raises(InputError, match=r"artefact\.json: calibration"):
        temperature_of({"calibration": value}, "artefact.json")


def test_an_artefact_without_calibration_has_temperature_one():
    assert temperature_of({}, "") == temperature_of({"calibration": None}, "") == 1


def test_training_calibrates_on_its_validation_images(trained_run):
    artefact = json.loads((trained_run / "artefact" / "artefact.json").read_text())
    predictor = load(trained_run, "cpu")
    assert (
        artefact["calibration"]["n"] == artefact["ood"]["n"] == artefact["training"]["n_val"] == 30
    )
    assert predictor.temperature == artefact["calibration"]["temperature"]
    # The network's own loss on the same images, as the epochs measured it
    assert artefact["calibration"]["nll_before"] == pytest.approx(
        artefact["training"]["val_loss"], rel=1e-4
    )
    assert predictor.detector is not None
