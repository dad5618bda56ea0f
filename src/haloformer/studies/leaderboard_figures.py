"""The figures of a leaderboard: cost, ROC curves and the best network's confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.evaluation import figures
from haloformer.evaluation.metrics import class_aucs, confusion_matrix, log_odds, roc_curve
from haloformer.reporting import style
from haloformer.reporting.interval import format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_ROC = 8
"""Networks whose ROC curves are drawn."""


@style.styled
def cost_figure(entries: Sequence[Mapping[str, Any]], survey: str) -> "Figure":
    """Draws what networks reach against what they cost; those that none beats at no more cost carry their names."""
    figure = style.new_figure(7.6, 5.2)
    axes = figure.add_subplot()
    points = sorted((entry for entry in entries if entry["macs"]), key=lambda entry: entry["macs"])
    best = 0.0
    for entry in points:
        error = max(1 - entry["macro_auc"], 1e-6)
        leads = entry["macro_auc"] > best
        best = max(best, entry["macro_auc"])
        axes.plot(
            entry["macs"] / 1e6,
            error,
            "o",
            color=style.class_color(1) if leads else style.FAINT,
            markersize=6,
        )
        if leads:
            axes.annotate(
                style.literal(entry["model"]),
                (entry["macs"] / 1e6, error),
                textcoords="offset points",
                xytext=(5, -9),
                fontsize=8.5,
            )
    axes.set(
        xscale="log", yscale="log", xlabel="MACs per image (millions)", ylabel="1 − test macro AUC"
    )
    axes.invert_yaxis()
    axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.6)
    axes.set_title(style.literal(f"{survey}: named are those that nothing cheaper beats"))
    return figure


def answer_figures(
    folder: Path, entries: Sequence[Mapping[str, Any]], seeds: Mapping[str, int], survey: str
) -> dict[str, "Figure"]:
    """Draws ROC curves of the best networks and the best one's confusion matrix.

    Args:
        folder: Of the study.
        entries: Of the survey, the best first.
        seeds: Network → the seed whose answers are drawn.
        survey: Its name.
    """
    answers = []
    for entry in entries[:N_ROC]:
        file = folder / "logits" / f"{entry['model']}-{survey}-seed{seeds[entry['model']]}.npz"
        if file.exists():
            with np.load(file) as kept:
                answers.append(
                    (
                        entry["model"],
                        kept["labels"],
                        kept["logits"],
                        tuple(kept["class_names"].tolist()),
                    )
                )
    if not answers:
        return {}
    drawn = {f"roc_{survey}": _roc_figure(answers)}
    model, labels, logits, names = answers[0]
    if model == entries[0]["model"]:  # of the best, or of none
        counts = confusion_matrix(labels, logits.argmax(axis=1), len(names))
        drawn[f"confusion_{survey}"] = figures.confusion(counts, names)
    return drawn


@style.styled
def _roc_figure(answers: Sequence[tuple[str, np.ndarray, np.ndarray, tuple[str, ...]]]) -> "Figure":
    """Draws one panel per class, with false positives on a logarithmic axis: there the networks differ."""
    names = answers[0][3]
    figure = style.new_figure(4.2 * len(names), 4.6 + 0.16 * len(answers))  # legends lie below
    for k, axes in enumerate(figure.subplots(1, len(names), sharey=True, squeeze=False)[0]):
        for i, (model, labels, logits, _) in enumerate(answers):
            odds = log_odds(logits)
            false_rate, true_rate = roc_curve(odds[:, k], labels == k)
            auc = format_value(class_aucs(labels, odds)[k].value)
            look: dict[str, Any] = {
                "color": style.class_color(i),
                "linestyle": style.DASHES[i % len(style.DASHES)],
            }
            axes.plot(
                false_rate, true_rate, label=style.literal(f"{model} {auc}"), linewidth=1.4, **look
            )
        axes.set(
            xscale="log",
            xlim=(1 / max(1, int((answers[0][1] != k).sum())), 1),
            ylim=(0, 1.01),
            xlabel="False positive rate",
        )
        axes.set_title(style.literal(f"{names[k]} against the rest"))
        axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.14))
        axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.6)
    figure.axes[0].set_ylabel("True positive rate")
    return figure
