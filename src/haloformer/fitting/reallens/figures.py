"""The figure of a real lens: image, lens light subtracted, model, residual, source, and where a perturber helps."""

from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.reporting.style import literal, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from haloformer.fitting.reallens.result import RealLensFit
    from haloformer.fitting.reallens.sampling import Samples


_FINE = 301  # pixels per side, on which critical curves are found
_LIT = 0.3  # of the arcs' peak, above which they are bright


@styled
def draw_fit(fit: "RealLensFit") -> "Figure":
    """Draws a fit in six panels."""
    seen = fit.seen
    figure = new_figure(11.5, 7.4)
    figure.set_layout_engine("compressed")
    panels = figure.subplots(2, 3)
    half = np.array(seen.image.shape[::-1]) / 2 * seen.pixel_scale
    everywhere = {"origin": "lower", "extent": (-half[0], half[0], -half[1], half[1])}
    reach = float(seen.radius()[seen.mask].max()) * 1.08
    counted = np.where(seen.mask, seen.image, np.nan)
    arcs, light = fit.arcs, fit.lens_light
    top = _top(arcs, 99.7)
    bright = {"cmap": "inferno", "vmin": -0.1 * top, "vmax": top}
    faint = {
        "cmap": "inferno",
        "norm": _stretch(seen.image, arcs, float(np.median(seen.noise[seen.mask]))),
    }
    shown = [
        (panels[0, 0], seen.image, literal(seen.name), "Pixel value", faint),
        (panels[0, 1], counted - light, "lens light subtracted", "Pixel value", bright),
        (panels[0, 2], arcs, "model of the arcs", "Pixel value", bright),
        (panels[1, 0], fit.residual, "residual", "(image − model) / noise",
         {"cmap": "RdBu_r", "vmin": -5, "vmax": 5}),
    ]  # fmt: skip
    for axes, picture, title, label, colours in shown:
        drawn = axes.imshow(picture, **colours, **everywhere)
        _finish(axes, title, reach)
        _bar(figure, axes, drawn, label)
    lines = _critical_lines(fit, reach)
    _draw_source(figure, panels[1, 1], fit, lines)
    _draw_scan(figure, panels[1, 2], fit, counted - light, everywhere, top, reach, lines)
    for axes in panels[:, 0]:
        axes.set_ylabel("y [arcsec]", fontsize=9.5)
    return figure


def _stretch(image: np.ndarray, arcs: np.ndarray, noise: float) -> Any:
    """Returns a scale on which arcs show beside the lens: it ends a little above what the image has where they are bright, and is nearly linear there."""
    from matplotlib.colors import AsinhNorm

    lit = arcs > _LIT * _top(arcs, 99.7)
    there = image[lit] if lit.any() else image
    width = max(float(np.nanmedian(there)) / 2, 3 * noise)
    return AsinhNorm(
        linear_width=width, vmin=-2 * noise, vmax=max(1.2 * _top(there, 99.7), 3 * noise)
    )


def _critical_lines(fit: "RealLensFit", reach: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns critical curves and their caustics, pairs of places (N, 2) in arcsec: where the determinant of ∂β/∂θ is 0."""
    from contourpy import contour_generator  # that of matplotlib

    axis = np.linspace(-reach, reach, _FINE)
    x, y = (each.ravel() for each in np.meshgrid(axis, axis))
    mass, vector = fit.best.problem.mass, fit.best.vector

    def source(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alpha_x, alpha_y = mass.deflection(x, y, vector)
        return x - alpha_x, y - alpha_y

    step = axis[1] - axis[0]
    xx, xy, yx, yy = (
        part
        for beta in source(x, y)
        for part in np.gradient(beta.reshape(_FINE, _FINE), step, step)[::-1]
    )
    found = contour_generator(axis, axis, xx * yy - xy * yx, line_type="Separate").lines(0.0)
    long = [np.asarray(curve) for curve in found if len(curve) > _FINE // 4]
    return [(curve, np.stack(source(*curve.T.copy()), axis=1)) for curve in long]


@styled
def draw_samples(fit: "RealLensFit", samples: "Samples") -> "Figure":
    """Draws the samples of each pair of the mass's parameters, their distributions, and Laplace's errors in colour."""
    names = list(fit.best.problem.mass.names)
    n = len(names)
    figure = new_figure(1.15 * n + 0.8, 1.15 * n + 0.8)
    panels = figure.subplots(n, n, squeeze=False)
    errors = np.sqrt(np.diag(fit.covariance))
    draws = samples.values[:, :n]
    for i, j in np.ndindex(n, n):
        axes: Axes = panels.flat[i * n + j]
        if j > i:
            axes.remove()
            continue
        value, error = float(fit.best.vector[i]), float(errors[i])
        if i == j:
            axes.hist(draws[:, i], bins=25, color="0.55")
            axes.axvspan(value - error, value + error, color="C0", alpha=0.25)
        else:
            axes.plot(draws[:, j], draws[:, i], ".", color="0.35", markersize=1.5, alpha=0.5)
            axes.plot(fit.best.vector[j], value, "+", color="C0", markersize=9)
        _ticks(axes, names[j] if i == n - 1 else "", names[i] if j == 0 < i else "")
    figure.suptitle(literal(f"{fit.seen.name}: samples; blue: best fit and Laplace's errors"))
    return figure


def _ticks(axes: "Axes", below: str, beside: str) -> None:
    """Labels the outer panels of a triangle only."""
    axes.tick_params(labelsize=6.5)
    axes.locator_params(nbins=3)
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(beside, fontsize=8)
    if below:
        axes.tick_params(axis="x", rotation=45)
    else:
        axes.set_xticklabels([])
    if not beside:
        axes.set_yticklabels([])


def _top(picture: np.ndarray, percent: float) -> float:
    """Returns what is drawn brightest: of a picture without light, something above 0."""
    top = float(np.nanpercentile(picture, percent))
    return top if top > 0 else max(float(np.nanmax(np.abs(picture))), 1e-12)


def _draw_source(
    figure: "Figure",
    axes: "Axes",
    fit: "RealLensFit",
    lines: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    picture, scale = fit.source
    grid = fit.best.source.fine
    half = len(picture) / 2 * scale
    x, y = fit.best.middle(grid)
    extent = (x - half, x + half, y - half, y + half)
    drawn = axes.imshow(picture, origin="lower", extent=extent, cmap="inferno", vmin=0)
    for _, caustic in lines:
        axes.plot(*caustic.T, color="white", linewidth=0.8)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_title("source, and caustics", fontsize=9.5, fontweight="normal", loc="center")
    axes.tick_params(labelsize=8.5)
    axes.set_xlabel("x [arcsec]", fontsize=9.5)
    _bar(figure, axes, drawn, "per image pixel")


def _draw_scan(
    figure: "Figure",
    axes: "Axes",
    fit: "RealLensFit",
    arcs: np.ndarray,
    where: dict[str, Any],
    top: float,
    reach: float,
    lines: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    axes.imshow(arcs, cmap="Greys", vmin=0, vmax=top, **where)
    if fit.scan is None:
        for curve, _ in lines:
            axes.plot(*curve.T, color="C0", linewidth=1.2)
        _finish(axes, "critical curves of the lens", reach)
        return
    scan = fit.scan
    n = scan.shape[0] // 2
    step = fit.scan.step
    edge = (n + 0.5) * step
    gain = scan.picture()
    most = max(25.0, float(np.nanpercentile(np.abs(gain), 99)))
    drawn = axes.imshow(
        gain, origin="lower", extent=(-edge, edge, -edge, edge), cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.75,
    )  # fmt: skip
    for one in fit.perturbers:
        axes.plot(one["x"], one["y"], "x", color="black", markersize=9, markeredgewidth=1.8)
    _finish(axes, "Δχ² of a perturber, by a linear scan", reach)
    _bar(figure, axes, drawn, "Δχ², < 0: negative mass")


def _finish(axes: "Axes", title: str, reach: float) -> None:
    axes.set_title(title, fontsize=9.5, fontweight="normal", loc="center")
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.tick_params(labelsize=8.5)
    axes.set_xlabel("x [arcsec]", fontsize=9.5)


def _decades(least: float, most: float) -> list[float]:
    """Returns 0, and the powers of ten on the logarithmic part of a stretched scale."""
    first, last = np.ceil(np.log10(2 * least)), np.floor(np.log10(most))
    return [0.0, *(10.0**k for k in np.arange(first, last + 1))]


def _bar(figure: "Figure", axes: "Axes", drawn: Any, label: str) -> None:
    norm = drawn.norm
    ticks = _decades(norm.linear_width, norm.vmax) if hasattr(norm, "linear_width") else None
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02, ticks=ticks)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
