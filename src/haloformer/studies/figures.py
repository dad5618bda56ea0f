"""The figures of a study: bars and curves."""

import functools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from haloformer.reporting import style
from haloformer.studies.plan import Study
from haloformer.studies.results import Row, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^v"

_WORDS = {
    "n_images": "Number of training images",
    "labels_per_class": "Labelled training images per class",
    "data": "Survey",
    "lr": "Learning rate",
}


def in_words(axis: str) -> str:
    """Returns what an axis of a study is called in a figure."""
    words = axis.replace("_", " ")
    return _WORDS.get(axis, words[:1].upper() + words[1:])


@dataclass(frozen=True)
class _Panel:
    """One panel of bars.

    Attributes:
        title: Label of its axis.
        key: The measure that is drawn: macro_auc or difference.
        rows: The variants that are drawn.
        color: Of all but the reference.
        logarithmic: Whether the axis is one of 1 − AUC: of many networks some are near 1, some far below.
    """

    title: str
    key: str
    rows: list[Row]
    color: str
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Returns where a value stands on the axis."""
        return _error(value) if self.logarithmic else value


@style.styled
def bars(plan: Study, rows: list[Row]) -> "Figure":
    """Draws one line per variant: the mean with its interval, and a tick for each seed.

    The second panel has the differences to the reference; for a grid there is a panel for each value of ``by`` instead.
    """
    label = plan.figure.x or "variant"
    labels = list(dict.fromkeys(row[label] for row in rows))
    if plan.figure.by:
        labels.sort(
            key=lambda name: -float(np.mean([r["macro_auc"] for r in rows if r[label] == name]))
        )
    panels = _panels(plan.figure.by, rows)
    height = (0.34 if len(labels) < 20 else 0.24) * len(labels) + 1.9
    figure = style.new_figure(1.8 + 3.9 * len(panels), height)
    figure.set_layout_engine("constrained", w_pad=0.12)
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels):
        for row in panel.rows:
            _draw_bar(axes, panel, row, labels.index(row[label]))
        if panel.logarithmic:
            _auc_axis(axes, "x", _shown_errors(rows))
        else:
            axes.set_xlim(_limits(panel.rows, panel.key))
            axes.locator_params(axis="x", nbins=6)
        if panel.key == "difference":
            axes.axvline(0, color=style.INK, linewidth=0.9)
        axes.set_xlabel(style.literal(panel.title))
        axes.grid(axis="x", color=style.FAINT, alpha=0.25, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(labels)), [style.literal(name) for name in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
    _entitle(figure, plan, rows, ticks=True)
    return figure


def _panels(by: str | None, rows: list[Row]) -> list[_Panel]:
    """Returns a panel for each value of ``by``; without it, the AUCs and the differences to the reference."""
    if by:
        return [
            _Panel(
                f"Test macro AUC, {value}",
                "macro_auc",
                [row for row in rows if row[by] == value],
                style.class_color(k),
                logarithmic=True,
            )
            for k, value in enumerate(dict.fromkeys(row[by] for row in rows))
        ]
    panels = [_Panel("Test macro AUC", "macro_auc", rows, style.class_color(1))]
    if compared := [row for row in rows if "difference" in row]:
        title = "Difference to the reference"
        panels.append(_Panel(title, "difference", compared, style.class_color(1)))
    return panels


def _draw_bar(axes: "Axes", panel: _Panel, row: Row, line: int) -> None:
    """Draws a variant on its line: interval, single seeds and mean; the reference in ink, hollow."""
    key, is_reference = panel.key, row["variant"] == row["reference"]
    hue = style.INK if is_reference else panel.color
    ends = [panel.place(row[f"{key}_low"]), panel.place(row[f"{key}_high"])]
    axes.plot(ends, [line, line], color=hue, linewidth=2.0, alpha=0.85)
    seeds = [panel.place(value) for value in row[f"{key}_per_seed"]]
    if len(seeds) > 1:
        axes.plot(seeds, [line] * len(seeds), "|", color=hue, markersize=7, alpha=0.75)
    mean, face = panel.place(row[key]), style.PAPER if is_reference else hue
    axes.plot(mean, line, "o", color=hue, markerfacecolor=face, markersize=6, zorder=3)
    if key == "macro_auc" and is_reference:
        axes.axvline(mean, color=style.FAINT, linewidth=0.9, linestyle=":", zorder=0)


@style.styled
def curves(plan: Study, rows: list[Row]) -> "Figure":
    """Draws the macro AUC against one axis of the grid, a line for each value of the other."""
    x, by = plan.figure.x, plan.figure.by
    assert x is not None  # a curve needs a grid, whose figure always has x
    axis = _XAxis(x, [name for name in plan.axes[x] if any(row[x] == name for row in rows)])
    series = list(dict.fromkeys(row[by] for row in rows)) if by else [""]
    figure = style.new_figure(7.6, 5.6)
    axes = figure.add_subplot()
    for k, name in enumerate(series):
        own = [row for row in rows if not by or row[by] == name]
        own.sort(key=lambda row: axis.names.index(row[x]))
        offset = k - (len(series) - 1) / 2
        _draw_curve(axes, own, [axis.place(row[x], offset) for row in own], k, style.literal(name))
    axis.draw(axes)
    _auc_axis(axes, "y", _shown_errors(rows))
    axes.set_ylabel("Test macro AUC")
    axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.6)
    if by:
        handles, texts = axes.get_legend_handles_labels()
        title = style.literal(in_words(by))
        figure.legend(handles, texts, loc="outside right center", handlelength=3.2, title=title)
    _entitle(figure, plan, rows)
    return figure


@dataclass(frozen=True)
class _XAxis:
    """The horizontal axis of curves: numbers stand where they belong, names side by side.

    Attributes:
        label: Its label.
        names: Its values, as the study writes them.
    """

    label: str
    names: list[str]

    @functools.cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers, if all are numbers."""
        try:
            return [float(name) for name in self.names]
        except ValueError:
            return None

    @property
    def is_logarithmic(self) -> bool:
        """Whether the numbers span more than a factor of 20."""
        numbers = self.numbers
        return numbers is not None and min(numbers) > 0 and max(numbers) / min(numbers) >= 20

    def place(self, name: str, offset: float) -> float:
        """Returns where a value stands, moved by the offset of its line, so that intervals stand side by side."""
        number = self.names.index(name)
        if self.numbers is None:
            return number + 0.06 * offset
        place = self.numbers[number]
        return place * 1.06**offset if self.is_logarithmic else place

    def draw(self, axes: "Axes") -> None:
        """Scales and labels the axis."""
        from matplotlib.ticker import NullLocator

        if self.is_logarithmic:
            axes.set_xscale("log")
        if self.numbers is not None:
            axes.set_xticks(self.numbers, [label_of(name) for name in self.names])
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xticks(range(len(self.names)), [style.literal(name) for name in self.names])
        axes.set_xlabel(style.literal(in_words(self.label)))


class _Look(TypedDict):
    color: str
    linestyle: str | tuple[int, tuple[float, ...]]


def _draw_curve(axes: "Axes", rows: Sequence[Row], at: Sequence[float], k: int, label: str) -> None:
    """Draws line ``k``: means with their intervals at the places ``at``."""
    look: _Look = {
        "color": style.class_color(k),
        "linestyle": style.DASHES[k % len(style.DASHES)],
    }
    means = [_error(row["macro_auc"]) for row in rows]
    axes.plot(at, means, marker=MARKERS[k % len(MARKERS)], markersize=5.5, label=label, **look)
    for place, row in zip(at, rows):
        ends = [_error(row["macro_auc_low"]), _error(row["macro_auc_high"])]
        axes.plot([place, place], ends, color=look["color"], linewidth=1.1, alpha=0.7)


def _error(auc: float) -> float:
    """1 − AUC, kept off zero for a logarithmic axis."""
    return max(1 - auc, 1e-6)


def _shown_errors(rows: Sequence[Row]) -> list[float]:
    """Returns 1 − AUC of all that an axis must show: single seeds, and the intervals of variants that have but one."""
    seeds = [value for row in rows for value in row["macro_auc_per_seed"]]
    return [_error(value) for value in seeds + _whole_ends(rows, "macro_auc")]


def _whole_ends(rows: Sequence[Row], key: str) -> list[float]:
    """Returns the ends of the intervals that are never cut: those over test images.

    Over a few seeds an interval may be wider than all that there is to see; over test images it is what there is.
    """
    ends = [
        row.get(f"{key}_{end}", np.nan)
        for row in rows
        for end in ("low", "high")
        if row["n_seeds"] == 1
    ]
    return [end for end in ends if np.isfinite(end)]


def _auc_axis(axes: "Axes", which: str, errors: Sequence[float]) -> None:
    """Makes an axis logarithmic in 1 − AUC and labels it with the AUC: 0.99 and 0.999 are as far apart as 0.9 and 0.99."""
    from matplotlib.ticker import NullLocator

    top, bottom = min(1.0, max(errors) * 1.35), min(errors) / 1.35
    steps = (
        (1.0,)
        if which == "x" and top / bottom > 30
        else (1, 0.5, 0.2)
        if top / bottom > 60
        else (1, 0.7, 0.5, 0.3, 0.2)
    )
    ticks = sorted(
        {round(m * 10.0**-d, 9) for d in range(7) for m in steps if bottom <= m * 10.0**-d <= top}
    )
    axes.set(**{f"{which}scale": "log"})
    axes.set(
        **{
            f"{which}ticks": ticks,
            f"{which}ticklabels": [f"{1 - tick:.7g}" for tick in ticks],
            f"{which}lim": (top, bottom),
        }
    )
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())


def _limits(rows: list[Row], key: str) -> tuple[float, float]:
    """Returns the range of an axis: all single seeds, intervals over test images, and those over seeds unless they are far wider."""
    seeds = [value for row in rows for value in row.get(f"{key}_per_seed", [])]
    seeds += _whole_ends(rows, key)
    ends = [
        row[f"{key}_{end}"]
        for row in rows
        for end in ("low", "high")
        if np.isfinite(row.get(f"{key}_{end}", np.nan))
    ]
    span = max(max(seeds) - min(seeds), 1e-4)
    low = max(min(seeds + ends), min(seeds) - 0.8 * span) - 0.05 * span
    high = min(max(seeds + ends), max(seeds) + 0.8 * span) + 0.05 * span
    return low, high


def _entitle(figure: "Figure", plan: Study, rows: list[Row], ticks: bool = False) -> None:
    """Writes the study's title above, and below what means and intervals are of."""
    figure.suptitle(style.literal(plan.title), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    kinds = {row["interval"] for row in rows}
    n_seeds = sorted({row["n_seeds"] for row in rows})
    if kinds == {"over seeds"}:
        number = "–".join(map(str, sorted({n_seeds[0], n_seeds[-1]})))
        text = f"Mean of {number} seeds; lines: 95 % interval over seeds"
    elif kinds == {"over test images"}:
        text = "One seed; lines: 95 % interval over test images"
    else:
        text = "Lines: 95 % interval over seeds, with one seed over test images"
    text += "; ticks: single seeds" if ticks and n_seeds[-1] > 1 else ""
    text += f". {told}" if (told := _unlike_in_words(rows)) else ""
    width = int(figure.get_figwidth() * 13)
    figure.supxlabel(
        textwrap.fill(f"{text}.", width), fontsize=9, color="#5c626b", x=0.01, ha="left"
    )


def _unlike_in_words(rows: Sequence[Row]) -> str:
    """Returns which variants are not to be compared with the reference or with each other; nothing if all can be."""
    if names := [row["variant"] for row in rows if row.get("not_compared")]:
        said = ", ".join(names) if len(names) < 4 else f"{len(names)} variants"
        return f"Not to be compared with the reference: {style.literal(said)} (see table.md)"
    classes = {tuple(sorted(key for key in row if key.startswith("auc_"))) for row in rows}
    return "" if len(classes) < 2 else "AUCs of different classes are not to be compared"
