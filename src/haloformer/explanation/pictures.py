"""The pictures of an explanation: maps over images with axes in arcsec, layer by layer, and the scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.explanation.methods import DEPTH
from haloformer.reporting.style import FAINT, INK, class_color, literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from haloformer.explanation.explained import Explained, Map

NAMES = {
    "attention": "attention",
    "rollout": "attention rollout",
    "gradcam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    DEPTH: "token depth",
    "brightness": "the light itself",
    "residual": "|residual|",
}
_UNITS = {DEPTH: "blocks"}
_IN_A_ROW = 6  # panels


@dataclass(frozen=True)
class Shown:
    """One image with its explanations, ready to be drawn.

    Attributes:
        image: (H, W).
        residual: (H, W) in units of the noise, 0 where the network does not look; None if it gets none.
        maps: Their (H, W) values, beside what they are.
        seen: (H, W): where the network looks.
        pixel_scale: arcsec per pixel; None if not known.
        difference: (H, W): what substructure changes; None if not known.
    """

    image: np.ndarray
    residual: np.ndarray | None
    maps: "list[tuple[Map, np.ndarray]]"
    seen: np.ndarray
    pixel_scale: float | None
    difference: np.ndarray | None = None


def shown(
    found: "Explained", k: int, pixel_scale: float | None, difference: np.ndarray | None = None
) -> Shown:
    """Returns image number k of a batch."""
    return Shown(
        image=found.images[k].mean(0).numpy(),
        residual=found.inputs[k, found.channels.index("residual")].numpy()
        if "residual" in found.channels
        else None,
        maps=[(each, each.values[k].numpy()) for each in found.maps],
        seen=found.seen.numpy(),
        pixel_scale=pixel_scale,
        difference=difference,
    )


@styled
def overview(one: Shown, title: str = "") -> "Figure":
    """Draws the image, what is known of it, and for each method its last layer."""
    last = {
        each.method: (each, values) for each, values in one.maps
    }  # the last of each method stays

    def light(axes: "Axes") -> None:
        _bar(axes, _light(axes, one, "inferno"), "pixel value")
        _title(axes, "image")

    def residual(axes: "Axes") -> None:
        shown = np.where(one.seen, one.residual, np.nan)  # type: ignore[arg-type]
        drawn = axes.imshow(shown, cmap="RdBu_r", vmin=-5, vmax=5, **_where(one))
        _bar(axes, drawn, "(image − lens) / noise")
        _title(axes, "residual")

    def truth(axes: "Axes") -> None:
        drawn = axes.imshow(one.difference, cmap="viridis", **_where(one))  # type: ignore[arg-type]
        _bar(axes, drawn, "|with − without| [counts/s]")
        _title(axes, "what substructure\nchanges")

    panels: list[Any] = [light]
    panels += [residual] if one.residual is not None else []
    panels += [truth] if one.difference is not None else []
    panels += list(last.values())
    figure, grid = _panels(len(panels), min(4, len(panels)))
    for axes, panel in zip(grid, panels):
        if isinstance(panel, tuple):
            each, values = panel
            drawn = _overlay(axes, one, values, each.method)
            _bar(axes, drawn, _UNITS.get(each.method, "relative strength"))
            _title(axes, NAMES[each.method] + (f"\n{each.layer}" if each.layer else ""))
            continue
        panel(axes)
        _frame(axes, one)
    if title:
        figure.suptitle(literal(title), fontsize=10.5)
    return figure


def progression(one: Shown, title: str = "") -> "Figure | None":
    """Draws a panel for each layer of each method that has layers; None if there is none."""
    rows: list[list[tuple[Map, np.ndarray]]] = []
    for method in dict.fromkeys(each.method for each, _ in one.maps if each.layer):
        layers = [(each, values) for each, values in one.maps if each.method == method]
        rows += [layers[i : i + _IN_A_ROW] for i in range(0, len(layers), _IN_A_ROW)]
    return _layers(one, rows, title) if rows else None


@styled
def _layers(one: Shown, rows: "list[list[tuple[Map, np.ndarray]]]", title: str) -> "Figure":
    columns = max(map(len, rows))
    figure, grid = _panels(len(rows) * columns, columns)
    for i, row in enumerate(rows):
        for axes, panel in zip(
            grid[i * columns : (i + 1) * columns], [*row, *[None] * (columns - len(row))]
        ):
            if panel is None:
                axes.set_visible(False)
                continue
            each, values = panel
            drawn = _overlay(axes, one, values, each.method)
            _title(axes, f"{NAMES[each.method]}\n{each.layer}")
    _bar(grid, drawn, "relative strength")  # one for all: each map ends at 1
    if title:
        figure.suptitle(literal(title), fontsize=10.5)
    return figure


@styled
def score_figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Draws gain and pixel AUC of each map, with their intervals; open circles are those of random weights."""
    rows = [row for row in rows if row["class"] == "all"] or list(rows)
    names = list(dict.fromkeys((row["method"], row["layer"]) for row in rows))
    figure = new_figure(8.0, 1.4 + 0.34 * len(names))
    panels = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(method for method, _ in names))
    for axes, what, chance in zip(panels, ("gain", "auc"), (1.0, 0.5)):
        axes.axvline(chance, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        for row in rows:
            y = names.index((row["method"], row["layer"]))
            random = row["weights"] == "random"
            hue = FAINT if random else class_color(methods.index(row["method"]))
            style = {
                "color": hue,
                "marker": "o",
                "markersize": 5,
                "markerfacecolor": "none" if random else hue,
            }
            reach = np.abs(np.array([[row[f"{what}_low"]], [row[f"{what}_high"]]]) - row[what])
            axes.errorbar(
                row[what], y + 0.18 * random, xerr=reach, linestyle="none", linewidth=1.2, **style
            )
        axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    labels = [f"{NAMES[method]} {layer}".strip() for method, layer in names]
    panels[0].set_yticks(range(len(names)), [literal(label) for label in labels])
    panels[0].invert_yaxis()
    panels[0].set(
        xlabel="Gain: share in the region / its share of pixels", title="Where substructure shows"
    )
    panels[0].set_xlim(left=0)
    panels[1].set(xlabel="Pixel AUC")
    panels[1].set_title("dotted: chance; open: random weights", fontsize=9, fontweight="normal")
    return figure


# --- parts ------------------------------------------------------------------------------------------------------------


def _panels(n: int, columns: int) -> "tuple[Figure, list[Axes]]":
    lines = -(-n // columns)
    figure = new_figure(2.7 * columns + 0.5, 2.5 * lines + 0.5)
    figure.set_layout_engine("compressed")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < n)
        if n - columns <= place:  # with none below it
            axes.tick_params(labelbottom=True)
    return figure, list(grid.flat)


def _where(one: Shown) -> dict[str, Any]:
    height, width = one.image.shape
    scale = one.pixel_scale or 1.0
    # As in the simulator: the middle of the image is (0, 0), y goes up with the row.
    return {
        "origin": "lower",
        "extent": (-width / 2 * scale, width / 2 * scale, -height / 2 * scale, height / 2 * scale),
    }


def _light(axes: "Axes", one: Shown, cmap: str) -> "AxesImage":
    low, high = np.percentile(one.image, [1, 99.8])
    return axes.imshow(
        one.image, cmap=cmap, vmin=min(low, 0), vmax=max(high, low + 1e-12), **_where(one)
    )


def _overlay(axes: "Axes", one: Shown, values: np.ndarray, method: str) -> "AxesImage":
    """Draws a map over the grey image: the more, the less transparent; a depth without. Returns what a bar is for."""
    _light(axes, one, "gray")
    if method == DEPTH:
        drawn = axes.imshow(
            np.where(one.seen, values, np.nan), cmap="viridis", alpha=0.75, **_where(one)
        )
    else:
        inside = values[one.seen]
        low, high = (
            (float(x) for x in np.percentile(inside, [5, 99.5])) if inside.any() else (0.0, 1.0)
        )
        strength = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
        drawn = axes.imshow(
            strength,
            cmap="plasma",
            vmin=0,
            vmax=1,
            alpha=np.where(one.seen, 0.8 * strength**0.6, 0),
            **_where(one),
        )
    _frame(axes, one)
    return drawn


def _bar(axes: "Axes | list[Axes]", drawn: "AxesImage", label: str) -> None:
    """Draws a colour bar beside a panel, or beside all of them."""
    figure = drawn.axes.figure
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=7.5)


def _frame(axes: "Axes", one: Shown) -> None:
    """Axes in arcsec, and a dashed line around what the network sees."""
    left, right, bottom, top = _where(one)["extent"]
    if not one.seen.all():
        x, y = (np.linspace(a, b, n, endpoint=False) + (b - a) / n / 2 for a, b, n in
                ((left, right, one.seen.shape[1]), (bottom, top, one.seen.shape[0])))  # fmt: skip
        axes.contour(
            x,
            y,
            one.seen.astype(float),
            levels=[0.5],
            colors=[FAINT],
            linewidths=0.8,
            linestyles="dashed",
        )
    unit = "arcsec" if one.pixel_scale else "pixels"
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=5)
    axes.spines[:].set_visible(False)
    # By the ticks themselves: what `get_tick_params` calls them depends on matplotlib's version.
    if axes.xaxis.get_major_ticks()[0].label1.get_visible():
        axes.set_xlabel(f"x [{unit}]", fontsize=9)
    if axes.yaxis.get_major_ticks()[0].label1.get_visible():
        axes.set_ylabel(f"y [{unit}]", fontsize=9)


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(literal(text), fontsize=8.5, fontweight="normal", loc="center", color=INK)
