"""The experiment: every spelling of a value, and what is wrong told by the field's short name."""

import pickle
from pathlib import Path

import pytest
import yaml

from haloformer.errors import InputError
from haloformer.training.config import Experiment, compose


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"lr": "1e-3"}, "lr", 1e-3),
        ({"optimizer.lr": 1}, "lr", 1.0),
        ({"optimizer": {"lr": 0.1}}, "lr", 0.1),
        ({"optimizer": "sgd"}, "optimizer", "sgd"),
        ({"optimizer": {"name": "sgd"}}, "optimizer", "sgd"),
        ({"epochs": 3.0}, "epochs", 3),
        ({"precision": 32}, "precision", "32"),
        ({"data": Path("a/b.h5")}, "data", "a/b.h5"),
        ({"pretrained": Path("a.pth")}, "pretrained", "a.pth"),
        ({"pretrained": True}, "pretrained", True),
        ({"betas": (0.8, "0.9")}, "betas", [0.8, 0.9]),
        ({"targets": "log10_m_subhalos"}, "targets", ["log10_m_subhalos"]),
        (
            {"targets": "log10_m_axion, log10_m_subhalos"},
            "targets",
            ["log10_m_axion", "log10_m_subhalos"],
        ),
        ({"loggers": "wandb,mlflow"}, "loggers", ["wandb", "mlflow"]),
        ({"loggers": []}, "loggers", []),
        ({"model_args": {"depths": (2, 2)}}, "model_args", {"depths": [2, 2]}),
        ({"model_args": {"depth": 6}, "model_args.width": 9}, "model_args", {"depth": 6, "width": 9}),
        ({"model.model_args.depth": 6}, "model_args", {"depth": 6}),
        ({"img_size": None}, "img_size", None),
    ],
)  # fmt: skip
def test_each_spelling_of_a_value_is_read(options, field, value):
    flat = compose(None, options).flat()
    assert flat[field] == value
    assert type(flat[field]) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "fast"}, "lr must be a number, not 'fast'"),
        ({"lr": True}, "lr must be a number, not True"),
        ({"lr": float("inf")}, "lr must be"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
        ({"n_images": "few"}, "n_images must be a whole number or null, not 'few'"),
        ({"progress": 1}, "progress must be true or false, not 1"),
        ({"pretrained": 3}, "pretrained must be true or false or a text, not 3"),
        ({"data": 5}, "data must be a text, not 5"),
        ({"model_args": 3}, "model_args must be a mapping, not 3"),
        ({"optimizer": "adamm"}, "optimizer must be one of 'adamw', 'adam'"),
        ({"targets": ["mass"]}, "targets[0] must be one of 'log10_m_axion'"),
        ({"targets": []}, "targets must be of at least 1 item"),
        ({"betas": [0.9, 1]}, "betas[1] must be below 1, not 1"),
        ({"exposure": [1]}, "exposure[1] is missing"),
        ({"exposure": [1, 2]}, "fresh_noise must be original or instrument"),
        ({"exposure": [2, 1], "fresh_noise": "original"}, "the smaller first, not [2.0, 1.0]"),
        ({"seed": 2**32}, "seed must be below 4294967296"),
        ({"img_size": 7}, "img_size must be at least 8, not 7"),
        ({"batch_size": 1}, "batch_size must be at least 2, not 1"),
        ({"data": {"sorce": 1}}, "'data.sorce': did you mean 'data.source'?"),
        ({"weigth_decay": 1}, "'weigth_decay': did you mean 'weight_decay'?"),
        ({"optimizer.lr.x": 1}, "'lr.x': did you mean 'lr'?"),
    ],
)
def test_a_wrong_value_is_told_in_one_line_by_the_short_name_of_its_field(options, message):
    with pytest.raises(InputError) as raised:
        compose(None, options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_experiment_survives_yaml_and_pickle_and_cannot_be_changed():
    experiment = compose("standard,deit", {"lr": 2e-4, "model_args.depth": 3, "exposure": None})
    assert compose(None, yaml.safe_load(experiment.to_yaml())) == experiment
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    with pytest.raises(ValueError, match="frozen"):
        experiment.optimizer.lr = 1.0


def test_differences_leave_out_where_and_how_a_run_is_carried_out():
    here, there = compose(None, {"lr": 2e-3, "out": "a"}), compose(None, {"out": "b"})
    assert here.differences(there) == ["lr: 0.001 there, 0.002 here"]
    assert Experiment().differences(compose()) == []
