"""The numbers of an evaluation agree with independent definitions, and their intervals hold what they promise."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score, roc_curve

from haloformer.evaluation import metrics
from haloformer.reporting.interval import Interval, wilson


def scores_with_ties(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    return np.round(rng.normal(size=n) + positive, 1), positive


@pytest.mark.parametrize("seed", range(5))
def test_delong_auc_is_that_of_scikit_learn_with_ties(seed):
    scores, positive = scores_with_ties(seed)
    assert metrics.delong(scores, positive)[0] == pytest.approx(
        roc_auc_score(positive, scores), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_delong_variance_is_that_of_the_quadratic_definition(seed):
    scores, positive = scores_with_ties(seed)
    x, y = scores[positive], scores[~positive]
    wins = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    expected = wins.mean(axis=1).var(ddof=1) / len(x) + wins.mean(axis=0).var(ddof=1) / len(y)
    assert metrics.delong(scores, positive)[1] == pytest.approx(expected, rel=1e-10)


def test_macro_variance_with_two_classes_is_delongs():
    scores, positive = scores_with_ties(3)
    both = np.stack([-scores, scores], axis=1)
    macro = metrics.macro_auc(positive.astype(int), both)
    single = metrics.class_aucs(positive.astype(int), both)[1]
    assert (macro.value, macro.low, macro.high) == pytest.approx(
        (single.value, single.low, single.high), abs=1e-12
    )


def three_class_logits(rng: np.random.Generator, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Unequally hard classes whose scores are correlated, as a classifier's are."""
    labels = np.repeat([0, 1, 2], per_class)
    logits = rng.normal(size=(3 * per_class, 3)) + rng.normal(size=(3 * per_class, 1))
    logits[np.arange(len(labels)), labels] += np.array([0.8, 1.5, 2.5])[labels]
    return labels, logits


def test_intervals_hold_the_true_auc_as_often_as_they_say():
    rng = np.random.default_rng(0)
    labels, logits = three_class_logits(rng, 60_000)
    scores = metrics.log_odds(logits)
    true_macro = metrics.macro_auc(labels, scores).value
    true_classes = [interval.value for interval in metrics.class_aucs(labels, scores)]
    trials = 600
    macro_hits, class_hits = 0, np.zeros(3)
    for _ in range(trials):
        labels, logits = three_class_logits(rng, 60)
        scores = metrics.log_odds(logits)
        interval = metrics.macro_auc(labels, scores)
        macro_hits += interval.low <= true_macro <= interval.high
        class_hits += [
            i.low <= true <= i.high
            for i, true in zip(metrics.class_aucs(labels, scores), true_classes)
        ]
    # 3 binomial standard deviations of 600 trials at 95 % are 2.7 %.
    assert 0.923 <= macro_hits / trials <= 0.977, macro_hits / trials
    # Negatives are a fixed mix of two classes, so the classical per-class interval may err, on the safe side.
    assert np.all(class_hits / trials >= 0.923), class_hits / trials


def test_interval_of_a_perfect_auc_is_the_exact_bound_and_not_a_point():
    labels = np.repeat([0, 1, 2], 100)
    scores = 10.0 * np.eye(3)[labels] + np.random.default_rng(0).random((300, 3))
    macro = metrics.macro_auc(labels, scores)
    assert (macro.value, macro.high) == (1.0, 1.0)
    assert macro.low == pytest.approx(0.025 ** (1 / 100))
    assert metrics.class_aucs(labels, scores)[0] == macro


def test_interval_stays_inside_0_and_1_for_nearly_perfect_scores():
    labels = np.repeat([0, 1], 20)
    scores = np.arange(40.0)
    scores[[19, 20]] = scores[[20, 19]]
    interval = metrics.class_aucs(labels, np.stack([-scores, scores], axis=1))[1]
    assert 0 < interval.low < interval.value < interval.high < 1


def test_saturated_probabilities_still_rank_images():
    """p rounds to 1 for all of these images, yet the true ones have the larger logits."""
    logits = np.array([[60.0, 0, 0], [50.0, 0, 0], [0, 0, 0]])
    assert softmax(logits, axis=1)[0, 0] == softmax(logits, axis=1)[1, 0] == 1
    assert metrics.log_odds(logits)[0, 0] > metrics.log_odds(logits)[1, 0]


def test_log_odds_are_those_of_the_softmax():
    logits = np.random.default_rng(1).normal(size=(50, 3))
    p = softmax(logits, axis=1)
    np.testing.assert_allclose(metrics.log_odds(logits), np.log(p / (1 - p)), atol=1e-12)


def test_wilson_interval_solves_the_score_equation():
    interval = wilson(7, 50)
    for bound in (interval.low, interval.high):
        assert abs(7 / 50 - bound) / np.sqrt(bound * (1 - bound) / 50) == pytest.approx(
            norm.isf(0.025)
        )
    assert wilson(50, 50).high == 1
    assert wilson(0, 50).low == 0


def test_a_class_without_images_has_no_auc_and_is_left_out_of_the_macro():
    labels, logits = three_class_logits(np.random.default_rng(2), 50)
    keep = labels != 2
    result = metrics.classification_metrics(labels[keep], logits[keep], ("axion", "cdm", "no_sub"))
    assert np.isnan(result["per_class"]["no_sub"]["auc"].value)
    expected = np.mean([result["per_class"][name]["auc"].value for name in ("axion", "cdm")])
    assert result["macro_auc"].value == pytest.approx(expected)


def test_classification_metrics_agree_with_their_definitions():
    labels, logits = three_class_logits(np.random.default_rng(4), 40)
    p = softmax(logits, axis=1)
    result = metrics.classification_metrics(labels, logits, ("axion", "cdm", "no_sub"))
    assert result["macro_auc"].value == pytest.approx(
        roc_auc_score(labels, p, multi_class="ovr", average="macro")
    )
    assert result["micro_auc"].value == pytest.approx(
        roc_auc_score(np.eye(3)[labels].ravel(), p.ravel())
    )
    assert result["nll"].value == pytest.approx(log_loss(labels, p))
    assert result["brier"].value == pytest.approx(
        np.mean(np.sum((p - np.eye(3)[labels]) ** 2, axis=1))
    )
    assert result["accuracy"].value == np.mean(p.argmax(axis=1) == labels)
    assert result["confusion"].sum() == len(labels)
    assert result["confusion"][0, 1] == np.sum((labels == 0) & (p.argmax(axis=1) == 1))
    recalls = [result["per_class"][name]["recall"].value for name in ("axion", "cdm", "no_sub")]
    assert result["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    for key in ("nll", "brier", "ece", "macro_average_precision", "balanced_accuracy", "micro_auc"):
        assert result[key].low < result[key].value < result[key].high


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    probabilities = np.tile([0.9, 0.05, 0.05], (100, 1))
    labels = np.array([0] * 70 + [1] * 30)
    assert metrics.calibration_error(labels, probabilities) == pytest.approx(0.2, abs=1e-6)


def test_calibration_error_is_that_of_torchmetrics():
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    labels, logits = three_class_logits(np.random.default_rng(3), 200)
    p = softmax(logits, axis=1)
    expected = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(labels), num_classes=3, n_bins=15
    )
    assert metrics.calibration_error(labels, p) == pytest.approx(float(expected), abs=1e-6)
    rows = metrics.reliability(labels, p)
    error = sum(row["n"] * abs(row["confidence"] - row["accuracy"].value) for row in rows) / len(
        labels
    )
    assert error == pytest.approx(float(expected), abs=1e-6)


def test_temperature_changes_the_probabilities_and_nothing_else():
    labels, logits = three_class_logits(np.random.default_rng(3), 100)
    names = ("axion", "cdm", "no_sub")
    plain, scaled = (
        metrics.classification_metrics(labels, logits, names, temperature=t) for t in (1.0, 2.0)
    )
    assert plain["macro_auc"] == scaled["macro_auc"]
    assert plain["accuracy"] == scaled["accuracy"]
    assert scaled["calibration"]["before"] == plain["calibration"]["before"]
    assert scaled["calibration"]["after"]["nll"] == scaled["nll"]
    assert scaled["nll"].value == pytest.approx(log_loss(labels, softmax(logits / 2, axis=1)))


# --- ranking, weighted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_weighted_ranking_measures_are_those_of_scikit_learn_on_repeated_images_with_ties(seed):
    scores, positive = scores_with_ties(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (6, len(scores)))
    found = metrics.ranking_measures(weights, scores, positive, (0.05, 0.3))
    for row, counts in zip(found, weights):
        repeated, truth = np.repeat(scores, counts), np.repeat(positive, counts)
        assert row[0] == pytest.approx(average_precision_score(truth, repeated), abs=1e-12)
        false_rate, true_rate, _ = roc_curve(truth, repeated, drop_intermediate=False)
        for value, rate in zip(row[1:], (0.05, 0.3)):
            assert value == pytest.approx(true_rate[false_rate <= rate].max(), abs=1e-12)


def test_resamples_keep_the_size_of_each_class_and_come_in_pieces(monkeypatch):
    labels = np.repeat([2, 0, 1], [5, 50, 20])
    whole = np.concatenate(list(metrics.bootstrap_weights(labels, 40)))
    monkeypatch.setattr(metrics, "_AT_ONCE", 75 * 16)
    parts = list(metrics.bootstrap_weights(labels, 40))
    assert [len(part) for part in parts] == [16, 16, 8]
    for weights in (whole, np.concatenate(parts)):
        assert all(
            np.all(weights[:, labels == k].sum(axis=1) == n) for k, n in ((2, 5), (0, 50), (1, 20))
        )
    assert not np.array_equal(whole[0], whole[1])


def test_false_positive_rate_finer_than_one_negative_is_not_measured():
    labels, logits = three_class_logits(np.random.default_rng(2), 100)
    row = metrics.classification_metrics(labels, logits, ("axion", "cdm", "no_sub"))["per_class"][
        "axion"
    ]
    assert row["tpr_at_fpr"]["0.01"].low < row["tpr_at_fpr"]["0.01"].value
    assert np.isnan(row["tpr_at_fpr"]["0.001"].value)  # 200 negatives


def test_perfect_ranking_has_no_false_certainty():
    labels = np.repeat([0, 1, 2], 100)
    result = metrics.classification_metrics(
        labels, 10.0 * np.eye(3)[labels], ("axion", "cdm", "no_sub")
    )
    row = result["per_class"]["axion"]
    assert row["average_precision"].value == 1
    assert np.isnan(row["average_precision"].low)
    assert row["tpr_at_fpr"]["0.01"].low == wilson(100, 100).low
    assert result["balanced_accuracy"].low < 1 == result["balanced_accuracy"].high


def test_intervals_of_micro_auc_precision_tpr_losses_and_balanced_accuracy_hold_the_truth():
    rng = np.random.default_rng(0)
    names = ("axion", "cdm", "no_sub")

    def measured(per_class: int, resamples: int) -> dict[str, Interval]:
        result = metrics.classification_metrics(
            *three_class_logits(rng, per_class), names, resamples=resamples
        )
        cdm = result["per_class"]["cdm"]
        kept = ("micro_auc", "macro_average_precision", "balanced_accuracy", "nll", "brier", "ece")
        return {
            **{key: result[key] for key in kept},
            "ap": cdm["average_precision"],
            "tpr": cdm["tpr_at_fpr"]["0.01"],
        }

    truth = measured(40_000, 0)
    trials, hits = 120, dict.fromkeys(truth, 0)
    for _ in range(trials):
        for key, interval in measured(150, 150).items():
            hits[key] += interval.low <= truth[key].value <= interval.high
    # 3 binomial standard deviations of 120 trials at 95 % are 6 %. With 450 images the bootstraps of a quantile in the
    # tail and of a sum of absolute values hold the truth in about 90 % only.
    for key, count in hits.items():
        assert count / trials >= (0.82 if key in ("tpr", "ece") else 0.89), (key, count / trials)
    assert (
        sum(hits[key] for key in ("micro_auc", "nll", "brier", "balanced_accuracy")) < 4 * trials
    ), hits


# --- two models -------------------------------------------------------------------------------------------------------


def two_models(
    rng: np.random.Generator, per_class: int, gain: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and the logits of two models whose errors are correlated; the first is better by ``gain``."""
    labels = np.repeat([0, 1, 2], per_class)
    shared = np.eye(3)[labels] + rng.normal(size=(3 * per_class, 3))
    one, other = (shared + 0.7 * rng.normal(size=shared.shape) for _ in range(2))
    return labels, one + gain * np.eye(3)[labels], other


@pytest.mark.parametrize("k", [None, 1])
def test_paired_difference_matches_the_bootstrap_over_images(k):
    rng = np.random.default_rng(1)
    labels, one, other = two_models(rng, 100)
    found = metrics.paired_difference(labels, one, other, k)
    classes = [0, 1, 2] if k is None else [k]
    draws = []
    for weights in metrics.bootstrap_weights(labels if k is None else labels == k, 200):
        for row in weights:
            chosen = np.repeat(np.arange(300), row)
            both = [
                metrics._auc_terms(labels[chosen], metrics.log_odds(z[chosen]), classes)[0]
                for z in (one, other)
            ]
            draws.append(both[0].mean() - both[1].mean())
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.15)
    assert found.low < found.value < found.high
    assert metrics.paired_difference(labels, one, one, k).p == 1


def test_paired_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(2)
    p = np.array(
        [
            [metrics.paired_difference(*two_models(rng, 50), k).p for k in (None, 0)]
            for _ in range(150)
        ]
    )
    # 3 binomial standard deviations of 150 trials at 5 % are 5.3 %.
    assert np.all(np.abs(np.mean(p < 0.05, axis=0) - 0.05) < 0.053), np.mean(p < 0.05, axis=0)
    assert np.all(np.abs(np.mean(p < 0.5, axis=0) - 0.5) < 0.13)
    assert metrics.paired_difference(*two_models(rng, 200, gain=0.7)).p < 1e-3


@pytest.mark.parametrize("k", [None, 0, 1, 2])
@pytest.mark.parametrize("n", [21, 240])
def test_a_difference_without_variance_has_no_p_value_whatever_rounding_leaves_of_it(k, n):
    labels = np.arange(n) % 3
    perfect = 5.0 * np.eye(3)[labels]
    for other, apart in ((0 * perfect, -0.5), (-perfect, -1.0)):
        found = metrics.paired_difference(labels, other, perfect, k)
        assert found.value == pytest.approx(apart)
        assert np.isnan([found.low, found.high, found.p]).all()
    same = metrics.paired_difference(labels, 10 * perfect, perfect, k)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_intervals_of_differences_end_where_differences_do():
    labels = np.arange(9) % 3
    perfect, opposite = 5.0 * np.eye(3)[labels], -5.0 * np.eye(3)[labels]
    opposite[0] = perfect[0]
    for k in (None, 0):
        found = metrics.paired_difference(labels, opposite, perfect, k)
        assert -1 <= found.low < found.value < found.high <= 1
    nobody, all_of_them = np.zeros(40, bool), np.ones(40, bool)
    assert metrics.paired_accuracy(nobody, all_of_them).low == -1
    assert metrics.paired_accuracy(all_of_them, nobody).high == 1


def test_mcnemar_is_the_exact_binomial_test_of_discordant_images():
    rng = np.random.default_rng(0)
    right, other = rng.random(200) < 0.9, rng.random(200) < 0.8
    found = metrics.paired_accuracy(right, other)
    gained, lost = np.sum(right & ~other), np.sum(~right & other)
    assert found.p == binomtest(int(lost), int(gained + lost), 0.5).pvalue
    assert found.value == pytest.approx(right.mean() - other.mean())
    assert found.low < found.value < found.high
    assert metrics.paired_accuracy(right, right).p == 1


def test_interval_of_the_accuracy_difference_holds_the_truth():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(500):
        kind = rng.random(150)  # below 0.1 the first alone is right, from 0.96 on the other alone
        found = metrics.paired_accuracy(kind < 0.96, kind >= 0.1)
        hits += found.low <= 0.06 <= found.high
    assert 0.92 <= hits / 500 <= 0.98


def test_holm_correction_is_the_step_down_definition():
    assert metrics.holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx(
        [0.03, 0.06, np.nan, 0.06], nan_ok=True
    )
    assert metrics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert metrics.holm([]) == []


# --- bins -------------------------------------------------------------------------------------------------------------


def test_bins_hold_equally_many_images_and_their_own_numbers():
    labels, logits = three_class_logits(np.random.default_rng(6), 200)
    scores, right = metrics.log_odds(logits), logits.argmax(axis=1) == labels
    values = np.where(labels == 1, np.arange(600.0), np.nan)
    rows = metrics.by_bins(values, labels, scores, right, k=1)
    assert [row["n"] for row in rows] == [50] * 4
    inside = (values >= rows[0]["from"]) & (values < rows[0]["to"])
    assert rows[0]["accuracy"].value == right[inside].mean()
    chosen = inside | (labels != 1)
    assert rows[0]["auc"].value == pytest.approx(roc_auc_score(inside[chosen], scores[chosen, 1]))
    everything = metrics.by_bins(np.tile(np.arange(200.0), 3), labels, scores, right)
    assert sum(row["n"] for row in everything) == 600
    assert metrics.by_bins(np.ones(600), labels, scores, right) == []
    assert metrics.by_bins(np.full(600, np.nan), labels, scores, right) == []
