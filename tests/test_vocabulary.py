"""Hints for names that do not exist."""

import pytest

from haloformer.cli import main
from haloformer.vocabulary import did_you_mean, nearest_names

OPTIONS = (
    "--data",
    "--val_size",
    "--epochs",
    "--epoch_size",
    "--lr",
    "--out",
    "--n_images",
    "--img_size",
)


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("Model_II", ("model_i", "model_ii", "model_iii"), ["model_ii"]),
        ("model_iv", ("model_i", "model_ii", "model_iii"), ["model_i", "model_ii"]),
        ("epocs", OPTIONS, ["--epochs"]),
        ("--epoch-size", OPTIONS, ["--epoch_size"]),
        ("--train_size", OPTIONS, ["--n_images", "--epoch_size"]),
        ("--learning_rate", OPTIONS, ["--lr"]),
        ("--image-size", OPTIONS, ["--img_size"]),
        ("--quiet", OPTIONS, []),
        ("--bogus", OPTIONS, []),
        ("tep", ("tpe", "random", "grid"), ["tpe"]),
        ("halo", (), []),
    ],
)
def test_what_is_meant_is_what_is_alike(name, known, meant):
    assert nearest_names(name, known) == meant


def test_a_hint_names_all_that_may_be_meant():
    assert did_you_mean("--train_size", OPTIONS) == "did you mean '--n_images' or '--epoch_size'?"
    assert did_you_mean("--quiet", OPTIONS) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--train_size", "9"],
            "unknown option '--train_size': did you mean '--n_images'",
        ),
        (["train", "--qiet", "true"], "unknown option '--qiet': did you mean '--quiet'"),
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["simulate", "Model_I", "--out", "x.h5"], "did you mean 'model_i'?"),
    ],
)
def test_the_command_line_gives_the_hint(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
