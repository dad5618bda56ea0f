"""Scenes with matched masses: what Gauss's theorem says of them."""

import dataclasses

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.simulation import draw_scenes, get_survey
from haloformer.simulation.deflectors import sie_deflection
from haloformer.simulation.matching import (
    add_mass,
    enclosed_substructure,
    match_mass,
    sie_mass_factor,
)


def scenes_of(survey, per_class=6):
    labels = np.repeat(np.arange(3), per_class)
    return draw_scenes(survey, labels, np.tile(np.arange(per_class), 3), 3, survey.class_names)


def mean_convergence(scenes, survey, radius):
    """The flux of the whole deflection out of a circle about the lens, over its area and 2: independent of our sums."""
    angle = torch.linspace(0, 2 * np.pi, 4001, dtype=torch.float64)[:-1]
    cos, sin = angle.cos(), angle.sin()
    found = []
    for i in range(len(scenes)):
        one = scenes[np.array([i])]
        tensors = {
            name: torch.as_tensor(getattr(one, name))
            for name in ("lens_theta_E", "lens_e1", "lens_e2", "lens_x", "lens_y")
        }
        x, y = radius[i] * cos + tensors["lens_x"], radius[i] * sin + tensors["lens_y"]
        alpha = sie_deflection(x[None], y[None], *(value[:, None] for value in tensors.values()))
        radial = (alpha[0] * cos + alpha[1] * sin)[0]
        for theta_E, x0, y0 in zip(one.subhalo_theta_E[0], one.subhalo_x[0], one.subhalo_y[0]):
            if theta_E > 0:
                d2 = (x - x0) ** 2 + (y - y0) ** 2
                radial = radial + theta_E**2 * ((x - x0) * cos + (y - y0) * sin) / d2
        if one.vortex_n_masses[0]:
            n = int(one.vortex_n_masses[0])
            for c in np.linspace(-1, 1, n) * one.vortex_half_length[0]:
                x0, y0 = c * np.cos(one.vortex_angle[0]), c * np.sin(one.vortex_angle[0])
                d2 = (x - x0) ** 2 + (y - y0) ** 2
                radial = (
                    radial + one.vortex_theta_E[0] ** 2 * ((x - x0) * cos + (y - y0) * sin) / d2
                )
        found.append(survey.scale() * float(radial.mean()) / radius[i])
    return np.array(found)


@pytest.mark.parametrize("name", ["model_i", "model_ii"])
def test_matched_lenses_of_all_classes_have_one_mass_within_the_ring(name):
    survey = get_survey(name)
    scenes = scenes_of(survey)
    ring = survey.scale() * scenes.lens_theta_E
    before, after = (
        mean_convergence(s, survey, ring) for s in (scenes, match_mass(scenes, survey))
    )
    smooth = scenes.label == survey.class_names.index("no_sub")
    assert before[~smooth].mean() > before[smooth].mean() + 0.01
    # A mass that lies nearly on the circle is not resolved by 4,000 points on it.
    assert np.median(np.abs(after - after[smooth][0])) < 1e-6
    assert np.abs(after - after[smooth][0]).max() < 2e-3


def test_smooth_scenes_stay_and_only_the_lens_changes():
    survey = get_survey("model_i")
    scenes = scenes_of(survey)
    matched = match_mass(scenes, survey)
    smooth = scenes.label == survey.class_names.index("no_sub")
    assert (matched.lens_theta_E[smooth] == scenes.lens_theta_E[smooth]).all()
    assert (matched.lens_theta_E[~smooth] < scenes.lens_theta_E[~smooth]).all()
    assert (matched.noise_word == scenes.noise_word).all()
    assert (matched.source_x == scenes.source_x).all()


def test_added_mass_is_the_mean_of_what_substructure_brings():
    survey = get_survey("model_ii")
    scenes = scenes_of(survey)
    ring = survey.scale() * scenes.lens_theta_E
    smooth = scenes.label == survey.class_names.index("no_sub")
    heavier = add_mass(scenes, survey)
    assert (heavier.lens_theta_E[~smooth] == scenes.lens_theta_E[~smooth]).all()
    original = mean_convergence(scenes, survey, ring)
    now = mean_convergence(heavier, survey, ring)
    assert now[smooth] == pytest.approx(original[~smooth].mean(), abs=1e-3)
    assert enclosed_substructure(scenes, ring)[smooth].max() == 0


def test_the_ellipsoids_mass_is_that_of_its_integral():
    angle = np.linspace(0, 2 * np.pi, 2001)[:-1]
    q = (1 - 0.3) / (1 + 0.3)
    assert sie_mass_factor(np.array(0.3), np.array(0.0)) == pytest.approx(
        np.mean(np.sqrt(q) / np.sqrt(q**2 * np.cos(angle) ** 2 + np.sin(angle) ** 2))
    )
    assert sie_mass_factor(np.array(0.0), np.array(0.0)) == pytest.approx(1)


def test_substructure_heavier_than_the_lens_is_refused():
    survey = get_survey("model_i")
    light = dataclasses.replace(scenes_of(survey), lens_theta_E=np.full(18, 0.15))
    with pytest.raises(InputError, match="weighs more than the lens"):
        match_mass(light, survey)
