"""Where blind fits begin: near the lens, too, where the arcs' light could be brought together more closely by an unusual one."""

import dataclasses
import warnings

import numpy as np
import pytest

from haloformer.fitting.reallens import checked_observation
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.smooth import centred, prepare
from haloformer.fitting.reallens.start import (
    _SOURCES,
    coarse_fits,
    compact_lenses,
    first_light,
    traced_source,
)
from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.components.sersic import Sersic
from haloformer.simulation.psf import psf_kernel
from small_lens import lens

SEED = 2046  # of which lens 0 has two images of a compact source, one of them faint


def two_images():
    """The image as it is prepared for a fit, and the lens's parameters."""
    survey = get_any_survey("hst")
    clumpy = survey.source.light[0]
    smooth = Sersic(R_sersic=clumpy.R, n_sersic=clumpy.n_sersic, q=clumpy.q, angle=clumpy.angle)
    survey = dataclasses.replace(
        survey,
        substructure={"no_sub": ()},
        source=dataclasses.replace(survey.source, light=(smooth,)),
        lens_light=dataclasses.replace(survey.lens_light, mode="present"),
    )
    batch = Simulator(survey, seed=SEED, noise="instrument").batch([0])
    camera = survey.instrument
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise is measured in the corners
        seen = checked_observation(
            batch.images[0, 0].double().numpy(), psf=np.array(psf_kernel(camera)),
            psf_scale=camera.pixel_scale / camera.supersampling, pixel_scale=camera.pixel_scale, radius=1.96,
        )  # fmt: skip
    return prepare(seen, True), {name: values[0] for name, values in batch.parameters.items()}


def test_some_of_the_starts_are_near_the_lens():
    ready, p = two_images()
    mass = centred(Mass(), ready.light)
    true = np.array([p[f"lens_{name}"] for name in ("e1", "e2")] + [p["gamma1"], p["gamma2"]])
    at = [mass.names.index(name) for name in ("e1", "e2", "gamma1", "gamma2")]
    off = {}
    for size in _SOURCES:
        starts = compact_lenses(mass, ready.light, ready.arcs, 2.08, size)
        off[size] = min(float(np.abs(start[at] - true).max()) for start in starts)
    assert off[_SOURCES[0]] > 0.25  # why there are others
    assert min(off.values()) < 0.17


def test_starts_are_the_same_in_any_number_of_threads():
    image, given = lens(lens_light=False)
    ready = prepare(checked_observation(image, **given, radius=1.6), False, supersampling=1)
    problem = ready.problem(centred(Mass(), ready.light))
    vectors = [
        compact_lenses(problem.mass, ready.light, ready.arcs, gamma, 0.1)[0] for gamma in (1.9, 2.2)
    ]
    one, two = (
        coarse_fits(problem, ready.light, ready.arcs, ready.seen, vectors=vectors, threads=threads)
        for threads in (1, 2)
    )
    assert len(one) == 2
    np.testing.assert_array_equal([fit.vector for fit in one], [fit.vector for fit in two])
    evidences = [fit.evidence for fit in two]
    assert evidences == sorted(evidences)


def test_the_fine_grid_reaches_the_light_with_as_many_coefficients_as_pixels_allow():
    ready, p = two_images()
    mass = centred(Mass(), ready.light)
    vector = mass.expected()[0].copy()
    vector[:4] = [p[f"lens_{name}"] for name in ("theta_E", "gamma", "e1", "e2")]
    vector[6:8] = p["gamma1"], p["gamma2"]
    grids = {
        step: traced_source(mass, vector, ready.arcs, ready.seen, step).fine
        for step in (0.05, 0.025, 0.01)
    }
    assert grids[0.05].reach is None  # evenly spaced
    halves = [grid.half - 2 * step for step, grid in grids.items()]
    assert max(halves) - min(halves) < 0.1
    assert grids[0.01].side == 36
    assert grids[0.01].reach < 0.2
    few = dataclasses.replace(ready.seen, mask=ready.seen.mask & (ready.seen.radius() < 1.0))
    small = traced_source(mass, vector, ready.arcs, few, 0.01).fine
    assert small.size <= 0.5 * few.mask.sum()
    even = traced_source(mass, vector, ready.arcs, ready.seen, 0.01, falling=False).fine
    assert even.reach is None
    assert even.half < grids[0.01].half


def test_the_lens_is_sought_about_the_place_that_a_start_says():
    """Where an image of the source outshines it, the brightest light near the middle is not the lens galaxy."""
    Y, X = (np.mgrid[:61, :61] - 30) * 0.05
    image = np.exp(-((X + 0.1) ** 2 + Y**2) / (2 * 0.15**2))
    image += 3 * np.exp(-((X - 0.4) ** 2 + (Y - 0.1) ** 2) / (2 * 0.1**2))
    image += np.random.default_rng(3).normal(0, 0.02, image.shape)
    psf = np.zeros((3, 3))
    psf[1, 1] = 1
    seen = checked_observation(image, psf=psf, noise=0.02, neighbour_correlation=0.0)
    blind, told = first_light(seen, True), first_light(seen, True, (-0.05, 0.02))
    assert (blind.x, blind.y) == pytest.approx((0.4, 0.1), abs=0.05)
    assert (told.x, told.y) == pytest.approx((-0.1, 0.0), abs=0.08)


@pytest.mark.parametrize(
    "hidden", ["its brightest pixels", "beside its centre", "more on one side"]
)
def test_the_lens_is_where_it_is_whatever_of_its_middle_is_masked(hidden):
    """As saturated cores are: what is left of the light must not be taken for all of it."""
    from astropy.io import fits

    from haloformer.trial.run import IMAGES, LENS

    image, psf, noise = (fits.getdata(IMAGES / name).astype(float) for name in LENS)
    y, x = (np.indices(image.shape) - (len(image) - 1) / 2) * 0.05
    masks = {
        "nothing": None,
        "its brightest pixels": image > np.percentile(image, 99),
        "beside its centre": np.hypot(x - 0.1, y + 0.05) < 0.3,
        "more on one side": (x > -0.05) & (np.hypot(x, y) < 0.35),
    }
    whole, left = (
        first_light(
            checked_observation(
                image, psf=psf, noise=noise, mask=masks[name], pixel_scale=0.05, radius=2.1
            ),
            True,
        )
        for name in ("nothing", hidden)
    )
    assert (left.x, left.y) == pytest.approx((whole.x, whole.y), abs=0.02)
    assert left.components[0].q == pytest.approx(whole.components[0].q, abs=0.05)


def test_the_message_about_a_start_file_names_the_option(tmp_path):
    from haloformer.errors import InputError
    from haloformer.fitting.reallens.start_file import read_start

    with pytest.raises(InputError, match=r"--start.*nowhere\.json does not exist"):
        read_start(str(tmp_path / "nowhere.json"))
    with pytest.raises(InputError, match=r"is a folder: name a file, such as its fit\.json"):
        read_start(str(tmp_path))
