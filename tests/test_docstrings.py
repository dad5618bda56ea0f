"""The examples in the docstrings of what users call run, and print what they say."""

import doctest
import importlib
import inspect

import pytest

import haloformer

RESULTS = (
    "haloformer.prediction.Predictions",
    "haloformer.prediction.Predictor",
    "haloformer.simulation.LensBatch",
    "haloformer.explanation.Explained",
    "haloformer.fitting.fit_smooth",
)
PUBLIC = [f"haloformer.{name}" for name in haloformer.__all__ if not name.startswith("__")]


def _object(place: str):
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("place", sorted({*PUBLIC, *RESULTS}))
def test_examples_of_docstrings_are_true(place, tmp_path, monkeypatch, unpictured):
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(_object(place), place)
    ran = [example for test in found for example in test.examples]
    assert ran or place.endswith(".InputError"), "no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    report: list[str] = []
    for test in found:
        runner.run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", [name for name in haloformer.__all__ if name != "__version__"])
def test_every_public_name_has_an_example_and_says_what_it_takes(name):
    thing = getattr(haloformer, name)
    text = inspect.getdoc(thing) or ""
    if name == "InputError":  # an exception is not called
        return
    assert ">>> " in text, name
    parameters = inspect.signature(thing).parameters
    for parameter in parameters.values():
        described = parameter.name.lstrip("*")
        assert f"{described}:" in text, (name, described)
