"""Pages of HTML: one self-contained file each, in one style, for light and dark screens.

Each function fills a template of ``templates/`` and returns :class:`markupsafe.Markup`. Plain text is escaped wherever it
is put; only ``Markup`` passes as it is, so that a name from outside cannot become part of a page's code.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_WIDE_POINTS = 560  # wider figures have several panels: they get the page's whole width
# 560 pt: on a phone they scroll within their place, which keeps their text readable.


class Headline(NamedTuple):
    """The main result of a report, shown large.

    Attributes:
        name: What was measured.
        value: Its value.
        unit: With a space before it; may be empty.
        interval: The confidence interval, in words.
    """

    name: str
    value: str
    unit: str
    interval: str


def page(kicker: str, title: str, lead: Sequence[Markup], sections: Sequence[Markup]) -> str:
    """Returns a self-contained page.

    Args:
        kicker: Kind of report, in small letters above the title.
        title: Of the page, and its heading.
        lead: What stands below the heading.
        sections: The rest of the page, of :func:`section`.
    """
    css = Markup(_style_sheet())
    return _filled("page", kicker=kicker, title=title, lead=lead, sections=sections, css=css)


def section(title: str, *content: Markup, kind: str = "") -> Markup:
    """Returns a section of a page.

    Args:
        title: Its heading; none if empty.
        content: What it holds.
        kind: Its class in the style sheet.
    """
    return _filled("section", title=title, content=content, kind=kind)


def figures_section(figures: Sequence[Markup], title: str = "") -> list[Markup]:
    """Returns a section with figures side by side where there is room; none without figures."""
    return [section(title, *figures, kind="figures")] if figures else []


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers measures"
) -> Markup:
    """Returns a table that scrolls within its place.

    Args:
        header: Names of the C columns.
        rows: C cells each; the first names the row.
        kind: Classes of the style sheet: ``numbers`` (last row bold, as a mean), ``numbers measures``, ``numbers plain`` or
            ``protocol``.
    """
    return _filled("table", header=header, rows=rows, kind=kind)


def pairs_table(rows: Sequence[tuple[str, str]]) -> Markup:
    """Returns a table of names and values, such as a protocol."""
    return _filled("pairs", rows=rows)


def figure(name: str, svg: Markup, caption: str) -> Markup:
    """Returns a figure with its caption.

    Args:
        name: Its id on the page is ``figure-name``.
        svg: The ``<svg>`` element, of :func:`haloformer.reporting.style.inline_svg`.
        caption: Below the figure, and read out in its place by screen readers.
    """
    width = re.search(r'viewBox="\S+ \S+ ([\d.]+)', svg)
    wide = width is not None and float(width[1]) > _WIDE_POINTS
    return _filled("figure", name=name, svg=svg, caption=caption, wide=wide)


def photo(
    source: str, alt: str, caption: str = "", link: str = "", *, wide: bool = False
) -> Markup:
    """Returns a figure of pixels.

    Args:
        source: Data URI of the image.
        alt: Text for screen readers.
        caption: Below it; none if empty.
        link: Path that it leads to; none if empty.
        wide: It has several panels: on a small screen it is scrolled, not shrunk.
    """
    return _filled("photo", source=source, alt=alt, caption=caption, link=link, wide=wide)


def paragraph(text: str, kind: str = "") -> Markup:
    """Returns a paragraph; ``kind`` is its class in the style sheet, such as ``note``."""
    return _filled("paragraph", text=text, kind=kind, strong="")


def warning(text: str) -> Markup:
    """Returns a paragraph that stands out as a warning."""
    return _filled("paragraph", text=text, kind="warning", strong="Warning.")


def items(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Returns a list of names with a text each."""
    return _filled("items", items=pairs)


def headlines(found: Sequence[Headline]) -> Markup:
    """Returns the main results, the first one largest."""
    return _filled("headlines", headlines=found)


def tiles(found: Sequence[tuple[str, str, str]]) -> Markup:
    """Returns values in boxes side by side: name, value and interval of each."""
    return _filled("tiles", tiles=found)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("haloformer.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style_sheet() -> str:
    return resources.files("haloformer.reporting").joinpath("report.css").read_text("utf-8")


def _filled(template: str, **values: object) -> Markup:
    return Markup(_environment().get_template(f"{template}.html").render(values))
