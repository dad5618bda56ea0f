"""The evidence of a real lens: it is what Gaussian statistics say, its slopes are exact, and compiled loops are the matrices that they stand for."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize, stats

from haloformer.errors import InputError
from haloformer.fitting.reallens import (
    errors,
    evidence,
    hyperparameters,
    operators,
    optimise,
    source_prior,
)
from haloformer.fitting.reallens.correlation import whitening
from haloformer.fitting.reallens.masses import Mass, mass_profiles
from haloformer.fitting.reallens.optimise import fit_at, improve

SMOOTHNESS = source_prior.Smoothness(0.4, 0.2, 0.05)
FULL = {
    "theta_E": 0.8, "gamma": 2.1, "e1": 0.05, "e2": -0.03, "x": 0.013, "y": -0.02, "gamma1": 0.03, "gamma2": 0.02,
    "a1_cos": 0.004, "a1_sin": -0.003, "a3_cos": 0.002, "a3_sin": 0.005, "a4_cos": 0.01, "a4_sin": -0.002,
    "perturber_m": 0.01, "perturber_x": 0.71, "perturber_y": 0.33,
}  # fmt: skip


def problem(mass, n=16, rays=2):
    rng = np.random.default_rng(1)
    axis = (np.arange(n) - (n - 1) / 2) * 0.15
    distance = np.hypot(axis[:, None], axis[None, :])
    psf = np.exp(-(np.arange(-2, 3)[:, None] ** 2 + np.arange(-2, 3)[None, :] ** 2) / 2)
    noise = rng.uniform(0.02, 0.05, (n, n))
    camera = operators.Camera.of(
        (distance < 1.1) & (distance > 0.2), noise, psf / psf.sum(), 0.15, rays
    )
    data = rng.normal(size=camera.blur.shape[0])
    light = camera.observe(
        np.stack([np.exp(-(camera.x**2 + camera.y**2)), np.ones_like(camera.x)], 1)
    )
    return evidence.Problem(camera, data, light, mass)


def source(side=6):
    fine = operators.SourceGrid(0.03, -0.02, side, 0.09)
    return operators.Source(fine, operators.SourceGrid(0.03, -0.02, 5, 0.2))


def vector(mass):
    return np.array([FULL[name] for name in mass.names])


def test_the_evidence_is_that_of_gaussian_data_of_this_covariance():
    one, grids = problem(Mass()), source()
    one = dataclasses.replace(one, data=one.data + 3 * one.light[:, 0])  # light that is there
    normal = evidence.normal_equations(one, grids, vector(one.mass))
    found = evidence.solve(normal, grids, SMOOTHNESS)
    root = normal.A @ source_prior.root_of_covariance(grids, SMOOTHNESS)
    covariance = np.eye(len(one.data)) + root @ root.T + one.light @ one.light.T
    direct = -2 * stats.multivariate_normal(cov=covariance).logpdf(one.data)
    assert found.evidence == pytest.approx(direct - len(one.data) * np.log(2 * np.pi), rel=1e-9)
    # and the source is the mean of what the data leave
    mean = root @ root.T @ np.linalg.solve(covariance, one.data)
    np.testing.assert_allclose(normal.A @ found.source, mean, atol=1e-8 * np.abs(mean).max())


def with_eaten_ring(mass):
    """A problem whose data are a ring, and Gaussians that of either sign could make one."""
    one = problem(mass)
    square = one.camera.x**2 + one.camera.y**2
    light = one.camera.observe(
        np.stack(
            [*(np.exp(-square / (2 * s**2)) for s in (0.3, 0.5, 0.8)), np.ones_like(square)], 1
        )
    )
    ring = one.camera.observe(np.exp(-((np.sqrt(square) - 0.8) ** 2) / 0.05)[:, None])[:, 0]
    return dataclasses.replace(one, light=light, data=2 * ring + one.data)


def test_the_light_of_the_lens_is_not_negative_and_the_best_that_is_not():
    one, grids = with_eaten_ring(Mass()), source()
    normal = evidence.normal_equations(one, grids, vector(one.mass))
    found = evidence.solve(normal, grids, SMOOTHNESS)
    root = normal.A @ source_prior.root_of_covariance(grids, SMOOTHNESS)
    columns = np.concatenate([root, one.light], axis=1)
    n = columns.shape[1]
    stacked = np.concatenate([columns, np.eye(n)])
    data = np.concatenate([one.data, np.zeros(n)])
    low = np.full(n, -np.inf)
    low[-one.light.shape[1] : -1] = 0  # the last is the background, of either sign
    direct = optimize.lsq_linear(stacked, data, (low, np.inf), tol=1e-13)
    assert (np.linalg.lstsq(stacked, data)[0][-4:-1] < -0.1).any()
    assert (found.light[:-1] >= 0).all()
    np.testing.assert_allclose(found.light, direct.x[-4:], atol=1e-5 * np.abs(direct.x).max())
    np.testing.assert_allclose(normal.A @ found.source, root @ direct.x[:-4], atol=1e-3)
    _, determinant = np.linalg.slogdet(np.eye(n) + columns.T @ columns)
    assert found.evidence == pytest.approx(2 * direct.cost + determinant, rel=1e-6)


def test_slopes_are_exact_where_light_would_be_negative():
    one, grids = with_eaten_ring(Mass()), source()
    at = vector(one.mass)
    gradient = fit_at(one, grids, at, SMOOTHNESS).slope().gradient
    for k, name in enumerate(one.mass.names):
        step = 1e-5 * np.eye(len(at))[k]
        ends = [fit_at(one, grids, at + s * step, SMOOTHNESS).solution.evidence for s in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-5
        assert gradient[k] == pytest.approx(expected, rel=1e-3, abs=1e-5 * np.abs(gradient).max()), name  # fmt: skip


@pytest.mark.parametrize("profile", ["pseudo_jaffe", "tnfw", "point"])
def test_the_slopes_of_the_evidence_are_those_of_finite_differences(profile):
    mass = Mass(multipoles=True, perturber=profile, z_lens=0.3, z_source=1.0)
    one, grids, at = problem(mass), source(), vector(mass)
    fit = fit_at(one, grids, at, SMOOTHNESS)
    gradient = fit.slope().gradient
    for k, name in enumerate(mass.names):
        ends = []
        for step in (1e-5, -1e-5):
            moved = at.copy()
            moved[k] += step
            ends.append(fit_at(one, grids, moved, SMOOTHNESS).solution.evidence)
        scale = np.abs(gradient).max()
        assert gradient[k] == pytest.approx(
            (ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-5 * scale
        ), name


def test_compiled_loops_are_the_sparse_products_that_they_stand_for(monkeypatch):
    pytest.importorskip("numba")
    one, grids = problem(Mass()), source()
    camera = one.camera
    splines = grids.splines(*one.mass.source_positions(camera.x, camera.y, vector(one.mass)))
    compiled = operators.response(camera, splines)
    adjoint = np.random.default_rng(2).normal(size=compiled.shape)
    first = grids.fine.size
    slopes = operators.determinant_slope(camera, splines[1], adjoint, first)
    monkeypatch.setattr(operators, "has_numba", lambda: False)
    np.testing.assert_allclose(operators.response(camera, splines), compiled, atol=1e-12)
    others = operators.determinant_slope(camera, splines[1], adjoint, first)
    for found, other in zip(slopes, others):
        np.testing.assert_allclose(found, other, atol=1e-10)
    assert np.abs(slopes[0]).max() > 0.1


def test_a_step_never_makes_the_evidence_worse_and_the_mass_of_a_perturber_stays_positive():
    mass = Mass(perturber="point")
    one, grids = problem(mass), source()
    at = vector(mass)
    at[mass.names.index("perturber_m")] = 1e-4
    begun = fit_at(one, grids, at, SMOOTHNESS)
    ended = improve(begun, 6)
    assert ended.evidence < begun.evidence
    assert ended.value("perturber_m") > 0


def test_deflections_are_those_of_the_profiles_that_are_written_for_lenstronomy():
    lens_model = pytest.importorskip("lenstronomy.LensModel.lens_model")
    mass = Mass(multipoles=True, perturber="pseudo_jaffe")
    profiles = mass_profiles(mass, vector(mass))
    model = lens_model.LensModel([name for name, _ in profiles])
    x, y = np.random.default_rng(4).uniform(-1.5, 1.5, (2, 200))
    expected = model.alpha(x, y, [keywords for _, keywords in profiles])
    for found, other in zip(mass.deflection(x, y, vector(mass)), expected):
        np.testing.assert_allclose(found, other, atol=1e-8)


def test_the_brightness_of_a_source_and_its_slope_fall_to_nothing_at_the_border():
    grid = operators.SourceGrid(0.0, 0.0, 6, 0.1)
    coefficients = np.random.default_rng(5).normal(size=36)
    edge = np.array([(6 + 3) / 2 * 0.1])
    for way in (1 - 1e-6, 1 + 1e-6):
        splines = grid.splines(way * edge, 0 * edge)
        assert abs((splines @ coefficients)[0]) < 1e-9
        assert abs(splines.gradient(coefficients)[0][0]) < 1e-3


def test_what_a_mass_model_cannot_be_is_refused():
    with pytest.raises(InputError, match="known are pseudo_jaffe, tnfw, point"):
        Mass(perturber="nfw")
    with pytest.raises(InputError, match="z_lens and z_source"):
        Mass(perturber="tnfw")
    assert dataclasses.replace(Mass(), perturber="point").solar_masses(0.01) is None


def test_a_fine_camera_blurs_between_the_pixels_as_the_simulation_does():
    """Rays are convolved, then averaged: what a camera of the simulation does of the same rays."""
    import torch

    from haloformer.simulation.psf import bin_pixels, convolve_kernel

    mask = np.zeros((12, 13), bool)
    mask[3:9, 4:10] = True
    at = np.arange(-3, 4)
    psf = np.exp(-((at[:, None] - 0.4) ** 2 + at[None, :] ** 2) / 3)  # not symmetric
    psf /= psf.sum()
    noise = np.random.default_rng(3).uniform(0.5, 2, mask.shape)
    camera = operators.Camera.fine(mask, noise, psf, 0.1, 2)
    bright = np.random.default_rng(4).random((24, 26))
    axis_x, axis_y = ((np.arange(n) - (n - 1) / 2) * 0.05 for n in (26, 24))
    column, row = (
        np.searchsorted(axis, at - 1e-9) for axis, at in ((axis_x, camera.x), (axis_y, camera.y))
    )
    found = camera.observe(bright[row, column])
    blurred = convolve_kernel(torch.from_numpy(bright)[None], psf)
    wanted = bin_pixels(blurred, 2)[0].numpy() / noise
    np.testing.assert_allclose(found, wanted[mask], rtol=1e-9)
    np.testing.assert_allclose(
        operators.Camera.fine(mask, noise, np.ones((1, 1)), 0.1, 2).observe(
            np.ones(4 * mask.sum())
        ),
        1 / noise[mask],
    )


def test_noise_that_is_made_white_leaves_slopes_exact_and_pixels_as_they_are():
    mass = Mass()
    plain = problem(mass)
    camera = plain.camera.whitened(whitening(plain.camera.mask, 0.15))
    light = camera.white @ plain.light
    one = dataclasses.replace(plain, camera=camera, light=light, data=camera.white @ plain.data)
    grids, at = source(), vector(mass)

    def value(moved):
        return evidence.solve(
            evidence.normal_equations(one, grids, moved), grids, SMOOTHNESS
        ).evidence

    normal = evidence.normal_equations(one, grids, at)
    found = evidence.slope(one, grids, at, normal, evidence.solve(normal, grids, SMOOTHNESS))
    for k, name in enumerate(mass.names):
        step = np.zeros(len(at))
        step[k] = 1e-5
        numerical = (value(at + step) - value(at - step)) / 2e-5
        assert found.gradient[k] == pytest.approx(numerical, rel=2e-3, abs=0.05), name
    # and the pixels of the model are the same
    A = plain.camera.in_pixels(evidence.normal_equations(plain, grids, at).A)
    np.testing.assert_allclose(camera.in_pixels(normal.A), A, atol=1e-9 * np.abs(A).max())


@pytest.mark.parametrize("rays", [1, 2])
def test_light_from_beyond_the_border_reaches_the_pixels_within(rays):
    """Of an even sky each pixel has the same, those at the border too."""
    mask, noise = np.ones((9, 7), bool), np.full((9, 7), 0.5)
    psf = np.exp(-np.hypot(*np.mgrid[-2:3, -3:2])) + 0.01
    for made in (operators.Camera.of, operators.Camera.fine):
        camera = made(mask, noise, psf / psf.sum(), 0.1, rays)
        np.testing.assert_allclose(camera.observe(np.ones_like(camera.x)), 2.0)
        # and a slope lies where it is: the kernel's light is off its middle by −1 along x
        moved = camera.observe(camera.x)[31] / 2.0
        x = (31 % 7 - 3) * 0.1
        centre = float((psf * np.arange(-2, 3)[None, :]).sum() / psf.sum())
        step = 0.1 if made == operators.Camera.of else 0.1 / rays
        assert moved == pytest.approx(x - step * centre, abs=1e-12)


@pytest.mark.parametrize("reach", [None, 0.2])
@pytest.mark.parametrize("even", [False, True])
def test_slopes_by_the_hyper_parameters_are_those_of_finite_differences(even, reach):
    one = problem(Mass())
    fine = operators.SourceGrid(0.03, -0.02, 7, 0.09, reach)
    grids = operators.Source(fine, operators.SourceGrid(0.03, -0.02, 5, 0.2))
    one = dataclasses.replace(one, data=one.data + 3 * one.light[:, 0])
    normal = evidence.normal_equations(one, grids, vector(one.mass))
    full = source_prior.Smoothness(0.4, 0.2, 0.05, 0.3, 0.04, -0.06, 0.5, -0.3, 0.6)
    at = dataclasses.replace(full, extent=np.inf) if even else full
    solution = evidence.solve(normal, grids, at)
    inverse = evidence.inverse_of(solution)
    found = source_prior.evidence_slope(grids, at, solution.whitened, inverse)
    names = [each.name for each in dataclasses.fields(at)][: 3 if even else 9]
    assert len(found) == len(names)
    for name, slope in zip(names, found):
        value, step = getattr(at, name), 1e-4
        ends = []
        for way in (step, -step):
            logarithmic = name in ("amplitude", "length", "faint", "extent", "power")
            moved = value * np.exp(way) if logarithmic else value + way
            ends.append(evidence.solve(normal, grids, dataclasses.replace(at, **{name: moved})))
        assert slope == pytest.approx(
            (ends[0].evidence - ends[1].evidence) / (2 * step), rel=1e-4, abs=1e-4
        ), name


def test_a_round_envelope_is_the_limit_of_one_that_is_nearly_round():
    grid = operators.SourceGrid(0.0, 0.0, 7, 0.09)
    at = source_prior.Smoothness(1.0, 0.2, 0.05, 0.3, 0.04, -0.06)
    round_, nearly = (
        source_prior._radius(grid, dataclasses.replace(at, stretch_1=stretch))
        for stretch in (0.0, 2e-3)
    )
    np.testing.assert_allclose(round_[0], nearly[0], rtol=2e-3)
    for one, other in zip(round_[1], nearly[1]):
        np.testing.assert_allclose(one, other, atol=3e-3)


def test_splines_that_are_wider_apart_outwards_have_exact_slopes_and_lie_where_their_axis_says():
    grid = operators.SourceGrid(0.1, -0.2, 12, 0.05, 0.1)
    assert grid.half == pytest.approx(0.1 * np.sinh(6.5 * 0.5))
    assert np.diff(grid.axis())[5] == pytest.approx(0.05, rel=0.02)
    coefficients = np.random.default_rng(6).normal(size=grid.size)
    x, y = 0.1 + np.linspace(-1, 1, 41), -0.2 + np.linspace(0.9, -0.7, 41)
    ends = [grid.splines(x + way, y) @ coefficients for way in (1e-6, -1e-6)]
    slope, _ = grid.splines(x, y).gradient(coefficients)
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, atol=1e-5)
    # one coefficient alone is brightest where it lies
    alone = np.zeros((12, 12))
    alone[9, 3] = 1.0
    at = 0.1 + grid.axis()[3] + np.linspace(-0.02, 0.02, 81)
    bright = grid.splines(at, np.full(81, -0.2 + grid.axis()[9])) @ alone.ravel()
    assert np.argmax(bright) == 40


def test_the_sources_variance_falls_outwards_by_the_extent_and_an_even_one_stays_even():
    one, grids = problem(Mass()), source(side=9)
    even = source_prior.Smoothness(0.4, 0.2, 0.05)
    falling = dataclasses.replace(even, extent=0.15)
    moved = dataclasses.replace(falling, x=0.18, y=-0.09, stretch_1=np.log(2))  # axis ratio 1/2
    fine = grids.parts()[0]
    deviations = []
    for smoothness in (even, falling, moved):
        root = source_prior.root_of_covariance(grids, smoothness)
        deviations.append(np.sqrt((root @ root.T).diagonal()[fine]).reshape(9, 9))
    np.testing.assert_allclose(deviations[0], 0.4, rtol=1e-5)

    def expected(rows, columns):  # in steps; flat within half a step
        return 0.4 * np.exp(-np.sqrt(rows**2 + columns**2 + 0.25) * grids.fine.step / 0.15)

    assert deviations[1][4, 4] == pytest.approx(expected(0, 0), rel=1e-5)
    assert deviations[1][4 + 3, 4 - 2] == pytest.approx(expected(3, 2), rel=1e-5)
    # about column 6, row 3: half as wide along the rows as along the columns, of the same area
    for row, column in ((3, 6), (3, 0), (8, 6), (7, 2)):
        wide = expected((row - 3) * np.sqrt(2), (column - 6) / np.sqrt(2))
        assert deviations[2][row, column] == pytest.approx(wide, rel=1e-5)
    normal = evidence.normal_equations(one, grids, vector(one.mass))
    lengths = (0.05, 2.0)
    begun = [evidence.solve(normal, grids, each).evidence for each in (even, falling)]
    found = hyperparameters.best_smoothness(normal, grids, even, begun[0], lengths)
    assert found.extent == np.inf
    better = hyperparameters.best_smoothness(normal, grids, falling, begun[1], lengths)
    low, high = hyperparameters.extents_of(grids)
    assert low <= better.extent <= high
    solved = [evidence.solve(normal, grids, each).evidence for each in (falling, better)]
    assert solved[1] < solved[0]


def test_errors_that_hold_the_hyper_parameters_are_those_of_the_evidences_second_derivatives():
    one = problem(Mass())
    fine = operators.SourceGrid(0.03, -0.02, 7, 0.09)
    grids = operators.Source(fine, operators.SourceGrid(0.03, -0.02, 5, 0.2))
    at = source_prior.Smoothness(0.4, 0.2, 0.05, 0.3, 0.04, -0.06, 0.5, -0.3, 0.8)
    fit = optimise.fit_at(one, grids, vector(one.mass), at)
    fixed, joint = optimise.covariance(fit), errors.joint_covariance(fit)
    assert np.linalg.eigvalsh(joint - fixed).min() > -1e-12
    assert np.diag(joint).max() > np.diag(fixed).max()
    # What one hyper-parameter adds to the curvature, by values of the evidence alone
    step, K = 1e-3, len(fit.vector)

    def value(move, smoothness):
        return optimise.fit_at(one, grids, fit.vector + move, smoothness).solution.evidence

    moved = {name: errors._moved(at, name) for name in ("extent", "x", "power")}
    for name, ends in moved.items():
        by_both = [
            (value(step * row, ends[1]) - value(-step * row, ends[1])
             - value(step * row, ends[0]) + value(-step * row, ends[0]))
            / (2 * step * 2 * errors._STEP)
            for row in np.eye(K)
        ]  # fmt: skip
        slopes = [errors._slopes(fit, end)[0] for end in ends]
        found = (slopes[1] - slopes[0]) / (2 * errors._STEP)
        np.testing.assert_allclose(
            found, by_both, rtol=2e-2, atol=2e-2 * np.abs(by_both).max(), err_msg=name
        )


@pytest.mark.parametrize(("last", "rounds"), [(True, 2), (False, 5)])
def test_a_fit_that_has_not_converged_goes_on_though_it_gains_little(monkeypatch, last, rounds):
    done = []

    def improved(fit, steps, tolerance, report):
        done.append(fit)
        return SimpleNamespace(evidence=fit.evidence - 0.1, converged=last and len(done) > 1)

    monkeypatch.setattr(optimise, "smoothed", lambda fit, lengths: fit)
    monkeypatch.setattr(optimise, "improve", improved)
    begun = SimpleNamespace(evidence=10.0, converged=False)
    found = optimise.settled(begun, (0.1, 1.0), 0.5)
    assert (len(done), found.converged) == (rounds, last)
