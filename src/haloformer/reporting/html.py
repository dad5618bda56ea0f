"""Pages of HTML: one self-contained file each, in one style, for light and dark screens."""

import html
import itertools
import re
from collections.abc import Sequence
from typing import Any

from haloformer.reporting.style import OKABE_ITO


def pairs_table(rows: Sequence[tuple[str, str]]) -> str:
    """Returns a table of names and values, as of a protocol."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table class="protocol"><tbody>{body}</tbody></table>'


_WIDE_POINTS = 560  # a figure of several panels: it takes the whole width, and on a phone it scrolls in its place to stay readable


def picture(name: str, svg: str, caption: str) -> str:
    """Returns a figure of a page with its caption; the ``<svg>`` element is trusted."""
    width = re.search(r'viewBox="\S+ \S+ ([\d.]+)', svg)
    wide = ' class="wide"' if width and float(width[1]) > _WIDE_POINTS else ""
    return (
        f'<figure id="figure-{escape(name)}"{wide}><div role="img" aria-label="{escape(caption)}">{svg}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def page(kicker: str, title: str, header: str, body: str) -> str:
    """Returns a self-contained page in our style.

    Args:
        kicker: A small line above the title: what kind of report this is. Plain text, as the title.
        title: Of the page and its heading.
        header: HTML below the heading, trusted.
        body: HTML of the sections, trusted.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{escape(kicker)}</p>
<h1>{escape(title)}</h1>
{header}
</header>
{body}
</main>
</body>
</html>
"""


def plain_table(kind: str, header: list[str], rows: list[list[str]]) -> str:
    """Returns a table whose first column names the rows; ``kind`` is its class in the style sheet."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def escape(value: Any) -> str:
    """Returns the value as text that HTML shows as it is."""
    return html.escape(str(value), quote=True)


_SERIES_DARK = (
    "#f08a4b",
    "#5aaee6",
    "#35c79b",
    "#dd9ac0",
    "#eab64d",
    "#8ccaf0",
    "#b0b0b0",
)  # OKABE_ITO, lightened


def _series(colours: tuple[str, ...]) -> str:
    return " ".join(f"--series-{k}: {colour};" for k, colour in enumerate(colours))


CSS = """
:root { --paper: #ffffff; --ground: #f3f4f6; --ink: #1b1f24; --quiet: #5b626c; --line: #d9dde2; --accent: #0072b2;
  --warn: #fdf0d5; --warn-line: #d98e04; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #1a1d22; --ground: #111317; --ink: #e6e9ed; --quiet: #a2aab5;
  --line: #343a43; --accent: #6cb8ec; --warn: #3a2c0c; --warn-line: #e69f00; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
header, section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.25rem;
  margin-bottom: 1rem; }
.kicker { margin: 0; color: var(--quiet); font-size: .85rem; letter-spacing: .06em; text-transform: uppercase; }
h1 { margin: .1rem 0 .8rem; font-size: clamp(1.25rem, 4.5vw, 1.8rem); line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 .8rem; font-size: 1.15rem; }
.headlines { display: flex; flex-wrap: wrap; gap: .4rem 2.5rem; margin: 0 0 .6rem; }
.headline { display: flex; align-items: center; gap: .4rem .9rem; flex-wrap: wrap; margin: 0; }
.headline .value { font-size: clamp(2.4rem, 11vw, 3.6rem); font-weight: 700; line-height: 1; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.headline .value small { color: inherit; font-size: .5em; font-weight: 600; }
.headline + .headline .value { font-size: clamp(1.6rem, 7vw, 2.2rem); }
.headline .what { font-weight: 600; line-height: 1.35; }
.headline small { font-weight: 400; color: var(--quiet); font-size: .95rem; }
header p:last-child { margin-bottom: 0; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line); padding: .6rem .8rem; border-radius: 4px;
  overflow-wrap: anywhere; }
/* A shadow at the edge shows that a table goes on. */
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--paper) 1.5rem, transparent 3rem) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
.numbers th, .numbers td { white-space: nowrap; }
.numbers th:not(:first-child), .numbers td { text-align: right; }
.numbers tbody tr:last-child > * { font-weight: 700; border-bottom: 0; }
.measures tbody th { font-weight: 400; color: var(--quiet); white-space: normal; min-width: 9rem; }
.measures tbody tr:last-child > * { font-weight: 400; }
.plain tbody tr:last-child td { font-weight: 400; }
.plain th:nth-child(-n+3), .plain td:nth-child(-n+3) { text-align: left; }
thead th { color: var(--quiet); font-weight: 600; font-size: .9rem; }
.protocol { font-size: .95rem; }
.protocol th { font-weight: 400; color: var(--quiet); width: 40%; }
.protocol th, .protocol td { padding-left: 0; vertical-align: top; }
.protocol thead th:last-child { width: auto; }
.protocol td { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .6rem; margin: 1rem 0 0; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .7rem; }
.tiles dt { color: var(--quiet); font-size: .85rem; }
.tiles dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; display: flex; flex-wrap: wrap;
  align-items: baseline; column-gap: .4rem; }
.tiles small { font-weight: 400; color: var(--quiet); white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.5rem;
  grid-auto-flow: dense; }
.figures h2, .figures > p { grid-column: 1 / -1; margin-bottom: 0; }
.figures > .wide { grid-column: 1 / -1; }
.figures > figure:only-child { max-width: 44rem; }
figure { margin: 0; min-width: 0; }
section > figure { margin-bottom: 1.2rem; }
.figures > figure { margin-bottom: 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figure svg { display: block; width: 100%; height: auto; max-height: 90vh; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .4rem; }
.note { color: var(--quiet); font-size: .9rem; margin: .8rem 0 0; }
@media (max-width: 30rem) { main { padding: .6rem .5rem 2rem; } header, section { padding: .9rem .8rem; }
  .wide > div { overflow-x: auto; } .wide svg { min-width: 36rem; } .protocol th { width: 36%; }
  .numbers { font-size: .88rem; } .numbers th, .numbers td { padding: .4rem .4rem; } }
@media print { body { background: none; } header, section { border: 0; } figure { break-inside: avoid; } }
""".replace("LIGHT", _series(OKABE_ITO)).replace("DARK", _series(_SERIES_DARK))


def html_page(
    title: str,
    kicker: str,
    lead: str | Sequence[str],
    sections: Sequence[tuple[str, str, Sequence[tuple[str, str]]]],
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
        f"<section><h2>{escape(heading)}</h2>{content}</section>"
        + (
            f'<section class="figures">{"".join(picture(str(next(numbers)), *f) for f in figures)}</section>'
            if figures
            else ""
        )
        for heading, content, figures in sections
    )
    paragraphs = [lead] if isinstance(lead, str) else lead
    return page(
        f"haloformer {kicker}",
        title,
        "".join(f"<p>{escape(text)}</p>" for text in paragraphs),
        body,
    )


def html_table(kind: str, header: list[str], rows: list[list[str]]) -> str:
    """Returns a table that scrolls within its place; ``kind`` names its classes of style: ``numbers``, ``measures`` or ``protocol``."""
    return plain_table(kind, header, rows)
