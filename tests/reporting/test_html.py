"""Pages: what comes from outside is shown as text, and the style sheet agrees with the figures."""

import re
from importlib import resources

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from haloformer.reporting import html, style

HOSTILE = "<script>alert(1)</script> {{ 7*7 }} \"'&"
SAFE = "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }} &#34;&#39;&amp;"
SVG = Markup('<svg viewBox="0 0 460.8 250"></svg>')


@pytest.mark.parametrize(
    ("part", "times"),
    [
        (html.table([HOSTILE], [[HOSTILE, HOSTILE]], kind=HOSTILE), 4),
        (html.pairs_table([(HOSTILE, HOSTILE)]), 2),
        (html.figure(HOSTILE, SVG, HOSTILE), 3),
        (html.photo(HOSTILE, HOSTILE, HOSTILE, HOSTILE), 4),
        (html.paragraph(HOSTILE, kind=HOSTILE), 2),
        (html.warning(HOSTILE), 1),
        (html.items([(HOSTILE, HOSTILE)]), 2),
        (html.headlines([html.Headline(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]), 4),
        (html.tiles([(HOSTILE, HOSTILE, HOSTILE)]), 3),
        (html.section(HOSTILE, kind=HOSTILE), 2),
        (html.page(HOSTILE, HOSTILE, [], []), 3),
    ],
)
def test_text_from_outside_is_escaped_and_never_evaluated(part, times):
    assert part.count(SAFE) == times
    assert "<script" not in part
    assert "49" not in re.sub(r"<style>.*</style>", "", part, flags=re.DOTALL)


def test_only_markup_passes_as_it_is():
    assert SVG in html.figure("x", SVG, "caption")
    assert "<svg" not in html.figure("x", str(SVG), "caption")  # nobody vouches for it
    assert "<b>" not in html.section("S", "<b>")
    assert "<b>" in html.section("S", Markup("<b>"))


def test_a_figure_of_several_panels_takes_the_whole_width_of_a_page():
    wide = html.figure("w", Markup('<svg viewBox="0 0 691.2 250"></svg>'), "two panels")
    assert '<figure id="figure-w" class="wide">' in wide
    assert "wide" not in html.figure("n", SVG, "one panel")


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError):
        html._filled("page", title="x")


def test_the_style_sheet_has_the_colors_of_the_figures_for_light_and_for_dark_screens():
    css = resources.files("haloformer.reporting").joinpath("report.css").read_text("utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    for k, color in enumerate(style.OKABE_ITO):
        assert f"--series-{k}: {color};" in light
        assert f"--series-{k}: #" in dark
    assert "url(" not in css
    assert "@import" not in css
