"""The style of all figures: colors, line styles, saving, and SVG for pages.

Colors are Okabe & Ito's, which color-blind readers can distinguish, and every line also has its own dash pattern. The
object API of matplotlib is used throughout: no pyplot, no global state, no display.
"""

import base64
import functools
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from markupsafe import Markup

from haloformer.io.writing import figure_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INK, PAPER, FAINT = "#1b1f24", "#ffffff", "#8a9099"


OKABE_ITO = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")


Dash = str | tuple[int, tuple[float, ...]]


DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


STYLE: dict[Any, Any] = {  # matplotlib lists each key in its types
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "svg.hashsalt": "haloformer",  # the same figure gives the same bytes
    "pdf.fonttype": 42,  # fonts whole, as journals want them
    "svg.fonttype": "path",  # a viewer without our font shows the same picture
    **{
        key: INK
        for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    },
}


_P = ParamSpec("_P")


def styled(draw: Callable[_P, "Figure"]) -> Callable[_P, "Figure"]:
    """Draws with our style and leaves the caller's matplotlib settings alone."""

    @functools.wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def class_color(k: int) -> str:
    """Returns the color of class number ``k``."""
    return OKABE_ITO[k % len(OKABE_ITO)]


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Writes ``stem.png`` (200 dpi), ``stem.svg`` and ``stem.pdf``; returns the paths."""
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg", "pdf")]
    with matplotlib.rc_context(STYLE):
        paths[0].write_bytes(figure_bytes(figure, "png", dpi=200))
        figure.set_layout_engine(
            "none"
        )  # it stays where the first drawing put it: the layout is the slow part
        paths[1].write_bytes(figure_bytes(figure, "svg", metadata={"Date": None}))
        paths[2].write_bytes(figure_bytes(figure, "pdf", metadata={"CreationDate": None}))
    return paths


def data_uri(figure: "Figure", dpi: int = 90) -> str:
    """Returns a figure as a data URI of a PNG, for a page or a notebook."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return png_uri(figure_bytes(figure, "png", dpi=dpi))


def png_uri(picture: bytes) -> str:
    """Returns a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def inline_svg(figure: "Figure", name: str) -> Markup:
    """Returns an ``<svg>`` element for a page: transparent, with the page's own ink and colors.

    ``report.css`` defines ``--paper`` and ``--series-0`` … ``--series-6``, for light and for dark screens.

    Args:
        figure: One of the figures above.
        name: Prefix of the element ids, so that several figures fit on a page.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Equal pictures in a figure, such as colour bars, have equal ids, to which nothing refers.
    number = itertools.count()
    svg = re.sub(r'\bid="image\w+"', lambda _: f'id="image_{next(number)}"', svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    for k, hue in enumerate(OKABE_ITO):
        svg = svg.replace(hue, f"var(--series-{k})")
    # The width of the page decides, not matplotlib's points; viewBox keeps the shape.
    for side in ("width", "height"):
        svg = re.sub(rf'^(<svg[^>]*?) {side}="[^"]*"', r"\1", svg)
    return Markup(svg)  # matplotlib has escaped all names in it


def literal(text: str) -> str:
    """Keeps matplotlib from reading dollar signs in a name as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of this size in inches, with a canvas that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure
