"""The page of an explanation: one file with all pictures in it, which makes no request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from haloformer.explanation.pictures import NAMES
from haloformer.reporting import html
from haloformer.reporting.interval import format_value

_NOTES = (
    "Attention shows what a layer reads, not what the prediction depends on. Gradients are those of the log-odds of the explained "
    "class, by default the predicted one. Integrated gradients begin at a blank sky; their absolute values are summed "
    "over the channels. A dashed line bounds what the network sees. An explanation that does not change when the weights are random "
    "shows the network's architecture, not what it has learnt."
)


@dataclass(frozen=True)
class ExplainedImage:
    """One image as the page shows it.

    Attributes:
        title: Its name.
        text: True class, answer and what was explained.
        pictures: Caption, data URI, and path of the large picture, of each figure.
        warning: Why its answer means nothing; empty where it does.
    """

    title: str
    text: str
    pictures: list[tuple[str, str, str]]
    warning: str = ""


def to_html(
    result: dict[str, Any], images: Sequence[ExplainedImage], score_picture: str | None
) -> str:
    """Returns the page.

    Args:
        result: What ``explain`` writes as JSON.
        images: The images that are shown.
        score_picture: Data URI of the figure of scores, if there are any.
    """
    sections = [
        *(_score_sections(result["scores"], score_picture) if score_picture else []),
        *(_sanity_sections(result["sanity"]) if result["sanity"] else []),
        *map(_image_section, images),
        _protocol_section(result),
    ]
    lead = [html.paragraph(_NOTES), *map(html.warning, result["warnings"])]
    return html.page("explanation", f"What {result['protocol']['run']} looks at", lead, sections)


def _score_sections(scores: Sequence[dict[str, Any]], picture_of_scores: str) -> list[Markup]:
    header = ["Map", "Class", "Images", "Gain", "Pixel AUC"]
    rows = [
        [
            _map_name(row),
            row["class"],
            str(row["n"]),
            _measured(row, "gain", 2),
            _measured(row, "auc", 3),
        ]
        for row in scores
        if row["weights"] == "trained"
    ]
    text = (
        "Gain 1 and AUC 0.5 are chance; values are means over images with 95 % bootstrap intervals."
    )
    return [
        html.section(
            "Share of the maps where substructure changes the image",
            html.paragraph(text),
            html.photo(picture_of_scores, "scores of all maps"),
            html.table(header, rows),
        )
    ]


def _sanity_sections(sanity: Sequence[dict[str, Any]]) -> list[Markup]:
    rows = [[_map_name(row), str(row["n"]), _measured(row, "correlation", 2)] for row in sanity]
    text = (
        "Spearman's rank correlation with the map of the same network with random weights: near 1, "
        "the map does not depend on what the network has learnt."
    )
    table = html.table(["Map", "Images", "Rank correlation"], rows)
    return [html.section("Does it depend on the weights?", html.paragraph(text), table)]


def _image_section(image: ExplainedImage) -> Markup:
    shown = [html.photo(uri, caption, caption, path) for caption, uri, path in image.pictures]
    warning = [html.warning(image.warning)] if image.warning else []
    return html.section(image.title, *warning, html.paragraph(image.text), *shown)


def _protocol_section(result: dict[str, Any]) -> Markup:
    facts = [
        (key.replace("_", " "), str(value))
        for key, value in result["protocol"].items()
        if value is not None
    ]
    left_out = list(result["left_out"].items())
    notes = [html.paragraph("Left out:", kind="note"), html.items(left_out)] if left_out else []
    return html.section("Protocol", html.pairs_table(facts), *notes)


def _map_name(row: dict[str, Any]) -> str:
    return f"{NAMES[row['method']]} {row['layer']}".strip()


def _measured(row: dict[str, Any], what: str, digits: int) -> str:
    value, low, high = (
        format_value(row[key], digits) for key in (what, f"{what}_low", f"{what}_high")
    )
    return f"{value} ({low} to {high})".replace("-", "−")
