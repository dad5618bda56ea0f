"""Parts of the page as HTML: texts, answers, pictures with axes and colour bars."""

import base64
import html
import io
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np

from haloformer.app import pictures, tables
from haloformer.app.answers import Answer
from haloformer.app.given import on_the_page, without_folders
from haloformer.app.lenses import Lens
from haloformer.app.pictures import Bar
from haloformer.app.tables import Table
from haloformer.errors import InputError

WORDS = {
    "axion": "axion vortex",
    "cdm": "cold dark matter subhalos",
    "no_sub": "no substructure",
}
_e = html.escape


def note(text: str) -> str:
    """Returns a quiet text in a frame."""
    return f"<p class='hf-note'>{_e(text)}</p>"


def alert(text: str) -> str:
    """Returns why something was not done."""
    return f"<div class='hf-alert' role='alert'><b>This does not work:</b> {_e(text)}</div>"


def answer(found: Answer, said: str = "") -> str:
    """Returns what a model says of an image, and what is said of that."""
    parts = []
    if found.warning:
        parts.append(
            f"<div class='hf-alert' role='alert'><b>Unlike the images that the model knows: do not trust its answer.</b> {_e(_sentence(found.warning))}</div>"
        )
    if found.probabilities:
        best = str(found.class_name)
        bars = "".join(
            f"<li><span>{_e(WORDS.get(name, name))} <small>{_e(name)}</small></span>"
            f"<span class='hf-bar'><i style='width:{100 * p:.1f}%'></i></span><b>{100 * p:.1f} %</b></li>"
            for name, p in found.probabilities.items()
        )
        doubtful = " hf-doubt" if found.warning else ""
        parts.append(
            f"<section class='hf-card{doubtful}'><h2>{_e(WORDS.get(best, best).capitalize())}</h2><ul class='hf-bars'>{bars}</ul></section>"
        )
    if found.estimates:
        rows = "".join(
            f"<li><span>{_e(name)}</span><b>{value:.2f}</b><small>{low:.2f} … {high:.2f} ({100 * found.coverage:.0f} % interval)</small></li>"
            for name, (value, low, high) in found.estimates.items()
        )
        parts.append(f"<section class='hf-card'><ul class='hf-estimates'>{rows}</ul></section>")
    scale = f" {found.scale}" if found.scale else ""
    cannot = (
        " This model cannot tell images unlike those it knows." if found.warning is None else ""
    )
    quiet = f"{found.name}.{scale}{cannot} {said}".rstrip()
    return "".join(parts) + f"<p class='hf-quiet'>{_e(quiet)}</p>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def guarded(work: Callable[[], str], failed: str = "This could not be shown.") -> str:
    """Returns what ``work`` says; of what keeps it from that a person is told, whatever it was given."""
    try:
        return work()
    except InputError as error:
        return alert(on_the_page(without_folders(error)))
    except Exception:  # whoever runs the app sees why
        logging.getLogger(__name__).exception("a request failed")
        return alert(failed)


def seen(found: Answer, stretch: str, percent: float, layer: int) -> str:
    """Returns an image, where a layer looks, and what the smooth fit leaves."""
    image, scale = found.image, found.pixel_scale
    if image is None:
        return ""
    light = pictures.light(image, stretch, percent)
    bar = pictures.light_bar(image, "unit of the file", stretch, percent)
    shown = [picture(light, "The image", found.name, scale, bar)]
    if found.attention is not None:
        k = min(max(int(layer or 1), 1), len(found.layers)) - 1
        text = f"Where layer {k + 1} of {len(found.layers)} looks"
        over = pictures.overlay(image, found.attention[k], stretch, percent)
        shown.append(picture(over, text, found.layers[k], scale, pictures.attention_bar()))
    if found.residual is not None:
        colours = pictures.departure(found.residual)
        detail = "red: more light than the model of a smooth lens has, blue: less"
        bar = pictures.departure_bar()
        shown.append(picture(colours, "Residual of the smooth fit", detail, scale, bar))
    return f"<div class='hf-pictures'>{''.join(shown)}</div>"


def lens(found: Lens) -> str:
    """Returns a simulated lens with and without substructure, and their difference."""
    both = np.concatenate([found.image, found.smooth])  # one stretch for the two
    light, scale, n = pictures.light(both, percent=99.8), found.pixel_scale, len(found.image)
    bar = pictures.light_bar(both, found.unit, percent=99.8)
    same = not found.difference.any()
    difference = "none: this class has no substructure" if same else "orange more, blue less light"
    shown = [
        picture(light[:n], "With substructure", found.told or found.survey, scale, bar),
        picture(light[n:], "Without", "same source, lens and noise draw", scale, bar),
        picture(pictures.signed(found.difference), "Difference, free of noise", difference, scale,
                pictures.signed_bar(found.difference, "counts/s")),
    ]  # fmt: skip
    return f"<div class='hf-pictures'>{''.join(shown)}</div>"


def picture(
    colours: np.ndarray, title: str, detail: str, pixel_scale: float | None, bar: Bar
) -> str:
    """Returns colours (H, W, 3), rows up, with axes and a colour bar.

    Axes are in arcsec from the middle, in pixels without a pixel scale. Their texts are HTML, and
    so as large on a telephone as elsewhere.
    """
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours[::-1])).save(data, "PNG")  # y upwards
    source = base64.b64encode(data.getvalue()).decode()
    height, width = colours.shape[:2]
    unit = "px" if pixel_scale is None else "″"
    step = pixel_scale or 1.0
    along = "".join(_tick("left", *each) for each in axis_ticks(width * step, unit))
    up = "".join(_tick("bottom", *each) for each in axis_ticks(height * step, unit))
    values = "".join(_tick("bottom", *each) for each in bar.ticks)
    stops = ", ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in bar.colours.tolist())
    return (
        "<figure><div class='hf-plot'>"
        f"<img alt='{_e(title)}: {_e(detail)}' src='data:image/png;base64,{source}'>"
        f"<div class='hf-up'>{up}</div><div class='hf-along'>{along}</div>"
        f"<div class='hf-bar-of' style='background: linear-gradient(to top, {stops})'></div>"
        f"<div class='hf-values'>{values}</div></div>"
        f"<figcaption><b>{_e(title)}</b> <small>{_e(detail)}</small> "
        f"<small>Colours: {_e(bar.unit)}</small></figcaption></figure>"
    )


def axis_ticks(length: float, unit: str) -> Sequence[tuple[float, str]]:
    """Returns places 0 … 1 along an axis that is centred on 0, and the values there."""
    half = length / 2
    power = 10 ** math.floor(math.log10(half / 2))
    step = max(each * power for each in (1, 2, 5, 10) if each * power <= half / 1.2)
    most = int(half / step)
    found = []
    for k in range(-most, most + 1):
        text = f"{k * step:g}".replace("-", "−")
        found.append((0.5 + k * step / length, f"{text}{unit}"))
    return found


def _tick(side: str, place: float, text: str) -> str:
    return f"<span style='{side}: {100 * place:.2f}%'>{_e(text)}</span>"


def models(board: Table | None) -> str:
    """Returns the tables of trained models, and of networks or a leaderboard."""
    shipped = _tabled(
        "Trained models of this package",
        "AUCs on simulated test images that neither training nor any choice has seen.",
        tables.shipped_table(),
    )
    if board is not None:
        return shipped + _tabled(
            "Leaderboard", "Networks trained alike by haloformer benchmark.", board
        )
    text = (
        "Networks in sizes for lens cutouts, with the best macro AUC that a paper gives for any network of the family, on the released "
        "images of each survey. These were not measured here. haloformer benchmark trains them alike; --leaderboard shows its results."
    )
    return shipped + _tabled("Networks", text, tables.published_table())


_NONE = " class='hf-none'"  # not shown where a row is a list


def _tabled(title: str, text: str, table: Table) -> str:
    """Returns a table in a card; on a narrow screen each row is a list, whose items say their column."""
    header, rows = table
    heads = "".join(f"<th scope='col'>{_e(name)}</th>" for name in header)
    body = "".join(
        f"<tr><th scope='row'>{_e(row[0])}</th>"
        + "".join(
            f"<td data-label='{_e(name)}'{_NONE if cell == '–' else ''}>{_e(cell)}</td>"
            for name, cell in zip(header[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f"<section class='hf-card'><h2>{_e(title)}</h2><p class='hf-quiet'>{_e(text)}</p>"
        f"<div class='scroll' tabindex='0'><table class='hf-table hf-list'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )
