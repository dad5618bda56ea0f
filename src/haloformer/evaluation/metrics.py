"""Metrics of a classifier, each with a confidence interval over test images.

Pure functions of numpy arrays. Throughout, ``labels`` is (N,) int, ``scores`` and ``logits`` are (N, K) float with one
column per class, and intervals hold with 95 % confidence unless ``confidence`` says otherwise.

One-vs-rest AUCs carry DeLong's interval (DeLong et al. 1988, Biometrics 44, 837), computed by midranks in O(N log N)
(Sun & Xu 2014, IEEE Signal Process. Lett. 21, 1389) and transformed by the logit so that it stays inside [0, 1]. The
macro AUC's variance comes from the same structural components, see `macro_auc`: no bootstrap, hence no seed. What has
no closed form (average precision, TPR at a small FPR, the quality of probabilities) shares one stratified bootstrap,
`bootstrap_weights`, with a fixed seed.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, logit, logsumexp, softmax
from scipy.stats import binomtest, norm, rankdata

from haloformer.reporting.interval import CONFIDENCE, Difference, Interval, wilson

RESAMPLES = 1000


FALSE_POSITIVE_RATES = (0.01, 0.001)


N_BINS = 15  # of the highest probability, for calibration


_AT_ONCE = 2**20  # weights that are held in memory at a time


_ROUNDING = 1e-12  # of what is compared


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Returns log(p_k / (1 − p_k)) of the softmax probabilities, (N, K).

    It ranks images exactly as p_k does, but keeps ranking them where p_k rounds to 1: a saturated model would otherwise
    tie all its surest images.
    """
    z = np.asarray(logits, np.float64)
    classes = range(z.shape[1])
    rest = np.stack([logsumexp(np.delete(z, k, axis=1), axis=1) for k in classes], axis=1)
    result: np.ndarray = z - rest
    return result


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
    variance = (
        placements[positive].var(ddof=1) / n_positive
        + placements[~positive].var(ddof=1) / n_negative
    )
    return auc, float(variance)


def has_exact_interval(auc: float) -> bool:
    """Says whether `auc_interval` takes the exact binomial interval of an AUC instead of DeLong's."""
    return auc in (0.0, 1.0)


def auc_interval(
    auc: float, variance: float, smallest_group: int, confidence: float = CONFIDENCE
) -> Interval:
    """Returns the logit-transformed normal interval of an AUC.

    At an AUC of exactly 1 (or 0) the estimated variance is 0 and useless. Then the interval is exact instead: n
    disjoint pairs of a positive and a negative image are n independent trials that succeed with probability AUC, so n
    successes exclude, as for any proportion, an AUC below (α/2)^(1/n). It makes no assumption about the scores.

    Args:
        auc: The estimate.
        variance: Its variance; NaN gives an interval of NaNs.
        smallest_group: n, the number of images in the smallest group compared.
        confidence: The two-sided confidence level.
    """
    tail = (1 - confidence) / 2
    if has_exact_interval(auc):
        bound = tail ** (1 / smallest_group)
        return Interval(auc, bound, 1.0) if auc == 1.0 else Interval(auc, 0.0, 1 - bound)
    if not np.isfinite(auc) or not np.isfinite(variance):
        return Interval(auc, float("nan"), float("nan"))
    half = norm.isf(tail) * np.sqrt(variance) / (auc * (1 - auc))
    return Interval(auc, float(expit(logit(auc) - half)), float(expit(logit(auc) + half)))


def class_aucs(
    labels: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE
) -> list[Interval]:
    """Returns the one-vs-rest AUC of each class with DeLong's interval; NaN for a class without images."""
    intervals = []
    for k in range(scores.shape[1]):
        positive = labels == k
        auc, variance = delong(scores[:, k], positive)
        intervals.append(
            auc_interval(auc, variance, int(min(positive.sum(), (~positive).sum())), confidence)
        )
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
    aucs, terms = _auc_terms(labels, scores, present)
    # All AUCs being 1 is no more likely than the worst one being 1, so the smallest class bounds the macro AUC too.
    smallest = min(int(np.sum(labels == k)) for k in present)
    return auc_interval(
        float(np.mean(aucs)), _stratified_variance(terms, labels), smallest, confidence
    )


def micro_auc(labels: np.ndarray, scores: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Returns the AUC over all N · K pairs of an image and a class, the right ones against the wrong ones, with its interval.

    The K pairs of an image are not independent, so that each image is a cluster in the sense of Obuchowski 1997
    (Biometrics 53, 567): its term is the sum over its pairs of their structural components by the number of pairs on
    their side, and the variance is that of `macro_auc`.
    """
    smallest = min(int(np.sum(labels == k)) for k in np.unique(labels))
    positive = np.arange(scores.shape[1]) == labels[:, None]
    placements = structural_components(scores.ravel(), positive.ravel()).reshape(positive.shape)
    terms = (placements / np.where(positive, positive.sum(), (~positive).sum())).sum(axis=1)
    return auc_interval(
        float(placements[positive].mean()),
        _stratified_variance(terms, labels),
        smallest,
        confidence,
    )


def _auc_terms(
    labels: np.ndarray, scores: np.ndarray, classes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the AUC of each of the classes and each image's term (N,) in their mean, see `macro_auc`."""
    terms, aucs = np.zeros(len(labels)), np.empty(len(classes))
    for place, k in enumerate(classes):
        positive = labels == k
        placements = structural_components(scores[:, k], positive)
        aucs[place] = placements[positive].mean()
        terms += placements / np.where(positive, positive.sum(), (~positive).sum()) / len(classes)
    return aucs, terms


def _stratified_variance(terms: np.ndarray, strata: np.ndarray) -> float:
    """Returns the variance of the sum of independent terms (N,), alike within each stratum; NaN if one has a single image."""
    groups = [terms[strata == stratum] for stratum in np.unique(strata)]
    if min(map(len, groups)) < 2:
        return float("nan")
    return float(sum(len(group) * group.var(ddof=1) for group in groups))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Returns counts, (K, K) int: true class by row, predicted class by column."""
    from sklearn.metrics import confusion_matrix as counts

    result: np.ndarray = counts(labels, predicted, labels=np.arange(n_classes))
    return result


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the false and true positive rates of the ROC curve's corners, from (0, 0) to (1, 1)."""
    from sklearn.metrics import roc_curve as curve

    false_rate, true_rate, _ = curve(positive, scores)
    return false_rate, true_rate


def balanced_accuracy(
    hits: np.ndarray, sizes: np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """Returns the mean recall over the classes that have images, with its interval.

    Wilson's intervals (l_k, u_k) of the independent recalls r_k are combined to mean ∓ √Σ (r_k − l_k)² / K, and with u_k
    upwards ("MOVER", Zou & Donner 2008, Stat. Med. 27, 1693). It stays in [0, 1] and is Wilson's own for one class.

    Args:
        hits: (K,) correct images of each true class.
        sizes: (K,) images of each.
        confidence: Two-sided.
    """
    recalls = [wilson(int(h), int(n), confidence) for h, n in zip(hits, sizes) if n]
    mean = float(np.mean([r.value for r in recalls]))
    below = np.sqrt(sum((r.value - r.low) ** 2 for r in recalls)) / len(recalls)
    above = np.sqrt(sum((r.high - r.value) ** 2 for r in recalls)) / len(recalls)
    return Interval(mean, float(mean - below), float(mean + above))


def bootstrap_weights(labels: np.ndarray, resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields how often each image is drawn in each resample, (R, N) int32 with R as memory allows, ``resamples`` rows in all.

    Images are drawn with replacement within each true class, so that every resample has the classes' own sizes: as the
    test sets that it stands for have.
    """
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    step = max(1, _AT_ONCE // len(labels))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        weights = np.empty((rows, len(labels)), np.int32)
        for where in strata:
            n = len(where)
            drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
            weights[:, where] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        yield weights


def ranking_measures(
    weights: np.ndarray,
    scores: np.ndarray,
    positive: np.ndarray,
    rates: Sequence[float] = FALSE_POSITIVE_RATES,
) -> np.ndarray:
    """Returns average precision, and the true positive rate at each false positive rate, for each weighting of the images.

    Average precision is Σ (R_n − R_{n−1}) P_n over the distinct scores, as in scikit-learn. The threshold for a rate is
    the lowest score at which no more than that share of the negatives is taken for positive.

    Args:
        weights: (R, N) not negative; every row must have positives and negatives.
        scores: (N,) higher means more likely positive.
        positive: (N,) bool.
        rates: False positive rates.

    Returns:
        (R, 1 + number of rates).
    """
    ups, downs = (
        np.flatnonzero(group)[np.argsort(-scores[group], kind="stable")]
        for group in (positive, ~positive)
    )
    up, down = -scores[ups], -scores[downs]  # ascending, for searchsorted
    weight = weights.take(ups, axis=1)
    hits, false = _running_sums(weight), _running_sums(weights.take(downs, axis=1))
    # How many positives and negatives score at least as high as each positive: images of one score are taken together.
    caught = hits.take(np.searchsorted(up, up, side="right"), axis=1)
    taken = caught + false.take(np.searchsorted(down, up, side="right"), axis=1)
    found = np.empty((len(weights), 1 + len(rates)))
    found[:, 0] = np.einsum("rn,rn->r", weight, caught / np.maximum(taken, 1)) / hits[:, -1]
    if len(np.unique(down)) == len(down):
        at_score = false[:, 1:]  # false positives when each negative's score is the threshold
    else:
        at_score = false.take(np.searchsorted(down, down, side="right"), axis=1)
    above = np.append(
        np.searchsorted(up, down, side="left"), len(up)
    )  # positives before the first negative left out
    rows = np.arange(len(weights))
    for column, rate in enumerate(rates, 1):
        admitted = np.count_nonzero(at_score <= rate * false[:, -1:] * (1 + 1e-12), axis=1)
        found[:, column] = hits[rows, above[admitted]] / hits[:, -1]
    return found


def _running_sums(weights: np.ndarray) -> np.ndarray:
    """Returns the sums of the first 0, 1, …, M weights of each row (R, M), (R, M + 1)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), weights.dtype)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def confidence_bins(probabilities: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Returns the number (N,) of the equal bin of the highest probability that each image falls into."""
    result: np.ndarray = np.minimum((probabilities.max(axis=1) * n_bins).astype(int), n_bins - 1)
    return result


def reliability(
    labels: np.ndarray,
    probabilities: np.ndarray,
    n_bins: int = N_BINS,
    confidence: float = CONFIDENCE,
) -> list[dict[str, Any]]:
    """Returns, for each equal bin of the highest probability that holds images, ``n``, ``confidence`` (its mean) and ``accuracy``."""
    bins, top = confidence_bins(probabilities, n_bins), probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    return [
        {
            "n": int(inside.sum()),
            "confidence": float(top[inside].mean()),
            "accuracy": wilson(int(right[inside].sum()), int(inside.sum()), confidence),
        }
        for inside in (bins == number for number in np.unique(bins))
    ]


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> float:
    """Returns the expected calibration error: mean |confidence − accuracy| over equal bins of the top probability."""
    weights = np.ones((1, len(labels)))
    return float(_binned_error(weights @ _gaps(labels, probabilities, n_bins), len(labels))[0])


def _gaps(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Returns confidence − correctness of each image in the column of its bin, (N, n_bins)."""
    gaps = np.zeros((len(labels), n_bins))
    right = probabilities.argmax(axis=1) == labels
    gaps[np.arange(len(labels)), confidence_bins(probabilities, n_bins)] = (
        probabilities.max(axis=1) - right
    )
    return gaps


def _binned_error(sums: np.ndarray, n: int) -> np.ndarray:
    result: np.ndarray = np.abs(sums).sum(axis=-1) / n
    return result


def _losses(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns each image's negative log-likelihood, Brier score and gaps by bin, (N, 2 + N_BINS)."""
    probabilities = softmax(logits, axis=1)
    nll = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    brier = ((probabilities - np.eye(logits.shape[1])[labels]) ** 2).sum(axis=1)
    return np.column_stack([nll, brier, _gaps(labels, probabilities)])


def _quality(sums: np.ndarray, n: int) -> np.ndarray:
    """Returns NLL, Brier score and ECE, (R, 3), of sums (R, 2 + N_BINS) over n images."""
    return np.column_stack([sums[:, :2] / n, _binned_error(sums[:, 2:], n)])


def _percentiles(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    """Returns the bootstrap's percentile interval; NaN if all resamples are equal."""
    if len(drawn) < 2 or np.ptp(drawn) == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(min(low, value)), float(max(high, value)))


def _mirrored(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    """Returns the bootstrap's pivotal interval, for what is biased upwards.

    A calibration error sums absolute values, so that chance alone makes it positive, and makes that of a resample larger
    by as much again. Mirrored at the value, the resamples point to where the truth lies.
    """
    plain = _percentiles(value, drawn, confidence)
    if np.isnan(plain.low):
        return plain
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        value, float(np.clip(2 * value - high, 0, value)), float(max(2 * value - low, value))
    )


def _at_least_wilson(
    interval: Interval, successes: int, trials: int, confidence: float
) -> Interval:
    """Returns the interval, no narrower than that of a rate at a fixed threshold: 1000 of 1000 is not certainty."""
    fixed = wilson(successes, trials, confidence)
    low, high = np.fmin(interval.low, fixed.low), np.fmax(interval.high, fixed.high)
    return Interval(interval.value, float(low), float(high))


def paired_difference(
    labels: np.ndarray,
    logits: np.ndarray,
    reference: np.ndarray,
    k: int | None = None,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Returns by how much one model's AUC exceeds another's on the same images: that of class ``k``, or the macro AUC.

    To first order an AUC is a sum of one term per image (`macro_auc`); the variance of the difference is that of the
    terms' differences, so that images which are hard for both models do not count against either. For a single class
    it is the test of DeLong et al. 1988 for correlated ROC curves. A difference without variance has neither interval nor
    p-value, unless it is 0. Intervals end at -1 and 1, as differences do.

    Args:
        labels: (N,) int.
        logits: (N, K) of the model.
        reference: (N, K) of the model that it is compared with.
        k: A class that has images, and that not all images have; the macro AUC over the classes with images if None.
        confidence: Two-sided.
    """
    classes, strata = (np.unique(labels).tolist(), labels) if k is None else ([k], labels == k)
    (mine, terms), (theirs, others) = (
        _auc_terms(labels, log_odds(z), classes) for z in (logits, reference)
    )
    value = float(mine.mean() - theirs.mean())
    apart = terms - others
    error = np.sqrt(_stratified_variance(apart, strata))
    # Both rank alike, or all images are placed differently by the same amount: without variance but for rounding.
    if error <= _ROUNDING * np.linalg.norm(apart):
        return (
            Difference(0.0, 0.0, 0.0, 1.0)
            if abs(value) <= _ROUNDING
            else Difference(value, *[float("nan")] * 3)
        )
    half = norm.isf((1 - confidence) / 2) * error
    return Difference(
        value,
        float(np.maximum(value - half, -1)),
        float(np.minimum(value + half, 1)),
        float(2 * norm.sf(abs(value) / error)),
    )


def paired_accuracy(
    right: np.ndarray, reference: np.ndarray, confidence: float = CONFIDENCE
) -> Difference:
    """Returns by how much one model's accuracy exceeds another's on the same images.

    The p-value is McNemar's, exact: of the images on which one model is right and the other wrong, as many would favour
    either. The interval is the adjusted Wald interval of Agresti & Min 2005 (Stat. Med. 24, 729): half an image more in
    each of the four cells.

    Args:
        right: (N,) bool, whether the model is right.
        reference: (N,) bool, of the other model.
        confidence: Two-sided.
    """
    n, gained, lost = len(right), int(np.sum(right & ~reference)), int(np.sum(~right & reference))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    more, less, total = gained + 0.5, lost + 0.5, n + 2
    centre = (more - less) / total
    half = (
        norm.isf((1 - confidence) / 2) * np.sqrt((more + less) / total - centre**2) / np.sqrt(total)
    )
    value = (gained - lost) / n
    low, high = max(-1.0, float(centre - half)), min(1.0, float(centre + half))
    return Difference(value, min(value, low), max(value, high), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values corrected for their number (Holm 1979, Scand. J. Stat. 6, 65); NaN stays and does not count."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    corrected = np.full(len(p), np.nan)
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected.tolist()


def by_bins(
    values: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    right: np.ndarray,
    k: int | None = None,
    *,
    n_bins: int = 8,
    least: int = 50,
) -> list[dict[str, Any]]:
    """Returns accuracy and AUC in bins of equally many images by a parameter.

    Args:
        values: (N,) of the parameter, NaN where an image has none.
        labels: (N,) int.
        scores: (N, K).
        right: (N,) bool, whether the image is classified correctly.
        k: The class that alone has the parameter. Its images of a bin are then ranked against all images of other
            classes. If None, the AUC is the macro AUC among the images of the bin.
        n_bins: At most.
        least: Images of a bin; with fewer images there are fewer bins.

    Returns:
        For each bin ``from``, ``to``, ``n``, ``accuracy`` and ``auc`` (`Interval`); nothing if there are not two bins.
    """
    known = np.isfinite(values) if k is None else np.isfinite(values) & (labels == k)
    number = min(n_bins, int(known.sum()) // least)
    if number < 2:
        return []
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, number + 1)))
    if len(edges) < 3:
        return []
    bins = np.where(
        known, np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2), -1
    )
    rows = []
    for place, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
        inside = bins == place
        n = int(inside.sum())
        if k is None:
            auc = macro_auc(labels[inside], scores[inside])
        else:
            ranked = inside | (labels != k)
            auc = auc_interval(
                *delong(scores[ranked, k], inside[ranked]), min(n, int((labels != k).sum()))
            )
        accuracy = wilson(int(right[inside].sum()), n)
        rows.append({"from": start, "to": stop, "n": n, "accuracy": accuracy, "auc": auc})
    return rows


def classification_metrics(
    labels: np.ndarray,
    logits: np.ndarray,
    class_names: tuple[str, ...],
    confidence: float = CONFIDENCE,
    temperature: float = 1.0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Returns every number of an evaluation.

    Args:
        labels: (N,) int, indices into ``class_names``.
        logits: (N, K) unnormalised log probabilities, before any temperature.
        class_names: The K names.
        confidence: Of all intervals.
        temperature: Divides the logits before they become probabilities. Ranks within an image and the AUCs, which are
            those of the network's own logits, do not depend on it.
        resamples: Of the bootstrap; 0 leaves out its intervals.

    Returns:
        All as `Interval` unless said otherwise: ``macro_auc``, ``micro_auc``, ``macro_average_precision``, ``accuracy``,
        ``balanced_accuracy`` (over the classes that have images), ``nll`` (nats per image), ``brier`` (sum over
        classes, mean over images) and ``ece`` of the probabilities with the temperature; ``calibration``: the
        ``temperature`` and, ``before`` and ``after`` it, those three and ``reliability``; ``confusion`` (K, K) counts;
        ``per_class``: for each class ``n``, its images, ``auc``, ``average_precision``, ``tpr_at_fpr`` (by rate; NaN
        where a single negative is more than the rate), ``recall`` and ``precision``.
    """
    labels, logits = np.asarray(labels), np.asarray(logits, np.float64)
    n, scores = len(labels), log_odds(logits)
    predicted = logits.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, len(class_names))
    hits, sizes = np.diag(confusion), confusion.sum(axis=1)
    stages = {"before": logits}
    if temperature != 1:
        stages["after"] = logits / temperature
    ranked = [k for k in range(len(class_names)) if 0 < sizes[k] < n]
    found = _bootstrapped(labels, scores, list(stages.values()), ranked, resamples)

    calibration: dict[str, Any] = {"temperature": float(temperature)}
    for place, (stage, z) in enumerate(stages.items()):
        calibration[stage] = {
            **_quality_intervals(found, place, confidence),
            "reliability": reliability(labels, softmax(z, axis=1), confidence=confidence),
        }
    delivered = calibration["after" if "after" in stages else "before"]
    return {
        "n_images": n,
        "macro_auc": macro_auc(labels, scores, confidence),
        "micro_auc": micro_auc(labels, scores, confidence),
        "macro_average_precision": _macro_precision(found, confidence),
        "accuracy": wilson(int((predicted == labels).sum()), n, confidence),
        "balanced_accuracy": balanced_accuracy(hits, sizes, confidence),
        **{key: delivered[key] for key in _QUALITY},
        "calibration": calibration,
        "confusion": confusion,
        "per_class": _per_class(labels, scores, class_names, confusion, found, confidence),
        "confidence": confidence,
        "resamples": resamples,
    }


_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class _Bootstrapped:
    """Measures of the test set and of R bootstrap resamples of it.

    Attributes:
        ranked: The C classes that some images have, and some have not.
        ranking: (C, 1 + rates) of `ranking_measures`.
        ranking_drawn: (R, C, 1 + rates) of the resamples.
        quality: (S, 3) NLL, Brier score and ECE of the S stages of calibration.
        quality_drawn: (R, S, 3) of the resamples.
    """

    ranked: list[int]
    ranking: np.ndarray
    ranking_drawn: np.ndarray
    quality: np.ndarray
    quality_drawn: np.ndarray


def _bootstrapped(
    labels: np.ndarray,
    scores: np.ndarray,
    stages: Sequence[np.ndarray],
    ranked: list[int],
    resamples: int,
) -> _Bootstrapped:
    n = len(labels)
    losses = np.concatenate([_losses(labels, z) for z in stages], axis=1)

    def measure(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ranking = [ranking_measures(weights, scores[:, k], labels == k) for k in ranked]
        sums = np.split(weights.astype(np.float64) @ losses, len(stages), axis=1)
        quality = np.stack([_quality(part, n) for part in sums], axis=1)
        return np.stack(ranking, axis=1) if ranked else np.empty((len(weights), 0, 3)), quality

    ranking, quality = measure(np.ones((1, n), np.int32))
    drawn = [measure(weights) for weights in bootstrap_weights(labels, resamples)]
    return _Bootstrapped(
        ranked,
        ranking[0],
        np.concatenate([part[0] for part in drawn] or [ranking[:0]]),
        quality[0],
        np.concatenate([part[1] for part in drawn] or [quality[:0]]),
    )


def _quality_intervals(found: _Bootstrapped, stage: int, confidence: float) -> dict[str, Interval]:
    """Returns NLL, Brier score and ECE of a stage of calibration with their intervals."""
    return {
        key: interval_of(
            float(found.quality[stage, i]), found.quality_drawn[:, stage, i], confidence
        )
        for i, (key, interval_of) in enumerate(_QUALITY.items())
    }


def _macro_precision(found: _Bootstrapped, confidence: float) -> Interval:
    """Returns the mean average precision over the ranked classes."""
    if not found.ranked:
        return _UNKNOWN
    means = found.ranking_drawn[:, :, 0].mean(axis=1)
    return _percentiles(float(found.ranking[:, 0].mean()), means, confidence)


def _per_class(
    labels: np.ndarray,
    scores: np.ndarray,
    class_names: tuple[str, ...],
    confusion: np.ndarray,
    found: _Bootstrapped,
    confidence: float,
) -> dict[str, dict[str, Any]]:
    hits, sizes, claims = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        name: {
            "n": int(sizes[k]),
            "auc": auc,
            **_ranking_intervals(found, k, int(sizes[k]), len(labels), confidence),
            "recall": wilson(int(hits[k]), int(sizes[k]), confidence),
            "precision": float(hits[k] / claims[k]) if claims[k] else float("nan"),
        }
        for k, (name, auc) in enumerate(zip(class_names, class_aucs(labels, scores, confidence)))
    }


def _ranking_intervals(
    found: _Bootstrapped, k: int, size: int, n: int, confidence: float
) -> dict[str, Any]:
    """Returns average precision and the true positive rates of a class of ``size`` images among n."""
    precision, rates = _UNKNOWN, dict.fromkeys(map(str, FALSE_POSITIVE_RATES), _UNKNOWN)
    if k in found.ranked:
        place = found.ranked.index(k)
        value, drawn = found.ranking[place].tolist(), found.ranking_drawn[:, place]
        precision = _percentiles(value[0], drawn[:, 0], confidence)
        for column, rate in enumerate(FALSE_POSITIVE_RATES, 1):
            # As in ranking_measures: rounding must not decide.
            if rate * (n - size) * (1 + 1e-12) >= 1:
                interval = _percentiles(value[column], drawn[:, column], confidence)
                caught = round(value[column] * size)
                rates[str(rate)] = _at_least_wilson(interval, caught, size, confidence)
    return {"average_precision": precision, "tpr_at_fpr": rates}


_QUALITY = {"nll": _percentiles, "brier": _percentiles, "ece": _mirrored}
"""Measures of probabilities, in the order of `_quality`, and the kind of their intervals."""
