"""The gallery: one page with all pictures in it, that needs no other file and makes no request."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from haloformer.explain.pictures import NAMES
from haloformer.reporting.html import escape, page, plain_table
from haloformer.reporting.interval import format_value
from haloformer.reporting.style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTES = (
    "Attention says what a layer reads, not what the answer depends on. Gradients are those of the log-odds of the explained class, the "
    "one that the model answers unless another was asked for. Integrated gradients begin at a blank sky; their absolute values are summed "
    "over the channels. A dashed line bounds what the network sees. An explanation that does not change when the weights are made random "
    "explains the network's form, not what it has learnt."
)


def picture(figure: "Figure") -> str:
    """Returns a figure as a data URI of a PNG, small enough for a page with many."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=90)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def to_html(
    result: dict[str, Any], images: Sequence[dict[str, Any]], score_picture: str | None
) -> str:
    """Returns the page.

    Args:
        result: What ``explain`` writes as JSON.
        images: For each image ``title``, ``text`` and ``pictures``, a list of caption, data URI and path of the large one.
        score_picture: Data URI of the figure of scores, if there are any.
    """
    sections = []
    if result["scores"]:
        rows = [row for row in result["scores"] if row["weights"] == "trained"]
        header = ["Map", "Class", "Images", "Gain", "Pixel AUC"]
        cells = [
            [_map_name(r), r["class"], str(r["n"]), _measured(r, "gain", 2), _measured(r, "auc", 3)]
            for r in rows
        ]
        sections.append(
            "<section><h2>How much falls where substructure changes the image</h2>"
            f"<p>Gain 1 and AUC 0.5 are chance; means over images with 95 % bootstrap intervals.</p>"
            f'<figure><img alt="scores of all maps" src="{score_picture}"></figure>{plain_table("numbers measures", header, cells)}</section>'
        )
    if result["sanity"]:
        cells = [
            [_map_name(row), str(row["n"]), _measured(row, "correlation", 2)]
            for row in result["sanity"]
        ]
        header = ["Map", "Images", "Rank correlation"]
        sections.append(
            "<section><h2>Does it depend on the weights?</h2><p>Spearman's correlation with the map of the same network "
            f"with random weights: near 1, the map says nothing of what was learnt.</p>{plain_table('numbers measures', header, cells)}</section>"
        )
    for image in images:
        figures = "".join(
            f'<figure><a href="{escape(path)}"><img alt="{escape(caption)}" src="{uri}"></a><figcaption>{escape(caption)}</figcaption></figure>'
            for caption, uri, path in image["pictures"]
        )
        sections.append(
            f"<section><h2>{escape(image['title'])}</h2><p>{escape(image['text'])}</p>{figures}</section>"
        )
    left_out = "".join(
        f"<li>{escape(what)}: {escape(why)}</li>" for what, why in result["left_out"].items()
    )
    warnings = "".join(
        f'<p class="warning"><strong>Warning.</strong> {escape(text)}</p>'
        for text in result["warnings"]
    )
    facts = {key: value for key, value in result["protocol"].items() if value is not None}
    protocol = "".join(
        f'<tr><th scope="row">{escape(k.replace("_", " "))}</th><td>{escape(v)}</td></tr>'
        for k, v in facts.items()
    )
    title = f"What {result['protocol']['run']} looks at"
    notes = f'<p class="note">Left out:</p><ul class="note">{left_out}</ul>' if left_out else ""
    protocol = f'<section><h2>Protocol</h2><table class="protocol"><tbody>{protocol}</tbody></table>{notes}</section>'
    return page(
        "haloformer explanation",
        title,
        f"<p>{escape(_NOTES)}</p>{warnings}",
        "".join(sections) + protocol,
    )


def _map_name(row: dict[str, Any]) -> str:
    return f"{NAMES[row['method']]} {row['layer']}".strip()


def _measured(row: dict[str, Any], what: str, digits: int) -> str:
    value, low, high = (
        format_value(row[key], digits) for key in (what, f"{what}_low", f"{what}_high")
    )
    return f"{value} ({low} to {high})".replace("-", "−")
