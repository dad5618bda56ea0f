"""``haloformer models``: the list that needs no network to be built, and one model in detail."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from haloformer.cli import main
from haloformer.models import find_model, list_models
from haloformer.models.cost import count_macs, count_parameters

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def listed(capsys, *arguments: object) -> list[dict]:
    assert run("models", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def model_table():
    """The script that writes the table."""
    spec = importlib.util.spec_from_file_location(
        "model_table", ROOT / "benchmarks" / "model_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_holds_every_registered_model_as_it_is_registered(capsys, model_table):
    """Otherwise: python benchmarks/model_table.py"""
    rows = {row["name"]: row for row in listed(capsys)}
    assert list(rows) == [info.name for info in list_models()]
    for info in list_models():
        entry = model_table.entry(info)
        assert {key: rows[info.name][key] for key in entry} == entry
        assert set(rows[info.name]) == {
            *entry,
            "parameters",
            "macs_64",
            "macs_150",
            "attention",
            "exceptions",
        }


def _sample():
    small = [info for info in list_models() if info.size == "nano"]
    return small[::4]


@pytest.mark.parametrize("info", _sample(), ids=lambda i: i.name)
def test_the_numbers_of_the_list_are_those_of_the_models(capsys, model_table, info):
    (row,) = [row for row in listed(capsys) if row["name"] == info.name]
    numbers = model_table.measured(info)
    assert {key: row[key] for key in numbers} == numbers


def test_sizes_mean_what_they_promise(capsys):
    for row in listed(capsys):
        if row["size"] == "nano":
            assert row["parameters"] <= 1.5e6, row["name"]
        if row["size"] == "tiny":
            assert 4e6 * 0.9 <= row["parameters"] <= 7e6 * 1.1, row["name"]


def test_filters_narrow_the_list(capsys):
    everything = listed(capsys)
    swin = listed(capsys, "--family", "swin")
    assert swin
    assert {row["family"] for row in swin} == {"Swin"}
    small = listed(capsys, "--size", "nano", "--max-parameters", "700k", "--attention")
    assert 0 < len(small) < len(everything)
    assert all(
        row["size"] == "nano" and row["parameters"] <= 7e5 and row["attention"] for row in small
    )
    assert listed(capsys, "--max-parameters", "0.7M") == listed(capsys, "--max-parameters", "7e5")
    downloadable = listed(capsys, "--pretrained")
    assert 0 < len(downloadable) < len(everything)
    assert all(row["pretrained"] for row in downloadable)
    assert listed(capsys, "--max-parameters", "10") == []
    assert run("models", "--max-parameters", "10") == 0
    assert "no model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "Swim"], "did you mean 'Swin'"),
        (["--size", "huge"], "huge"),
        (["--max-parameters", "many"], "max_parameters must be a number such as 5M"),
        (["--max-parameters", "-3"], "max_parameters must be a number such as 5M"),
        (["resnet18", "--family", "ResNet"], "--family chooses from the list"),
        (["--img-size", "64"], "give its name"),
        (["resnet19"], "did you mean 'resnet18'"),
        (["resnet18", "--img-size", "2"], "img_size must be"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, arguments, message):
    assert run("models", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("suffix", ["ecsv", "vot", "fits"])
def test_the_list_is_a_table_where_the_name_says_so(tmp_path, suffix):
    from astropy.table import Table

    from haloformer.models.table import model_table

    assert run("models", "--size", "nano", "--out", str(tmp_path / f"x.{suffix}")) == 0
    found = Table.read(tmp_path / f"x.{suffix}")
    wanted = [row for row in model_table() if row["size"] == "nano"]
    assert [str(name) for name in found["name"]] == [row["name"] for row in wanted]
    assert found["parameters"].tolist() == [row["parameters"] for row in wanted]


def test_a_list_with_another_ending_is_refused(tmp_path, capsys):
    assert run("models", "--out", str(tmp_path / "x.xlsx")) == 2
    assert ".ecsv, .vot or .xml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run("models", "vit_nano", "--out", str(tmp_path / "x.txt")) == 0
    assert "vit_nano" in (tmp_path / "x.txt").read_text()


def test_the_list_fits_in_100_columns_with_readable_numbers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run("models") == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 100
    (resnet,) = [line for line in lines if line.split()[:1] == ["resnet18"]]
    assert " ".join(resnet.split()) == "resnet18 ResNet paper 11.2 M 142 M 839 M yes no 1512.03385"
    names = {line.split()[0] for line in lines if line.strip()}
    assert {info.name for info in list_models()} <= names  # none is folded


def test_listing_needs_no_torch():
    code = "import sys; from haloformer.cli import main; main(['models']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_one_model_in_detail(capsys):
    assert run("models", "vit_nano", "--img-size", 62, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["padding"] == "zeros on all sides, to 64×64"
    assert row["feature_width"] == 96
    assert len(row["attention_layers"]) == 6
    assert row["macs_62"] == row["macs_64"]
    assert row["keywords"]["patch_size"] == 8
    assert run("models", "vit_nano") == 0
    text = capsys.readouterr().out
    assert "684,291" in text
    assert "(6 layers): global, 3 heads on 8×8" in text


def test_a_model_of_timm_that_is_not_listed_is_shown_too(capsys):
    assert run("models", "mobilenetv3_small_050", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["weights_url"].startswith("https://huggingface.co/timm/mobilenetv3_small_050")
    assert row["attention_layers"] == []


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [("resnet18", 11_689_512, 1.814), ("deit_tiny_patch16_224", 5_717_416, 1.254)],
)
def test_parameters_and_operations_are_counted_as_in_the_literature(name, parameters, gmacs):
    """At 224 pixels in colour: 1.8 and 1.3 billion in the papers; attention's two matrix products are part of it."""
    model = timm.create_model(name)
    assert count_parameters(model) == parameters
    assert count_macs(model, (3, 224, 224)) / 1e9 == pytest.approx(gmacs, abs=1e-3)
    assert model.training


def test_each_model_is_found_by_its_name():
    for info in list_models():
        assert find_model(info.name) is info


def test_models_are_listed_by_a_pattern_of_names(capsys):
    assert main(["models", "CVT_*", "--size", "nano", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["cvt_nano"]
