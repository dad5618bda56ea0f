"""Point-spread functions: profiles, kernels of users, and what a camera makes of the rays."""

import warnings

import numpy as np
import pytest
import torch
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from lenstronomy.Data.pixel_grid import PixelGrid
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.kernel_util import kernel_moffat
from scipy import signal

from haloformer.errors import InputError, InputWarning
from haloformer.simulation.instruments import (
    Instrument,
    background_rms,
    convolve_psf,
    pixel_axis,
    psf_weights,
)
from haloformer.simulation.parts import part_fields
from haloformer.simulation.psf import (
    bin_pixels,
    checked_kernel,
    convolve,
    convolve_kernel,
    kernel_fwhm,
    moffat,
    observe,
    psf_fwhm,
    psf_kernel,
    ray_axis,
    read_kernel,
    resampled,
    separable_psf,
)
from haloformer.simulation.sources import sersic_ellipse
from haloformer.simulation.surveys import describe_survey, get_any_survey, get_part, get_survey

NEW = [
    "hst_acs_f814w",
    "hst_wfc3_f160w_drizzled",
    "euclid_vis_q1",
    *(f"jwst_nircam_{band}" for band in ("f115w", "f150w", "f277w", "f444w")),
    "rubin_i",
    "roman_f129",
    "roman_f158",
]


def gaussian(side, fwhm, x=0.0, y=0.0):
    sigma, axis = fwhm / 2.3548, np.arange(side) - (side - 1) / 2
    kernel = np.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def written(path, kernel, **header):
    hdu = fits.PrimaryHDU(kernel.astype(np.float32))
    hdu.header.update(header)
    hdu.writeto(path)
    return str(path)


def images(n=3, side=40):
    return torch.tensor(np.random.default_rng(0).uniform(size=(n, side, side)))


def test_a_users_psf_is_found_by_its_name_among_other_images(tmp_path):
    image, kernel = fits.PrimaryHDU(gaussian(41, 9.0)), gaussian(11, 2.5)
    path = tmp_path / "cutout.fits"
    fits.HDUList([image, fits.ImageHDU(kernel, name="VIS_PSF")]).writeto(path)
    assert read_kernel(path)[0] == pytest.approx(kernel)
    assert read_kernel(path, 0)[0].shape == (41, 41)


@pytest.mark.parametrize(("fwhm", "beta"), [(2.5, 1.5), (4.0, 3.0), (3.0, 20.0)])
def test_moffat_profile_is_lenstronomys(fwhm, beta):
    ours = moffat(fwhm, beta, 12)
    assert np.abs(ours - kernel_moffat(25, 1.0, fwhm, beta).reshape(25, 25)).max() < 1e-14
    assert kernel_fwhm(ours) == pytest.approx(fwhm, rel=0.02)


def test_convolution_with_any_kernel_is_scipys():
    kernel = gaussian(9, 3.0, 0.3, -0.2) + 0.01 * np.random.default_rng(1).uniform(size=(9, 9))
    found = convolve_kernel(images(), kernel).numpy()
    for image, ours in zip(images().numpy(), found):
        wanted = signal.convolve(np.pad(image, 4, mode="edge"), kernel, mode="valid")
        assert ours == pytest.approx(wanted, abs=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_camera_shows_is_the_same_in_every_batch(dtype):
    camera = get_part("instruments", "hst_acs_f814w")
    many = images(7, 60).to(dtype)
    together = observe(many, camera)
    for i in (0, 3, 6):
        assert torch.allclose(observe(many[i : i + 1], camera)[0], together[i], rtol=0, atol=1e-16)


def test_a_gaussian_camera_of_one_ray_per_pixel_blurs_as_ever():
    camera = get_part("instruments", "euclid_vis")
    weights = torch.tensor(psf_weights(camera))
    assert torch.equal(convolve(images(), camera), convolve_psf(images(), weights))
    assert np.array_equal(ray_axis(camera), pixel_axis(camera))
    kernel = convolve_kernel(images(), psf_kernel(camera))
    assert torch.allclose(kernel, convolve(images(), camera), atol=1e-13)


def test_light_of_fine_rays_adds_up_in_pixels():
    camera = Instrument(num_pix=40, pixel_scale=0.1, psf_fwhm=0.2, psf_beta=2.0, supersampling=3)
    x = torch.tensor(ray_axis(camera))
    spot = torch.exp(-(x**2 + x[:, None] ** 2) / (2 * 0.15**2))[None] / (2 * np.pi * 0.15**2)
    seen = observe(spot, camera)
    assert seen.shape == (1, 40, 40)
    assert float(seen.sum()) == pytest.approx(1, abs=2e-3)
    assert torch.allclose(seen, seen.flip(1), atol=1e-15)
    fine = torch.arange(36.0).reshape(1, 6, 6)
    assert torch.equal(bin_pixels(fine, 3), fine.reshape(1, 2, 3, 2, 3).mean((2, 4)))


def test_finer_rays_converge():
    """A compact source seen by 1, 2 and 3 rays per pixel: the more, the closer."""
    seen, size = {}, 0.06
    for rays in (1, 2, 3):
        camera = Instrument(
            num_pix=30,
            pixel_scale=0.1,
            psf_fwhm=0.25,
            psf_beta=3.0,
            supersampling=rays,
            psf_truncation=8,
        )
        x = torch.tensor(ray_axis(camera))
        spot = torch.exp(-((x - 0.03) ** 2 + (x[:, None] - 0.02) ** 2) / (2 * size**2))
        seen[rays] = observe(spot[None], camera) / (2 * np.pi * size**2)
    coarse, fine = (float((seen[k] - seen[3]).abs().max()) for k in (1, 2))
    assert fine < 0.5 * coarse


@pytest.mark.parametrize("rays", [1, 2, 3])
def test_a_galaxy_seen_by_a_camera_is_lenstronomys(rays):
    """Rays, kernel at their spacing and sums in pixels; edges differ, where they repeat what is outermost."""
    camera = Instrument(
        num_pix=41,
        pixel_scale=0.1,
        psf_fwhm=0.2,
        psf_beta=2.5,
        psf_truncation=8,
        supersampling=rays,
    )
    sersic = {"R_sersic": 0.4, "n_sersic": 1.5, "e1": 0.1, "e2": -0.2}
    x = torch.tensor(ray_axis(camera))
    number = {name: torch.tensor(value, dtype=torch.float64) for name, value in sersic.items()}
    amp, x0, y0 = (torch.tensor(value, dtype=torch.float64) for value in (3.0, 0.13, -0.08))
    light = sersic_ellipse(x[None, None], x[None, :, None], amp, **number, x0=x0, y0=y0)
    seen = observe(light, camera)[0].numpy()
    corner = -(camera.num_pix - 1) / 2 * camera.pixel_scale
    grid = PixelGrid(
        nx=41,
        ny=41,
        transform_pix2angle=camera.pixel_scale * np.eye(2),
        ra_at_xy_0=corner,
        dec_at_xy_0=corner,
    )
    psf = PSF(
        psf_type="PIXEL",
        kernel_point_source=psf_kernel(camera).copy(),  # older ones write into it
        point_source_supersampling_factor=rays,
    )
    numerics = {
        "supersampling_factor": rays,
        "supersampling_convolution": rays > 1,
        "supersampling_kernel_size": None,  # the kernel at the rays' spacing, all of it
    }
    model = ImageModel(
        grid,
        psf,
        lens_light_model_class=LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics=numerics,
    )
    wanted = model.image(
        kwargs_lens_light=[{"amp": 3.0, **sersic, "center_x": 0.13, "center_y": -0.08}]
    )
    inner = slice(9, -9)
    assert np.abs(seen - wanted)[inner, inner].max() < 1e-9 * wanted.max()


@pytest.mark.parametrize("name", NEW)
def test_shipped_cameras_are_described_so_that_they_can_be_read_back(name):
    survey = get_any_survey({"base": "hst", "name": "mine", "instrument": name})
    assert survey.instrument == get_part("instruments", name)
    assert get_any_survey(describe_survey(survey)) == survey


@pytest.mark.parametrize("name", NEW)
def test_shipped_cameras_have_the_point_spread_function_and_noise_they_state(name):
    camera = get_part("instruments", name)
    kernel = psf_kernel(camera)
    assert kernel.sum() == pytest.approx(1)
    arcsec = kernel_fwhm(kernel) * camera.pixel_scale / (camera.supersampling or 1)
    assert arcsec == pytest.approx(camera.psf_fwhm, rel=0.04)
    assert 0 < background_rms(camera) < 1
    assert len(kernel) // 2 / (camera.supersampling or 1) < camera.num_pix / 2


def test_cameras_that_were_there_are_described_as_ever():
    for name in ("model_i", "model_ii", "model_iii"):
        described = describe_survey(get_survey(name))["instrument"]
        assert set(described) <= {
            "num_pix",
            "pixel_scale",
            "psf_fwhm",
            "psf_truncation",
            "exposure_time",
            "num_exposures",
            "magnitude_zero_point",
            "sky_brightness",
            "read_noise",
            "background_rms",
        }
    assert part_fields("instruments", "hst_wfc3_f160w")["psf_fwhm"] == 0.08


@pytest.mark.parametrize(
    "fields", [{"psf_beta": 2.0}, {"supersampling": 2}, {"psf_file": "psf.fits"}]
)
def test_what_knows_only_gaussians_refuses_other_cameras(fields):
    with pytest.raises(InputError, match="not a Gaussian"):
        psf_weights(Instrument(num_pix=32, pixel_scale=0.1, psf_fwhm=0.2, **fields))


# --- kernels of users -------------------------------------------------------------------------------------------------


def test_a_kernel_from_a_file_that_is_wider_than_the_image_is_refused(tmp_path):
    path = written(tmp_path / "psf.fits", gaussian(15, 3.0))
    camera = Instrument(num_pix=32, pixel_scale=0.05, psf_file=path, psf_pixel_scale=1.0)
    with pytest.raises(InputError, match=r"wider than the image of 1\.6: is psf_pixel_scale"):
        psf_kernel(camera)


def test_a_kernel_from_a_file_is_used_as_it_is(tmp_path):
    path = written(tmp_path / "psf.fits", gaussian(15, 3.0))
    camera = Instrument(num_pix=32, pixel_scale=0.05, psf_file=path)
    assert psf_kernel(camera) == pytest.approx(gaussian(15, 3.0), abs=1e-7)


def test_a_kernel_that_does_not_add_up_to_one_is_used_as_if_it_did(tmp_path):
    path = written(tmp_path / "psf.fits", 0.95 * gaussian(15, 3.0))
    with pytest.warns(InputWarning, match=r"adds up to 0\.95"):
        kernel, scale = read_kernel(path)
    assert scale is None
    assert kernel.sum() == pytest.approx(1)


def test_rectangular_kernels_become_square(tmp_path):
    path = written(tmp_path / "psf.fits", gaussian(15, 2.0)[3:-3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_kernel(path)[0].shape == (15, 15)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (gaussian(14, 3.0), "odd number"),
        (gaussian(15, 3.0, 0.8), "off its middle"),
        (gaussian(15, 3.0) - 0.01, "negative values"),
        (np.where(gaussian(15, 3.0) > 0.05, np.nan, 0.1), "NaN"),
        (np.zeros((15, 15)), "no light"),
        (np.ones((2, 15, 15)), "cube"),
    ],
)
def test_kernels_that_are_none_are_refused_in_one_line(tmp_path, kernel, said):
    path = written(tmp_path / "psf.fits", kernel)
    with pytest.raises(InputError, match=said) as refused:
        read_kernel(path)
    assert "psf.fits" in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        st.sampled_from([np.float32, np.float64, np.int16]),
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    )
)
def test_whatever_is_taken_for_a_kernel_is_one(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kernel = checked_kernel(values, "a kernel")
        except InputError:
            return
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1)
    assert kernel.shape[0] == kernel.shape[1]
    assert len(kernel) % 2 == 1


@pytest.mark.parametrize("size", [1e-308, 1.2e307])
def test_kernels_that_cannot_be_added_up_are_refused(size):
    with pytest.raises(InputError, match="cannot be added up"):
        checked_kernel(np.full((5, 5), size), "a kernel")


def test_files_that_are_no_fits_are_refused(tmp_path):
    (tmp_path / "psf.fits").write_bytes(b"\x80\x04K\x01.")
    for name in ("psf.fits", "none.fits"):
        with pytest.raises(InputError, match=name):
            read_kernel(tmp_path / name)


def test_the_scale_of_a_kernel_is_given_or_in_its_header_or_that_of_the_camera(tmp_path):
    path = written(tmp_path / "psf.fits", gaussian(41, 6.0), PIXSCALE=0.025)
    assert read_kernel(path)[1] == pytest.approx(0.025)
    assert read_kernel(path, None, 0.05)[1] == 0.05
    camera = Instrument(num_pix=32, pixel_scale=0.05, psf_file=path)
    assert kernel_fwhm(psf_kernel(camera)) == pytest.approx(np.hypot(3.0, 0.6), rel=0.05)
    assert psf_fwhm(camera) == pytest.approx(0.05 * np.hypot(3.0, 0.6), rel=0.05)
    path = written(tmp_path / "stpsf.fits", gaussian(41, 6.0), OVERSAMP=2, DET_SAMP=2)
    camera = Instrument(num_pix=32, pixel_scale=0.05, psf_file=path)
    with pytest.warns(InputWarning, match=r"0\.025″, the image's divided by 2; psf_pixel_scale"):
        assert kernel_fwhm(psf_kernel(camera)) == pytest.approx(np.hypot(3.0, 0.6), rel=0.05)
    with pytest.raises(InputError, match="oversampled 2 times by its header"):
        read_kernel(path)
    wide = Instrument(num_pix=32, pixel_scale=0.05, psf_file=path, psf_pixel_scale=0.05)
    assert kernel_fwhm(psf_kernel(wide)) == pytest.approx(6.0, rel=0.02)


def test_a_star_in_the_middle_of_a_pixel_looks_like_the_kernel_on_finer_rays_too():
    kernel = gaussian(15, 2.4)
    fine = resampled(kernel, 1.0, 1 / 3)
    rays = np.zeros((45, 45))
    reach = len(fine) // 2
    rays[22 - reach : 23 + reach, 22 - reach : 23 + reach] = fine
    star = rays.reshape(15, 3, 15, 3).sum((1, 3))
    assert np.abs(star - kernel).max() < 5e-3 * kernel.max()
    # Without taking the pixels out it would be wider.
    assert kernel_fwhm(fine) / 3 < 0.98 * 2.4


def test_a_kernels_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "psf.fits"
    found = []
    for side in (3, 5):
        fits.writeto(path, np.full((side, side), 1 / side**2), overwrite=True)
        camera = Instrument(num_pix=20, pixel_scale=0.1, psf_file=str(path), psf_pixel_scale=0.1)
        found.append(
            (psf_kernel(camera).shape, psf_fwhm(camera), separable_psf(camera).across.shape)
        )
    assert [shape for shape, *_ in found] == [(3, 3), (5, 5)]
    assert found[0][1] < found[1][1]
    assert found[0][2] == (1, 4)
    assert found[1][2] == (1, 8)
