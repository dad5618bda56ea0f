"""One rule from numbers to an answer: nothing is said of what is flagged, and no mass of a particle that is not there."""

import torch

from haloformer.outputs.decision import decide

NAMES = ("axion", "cdm", "no_sub")
TARGETS = ("log10_m_axion", "log10_m_subhalos")
PROBABILITIES = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
FLAGGED = torch.tensor([False, False, False, True])


def answers(flagged=FLAGGED, names=NAMES, probabilities=PROBABILITIES, **options):
    values = torch.arange(8.0).reshape(4, 2)
    estimates = {key: values + k for k, key in enumerate(("mean", "sigma", "low", "high"))}
    return estimates, decide(names, probabilities, TARGETS, estimates, flagged, **options)


def test_a_flagged_image_has_no_class_and_no_estimates_and_keeps_its_probabilities():
    _, found = answers()
    assert found.classes == ["axion", "cdm", "no_sub", "unknown"]
    assert torch.equal(found.probabilities, PROBABILITIES)
    assert all(values[3].isnan().all() for values in found.estimates.values())


def test_a_mass_is_that_of_an_image_of_its_own_class():
    given, found = answers()
    for key, values in found.estimates.items():
        expected = torch.tensor([[True, False], [False, True], [False, False], [False, False]])
        assert torch.equal(values.isfinite(), expected)
        assert torch.equal(values[expected], given[key][expected])


def test_raw_answers_are_those_of_the_network():
    given, found = answers(raw=True)
    assert found.classes == ["axion", "cdm", "no_sub", "axion"]
    assert all(torch.equal(found.estimates[key], values) for key, values in given.items())


def test_a_model_without_classes_estimates_all_that_is_not_flagged():
    _, found = answers(names=(), probabilities=None)
    assert found.classes == []
    assert torch.equal(found.estimates["mean"].isnan().all(dim=1), FLAGGED)
    assert torch.equal(found.estimates["mean"].isfinite().all(dim=1), ~FLAGGED)


def test_what_is_given_is_not_changed():
    given, _ = answers()
    assert not any(values.isnan().any() for values in given.values())
