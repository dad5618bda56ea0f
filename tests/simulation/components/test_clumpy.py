"""Generated galaxies: as lenstronomy has them, of flux 1, the same in every batch, and as structured as asked for."""

import dataclasses

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.simulation.components import Clumpy, Sersic
from haloformer.simulation.components.clumpy import SIDE, galaxies, grid_scale
from haloformer.simulation.fields import gaussian_field, wave_numbers


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
def test_brightness_is_lenstronomys(light, dtype, most):
    assert light.difference(Clumpy(), light.drawn(Clumpy(), 8), dtype) < most


def test_cubic_interpolation_runs_through_the_pixels_and_is_truer_between_them(light):
    galaxy, drawn = Clumpy(interpolation="cubic", R=0.2), light.drawn(Clumpy(R=0.2), 3)
    t = light.tensors(drawn)
    images, scale = galaxies(t), grid_scale(t)[:, None, None]
    pixel = torch.arange(SIDE) - (SIDE - 1) / 2
    found = galaxy.brightness(pixel * scale, pixel[:, None] * scale, t)
    assert torch.allclose(found, images, atol=1e-9 * float(images.max()))
    # Between pixels: of a Gaussian.
    smooth = light.drawn(Clumpy(R=0.2, q=0.6, angle=0, sigma=0, clumps=0, bulge=0, n_sersic=0.5), 1)
    exact = Sersic(R_sersic=0.2, n_sersic=0.5, e1=(1 - 0.6) / (1 + 0.6))
    wanted = light.brightness(exact, light.drawn(exact, 1))
    linear, cubic = (
        np.abs(light.brightness(one, smooth) - wanted).max() / wanted.max()
        for one in (Clumpy(), galaxy)
    )
    assert cubic < 6e-4 < 1.5e-3 < linear


def test_light_is_none_outside_and_adds_up_to_one(light):
    axis = np.linspace(-4, 4, 801)
    x, y = np.meshgrid(axis, axis)
    for galaxy in (Clumpy(), Clumpy(interpolation="cubic")):
        found = light.brightness(galaxy, light.drawn(galaxy, 4), x=x, y=y)
        assert found.sum((1, 2)) * 0.01**2 == pytest.approx(np.ones(4), rel=1e-2)
        assert np.all(found[:, 0] == 0)


def test_a_galaxy_is_the_same_in_every_batch(light):
    drawn = light.drawn(Clumpy(), 9)
    together = light.brightness(Clumpy(), drawn, torch.float32)
    for some in ([0], [4], [8], [5, 8, 4]):
        alone = {name: values[some] for name, values in drawn.items()}
        assert np.array_equal(light.brightness(Clumpy(), alone, torch.float32), together[some])


def test_other_words_give_another_structure_of_the_same_disc(light):
    drawn = light.drawn(Clumpy(clumps=0, bulge=0), 1)
    other = {**drawn, "word_2": drawn["word_2"] + 1}
    assert light.brightness(Clumpy(), other).max() != light.brightness(Clumpy(), drawn).max()


def test_fields_have_the_spectrum_that_was_asked_for(light):
    n, beta = 60, 3.0
    words = light.tensors(light.drawn(Clumpy(), n))
    k = wave_numbers(64, torch.full((n,), 0.02))
    spectrum = (k**2 + 20.0**2) ** (-beta / 2)
    fields = gaussian_field(words, spectrum, 64)
    assert fields.var() == pytest.approx(1, abs=0.1)
    assert float(fields.mean((1, 2)).std()) < 0.5  # the mean is one of the modes
    modes = torch.fft.rfft2(fields).abs().square().mean(0)
    high, low = (k[0] > 100) & (k[0] < 150), (k[0] > 10) & (k[0] < 30)
    found, wanted = modes[high].mean() / modes[low].mean(), None
    wanted = spectrum[0][high].mean() / spectrum[0][low].mean()
    assert float(found) == pytest.approx(float(wanted), rel=0.1)


def test_without_structure_it_is_a_sersic_disc(light):
    plain = Clumpy(R=0.2, n_sersic=1, q=0.6, angle=0.4, sigma=0, clumps=0, bulge=0)
    c = (1 - 0.6) / (1 + 0.6)
    disc = Sersic(R_sersic=0.2, n_sersic=1, e1=c * np.cos(0.8), e2=c * np.sin(0.8))
    ours = light.brightness(plain, light.drawn(plain, 1))[0]
    theirs = light.brightness(disc, light.drawn(disc, 1))[0]
    inner = np.hypot(light.X, light.Y) < 0.4
    inner &= np.hypot(light.X, light.Y) > 0.02
    # The disc that fades at the edge has a little more light inside; the centre lies between pixels.
    assert ours[inner] == pytest.approx(theirs[inner], rel=0.06)


def test_share_of_clumps_and_bulge_is_as_drawn(light):
    galaxy = Clumpy(clumps=4, clump_share=0.3, bulge=1, bulge_share=0.2)
    drawn = light.drawn(galaxy, 20)
    assert np.isfinite(drawn["clump_flux"]).sum(1) == pytest.approx(4)
    assert np.nansum(drawn["clump_flux"], 1) == pytest.approx(0.3)
    assert drawn["bulge_flux"] == pytest.approx(0.2)
    none = light.drawn(dataclasses.replace(galaxy, clumps=0, bulge=0), 20)
    assert np.isnan(none["clump_flux"]).all()
    assert np.all(none["bulge_flux"] == 0)


def test_slopes_are_finite(light):
    t = {n: v.requires_grad_() for n, v in light.tensors(light.drawn(Clumpy(), 3)).items()}
    x = torch.tensor(light.X)[None].requires_grad_()
    Clumpy(interpolation="cubic").brightness(x, torch.tensor(light.Y)[None], t).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(t[name].grad).all() for name in ("R", "q", "angle", "sigma", "beta"))


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="sigma must not be negative"):
        Clumpy(sigma=-1)
    with pytest.raises(InputError, match="bulge"):
        Clumpy(bulge=2)


def test_clumps_shine_where_they_lie_and_lie_along_the_disc(light):
    galaxy = Clumpy(R=0.2, q=0.3, angle=0.7, clumps=1, clump_share=0.5, clump_sigma=0.02, bulge=0)
    drawn = light.drawn(galaxy, 200)
    x, y = drawn["clump_x"][:, 0], drawn["clump_y"][:, 0]
    along = np.abs(x * np.cos(0.7) + y * np.sin(0.7))
    across = np.abs(y * np.cos(0.7) - x * np.sin(0.7))
    assert np.median(across) / np.median(along) == pytest.approx(0.3, rel=0.25)
    some = {name: values[:5] for name, values in drawn.items()}
    t = light.tensors(some)
    bright = galaxies(t).flatten(1).argmax(1).numpy()
    scale = grid_scale(t).numpy()
    for found, clump in ((bright % SIDE, x), (bright // SIDE, y)):
        assert (found - (SIDE - 1) / 2) * scale == pytest.approx(clump[:5], abs=0.02)
