"""Training as a user sees it: run folders, resuming, and what stops a run."""

import csv
import json
import math
import re
import shutil
import types

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from haloformer.data.dataset_writer import write_dataset
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError, InputWarning
from haloformer.models import create_model
from haloformer.simulation import simulate
from haloformer.training import measuring, train
from haloformer.training.callbacks import Progress, time_in_words
from haloformer.training.config import compose
from haloformer.training.feeds import open_feed
from haloformer.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("opened_at_once")

SMALL = {
    "epochs": 3,
    "epoch_size": 192,
    "batch_size": 32,
    "val_size": 60,
    "lr": 3e-3,
    "device": "cpu",
    "progress": False,
    # Dropout and stochastic depth draw random numbers: resuming must repeat them, too.
    "model_args": {
        "stem_channels": [8, 8, 8, 8],
        "embed_dim": 32,
        "depth": 2,
        "drop_path_rate": 0.2,
        "proj_drop_rate": 0.1,
    },
}


@pytest.fixture(scope="module")
def run(train_once):
    """A finished run on simulated images."""
    result = train_once(data="model_ii", **SMALL)
    return result.out, result


def test_run_folder_holds_configuration_metrics_checkpoints_logs_and_artefact(run):
    out, result = run
    assert yaml.safe_load((out / "config.yaml").read_text())["optimizer"]["lr"] == 3e-3
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in (
        "train_loss",
        "val_loss",
        "val_accuracy",
        "val_macro_auc",
        "val_auc_axion",
        "val_auc_cdm",
        "val_auc_no_sub",
    ):
        assert math.isfinite(float(rows[-1][name]))
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list((out / "tensorboard").glob("events.*"))
    assert not list(out.rglob("*.part"))
    assert result.metrics["val_macro_auc"] == pytest.approx(
        max(float(row["val_macro_auc"]) for row in rows), abs=1e-5
    )


def test_artefact_alone_reproduces_the_best_validation_auc(run):
    from torchmetrics.functional.classification import multiclass_auroc

    from haloformer.data.stream import validation_seed

    out, result = run
    artefact = json.loads((out / "artefact" / "artefact.json").read_text())
    fields = artefact["model"]
    model = create_model(
        fields["name"],
        fields["img_size"],
        fields["in_chans"],
        fields["num_classes"],
        **fields["kwargs"],
    )
    model.load_state_dict(load_file(out / "artefact" / "weights.safetensors"))
    assert artefact["training"]["val_seed"] == validation_seed(0)
    unseen = simulate(
        artefact["survey"],
        SMALL["val_size"],
        seed=artefact["training"]["val_seed"],
        noise=artefact["noise"],
    )
    with torch.no_grad():
        logits = model.eval()(Normalization.from_dict(artefact["normalization"])(unseen.images))
    auc = multiclass_auroc(logits.softmax(1), unseen.labels, 3).item()
    assert auc == pytest.approx(result.metrics["val_macro_auc"], abs=1e-5)
    assert artefact["training"]["best_epoch"] == result.best_epoch


def test_checkpoints_load_without_executing_anything(run):
    out, _ = run
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(out / "checkpoints" / name, weights_only=True)
        assert checkpoint["optimizer_states"]


def test_same_arguments_again_say_that_the_run_is_finished(run, capsys):
    out, result = run
    before = (out / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert train("model_ii", out=str(out), **{**SMALL, "progress": True}) == result
    assert "finished" in capsys.readouterr().out
    assert (out / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_other_arguments_on_the_same_folder_are_refused_with_the_difference(run):
    out, _ = run
    with pytest.raises(InputError, match=r"lr: 0\.003 there, 0\.001 here"):
        train("model_ii", out=str(out), **{**SMALL, "lr": 1e-3})
    with pytest.raises(InputError, match="resume is false"):
        train("model_ii", out=str(out), resume=False, **SMALL)


def test_a_folder_in_which_a_run_ended_before_it_had_begun_is_taken(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    RunFolder(out).check()
    (out / "notes.txt").touch()
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder(out).check()


def test_a_network_that_is_not_known_is_refused_before_images_are_made(tmp_path, monkeypatch):
    made: list[object] = []
    monkeypatch.setattr("haloformer.training.engine.open_feed", made.append)
    with pytest.raises(InputError, match="did you mean 'hybrid_nano'"):
        train("model_ii", model="hybrid_nan", out=str(tmp_path / "run"), **SMALL)
    assert made == []


def test_a_second_process_is_kept_off_a_run_that_another_trains(tmp_path):
    out = tmp_path / "run"
    folder = RunFolder(out)
    out.mkdir()
    with folder.one_process_only():
        with pytest.raises(InputError, match="another process trains in it"):
            train("model_ii", out=str(out), **SMALL)
        assert list(out.iterdir()) == [out / ".lock"]
    assert not (out / ".lock").exists()
    (out / ".lock").touch()  # of a process that was killed
    folder.check_free()


def test_too_few_validation_images_to_know_others_by_are_told(tmp_path):
    options = {**SMALL, "val_size": 12, "epochs": 1}
    with pytest.warns(InputWarning, match="12 validation images are too few"):
        train("model_ii", out=str(tmp_path / "run"), **options)
    assert not list((tmp_path / "run" / "artefact").glob("ood*"))
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a run folder"):
        train("model_ii", out=str(tmp_path), **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path):
    out = tmp_path / "x"
    train("model_ii", out=str(out), **{**SMALL, "epochs": 1})
    (out / "finished.json").unlink()
    last = out / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be read"):
        train("model_ii", out=str(out), **{**SMALL, "epochs": 1})
    assert last.stat().st_size == 5000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.h5"
    batch = simulate("model_ii", 240, seed=3)
    write_dataset(
        path, batch.images, batch.labels, batch.parameters, batch.class_names, batch.attributes
    )
    return path


def test_training_from_a_file_gives_the_same_weights_in_memory_and_from_disk(
    dataset, tmp_path, monkeypatch
):
    options = {**SMALL, "epochs": 1, "num_workers": 0}
    train(str(dataset), out=str(tmp_path / "memory"), **options)
    monkeypatch.setattr("haloformer.training.batches.MEMORY_BUDGET", 0)
    train(str(dataset), out=str(tmp_path / "disk"), **{**options, "num_workers": 1})
    a, b = (
        load_file(tmp_path / name / "artefact" / "weights.safetensors")
        for name in ("memory", "disk")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    artefact = json.loads((tmp_path / "disk" / "artefact" / "artefact.json").read_text())
    assert (artefact["survey"], artefact["training"]["train_seed"]) == ("model_ii", 3)
    assert (artefact["training"]["n_train"], artefact["training"]["n_val"]) == (216, 24)


def test_validation_images_are_never_trained_on(dataset, tmp_path, monkeypatch):
    from haloformer.training import feeds
    from haloformer.training.config import compose

    source = feeds.open_feed(
        compose(None, {"data": str(dataset), **SMALL, "out": str(tmp_path / "x")})
    )
    seen = {
        image.numpy().tobytes()
        for epoch in (0, 1)
        for batch in source.epoch(epoch, 0, (0, 1))
        for image in batch.images
    }
    held_out = {
        image.numpy().tobytes() for batch in source.validation((0, 1)) for image in batch.images
    }
    assert len(held_out) == 24
    assert not seen & held_out


def test_a_separate_validation_file_must_fit_and_must_not_be_the_training_file(dataset, tmp_path):
    with pytest.raises(InputError, match="training file itself"):
        train(str(dataset), out=str(tmp_path / "a"), val_data=str(dataset), **SMALL)
    copy = shutil.copy(dataset, tmp_path / "copy.h5")
    with pytest.raises(InputError, match="or a copy of it"):
        train(str(dataset), out=str(tmp_path / "a"), val_data=str(copy), **SMALL)
    other = tmp_path / "small.h5"
    write_dataset(
        other,
        np.zeros((6, 1, 32, 32), np.float32),
        np.arange(6) % 3,
        {},
        ("axion", "cdm", "no_sub"),
        {},
    )
    with pytest.raises(InputError, match=r"small\.h5.*\(1, 32, 32\)"):
        train(str(dataset), out=str(tmp_path / "b"), val_data=str(other), **SMALL)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("separate", [False, True])
def test_both_halves_of_the_held_out_images_hold_each_class_though_the_file_alternates(
    tmp_path, separate
):
    """Of a file of two classes in turn, every other image is of one class."""
    paths = []
    for name, seed in (("train.h5", 1), ("val.h5", 2)):
        lenses = simulate("model_ii", 90, seed=seed)
        rows = np.stack(
            [np.flatnonzero(lenses.labels == k) for k in (0, 1)], 1
        ).ravel()  # 0, 1, 0, 1, …
        write_dataset(
            tmp_path / name,
            lenses.images[rows],
            lenses.labels[rows],
            {key: values[rows] for key, values in lenses.parameters.items()},
            ("axion", "cdm"),
            lenses.attributes,
        )
        paths.append(str(tmp_path / name))
    options = {"val_data": paths[1]} if separate else {"val_fraction": 0.7}
    result = train(
        paths[0],
        out=str(tmp_path / "run"),
        model="vit_nano",
        task="both",
        targets=["log10_m_axion", "log10_m_subhalos"],
        epochs=1,
        batch_size=16,
        device="cpu",
        progress=False,
        model_args={"depth": 1, "embed_dim": 32, "num_heads": 2},
        **options,
    )
    assert 0 <= result.metrics["val_macro_auc"] <= 1


def test_a_loss_that_becomes_nan_stops_with_advice(dataset, tmp_path):
    options = {**SMALL, "lr": 99.0, "clip": 0.0, "warmup": 0.0, "epochs": 20}
    with pytest.raises(InputError, match=r"the loss became (nan|inf).*smaller lr"):
        train(
            str(dataset),
            "vit_nano",
            str(tmp_path / "x"),
            **{**options, "model_args": {}, "normalization": "none"},
        )


def test_early_stopping_ends_a_run_that_no_longer_improves(dataset, tmp_path):
    result = train(
        str(dataset), out=str(tmp_path / "x"), **{**SMALL, "lr": 1e-9, "epochs": 30, "patience": 2}
    )
    assert result.epochs < 30
    assert (tmp_path / "x" / "finished.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "model_ix"}, "unknown survey 'model_ix'"),
        ({"data": "missing.h5"}, "missing.h5"),
        ({"data": "."}, "neither a dataset file"),
        ({"model": "hybrid_nan"}, "did you mean 'hybrid_nano'"),
        ({"normalization": "asin"}, "did you mean 'asinh'"),
        ({"augment": "d8"}, "unknown augmentation 'd8'"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"warmup": 5.0}, "warmup must be below 1"),
        ({"seed": -1}, "seed must be"),
        ({"epoch_size": 16}, "batch_size 32 is more than"),
        ({"val_size": 2}, "val_size 2 leaves a class without"),
        ({"val_size": 24, "task": "both"}, "axion, there are 8: a larger val_size"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"precision": "16"}, "needs a CUDA GPU"),
        ({"model_args": {"dept": 3}}, "dept"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, options, message):
    out = tmp_path / "x"
    with pytest.raises(InputError, match=message):
        train(**{"data": "model_ii", **SMALL, **options, "out": str(out)})
    assert not out.exists()


def test_too_few_images_to_calibrate_intervals_by_are_told_before_the_training(dataset, tmp_path):
    given = {**SMALL, "task": "both", "val_fraction": 0.2}
    with pytest.raises(InputError, match=r"axion, there are \d: a larger val_fraction"):
        train(str(dataset), out=str(tmp_path / "x"), **given)
    assert not (tmp_path / "x").exists()


def test_a_dry_run_takes_few_images_but_tells_of_too_few_to_calibrate_intervals_by():
    given = {**SMALL, "data": "model_ii", "model": "vit_nano", "task": "both"}
    given["model_args"] = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    few = measuring._with_few_images(compose(None, given))
    assert open_feed(few).n_val == 12
    with pytest.raises(InputError, match="a larger val_size"):
        measuring.measure_training(compose(None, {**given, "val_size": 24}))


def test_a_start_that_failed_does_not_keep_its_folder_from_a_corrected_one(tmp_path, monkeypatch):
    from haloformer.training.tasks import LensTask

    def broken(self, batch, batch_idx):
        raise InputError("the loss became nan")

    with monkeypatch.context() as patch:
        patch.setattr(LensTask, "training_step", broken)
        with pytest.raises(InputError, match="nan"):
            train("model_ii", out=str(tmp_path / "x"), **{**SMALL, "lr": 1.0})
    result = train("model_ii", out=str(tmp_path / "x"), **SMALL)
    assert result.epochs == SMALL["epochs"]
    assert f"lr: {SMALL['lr']}" in (tmp_path / "x" / "config.yaml").read_text()


def test_a_learning_rate_for_another_batch_size_is_told(tmp_path, capsys):
    sizes = {"epochs": 1, "epoch_size": 64, "lr_batch": 8, "progress": True}
    sizes |= {"schedule": "constant", "warmup": 0.0}
    train("model_ii", out=str(tmp_path / "x"), **{**SMALL, **sizes})
    told = "learning rate 0.006 for batches of 32: lr 0.003 is for 8 (lr_batch)"
    assert told in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "x" / "metrics.csv").open()))
    assert float(rows[0]["lr"]) == pytest.approx(0.006)


def test_the_first_lines_say_what_a_training_computes_on_and_why(tmp_path, capsys):
    given = {**SMALL, "epochs": 1, "epoch_size": 64, "progress": True}
    train("model_ii", out=str(tmp_path / "a"), **given)
    assert (
        "computed on cpu in 32 bits (precision: auto; bf16 is for GPUs)" in capsys.readouterr().out
    )
    train("model_ii", out=str(tmp_path / "b"), **given, precision="bf16")
    assert "computed on cpu in bf16 (as precision says)" in capsys.readouterr().out


def test_a_training_says_what_it_does_while_nothing_is_to_be_seen(tmp_path, capsys):
    given = {**SMALL, "epochs": 2, "batch_size": 2, "epoch_size": 60, "progress": True}
    train("model_ii", out=str(tmp_path / "a"), **given)
    lines = capsys.readouterr().out.splitlines()
    preparing, training, epoch, calibrating = (
        next(i for i, line in enumerate(lines) if re.match(pattern, line))
        for pattern in (
            "preparing images of model_ii",
            r"training: \d+ images/s, about \d+ s for 2 epochs; a line after each$",
            "epoch 1/2  loss",
            "calibrating it",
        )
    )
    assert preparing < training < epoch < calibrating
    assert sum(line.startswith("training:") for line in lines) == 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7200, "2.0 h")]
)
def test_times_are_told_to_two_digits(seconds, words):
    assert time_in_words(seconds) == words


def test_the_time_left_is_that_of_what_is_left_also_after_a_resumption(monkeypatch):
    clock = types.SimpleNamespace(monotonic=lambda: 110.0)
    monkeypatch.setattr("haloformer.training.callbacks.time", clock)
    bar = Progress()
    bar._seen, bar._batches, bar._clock = 200, 20, 100.0  # 20 images/s, 10 a batch
    trainer = types.SimpleNamespace(max_epochs=3, current_epoch=1, num_training_batches=100)
    assert "20 images/s, about 60 s for 2 epochs" in bar._left(trainer, 79)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": np.zeros((3, 1, 8, 8))}, "data is a ndarray: .*LensClassifier"),
        ({"data": "model_ii", "model": torch.nn.Identity()}, "model is a Identity: .*register_model"),
        ({"data": "model_ii", "overwrite": True}, "goes on with what is in out"),
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_what_would_be_right(given, message):
    with pytest.raises(InputError, match=message):
        train(**given)


def test_a_network_that_stays_at_chance_is_told_as_such_with_what_helps(tmp_path, capsys):
    small = {**SMALL, "epochs": 1, "epoch_size": 64, "progress": True, "lr": 1e-9}
    train("model_ii", "hybrid_nano", tmp_path / "run", **small)
    advice = "a lower learning rate, such as 3e-10, more images or epochs, or the residual"
    assert f"hardly better than guessing, 0.5: try {advice}" in capsys.readouterr().out
