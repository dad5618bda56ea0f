"""How good a classifier is, in numbers, each with an interval that says how sure the test set makes us.

Pure functions of numpy arrays. Throughout, ``labels`` is (N,) int, ``scores`` and ``logits`` are (N, K) float with one
column per class, and intervals hold with 95 % confidence unless ``confidence`` says otherwise.

One-vs-rest AUCs carry DeLong's interval (DeLong et al. 1988, Biometrics 44, 837), computed by midranks in O(N log N)
(Sun & Xu 2014, IEEE Signal Process. Lett. 21, 1389) and transformed by the logit so that it stays inside [0, 1]. The
macro AUC's variance comes from the same structural components, see `macro_auc`: no bootstrap, hence no seed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, logit, logsumexp, softmax
from scipy.stats import norm, rankdata

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A measured value and its confidence interval; NaN where the data cannot tell."""

    value: float
    low: float
    high: float


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Returns log(p_k / (1 − p_k)) of the softmax probabilities, (N, K).

    It ranks images exactly as p_k does, but keeps ranking them where p_k rounds to 1: a saturated model would otherwise
    tie all its surest images.
    """
    z = np.asarray(logits, np.float64)
    classes = range(z.shape[1])
    rest = np.stack([logsumexp(np.delete(z, k, axis=1), axis=1) for k in classes], axis=1)
    return z - rest


def structural_components(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Returns each image's placement value, (N,): DeLong's V10 where ``positive``, V01 elsewhere.

    For a positive image it is the share of negatives that score below it, for a negative one the share of positives
    that score above it, ties counting half. The mean over either group is the AUC.

    Args:
        scores: (N,) higher means more likely positive.
        positive: (N,) bool; both groups must be present.
    """
    overall = rankdata(scores)
    placements = np.empty(len(scores))
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    placements[positive] = (overall[positive] - rankdata(scores[positive])) / n_negative
    placements[~positive] = 1 - (overall[~positive] - rankdata(scores[~positive])) / n_positive
    return placements


def delong(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Returns the AUC and DeLong's estimate of its variance (NaN with fewer than two images in either group)."""
    positive = np.asarray(positive, bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan"), float("nan")
    placements = structural_components(np.asarray(scores), positive)
    auc = float(placements[positive].mean())
    if min(n_positive, n_negative) < 2:
        return auc, float("nan")
    variance = placements[positive].var(ddof=1) / n_positive + placements[~positive].var(ddof=1) / n_negative
    return auc, float(variance)


def auc_interval(auc: float, variance: float, smallest_group: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns the logit-transformed normal interval of an AUC.

    At an AUC of exactly 1 (or 0) the estimated variance is 0 and says nothing. Then the interval is exact instead: n
    disjoint pairs of a positive and a negative image are n independent trials that succeed with probability AUC, so n
    successes exclude, as for any proportion, an AUC below (α/2)^(1/n). It makes no assumption about the scores.

    Args:
        auc: The estimate.
        variance: Its variance; NaN gives an interval of NaNs.
        smallest_group: n, the number of images in the smallest group compared.
        confidence: The two-sided confidence level.
    """
    tail = (1 - confidence) / 2
    if auc in (0.0, 1.0):
        bound = tail ** (1 / smallest_group)
        return Interval(auc, bound, 1.0) if auc == 1.0 else Interval(auc, 0.0, 1 - bound)
    if not np.isfinite(auc) or not np.isfinite(variance):
        return Interval(auc, float("nan"), float("nan"))
    half = norm.isf(tail) * np.sqrt(variance) / (auc * (1 - auc))
    return Interval(auc, float(expit(logit(auc) - half)), float(expit(logit(auc) + half)))


def class_aucs(labels: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE) -> list[Interval]:
    """Returns the one-vs-rest AUC of each class with DeLong's interval; NaN for a class without images."""
    intervals = []
    for k in range(scores.shape[1]):
        positive = labels == k
        auc, variance = delong(scores[:, k], positive)
        intervals.append(auc_interval(auc, variance, int(min(positive.sum(), (~positive).sum())), confidence))
    return intervals


def macro_auc(labels: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Returns the mean of the one-vs-rest AUCs over the classes that have images, with its interval.

    The AUCs of different classes share their images, so their errors are not independent. Writing each AUC as its
    structural components, the macro AUC is to first order a sum of one term per image, g_i = mean over the classes k of
    V_k(i) / (number of images on i's side of k). Images of one true class are independent draws of the same kind, so
    the variance is the sum over true classes c of n_c · var_c(g). With two classes this is DeLong's variance.
    """
    present = [k for k in range(scores.shape[1]) if np.any(labels == k)]
    if len(present) < 2:
        return Interval(float("nan"), float("nan"), float("nan"))
    terms = np.zeros(len(labels))
    aucs = []
    for k in present:
        positive = labels == k
        placements = structural_components(scores[:, k], positive)
        aucs.append(placements[positive].mean())
        terms += placements / np.where(positive, positive.sum(), (~positive).sum()) / len(present)
    sizes = [int(np.sum(labels == k)) for k in present]
    if min(sizes) < 2:
        variance = float("nan")
    else:
        variance = sum(n * terms[labels == k].var(ddof=1) for n, k in zip(sizes, present))
    # All AUCs being 1 is no more likely than the worst one being 1, so the smallest class bounds the macro AUC too.
    return auc_interval(float(np.mean(aucs)), float(variance), min(sizes), confidence)


def paired_difference(labels: np.ndarray, logits: np.ndarray, reference: np.ndarray) -> Interval:
    """Returns by how much one model's macro AUC exceeds another's on the same images, with a 95 % interval over test images.

    To first order a macro AUC is a sum of one term per image (see `macro_auc`); the variance of the
    difference is that of the terms' differences, so that images which are hard for both models do not count against either.

    Args:
        labels: (N,) int.
        logits: (N, K) of the model.
        reference: (N, K) of the model that it is compared with.
    """
    present = np.unique(labels)
    terms, aucs = np.zeros((2, len(labels))), np.zeros(2)
    for i, scores in enumerate((log_odds(logits), log_odds(reference))):
        for k in present:
            positive = labels == k
            placements = structural_components(scores[:, k], positive)
            aucs[i] += placements[positive].mean() / len(present)
            terms[i] += placements / np.where(positive, positive.sum(), (~positive).sum()) / len(present)
    differences = terms[0] - terms[1]
    variance = sum(np.sum(labels == k) * differences[labels == k].var(ddof=1) for k in present)
    half = norm.isf((1 - CONFIDENCE) / 2) * np.sqrt(variance)
    return Interval(float(aucs[0] - aucs[1]), float(aucs[0] - aucs[1] - half), float(aucs[0] - aucs[1] + half))


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns a proportion with Wilson's score interval; NaN without trials."""
    if trials == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    z2 = norm.isf((1 - confidence) / 2) ** 2
    p = successes / trials
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    # At 0 and at all successes the bound is exactly 0 or 1; rounding must not put the value outside its interval.
    return Interval(p, min(p, max(0.0, float(centre - half))), max(p, min(1.0, float(centre + half))))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Returns counts, (K, K) int: true class by row, predicted class by column."""
    from sklearn.metrics import confusion_matrix as counts

    return counts(labels, predicted, labels=np.arange(n_classes))


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the false and true positive rates of the ROC curve's corners, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve as curve

    false_rate, true_rate, _ = curve(positive, scores)
    return false_rate, true_rate


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 15) -> float:
    """Returns the expected calibration error: mean |confidence − accuracy| over equal bins of the top probability."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    return float(
        multiclass_calibration_error(
            torch.from_numpy(np.ascontiguousarray(probabilities)),
            torch.from_numpy(np.asarray(labels, np.int64)),
            num_classes=probabilities.shape[1],
            n_bins=n_bins,
            norm="l1",
        )
    )


def classification_metrics(
    labels: np.ndarray, logits: np.ndarray, class_names: tuple[str, ...], confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """Returns every number of an evaluation.

    Args:
        labels: (N,) int, indices into ``class_names``.
        logits: (N, K) unnormalised log probabilities.
        class_names: The K names.
        confidence: Of all intervals.

    Returns:
        ``macro_auc``, ``accuracy`` (`Interval`), ``balanced_accuracy`` (over the classes that have images), ``nll``
        (nats per image), ``brier`` (sum over classes, mean over images), ``ece``, ``confusion`` (K, K) and
        ``per_class``: for each class ``auc`` and ``recall`` (`Interval`), ``precision`` and ``n``, its images.
    """
    labels, logits = np.asarray(labels), np.asarray(logits, np.float64)
    scores, probabilities = log_odds(logits), softmax(logits, axis=1)
    predicted = logits.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, len(class_names))
    hits, sizes, claims = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    one_hot = np.eye(len(class_names))[labels]
    return {
        "n_images": len(labels),
        "macro_auc": macro_auc(labels, scores, confidence),
        "accuracy": wilson(int(hits.sum()), len(labels), confidence),
        "balanced_accuracy": float(np.mean(hits[sizes > 0] / sizes[sizes > 0])),
        "nll": float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "ece": calibration_error(labels, probabilities),
        "confusion": confusion,
        "per_class": {
            name: {
                "n": int(sizes[k]),
                "auc": auc,
                "recall": wilson(int(hits[k]), int(sizes[k]), confidence),
                "precision": float(hits[k] / claims[k]) if claims[k] else float("nan"),
            }
            for k, (name, auc) in enumerate(zip(class_names, class_aucs(labels, scores, confidence)))
        },
        "confidence": confidence,
    }
