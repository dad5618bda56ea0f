"""What images say of their dark matter, whatever their survey makes it of."""

import numpy as np
import pytest

from haloformer.data import LensDataset, convert, write_deeplense_folder
from haloformer.outputs.targets import TARGETS
from haloformer.simulation import Simulator
from haloformer.simulation.dark_matter import axion_mass, subhalo_masses, told_by

SURVEYS = ("model_i", "model_i_fair", "hst", "model_iv_fair")


@pytest.mark.parametrize("name", SURVEYS)
def test_axions_of_all_surveys_have_their_mass_and_no_other_image_has(name):
    simulator = Simulator(name, seed=4)
    parameters = simulator.parameters(range(12))
    classes = [simulator.class_names[k] for k in np.arange(12) % 3]
    found = TARGETS["log10_m_axion"].from_parameters(parameters)
    assert found.shape == (12,)
    assert [np.isfinite(mass) for mass in found] == [each == "axion" for each in classes]
    assert ((found > -25) & (found < -20))[np.isfinite(found)].all()


@pytest.mark.parametrize(
    ("name", "part"), [("model_i", "subhalo"), ("model_i_fair", "point_masses"), ("hst", "tnfw")]
)
def test_subhalos_are_those_of_the_component_that_makes_them(name, part):
    parameters = Simulator(name, seed=4).parameters(range(6))
    masses = parameters[f"{part}_mass"]
    np.testing.assert_array_equal(subhalo_masses(parameters), masses)
    total = TARGETS["log10_m_subhalos"].from_parameters(parameters)
    np.testing.assert_allclose(10 ** total[1::3], np.nansum(masses[1::3], axis=1), rtol=1e-10)
    assert np.isnan(total[2::3]).all()


def test_single_and_many_subhalos_of_one_image_count_together_and_vortices_do_not():
    parameters = {
        "tnfw_mass": np.array([[1e8, np.nan], [np.nan, np.nan]]),
        "pseudo_jaffe_mass": np.array([2e9, np.nan]),
        "vortex_mass": np.array([3e10, 3e10]),
        "granules_log10_m_axion": np.array([np.nan, np.nan]),
        "tnfw_log10_m_axion": np.array([-22.5, np.nan]),
    }
    assert np.nansum(subhalo_masses(parameters), axis=1).tolist() == [2.1e9, 0.0]
    np.testing.assert_array_equal(axion_mass(parameters), [-22.5, np.nan])
    assert told_by(parameters) == [
        *("tnfw_log10_m_axion", "granules_log10_m_axion", "pseudo_jaffe_mass", "tnfw_mass"),
    ]


def test_images_without_either_say_what_is_missing():
    with pytest.raises(KeyError, match="log10_m_axion"):
        axion_mass({"vortex_mass": np.ones(3)})
    with pytest.raises(KeyError, match="subhalo_mass"):
        subhalo_masses({"vortex_mass": np.ones(3)})


def test_masses_of_axions_travel_in_the_original_format_too(tmp_path):
    batch = Simulator("model_i_fair", seed=3).batch(range(6))
    write_deeplense_folder([batch], tmp_path / "x", class_names=batch.class_names)
    (tmp_path / "x/parameters.csv").unlink()  # what others have is the files alone
    convert(str(tmp_path / "x"), str(tmp_path / "x.h5"))
    with LensDataset(tmp_path / "x.h5") as dataset:
        found = dataset.parameters("log10_m_axion")[dataset.labels == 0]
    masses = batch.parameters["vortex_log10_m_axion"]
    np.testing.assert_allclose(np.sort(found), np.sort(masses[np.isfinite(masses)]), rtol=1e-6)


def test_a_survey_whose_axions_have_no_mass_has_no_pairs(tmp_path):
    batch = Simulator("common_task", seed=3).batch(range(3))
    write_deeplense_folder([batch], tmp_path / "x", class_names=batch.class_names)
    (axion,) = (tmp_path / "x").glob("axion/*.npy")
    assert np.load(axion).shape == batch.images.shape[2:]
