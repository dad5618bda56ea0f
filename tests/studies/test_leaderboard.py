"""The leaderboard: ranked by what the runs came to, beside what was published, and safe to call again."""

import csv

import numpy as np
import pytest

from haloformer.cli import main
from haloformer.errors import InputError
from haloformer.evaluation.published import best_published, published_aucs
from haloformer.simulation.surveys import list_surveys
from haloformer.studies import benchmark, leaderboard, leaderboard_figures, ranking
from haloformer.studies.leaderboard import board

pytestmark = pytest.mark.usefixtures("opened_at_once")

SMALL = {"batch_size": 32, "val_size": 60}


def run(out, **changes):
    given = {
        "models": "hybrid_nano,resnet18",
        "budget": 96,
        "n_test": 90,
        "seeds": 1,
        "progress": False,
    }
    given |= {"options": {**SMALL, "device": "cpu"}} | changes
    return benchmark(out=str(out), **given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, save_png):
    folder = tmp_path_factory.mktemp("board") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("haloformer.reporting.style.save", save_png)
        return run(folder, models="hybrid_nano,vit_nano")


def test_networks_are_ranked_by_their_test_auc(finished):
    rows = list(csv.DictReader((finished.out / "leaderboard.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    aucs = [float(row["macro_auc"]) for row in rows]
    assert aucs == sorted(aucs, reverse=True)
    assert all(
        float(row["macro_auc_low"]) < auc < float(row["macro_auc_high"])
        for row, auc in zip(rows, aucs)
    )
    assert all(
        float(row["macs"]) > 1e5 and float(row["inference_images_per_second"]) > 1 for row in rows
    )


def test_page_and_text_hold_table_protocol_and_figures(finished):
    page, text = ((finished.out / f"leaderboard.{kind}").read_text() for kind in ("html", "md"))
    for said in (
        "vit_nano",
        "noise instrument",
        "nothing was selected on these images",
        "haloformer benchmark",
    ):
        assert said in page
        assert said in text
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert {f.stem for f in finished.out.glob("*.png")} == {
        "figure",
        "cost_model_ii",
        "roc_model_ii",
        "confusion_model_ii",
    }


def test_called_again_it_trains_nothing(finished, monkeypatch, unpictured):
    monkeypatch.setattr("haloformer.training.train", lambda **_: pytest.fail("trained again"))
    again = run(finished.out, models="hybrid_nano,vit_nano")
    assert [row["macro_auc"] for row in again.rows] == [row["macro_auc"] for row in finished.rows]
    assert benchmark(out=str(finished.out), report_only=True).n_runs == 2


def test_own_folders_are_trained_and_tested_on(tmp_path, unpictured):
    from haloformer.cli.simulate import simulate

    for name, seed in (("train", 1), ("test", 2)):
        simulate(
            "model_ii", n=90, seed=seed, format="deeplense", out=str(tmp_path / name), quiet=True
        )
    result = run(
        tmp_path / "out",
        models="hybrid_nano",
        surveys="model_ii",
        train_data=str(tmp_path / "train"),
        test_data=str(tmp_path / "test"),
    )
    assert "90 of" in (result.out / "leaderboard.md").read_text()


def test_published_aucs_stand_beside_the_same_architecture():
    row = {
        "model": "coatnet_nano",
        "data": "model_i",
        "macro_auc": 0.9,
        "accuracy": 0.8,
        "interval": "",
        "n_seeds": 1,
    }
    entry = board([{**row, "variant": "x"}])[0]
    assert entry["published_macro_auc"] == pytest.approx(0.9955, abs=1e-4)
    assert "Srivastava" in entry["published_source"]
    assert (
        board([{**row, "model": "hybrid_nano", "variant": "x"}])[0]["published_macro_auc"] is None
    )


def test_published_aucs_of_other_classes_are_left_out():
    row = {"model": "coatnet_nano", "data": "model_i", "macro_auc": 0.9, "accuracy": 0.8}
    row |= {"interval": "", "n_seeds": 1, "variant": "x", "auc_axion": 0.9, "auc_cdm": 0.9}
    assert board([row])[0]["published_macro_auc"] is None
    assert board([{**row, "auc_no_sub": 0.9}])[0]["published_macro_auc"] is not None


def test_every_published_figure_is_of_a_family_that_we_have():
    from haloformer.models import list_models

    families = {info.family for info in list_models()}
    for (family, dataset), found in published_aucs().items():
        assert family in families
        assert dataset in {*list_surveys(), "pyautolens", "common_task"}
        assert all(set(item.per_class) == {"axion", "cdm", "no_sub"} for item in found)
        assert all(0.25 < auc <= 1 for item in found for auc in item.per_class.values())
    assert best_published("C8 CNN", "model_i") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 10}, "budget must be at least 64, not 10"),
        ({"surveys": "model_x"}, "unknown survey 'model_x'"),
        ({"models": "resnat18"}, "unknown model 'resnat18'"),
        ({"train_data": "a"}, "go together"),
        ({"models": ","}, "names with commas"),
        (
            {"surveys": "model_i,model_ii", "train_data": "a", "test_data": "b"},
            "surveys names the one",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_trained(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        run(tmp_path / "out", **changes)
    assert np.all([not path.suffix for path in tmp_path.iterdir()])


def test_a_composed_survey_can_be_benchmarked():
    from haloformer.studies.ranking import images_of

    found = images_of("common_task", "survey", 30, None, None, None)
    assert found.data == {"common_task": {"data": "common_task", "noise": "original"}}
    theirs = best_published("C8 CNN", "alexander_2020_b")
    assert theirs.macro == pytest.approx(0.9937, abs=1e-4)


def test_surveys_of_ones_own_may_lie_in_other_folders(tmp_path):
    files = [tmp_path / folder / "mine.yaml" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("base: model_ii\n")
    images = ranking.images_of([str(files[0]), "hst"], "survey", 90, None, None, tmp_path)
    plan = ranking.plan_of("resnet_nano", images, 1, 96, None, SMALL)
    assert [variant.name for variant in plan.variants] == ["resnet_nano-mine", "resnet_nano-hst"]
    assert plan.variants[0].changes["data"] == str(files[0])
    with pytest.raises(InputError, match="have the same name"):
        ranking.images_of([*map(str, files)], "survey", 90, None, None, tmp_path)


def entry(model, survey, n_seeds=2):
    return {"model": model, "survey": survey, "n_seeds": n_seeds, "macro_auc": 0.9, "macs": 1e6}


def test_figures_of_a_survey_are_not_shown_with_one_whose_name_ends_alike():
    drawn = {f"cost_{name}": None for name in ("mine", "not_mine")} | {"roc_mine": None}
    captions = leaderboard._captions(drawn, [entry("resnet_nano", "mine")], "mine")
    assert list(captions) == ["cost_mine", "roc_mine"]
    assert "of the first seed of each" in captions["roc_mine"]


def test_the_confusion_is_of_the_best_network_whichever_of_its_seeds_succeeded(tmp_path):
    (tmp_path / "logits").mkdir()
    labels = np.arange(30) % 3

    def answer(model, seed, right):
        logits = np.eye(3)[labels if right else (labels + 1) % 3]
        np.savez(
            tmp_path / "logits" / f"{model}-x-seed{seed}.npz",
            **{"labels": labels, "logits": logits, "class_names": np.array(list("abc"))},
        )

    answer("vit_nano", 0, right=False)
    answer("resnet_nano", 1, right=True)
    entries = [entry("resnet_nano", "x"), entry("vit_nano", "x")]
    seeds = {"resnet_nano": 1, "vit_nano": 0}
    drawn = leaderboard_figures.answer_figures(tmp_path, entries, seeds, "x")
    words = [text.get_text() for text in drawn["confusion_x"].axes[0].texts]
    assert sum(word.startswith("10") for word in words) == 3
    assert words[0].startswith("10")  # right in the first place of the diagonal
    (tmp_path / "logits" / "resnet_nano-x-seed1.npz").unlink()
    drawn = leaderboard_figures.answer_figures(tmp_path, entries, seeds, "x")
    assert list(drawn) == ["roc_x"]


def test_a_mistake_is_told_with_the_commands_name_once(capsys):
    assert main(["benchmark", "--models", "resnat18"]) == 2
    assert capsys.readouterr().err.startswith("haloformer benchmark: variant 'resnat18")
