"""Composed surveys by compiled kernels: the images of the tensors, each a function of its own number, whatever the threads."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.simulation import Simulator, get_any_survey, list_surveys
from haloformer.simulation.components import Sersic, Shear
from haloformer.simulation.components.lens_light import LensLight
from haloformer.simulation.composed.compiled import light_images, observed
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.psf import bin_pixels, convolve, observe, ray_axis, separable_psf
from small_survey import small

pytest.importorskip("numba")

SHIPPED = [name for name in list_surveys(composed=True)]
HALOS = 1e-3
"""Of the peak: halos are tables, and those of the kernel are others than those of the tensors."""


def both(survey, count=6, **given):
    found = [
        Simulator(survey, seed=2, noise="none", backend=backend, threads=1, **given).batch(
            range(count)
        )
        for backend in ("numba", "torch")
    ]
    peak = found[1].images.flatten(1).amax(1)
    differ = (found[0].images - found[1].images).abs().flatten(1).amax(1) / peak
    return found, differ.numpy()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_survey_is_rendered_alike_by_kernels_and_tensors(name):
    found, differ = both(name, 3)
    survey = get_any_survey(name)
    for label, class_name in enumerate(survey.class_names):
        has_halos = any(part.kind == "tnfw" for part in survey.substructure[class_name])
        assert differ[label] < (HALOS if has_halos else 3e-5), class_name
    fluxes = (batch.parameters["source_flux"] for batch in found)
    np.testing.assert_allclose(*fluxes, rtol=3e-5)


@pytest.mark.parametrize("matching", ["none", "mass", "moments"])
def test_what_a_lens_gives_up_is_the_same_by_kernels_and_tensors(matching):
    survey = small(matching=matching, substructure={"axion": [{"kind": "vortex"}], "no_sub": []})
    assert both(survey)[1].max() < 3e-5


def test_halos_outside_the_lens_plane_are_rendered_alike_by_kernels_and_tensors():
    halos = [{"kind": "line_of_sight", "mass_low": 1e9, "abundance": 3}]
    survey = small(substructure={"cdm": [*halos, {"kind": "point_masses"}], "no_sub": []})
    found, differ = both(survey)
    assert differ.max() < HALOS
    without = small(substructure={"cdm": [{"kind": "point_masses"}], "no_sub": []})
    images = Simulator(without, seed=2, noise="none").batch(range(6)).images
    assert (images - found[0].images)[::2].abs().max() > 0.01 * images.max()


def test_an_image_is_the_same_in_any_batch_and_by_any_number_of_threads():
    survey = get_any_survey("model_i_fair").with_camera(num_pix=60)
    whole = Simulator(survey, seed=1, threads=1).batch(range(30))
    threads = Simulator(survey, seed=1, threads=3).batch(range(30))
    assert torch.equal(whole.images, threads.images)
    alone = Simulator(survey, seed=1, threads=1).batch([17])
    assert torch.equal(whole.images[17], alone.images[0])
    assert not torch.equal(whole.images[17], whole.images[20])


def test_float64_is_left_to_the_tensors():
    assert Simulator(small()).backend == "numba"
    assert Simulator(small(), dtype=torch.float64).backend == "torch"
    with pytest.raises(InputError, match="float32 only"):
        Simulator(small(), dtype=torch.float64, backend="numba")


@dataclasses.dataclass(frozen=True)
class Tilt(Shear):
    """A user's own component, with no kernel: a shear of its own."""

    kind: Literal["tilt"] = dataclasses.field(default="tilt", kw_only=True)
    PREFIX: ClassVar[str | None] = "tilt_"

    def on_grid(self, axis, parameters):
        return super(Shear, self).on_grid(axis, parameters)


def test_a_component_without_a_kernel_is_rendered_all_the_same():
    given = small()
    lens, shear = given.lens
    own = dataclasses.replace(
        given, lens=(lens, Tilt(gamma1=shear.gamma1)), substructure={"no_sub": ()}
    )
    with_kernel = dataclasses.replace(given, substructure={"no_sub": ()})
    images = [
        Simulator(survey, seed=1, noise="none").batch(range(4)).images
        for survey in (own, with_kernel)
    ]
    assert (images[0] - images[1]).abs().max() < 1e-6 * images[1].max()
    plain = dataclasses.replace(own, lens=(lens, Tilt(gamma1=0.0)))
    assert (images[0] - Simulator(plain, seed=1, noise="none").batch(range(4)).images).abs().max() > 1e-3 * images[1].max()  # fmt: skip


@pytest.mark.parametrize(
    "camera",
    [
        {"psf_fwhm": 0.12},
        {"psf_fwhm": 0.15, "psf_beta": 2.5, "psf_truncation": 6},
        {"psf_fwhm": 0.15, "psf_beta": 2.5, "psf_truncation": 6, "supersampling": 2},
        {"psf_fwhm": 0.2, "psf_beta": 4.0, "psf_truncation": 5, "supersampling": 3},
        {"psf_fwhm": 0.05, "psf_truncation": 4, "supersampling": 3},
        {"psf_fwhm": 0.4, "psf_beta": 3.0, "psf_truncation": 5},  # as wide as the image
    ],
)
def test_a_camera_by_separable_terms_is_that_by_fourier_transforms(camera):
    instrument = Instrument(num_pix=21, pixel_scale=0.1, background_rms=0.01, exposure_time=1000.0, **camera)  # fmt: skip
    weights = separable_psf(instrument)
    assert weights is not None
    assert weights.across.shape[1] % 4 == 0
    side = len(ray_axis(instrument))
    brightness = np.random.default_rng(1).random((3, side, side)).astype(np.float32) ** 6
    found = observed(brightness, instrument, weights)
    exact = observe(torch.from_numpy(brightness).double(), instrument).numpy()
    assert np.abs(found - exact).max() < 3e-6 * exact.max()


def test_a_kernel_that_is_no_sum_of_few_terms_is_left_to_fourier_transforms(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    noisy = np.random.default_rng(2).random((41, 41))
    noisy[20, 20] = 100
    fits.writeto(tmp_path / "psf.fits", noisy / noisy.sum())
    camera = {"num_pix": 30, "pixel_scale": 0.1, "psf_file": str(tmp_path / "psf.fits"), "psf_pixel_scale": 0.1, "background_rms": 0.01, "exposure_time": 1000.0}  # fmt: skip
    survey = small(instrument=camera, substructure={"no_sub": []})
    assert separable_psf(survey.instrument) is None
    assert both(survey, 2)[1].max() < 1e-5


def test_an_asymmetric_kernel_blurs_to_the_right_side(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    kernel = np.zeros((7, 7))
    kernel[3, 3], kernel[3, 4], kernel[5, 3] = 0.6, 0.3, 0.1
    fits.writeto(tmp_path / "psf.fits", kernel)
    instrument = Instrument(num_pix=15, pixel_scale=0.1, psf_file=str(tmp_path / "psf.fits"), psf_pixel_scale=0.1, background_rms=0.01, exposure_time=1000.0)  # fmt: skip
    star = np.zeros((1, 15, 15), np.float32)
    star[0, 7, 7] = 100
    found = observed(star, instrument, separable_psf(instrument))[0]
    assert found[7, 7:10] == pytest.approx([0.6, 0.3, 0], abs=1e-6)
    assert found[7:10, 7] == pytest.approx([0.6, 0, 0.1], abs=1e-6)


@pytest.mark.parametrize("n_sersic", [0.5, 1.0, 2.3, 4.0, 8.0])
def test_sersic_profiles_by_the_kernel_are_those_of_float64(n_sersic):
    part = Sersic()
    parameters = {
        "R_sersic": np.array([0.2, 0.7]),
        "n_sersic": np.full(2, n_sersic),
        "e1": np.array([0.2, -0.1]),
        "e2": np.array([0.0, 0.3]),
        "x": np.array([0.02, 0.0]),
        "y": np.array([0.0, -0.1]),
    }
    axis = np.linspace(-2, 2, 81)
    x, y = (np.tile(a, (2, 1, 1)) for a in np.meshgrid(axis, axis))
    total = np.zeros((2, 81, 81), np.float32)
    add = part.at_rays(parameters, np.array([1.0, 0.5]))
    add(np.arange(2), np.arange(2), x.astype(np.float32), y.astype(np.float32), total)
    tensors = {name: torch.tensor(values) for name, values in parameters.items()}
    exact = part.brightness(torch.tensor(x), torch.tensor(y), tensors).numpy()
    exact *= np.array([1.0, 0.5])[:, None, None]
    assert total == pytest.approx(exact, rel=3e-5, abs=1e-6)


def test_the_light_of_lens_galaxies_is_the_same_by_kernels_and_tensors():
    survey = small(lens_light={"mode": "present"}, substructure={"no_sub": []})
    drawn = Simulator(survey, seed=1).parameters(range(11))
    part, camera = survey.lens_light, survey.instrument
    assert isinstance(part, LensLight)
    own = {name: drawn[f"lens_light_{name}"] for name in part.UNITS}
    place = np.stack([own["x"], own["y"]])
    assert np.abs(place).max() > 0.01
    found = light_images(part.at_rays(own), place, camera, None)
    axis = torch.tensor(ray_axis(camera))
    x, y = torch.broadcast_tensors(axis[None, None], axis[None, :, None])
    tensors = {name: torch.tensor(values) for name, values in own.items()}
    exact = bin_pixels(convolve(part.brightness(x, y, tensors), camera), 1).numpy()
    exact *= camera.pixel_scale**2
    peak = exact.max((1, 2), keepdims=True)
    assert (np.abs(found - exact) / peak).max() < 1e-5
