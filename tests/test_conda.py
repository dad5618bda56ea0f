"""The conda recipe says what pyproject.toml says, by the names of conda-forge."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from haloformer._version import __version__

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "packaging" / "conda" / "recipe.yaml"
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "astropy": "astropy-base"}
"""Names on PyPI → those on conda-forge, where they differ."""
OF_EXTRAS = {"docstring-parser": "docstring_parser", "typeshed-client": "typeshed-client"}
"""What jsonargparse[signatures] brings: conda packages have no extras."""


@pytest.fixture(scope="module")
def recipe():
    return yaml.safe_load(RECIPE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _bounds(lines):
    """Conda's requirements: name → bound."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_dependencies_and_their_bounds_are_those_of_the_package(recipe, pyproject):
    wanted = {"python": ">=${{ python_min }}"}
    for text in pyproject["project"]["dependencies"]:
        need = Requirement(text)
        wanted[CONDA.get(need.name, need.name)] = str(need.specifier)
    found = _bounds(recipe["requirements"]["run"])
    extras = {name: found.pop(name) for name in OF_EXTRAS.values()}
    assert found == wanted
    needs = map(Requirement, metadata.requires("jsonargparse"))
    brought = {OF_EXTRAS[n.name]: str(n.specifier) for n in needs if n.name in OF_EXTRAS}
    assert extras == brought


def test_it_is_built_as_the_package_is(recipe, pyproject):
    host = _bounds(recipe["requirements"]["host"])
    for text in pyproject["build-system"]["requires"]:
        need = Requirement(text)
        assert host[need.name] == str(need.specifier)
    build = recipe["build"]
    assert build["noarch"] == "python"
    assert "--no-deps" in build["script"]
    scripts = pyproject["project"]["scripts"].items()
    assert build["python"]["entry_points"] == [f"{name} = {where}" for name, where in scripts]


def test_version_python_and_description_are_those_of_the_package(recipe, pyproject):
    project = pyproject["project"]
    assert recipe["context"]["version"] == __version__
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    about = recipe["about"]
    assert about["summary"] == project["description"]
    assert about["license"] == project["license"]
    assert (ROOT / about["license_file"]).is_file()
    assert (about["repository"], about["documentation"]) == (
        project["urls"]["Source"],
        project["urls"]["Documentation"],
    )


def test_its_tests_are_commands_that_there_are(recipe):
    from haloformer.cli import COMMANDS

    scripts = [line for test in recipe["tests"] for line in test.get("script", [])]
    assert len(scripts) > 2
    for line in scripts:
        program, command, *_ = line.split()
        assert program == "haloformer"
        assert command in (*COMMANDS, "--version")


def test_rattler_build_takes_it():
    rattler = pytest.importorskip("rattler_build", reason="needs py-rattler-build")
    (rendered,) = rattler.Stage0Recipe.from_file(str(RECIPE)).render(rattler.VariantConfig())
    assert (rendered.recipe.package.name, rendered.recipe.package.version) == (
        "haloformer",
        __version__,
    )
