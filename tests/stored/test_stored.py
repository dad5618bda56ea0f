"""Images, weights and answers stay what they were: compared with values that an earlier version stored (`make.py`)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location(
    "make_stored_values", Path(__file__).parent / "make.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
STORED = json.loads(make.VALUES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", STORED["images"])
def test_images_are_those_that_an_earlier_version_made(key):
    stored, found = STORED["images"][key], make.images(*key.split())
    if stored["sha256"] == found["sha256"]:
        return
    # Another processor or compiler rounds otherwise: the same images to float32's precision, but not to the last bit. Where a rounding
    # decides between two draws, a pixel has other noise, which mean and scatter hardly see.
    scale = max(stored["std"])
    for name, most in (("mean", 2e-5), ("std", 2e-4)):
        np.testing.assert_allclose(
            found[name], stored[name], rtol=1e-5, atol=most * scale, err_msg=f"{key}: {name}"
        )
    pixels = np.isclose(found["pixels"], stored["pixels"], rtol=1e-5, atol=2e-5 * scale)
    assert pixels.mean() >= (1 if key.split()[1] == "none" else 0.9), key


def test_every_shipped_model_has_stored_answers():
    assert sorted(STORED["answers"]) == make._shipped()


@pytest.mark.parametrize("name", STORED["answers"])
def test_shipped_models_answer_as_an_earlier_version_did(name):
    found = make.answers(name)
    assert found.keys() == STORED["answers"][name].keys()
    for what, values in STORED["answers"][name].items():
        np.testing.assert_allclose(found[what], values, atol=2e-4, err_msg=f"{name}: {what}")


def test_a_short_training_leaves_the_weights_that_an_earlier_version_left():
    found, stored = make.training(), STORED["training"]
    assert found["weights"].keys() == stored["weights"].keys()
    for name, sums in stored["weights"].items():
        np.testing.assert_allclose(found["weights"][name], sums, rtol=1e-2, atol=1e-2, err_msg=name)
    for name, value in stored["metrics"].items():
        assert found["metrics"][name] == pytest.approx(value, abs=2e-3), name
