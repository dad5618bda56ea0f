"""Rays of the shipped cameras lie close enough together for the sources of their surveys."""

import dataclasses

import numpy as np
import pytest
import torch

from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.composed.render import ComposedRenderer
from haloformer.simulation.instruments import background_rms


def error_of_rays(survey, rays, finer=10, count=6):
    """What finer rays change of smooth lenses, in standard deviations of the noise: the median of the root of the sum over all pixels."""
    camera = survey.instrument
    simulator = Simulator(survey, classes=["no_sub"], seed=5, noise="none")
    parameters = dict(simulator.batch(range(count)).parameters)
    images = [
        ComposedRenderer(survey.with_camera(supersampling=n), torch.float32)
        .images(parameters)
        .images.double()
        for n in (rays, finer)
    ]
    seconds = torch.as_tensor(parameters["exposure_time"] * camera.num_exposures)[:, None, None]
    noise = torch.sqrt(background_rms(camera) ** 2 + images[1].clamp(min=0) / seconds)
    return float(np.median(((images[0] - images[1]) / noise).flatten(1).norm(dim=1)))


@pytest.mark.parametrize("name", ["rubin", "euclid", "jwst", "hst"])
def test_rays_change_images_by_no_more_than_the_noise_of_a_pixel_or_two(name):
    survey = dataclasses.replace(get_any_survey(name), lens_light=None)
    shipped = survey.instrument.supersampling
    assert error_of_rays(survey, shipped) < 1
    assert error_of_rays(survey, 1) > 3
