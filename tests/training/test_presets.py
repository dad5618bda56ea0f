"""The shipped presets: each says what it can say, models there are, and published recipes what was published."""

import re
import typing
from importlib import resources
from typing import Any

import pytest
import yaml

from haloformer.data.framing import FITS
from haloformer.data.grouping import GROUPINGS
from haloformer.errors import InputError
from haloformer.models import find_model, list_models
from haloformer.outputs.losses import LOSSES
from haloformer.outputs.targets import TARGETS
from haloformer.training.config import GROUPS, SHORT_NAMES, compose, list_presets, preset_text
from haloformer.training.optim import OPTIMIZERS, SCHEDULES
from haloformer.training.transfer import TUNING

CONFIGS = resources.files("haloformer").joinpath("configs")
FILES = {
    kind: {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in CONFIGS.joinpath(kind).iterdir()
        if file.name.endswith(".yaml")
    }
    for kind in ("recipes", "models")
}
# A family of networks has a preset with or without a file of its own.
TEXTS = {
    "recipes": FILES["recipes"],
    "models": {name: preset_text(name) for name in {*list_presets()} - {*FILES["recipes"]}},
}
RECIPES = sorted(TEXTS["recipes"])
PUBLISHED = [name for name in RECIPES if name.startswith("published_")]
FAMILIES = {info.family for info in list_models()}
OURS = [
    "quick",
    "standard",
    "long",
    "noise_free",
    "fine_tune",
    "probe",
    "lora",
    "mass",
    "classify_and_weigh",
]


def preset_of(family: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", family.lower()).strip("_")


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("classes", GROUPINGS), ("fit", FITS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("tune", TUNING),
        ("loss", LOSSES), ("targets", TARGETS),
    ],
)  # fmt: skip
def test_a_field_with_a_choice_takes_what_there_is_and_nothing_else(field, known):
    group, name = SHORT_NAMES[field]
    hint = typing.get_type_hints(GROUPS[group])[name]
    choice = hint if typing.get_origin(hint) is typing.Literal else typing.get_args(hint)[0]
    assert set(typing.get_args(choice)) == set(known)


@pytest.mark.parametrize("kind", TEXTS)
def test_every_preset_is_a_mapping_of_known_fields_under_a_comment_that_says_what_it_is_for(kind):
    for name, text in TEXTS[kind].items():
        fields = yaml.safe_load(text)
        assert isinstance(fields, dict), name
        unknown = set(fields) - {*SHORT_NAMES, *GROUPS, "preset"}
        assert not unknown, (name, unknown)
        assert text.startswith("# "), name
        assert len(list_presets()[name]) > 20, name


def test_no_model_is_called_like_a_recipe():
    assert not set(TEXTS["models"]) & set(TEXTS["recipes"])


def test_every_family_of_the_registry_has_a_preset_and_no_other_has_one():
    assert {preset_of(family) for family in FAMILIES} == set(TEXTS["models"])


def test_a_model_preset_has_a_file_only_where_it_says_more_than_the_networks_name():
    assert all(len(yaml.safe_load(text)) > 1 for text in FILES["models"].values())


def test_a_shipped_preset_is_printed_as_its_file_is():
    for name, text in {**FILES["recipes"], **FILES["models"]}.items():
        assert preset_text(name) == text
    assert yaml.safe_load(preset_text("swin")) == {"model": "swin_nano"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_preset_names_a_model_of_its_family_and_ours_where_there_is_one(family):
    model = compose(preset_of(family)).model
    info = find_model(model.name)
    assert info.family == family
    sizes = {i.size for i in list_models() if i.family == family}
    assert info.size == next(size for size in ("nano", "tiny", "paper") if size in sizes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_to_an_experiment_with_a_model_and_an_optimizer_that_exist(name):
    experiment = compose(name)
    info = find_model(experiment.model.name)
    assert info.pretrained or experiment.transfer.pretrained is not True, (
        "there are no such weights"
    )
    assert experiment.optimizer.name in OPTIMIZERS
    assert experiment.schedule.name in SCHEDULES


@pytest.mark.parametrize("name", OURS)
def test_our_recipes_can_be_composed_with_any_model_and_data(name):
    experiment = compose([name, "swin"], {"data": "model_iii", "lr": 7e-4})
    assert (experiment.data.source, experiment.model.name, experiment.optimizer.lr) == (
        "model_iii",
        "swin_nano",
        7e-4,
    )
    assert not compose(name).data.source  # a recipe does not choose the data


def test_what_comes_later_wins_and_the_rest_stays():
    experiment = compose("standard,long,noise_free,t2t_vit", {"epochs": 3})
    assert experiment.schedule.epochs == 3
    assert experiment.data.batch_size == 256
    assert experiment.data.normalization == "asinh_faint"
    assert experiment.model.name == "t2t_vit_nano"
    assert experiment.optimizer.weight_decay == compose("standard").optimizer.weight_decay


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_tells_author_year_and_source(name):
    text = TEXTS["recipes"][name]
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    assert re.match(r"published_([a-z]+_20\d\d|common_task)_[a-z0-9_]+$", name)
    assert re.search(r"Source: |Not found: |Not stated: ", comments)
    if "_common" not in name:
        year = name.split("_")[2]
        assert year in list_presets()[name]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "common_task" not in name])
def test_no_published_recipe_inherits_our_clipping_warm_up_or_early_stop(name):
    experiment = compose(name)
    stated = {key for layer in _layers(name) for key in layer}
    assert {
        "clip",
        "warmup",
        "patience",
        "augment",
        "normalization",
        "epochs",
        "batch_size",
        "weight_decay",
    } <= stated
    assert (experiment.optimizer.clip, experiment.trainer.patience) == (0.0, 0)
    assert experiment.regularization.ema == experiment.regularization.label_smoothing == 0


def _layers(name: str) -> list[dict[str, Any]]:
    fields = yaml.safe_load(TEXTS["recipes"][name])
    return [fields, *(_layers(fields["preset"]) if "preset" in fields else [])]


FACTS: dict[str, dict[str, Any]] = {
    "published_srivastava_2022_coatnet": {
        "model": "coatnet_nano_rw_224",
        "img_size": 224,
        "crop": 100,
        "pretrained": True,
        "optimizer": "adamw",
        "lr": 3e-4,
        "weight_decay": 0.01,
        "schedule": "constant",
        "epochs": 25,
        "batch_size": 64,
        "augment": "none",
        "normalization": "none",
    },
    "published_srivastava_2022_swin": {
        "model": "swinv2_tiny_window8_256",
        "img_size": 256,
        "pretrained": True,
    },
    "published_sachdev_2022_swin": {
        "img_size": 128,
        "batch_size": 32,
        "pretrained": False,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "warmup": 0.2,
        "epochs": 15,
        "normalization": "image_minmax",
        "augment": "flips",
        "val_fraction": 0.25,
    },
    "published_sachdev_2022_cvt": {"epochs": 10, "warmup": 0.3, "img_size": 224, "dropout": 0.1},
    "published_singh_2021_d8": {
        "model": "equivariant_d8_deeplense_129",
        "img_size": 129,
        "crop": 128,
        "optimizer": "adam",
        "lr": 5e-5,
        "weight_decay": 1e-5,
        "epochs": 30,
        "rotation": 180.0,
    },
    "published_singh_2021_resnet18": {"model": "resnet18", "rotation": 0.0, "pretrained": False},
    "published_alexander_2020_resnet": {"model": "resnet18"},
    "published_jolly_2023_c8": {
        "schedule": "step",
        "step_size": 5,
        "gamma": 0.7,
        "epochs": 10,
        "img_size": 128,
    },
    "published_jolly_2023_resnet18": {"pretrained": True, "channels": 3, "weight_decay": 1e-5},
    "published_common_task_resnet18": {
        "model": "resnet18",
        "epochs": 6,
        "normalization": "image_minmax",
    },
    "published_halychanskyi_2022_mass": {
        "task": "regression",
        "targets": ["log10_m_axion"],
        "lr": 1e-3,
        "epochs": 200,
        "batch_size": 64,
        "schedule": "one_cycle",
    },
    "published_guan_2022_mass": {"model": "resnet34", "lr": 3e-3, "batch_size": 128, "epochs": 300},
    "published_deshmukh_2023_mass": {
        "model": "resnet50",
        "channels": 3,
        "optimizer": "adam",
        "lr": 1e-4,
        "epochs": 20,
    },
}


@pytest.mark.parametrize("name", FACTS)
def test_a_published_recipe_says_what_its_source_says(name):
    flat = compose(name).flat()
    assert {key: flat[key] for key in FACTS[name]} == FACTS[name]


def test_the_document_lists_every_recipe(request):
    document = request.config.rootpath / "docs" / "recipes.md"
    text = document.read_text(encoding="utf-8")
    missing = [name for name in RECIPES if not name.endswith("_common") and f"`{name}`" not in text]
    assert not missing


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "a"}, "names itself: a.yaml → a.yaml"),
        ({"a": "b", "b": "c", "c": "a"}, "a.yaml → b.yaml → c.yaml → a.yaml"),
    ],
)
def test_presets_that_name_each_other_in_a_circle_are_refused(
    files, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, other in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"preset: {other}.yaml\nlr: 1e-3\n")
    with pytest.raises(InputError, match=message):
        compose("a.yaml")
    with pytest.raises(InputError, match="must be a name or a list of names, not 5"):
        compose(None, {"preset": 5})


def test_two_presets_may_share_a_third(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("lr: 2e-3\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("preset: base.yaml\n")
    assert compose("a.yaml,b.yaml").optimizer.lr == 2e-3
