"""The figures of a study: bars and curves."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.reporting import style
from haloformer.studies.plan import Study
from haloformer.studies.results import label_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@style.styled
def bars(plan: Study, rows: list[dict[str, Any]]) -> "Figure":
    """Draws one line per variant: the mean with its interval, and a tick for each seed.

    The second panel has the differences to the reference; for a grid there is a panel for each value of ``by`` instead.
    """
    x, by = plan.figure.get("x"), plan.figure.get("by")
    name = (lambda row: row[x]) if x else (lambda row: row["variant"])
    labels = list(dict.fromkeys(map(name, rows)))
    panels: list[tuple[str, str, list[dict[str, Any]]]] = [("Test macro AUC", "macro_auc", rows)]
    if by:
        mean = {
            label: float(np.mean([row["macro_auc"] for row in rows if name(row) == label]))
            for label in labels
        }
        labels.sort(key=lambda label: -mean[label])
        series = dict.fromkeys(row[by] for row in rows)
        panels = [
            (f"Test macro AUC, {value}", "macro_auc", [r for r in rows if r[by] == value])
            for value in series
        ]
    elif any("difference" in row for row in rows):
        panels.append(
            (
                "Difference to the reference",
                "difference",
                [row for row in rows if "difference" in row],
            )
        )
    figure = style.new_figure(
        1.8 + 3.9 * len(panels), (0.34 if len(labels) < 20 else 0.24) * len(labels) + 1.9
    )
    figure.set_layout_engine("constrained", w_pad=0.12)
    for k, (axes, (title, key, shown)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels)
    ):
        logarithmic = bool(by)  # many networks: some near 1, some far below
        seen = _error if logarithmic else float
        for row in shown:
            place, is_reference = labels.index(name(row)), row["variant"] == row["reference"]
            hue = style.INK if is_reference else style.class_color(k if by else 1)
            axes.plot(
                [seen(row[f"{key}_low"]), seen(row[f"{key}_high"])],
                [place, place],
                color=hue,
                linewidth=2.0,
                alpha=0.85,
            )
            seeds = row[f"{key}_per_seed"]
            if len(seeds) > 1:
                axes.plot(
                    [seen(v) for v in seeds],
                    [place] * len(seeds),
                    "|",
                    color=hue,
                    markersize=7,
                    alpha=0.75,
                )
            face = style.PAPER if is_reference else hue
            axes.plot(
                seen(row[key]), place, "o", color=hue, markerfacecolor=face, markersize=6, zorder=3
            )
            if key == "macro_auc" and is_reference:
                axes.axvline(
                    seen(row[key]), color=style.FAINT, linewidth=0.9, linestyle=":", zorder=0
                )
        if logarithmic:
            _auc_axis(
                axes, "x", [_error(value) for row in rows for value in row["macro_auc_per_seed"]]
            )
        else:
            axes.set_xlim(_limits(shown, key))
            axes.locator_params(axis="x", nbins=6)
        if key == "difference":
            axes.axvline(0, color=style.INK, linewidth=0.9)
        axes.set_xlabel(style.literal(title))
        axes.grid(axis="x", color=style.FAINT, alpha=0.25, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(labels)), [style.literal(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
    _entitle(figure, plan, rows, ticks=True)
    return figure


@style.styled
def curves(plan: Study, rows: list[dict[str, Any]]) -> "Figure":
    """Draws the macro AUC against one axis of the grid, a line for each value of the other."""
    x, by = plan.figure["x"], plan.figure.get("by")
    names = [name for name in plan.axes[x] if any(row[x] == name for row in rows)]
    numbers = _x_values(names)
    logarithmic = numbers is not None and min(numbers) > 0 and max(numbers) / min(numbers) >= 20
    places = dict(zip(names, numbers or range(len(names))))
    series = list(dict.fromkeys(row[by] for row in rows)) if by else [""]
    figure = style.new_figure(7.6, 5.6)
    axes = figure.add_subplot()
    for k, name in enumerate(series):
        own = sorted(
            (row for row in rows if not by or row[by] == name), key=lambda row: places[row[x]]
        )
        offset = k - (len(series) - 1) / 2  # intervals side by side
        at = np.array(
            [places[row[x]] * 1.06**offset if logarithmic else places[row[x]] + 0.0 for row in own]
        )
        if numbers is None:
            at = at + 0.06 * offset
        look: dict[str, Any] = {
            "color": style.class_color(k),
            "linestyle": style.DASHES[k % len(style.DASHES)],
        }
        axes.plot(
            at,
            [_error(row["macro_auc"]) for row in own],
            marker="osD^v"[k % 5],
            markersize=5.5,
            label=style.literal(name),
            **look,
        )
        for place, row in zip(at, own):
            ends = [_error(row["macro_auc_low"]), _error(row["macro_auc_high"])]
            axes.plot([place, place], ends, color=style.class_color(k), linewidth=1.1, alpha=0.7)
    if logarithmic:
        axes.set_xscale("log")
    if numbers is not None:
        from matplotlib.ticker import NullLocator

        axes.set_xticks(numbers, [label_of(name) for name in names])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xticks(range(len(names)), [style.literal(name) for name in names])
    axes.set_xlabel(style.literal(x))
    _auc_axis(axes, "y", [_error(value) for row in rows for value in row["macro_auc_per_seed"]])
    axes.set_ylabel("Test macro AUC")
    axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.6)
    if by:
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside right center",
            handlelength=3.2,
            title=style.literal(by),
        )
    _entitle(figure, plan, rows)
    return figure


def _x_values(names: Sequence[str]) -> list[float] | None:
    try:
        return [float(name) for name in names]
    except ValueError:
        return None


def _error(auc: float) -> float:
    """1 − AUC, kept off zero for a logarithmic axis."""
    return max(1 - auc, 1e-6)


def _auc_axis(axes: Any, which: str, errors: Sequence[float]) -> None:
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


def _limits(rows: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """Returns the range of an axis: all single seeds, and the intervals unless they are far wider."""
    seeds = [value for row in rows for value in row.get(f"{key}_per_seed", [])]
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


def _entitle(
    figure: "Figure", plan: Study, rows: list[dict[str, Any]], ticks: bool = False
) -> None:
    figure.suptitle(style.literal(plan.title), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    kinds = {row["interval"] for row in rows}
    n_seeds = sorted({row["n_seeds"] for row in rows})
    text = {
        frozenset(
            {"over seeds"}
        ): f"Mean of {'–'.join(map(str, sorted({n_seeds[0], n_seeds[-1]})))} seeds; lines: 95 % interval over seeds",
        frozenset({"over test images"}): "One seed; lines: 95 % interval over test images",
    }.get(frozenset(kinds), "Lines: 95 % interval over seeds, with one seed over test images")
    text += "; ticks: single seeds" if ticks and n_seeds[-1] > 1 else ""
    width = int(figure.get_figwidth() * 13)
    figure.supxlabel(
        textwrap.fill(f"{text}.", width), fontsize=9, color="#5c626b", x=0.01, ha="left"
    )
