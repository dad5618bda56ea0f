"""The experiment: every spelling of a value, and what is wrong told by the field's short name."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from haloformer.cli import main
from haloformer.errors import InputError, InputWarning
from haloformer.training import train
from haloformer.training.config import Experiment, compose
from haloformer.training.idle import warn_of_idle


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
        ({"model_args": {"depth": np.int64(6)}}, "model_args", {"depth": 6}),
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
        ({"model_args": {"norm_layer": dict}}, "model_args: must hold numbers up to 10,000, texts"),
        ({"model_args": {"init_values": 2e4}}, "model_args: must hold numbers up to 10,000, texts"),
        ({"model_args": {"a": [{"b": 1}]}}, "model_args: must hold numbers up to 10,000, texts"),
        ({"model_args.img_size": 128}, "must not hold 'img_size': it is a field of its own"),
        ({"model_args": {"num_classes": 5}}, "must not hold 'num_classes': it follows from"),
        ({"model_args.checkpoint_path": "x"}, "pretrained: path/to/file starts from weights"),
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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"data": "a.h5", "noise": "instrument", "val_size": 9}, ["noise", "val_size"]),
        ({"data": "a.h5", "val_fraction": 0.2, "num_workers": 1}, []),
        ({"data": {"source": "a.h5", "val_data": "b.h5", "val_fraction": 0.2}}, ["val_fraction"]),
        ({"data": "model_ii", "data.val_fraction": 0.2, "noise": "none"}, ["val_fraction"]),
        ({"data": "model_ii", "val_data": "b.h5", "val_size": 9}, ["val_size"]),
        ({"data": "model_ii", "val_data": "b.h5", "val_size": 9, "task": "both"}, []),
        ({"optimizer": "adamw", "momentum": 0.8, "betas": [0.8, 0.9]}, ["momentum"]),
        ({"optimizer": {"name": "sgd", "momentum": 0.8, "betas": [0.8, 0.9]}}, ["betas"]),
        ({"optimizer": "adafactor", "momentum": 0.9, "betas": [0.8, 0.9]}, ["momentum", "betas"]),
        ({"gamma": 0.2, "min_lr": 0.1, "step_size": 3}, ["step_size", "gamma"]),
        ({"schedule": "constant", "min_lr": 0.1, "warmup": 0.2}, ["min_lr"]),
        ({"schedule": "plateau", "gamma": 0.2, "plateau_patience": 3}, []),
        ({"targets": ["log10_m_axion"], "label_smoothing": 0.1}, ["targets"]),
        ({"task": "both", "loss": "mse", "beta": 0.1, "regression_weight": 0.2}, ["beta"]),
        ({"task": "regression", "label_smoothing": 0.1}, ["label_smoothing"]),
        ({"tune": "lora", "pretrained": "a", "lora_rank": 4, "last_blocks": 2}, ["last_blocks"]),
        ({"fit": "pad", "residual_dropout": 0.1}, ["fit", "residual_dropout"]),
        ({"fit": "pad", "img_size": 96, "n_images": None, "preset": "fine_tune"}, []),
    ],
)
def test_options_that_do_nothing_are_told_and_no_others(options, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_idle(compose(None, options), options)
    assert len(caught) == bool(told)
    said = str(caught[0].message) if caught else ""
    assert re.findall(r"(\w+) \(", said) == told


def test_defaults_presets_and_files_of_options_are_no_news(tmp_path, capsys):
    base = compose(None, {"data": "a.h5"})
    (tmp_path / "a.yaml").write_text(base.to_yaml())
    given = ["train", "--config", str(tmp_path / "a.yaml"), "--preset", "mass", "--out"]
    assert main([*given, str(tmp_path / "x")]) == 2
    assert "no effect" not in capsys.readouterr().err
    assert main([*given, str(tmp_path / "x"), "--noise", "none", "--momentum", "0.5"]) == 2
    assert "warning: noise (for surveys; " in capsys.readouterr().err
    with pytest.raises(InputError), pytest.warns(InputWarning, match="noise .*, momentum .* have"):
        train("a.h5", out=str(tmp_path / "x"), noise="none", momentum=0.5)


def test_a_run_is_taken_for_its_options(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(
        compose(None, {"data": "model_ii", "lr": 0.007}).to_yaml()
    )
    assert main(["train", "--config", str(tmp_path), "--print_config"]) == 0
    assert "lr: 0.007" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert main(["train", "--config", str(tmp_path / "none"), "--print_config"]) == 2
    assert "it is a folder" in capsys.readouterr().err


def test_targets_differ():
    with pytest.raises(InputError, match="targets must differ"):
        compose(None, {"targets": "log10_m_axion,log10_m_axion"})
