"""Seeded, stratified splits: the same labels, fractions and seed give the same split everywhere."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from haloformer.errors import InputError
from haloformer.validation import whole_numbers


def stratified_split(
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    class_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Splits images into named parts with the same share of every class.

    Args:
        labels: (N,) integers.
        fractions: Part → share of the images, adding up to 1, such as ``{"train": 0.9, "val": 0.1}``.
        seed: Chooses the split.
        class_names: Of the labels, for messages.

    Returns:
        Part → sorted indices; the parts are disjoint and together hold every image once.

    Raises:
        InputError: Shares that do not add up to 1, or a class with too few images to be in every part.
    """
    labels = whole_numbers(labels, "labels")
    if labels.ndim != 1 or not len(labels):
        raise InputError(f"a split needs one label per image, not labels of shape {labels.shape}")
    if not fractions or any(not 0 < share <= 1 for share in fractions.values()):
        raise InputError(
            f"every part of a split needs a share above 0 and up to 1, not {dict(fractions)}"
        )
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise InputError(
            f"the shares of a split add up to {sum(fractions.values()):g}, not 1: {dict(fractions)}"
        )

    parts: dict[str, list[np.ndarray]] = {name: [] for name in fractions}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        counts = _counts(len(members), np.array(list(fractions.values())))
        if counts.min() < 1:
            raise InputError(
                f"too few images of {_name(label, class_names)}, {len(members)}, for a split ({_in_words(fractions)}): every part needs one"
            )
        # One generator per class: the split of a class does not depend on which others are there. Its raw output is what
        # numpy promises never to change, so a split stays what it is across versions.
        order = members[
            np.argsort(np.random.PCG64([seed, int(label)]).random_raw(len(members)), kind="stable")
        ]
        for name, chosen in zip(parts, np.split(order, np.cumsum(counts)[:-1]), strict=True):
            parts[name].append(chosen)
    return {name: np.sort(np.concatenate(chosen)) for name, chosen in parts.items()}


def split_of_groups(
    groups: np.ndarray,
    labels: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
    class_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Splits images into named parts, those of one group into the same part: images of one lens are no test of each other.

    Args:
        groups: (N,) integers.
        labels: (N,) integers: every part gets images of each of them.
        fractions: Part → share of the groups, adding up to 1.
        seed: Chooses the split.
        class_names: Of the labels, for messages.

    Returns:
        Part → sorted indices, as :func:`stratified_split`.

    Raises:
        InputError: As there, or a class has no image in some part.
    """
    names, group = np.unique(groups, return_inverse=True)
    parts = stratified_split(np.zeros(len(names), int), fractions, seed, ["any class"])
    found = {name: np.flatnonzero(np.isin(group, chosen)) for name, chosen in parts.items()}
    for name, indices in found.items():
        if missing := set(np.unique(labels)) - set(labels[indices]):
            raise InputError(
                f"{_name(min(missing), class_names)} has no image in {name}: images of one lens are kept together, and there are too few lenses for a split ({_in_words(fractions)})"
            )
    return found


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return f"class {label}" if class_names is None else class_names[label]


def _in_words(fractions: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {share:.0%}" for part, share in fractions.items())


def _counts(n: int, shares: np.ndarray) -> np.ndarray:
    """Rounds n · shares to integers that add up to n, giving the largest remainders one more."""
    exact = n * shares / shares.sum()
    counts: np.ndarray = np.floor(exact + 1e-9).astype(int)
    missing = n - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts
