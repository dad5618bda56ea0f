"""The leaderboard: networks ranked by their test AUC, beside what was published of the same architectures.

A benchmark is a study (:mod:`haloformer.studies.run`) whose grid has networks and surveys, so it stops, resumes and tests as every study does;
added are the leaderboard, with published AUCs and costs, the ROC curves of the best and the best one's confusion matrix.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.evaluation.published import best_published
from haloformer.io.writing import write_text
from haloformer.models import find_model
from haloformer.reporting import html, style
from haloformer.reporting.interval import Interval, format_interval, format_value
from haloformer.studies.leaderboard_figures import answer_figures, cost_figure
from haloformer.studies.plan import Study
from haloformer.studies.report import protocol, write_csv
from haloformer.studies.results import StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLASSES = "auc_"  # what columns of a class's AUC begin with


def _columns(classes: Sequence[str]) -> list[str]:
    return [
        *("rank", "model", "family", "macro AUC (95 %)", *classes, "published macro AUC"),
        *("accuracy", "parameters", "MACs", "images/s", "training s"),
    ]


def _classes(entry: Mapping[str, Any]) -> list[str]:
    """Returns the classes that a network was tested to tell apart; none where no result says them."""
    found = [key.removeprefix(_CLASSES) for key in entry if key.startswith(_CLASSES)]
    return [name for name in found if not name.endswith(("_low", "_high"))]


def board(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the leaderboard's rows, survey by survey, the best macro AUC first.

    Args:
        rows: Of a study whose grid has ``model`` and ``data``; rows without a result are left out.
    """
    ranked = []
    for survey in dict.fromkeys(row["data"] for row in rows):
        own = sorted(
            (r for r in rows if r["data"] == survey and "macro_auc" in r),
            key=lambda r: -r["macro_auc"],
        )
        for rank, row in enumerate(own, 1):
            family = find_model(row["model"]).family
            theirs, classes = best_published(family, survey), _classes(row)
            if theirs and classes and {*classes} != {*theirs.per_class}:
                theirs = None  # of other classes: another question
            entry = {"survey": survey, "rank": rank, "model": row["model"], "family": family}
            entry |= {
                key: value
                for key, value in row.items()
                if key.startswith(("macro_auc", "auc_", "accuracy"))
            }
            entry |= {"interval": row["interval"], "n_seeds": row["n_seeds"]}
            entry |= {"published_macro_auc": theirs.macro if theirs else None}
            entry |= {
                "published_model": theirs.model if theirs else "",
                "published_source": theirs.source if theirs else "",
            }
            entry |= {
                key: row.get(key)
                for key in ("parameters", "macs", "inference_images_per_second", "seconds_per_run")
            }
            ranked.append(entry)
    return ranked


def _cells(entry: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    interval = Interval(*(entry[f"macro_auc{end}"] for end in ("", "_low", "_high")))
    theirs, macs, speed = (
        entry[key] for key in ("published_macro_auc", "macs", "inference_images_per_second")
    )
    aucs = [format_value(entry.get(f"{_CLASSES}{name}", float("nan"))) for name in classes]
    return [
        str(entry["rank"]),
        entry["model"],
        entry["family"],
        format_interval(interval),
        *aucs,
        "–" if theirs is None else format_value(theirs),
        format_value(entry["accuracy"], 3),
        f"{entry['parameters'] / 1e6:.2f} M",
        "–" if macs is None else f"{macs / 1e6:.0f} M",
        "–" if speed is None else f"{speed:.0f}",
        f"{entry['seconds_per_run']:.0f}",
    ]


def write_leaderboard(folder: Path, plan: Study, command: str, result: StudyResult) -> None:
    """Writes leaderboard.csv, .md and .html, and the figures."""
    entries = board(result.rows)
    drawn: dict[str, Figure] = {}
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        own = [entry for entry in entries if entry["survey"] == survey]
        drawn[f"cost_{survey}"] = cost_figure(own, survey)
        seeds = {
            row["model"]: row["seeds"][0]
            for row in result.rows
            if row["data"] == survey and row["seeds"]
        }
        drawn |= answer_figures(folder, own, seeds, survey)
    for name, figure in drawn.items():
        style.save(figure, folder / name)
    write_csv(folder / "leaderboard.csv", entries)
    facts = list(protocol(folder, plan, command))
    write_text(folder / "leaderboard.md", _markdown(entries, facts, drawn, result))
    write_text(folder / "leaderboard.html", _page(entries, facts, drawn))


_HOW_TO_READ = (
    "Intervals: 95 %, over seeds or, with one seed, over test images. Published AUCs are of the released images and of the papers' own sizes, "
    "pretraining and budgets (Models II and III without noise): they stand beside ours, they were not measured under this protocol; those of other "
    "classes than were tested here are left out. "
    "Images/s: the network alone, batches of 64. Training s: the whole run, simulation, validation and test included; as other work ran "
    "on the same machine, it is an upper bound."
)


def _captions(
    drawn: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], survey: str
) -> dict[str, str]:
    """Returns the captions of a survey's figures by their names."""
    several = max(entry["n_seeds"] for entry in entries) > 1
    of_one = ", of the first seed of each" if several else ""
    said = {
        "cost": "Macro AUC against multiply-accumulate operations per image",
        "roc": f"ROC curves of the best{of_one}",
        "confusion": f"Confusion matrix of the best{', of its first seed' if several else ''}",
    }
    return {
        f"{kind}_{survey}": f"{text}, {survey}"
        for kind, text in said.items()
        if f"{kind}_{survey}" in drawn
    }


def _markdown(
    entries: Sequence[Mapping[str, Any]],
    facts: Sequence[tuple[str, str]],
    drawn: Mapping[str, Any],
    result: StudyResult,
) -> str:
    lines = ["# Leaderboard", "", _HOW_TO_READ]
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        own = [entry for entry in entries if entry["survey"] == survey]
        columns = _columns(classes := _classes(own[0]))
        lines += ["", f"## {survey}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cells(entry, classes))} |" for entry in own]
        captions = _captions(drawn, own, survey)
        lines += [f"\n![{text}]({name}.png)" for name, text in captions.items()]
    if failed := [row for row in result.rows if row["failed"]]:
        lines += ["", "## Failed", "", *(f"- {row['variant']}: {row['failed']}" for row in failed)]
    lines += ["", "## Protocol", "", "| | |", "|---|---|"]
    lines += [
        f"| {name} | {' '.join(text.split()).replace('|', chr(92) + '|')} |" for name, text in facts
    ]
    return "\n".join(lines) + "\n"


def _page(
    entries: Sequence[Mapping[str, Any]],
    facts: Sequence[tuple[str, str]],
    drawn: Mapping[str, "Figure"],
) -> str:
    sections = []
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        own = [entry for entry in entries if entry["survey"] == survey]
        columns = _columns(classes := _classes(own[0]))
        rows = [_cells(entry, classes) for entry in own]
        shown = [
            html.figure(name, style.inline_svg(drawn[name], name), text)
            for name, text in _captions(drawn, own, survey).items()
        ]
        sections.append(html.section(survey, html.table(columns, rows, kind="numbers plain")))
        sections += html.figures_section(shown)
    how = [[name, text.strip("`")] for name, text in facts]
    sections.append(html.section("Protocol", html.table(["What", "How"], how, kind="protocol")))
    lead = [html.paragraph(_HOW_TO_READ)]
    return html.page("networks trained alike", "Leaderboard", lead, sections)
