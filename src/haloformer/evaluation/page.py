"""One self-contained page of tables and figures, in the look of the reports: opens from disk, offline, on a phone, in light and dark."""

from collections.abc import Sequence

from haloformer.evaluation.report import _e, _html_table, page


def html_page(
    title: str, kicker: str, lead: str, sections: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
) -> str:
    """Returns the page.

    Args:
        title: Its heading.
        kicker: What kind of page it is, in small letters above the heading.
        lead: The paragraph below the heading.
        sections: Heading, HTML (such as :func:`html_table` gives; trusted) and figures of each: an ``<svg>`` element and its caption.
    """
    body = "".join(
        f"<section><h2>{_e(heading)}</h2>{content}</section>"
        + (f'<section class="figures">{"".join(_figure(*figure) for figure in figures)}</section>' if figures else "")
        for heading, content, figures in sections
    )
    return page(f"haloformer {kicker}", title, f"<p>{_e(lead)}</p>", body)


def _figure(svg: str, caption: str) -> str:
    return (
        f'<figure><div role="img" aria-label="{_e(caption)}">{svg}</div><figcaption>{_e(caption)}</figcaption></figure>'
    )


def html_table(kind: str, header: list[str], rows: list[list[str]]) -> str:
    """Returns a table that scrolls within its place; ``kind`` names its classes of style: ``numbers``, ``measures`` or ``protocol``."""
    return _html_table(kind, header, rows)
