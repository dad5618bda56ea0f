"""A comparison as a page to read (HTML) and as text (Markdown)."""

from typing import Any

import numpy as np
from markupsafe import Markup

from haloformer.evaluation.report import PROTOCOL_NAMES, images_in_words
from haloformer.reporting import html
from haloformer.reporting.interval import Interval, format_interval, p_in_words
from haloformer.reporting.markdown import cell, markdown_table

_METHODS = (
    "All models answered for the same images, so that their errors are correlated; differences are taken image by image. "
    "AUCs: DeLong's test of correlated ROC curves, for the macro AUC with the terms of all classes. Accuracy: McNemar's "
    "exact test, with Agresti & Min's interval. Intervals hold with 95 % confidence each. The corrected p-values are "
    "Holm's, for all tests in the table together. They cover other test images, not another training: whether a recipe "
    "is better than another takes several seeds each, as haloformer study runs."
)


def _title(result: dict[str, Any]) -> str:
    return " vs ".join(model["name"] for model in result["models"])


def _subject(result: dict[str, Any]) -> str:
    return (
        f"Compared on the same {images_in_words(result)}; differences are to {result['reference']}."
    )


def _side_by_side(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = {
        "macro_auc": "Macro AUC",
        "micro_auc": "Micro AUC",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "macro_average_precision": "Mean average precision",
        "nll": "Negative log-likelihood",
        "brier": "Brier score",
        "ece": "Calibration error",
    }
    models = result["models"]
    table = [
        [name, *(format_interval(Interval(**model[key])) for model in models)]
        for key, name in rows.items()
    ]
    aucs = [
        [
            f"AUC of {name}",
            *(format_interval(Interval(**model["per_class"][name]["auc"])) for model in models),
        ]
        for name in result["class_names"]
    ]
    facts = [
        ["Network", *(str(model["model"] or "") for model in models)],
        [
            "Parameters",
            *(f"{m['parameters']:,}" if isinstance(m["parameters"], int) else "" for m in models),
        ],
    ]
    return ["", *(model["name"] for model in models)], [*facts, table[0], *aucs, *table[1:]]


def _difference_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for row in result["differences"]:
        for key, title in result["measures"].items():
            found = row["differences"][key]
            width = found["high"] - found["low"]
            digits = (
                max(4, 1 - int(np.floor(np.log10(width)))) if width > 1e-9 else 4
            )  # two of the interval at least
            bounds = (
                f" ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"
                if np.isfinite(width)
                else ""
            )
            text = f"{found['value']:+.{digits}f}{bounds}".replace("-", "−")
            rows.append(
                [row["name"], title, text, p_in_words(found["p"]), p_in_words(found["p_holm"])]
            )
    return ["Model", "Measure", f"Difference to {result['reference']}", "p", "p, corrected"], rows


def _captions(result: dict[str, Any]) -> dict[str, str]:
    found = {
        "differences": f"Differences to {result['reference']}, paired by image, with their 95 % intervals."
    }
    for k, name in enumerate(result["class_names"]):
        found[roc_name(k, name)] = f"ROC curves of {name} against the other classes together."
    return found


def _protocol_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, str(result["protocol"][key]))
        for key, name in PROTOCOL_NAMES.items()
        if result["protocol"].get(key) is not None
    ]


def to_html(result: dict[str, Any], svgs: dict[str, Markup]) -> str:
    """Returns the comparison as one self-contained page.

    Args:
        result: What ``compare`` returns.
        svgs: Name of each figure and its ``<svg>`` element, of `reporting.style.inline_svg`.
    """
    captions = _captions(result)
    figures = [html.figure(name, svg, captions[name]) for name, svg in svgs.items()]
    protocol = html.pairs_table(_protocol_rows(result))
    sections = [
        html.section("Differences", html.table(*_difference_table(result))),
        html.section("Side by side", html.table(*_side_by_side(result))),
        html.section("Figures", *figures, kind="figures"),
        html.section("Protocol", protocol, html.paragraph(_METHODS, kind="note")),
    ]
    lead = [html.paragraph(_subject(result)), *map(html.warning, result["warnings"])]
    return html.page("comparison", _title(result), lead, sections)


def to_markdown(result: dict[str, Any], pngs: dict[str, str]) -> str:
    """Returns the comparison as Markdown.

    Args:
        result: What ``compare`` returns.
        pngs: Name of each figure and its path relative to the report.
    """
    captions = _captions(result)
    lines = [f"# {cell(_title(result))}", "", cell(_subject(result)), ""]
    lines += [
        line for warning in result["warnings"] for line in (f"> **Warning:** {cell(warning)}", "")
    ]
    for title, (header, rows) in (
        ("Differences", _difference_table(result)),
        ("Side by side", _side_by_side(result)),
    ):
        lines += [f"## {title}", "", *markdown_table([cell(name) for name in header], rows), ""]
    for name, path in pngs.items():
        lines += [f"![{cell(captions[name])}]({path})", "", f"*{cell(captions[name])}*", ""]
    lines += [
        "## Protocol",
        "",
        *markdown_table(["", ""], _protocol_rows(result)),
        "",
        _METHODS,
        "",
    ]
    return "\n".join(lines)


def roc_name(k: int, class_name: str) -> str:
    """Returns a name for files; a class may be called anything."""
    return f"roc_{class_name if class_name.isidentifier() and class_name.isascii() else k}"
