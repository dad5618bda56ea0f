"""Accuracy and AUC against what is physically in an image: the right values, in the images that have them."""

import numpy as np
import pytest
import torch

from haloformer.data.dataset_writer import write_dataset
from haloformer.evaluation import physics
from haloformer.evaluation.testset import open_test_images
from haloformer.prediction import load
from haloformer.simulation import simulate

pytestmark = pytest.mark.usefixtures("opened_at_once")


def random_answers(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.random(n) < 0.7


def measured(images, labels, snr=None):
    scores, right = random_answers(images.n)
    snr = np.arange(float(images.n)) if snr is None else snr
    return physics.by_quantity(
        images, np.arange(images.n), labels, scores, right, ("axion", "cdm", "no_sub"), snr
    )


def test_survey_and_file_give_the_same_bins_and_what_does_not_vary_is_left_out(run, tmp_path):
    predictor = load(run, "cpu")
    simulated = open_test_images("model_ii", predictor, n=330, seed=5)
    lenses = simulate("model_ii", 330, seed=5, noise="instrument")
    write_dataset(
        tmp_path / "t.h5",
        lenses.images,
        lenses.labels,
        lenses.parameters,
        lenses.class_names,
        lenses.attributes,
    )
    stored = open_test_images(str(tmp_path / "t.h5"), predictor)
    labels = lenses.labels.numpy()
    found = measured(simulated, labels)
    assert found == measured(stored, labels)
    assert list(found) == [
        "log10_m_axion",
        "log10_m_subhalos",
        "log10_m_heaviest",
        "source_offset",
        "snr",
    ]
    bins = found["log10_m_axion"]["bins"]
    assert [row["n"] for row in bins] == [55, 55]
    assert (bins[0]["from"], bins[-1]["to"]) == pytest.approx((-24, -22), abs=0.1)
    heaviest = np.log10(np.nanmax(lenses.parameters["subhalo_mass"][labels == 1], axis=1))
    assert found["log10_m_heaviest"]["bins"][0]["from"] == pytest.approx(heaviest.min())
    offset = np.hypot(lenses.parameters["source_x"], lenses.parameters["source_y"])
    assert found["source_offset"]["bins"][-1]["to"] == pytest.approx(offset.max())


def test_file_without_parameters_has_no_bins(run, lenses, tmp_path):
    many = lenses.images.repeat(6, 1, 1, 1), lenses.labels.repeat(6)
    write_dataset(tmp_path / "t.h5", *many, {}, lenses.class_names)
    assert (
        measured(open_test_images(str(tmp_path / "t.h5"), load(run, "cpu")), many[1].numpy()) == {}
    )


def test_parameters_of_a_survey_are_those_of_its_images():
    from haloformer.simulation import Simulator

    simulator = Simulator("model_i", seed=3)
    expected, found = simulator.batch(range(4, 13)).parameters, simulator.parameters(range(4, 13))
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], expected[name], equal_nan=True) for name in found)


def test_peak_to_noise_is_the_peak_over_the_scatter_of_the_border():
    rng = torch.Generator().manual_seed(0)
    images = 5 + 0.1 * torch.randn(3, 1, 60, 60, generator=rng)
    images[:, 0, 30, 30] += torch.tensor([1.0, 10.0, 100.0])
    found = physics.peak_to_noise(images).numpy()
    assert found == pytest.approx([10, 100, 1000], rel=0.2)
    assert torch.isnan(physics.peak_to_noise(torch.ones(1, 1, 60, 60))).all()
