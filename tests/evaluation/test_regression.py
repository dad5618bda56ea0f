"""The numbers of a regression's evaluation agree with independent definitions and say what the images can show."""

import json

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from haloformer.errors import InputError
from haloformer.evaluation import regression
from haloformer.io.strict_json import to_json
from haloformer.reporting.interval import Interval, signed_interval, wilson
from haloformer.reporting.style import inline_svg
from haloformer.simulation.substructure import vortex_half_length
from haloformer.simulation.surveys import get_survey


def example(n: int = 400, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Truth, mean, sigma, low, high of an honest Gaussian prediction."""
    rng = np.random.default_rng(seed)
    truth, sigma = rng.uniform(-24, -22, n), rng.uniform(0.05, 0.4, n)
    mean = truth + sigma * rng.normal(size=n)
    return truth, mean, sigma, mean - 1.645 * sigma, mean + 1.645 * sigma


def test_estimates_are_those_of_scikit_learn():
    truth, mean, sigma, low, high = example()
    found = regression.regression_metrics(truth, mean, sigma, low, high)
    assert found["mae"]["value"] == pytest.approx(mean_absolute_error(truth, mean))
    assert found["rmse"]["value"] == pytest.approx(root_mean_squared_error(truth, mean))
    assert found["r2"]["value"] == pytest.approx(r2_score(truth, mean))
    assert found["bias"]["value"] == pytest.approx(np.mean(mean - truth))
    assert found["pull_std"]["value"] == pytest.approx(np.std((mean - truth) / sigma))
    assert found["width"] == pytest.approx(2 * 1.645 * sigma.mean())
    inside = int(((low <= truth) & (truth <= high)).sum())
    assert Interval(**found["coverage"]) == wilson(inside, 400)


def test_predicting_the_mean_of_two_decades_errs_by_half_a_dex():
    truth = np.random.default_rng(0).uniform(-24, -22, 20_000)
    constant = np.full_like(truth, -23.0)
    found = regression.regression_metrics(
        truth, constant, *(np.full_like(truth, np.nan) for _ in range(3))
    )
    assert found["mae_of_mean"] == pytest.approx(0.5, abs=0.005)
    assert found["mae"]["value"] == pytest.approx(found["mae_of_mean"], abs=0.001)
    assert found["r2"]["value"] == pytest.approx(0, abs=0.001)
    assert found["by_bin"][0]["bias"]["value"] == pytest.approx(0.875, abs=0.01)
    assert np.isnan(found["coverage"]["value"])
    assert json.loads(to_json(found))["pull_std"]["value"] is None


def test_bootstrap_intervals_hold_the_true_error_as_often_as_they_say():
    rng = np.random.default_rng(2)
    trials, hits = 300, 0
    for _ in range(trials):
        truth = rng.uniform(-24, -22, 150)
        mean = truth + 0.2 * rng.normal(size=150)
        found = regression.regression_metrics(
            truth, mean, mean, mean, mean, bins=1, n_bootstrap=300
        )["mae"]
        hits += found["low"] <= 0.2 * np.sqrt(2 / np.pi) <= found["high"]
    assert 0.90 <= hits / trials <= 0.985, (
        hits / trials
    )  # 95 %, with 3 binomial deviations and the bootstrap's own bias


def test_bins_hold_every_image_once_and_have_their_own_errors():
    truth, mean, sigma, low, high = example()
    edges = [-24, -23, -22.5, -22]
    truth[:2] = -22, -24  # exactly on the outer edges
    found = regression.regression_metrics(truth, mean, sigma, low, high, bins=edges)["by_bin"]
    assert sum(row["n"] for row in found) == 400
    inside = (truth >= -23) & (truth < -22.5)
    assert found[1]["n"] == inside.sum()
    assert found[1]["mae"]["value"] == pytest.approx(np.abs(mean - truth)[inside].mean())
    assert found[1]["coverage"]["value"] == pytest.approx(
        ((low <= truth) & (truth <= high))[inside].mean()
    )


def test_empty_bins_and_single_images_give_nan_and_not_an_error():
    truth, mean, sigma, low, high = (x[:1] for x in example())
    found = regression.regression_metrics(truth, mean, sigma, low, high, bins=[-30, -25, -20])
    assert found["n"] == 1
    assert np.isnan(found["r2"]["value"])
    assert found["by_bin"][0]["n"] == 0
    assert np.isnan(found["by_bin"][0]["mae"]["value"])


def test_one_image_has_values_without_intervals():
    of_one = regression.regression_metrics(*(x[:1] for x in example()), bins=1)
    for part in (of_one, of_one["by_bin"][0]):
        for name in ("mae", "rmse", "bias"):
            assert np.isfinite(part[name]["value"])
            assert np.isnan([part[name]["low"], part[name]["high"]]).all()
    assert np.isnan(of_one["pull_std"]["value"])
    few = regression.regression_metrics(*(x[:9] for x in example()), bins=[-24, -23.9, -22])
    assert few["mae"]["low"] < few["mae"]["value"] < few["mae"]["high"]
    assert signed_interval(Interval(**of_one["mae"])) == f"{of_one['mae']['value']:.3f}"


@pytest.mark.parametrize("bins", [0, [-22, -24], [[-24, -22]]])
def test_bins_that_make_no_sense_are_refused(bins):
    with pytest.raises(InputError, match="increasing order"):
        regression.regression_metrics(*example(), bins=bins)


def test_images_without_a_true_value_are_left_out():
    truth, mean, sigma, low, high = example()
    gaps = truth.copy()
    gaps[::2] = np.nan
    whole = regression.regression_metrics(*(x[1::2] for x in (truth, mean, sigma, low, high)))
    assert regression.regression_metrics(gaps, mean, sigma, low, high) == whole
    with pytest.raises(InputError, match="no image has a true value"):
        regression.regression_metrics(np.full(3, np.nan), *[np.zeros(3)] * 4)
    with pytest.raises(InputError, match="not finite"):
        regression.regression_metrics(truth, mean * np.nan, sigma, low, high)


def test_honest_sigmas_cover_what_they_say_at_every_level():
    truth, mean, sigma, *_ = example(5000)
    levels = np.array([0.1, 0.5, 0.9, 0.99])
    for level, found in zip(levels, regression.sigma_coverage(truth, mean, sigma, levels)):
        assert found.value == pytest.approx(level, abs=0.03)
    halved = regression.sigma_coverage(truth, mean, sigma / 2, levels)
    assert halved[2].value == pytest.approx(2 * norm.cdf(1.645 / 2) - 1, abs=0.03)


# --- what the images can show -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pixel"), [("model_i", -22.222), ("model_ii", -22.527), ("model_iii", -22.426)]
)
def test_the_resolution_floor_is_where_the_vortex_is_as_long_as_a_pixel(name, pixel):
    floor = regression.resolution_floor(name)
    camera = get_survey(name).instrument
    assert floor["pixel"] == pytest.approx(pixel, abs=0.001)
    assert vortex_half_length(np.array(floor["pixel"])) == pytest.approx(camera.pixel_scale)
    assert vortex_half_length(np.array(floor["psf"])) == pytest.approx(camera.psf_fwhm)


def test_model_i_loses_the_mass_in_noise_near_1e_23_ev():
    assert regression.noise_limit("model_i", "original", n=6) == pytest.approx(-23.1, abs=0.15)


def test_less_noise_shows_shorter_vortices_and_no_noise_has_no_limit():
    euclid, hubble = (
        regression.noise_limit(name, "instrument", n=6) for name in ("model_ii", "model_iii")
    )
    assert euclid is not None
    assert hubble is not None
    assert -23 < euclid < hubble < -22
    assert regression.noise_limit("model_ii", "original") is None  # released without noise
    assert regression.resolution_floor("model_ii", "none")["noise"] is None


def test_published_errors_are_known_for_the_original_surveys_only():
    assert regression.published_mae("model_i") == 0.2737
    assert regression.published_mae("my_survey") is None
    assert regression.published_mae(None) is None


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 300, 3000])
def test_figures_are_drawn_for_few_and_many_images_and_without_intervals(n):
    truth, mean, sigma, low, high = example(n)
    nothing = np.full(n, np.nan)
    floor = {"pixel": -22.5, "psf": -22.7, "noise": None}
    metrics = regression.regression_metrics(truth, mean, nothing, low, high, bins=5, n_bootstrap=50)
    drawn = [
        regression.predicted_against_true(truth, mean, low, high, floor=floor),
        regression.predicted_against_true(truth, mean, nothing, nothing, label="log₁₀ ($M$ / M☉)"),
        regression.error_by_bin(metrics, floor=floor, published=0.27),
        regression.coverage_curve(truth, mean, sigma, {0.9: Interval(**metrics["coverage"])}),
        regression.coverage_curve(truth, mean, nothing),
    ]
    for k, figure in enumerate(drawn):
        assert inline_svg(figure, f"f{k}").startswith("<svg")
