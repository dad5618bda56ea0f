"""The numbers of an evaluation agree with independent definitions, and their intervals hold what they promise."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import log_loss, roc_auc_score

from haloformer.evaluation import metrics


def scores_with_ties(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    return np.round(rng.normal(size=n) + positive, 1), positive


@pytest.mark.parametrize("seed", range(5))
def test_delong_auc_is_that_of_scikit_learn_with_ties(seed):
    scores, positive = scores_with_ties(seed)
    assert metrics.delong(scores, positive)[0] == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


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
    assert (macro.value, macro.low, macro.high) == pytest.approx((single.value, single.low, single.high), abs=1e-12)


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
        class_hits += [i.low <= true <= i.high for i, true in zip(metrics.class_aucs(labels, scores), true_classes)]
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
    interval = metrics.wilson(7, 50)
    for bound in (interval.low, interval.high):
        assert abs(7 / 50 - bound) / np.sqrt(bound * (1 - bound) / 50) == pytest.approx(norm.isf(0.025))
    assert metrics.wilson(50, 50).high == 1
    assert metrics.wilson(0, 50).low == 0


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
    assert result["macro_auc"].value == pytest.approx(roc_auc_score(labels, p, multi_class="ovr", average="macro"))
    assert result["nll"] == pytest.approx(log_loss(labels, p))
    assert result["brier"] == pytest.approx(np.mean(np.sum((p - np.eye(3)[labels]) ** 2, axis=1)))
    assert result["accuracy"].value == np.mean(p.argmax(axis=1) == labels)
    assert result["confusion"].sum() == len(labels)
    assert result["confusion"][0, 1] == np.sum((labels == 0) & (p.argmax(axis=1) == 1))
    recalls = [result["per_class"][name]["recall"].value for name in ("axion", "cdm", "no_sub")]
    assert result["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    probabilities = np.tile([0.9, 0.05, 0.05], (100, 1))
    labels = np.array([0] * 70 + [1] * 30)
    assert metrics.calibration_error(labels, probabilities) == pytest.approx(0.2, abs=1e-6)
