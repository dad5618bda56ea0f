"""The documentation site: its menu and the documents agree."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def _pages(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [
        page
        for value in (entry if isinstance(entry, list) else entry.values())
        for page in _pages(value)
    ]


def test_every_document_is_in_the_menu_once_and_every_entry_exists():
    menu = _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    documents = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert sorted(menu) == sorted(documents)


def test_the_reference_names_what_exists():
    import importlib

    names = re.findall(
        r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert {name.rpartition(".")[2] for name in names} >= {
        "simulate",
        "create_model",
        "train",
        "evaluate",
        "load",
        "predict",
    }
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__


@pytest.mark.parametrize("page", ["simulation.md", "evaluation.md", "models/README.md"])
def test_how_to_add_something_names_files_and_functions_that_exist(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = re.search(r"^## Adding a .*?(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)[0]
    named = set(re.findall(r"`([^`\n]+)`", section))
    files = {name for name in named if "/" in name and "NAME" not in name}
    files |= {str(Path(name).parent) for name in named if "/" in name and "NAME" in name}
    assert len(files) >= 2
    for name in files:
        assert (ROOT / name).exists(), name
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("src", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    )
    for name in {
        name for name in named if re.fullmatch(r"@?_?[A-Za-z]+(_[A-Za-z]+)+_?|_?[A-Z_]+", name)
    }:
        assert re.search(rf"\b{name.removeprefix('@')}", code), name
