"""Images, weights and answers stay what they were: compared with values that an earlier version stored (`make.py`)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

_spec = importlib.util.spec_from_file_location(
    "make_stored_values", Path(__file__).parent / "make.py"
)
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
# The lowest versions that are allowed: torch and numba of then round otherwise than those that stored the values.
OLD = TorchVersion(torch.__version__) < "2.11"
STORED = json.loads(make.VALUES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", STORED["images"])
def test_images_are_those_that_an_earlier_version_made(key):
    stored, found = STORED["images"][key], make.images(*key.split())
    if stored["sha256"] == found["sha256"]:
        return
    # Another processor rounds otherwise: the same images to float32's precision, but not to the last bit.
    scale = max(stored["std"])
    if OLD and key.split()[1] != "none":
        # An old compiler's rounding decides otherwise between two draws here and there: a pixel has other noise.
        pixels = np.isclose(found["pixels"], stored["pixels"], rtol=1e-5, atol=2e-5 * scale)
        assert pixels.mean() >= 0.9, key
        return
    for name in ("mean", "std", "pixels"):
        np.testing.assert_allclose(
            found[name], stored[name], rtol=1e-5, atol=2e-5 * scale, err_msg=f"{key}: {name}"
        )


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
        most = 1e-2 if OLD else 1e-3
        np.testing.assert_allclose(found["weights"][name], sums, rtol=most, atol=most, err_msg=name)
    for name, value in stored["metrics"].items():
        assert found["metrics"][name] == pytest.approx(value, abs=2e-3), name
