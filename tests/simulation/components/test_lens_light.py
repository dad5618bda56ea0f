"""The lens's own light: as lenstronomy has it, as bright as asked for, and what a subtraction leaves of it."""

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.simulation.components import LensLight
from haloformer.simulation.components.lens_light import correlated_field

AXIS = (torch.arange(60, dtype=torch.float64) - 29.5) * 0.05
GRID = AXIS[None, None, :].expand(1, 60, 60), AXIS[None, :, None].expand(1, 60, 60)


def masses(n, seed=1):
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(0, 0.1, n) for name in ("e1", "e2", "x", "y")}
    return {**values, "theta_E": rng.uniform(0.7, 1.8, n)}


@pytest.fixture
def drawn(light):
    def draw(lens_light, n=12, lens=None):
        lens = masses(n) if lens is None else lens
        return lens_light.draw(light.PlainDraws(np.arange(n)), light.setting(n), lens)

    return draw


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_brightness_is_lenstronomys(light, drawn, dtype, most):
    values = drawn(LensLight())
    # Between the points of the grid: the innermost 1e-3″ differ by convention.
    values["x"], values["y"] = values["x"] * 0 + 0.013, values["y"] * 0 + 0.021
    assert 2 < (values["disc_share"] > 0).sum() < 12
    assert light.difference(LensLight(), values, dtype) < most


def test_brightness_at_the_einstein_radius_is_the_contrast(light, drawn):
    lens = {**masses(8), "e1": np.zeros(8), "e2": np.zeros(8)}
    values = drawn(LensLight(q_offset=0, x=0, y=0), 8, lens)
    angle = torch.linspace(0, 6, 7, dtype=torch.float64)[None, None, :]
    ring = torch.tensor(lens["theta_E"])[:, None, None]
    x = ring * torch.cos(angle) + torch.tensor(lens["x"])[:, None, None]
    y = ring * torch.sin(angle) + torch.tensor(lens["y"])[:, None, None]
    t = light.tensors(values)
    found = LensLight.brightness(x, y, t)
    # A lens without ellipticity gets light that is round, whatever its angle.
    assert torch.allclose(found, t["contrast"][:, None, None].expand_as(found), rtol=1e-9)


def test_light_is_about_as_round_and_turned_as_the_mass(drawn):
    lens = masses(400)
    values = drawn(LensLight(), 400, lens)
    axis_ratio = [
        (1 - np.hypot(v["e1"], v["e2"])) / (1 + np.hypot(v["e1"], v["e2"])) for v in (lens, values)
    ]
    inside = (axis_ratio[0] < 0.85) & (axis_ratio[0] > 0.45)
    assert (axis_ratio[1] - axis_ratio[0])[inside].std() == pytest.approx(0.08, abs=0.015)
    turned = np.angle((values["e1"] + 1j * values["e2"]) / (lens["e1"] + 1j * lens["e2"])) / 2
    oblong = np.hypot(values["e1"], values["e2"]) > 0.02
    assert np.rad2deg(turned[oblong]).std() == pytest.approx(10, abs=1.5)
    assert np.median(values["R_sersic"] / lens["theta_E"]) == pytest.approx(1.5, rel=0.06)
    assert (values["disc_share"] > 0).mean() == pytest.approx(0.5, abs=0.08)


def test_residuals_are_as_large_as_asked_for_and_larger_in_the_centre(light, drawn):
    lens_light = LensLight(residual_moments=0)
    t = light.tensors(drawn(lens_light, 200))
    ones = torch.ones(200, 60, 60, dtype=torch.float64)
    left = lens_light.left(ones, *GRID, t, psf_fwhm=0.1)
    r = torch.hypot(GRID[0] - t["x"][:, None, None], GRID[1] - t["y"][:, None, None])
    assert float(left[r > 0.6].std()) == pytest.approx(0.01, rel=0.05)
    assert float(left[r < 0.1].std()) == pytest.approx(0.05, rel=0.2)


def test_residuals_have_a_dipole_and_a_quadrupole(light, drawn):
    lens_light = LensLight(residual=0, residual_centre=0)
    t = light.tensors(drawn(lens_light, 3, {**masses(3), "x": np.zeros(3), "y": np.zeros(3)}))
    t["x"], t["y"] = 0 * t["x"], 0 * t["y"]
    left = lens_light.left(torch.ones(3, 60, 60, dtype=torch.float64), *GRID, t, 0.1)
    odd, even = (left - left.flip(1, 2)) / 2, (left + left.flip(1, 2)) / 2
    cos = GRID[0] / torch.hypot(*GRID)
    assert torch.allclose(2 * (odd * cos).mean((1, 2)), t["dipole_x"], atol=1e-9)
    cos2 = 2 * cos**2 - 1
    found = (even * cos2).mean((1, 2)) / (cos2**2).mean()
    assert torch.allclose(found, t["quadrupole_1"], atol=1e-9)


def test_fields_are_correlated_as_asked_for(light, drawn):
    t = light.tensors(drawn(LensLight(), 300))
    fields = correlated_field(t, 40, 0.05, 0.2)
    assert float(fields.var()) == pytest.approx(1, abs=0.05)
    for lag in (2, 4, 8):
        found = float((fields[:, :, :-lag] * fields[:, :, lag:]).mean())
        assert found == pytest.approx(np.exp(-((lag * 0.05 / 0.2) ** 2)), abs=0.05)
    opposite = float((fields[:, :, 0] * fields[:, :, -1]).mean())
    assert abs(opposite) < 0.1


def test_residuals_are_the_same_in_every_batch(light, drawn):
    lens_light, values = LensLight(), drawn(LensLight(), 9)
    ones = torch.ones(9, 60, 60)
    together = lens_light.left(ones, *GRID, light.tensors(values, torch.float32), 0.1)
    for some in ([0], [5, 2, 8]):
        alone = light.tensors({k: v[some] for k, v in values.items()}, torch.float32)
        assert torch.equal(lens_light.left(ones[some], *GRID, alone, 0.1), together[some])


def test_the_centre_is_masked_only_where_the_light_is_subtracted(light, drawn):
    lens_light = LensLight(mask_radius=0.4, x=0, y=0)
    t = light.tensors(drawn(lens_light, 2))
    kept = lens_light.outside(*GRID, t)
    area = (1 - kept).sum((1, 2)) * 0.05**2
    assert area.numpy() == pytest.approx([np.pi * 0.4**2] * 2, rel=0.05)
    assert LensLight(mode="present").outside(*GRID, t).min() == 1


def test_no_light_has_no_parameters(drawn):
    assert drawn(LensLight(mode="none")) == {}
    assert set(drawn(LensLight(mode="present"))) == set(LensLight.UNITS)


def test_nonsense_is_refused():
    with pytest.raises(InputError, match="contrast must not be negative"):
        LensLight(contrast=-1)
    with pytest.raises(InputError, match="mode"):
        LensLight(mode="half")
