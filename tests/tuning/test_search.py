"""Searches: what is tried, what is kept, and that an interrupted search goes on as if nothing had been."""

import csv
import dataclasses
import math
import multiprocessing
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

import haloformer.training
from haloformer.cli.next_steps import next_step
from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.training import RunResult, engine
from haloformer.training.config import compose, read_options
from haloformer.tuning import report, search, storage, trials
from haloformer.tuning.command import tune
from haloformer.tuning.plan import list_searches, read_search

optuna = pytest.importorskip("optuna")

BASE = {
    "data": "model_ii",
    "epochs": 2,
    "epoch_size": 96,
    "batch_size": 32,
    "val_size": 60,
    "device": "cpu",
    "model_args": {"stem_channels": [8, 8, 8, 8], "embed_dim": 32},
}
SPACE = {
    "lr": {"log_uniform": ["1e-3", 1e-2]},
    "model_args.depth": {"int": [1, 2]},
    "optimizer": {"choice": ["adamw", "sgd"]},
    "momentum": {"uniform": [0.5, 0.95], "when": {"optimizer": "sgd"}},
}


def write(path, **content):
    path.write_text(
        yaml.safe_dump({"base": BASE, "space": SPACE, "trials": 3, **content}, sort_keys=False)
    )
    return str(path)


def rows(out):
    with (Path(out) / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def tried(out):
    """What the trials tried, without those that were interrupted and done again."""
    names = ("lr", "model_args.depth", "optimizer", "momentum")
    return [[row[name] for name in names] for row in rows(out) if row["state"] != "interrupted"]


def scripted(curve, stop_at=None):
    """A training that takes no time: epoch e of a run with these options is worth ``curve(options, e)``."""
    calls = []

    def train(*, on_epoch, out, epochs, **options):
        calls.append((out, options))
        if stop_at is not None and len(calls) == stop_at:
            raise KeyboardInterrupt
        values = []
        for epoch in range(1, epochs + 1):
            values.append(curve(options, epoch))
            if on_epoch(epoch, {"val_macro_auc": values[-1]}):
                break
            if math.isnan(values[-1]):
                raise InputError(
                    "training stopped: val_macro_auc is not a number; try a smaller lr"
                )
        best = max(values)
        return RunResult(Path(out), values.index(best) + 1, len(values), {"val_macro_auc": best})

    train.calls = calls
    return train


def near_3e_3(options, epoch):
    return 0.9 - 0.1 * abs(math.log10(options["lr"] / 3e-3)) - 0.1 / epoch


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """The names of the figures, which only the search of ``finished`` writes: that takes longer than all the rest."""
    names = []
    monkeypatch.setattr(report.style, "save", lambda figure, stem: names.append(stem.name))
    return names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search with real trainings."""
    folder = tmp_path_factory.mktemp("search")
    name = write(folder / "small.yaml", title="Small")
    return tune(name, out=str(folder / "out"), progress=False), name


def test_every_trial_is_a_run_folder_and_the_best_one_is_the_best(finished):
    result, _ = finished
    values = {int(row["trial"]): float(row["val_macro_auc"]) for row in rows(result.out)}
    assert sorted(values) == [0, 1, 2]
    assert (result.n_complete, result.n_pruned, result.n_failed, result.n_missing) == (3, 0, 0, 0)
    assert result.value == max(values.values()) == values[result.best_trial]
    for number, value in values.items():
        with (result.out / "trials" / f"{number:04d}" / "metrics.csv").open() as file:
            epochs = [float(row["val_macro_auc"]) for row in csv.DictReader(file)]
        assert value == pytest.approx(max(epochs), abs=1e-5)
    assert {"history.png", "history.svg", "slices.png", "study.db", "search.yaml"} <= {
        p.name for p in result.out.iterdir()
    }


def test_all_trials_are_judged_by_the_same_validation_images_and_never_by_test_images(finished):
    result, _ = finished
    configs = [
        read_options(folder / "config.yaml") for folder in sorted((result.out / "trials").iterdir())
    ]
    assert (
        len({(c["trainer"]["seed"], c["data"]["val_size"], c["data"]["noise"]) for c in configs})
        == 1
    )
    assert "Chosen on validation images" in (result.out / "best.yaml").read_text()


def test_the_next_command_trains_with_another_seed(finished, tmp_path):
    result, _ = finished
    folder = tmp_path / "a search"
    folder.mkdir()
    shutil.copy(result.out / "best.yaml", folder)
    words = shlex.split(next_step("tune", {}, dataclasses.replace(result, out=folder)))
    assert words[3:6] == [str(folder / "best.yaml"), "--seed", "1"]


def test_best_yaml_is_the_experiment_of_the_best_trial(finished):
    result, _ = finished
    best = compose(None, read_options(result.out / "best.yaml"))
    trial = compose(
        None, read_options(result.out / "trials" / f"{result.best_trial:04d}" / "config.yaml")
    )
    assert best.differences(trial) == []
    assert compose(str(result.out / "best.yaml")) == best  # a preset, too
    assert best.optimizer.lr == result.params["lr"]
    assert best.model.model_args == {
        **BASE["model_args"],
        "depth": result.params["model_args.depth"],
    }
    assert best.trainer.out == "runs/latest"  # nothing of where the search ran
    text = (result.out / "best.yaml").read_text()
    assert "haloformer tune" in text
    assert f"trial {result.best_trial}" in text


def test_a_field_with_a_condition_is_searched_only_then(finished):
    result, _ = finished
    for row in rows(result.out):
        assert (row["momentum"] != "") == (row["optimizer"] == "sgd")


def test_calling_again_adds_only_the_missing_trials(finished, monkeypatch):
    result, name = finished
    before = tried(result.out)
    train = scripted(near_3e_3)
    monkeypatch.setattr(haloformer.training, "train", train)
    assert tune(name, out=str(result.out), progress=False) == result
    assert train.calls == []
    more = tune(name, out=str(result.out), trials=5, progress=False)
    assert [Path(out).name for out, _ in train.calls] == ["0003", "0004"]
    assert more.n_complete == 5
    assert tried(result.out)[:3] == before


def test_one_worker_tries_the_same_again_even_after_an_interruption(tmp_path, monkeypatch, drawn):
    name = write(tmp_path / "s.yaml", trials=9, sampler={"name": "tpe", "startup_trials": 4})
    monkeypatch.setattr(haloformer.training, "train", scripted(near_3e_3))
    tune(name, out=str(tmp_path / "a"), progress=False)
    assert drawn == ["history", "slices", "importances"]
    monkeypatch.setattr(haloformer.training, "train", scripted(near_3e_3, stop_at=7))
    with pytest.raises(KeyboardInterrupt):
        tune(name, out=str(tmp_path / "b"), progress=False)
    monkeypatch.setattr(haloformer.training, "train", scripted(near_3e_3))
    result = tune(name, out=str(tmp_path / "b"), progress=False)
    assert tried(tmp_path / "b") == tried(tmp_path / "a")
    assert (result.n_complete + result.n_pruned, result.n_failed) == (9, 0)
    other = write(tmp_path / "s.yaml", trials=2, seed=1)
    tune(other, out=str(tmp_path / "c"), progress=False)
    assert tried(tmp_path / "c") != tried(tmp_path / "a")[:2]


def test_of_a_killed_worker_the_trial_goes_on_where_it_was(forked_workers, tmp_path, monkeypatch):
    """Two processes work on trials of 1, 2 and 1000 epochs; during the last they are killed."""
    name = write(tmp_path / "s.yaml", space={"epochs": {"choice": [1, 2, 1000]}}, sampler="grid")
    out = tmp_path / "out"
    last = out / "trials/0002/checkpoints/last.ckpt"

    def kill():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (
            last.exists() and len(rows(out)) == 3 and rows(out)[1]["epochs"]
        ):
            time.sleep(0.05)
        for child in multiprocessing.active_children():
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(InputError, match="a worker process was killed"):
        tune(name, out=str(out), workers=2, progress=False)
    killer.join()
    assert [row["state"] for row in rows(out)] == ["complete", "complete", "running"]
    done = torch.load(last, weights_only=True)["epoch"] + 1
    trained = []

    def train(*, on_epoch, **options):
        def two_more(epoch, metrics):
            trained.append(epoch)
            return on_epoch(epoch, metrics) or len(trained) == 2

        return engine.train(on_epoch=two_more, **options)

    monkeypatch.setattr(haloformer.training, "train", train)
    result = tune(name, out=str(out), progress=False)
    assert trained == [done + 1, done + 2]
    assert [row["state"] for row in rows(out)] == [
        "complete",
        "complete",
        "interrupted",
        "complete",
    ]
    assert (rows(out)[3]["continues"], rows(out)[3]["epochs"]) == ("2", str(done + 2))
    assert sorted(folder.name for folder in (out / "trials").iterdir()) == ["0000", "0001", "0003"]
    assert (result.n_complete, result.n_failed) == (3, 0)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{out / 'study.db'}")
    assert sorted(study.trials[3].intermediate_values) == list(range(1, done + 3))  # for the pruner


def test_a_trial_that_was_killed_twice_is_not_tried_a_third_time(tmp_path, monkeypatch):
    name = write(tmp_path / "s.yaml", trials=2)
    put_back = storage.put_back
    # A killed process has no time to put anything back.
    monkeypatch.setattr(
        search, "put_back", lambda study, killed: put_back(study, killed=True) if killed else None
    )
    monkeypatch.setattr(haloformer.training, "train", scripted(near_3e_3, stop_at=1))
    for _ in range(2):
        haloformer.training.train.calls.clear()
        with pytest.raises(KeyboardInterrupt):
            tune(name, out=str(tmp_path / "out"), progress=False)
    monkeypatch.setattr(haloformer.training, "train", scripted(near_3e_3))
    result = tune(name, out=str(tmp_path / "out"), progress=False)
    assert [row["state"] for row in rows(result.out)] == ["interrupted", "failed", "complete"]
    assert rows(result.out)[1]["message"] == "its process was killed twice"
    assert (result.n_complete, result.n_failed) == (1, 1)


def test_a_poor_trial_is_stopped_and_recorded_as_pruned(tmp_path, monkeypatch):
    def third_is_poor(options, epoch):
        return 0.5 if len(train.calls) == 3 else 0.9

    train = scripted(third_is_poor)
    monkeypatch.setattr(haloformer.training, "train", train)
    name = write(
        tmp_path / "s.yaml",
        base={**BASE, "epochs": 6},
        pruner={"name": "median", "startup_trials": 2, "warmup_epochs": 3},
    )
    result = tune(name, out=str(tmp_path / "out"), progress=False)
    assert [(row["state"], row["epochs"]) for row in rows(result.out)] == [
        ("complete", "6"),
        ("complete", "6"),
        ("pruned", "4"),
    ]
    assert (result.n_complete, result.n_pruned) == (2, 1)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{result.out / 'study.db'}")
    assert study.trials[2].state == optuna.trial.TrialState.PRUNED
    assert study.trials[2].intermediate_values == {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}


def test_a_stopped_real_training_leaves_a_finished_run(tmp_path):
    name = write(tmp_path / "s.yaml", base={**BASE, "epochs": 5}, trials=1, pruner="median")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: True)
        with pytest.raises(InputError, match="no trial was trained to the end"):
            tune(name, out=str(tmp_path / "out"), progress=False)
    assert [(row["state"], row["epochs"]) for row in rows(tmp_path / "out")] == [("pruned", "1")]
    assert (tmp_path / "out/trials/0000/finished.json").exists()


@pytest.mark.parametrize("when", ["calibration", "recording"])
def test_a_pruned_trial_stays_pruned_if_its_process_is_killed_before_that_is_recorded(
    when, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    name = write(tmp_path / "s.yaml", base={**BASE, "epochs": 5}, trials=1, pruner="median")
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: True)
    with monkeypatch.context() as patch:
        if when == "calibration":
            patch.setattr(engine.Exporter, "calibrate", kill)
        else:
            patch.setattr(trials, "_tell", kill)
        with pytest.raises(Killed):
            tune(name, out=str(tmp_path / "out"), progress=False)
    with pytest.raises(InputError, match="no trial was trained to the end"):
        tune(name, out=str(tmp_path / "out"), progress=False)
    found = [(row["state"], row["epochs"]) for row in rows(tmp_path / "out")]
    assert found == [("interrupted", ""), ("pruned", "1")]


def test_a_failed_trial_is_recorded_with_its_message_and_the_others_are_done(tmp_path, monkeypatch):
    train = scripted(
        lambda options, epoch: float("nan") if len(train.calls) == 1 else near_3e_3(options, epoch)
    )
    monkeypatch.setattr(haloformer.training, "train", train)
    result = tune(write(tmp_path / "s.yaml"), out=str(tmp_path / "out"), progress=False)
    assert [row["state"] for row in rows(result.out)] == ["failed", "complete", "complete"]
    assert "try a smaller lr" in rows(result.out)[0]["message"]
    assert (result.n_complete, result.n_failed) == (2, 1)


def test_a_search_whose_trials_all_fail_alike_ends_soon_with_the_reason(tmp_path):
    name = write(tmp_path / "s.yaml", base={**BASE, "data": str(tmp_path / "train.h5")}, trials=50)
    with pytest.raises(InputError, match=r"the first 3 trials all failed: .*train\.h5"):
        tune(name, out=str(tmp_path / "out"), progress=False)


def test_a_grid_has_every_combination_once_and_none_that_conditions_exclude(tmp_path, monkeypatch):
    monkeypatch.setattr(
        haloformer.training,
        "train",
        scripted(lambda options, epoch: 0.5 + 0.1 * options["model_args"]["depth"]),
    )
    space = {
        "optimizer": {"choice": ["adamw", "sgd"]},
        "momentum": {"choice": [0.5, 0.95], "when": {"optimizer": "sgd"}},
        "model_args.depth": {"int": [1, 3]},
        "betas": {"choice": [[0.9, 0.99], [0.9, 0.95]], "when": {"optimizer": ["adamw"]}},
    }
    name = write(tmp_path / "s.yaml", space=space, sampler="grid", trials=100)
    result = tune(name, out=str(tmp_path / "out"), progress=False)
    points = [
        (row["optimizer"], row["momentum"], row["betas"], row["model_args.depth"])
        for row in rows(result.out)
    ]
    assert len(points) == len({*points}) == 2 * 3 + 2 * 3
    assert {
        (row["momentum"], row["betas"]) for row in rows(result.out) if row["optimizer"] == "adamw"
    } == {
        ("", "[0.9, 0.99]"),
        ("", "[0.9, 0.95]"),
    }
    assert result.params == {"optimizer": "adamw", "model_args.depth": 3, "betas": [0.9, 0.99]}
    assert compose(None, read_options(result.out / "best.yaml")).optimizer.betas == (0.9, 0.99)


def test_nothing_begins_after_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(
        haloformer.training, "train", scripted(lambda options, epoch: time.sleep(0.3) or 0.5)
    )
    result = tune(
        write(tmp_path / "s.yaml"),
        out=str(tmp_path / "out"),
        timeout_minutes=0.5 / 60,
        progress=False,
    )
    assert (result.n_complete, result.n_missing) == (1, 2)


def test_trials_on_a_survey_that_has_changed_are_not_taken_for_those_on_the_present_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(haloformer.training, "train", scripted(near_3e_3))
    survey = tmp_path / "mine.yaml"
    short = "base: model_ii\ninstrument: {base: euclid_vis, exposure_time: 300}\n"
    survey.write_text(short)
    name, options = write(tmp_path / "s.yaml"), {"data": str(survey)}
    given = {"out": str(tmp_path / "out"), "options": options, "progress": False}
    tune(name, trials=1, **given)
    survey.write_text("# as it was\n" + short)
    tune(name, trials=1, **given)
    survey.write_text(short.replace("300", "3000"))
    with pytest.raises(InputError, match=r"holds another search \(.*mine\.yaml has changed\)"):
        tune(name, trials=1, **given)


def test_options_change_the_base_but_not_what_is_searched(tmp_path, monkeypatch):
    train = scripted(near_3e_3)
    monkeypatch.setattr(haloformer.training, "train", train)
    name, out = write(tmp_path / "s.yaml"), str(tmp_path / "out")
    result = tune(
        name,
        out=out,
        preset="standard",
        options={"epochs": 3, "warmup": 0.2},
        trials=1,
        progress=False,
    )
    options = train.calls[0][1]
    assert (options["warmup"], options["ema"]) == (0.2, 0.999)
    best = read_options(result.out / "best.yaml")
    assert (best["epochs"], best["warmup"], best["ema"]) == (3, 0.2, 0.999)
    for field in ("lr", "optimizer.lr", "model_args.depth"):
        with pytest.raises(InputError, match="is searched"):
            tune(name, out=out, options={field: 1}, progress=False)
    with pytest.raises(InputError, match=r"holds another search \(epochs: 3 there, 2 here"):
        tune(name, out=out, preset="standard", options={"warmup": 0.2, "epochs": 2}, progress=False)
    with pytest.raises(InputError, match="holds another search"):
        tune(
            write(tmp_path / "t.yaml", space={"lr": {"uniform": [0.001, 0.1]}}),
            out=out,
            progress=False,
        )


def test_two_processes_do_not_share_a_folder(tmp_path, monkeypatch):
    name, out = write(tmp_path / "s.yaml"), str(tmp_path / "out")

    def train(**options):
        tune(name, out=out, progress=False)

    monkeypatch.setattr(haloformer.training, "train", train)
    with pytest.raises(InputError, match="another process is at this search"):
        tune(name, out=out, progress=False)


def test_a_folder_that_is_no_search_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not the folder of a search"):
        tune("quick", out=str(tmp_path), progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install '\.\[tune\]'"):
        tune("quick")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spaec": {}}, "unknown key in .*'spaec': did you mean 'space'"),
        ({"space": {}}, "space is missing"),
        (
            {"space": {"weigth_decay": {"uniform": [0, 1]}}},
            "'weigth_decay': did you mean 'weight_decay'",
        ),
        (
            {"space": {"lr": {"log_unifrom": [1e-4, 1e-2]}}},
            "'log_unifrom': did you mean 'log_uniform'",
        ),
        ({"space": {"lr": {"log_uniform": [0, 1e-2]}}}, "bounds must be above 0"),
        ({"space": {"lr": {"uniform": [1e-2, 1e-4]}}}, "the smaller bound comes first"),
        ({"space": {"lr": {"uniform": ["low", 1]}}}, "must be a number, not 'low'"),
        ({"space": {"lr": {"uniform": [1, 2, 3]}}}, "lr.* at most 2 items"),
        ({"space": {"lr": {"uniform": [0, 1], "choice": [1, 2]}}}, "not uniform and choice"),
        ({"space": {"lr": {"choice": [1e-3, "1e-3", 1e-3]}}}, "a choice is there twice"),
        ({"space": {"lr": {"choice": [1e-3, "fast"]}}}, "lr must be a number, not 'fast'"),
        ({"space": {"warmup": {"uniform": [0, 1]}}}, "warmup must be below 1"),
        ({"space": {"epochs": {"uniform": [5, 10]}}}, "epochs must be a whole number"),
        ({"space": {"batch_size": {"int": [8, 16.5]}}}, "a whole number, not 16.5"),
        ({"space": {"model": {"choice": ["hybrid_nano", "hybird_nano_s8"]}}}, "hybird_nano_s8"),
        ({"space": {"seed": {"int": [0, 9]}}}, "seed must be the same in all trials"),
        (
            {"space": {"optimizer.lr": {"uniform": [0, 1]}, "lr": {"uniform": [0, 1]}}},
            "lr is there twice",
        ),
        (
            {"space": {"momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": "sgd"}}}},
            "a choice that stands above",
        ),
        (
            {"space": {**SPACE, "gamma": {"uniform": [0.1, 1], "when": {"optimizer": "sdg"}}}},
            "'sdg' is no choice",
        ),
        ({"sampler": "tep"}, "'tep': did you mean 'tpe'"),
        ({"sampler": "grid"}, "grid needs a choice or an int of every field; lr is log_uniform"),
        ({"pruner": {"name": "median", "startup": 5}}, "'startup': did you mean 'startup_trials'"),
        (
            {"pruner": {"name": "hyperband", "min_epochs": 3}},
            "min_epochs 3 is more than the 2 epochs",
        ),
        ({"metric": "test_macro_auc"}, "'test_macro_auc': did you mean 'val_macro_auc'"),
        ({"metric": "val_loss", "direction": "maximize"}, "the best val_loss is the minimum"),
        (
            {"space": {"fresh_noise": {"choice": ["none", "instrument"]}}},
            "fresh_noise must be the same in all trials.*the noise original or instrument",
        ),
        (
            {"base": {**BASE, "task": "both"}, "metric": "val_loss"}
            | {"space": {"regression_weight": {"uniform": [0.1, 1]}}},
            "regression_weight changes what val_loss is",
        ),
        ({"trials": 0}, "trials must be at least 1"),
        ({"base": {**BASE, "out": "runs/x"}}, "out is for the search to choose"),
        ({"base": {**BASE, "data": ""}}, "data is missing"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        tune(write(tmp_path / "s.yaml", **change), out=str(tmp_path / "out"), progress=False)
    assert not (tmp_path / "out").exists()


def test_a_regression_is_judged_by_its_error(tmp_path):
    name = write(tmp_path / "s.yaml", base={**BASE, "task": "regression"})
    assert (read_search(name).metric, read_search(name).direction) == ("val_mae", "minimize")


@pytest.mark.parametrize("name", list_searches())
def test_every_network_that_a_shipped_search_may_try_can_be_built(name):
    plan = read_search(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(6):
        experiment = compose(None, plan.base, trials._suggest(plan, study.ask()))
        network = create_model(experiment.model.name, img_size=64, **experiment.model.model_args)
        assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
