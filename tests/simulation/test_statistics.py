"""Parameter draws and noise against the distributions that are stated for them."""

import numpy as np
import pytest
import torch
from scipy import stats

from haloformer.simulation import Simulator, draw_scenes, get_survey, rng
from haloformer.simulation.distributions import LogUniform, Normal, PowerLaw, Uniform
from haloformer.simulation.instruments import background_rms


def test_philox_reproduces_the_published_test_vectors():
    def words(counter, key):
        out = rng.philox4x32(tuple(np.array([c], dtype=np.uint64) for c in counter), key)
        return [int(w[0]) for w in out]

    assert words((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert words((ones,) * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert words(pi, (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.fixture(scope="module")
def draws():
    survey = get_survey("model_i")
    numbers = np.arange(9000)
    return draw_scenes(survey, numbers % 3, numbers // 3, 12, survey.class_names)


def test_parameters_follow_their_stated_distributions(draws):
    def p_value(values, cdf):
        return stats.kstest(values, cdf).pvalue

    axion, cdm = draws.label == 0, draws.label == 1
    mass = draws.subhalo_mass[cdm].ravel()
    radius = np.hypot(draws.subhalo_x, draws.subhalo_y)[cdm].ravel()
    phi = np.arctan2(draws.subhalo_x, draws.subhalo_y)[cdm].ravel() % (2 * np.pi)
    checks = {
        "source_x": p_value(draws.source_x, stats.uniform(-0.35, 0.7).cdf),
        "source_y": p_value(draws.source_y, stats.uniform(-0.35, 0.7).cdf),
        "exposure": p_value(np.log10(draws.exposure_time), stats.uniform(3, 0.5).cdf),
        "axion": p_value(draws.log10_m_axion[axion], stats.uniform(-24, 2).cdf),
        "angle": p_value(draws.vortex_angle[axion], stats.uniform(0, 2 * np.pi).cdf),
        "mass": p_value((mass**0.1 - 1e6**0.1) / (1e10**0.1 - 1e6**0.1), stats.uniform.cdf),
        "radius": p_value(radius, stats.uniform(0.25, 1.75).cdf),
        "phi": p_value(phi, stats.uniform(0, 2 * np.pi).cdf),
    }
    assert min(checks.values()) > 1e-4, checks
    assert mass.reshape(-1, 25).sum(axis=1).mean() == pytest.approx(3.8e10, rel=0.03)


def test_quantities_of_one_image_are_uncorrelated(draws):
    cdm = draws.label == 1
    columns = np.stack(
        [
            draws.source_x[cdm],
            draws.source_y[cdm],
            np.log(draws.exposure_time[cdm]),
            *np.log(draws.subhalo_mass[cdm, :4].T),
        ]
    )
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(cdm.sum())


def test_substructure_parameters_are_nan_exactly_where_they_do_not_apply(draws):
    for label, vortex, subhalos in ((0, True, False), (1, False, True), (2, False, False)):
        rows = draws.label == label
        assert (np.isfinite(draws.log10_m_axion[rows]) == vortex).all()
        assert (np.isfinite(draws.subhalo_mass[rows]) == subhalos).all()
    assert draws.vortex_half_length[draws.label == 0].min() == pytest.approx(0.03, rel=0.01)
    assert draws.vortex_half_length[draws.label == 0].max() == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [
        (Uniform(-1, 2), stats.uniform(-1, 3)),
        (LogUniform(1e-2, 1e3), stats.loguniform(1e-2, 1e3)),
        (Normal(3, 0.5), stats.norm(3, 0.5)),
    ],
)
def test_quantiles_match_scipy(distribution, reference):
    u = np.linspace(0.001, 0.999, 101)
    assert np.allclose(distribution.quantile(u), reference.ppf(u), rtol=1e-12)


def test_a_power_law_has_its_slope():
    u = (np.arange(200_000) + 0.5) / 200_000
    x = PowerLaw(1.0, 100.0, -1.9).quantile(u)
    counts, edges = np.histogram(x, bins=np.geomspace(1.0, 100.0, 12))
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(counts / np.diff(edges)), 1)[
        0
    ]
    assert slope == pytest.approx(-1.9, abs=0.02)


def _standardised(survey, noise, backend, count):
    """Noisy images and, pixel by pixel, the noise-free ones; with the total exposure of each."""
    noisy = Simulator(survey, classes=["no_sub"], seed=8, noise=noise, backend=backend).batch(
        range(count)
    )
    clean = (
        Simulator(survey, classes=["no_sub"], seed=8, noise="none", backend=backend)
        .batch(range(count))
        .images[:, 0]
        .double()
    )
    seconds = noisy.parameters["exposure_time"] * get_survey(survey).instrument.num_exposures
    return noisy.images[:, 0].double(), clean, torch.as_tensor(seconds)[:, None, None]


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("survey", ["model_i", "model_ii", "model_iii"])
def test_instrument_noise_has_the_mean_and_variance_of_its_formula(survey, backend):
    noisy, clean, seconds = _standardised(
        survey, "instrument", backend, 3 if survey == "model_i" else 12
    )
    rms = background_rms(get_survey(survey).instrument)
    pull = ((noisy - clean) / torch.sqrt(rms**2 + clean / seconds)).numpy().ravel()
    n = pull.size
    assert abs(pull.mean()) < 5 / np.sqrt(n)
    assert abs(pull.var() - 1) < 5 * np.sqrt(3 / n)
    bright = (clean > 0.3 * clean.max()).numpy().ravel()
    assert abs(pull[bright].var() - 1) < 5 * np.sqrt(3 / bright.sum())


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_model_i_noise_is_poisson_twice_on_clipped_counts(backend):
    noisy, clean, seconds = _standardised("model_i", "original", backend, 6)
    assert (noisy == noisy.round()).all()
    assert (noisy >= 0).all()
    zeros = (noisy == 0).double().mean(dim=(1, 2))
    assert 0.40 < zeros.mean() < 0.47
    assert ((zeros > 0.36) & (zeros < 0.49)).all()
    expected, sigma = (clean * seconds).numpy(), (0.01 * seconds).numpy()
    # Where the background cannot reach zero, nothing is clipped: mean m, variance m (Poisson) + (0.01 T)² + m (Poisson again).
    safe = expected > 5 * np.sqrt(expected + sigma**2)
    assert safe.sum() > 1000
    pull = ((noisy.numpy() - expected) / np.sqrt(2 * expected + sigma**2))[safe]
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    assert abs(pull.var() - 1) < 5 * np.sqrt(3 / pull.size)
    # In the dark, half the background is clipped: what remains has the mean of a half-normal and its variance plus its mean.
    dark = expected < 1e-3
    ratio = noisy.numpy()[dark] / np.broadcast_to(sigma, expected.shape)[dark]
    assert ratio.mean() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=0.02)


def test_models_ii_and_iii_as_released_are_twice_the_noise_free_image():
    for survey in ("model_ii", "model_iii"):
        original, none = (
            Simulator(survey, seed=3, noise=noise).batch(range(6)).images
            for noise in ("original", "none")
        )
        assert torch.equal(original, 2 * none)


@pytest.mark.parametrize("mean", [0.003, 0.7, 6.2, 9.99, 10.01, 63.5, 254.9, 255.5, 700.0])
@pytest.mark.parametrize("backend", ["numba", "sorted", "torch", "fused"])
def test_poisson_draws_follow_the_poisson_distribution(backend, mean):
    images, words = np.full((4, 150, 150), mean), np.arange(4, dtype=np.uint64)
    images = with_noise(backend, images, words, 0.0)
    counts = np.bincount(images.astype(int).ravel())
    expected = stats.poisson.pmf(np.arange(len(counts)), mean) * images.size
    common = expected > 10
    chi2 = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    assert stats.chi2.sf(chi2, common.sum() - 1) > 1e-5 or common.sum() == 1
    assert images.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / images.size))


@pytest.mark.parametrize("backend", ["numba", "sorted", "torch", "fused"])
def test_the_background_is_normal(backend):
    images = with_noise(backend, np.zeros((2, 300, 300)), np.array([1, 2], dtype=np.uint64), 1.0)
    assert stats.kstest(images.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("backend", ["numba", "sorted", "torch", "fused"])
def test_noise_of_model_i_is_that_of_its_recipe(backend):
    """Against NumPy's own draws: pixels whose mean is negative, small and large before the second Poisson."""
    rng, rms, shape = np.random.default_rng(8), 4.0, (8, 200, 200)
    for mean in (0.01, 3.0, 40.0):
        words = np.arange(8, dtype=np.uint64) + 77
        ours = with_noise(backend, np.full(shape, mean), words, rms, twice=True)
        before = rng.poisson(mean, shape) + rng.normal(0, rms, shape)
        theirs = rng.poisson(np.maximum(before, 0))
        counts = np.stack(
            [
                np.bincount(np.minimum(each.astype(int).ravel(), 80), minlength=81)
                for each in (ours, theirs)
            ]
        )
        counts = counts[:, counts.sum(0) > 20]
        assert stats.chi2_contingency(counts).pvalue > 1e-5


def with_noise(backend, images, words, rms, twice=False):
    """Images (B, H, W) exposed for a second, with the noise of the kernel or the function of this name."""
    from haloformer.simulation import noise_kernels
    from haloformer.simulation.fused_noise import noisy_pixels
    from haloformer.simulation.noise import add_noise

    kernels = {"numba": noise_kernels.add_noise, "sorted": noise_kernels.add_sorted_noise}
    ones = np.ones(len(images))
    if backend in kernels:
        images = images.copy()
        kernels[backend](images, words, ones, rms, twice, *noise_kernels.noise_tables())
        return images
    images = torch.as_tensor(images)
    if backend == "torch":
        return add_noise(images, words, torch.as_tensor(ones), rms, twice=twice).numpy()
    pixel = torch.arange(images[0].numel())[None]
    low, seconds = torch.as_tensor(words.astype(np.int64))[:, None], torch.as_tensor(ones)[:, None]
    rms = torch.tensor(rms, dtype=torch.float64)
    noisy = noisy_pixels(images.flatten(1), pixel, low, 0 * low, seconds, rms, twice)
    return noisy.reshape(images.shape).numpy()
