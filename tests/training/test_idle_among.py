"""Options without effect are told once for a study and a search, and frozen weights that nobody trained."""

import warnings

import pytest

from haloformer.cli.planning_training import benchmark as plan_benchmark
from haloformer.errors import InputError
from haloformer.studies.plan import parse_study, read_study
from haloformer.studies.runs import runs_of, warn_of_idle_options
from haloformer.training.config import compose
from haloformer.training.idle import IdleWarning, warn_of_idle
from haloformer.tuning.plan import read_search, warn_of_idle_search

BASE = {"data": "model_ii", "model": "vit_nano"}


def told(action, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action(*arguments)
    return [str(each.message) for each in caught if issubclass(each.category, IdleWarning)]


def of_study(variants, given=None):
    raw = {"base": BASE, "variants": variants, "seeds": 2, "title": "t", "question": "q"}
    plan = parse_study(raw, "mine")
    return told(warn_of_idle_options, plan, runs_of(plan, plan.variants), given)


def test_options_and_variants_of_a_study_that_do_nothing_are_told_in_one_line():
    usual = {"usual": {}, "other": {"lora_rank": 3}, "sgd": {"optimizer": "sgd", "momentum": 0.5}}
    assert of_study(usual, {"beta": 0.2, "momentum": 0.8}) == [
        "beta (task is classification), lora_rank (tune is full) of other have no effect in this study"
    ]
    assert of_study({"usual": {}, "higher": {"lr": 3e-3}}, {"epochs": 2}) == []


def search(tmp_path, space, base="data: model_ii, model: vit_nano"):
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {{{base}}}\nspace: {space}\ntrials: 2\n")
    return read_search(str(path))


def test_searched_fields_that_do_nothing_are_told(tmp_path):
    plan = search(tmp_path, "{momentum: {uniform: [0.1, 0.9]}, lr: {uniform: [0.001, 0.01]}}")
    assert told(warn_of_idle_search, plan, {"beta": 0.1}) == [
        "space: momentum (adamw has none): searched, but without effect in any trial",
        "beta (task is classification) has no effect in this search",
    ]
    used = "{optimizer: {choice: [adamw, sgd]}, momentum: {uniform: [0.1, 0.9]}}"
    assert told(warn_of_idle_search, search(tmp_path, used), {}) == []


@pytest.mark.parametrize("tune", ["probe", "last_blocks", "lora"])
def test_frozen_weights_that_nobody_trained_are_told(tune):
    without = told(warn_of_idle, compose(None, {**BASE, "tune": tune}))
    assert without == [
        f"tune is {tune}, but pretrained names no weights: those that stay frozen are random"
    ]
    given = compose(None, {**BASE, "tune": tune, "pretrained": "runs/x"})
    assert told(warn_of_idle, given) == []


@pytest.mark.parametrize("name", ["augmentation", "regularization", "data_size", "transfer", "zoo"])
def test_shipped_studies_have_nothing_idle(name):
    plan = read_study(name)
    assert told(warn_of_idle_options, plan, runs_of(plan, plan.variants), {}) == []


def test_patterns_that_fit_no_network_are_refused():
    for models in ("zzz*", "vit_nano,zzz*"):
        with pytest.raises(InputError, match=r"zzz\*"):
            plan_benchmark(models=models, out="nowhere")


def test_a_dry_run_refuses_what_the_benchmark_refuses():
    with pytest.raises(InputError, match="budget must be at least 64"):
        plan_benchmark(models="vit_nano", budget=0, out="nowhere")
