"""One self-contained page of tables and figures, in the look of the reports: opens from disk, offline, on a phone, in light and dark."""

import itertools
from collections.abc import Sequence

from haloformer.evaluation.report import _e, _html_table, page, picture


def html_page(
    title: str, kicker: str, lead: str | Sequence[str], sections: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
) -> str:
    """Returns the page.

    Args:
        title: Its heading.
        kicker: What kind of page it is, in small letters above the heading.
        lead: The paragraph below the heading, or several.
        sections: Heading, HTML (such as :func:`html_table` gives; trusted) and figures of each: an ``<svg>`` element and its caption.
    """
    numbers = itertools.count()
    body = "".join(
        f"<section><h2>{_e(heading)}</h2>{content}</section>"
        + (
            f'<section class="figures">{"".join(picture(str(next(numbers)), *f) for f in figures)}</section>'
            if figures
            else ""
        )
        for heading, content, figures in sections
    )
    paragraphs = [lead] if isinstance(lead, str) else lead
    return page(f"haloformer {kicker}", title, "".join(f"<p>{_e(text)}</p>" for text in paragraphs), body)


def html_table(kind: str, header: list[str], rows: list[list[str]]) -> str:
    """Returns a table that scrolls within its place; ``kind`` names its classes of style: ``numbers``, ``measures`` or ``protocol``."""
    return _html_table(kind, header, rows)
