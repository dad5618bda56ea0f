"""What a training logged, epoch by epoch, and its figure."""

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haloformer.reporting.style import DASHES, FAINT, class_color, literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_log(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns (epochs, values) of each quantity in a run's log; an artefact that was copied out has none.

    Args:
        path: ``metrics.csv``.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[float, float]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row in csv.DictReader(stream):
            # Training and validation lines of one epoch may be apart; a cell that is empty was not measured.
            for name, cell in row.items():
                try:
                    epoch, value = float(row["epoch"]), float(cell or "")
                except (KeyError, TypeError, ValueError):
                    continue
                if np.isfinite(epoch) and np.isfinite(value):
                    points.setdefault(name, {})[epoch] = value
    wanted = {
        name: values
        for name, values in points.items()
        if name.endswith(("loss", "auc", "auroc", "acc", "accuracy")) or name.startswith("val_mae_")
    }
    return {
        name: (np.array(list(values)), np.array(list(values.values())))
        for name, values in wanted.items()
    }


@styled
def learning_curves(
    log: dict[str, tuple[np.ndarray, np.ndarray]], best_epoch: float | None = None
) -> "Figure":
    """Draws loss and quality against the epoch.

    Args:
        log: For each logged quantity its epochs and values; names that end in ``loss`` go to the first panel, those
            with ``auc`` or ``acc`` to one of the classification's quality, those with ``mae`` to one of the
            regression's.
        best_epoch: Marked with a line: the epoch whose weights were kept.
    """
    kinds = {"Loss": r"loss$", "Validation quality": r"auc|acc", "Validation error": r"mae"}
    chosen = {
        title: {name: points for name, points in log.items() if re.search(pattern, name)}
        for title, pattern in kinds.items()
    }
    shown = {title: series for title, series in chosen.items() if series} or {"Loss": {}}
    figure = new_figure(6.4, 3.0 * len(shown))
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, (title, series) in zip(panels, shown.items()):
        for i, (name, (epochs, values)) in enumerate(sorted(series.items())):
            marker = "o" if len(epochs) < 25 else None
            style = {
                "color": class_color(i),
                "linestyle": DASHES[i % len(DASHES)],
                "marker": marker,
                "markersize": 3.5,
            }
            axes.plot(epochs, values, label=literal(_in_words(name)), **style)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
            axes.annotate(
                "kept",
                (best_epoch, 1),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=9,
                color=FAINT,
                annotation_clip=False,
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("Epoch")
        if series:
            axes.legend()
        axes.set_ylabel(
            {
                "Loss": "Loss per image",
                "Validation quality": "AUC or accuracy",
                "Validation error": "Mean absolute error [dex]",
            }[title]
        )
        axes.set_title(title, pad=14)
    return figure


def _in_words(name: str) -> str:
    """Returns ``val mae log10_m_axion`` for ``val_mae_log10_m_axion``: a target keeps its name."""
    kind, of, target = name.partition("_mae_")
    return f"{kind} MAE of {target}" if of else name.replace("_", " ").replace("/", " ")
