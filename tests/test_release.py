"""What is shipped: the wheel holds all that the package reads, and what is to be cited is up to date."""

import importlib.util
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "haloformer"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The names in the wheel, built without an environment of its own."""
    builders = pytest.importorskip("hatchling.builders.wheel")
    built = next(
        builders.WheelBuilder(str(ROOT)).build(
            directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
        )
    )
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package(wheel):
    files = [
        p
        for p in SOURCE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.suffix not in (".nbi", ".nbc")
    ]
    missing = {f"haloformer/{p.relative_to(SOURCE).as_posix()}" for p in files} - wheel
    assert not missing


@pytest.mark.parametrize(
    "name",
    [
        "weights/model_i/weights.safetensors",
        "weights/model_i/ood.safetensors",
        "weights/model_i/artefact.json",
        "evaluation/published_auc.csv",
        "models/table.json",
        "configs/surveys/model_i.yaml",
        "configs/recipes/standard.yaml",
    ],
)
def test_the_wheel_holds_what_is_no_code(wheel, name):
    assert f"haloformer/{name}" in wheel


def test_the_wheel_brings_the_licence_and_nothing_of_the_tests(wheel):
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
    assert not [name for name in wheel if name.startswith(("tests/", "docs/", "benchmarks/"))]


def test_the_citation_file_is_of_this_version():
    import yaml

    from haloformer._version import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "MIT")
    assert {"cff-version", "title", "message", "authors"} <= set(citation)


def test_every_architecture_of_the_registry_is_in_the_citations():
    spec = importlib.util.spec_from_file_location("citations", ROOT / "benchmarks" / "citations.py")
    citations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(citations)
    written = (ROOT / "docs" / "citations.md").read_text(encoding="utf-8")
    assert written == citations.document(), "run python benchmarks/citations.py"
