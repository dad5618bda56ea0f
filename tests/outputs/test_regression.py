"""Regression learns from true values only, its uncertainties are honest, and what artefacts say about it is checked."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from haloformer.errors import InputError
from haloformer.outputs import targets
from haloformer.outputs.conformal import Conformal
from haloformer.outputs.losses import LOSSES, n_outputs, predictions, regression_loss
from haloformer.outputs.targets import Scaling
from haloformer.simulation import simulate

UNIT = Scaling((0.0,), (1.0,))
AXION = Scaling((-23.0,), (0.577,))


def draw(n: int, per_target: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, per_target, generator=generator).requires_grad_()
    return outputs, torch.randn(n, 1, generator=generator)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_targets_of_simulated_images_are_their_masses_and_nan_for_the_other_classes():
    batch = simulate("model_ii", 12, seed=3)
    values = targets.target_values(["log10_m_axion", "log10_m_subhalos"], batch.parameters).numpy()
    axion, cdm = batch.labels.numpy() == 0, batch.labels.numpy() == 1
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(values), np.stack([axion, cdm], axis=1))
    np.testing.assert_allclose(
        values[axion, 0], batch.parameters["log10_m_axion"][axion], rtol=1e-6
    )
    total = batch.parameters["subhalo_mass"][cdm].sum(axis=1)
    np.testing.assert_allclose(10.0 ** values[cdm, 1].astype(float), total, rtol=1e-4)


def test_a_survey_without_subhalos_has_no_total_subhalo_mass():
    values = targets.target_values(["log10_m_subhalos"], {"subhalo_mass": np.empty((4, 0))})
    assert values.shape == (4, 1)
    assert torch.isnan(values).all()


def test_a_missing_parameter_and_a_misspelt_target_are_named():
    with pytest.raises(
        InputError, match=r"old\.h5: .* parameter 'subhalo_mass'.*'log10_m_subhalos'"
    ):
        targets.target_values(["log10_m_subhalos"], {"log10_m_axion": np.zeros(2)}, "old.h5")
    with pytest.raises(InputError, match="did you mean 'log10_m_axion'"):
        targets.target_values(["log10_m_axions"], {})
    with pytest.raises(InputError, match="did you mean 'quantile'"):
        n_outputs("quantiles")


# --- losses -----------------------------------------------------------------------------------------------------------


def test_beta_0_is_the_gaussian_likelihood():
    outputs, targets = draw(64, 2)
    loss = regression_loss(outputs, targets, loss="beta_nll", beta=0.0, scaling=UNIT)
    variance = predictions(outputs, loss="beta_nll", scaling=UNIT)["sigma"] ** 2
    expected = F.gaussian_nll_loss(outputs[:, :1], targets, variance, eps=0)
    torch.testing.assert_close(loss, expected)


def test_beta_1_gives_the_mean_the_gradient_of_mse_and_beta_0_does_not():
    outputs, targets = draw(64, 2)
    expected = torch.autograd.grad(0.5 * F.mse_loss(outputs[:, :1], targets), outputs)[0][:, 0]
    gradient = {
        beta: torch.autograd.grad(
            regression_loss(outputs, targets, loss="beta_nll", beta=beta, scaling=UNIT), outputs
        )[0][:, 0]
        for beta in (0.0, 1.0)
    }
    torch.testing.assert_close(gradient[1.0], expected)
    assert not torch.allclose(gradient[0.0], expected, rtol=0.1)


def test_no_gradient_flows_through_the_weight_of_beta_nll():
    outputs, targets = draw(64, 2)
    plain, weighted = (
        torch.autograd.grad(
            regression_loss(outputs, targets, loss="beta_nll", beta=b, scaling=UNIT), outputs
        )[0]
        for b in (0.0, 0.7)
    )
    variance = predictions(outputs, loss="beta_nll", scaling=UNIT)["sigma"].detach() ** 2
    torch.testing.assert_close(weighted, plain * variance**0.7)


def test_mse_is_that_of_torch_in_standard_units():
    outputs, targets = draw(16, 1)
    physical = targets * 0.577 - 23
    loss = regression_loss(outputs, physical, loss="mse", scaling=AXION)
    torch.testing.assert_close(loss, F.mse_loss(outputs, targets), rtol=1e-4, atol=1e-5)


def test_the_quantile_loss_is_least_at_the_quantiles_of_the_data():
    values = torch.distributions.Exponential(1.0).icdf((torch.arange(4000) + 0.5) / 4000)[:, None]
    raw = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        regression_loss(
            raw.expand(4000, 3), values, loss="quantile", coverage=0.8, scaling=UNIT
        ).backward()
        optimizer.step()
    found = predictions(raw[None], loss="quantile", scaling=UNIT, coverage=0.8)
    for key, level in (("low", 0.1), ("mean", 0.5), ("high", 0.9)):
        assert found[key].item() == pytest.approx(-math.log(1 - level), abs=0.03)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6))
def test_quantiles_never_cross(numbers):
    outputs = torch.tensor([numbers])
    found = predictions(outputs, loss="quantile", scaling=Scaling((-23.0, 9.0), (0.5, 2.0)))
    assert (found["low"] <= found["mean"]).all()
    assert (found["mean"] <= found["high"]).all()
    assert (found["sigma"] >= 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_images_without_a_true_value_teach_nothing(loss):
    scaling = Scaling((-23.0, 9.0), (0.5, 2.0))
    outputs = torch.randn(
        6, 2 * n_outputs(loss), generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    targets = torch.full((6, 2), torch.nan)
    targets[[0, 3], 0], targets[4, 1] = torch.tensor([-22.5, -23.5]), 9.5
    value = regression_loss(outputs, targets, loss=loss, scaling=scaling)
    (gradient,) = torch.autograd.grad(value, outputs)
    taught = gradient.reshape(6, 2, -1).abs().sum(-1) > 0
    torch.testing.assert_close(taught, ~torch.isnan(targets))
    # The value is the mean over the three that exist, whatever stands beside them.
    first = regression_loss(outputs[[0, 3]], targets[[0, 3]], loss=loss, scaling=scaling)
    last = regression_loss(outputs[[4]], targets[[4]], loss=loss, scaling=scaling)
    torch.testing.assert_close(value, (2 * first + last) / 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_any_true_value_has_loss_0_and_no_gradient(loss):
    outputs = torch.randn(5, n_outputs(loss)).requires_grad_()
    value = regression_loss(outputs, torch.full((5, 1), torch.nan), loss=loss, scaling=AXION)
    (gradient,) = torch.autograd.grad(value, outputs)
    assert value.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_wild_outputs_in_half_precision_do_not_overflow(loss, dtype):
    wild = torch.tensor(
        [[6e4] * n_outputs(loss), [-6e4] * n_outputs(loss)], dtype=dtype, requires_grad=True
    )
    value = regression_loss(wild, torch.tensor([[-22.1], [-23.9]]), loss=loss, scaling=AXION)
    assert torch.isfinite(value)
    if dtype == torch.bfloat16:  # float16 has the loss scaler to catch what it cannot hold
        assert torch.isfinite(torch.autograd.grad(value, wild)[0]).all()
    found = predictions(wild.detach(), loss=loss, scaling=AXION)
    assert torch.isfinite(found["mean"]).all()
    if loss != "mse":
        assert torch.isfinite(torch.stack(list(found.values()))).all()


def test_predictions_are_in_physical_units():
    outputs = torch.tensor([[1.0, 0.0]])
    found = predictions(outputs, loss="beta_nll", scaling=AXION, coverage=0.95)
    assert found["mean"].item() == pytest.approx(-22.423)
    assert found["sigma"].item() == pytest.approx(0.577)
    assert (found["high"] - found["mean"]).item() == pytest.approx(1.95996 * 0.577, rel=1e-4)


def test_targets_of_the_wrong_shape_are_not_broadcast():
    with pytest.raises(ValueError, match="shape"):
        regression_loss(
            torch.zeros(4, 4),
            torch.zeros(4, 1),
            loss="beta_nll",
            scaling=Scaling((0.0, 0.0), (1.0, 1.0)),
        )


# --- scaling ----------------------------------------------------------------------------------------------------------


def test_scaling_is_fitted_on_the_values_that_exist():
    targets = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 5.0]])
    scaling = Scaling.fit(targets)
    assert scaling == Scaling((2.0, 5.0), (1.0, 1.0))  # a target that is always the same has std 1
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


def test_a_target_that_no_training_image_has_is_named():
    targets = torch.tensor([[1.0, torch.nan], [3.0, torch.nan]])
    with pytest.raises(InputError, match=r"'log10_m_subhalos'.* class cdm"):
        Scaling.fit(targets, ["log10_m_axion", "log10_m_subhalos"])


# --- conformal intervals ----------------------------------------------------------------------------------------------


def heteroscedastic(
    n: int, rng: np.random.Generator, loss: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Predictions that are biased and much too sure, of values whose scatter depends on the image."""
    scatter = rng.uniform(0.02, 0.5, n)
    mean = rng.uniform(-24, -22, n)
    truth = mean + scatter * rng.standard_t(4, n) + 0.05
    sigma = 0.3 * scatter + 0.02
    found = {"mean": mean, "sigma": sigma, "low": mean - sigma, "high": mean + 1.5 * sigma}
    if loss == "mse":
        found |= {key: np.full(n, np.nan) for key in ("sigma", "low", "high")}
    return {
        key: torch.from_numpy(value)[:, None] for key, value in found.items()
    }, torch.from_numpy(truth)[:, None]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_conformal_intervals_contain_the_truth_as_often_as_they_say(loss, coverage):
    rng = np.random.default_rng(1)
    n, n_test, trials = 20, 500, 200  # so few that the finite-sample correction shows
    shares = []
    for _ in range(trials):
        found, truth = heteroscedastic(n, rng, loss)
        conformal = Conformal.fit(**found, truth=truth, coverage=coverage, loss=loss)
        found, truth = heteroscedastic(n_test, rng, loss)
        low, high = conformal.apply(**found)
        shares.append(((low <= truth) & (truth <= high)).double().mean().item())
    # Given the calibration images the coverage is Beta(rank, n + 1 − rank) distributed; test images scatter binomially.
    expected = math.ceil((n + 1) * coverage) / (n + 1)
    assert coverage <= expected <= coverage + 1 / (n + 1)
    spread = math.sqrt(expected * (1 - expected) * (1 / (n + 2) + 1 / n_test) / trials)
    assert np.mean(shares) == pytest.approx(expected, abs=4 * spread)


def test_narrowed_quantile_intervals_still_hold_the_median():
    mean = torch.zeros(50, 1)
    wide = {"mean": mean, "sigma": mean + 1, "low": mean - 1, "high": mean + 2}
    conformal = Conformal.fit(
        **wide, truth=torch.linspace(-0.01, 0.01, 50)[:, None], coverage=0.9, loss="quantile"
    )
    assert conformal.factors[0] < 0
    low, high = conformal.apply(mean, mean + 1, mean - 0.5, mean + 0.5)
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_too_few_calibration_images_are_refused_and_just_enough_are_not():
    found, truth = heteroscedastic(9, np.random.default_rng(0), "beta_nll")
    assert Conformal.fit(**found, truth=truth, coverage=0.9, loss="beta_nll").n == 9
    truth[0] = torch.nan
    with pytest.raises(InputError, match=r"at least 9 calibration images.*there are 8"):
        Conformal.fit(**found, truth=truth, coverage=0.9, loss="beta_nll")


@pytest.mark.parametrize(
    ("n", "coverage", "rank"), [(9, 0.9, 9), (74, 0.68, 51), (349, 0.68, 238), (20, 0.9, 19)]
)
def test_the_coverage_that_chance_gives_is_that_of_the_score_that_was_taken(n, coverage, rank):
    scores = torch.arange(1.0, n + 1)[:, None]
    zero = torch.zeros_like(scores)
    found = Conformal.fit(zero, zero, zero, zero, scores, coverage, "mse")
    assert found.factors == (rank,)
    assert found.coverage_by_chance() == pytest.approx(
        beta.ppf([0.025, 0.975], rank, n + 1 - rank).tolist()
    )


def test_each_target_is_calibrated_by_its_own_images():
    rng = np.random.default_rng(0)
    mean, sigma = torch.zeros(300, 2), torch.ones(300, 2)
    truth = torch.from_numpy(rng.normal(size=(300, 2)) * [1.0, 3.0])
    truth[:100, 0] = torch.nan
    conformal = Conformal.fit(mean, sigma, -sigma, sigma, truth, 0.9, "beta_nll")
    assert conformal.n == 200
    assert conformal.factors[0] == pytest.approx(1.645, rel=0.2)
    assert conformal.factors[1] == pytest.approx(3 * 1.645, rel=0.2)


GOOD = {"factors": [1.2], "coverage": 0.9, "n": 100, "loss": "beta_nll"}


def test_calibration_survives_json():
    assert Conformal.from_dict(json.loads(json.dumps(GOOD))).to_dict() == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"factors": [float("nan")]},
        {"factors": [float("inf")]},
        {"factors": [-1.0]},
        {"factors": []},
        {"factors": "12"},
        {"factors": [10**400]},
        {"factors": [True]},
        {"coverage": 1.0},
        {"coverage": None},
        {"n": 0},
        {"n": 1e9},
        {"loss": "huber"},
        {"loss": ["beta_nll"]},
    ],
)
def test_a_calibration_that_cannot_be_one_is_refused(change):
    with pytest.raises(InputError):
        Conformal.from_dict({**GOOD, **change})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD, "mean", "std"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(JSON)
def test_whatever_an_artefact_says_is_read_or_refused(content):
    for kind in (Scaling, Conformal):
        try:
            made = kind.from_dict(content)
        except InputError:
            continue
        assert kind.from_dict(made.to_dict()) == made
