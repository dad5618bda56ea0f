"""The figure of smooth fits: image, model, residual."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from haloformer.reporting.style import literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from haloformer.fitting.result import SmoothFit


DRAWN = 3


@styled
def draw_fits(
    fits: "list[tuple[str, np.ndarray, SmoothFit]]", pixel_scale: float, good: Sequence[bool] = ()
) -> "Figure":
    """Draws images, their best smooth lens, the residual, and where the fits have it its detail.

    Args:
        fits: Name, image (H, W) and fit of one image each.
        pixel_scale: arcsec per pixel.
        good: Which of the fits describe their images; by default those that converged.
    """
    columns = 3 if fits[0][2].detail is None else 4
    figure = new_figure(2.1 * columns + 2.0, 2.4 * len(fits) + 0.6)
    figure.set_layout_engine("compressed")
    grid = figure.subplots(len(fits), columns, squeeze=False, sharex=True, sharey=True)
    half = fits[0][1].shape[0] / 2 * pixel_scale
    where = {"origin": "lower", "extent": (-half, half, -half, half)}
    for row, (name, image, fitted) in enumerate(fits):
        high = float(np.nanpercentile(image, 99.8))
        low = min(0.0, float(np.nanpercentile(image, 1)))
        for axes, picture in zip(grid[row], (image, fitted.model[0, 0].numpy())):
            light = axes.imshow(
                picture, cmap="inferno", vmin=low, vmax=max(high, low + 1e-12), **where
            )
        scale = figure.colorbar(light, ax=list(grid[row, :2]), shrink=0.8, pad=0.02)  # of both
        scale.set_label("Pixel value", fontsize=9.5)
        scale.ax.tick_params(labelsize=8.5)
        for axes, look in zip(grid[row, 2:], (fitted.residual, fitted.detail)):
            assert look is not None
            shown = axes.imshow(look[0, 0].numpy(), cmap="RdBu_r", vmin=-5, vmax=5, **where)
        fine = good[row] if good else bool(fitted.converged)
        settled = "" if fine else ", not a good fit" if fitted.converged else ", not converged"
        grid[row, 0].set_title(literal(name), fontsize=9.5, fontweight="normal", loc="center")
        grid[row, 1].set_title("best smooth lens", fontsize=9.5, fontweight="normal", loc="center")
        grid[row, 2].set_title(
            f"residual, χ² = {float(fitted.chi2):,.3f}{settled}",
            fontsize=9.5,
            fontweight="normal",
            loc="center",
        )
        if columns > 3:
            grid[row, 3].set_title("its detail", fontsize=9.5, fontweight="normal", loc="center")
        grid[row, 0].set_ylabel("y [arcsec]", fontsize=9.5)
        for axes in grid[row]:
            axes.tick_params(labelsize=8.5)
            axes.spines[:].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("x [arcsec]", fontsize=9.5)
    bar = figure.colorbar(shown, ax=grid[:, -1], shrink=min(1.0, 1.6 / len(fits)), pad=0.02)
    bar.set_label("(image − lens) / noise", fontsize=9.5)
    bar.ax.tick_params(labelsize=8.5)
    return figure
