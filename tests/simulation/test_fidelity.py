"""Our noise-free images against lenstronomy, run live on the same parameters."""

import dataclasses

import numpy as np
import pytest
import torch

from haloformer.simulation import Simulator, get_survey, render
from haloformer.simulation.lenstronomy_backend import render_with_lenstronomy

SURVEYS = ("model_i", "model_ii", "model_iii")


def _relative(images, reference):
    """Largest difference in units of each reference image's peak, and largest relative difference in flux."""
    images = images.double().numpy()
    difference = np.abs(images - reference).max(axis=(1, 2)) / reference.max(axis=(1, 2))
    flux = np.abs(images.sum(axis=(1, 2)) / reference.sum(axis=(1, 2)) - 1)
    return difference.max(), flux.max()


@pytest.mark.parametrize("survey", SURVEYS)
@pytest.mark.parametrize("name", ["axion", "cdm", "no_sub"])
def test_every_survey_and_class_matches_lenstronomy(survey, name):
    lenstronomy = Simulator(
        survey, classes=[name], seed=11, noise="none", dtype=torch.float64, backend="lenstronomy"
    )
    reference = lenstronomy.batch(range(6)).images[:, 0].numpy()
    for backend in ("numba", "torch"):
        for dtype, tolerance, flux_tolerance in (
            (torch.float64, 1e-6, 1e-9),
            (torch.float32, 1e-3, 1e-4),
        ):
            ours = Simulator(
                survey, classes=[name], seed=11, noise="none", dtype=dtype, backend=backend
            )
            difference, flux = _relative(ours.batch(range(6)).images[:, 0], reference)
            assert difference <= tolerance, (backend, dtype)
            assert flux <= flux_tolerance, (backend, dtype)


def test_float32_stays_within_tolerance_over_many_images_with_masses_close_to_pixels():
    for name in ("axion", "cdm"):
        double = (
            Simulator("model_iii", classes=[name], seed=3, noise="none", dtype=torch.float64)
            .batch(range(600))
            .images[:, 0]
        )
        single = (
            Simulator("model_iii", classes=[name], seed=3, noise="none")
            .batch(range(600))
            .images[:, 0]
        )
        difference, flux = _relative(single, double.numpy())
        assert difference <= 1e-3
        assert flux <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e-7, 1e-5, 1e-3])
def test_a_point_mass_on_top_of_a_pixel_gives_finite_light_like_lenstronomy(offset, dtype):
    survey = get_survey("model_ii")
    axis = (np.arange(64) - 31.5) * 0.101
    scenes = Simulator(survey, classes=["cdm"], seed=2, noise="none").batch(range(4)).parameters
    scenes["subhalo_x"][:, :2], scenes["subhalo_y"][:, :2] = axis[40] + offset, axis[30]
    scenes["subhalo_mass"][:, 0] = 1e10
    reference = render_with_lenstronomy(survey, scenes)
    for image in (render(survey, scenes, dtype=dtype), _kernel_render(survey, scenes, dtype)):
        assert torch.isfinite(image).all()
        assert _relative(image, reference)[0] <= (1e-3 if dtype == torch.float32 else 1e-6)


def _kernel_render(survey, parameters, dtype):
    from haloformer.simulation.scenes import draw_scenes

    count = len(parameters["source_x"])
    scenes = draw_scenes(survey, np.zeros(count), parameters["index"], 2, ("cdm",))
    for name in ("subhalo_mass", "subhalo_x", "subhalo_y"):
        getattr(scenes, name)[:] = parameters[name]
    scenes.subhalo_theta_E[:] = survey.theta_E(parameters["subhalo_mass"])
    return Simulator(survey, classes=["cdm"], noise="none", dtype=dtype).images(scenes)


@pytest.mark.parametrize("n_masses", [2, 7, 99, 100])
def test_any_number_of_vortex_masses_off_centre_matches_lenstronomy(n_masses):
    base = get_survey("model_ii")
    vortex = dataclasses.replace(base.substructure["axion"][0], n_masses=n_masses, x=0.3, y=-0.2)
    survey = dataclasses.replace(base, name="off_centre", substructure={"axion": (vortex,)})
    reference = (
        Simulator(survey, noise="none", dtype=torch.float64, backend="lenstronomy")
        .batch(range(6))
        .images[:, 0]
        .numpy()
    )
    for backend in ("numba", "torch"):
        ours = (
            Simulator(survey, noise="none", dtype=torch.float64, backend=backend)
            .batch(range(6))
            .images[:, 0]
        )
        assert _relative(ours, reference)[0] <= 1e-6


def test_a_survey_whose_lens_and_source_vary_matches_lenstronomy():
    survey = get_survey(
        {
            "base": "model_iii",
            "name": "varied",
            "deflector": {
                "theta_E": {"normal": [1.0, 0.1]}, "e1": {"uniform": [-0.2, 0.2]}, "e2": {"uniform": [-0.2, 0.2]},
                "x": {"uniform": [-0.1, 0.1]}, "y": 0.05, "gamma1": 0.02, "gamma2": {"uniform": [-0.05, 0.05]},
            },
            "source": {
                "x": 0.1, "y": {"uniform": [-0.2, 0.2]}, "magnitude": {"uniform": [19, 22]}, "R_sersic": {"log_uniform": [0.1, 0.5]},
                "n_sersic": {"uniform": [0.7, 4]}, "e1": 0.2, "e2": {"uniform": [-0.2, 0.2]},
            },
            "substructure": {"both": ["vortex", "point_subhalos"], "no_sub": []},
        }
    )  # fmt: skip
    reference = Simulator(
        survey, seed=4, noise="none", dtype=torch.float64, backend="lenstronomy"
    ).batch(range(8))
    assert len(np.unique(reference.parameters["source_n_sersic"])) == 8
    for backend in ("numba", "torch"):
        ours = (
            Simulator(survey, seed=4, noise="none", dtype=torch.float64, backend=backend)
            .batch(range(8))
            .images[:, 0]
        )
        assert _relative(ours, reference.images[:, 0].numpy())[0] <= 1e-6


def test_rendering_is_differentiable_in_the_physical_parameters():
    survey = get_survey(
        {
            "base": "model_ii",
            "name": "small",
            "instrument": {"base": "euclid_vis", "num_pix": 8, "pixel_scale": 0.4},
        }
    )
    batch = Simulator(survey, seed=1, noise="none").batch(range(3))
    names = (
        "source_x",
        "lens_theta_E",
        "lens_e1",
        "gamma1",
        "vortex_angle",
        "vortex_half_length",
        "subhalo_mass",
        "subhalo_x",
    )
    free = [torch.as_tensor(batch.parameters[name]).clone() for name in names]
    free[6] = torch.log10(free[6])
    there = [torch.isfinite(p) for p in free]
    start = [p[t].clone().requires_grad_() for p, t in zip(free, there)]

    def image(*values):
        parameters = {name: torch.as_tensor(value) for name, value in batch.parameters.items()}
        for name, full, where, value in zip(names, free, there, values):
            parameters[name] = full.masked_scatter(where, value)
        parameters["subhalo_mass"] = 10 ** parameters["subhalo_mass"]
        return render(survey, parameters)

    assert torch.autograd.gradcheck(image, start, eps=1e-7, atol=1e-5, rtol=1e-4)
