"""Curves and points in the figures of several parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.audit.audited import interval
from haloformer.reporting.style import DASHES, FAINT, class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes


GOOD, POOR = 0.95, 0.8  # limits of the macro AUC for the words of the report


def draw_points(
    axes: "Axes", values: Sequence[dict[str, float]], places: np.ndarray, k: int, label: str | None
) -> None:
    """Draws values with intervals along horizontal lines."""
    found = [interval(value) for value in values]
    ends = np.array([(v.value - v.low, v.high - v.value) for v in found]).T
    axes.errorbar(
        *([v.value for v in found], places),
        xerr=np.nan_to_num(ends), fmt="os"[k % 2], color=class_color(k), markersize=5.5, capsize=3, linewidth=1.4, label=label,
    )  # fmt: skip


def draw_curve(
    axes: "Axes", x: Sequence[float], rows: Sequence[dict[str, Any]], k: int, label: str | None
) -> None:
    """Draws macro AUCs with intervals against x."""
    found = [interval(row["macro_auc"]) for row in rows]
    ends = np.array([(v.value - v.low, v.high - v.value) for v in found]).T
    axes.errorbar(
        *(x, [v.value for v in found]),
        yerr=np.nan_to_num(ends), marker="os"[k % 2], linestyle=DASHES[k], color=class_color(k), markersize=5.5, capsize=3, label=label,
    )  # fmt: skip


def chance_line(axes: "Axes") -> None:
    """Marks an AUC of 0.5 on the x axis."""
    axes.axvline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    axes.set_xlim(left=min(0.46, axes.get_xlim()[0]), right=1.01)
    axes.annotate(
        "chance",
        (0.5, 1),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=9,
        color=FAINT,
    )
