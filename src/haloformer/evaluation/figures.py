"""The figures of an evaluation, each a function of arrays that returns a matplotlib ``Figure``.

Their style is that of :mod:`haloformer.reporting.style`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.evaluation.metrics import roc_curve
from haloformer.reporting.interval import Interval, format_interval
from haloformer.reporting.style import (
    DASHES,
    FAINT,
    INK,
    PAPER,
    class_color,
    literal,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def roc(
    labels: np.ndarray, scores: np.ndarray, class_names: Sequence[str], aucs: Sequence[Interval]
) -> "Figure":
    """Draws the one-vs-rest ROC curves, with an inset on a logarithmic axis for the few false positives.

    Args:
        labels: (N,) indices into ``class_names``.
        scores: (N, K) any increasing function of the class probabilities.
        class_names: The K names.
        aucs: The K areas with their intervals, for the legend.
    """
    curves = []
    for k, name in enumerate(class_names):
        positive = labels == k
        if positive.any() and not positive.all():
            label = f"{literal(name)}: AUC {format_interval(aucs[k])}"
            curves.append((k, label, *roc_curve(scores[:, k], positive), int((~positive).sum())))
    return _draw_roc(curves, "ROC, each class against the rest")


@styled
def roc_of_models(
    labels: np.ndarray,
    scores: Sequence[np.ndarray],
    k: int,
    class_name: str,
    names: Sequence[str],
    aucs: Sequence[Interval],
) -> "Figure":
    """Draws one class's ROC curves of several models, as `roc` does.

    Args:
        labels: (N,) indices of classes.
        scores: Of each model, (N, K).
        k: The class.
        class_name: Its name.
        names: Of the models.
        aucs: Of the models, for the legend.
    """
    positive = labels == k
    curves = [
        (
            i,
            f"{literal(name)}: AUC {format_interval(auc)}",
            *roc_curve(score[:, k], positive),
            int((~positive).sum()),
        )
        for i, (name, auc, score) in enumerate(zip(names, aucs, scores))
    ]
    return _draw_roc(curves, f"ROC, {literal(class_name)} against the rest")


def _draw_roc(
    curves: Sequence[tuple[int, str, np.ndarray, np.ndarray, int]], title: str
) -> "Figure":
    """Draws curves, each of a number for its class_color, a label, false and true positive rates, and a number of negatives."""
    # The inset covers the lower right corner; where a weak model's curve runs there, it becomes a panel of its own.
    has_room = all(
        np.interp(0.36, false_rate, true_rate) > 0.72 for _, _, false_rate, true_rate, _ in curves
    )
    if has_room:
        figure = new_figure(6.4, 6.4)
        axes = figure.add_subplot()
        low = axes.inset_axes((0.42, 0.13, 0.55, 0.5))
    else:
        figure = new_figure(6.4, 9.6)
        axes, low = figure.subplots(2, 1, height_ratios=(5, 3))
    for k, label, false_rate, true_rate, _ in curves:
        color, dash = class_color(k), DASHES[k % len(DASHES)]
        axes.plot(false_rate, true_rate, label=label, color=color, linestyle=dash)
        low.step(false_rate, true_rate, where="post", color=color, linestyle=dash)
    for ends in (
        ([0, 0.34], [0.7, 1]) if has_room else ([0, 1],)
    ):  # the line of chance, not across the inset
        axes.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
    axes.set(
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        xlabel="False positive rate",
        ylabel="True positive rate",
    )
    axes.set_aspect("equal")
    axes.set_title(title)
    most = max([10, *(negatives for *_, negatives in curves)])
    low.set(xscale="log", xlim=(10 ** np.floor(np.log10(1 / most)), 1), ylim=(-0.02, 1.02))
    low.set_facecolor(PAPER)
    low.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    if has_room:
        low.set_title("few false positives", fontsize=9.5, fontweight="normal", loc="center", pad=4)
        low.tick_params(labelsize=9)
        low.spines[["top", "right"]].set_visible(True)
    else:
        low.set(
            title="Few false positives", xlabel="False positive rate", ylabel="True positive rate"
        )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


@styled
def confusion(counts: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """Draws the confusion matrix (K, K), true class by row: counts, and per cent of the row."""
    figure = new_figure(5.6, 5.0)
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Blue by opacity, so that an empty cell has the page's class_color, light or dark.
    cells = np.empty((*counts.shape, 4))
    cells[..., :3], cells[..., 3] = (0.0, 0.31, 0.62), 0.06 + 0.94 * shares
    axes.imshow(cells, aspect="equal")
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        told = f"{share:.1%}".replace("%", " %") if counts[row].any() else "–"  # of no image
        text = f"{counts[row, column]:,}\n{told}"
        axes.text(
            column, row, text, ha="center", va="center", color="#fefefe" if share > 0.5 else INK
        )
    ticks = range(len(class_names))
    axes.set_xticks(ticks, [literal(name) for name in class_names])
    axes.set_yticks(ticks, [literal(name) for name in class_names], rotation=90, va="center")
    axes.set(
        xlabel="Predicted class",
        ylabel="True class",
        title="Confusion: images, and share of the true class",
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


@styled
def scores(labels: np.ndarray, log_odds: np.ndarray, class_names: Sequence[str]) -> "Figure":
    """Draws, per class, how its probability is distributed over the images of each true class.

    Args:
        labels: (N,) indices into ``class_names``.
        log_odds: (N, K) log(p / (1 − p)): the axis is linear in it and labelled in p.
        class_names: The K names.
    """
    figure = new_figure(6.4, 1.2 + 1.75 * len(class_names))
    rows = figure.subplots(len(class_names), 1, sharex=True, squeeze=False)[:, 0]
    edge = np.log(1e4)
    bins = np.linspace(-edge, edge, 49)
    for k, axes in enumerate(rows):
        for true, name in enumerate(class_names):
            chosen = np.clip(log_odds[labels == true, k], -edge, edge)
            if not len(chosen):
                continue
            axes.hist(chosen, bins, histtype="stepfilled", color=class_color(true), alpha=0.22)
            label = f"true {literal(name)}" if k == 0 else None
            line = {
                "color": class_color(true),
                "linestyle": DASHES[true % len(DASHES)],
                "linewidth": 1.5,
            }
            axes.hist(chosen, bins, histtype="step", label=label, **line)
        axes.set_title(f"p({literal(class_names[k])})", loc="left")
        axes.set_ylabel("Images")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ticks = np.array([1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999])
    rows[-1].set_xticks(np.log(ticks / (1 - ticks)), [f"{tick:g}" for tick in ticks])
    rows[-1].set_xlim(-edge, edge)
    rows[-1].set_xlabel("Predicted probability (log-odds axis; the ends hold all beyond)")
    figure.legend(loc="outside upper center", ncols=len(class_names))
    return figure


@styled
def reliability(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """Draws how often the model is right against how sure it is, and how many images it is that sure of.

    Args:
        stages: Label of a line → its bins, each with ``n``, ``confidence`` and ``accuracy`` (value, low, high).
    """
    figure = new_figure(5.8, 7.4)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=":", label="as sure as right")
    for i, (label, bins) in enumerate(stages.items()):
        style: dict[str, Any] = {"color": class_color(i), "linestyle": DASHES[i]}
        sure = np.array([row["confidence"] for row in bins])
        value, lower, upper = np.array(
            [[row["accuracy"][part] for part in ("value", "low", "high")] for row in bins]
        ).T
        spread = np.maximum([value - lower, upper - value], 0)
        marks: dict[str, Any] = {
            "marker": "os"[i % 2],
            "markersize": 4.5,
            "linewidth": 1.4,
            "elinewidth": 1.0,
        }
        counts = np.array([row["n"] for row in bins])
        alone = counts < 2  # right or wrong: no share that a line could lead to
        axes.errorbar(
            np.where(alone, np.nan, sure), value, spread, label=literal(label), **marks, **style
        )
        axes.errorbar(
            sure[alone],
            value[alone],
            spread[:, alone],
            **{**marks, **style, "linestyle": "none", "markerfacecolor": "none"},
        )
        below.plot(
            sure,
            counts,
            marker="os"[i % 2],
            markersize=3.5,
            linewidth=1.4,
            **style,
        )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), ylabel="Share that is right")
    below.set(yscale="log", xlabel="Highest probability", ylabel="Images")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for panel in (axes, below):
        panel.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    for place, words, side in (
        ((0.04, 0.94), "too cautious", "left"),
        ((0.97, 0.06), "overconfident", "right"),
    ):
        axes.text(*place, words, transform=axes.transAxes, ha=side, va="center", color=FAINT)
    axes.set_title("Reliability of the probabilities")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


@styled
def by_parameter(
    bins: Sequence[Mapping[str, Any]],
    label: str,
    *,
    share: str,
    auc: str,
    overall: tuple[float, float],
    hue: int = 1,
) -> "Figure":
    """Draws accuracy and AUC in bins of a physical parameter, with their intervals.

    Args:
        bins: What `metrics.by_bins` returns, the intervals as dictionaries.
        label: The parameter, for the axis.
        share: What the accuracy is of.
        auc: What the AUC is of.
        overall: Accuracy and AUC over all bins.
        hue: Number of the class_color, that of the class if only one class has the parameter.
    """
    edges = np.array([[row["from"], row["to"]] for row in bins])
    middle, half = edges.mean(axis=1), np.diff(edges, axis=1)[:, 0] / 2
    figure = new_figure(6.4, 6.4)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, key, title, mean in zip(panels, ("accuracy", "auc"), (share, auc), overall):
        value, lower, upper = np.array(
            [[row[key][part] for part in ("value", "low", "high")] for row in bins], dtype=float
        ).T
        spread = np.nan_to_num(np.maximum([value - lower, upper - value], 0))
        style: dict[str, Any] = {"color": class_color(hue), "markersize": 5, "elinewidth": 1.4}
        axes.errorbar(middle, value, spread, half, fmt="o", **style)
        axes.axhline(mean, color=FAINT, linewidth=1.2, linestyle=(0, (5, 1.5)), zorder=0)
        axes.annotate(
            "all", (1, mean), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=9, color=FAINT, annotation_clip=False,
        )  # fmt: skip
        axes.set_ylabel(literal(title))
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        axes.set_ylim(top=min(1.0, axes.get_ylim()[1]) + 0.02 * np.ptp(axes.get_ylim()))
    panels[1].set_xlabel(literal(label))
    panels[1].set_xlim(edges[0, 0], edges[-1, 1])
    return figure


@styled
def differences(
    rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str], reference: str
) -> "Figure":
    """Draws how much better models are than the reference, a panel for each measure.

    Args:
        rows: For each other model its ``name`` and ``differences``: measure → ``value``, ``low``, ``high``.
        measures: Key and title of each panel.
        reference: Name of the model that the others are compared with.
    """
    columns = min(3, len(measures))
    lines = -(-len(measures) // columns)
    figure = new_figure(2.4 + 2.4 * columns, lines * (1.2 + 0.34 * len(rows)) + 0.5)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(measures):
            axes.set_visible(False)
            continue
        key, title = list(measures.items())[place]
        for i, row in enumerate(rows):
            found = row["differences"][key]
            style: dict[str, Any] = {"color": class_color(i + 1)}
            axes.plot([found["low"], found["high"]], [i, i], linewidth=2.0, **style)
            axes.plot(found["value"], i, "o", markersize=6, **style)
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_title(literal(title), fontsize=10.5)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="x", labelsize=9)
        axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(rows)), [literal(row["name"]) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel(f"Difference to {literal(reference)}, 95 % interval", fontsize=10)
    return figure
