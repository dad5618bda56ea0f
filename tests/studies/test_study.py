"""Studies: what a run folder of runs promises, and that the table says what the runs came to."""

import csv
import json
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy.stats import ttest_rel

import haloformer.training
from haloformer.cli.next_steps import next_step
from haloformer.cli.study import present
from haloformer.data import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation.metrics import log_odds, macro_auc, paired_difference
from haloformer.io.locks import one_process_only
from haloformer.prediction import Predictor
from haloformer.simulation import Simulator
from haloformer.studies import runs as module
from haloformer.studies.command import study
from haloformer.studies.plan import HeldOutImages, list_studies, read_study
from haloformer.studies.results import over_seeds
from haloformer.training.config import compose

BASE = {
    "data": "model_ii",
    "epochs": 1,
    "epoch_size": 96,
    "batch_size": 32,
    "val_size": 60,
    "lr": 3e-3,
    "device": "cpu",
    "model_args": {"stem_channels": [8, 8, 8, 8], "embed_dim": 32, "depth": 1},
}


def write(path, **content):
    path.write_text(
        yaml.safe_dump(
            {"title": "T", "base": BASE, "test": {"n": 90}, "seeds": 2, **content}, sort_keys=False
        )
    )
    return str(path)


def results(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that was interrupted in its third run and then went on; with the names of the runs in the order trained."""
    folder = tmp_path_factory.mktemp("study")
    name = write(
        folder / "two.yaml",
        variants={
            "plain": {"augment": "none"},
            "turned": {"augment": "d4"},
            "broken": {"normalization": "stanadrd"},
        },
    )
    trained, real = [], haloformer.training.train

    def train(**options):
        if len(trained) == 3:
            trained.append("Ctrl-C")
            raise KeyboardInterrupt
        trained.append(options["out"].rpartition("/")[2])
        return real(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(haloformer.training, "train", train)
        with pytest.raises(KeyboardInterrupt):
            study(name, out=str(folder / "out"), progress=False)
        before = results(folder / "out")
        result = study(name, out=str(folder / "out"), progress=False)
    return result, before, trained, name


def test_an_interrupted_study_goes_on_without_repeating_a_run(finished):
    result, before, trained, _ = finished
    assert [(r["variant"], r["seed"]) for r in before] == [
        ("plain", 0),
        ("turned", 0),
        ("broken", 0),
    ]
    done = [name for name in trained if name not in ("Ctrl-C", "broken-seed0", "broken-seed1")]
    assert sorted(done) == [
        "plain-seed0",
        "plain-seed1",
        "turned-seed0",
        "turned-seed1",
    ]  # each once
    assert (result.n_runs, result.n_failed, result.n_missing) == (4, 2, 0)
    after = {(r["variant"], r["seed"]): r for r in results(result.out)}
    assert all(after[r["variant"], r["seed"]] == r for r in before if r["status"] == "ok")


def test_runs_of_a_survey_that_has_changed_are_not_taken_for_those_of_the_present_one(
    tmp_path, monkeypatch
):
    survey = tmp_path / "mine.yaml"
    short = "base: model_ii\ninstrument: {base: euclid_vis, exposure_time: 300}\n"
    survey.write_text(short)
    base = {**BASE, "data": str(survey), "epoch_size": 32, "val_size": 24}
    name = write(tmp_path / "one.yaml", base=base, test={"n": 30}, seeds=1, variants={"plain": {}})
    options = {"out": str(tmp_path / "out"), "progress": False}
    assert study(name, **options).n_runs == 1
    assert list(results(tmp_path / "out")[0]["contents"]) == [str(survey)]
    never = mock.Mock(side_effect=AssertionError("trained again"))
    monkeypatch.setattr(haloformer.training, "train", never)
    survey.write_text("# as it was\n" + short)
    assert study(name, **options).n_runs == 1
    survey.write_text(short.replace("300", "3000"))
    with pytest.raises(InputError, match=r"was run before .*mine\.yaml changed"):
        study(name, **options)


def test_answers_for_what_a_file_held_before_are_not_taken(tmp_path, unpictured):
    train, test = tmp_path / "train.h5", tmp_path / "test.h5"
    rng = np.random.default_rng(0)

    def store(path, n):
        path.unlink(missing_ok=True)
        images = rng.random((n, 1, 64, 64), np.float32)
        write_dataset(path, images, np.arange(n) % 3, {}, ("axion", "cdm", "no_sub"))

    store(train, 120)
    base = {key: value for key, value in BASE.items() if key not in ("epoch_size", "val_size")}
    base |= {"data": str(train), "val_fraction": 0.5}
    name = write(
        tmp_path / "s.yaml", base=base, test={"data": str(test)}, variants={"a": {}}, seeds=1
    )
    logits = []
    for _ in range(2):
        store(test, 30)
        study(name, out=str(tmp_path / "out"), progress=False)
        with np.load(tmp_path / "out/logits/a-seed0.npz") as kept:
            logits.append(kept["logits"])
        (tmp_path / "out/results.jsonl").unlink()
    assert not np.array_equal(*logits)
    # As after a kill before the result was written, with weights that were trained again.
    weights = tmp_path / "out/runs/a-seed0/artefact/weights.safetensors"
    tensors = load_file(weights)
    save_file({key: 2 * value for key, value in tensors.items()}, weights)
    study(name, out=str(tmp_path / "out"), progress=False)
    with np.load(tmp_path / "out/logits/a-seed0.npz") as kept:
        assert not np.array_equal(kept["logits"], logits[-1])


def test_test_images_of_one_class_are_refused_and_a_missing_class_is_told(tmp_path, unpictured):
    rng = np.random.default_rng(0)

    def stored(name, labels):
        images = rng.random((len(labels), 1, 64, 64), np.float32)
        write_dataset(tmp_path / name, images, np.array(labels), {}, ("axion", "cdm", "no_sub"))
        return str(tmp_path / name)

    base = {key: value for key, value in BASE.items() if key not in ("epoch_size", "val_size")}
    base |= {"data": stored("train.h5", [0, 1, 2] * 40), "val_fraction": 0.5}
    options = {"base": base, "seeds": 1, "variants": {"a": {}}}
    out, one = str(tmp_path / "out"), stored("one.h5", [1] * 20)
    with pytest.raises(InputError, match=r"one\.h5: all images are of class 'cdm'"):
        study(write(tmp_path / "s.yaml", **options, test={"data": one}), out=out)
    assert not (tmp_path / "out").exists()
    two = stored("two.h5", [0, 2] * 10)
    study(write(tmp_path / "s.yaml", **options, test={"data": two}), out=out, progress=False)
    told = (tmp_path / "out" / "table.md").read_text()
    assert "| without test images | cdm: without an AUC, and left out of the macro AUC |" in told

    # Of those that a grouping leaves.
    options["base"] = {**base, "classes": "axion_cdm"}
    name = write(tmp_path / "s.yaml", **options, test={"data": two})
    with pytest.raises(InputError, match=r"two\.h5: all images are of class 'axion'"):
        study(name, out=str(tmp_path / "grouped"), progress=False)


def test_the_table_is_of_the_seeds_that_are_asked_for_and_other_runs_are_kept(
    finished, monkeypatch, unpictured
):
    result, _, _, name = finished
    monkeypatch.setattr(haloformer.training, "train", None)
    folder, options = str(result.out), {"only": "plain,turned", "progress": False}
    whole = (result.out / "results.jsonl").read_bytes()
    one = study(name, out=folder, seeds=1, **options)
    assert one.n_runs == 2
    for row in one.rows[:2]:
        assert (row["seeds"], row["interval"]) == ([0], "over test images")
    page = (result.out / "table.md").read_text()
    assert "| seeds | 0: each draws" in page
    assert (result.out / "results.jsonl").read_bytes() == whole
    both = study(name, out=folder, **options)
    assert [row["seeds"] for row in both.rows[:2]] == [[0, 1], [0, 1]]


def test_a_second_process_is_kept_off_a_study(finished):
    result, _, _, name = finished
    described = (result.out / "study.yaml").read_bytes()
    with (
        one_process_only(result.out, "busy"),
        pytest.raises(InputError, match="another process is at this study"),
    ):
        study(name, out=str(result.out), seeds=1, only="plain", progress=False)
    assert (result.out / "study.yaml").read_bytes() == described


def test_a_failed_run_is_in_the_table_with_its_message_and_the_others_are_done(finished):
    result, *_ = finished
    failed = [r for r in results(result.out) if r["status"] == "failed"]
    assert [r["variant"] for r in failed] == ["broken", "broken"]
    page = (result.out / "table.md").read_text()
    assert "**broken**, seed 0: unknown normalization 'stanadrd': did you mean 'standard'?" in page


def test_mean_difference_and_interval_are_those_of_the_runs(finished):
    result, *_ = finished
    auc = {
        (r["variant"], r["seed"]): r["test"]["macro_auc"]["value"]
        for r in results(result.out)
        if "test" in r
    }
    plain, turned = ([auc[name, seed] for seed in (0, 1)] for name in ("plain", "turned"))
    row = next(
        row
        for row in csv.DictReader((result.out / "table.csv").open())
        if row["variant"] == "turned"
    )
    assert float(row["macro_auc"]) == pytest.approx((turned[0] + turned[1]) / 2)
    assert float(row["difference"]) == pytest.approx(
        (turned[0] - plain[0] + turned[1] - plain[1]) / 2
    )
    low, high = ttest_rel(turned, plain).confidence_interval(0.95)
    assert (float(row["difference_low"]), float(row["difference_high"])) == pytest.approx(
        (low, high)
    )


def test_all_runs_of_a_seed_see_the_same_test_images_and_no_training_seed(finished):
    result, *_ = finished
    files = [
        np.load(result.out / "logits" / f"{name}-seed{k}.npz")
        for name in ("plain", "turned")
        for k in (0, 1)
    ]
    assert len({str(file["test_images"]) for file in files}) == 1
    record = results(result.out)[0]
    assert record["test_images"]["seed"] not in (0, 1)
    with np.load(result.out / "logits" / "plain-seed0.npz") as kept:
        again = macro_auc(kept["labels"], log_odds(kept["logits"])).value
    assert again == pytest.approx(record["test"]["macro_auc"]["value"])


def test_table_says_how_it_was_made(finished):
    result, _, _, name = finished
    page = (result.out / "table.md").read_text()
    for text in (
        f"haloformer study {name}",
        "nothing was selected on these images",
        "90 of model_ii",
        "0, 1: each draws",
    ):
        assert text in page
    assert {"figure.png", "figure.svg", "table.csv", "study.yaml", "runs", "logits"} <= {
        p.name for p in result.out.iterdir()
    }
    assert not list(result.out.rglob("*.part"))


def test_the_table_can_be_written_anew_without_training(finished, monkeypatch):
    result, *_ = finished
    page = (result.out / "table.md").read_bytes()
    (result.out / "table.md").unlink()
    monkeypatch.setattr(haloformer.training, "train", None)
    study("two", out=str(result.out), report_only=True, progress=False)
    assert (result.out / "table.md").read_bytes() == page


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seeds": 1}, "seeds"), ({"only": "a"}, "only"), ({"options": {"lr": 1}}, "lr")],
)
def test_a_report_alone_refuses_what_it_would_not_do(finished, options, said):
    result, *_ = finished
    with pytest.raises(InputError, match=rf"^{said} is for runs: report_only .*study\.yaml"):
        study("two", out=str(result.out), report_only=True, progress=False, **options)


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(finished):
    result, _, _, name = finished
    described = (result.out / "study.yaml").read_text()
    with pytest.raises(InputError, match=r"lr: 0\.003 there, 0\.01 here"):
        study(name, out=str(result.out), options={"lr": 0.01}, progress=False)
    assert (result.out / "study.yaml").read_text() == described


def test_runs_start_from_the_pretraining_of_their_seed_in_several_processes(
    forked_workers, tmp_path
):
    method = {
        "scratch": {"pretrained": False},
        "tuned": {"pretrained": "{pretrained}/artefact/weights.safetensors"},
    }
    name = write(
        tmp_path / "t.yaml",
        pretrain={"noise": "instrument"},
        grid={"method": method, "epoch_size": [64, 128]},
        reference={"method": "scratch"},
        seeds=1,
    )
    result = study(name, out=str(tmp_path / "out"), workers=2, progress=False)
    assert result.n_failed == 0, results(result.out)
    start = yaml.safe_load((tmp_path / "out/runs/tuned-64-seed0/config.yaml").read_text())
    assert "out/runs/pretrained-seed0/" in json.dumps(start)
    row = next(row for row in result.rows if row["variant"] == "tuned-64")
    assert row["reference"] == "scratch-64"
    assert row["interval"] == "over test images"
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert "| tuned |" in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": {}}, "unknown key in .*'variant': did you mean 'variants'"),
        (
            {"variants": {"a": {}, "b": {"weigth_decay": 1}}},
            "variant 'b': unknown field .*'weigth_decay': did you mean 'weight_decay'",
        ),
        (
            {"variants": {"a": {}}, "test": {"sead": 3}},
            "unknown key in test .*'sead': did you mean 'seed'",
        ),
        ({"variants": {"a": {}}, "test": {"seed": 1}}, "seed 1 is the seed of the training images"),
        ({"variants": {"a": {}}, "test": {"seed": 2**40}}, "is the seed of the validation images"),
        ({"variants": {"a": {"seed": 3}}}, "seed is for the study to choose"),
        ({"variants": {"a": {"pretrained": "{pretrained}"}}}, "pretrain is missing"),
        ({"variants": {"../a": {}}}, "cannot name a variant"),
        (
            {"grid": {"epochs": [1]}, "figure": {"kind": "curve", "x": "epoch"}},
            "'epoch': did you mean 'epochs'",
        ),
        ({}, "needs either variants .* or grid"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        study(write(tmp_path / "s.yaml", **change), out=str(tmp_path / "out"), progress=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_study_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not the folder of a study"):
        study("augmentation", out=str(tmp_path), progress=False)
    with pytest.raises(InputError, match="did you mean 'augmentation'"):
        study("augmentatoin", progress=False)


def test_interval_over_one_pair_of_models_matches_the_bootstrap_over_images():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    shared = np.eye(3)[labels] + rng.normal(size=(300, 3))
    one, other = (shared + 0.5 * rng.normal(size=(300, 3)) for _ in range(2))
    interval = paired_difference(labels, one, other)
    draws = []
    for _ in range(300):
        chosen = np.concatenate([rng.choice(np.flatnonzero(labels == k), 100) for k in range(3)])
        both = [
            macro_auc(labels[chosen], log_odds(logits[chosen])).value for logits in (one, other)
        ]
        draws.append(both[0] - both[1])
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.15)
    assert paired_difference(labels, one, one).value == 0


def test_interval_over_seeds_is_students_and_ends_where_an_auc_does():
    interval = over_seeds([0.97, 0.98, 0.99])
    assert interval.value == pytest.approx(0.98)
    assert interval.high == pytest.approx(0.98 + 4.302653 * 0.01 / np.sqrt(3), abs=1e-6)
    assert over_seeds([0.98, 1.0], 0, 1).high == 1
    assert np.isnan(over_seeds([0.98]).low)


@pytest.mark.parametrize("name", list_studies())
def test_every_run_of_a_shipped_study_is_an_experiment(name):
    plan = read_study(name)
    assert plan.question.endswith("?")
    for run in module.runs_of(plan, plan.variants):
        assert compose(None, run.options).data.source


def test_shipped_studies_compare_what_they_say():
    for name in (
        "augmentation",
        "regularization",
    ):  # quick enough for two cores, and one factor at a time
        for run in module.runs_of(read_study(name), read_study(name).variants):
            experiment = compose(None, run.options)
            assert experiment.data.epoch_size * experiment.schedule.epochs <= 20_000
            assert run.test["noise"] == "instrument"
    plan = read_study("data_size")
    steps = {
        compose(None, run.options).data.epoch_size
        // run.options["batch_size"]
        * run.options["epochs"]
        for run in module.runs_of(plan, plan.variants)
    }
    assert steps == {20_000}
    assert read_study("regularisation") == read_study("regularization")


def test_all_runs_share_images_that_are_simulated_once(tmp_path, monkeypatch):
    real, made = Simulator.batch, []

    def batch(self, numbers, **options):
        made.extend((self.seed, int(number)) for number in numbers)
        return real(self, numbers, **options)

    monkeypatch.setattr(Simulator, "batch", batch)
    variants = {"plain": {"augment": "none"}, "turned": {"augment": "d4"}}
    study(write(tmp_path / "s.yaml", variants=variants, seeds=1), out=str(tmp_path / "s"))
    assert len({seed for seed, _ in made}) == 3  # training, validation, test
    assert len(made) == len({*made})
    assert all("prepared" not in row["options"] for row in results(tmp_path / "s"))


def test_a_network_without_finite_answers_is_a_failed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Predictor, "numbers_of", lambda self, shown: torch.full((len(shown), 3), torch.nan)
    )
    with pytest.raises(InputError, match="gives no number for one of the test images of model_ii"):
        study(write(tmp_path / "s.yaml", variants={"plain": {}}, seeds=1), out=str(tmp_path / "s"))


def test_a_study_of_a_composed_survey_is_tested_on_its_images():
    found = module.test_images_of(HeldOutImages(n=30), compose(None, {"data": "common_task"}))
    assert (found["data"], found["noise"], found["n"]) == ("common_task", "original", 30)


def test_a_copy_of_the_training_images_is_no_test(tmp_path):
    train, copy = tmp_path / "train.h5", tmp_path / "copy.h5"
    images = np.random.default_rng(0).random((9, 1, 16, 16), np.float32)
    write_dataset(train, images, np.arange(9) % 3, {}, ("axion", "cdm", "no_sub"))
    shutil.copy(train, copy)
    options = {"base": {**BASE, "data": str(train)}, "test": {"data": str(copy)}}
    name = write(tmp_path / "s.yaml", variants={"a": {}}, **options)
    with pytest.raises(InputError, match=r"copy\.h5 is data of variant 'a', too"):
        study(name, out=str(tmp_path / "out"))


def test_a_folder_of_images_is_no_test_and_the_way_to_one_is_told(tmp_path):
    (tmp_path / "images").mkdir()
    test = {"data": str(tmp_path / "images")}
    name = write(tmp_path / "s.yaml", variants={"a": {}}, base=BASE, test=test)
    with pytest.raises(
        InputError, match=r"images is neither a dataset file .* `haloformer convert"
    ):
        study(name, out=str(tmp_path / "out"))


def test_a_hint_of_what_comes_next_is_no_error_where_there_is_none(tmp_path):
    (tmp_path / "evaluation").mkdir()
    model = {"name": "evaluation", "macro_auc": {"value": 0.9}}
    runs = [str(tmp_path / "evaluation"), "other"]
    assert next_step("compare", {"runs": runs}, {"models": [model]}) is None
    assert next_step("evaluate", {"run": runs[0]}, None) is None


def outcome(variant, classes=("axion", "cdm", "no_sub"), auc=0.9, **images):
    """A line of results.jsonl, of a run of BASE."""
    images = {"data": "model_ii", "noise": "original", "n": 90, "seed": 1_000_000} | images
    estimate = {"value": auc, "low": auc - 0.01, "high": auc + 0.01}
    test = {"n_images": 90, "macro_auc": estimate, "accuracy": estimate}
    return {
        **{"variant": variant, "seed": 0, "status": "ok", "message": "", "changes": {}},
        **{"options": {}, "test_images": images, "val": {"val_macro_auc": auc}, "parameters": 9},
        "test": {**test, "auc": dict.fromkeys(classes, estimate)},
        **{"seconds": 1.0, "date": "2026-11-29 12:00", "hardware": "CPU", "code_version": "1"},
    }


@pytest.fixture
def told(tmp_path, unpictured):
    """Writes the report of a study that has these results."""

    def write_report(*lines, **content):
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        plan = read_study(write(folder / "study.yaml", **{"seeds": 1, **content}))
        options = {run.variant: run.options for run in module.runs_of(plan, plan.variants)}
        texts = [
            line
            if isinstance(line, str)
            else json.dumps({**line, "options": options[line["variant"]]})
            for line in lines
        ]
        (folder / "results.jsonl").write_text("\n".join(texts) + "\n")
        return study("out", out=str(folder), report_only=True, progress=False)

    return write_report


@pytest.mark.parametrize(
    ("change", "line", "why"),
    [
        (
            {"classes": "axion_cdm"},
            {"classes": ("axion", "cdm")},
            "tells axion, cdm apart, the reference axion, cdm, no_sub",
        ),
        (
            {"noise": "instrument"},
            {"noise": "instrument"},
            "was tested on other images: noise instrument, the reference original",
        ),
        (
            {"data": "model_i"},
            {"data": "model_i"},
            "was tested on other images: data model_i, the reference model_ii",
        ),
    ],
)
def test_aucs_of_other_questions_are_not_compared_and_told(told, capsys, change, line, why):
    result = told(
        outcome("usual"),
        outcome("other", auc=0.95, **line),
        outcome("like", auc=0.92),
        variants={"usual": {}, "other": change, "like": {"augment": "d4"}},
    )
    rows = {row["variant"]: row for row in result.rows}
    assert "difference" not in rows["other"]
    assert rows["other"]["not_compared"] == why
    assert rows["like"]["difference"] == pytest.approx(0.02)
    page = (result.out / "table.md").read_text()
    assert f"| not compared | other ({why}) |" in page
    assert "| not compared | 0.9500 |" in page
    present(result)
    shown = " ".join(capsys.readouterr().out.split())  # lines are broken at the screen's width
    assert f"other is not compared: it {why}" in shown


def test_the_best_run_is_one_that_can_be_compared(told):
    result = told(
        outcome("usual"),
        outcome("two", classes=("axion", "cdm"), auc=0.95),
        variants={"usual": {}, "two": {"classes": "axion_cdm"}},
    )
    for name in ("usual", "two"):
        artefact = result.out / "runs" / f"{name}-seed0" / "artefact"
        artefact.mkdir(parents=True)
        (artefact / "artefact.json").write_text('{"survey": "model_ii"}')
    assert "usual-seed0" in next_step("study", {}, result)
    assert "Their AUCs answer different questions" in (result.out / "table.md").read_text()


def test_the_same_classes_in_another_order_are_paired_class_by_class(told, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    logits = np.eye(3)[labels] + rng.normal(size=(90, 3))
    turn = np.array([2, 0, 1])
    (tmp_path / "out" / "logits").mkdir(parents=True)
    for name, order in (("usual", [0, 1, 2]), ("other", turn)):
        np.savez(
            tmp_path / "out" / "logits" / f"{name}-seed0.npz",
            labels=np.argsort(order)[labels],
            logits=logits[:, order],
            class_names=np.array(["axion", "cdm", "no_sub"])[order],
        )
    result = told(
        outcome("usual"),
        outcome("other", classes=("no_sub", "axion", "cdm")),
        variants={"usual": {}, "other": {"augment": "d4"}},
    )
    assert result.rows[1]["difference_p"] == 1


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ('{"variant": "usual", ', "is not valid JSON"),
        ("[]", "is no run's result"),
        (json.dumps({**outcome("usual"), "test": {}}), "test has no auc of the classes"),
        (json.dumps({**outcome("usual"), "val": {}}), "val has no val_macro_auc"),
        (
            json.dumps({key: v for key, v in outcome("usual").items() if key != "test_images"}),
            "test_images is missing",
        ),
        (json.dumps({**outcome("usual"), "seed": "0"}), "seed cannot be used"),
        (
            json.dumps({**outcome("usual"), "test": {**outcome("usual")["test"], "accuracy": 0.9}}),
            "test: accuracy must have value, low and high",
        ),
    ],
)
def test_a_damaged_result_is_named_by_its_line_with_the_way_out(told, damaged, said):
    variants = {"usual": {}, "other": {"augment": "d4"}}
    with pytest.raises(InputError, match=said) as refused:
        told(outcome("other"), damaged, variants=variants)
    message = str(refused.value)
    assert "results.jsonl, line 2: " in message
    assert message.endswith("delete this line, and the same command repeats that run alone")


def test_results_that_are_no_text_are_named_by_their_line(told, tmp_path):
    told(outcome("usual"), variants={"usual": {}})
    with (tmp_path / "out" / "results.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"results\.jsonl, line 2: is no text; delete this line"):
        study("out", out=str(tmp_path / "out"), report_only=True)
