import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.data import split_of_groups, stratified_split
from haloformer.errors import InputError


@given(
    counts=st.lists(st.integers(20, 200), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 1),
    shares=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_parts_are_disjoint_exhaustive_balanced_and_repeatable(counts, seed, shares):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    fractions = {f"part{i}": share / sum(shares) for i, share in enumerate(shares)}
    parts = stratified_split(labels, fractions, seed)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for name, share in fractions.items():
        for label, count in enumerate(counts):
            assert abs((labels[parts[name]] == label).sum() - share * count) < 1
    again = stratified_split(labels, fractions, seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_a_split_is_the_same_for_ever():
    parts = stratified_split(np.arange(12) % 3, {"train": 0.75, "val": 0.25}, seed=1)
    assert parts["val"].tolist() == [2, 3, 4]


def test_another_seed_gives_another_split():
    labels = np.arange(300) % 3
    fractions = {"train": 0.8, "val": 0.2}
    assert not np.array_equal(
        stratified_split(labels, fractions, 0)["val"], stratified_split(labels, fractions, 1)["val"]
    )


@pytest.mark.parametrize(
    ("labels", "fractions", "message"),
    [
        ([0] * 10 + [1], {"train": 0.5, "val": 0.5}, "too few images of class 1, 1, for"),
        ([0] * 10, {"train": 0.99, "val": 0.01}, "too few images of class 0, 10, for"),
        ([0] * 10, {"train": 0.5, "val": 0.4}, "add up to 0.9"),
        ([0] * 10, {"train": 1.5, "val": -0.5}, "share above 0"),
        ([0] * 10, {}, "share above 0"),
        ([], {"train": 1.0}, "one label per image"),
    ],
)
def test_a_split_that_cannot_be_made_says_why(labels, fractions, message):
    with pytest.raises(InputError, match=message):
        stratified_split(np.array(labels, dtype=int), fractions, 0)


def test_what_is_too_few_is_told_by_the_name_of_its_class():
    labels = np.array([0] * 10 + [1])
    with pytest.raises(
        InputError, match=r"too few images of cdm, 1, for a split \(train 50%, val 50%\)"
    ):
        stratified_split(labels, {"train": 0.5, "val": 0.5}, 0, ("axion", "cdm"))


def test_images_of_one_lens_stay_together():
    lenses, labels = np.arange(300) // 3, np.arange(300) % 3
    parts = split_of_groups(lenses, labels, {"train": 0.8, "val": 0.2}, seed=1)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(300))
    assert set(lenses[parts["train"]]).isdisjoint(lenses[parts["val"]])
    assert np.bincount(labels[parts["val"]]).tolist() == [20, 20, 20]


def test_a_part_without_a_class_is_refused():
    lenses, labels = np.arange(6) // 3, np.array([0, 0, 0, 1, 1, 1])
    with pytest.raises(InputError, match="too few lenses"):
        split_of_groups(lenses, labels, {"train": 0.5, "val": 0.5}, seed=1)


@pytest.mark.parametrize("labels", [[0.2, 0.7] * 10, ["a", "b"] * 10, [True, False] * 10])
def test_labels_are_whole_numbers(labels):
    with pytest.raises(InputError, match=r"^labels must be whole numbers, not "):
        stratified_split(np.array(labels), {"train": 0.5, "val": 0.5}, seed=1)
