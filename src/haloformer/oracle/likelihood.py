"""From realisations of dark matter to answers: likelihood ratios of classes, learned from some realisations and tested on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_PARTS = (0.4, 0.65, 0.8)
"""Of the realisations: up to the first they give directions, up to the second sizes, up to the third the weights of the likelihoods; the
rest is tested."""

_GROUPS = 3  # by size: a class's dark matter is strong in some images and weak in others
_NOISES = 4  # of each realisation

Signals = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What an observer works out from images with noise of one lens.

    Attributes:
        labels: (N,) classes.
        ratios: (N, F) log likelihood ratios of kinds of dark matter against a smooth lens.
    """

    labels: np.ndarray
    ratios: np.ndarray


@dataclass(frozen=True)
class _Gaussian:
    """Gaussian signals of mean 0: along directions, and in each pixel beside them.

    Attributes:
        directions: (R, D), orthonormal.
        along: (R,) variances along these.
        beside: (D,) variances of what is left.
    """

    directions: np.ndarray
    along: np.ndarray
    beside: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> "_Gaussian":
        """Learns from signals (B, D) the directions, and from others how large they are, so that chance is not taken for size."""
        _, values, directions = np.linalg.svd(first, full_matrices=False)
        directions = directions[values > 1e-6 * max(values[0], 1e-30)]
        amounts = second @ directions.T
        left = second - amounts @ directions
        return cls(directions, (amounts**2).mean(0), (left**2).mean(0))

    def log_ratio(self, seen: np.ndarray) -> np.ndarray:
        """Returns (N,) log p(seen | signals) − log p(seen | none) of (N, D), in noise of variance 1."""
        amounts = seen @ self.directions.T
        left = seen - amounts @ self.directions
        found: np.ndarray = _ratio(amounts, self.along) + _ratio(left, self.beside)
        return found


def _ratio(values: np.ndarray, variance: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.5 * (values**2 @ (variance / (1 + variance)) - np.log1p(variance).sum())
    return found


def _by_size(signals: np.ndarray) -> list[np.ndarray]:
    order = np.argsort((signals**2).sum(1))
    return [signals[rows] for rows in np.array_split(order, _GROUPS)]


class _Class:
    """What was learned of a class: Gaussian signals of several sizes, and realisations themselves."""

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        pairs = zip(_by_size(first), _by_size(second))
        self.sizes = [_Gaussian.of(*pair) for pair in pairs]
        self.known = np.concatenate([first, second])

    def log_ratios(self, seen: np.ndarray) -> list[np.ndarray]:
        """Returns the log likelihood ratios (N,) of each size, and of being one of the realisations that are known."""
        like = self.known @ seen.T - 0.5 * (self.known**2).sum(1)[:, None]
        found = np.logaddexp.reduce(like, axis=0) - np.log(len(like))
        return [*(size.log_ratio(seen) for size in self.sizes), found]


def observe(signals: Signals, names: Sequence[str], rng: np.random.Generator) -> tuple[Seen, Seen]:
    """Lets an observer who knows one lens, and realisations of each class's dark matter in it, look at other realisations.

    Args:
        signals: Class → (B, D) of its realisations in white noise of variance 1; classes that are not there are smooth.
        names: Classes in order.
        rng: Of the noise.

    Returns:
        What she works out of images that weights are learned from, and of those that are tested.
    """
    parts = {name: _parted(s) for name, s in signals.items()}
    classes = [_Class(first, second) for first, second, _, _ in parts.values()]
    found = []
    for k in (2, 3):
        count = max(len(part[k]) for part in parts.values())
        nothing = np.zeros((count, next(iter(signals.values())).shape[1]), np.float32)
        labels, ratios = [], []
        for label, name in enumerate(names):
            signal = parts[name][k] if name in parts else nothing
            signal = np.repeat(signal, _NOISES, axis=0)
            seen = signal + rng.standard_normal(signal.shape, np.float32)
            columns = [ratio for each in classes for ratio in each.log_ratios(seen)]
            labels.append(np.full(len(seen), label))
            ratios.append(np.stack(columns, axis=1))
        found.append(Seen(np.concatenate(labels), np.concatenate(ratios)))
    return found[0], found[1]


def _parted(signals: np.ndarray) -> list[np.ndarray]:
    return np.split(signals, [int(part * len(signals)) for part in _PARTS])


def answers(first: Sequence[Seen], second: Sequence[Seen]) -> list[np.ndarray]:
    """Returns the log-probabilities (N, K) of the classes that an observer gives to what she tests.

    Each likelihood is an approximation; how far to trust which is learned from other realisations of all lenses, by gradient boosting. So
    what she reaches can be reached.

    Args:
        first: Of each lens, what she learns from.
        second: Of each lens, what is tested.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.08, max_leaf_nodes=12, l2_regularization=1.0, random_state=0)  # fmt: skip
    model.fit(
        np.concatenate([seen.ratios for seen in first]),
        np.concatenate([seen.labels for seen in first]),
    )
    return [np.log(np.clip(model.predict_proba(seen.ratios), 1e-12, 1)) for seen in second]


def known(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns the log likelihood ratios of an observer who knows two signals and asks which of them it is: nobody can do better.

    Args:
        first: (B, D) signals in white noise of variance 1.
        second: (B, D).
        rng: Of the noise.

    Returns:
        (4 B,) where it is the first, and (4 B,) where it is the second.
    """
    distance = np.repeat(np.sqrt(((first - second) ** 2).sum(1)), _NOISES)
    half = 0.5 * distance**2
    noise = rng.standard_normal((2, len(distance))) * distance
    return half + noise[0], -half + noise[1]
