"""The documentation site: its menu and the documents agree."""

import os
import re
from pathlib import Path

import pytest
import yaml

import haloformer
from haloformer.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))


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
    assert sorted(menu) == PAGES
    assert len(menu) <= 25, "join pages; tables that commands write go to results/"
    for page in PAGES:
        assert len((ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()) <= 450, page


def _links(page: str) -> set[str]:
    """The pages that a page of the site links."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+\.md)", text)
    paths = {os.path.normpath(Path(page).parent / target) for target in targets}
    return {path for path in paths if path in PAGES}


def test_every_page_is_at_most_two_links_from_the_first():
    first = _links("index.md")
    assert first | set().union(*map(_links, first)) | {"index.md"} == set(PAGES)
    for entrance in ("your FITS cutouts", "your own survey", "the benchmark", "contribute"):
        row = re.search(
            rf"^\|.*{entrance}.*\|$", (ROOT / "docs/index.md").read_text(), flags=re.MULTILINE
        )
        assert row, entrance
        assert len(re.findall(r"\]\([^)]+\.md", row[0])) >= 3, entrance


def test_the_page_of_commands_has_all_of_them():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\| `haloformer ([a-z]+)", page)) == set(COMMANDS)


def _numbers(text: str) -> set[str]:
    return {
        number.replace(",", "")
        for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[-−]\d+)?", text)
    }


def _sections() -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    return re.findall(r"^## (.+)\n((?:(?!## ).*\n)+)", page, flags=re.MULTILINE)


@pytest.mark.parametrize(("title", "section"), _sections()[:-1], ids=lambda text: text[:20])
def test_the_numbers_of_the_measurements_are_those_of_the_full_tables(title, section):
    links = re.findall(r"\]\(([^)#]+\.md)", section)
    assert links, title
    full = "".join((ROOT / "docs" / link).read_text(encoding="utf-8") for link in links)
    said = re.sub(
        r"`[^`]*`|\]\([^)]*\)|\d{4}-\d\d-\d\d|^\|[- |]+\|$", "", section, flags=re.MULTILINE
    )
    assert len(_numbers(said)) >= 2
    assert _numbers(said) - _numbers(full) == set(), title
    lines = [_numbers(line) for line in full.splitlines()]
    for cell in re.findall(r"(?<=\|)[^|\n]+(?=\|)", said):
        assert any(_numbers(cell) <= line for line in lines), cell


def test_the_glossary_has_the_words_that_people_look_for_each_with_a_link():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^## (.+)\n\n((?:.+\n)+)", text, flags=re.MULTILINE))
    headings = " ".join(entries).lower()
    for word in (
        *("overconfident", "out-of-distribution", "theta_e", "einstein radius", "shear", "epl", "subhalo", "evidence", "psf"),
        *("residual", "detail", "calibration", "conformal", "auc", "delong", "noise map", "shortcut", "source", "dex"),
    ):  # fmt: skip
        assert word in headings, word
    assert list(entries) == sorted(entries, key=lambda name: name.lower().replace("é", "e"))
    for name, entry in entries.items():
        assert re.search(r"\]\(\w+\.md(#[\w-]+)?\)\.$", entry.strip()), name


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", *(f"docs/{page}" for page in PAGES)])  # fmt: skip
def test_links_lead_to_sections_that_exist(document):
    path = ROOT / document
    assert "]()" not in path.read_text(encoding="utf-8")
    for target, section in re.findall(
        r"\]\(((?:[^)#:]*\.md)?)#([^)]+)\)", path.read_text(encoding="utf-8")
    ):
        text = (path.parent / target if target else path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert section in slugs, f"{target}#{section}"


def test_the_reference_names_what_exists():
    import importlib

    names = re.findall(
        r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    public = set(haloformer.__all__) - {"__version__"}
    assert {name.rpartition(".")[2] for name in names} >= public
    assert len(names) == len(set(names))
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


def test_the_architecture_page_names_every_package_and_only_what_exists():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "haloformer"
    table = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    folders = {name for cell in table for name in re.findall(r"`(\w+)/`", cell)}
    assert folders >= {path.parent.name for path in source.glob("*/__init__.py")}
    assert all((source / name).is_dir() for name in folders)
    steps = page.partition("## The way of one image")[2].partition("## Where to add")[0]
    steps = re.sub(r"^```.*?^```", "", steps, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Za-z_]+)(?:\.\w+)?`", steps)) - {"haloformer"}
    functions = {name for name in named if "_" in name or name[0].isupper()}
    assert len(functions) > 30
    code = "".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    for name in functions:
        assert re.search(rf"^ *(def|class) {name}\b", code, flags=re.MULTILINE), name


def test_paragraphs_of_the_documents_are_wrapped_at_100_columns():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/models/*.md")]
    for document in documents:
        text = document.read_text(encoding="utf-8")
        text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for line in text.splitlines():
            breakable = " " in re.sub(
                r"`[^`]*`|\]\([^)]*\)|!\[[^\]]*\]", "", line.strip(" -*0123456789.")
            )
            table_or_picture = line.startswith(("|", "![", "    ", "#"))
            assert len(line) <= 100 or table_or_picture or not breakable, f"{document.name}: {line}"
