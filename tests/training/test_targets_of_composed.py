"""Regressions of surveys whose components say masses under names of their own."""

import numpy as np
import pytest

from haloformer.data import LensDataset
from haloformer.errors import InputError
from haloformer.outputs.targets import target_values
from haloformer.simulation import Simulator
from haloformer.training import survey_feed
from haloformer.training.config import compose
from haloformer.training.labels import Labelling
from haloformer.training.survey_feed import open_survey_feed


def experiment(**options):
    return compose(
        "classify_and_weigh",
        {"model": "resnet_nano", "epochs": 1, "val_size": 60, "epoch_size": 64, "out": "x"} | options,
    )  # fmt: skip


def test_a_target_that_the_survey_lacks_is_refused_before_images_are_made(monkeypatch):
    def none(*_):
        raise AssertionError("images were made")

    monkeypatch.setattr(survey_feed, "_simulated", none)
    with pytest.raises(InputError, match="those of class axion have it, where their survey draws"):
        open_survey_feed(experiment(data="common_task"))


def test_subhalos_of_axions_are_not_those_of_the_target():
    simulator = Simulator("model_iv_fair", seed=2)  # whose axions suppress subhalos
    batch = simulator.batch(range(6))
    targets = ("log10_m_subhalos", "log10_m_axion")
    labelling = Labelling.of(
        experiment(data="model_iv_fair", targets=list(targets)), batch.class_names
    )
    everywhere = target_values(targets, batch.parameters)
    assert np.isfinite(everywhere[:, 0]).tolist() == [True, True, False] * 2
    found = labelling.examples(batch).targets
    assert np.isfinite(found[:, 0]).tolist() == [False, True, False] * 2
    assert np.isfinite(found[:, 1]).tolist() == [True, False, False] * 2
    assert found[1, 0] == everywhere[1, 0]


def test_a_file_of_such_images_has_the_same_targets_as_the_stream(tmp_path):
    from haloformer.cli import main
    from haloformer.training.file_feed import FileExamples

    path = tmp_path / "x.h5"
    assert main(["simulate", "model_i_fair", "--n", "6", "--seed", "7", "--out", str(path)]) == 0
    task = experiment(data="model_i_fair", targets=["log10_m_axion", "log10_m_subhalos"])
    simulator = Simulator("model_i_fair", seed=7)
    labelling = Labelling.of(task, simulator.class_names)
    with LensDataset(path) as dataset:
        stored = FileExamples(dataset, labelling, None).targets
    made = labelling.examples(simulator.batch(range(6))).targets
    np.testing.assert_allclose(stored, made, rtol=1e-6)
    assert np.isfinite(made).sum() == 4
