"""The figure of single images, with axes in arcsec."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from haloformer.errors import InputError
from haloformer.reporting.style import literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shown(n: object, most: int | None = None) -> int:
    """Returns how many images are to be drawn.

    Args:
        n: What was given.
        most: No more than so many.

    Raises:
        InputError: It is no whole number from 1 on.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"n must be a whole number of at least 1, not {n!r}")
    return int(n) if most is None else min(int(n), most)


@styled
def image_grid(
    images: np.ndarray, captions: Sequence[str], pixel_scale: float | None = None
) -> "Figure":
    """Draws single images, such as those that the model got wrong with the most confidence.

    Args:
        images: (M, C, H, W); several channels are averaged. Each image has its own brightness scale.
        captions: M texts, one above each image.
        pixel_scale: arcsec per pixel, for the axes; pixels if not known.
    """
    columns = min(3, len(images))
    lines = -(-len(images) // columns)
    # Taller than needed and "compressed": constrained layout alone cuts the titles off square axes.
    figure = new_figure(2.5 * columns + 0.4, 2.35 * lines + 0.6)
    figure.set_layout_engine("compressed")
    grid = figure.subplots(lines, columns, squeeze=False)
    height, width = images.shape[-2:]
    scale = pixel_scale or 1.0
    # Pixel centres as in the simulator: x = (column − (W − 1)/2) · scale, y upwards with the row.
    extent = (-width / 2 * scale, width / 2 * scale, -height / 2 * scale, height / 2 * scale)
    if pixel_scale is None:
        extent = (-0.5, width - 0.5, -0.5, height - 0.5)
    unit = "arcsec" if pixel_scale else "pixels"
    for place, axes in enumerate(grid.flat):
        if place >= len(images):
            axes.set_visible(False)
            continue
        image = images[place].mean(axis=0)
        low, high = np.percentile(image, [1, 99.8])
        drawn = axes.imshow(
            image,
            origin="lower",
            extent=extent,
            cmap="inferno",
            vmin=low,
            vmax=max(high, low + 1e-12),
        )
        # Values are those of the file: their unit is the survey's.
        bar = figure.colorbar(drawn, ax=axes, shrink=0.72, pad=0.02)
        bar.ax.tick_params(labelsize=7.5)
        bar.set_label("Pixel value", fontsize=8)
        axes.set_title(
            literal(captions[place]), fontsize=9.5, fontweight="normal", loc="center", pad=4
        )
        axes.tick_params(labelsize=8.5)
        axes.spines[:].set_visible(False)
        axes.locator_params(nbins=5)
        lowest, leftmost = place + columns >= len(images), place % columns == 0
        axes.tick_params(labelbottom=lowest, labelleft=leftmost)
        if lowest:
            axes.set_xlabel(f"x [{unit}]", fontsize=9.5)
        if leftmost:
            axes.set_ylabel(f"y [{unit}]", fontsize=9.5)
    return figure
