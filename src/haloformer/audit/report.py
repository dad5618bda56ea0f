"""An audit in words, tables and figures; everything is computed from the content of ``audit.json``."""

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from haloformer.audit.parts import PARTS
from haloformer.reporting import html
from haloformer.reporting.markdown import cell, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def verdict(result: dict[str, Any]) -> str:
    """Returns one paragraph about the parts that were measured."""
    return " ".join(_paragraphs(result))


def _paragraphs(result: dict[str, Any]) -> list[str]:
    found = [PARTS[name].sentences(measured) for name, measured in result["parts"].items()]
    if result["protocol"]["seen_in_training"]:
        found.insert(
            0,
            "The model was trained or selected on these very scenes, so all results below are too favourable.",
        )
    if seen := result["protocol"].get("compared_seen_in_training"):
        found.insert(
            0,
            f"Trained or selected on these very scenes: {', '.join(seen)}, of which results are too favourable.",
        )
    return found


def _title(result: dict[str, Any]) -> str:
    return f"Audit of {result['protocol']['run']}"


def _subject(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    residual = " with the residual of a smooth fit" if protocol["residual"] else ""
    return (
        f"{protocol['model']}{residual}, trained on {protocol['survey']} (noise: {protocol['noise']}). "
        f"{protocol['n']:,} images per condition ({protocol['n_fewer']:,} where each is shown many times), "
        f"seed {protocol['seed']}; intervals are 95 %, over test images; "
        f"haloformer {protocol['code_version']}, {protocol['date']}."
    )


def to_markdown(result: dict[str, Any], figures: dict[str, str]) -> str:
    """Returns the audit as Markdown.

    Args:
        result: The content of ``audit.json``.
        figures: Name of each figure and its path relative to the text.
    """
    protocol = result["protocol"]
    lines = [f"# {cell(_title(result))}", "", cell(result["verdict"]), ""]
    lines += [f"*{cell(_subject(result))}*", ""]
    for name, measured in result["parts"].items():
        part = PARTS[name]
        lines += [f"## {part.title}", "", cell(part.describe(measured, protocol["n"])), ""]
        for header, rows in part.tables(measured, protocol["class_names"]):
            lines += [*markdown_table([cell(column) for column in header], rows), ""]
        for figure, caption in part.captions.items():
            if figure in figures:
                lines += [f"![{cell(caption)}]({figures[figure]})", ""]
    return "\n".join(lines)


def to_html(result: dict[str, Any], figures: dict[str, Markup]) -> str:
    """Returns the audit as one self-contained page.

    Args:
        result: The content of ``audit.json``.
        figures: Name of each figure and its ``<svg>`` element, of `reporting.style.inline_svg`.
    """
    protocol = result["protocol"]
    sections = []
    for name, measured in result["parts"].items():
        part = PARTS[name]
        description = html.paragraph(part.describe(measured, protocol["n"]))
        tables = [html.table(*table) for table in part.tables(measured, protocol["class_names"])]
        shown = [
            html.figure(figure, figures[figure], caption)
            for figure, caption in part.captions.items()
            if figure in figures
        ]
        sections.append(html.section(part.title, description, *tables))
        sections += html.figures_section(shown)
    sections.append(html.section("Protocol", html.paragraph(_subject(result))))
    lead = [html.paragraph(text) for text in _paragraphs(result)]
    return html.page("audit", _title(result), lead, sections)


def draw(result: dict[str, Any]) -> "dict[str, Figure]":
    """Returns the figures of the parts that were measured, by name."""
    drawn: dict[str, Figure] = {}
    for name, measured in result["parts"].items():
        drawn |= PARTS[name].figures(measured)
    return drawn
