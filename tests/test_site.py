"""The documentation site: its menu and the documents agree."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def _pages(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for value in (entry if isinstance(entry, list) else entry.values()) for page in _pages(value)]


def test_every_document_is_in_the_menu_once_and_every_entry_exists():
    menu = _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    documents = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert sorted(menu) == sorted(documents)


def test_the_reference_names_what_exists():
    import importlib
    import re

    names = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
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
