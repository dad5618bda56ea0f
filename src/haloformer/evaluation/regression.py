"""Metrics of a regression with intervals, the resolution limit of the images, and figures.

Throughout, ``truth``, ``mean``, ``sigma``, ``low`` and ``high`` are (N,) in the target's unit; images whose truth is NaN
are left out. sigma, low and high may be NaN where the model gives no uncertainty; what depends on them is then NaN, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from haloformer.errors import InputError
from haloformer.reporting.interval import CONFIDENCE, Interval, wilson
from haloformer.reporting.style import FAINT, INK, PAPER, class_color, new_figure, styled
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.simulator import Simulator
from haloformer.simulation.substructure import Vortex
from haloformer.simulation.surveys import Survey, get_survey

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Best published mean absolute errors of log10 of the axion mass, in dex, on the released test sets (of which those of
# Model II and III carry no noise).
_PUBLISHED_MAE = {"model_i": 0.2737, "model_ii": 0.021, "model_iii": 0.019}


def published_mae(survey_name: str | None) -> float | None:
    """Returns the best published mean absolute error of log10_m_axion in dex on a survey's released images, if any."""
    return _PUBLISHED_MAE.get(survey_name or "")


def resolution_floor(survey: str | Survey, noise: str | None = None) -> dict[str, Any]:
    """Returns the axion masses above which a survey's images do not show the vortex's length.

    The vortex has the half-length λ = 0.03″ · 10^(−22 − log10 m) (`simulation.substructure.vortex_half_length`). Where
    it is shorter than a pixel or the point-spread function, its length shows only as a small change of brightness. How
    far that can be measured is a matter of the noise: a noise-free image (as released of Model II and III) still tells
    masses apart there, in a noisy one `noise_limit` ends it.

    Args:
        survey: A survey or its name.
        noise: Of the images, as in ``simulate``; None leaves the noise limit out.

    Returns:
        ``pixel`` and ``psf``: the log10 m (eV) at which λ is one pixel, and the PSF's FWHM (None without a PSF);
        ``noise``: what `noise_limit` returns; ``pixel_scale`` and ``psf_fwhm`` in arcsec; ``survey``.
    """
    survey = get_survey(survey)
    camera = survey.instrument
    return {
        "survey": survey.name,
        "pixel_scale": camera.pixel_scale,
        "psf_fwhm": camera.psf_fwhm,
        "pixel": _mass_of_half_length(camera.pixel_scale),
        "psf": _mass_of_half_length(camera.psf_fwhm) if camera.psf_fwhm else None,
        "noise": noise_limit(survey, noise) if noise else None,
    }


def noise_limit(survey: str | Survey, noise: str, *, chi: float = 2.0, n: int = 16) -> float | None:
    """Returns the log10 m (eV) above which a vortex differs from a point of the same mass by less than noise.

    Measured on simulated images: at the limit the median χ between an image and the same one with a vortex without
    length, everything else being known, falls to ``chi``. It is the most favourable case, so where by it the
    length is lost it is lost for every method; a method that must find source and lens as well loses it earlier.

    Args:
        survey: A survey or its name.
        noise: Of the images, as in ``simulate``.
        chi: Standard deviations.
        n: Images to take the median of.

    Returns:
        The mass, between −26 and −20; None without noise, without a vortex, or where χ does not cross there.
    """
    survey = get_survey(survey)
    vortices = [
        part for parts in survey.substructure.values() for part in parts if isinstance(part, Vortex)
    ]
    if not vortices or not survey.has_noise(noise):
        return None

    def images(log10_m: float) -> tuple[np.ndarray, np.ndarray]:
        substructure = {"axion": (replace(vortices[0], log10_m_axion=log10_m),)}
        simulator = Simulator(
            replace(survey, substructure=substructure), noise="none", dtype=torch.float64
        )
        batch = simulator.batch(range(n))  # the same lenses and sources whatever the mass
        return batch.images[:, 0].numpy(), batch.parameters[
            "exposure_time"
        ] * survey.instrument.num_exposures

    point, seconds = images(-10.0)  # a half-length of 3e-14 arcsec
    photons = (
        np.maximum(point, 0) / seconds[:, None, None]
    )  # variance of I counts/s measured for T seconds: I/T
    variance = (
        background_rms(survey.instrument) ** 2
        + (2 if survey.noise_kind(noise) == "double_poisson" else 1) * photons
    )

    def excess(log10_m: float) -> float:
        squared = ((images(log10_m)[0] - point) ** 2 / variance).sum(axis=(1, 2))
        return float(np.median(np.sqrt(squared))) - chi

    low, high = -26.0, -20.0
    return float(brentq(excess, low, high, xtol=0.005)) if excess(low) > 0 > excess(high) else None


def _mass_of_half_length(half_length: float) -> float:
    """Returns log10 m (eV) of a vortex half-length in arcsec, the inverse of ``vortex_half_length``."""
    return float(-22.0 - np.log10(half_length / 0.03))


def regression_metrics(
    truth: np.ndarray,
    mean: np.ndarray,
    sigma: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    bins: Sequence[float] | np.ndarray | int = 8,
    n_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Returns every number of a regression's evaluation, ready for JSON but for NaN.

    Args:
        truth: (N,) true values; images where it is NaN are left out.
        mean: (N,) predictions.
        sigma: (N,) their standard deviations; NaN if not known.
        low: (N,) lower ends of the predicted intervals; NaN if there are none.
        high: (N,) upper ends.
        bins: Edges of the bins of truth, or into how many equal ones its range is cut.
        n_bootstrap: Resamplings of the images, for percentile intervals.
        seed: Of the resampling.
        confidence: Of all intervals.

    Returns:
        ``n``; ``mae``, ``rmse``, ``bias`` (mean of predicted − true), ``r2``, ``pull_mean`` and ``pull_std`` (of (predicted
        − true)/sigma, 0 and 1 if sigma is right) and ``coverage`` (share of truths in their intervals, Wilson's interval),
        each {value, low, high}, low and high NaN where images do not vary, as of one; ``width``, the mean width of the intervals; ``truth_mean``, and ``mae_of_mean``, the MAE of
        always predicting that; and ``by_bin``: a list of {from, to, n, mae, rmse, bias, coverage}. A model that knows
        nothing predicts the middle, so its bias is positive in the low bins and negative in the high ones.
    """
    truth, mean, sigma, low, high = _known(truth, mean, sigma, low, high)
    if not len(truth):
        raise InputError("regression cannot be evaluated: no image has a true value of the target")
    if not np.isfinite(mean).all():
        raise InputError(
            f"regression cannot be evaluated: {int((~np.isfinite(mean)).sum())} predictions are not finite"
        )
    try:
        edges = np.histogram_bin_edges(truth, bins)
    except ValueError as error:
        raise InputError(
            f"bins must be edges in increasing order, or how many, not {bins!r}"
        ) from error
    rng = np.random.default_rng(seed)
    images = np.stack([truth, mean, sigma, low, high])
    whole = _estimates(images, n_bootstrap, rng, confidence)
    # The last bin includes its upper edge, as in numpy's histograms.
    place = np.where(
        truth == edges[-1], len(edges) - 2, np.searchsorted(edges, truth, side="right") - 1
    )
    by_bin = []
    for k, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist())):
        part = _estimates(images[:, place == k], n_bootstrap, rng, confidence)
        shown = {key: part[key] for key in ("n", "mae", "rmse", "bias", "coverage")}
        by_bin.append({"from": start, "to": stop, **shown})
    return {
        **whole,
        "width": float(np.mean(high - low)),
        "truth_mean": float(truth.mean()),
        "mae_of_mean": float(np.abs(truth - truth.mean()).mean()),
        "by_bin": by_bin,
        "confidence": confidence,
    }


def _estimates(
    images: np.ndarray, n_bootstrap: int, rng: np.random.Generator, confidence: float
) -> dict[str, Any]:
    """Returns the estimates of images (5, n): truth, mean, sigma, low and high."""
    truth, mean, sigma, low, high = images
    n = len(truth)
    error = mean - truth
    pull = error / sigma
    deviation = truth - truth.mean() if n else truth
    # Every statistic is a function of means over images, so a resampling is a vector of weights: one matrix product.
    terms = np.stack(
        [np.abs(error), error**2, error, deviation, deviation**2, pull, pull**2], axis=1
    )
    names = ("mae", "rmse", "bias", "r2", "pull_mean", "pull_std")
    if not n:
        estimates = {name: Interval(np.nan, np.nan, np.nan) for name in names}
    else:
        values = _statistics(terms.mean(axis=0)[None])[0]
        if n == 1:
            values[names.index("pull_std")] = np.nan  # one pull has no scatter
        resampled = _statistics(bootstrap_means(terms, n_bootstrap, rng))
        tail = (1 - confidence) / 2
        ends = np.quantile(resampled, [tail, 1 - tail], axis=0)
        certain = np.ptp(resampled, axis=0) == 0  # as of one image, which tells nothing of others
        estimates = {
            name: Interval(float(value), *(np.nan, np.nan) if alike else map(float, pair))
            for name, value, pair, alike in zip(names, values, ends.T, certain)
        }
    if np.isnan(low).any() or np.isnan(high).any():
        coverage = Interval(np.nan, np.nan, np.nan)
    else:
        coverage = wilson(int(((low <= truth) & (truth <= high)).sum()), n, confidence)
    return {
        "n": n,
        **{
            name: asdict(interval) for name, interval in {**estimates, "coverage": coverage}.items()
        },
    }


def _statistics(means: np.ndarray) -> np.ndarray:
    """Returns MAE, RMSE, bias, R², mean and standard deviation of the pulls (M, 6) from means of the terms (M, 7)."""
    mae, square, bias, deviation, deviation2, pull, pull2 = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = deviation2 - deviation**2
        r2 = np.where(
            variance > 0, 1 - square / variance, np.nan
        )  # one image, or all alike, have no R²
    return np.stack(
        [mae, np.sqrt(square), bias, r2, pull, np.sqrt(np.maximum(pull2 - pull**2, 0))], axis=1
    )


def bootstrap_means(terms: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the means (n_bootstrap, K) of terms (N, K) over images drawn with replacement."""
    n = len(terms)
    chunk = max(1, 2_000_000 // n)
    means = []
    for first in range(0, n_bootstrap, chunk):
        rows = min(chunk, n_bootstrap - first)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(counts.astype(np.float64) @ terms / n)
    return np.concatenate(means)


def sigma_coverage(
    truth: np.ndarray, mean: np.ndarray, sigma: np.ndarray, levels: np.ndarray
) -> list[Interval]:
    """Returns the share of truths within the central Gaussian intervals of each nominal level, with Wilson's interval."""
    truth, mean, sigma = _known(truth, mean, sigma)
    pulls = np.abs(truth - mean) / sigma
    return [
        wilson(int((pulls <= z).sum()), len(pulls)) for z in norm.isf((1 - np.asarray(levels)) / 2)
    ]


def _known(truth: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the arrays as float64 at the images that have a truth."""
    arrays = [np.asarray(x, np.float64) for x in (truth, *others)]
    return tuple(x[~np.isnan(arrays[0])] for x in arrays)


# --- figures ----------------------------------------------------------------------------------------------------------

_MANY = 1000  # more points than these are drawn as a density
_BARS = 150  # more intervals than these hide each other


@styled
def predicted_against_true(
    truth: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    label: str = "log₁₀ (axion mass / eV)",
    floor: Mapping[str, Any] | None = None,
) -> "Figure":
    """Draws predicted against true values: points with their intervals, or a density where there are many.

    Args:
        truth: (N,).
        mean: (N,).
        low: (N,) NaN draws no interval.
        high: (N,).
        label: What is predicted, with its unit, for the axes.
        floor: What `resolution_floor` returns, if the target is the axion mass.
    """
    truth, mean, low, high = _known(truth, mean, low, high)
    figure = new_figure(6.4, 6.6)
    axes = figure.add_subplot()
    start, stop = _limits(np.concatenate([truth, mean]))
    if len(truth) > _MANY:
        _draw_density(axes, truth, mean, start, stop)
    else:
        _draw_predictions(axes, truth, mean, low, high)
    axes.plot(
        [start, stop],
        [start, stop],
        color=INK,
        linewidth=1.0,
        linestyle=":",
        label="predicted = true",
    )
    axes.set(
        xlim=(start, stop), ylim=(start, stop), xlabel=f"True {label}", ylabel=f"Predicted {label}"
    )
    axes.set_aspect("equal")
    axes.locator_params(nbins=6)
    rows = _draw_floor(axes, floor, stop)
    axes.set_title("Predicted against true", pad=max(6, 10 * rows + 2))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_density(
    axes: "Axes", truth: np.ndarray, mean: np.ndarray, start: float, stop: float
) -> None:
    """Draws where predictions lie: shaded per column of true values, however these are spread, with their quantiles."""
    bins = np.linspace(start, stop, 61)
    counts = np.histogram2d(mean, truth, bins=(bins, bins))[0]
    cells = np.empty((*counts.shape, 4))
    cells[..., :3] = (0.0, 0.31, 0.62)
    cells[..., 3] = np.sqrt(counts / np.maximum(counts.max(axis=0), 1))
    extent = (start, stop, start, stop)
    axes.imshow(cells, origin="lower", extent=extent, interpolation="nearest")
    centres, (low, median, high) = _running_quantiles(truth, mean)
    style: dict[str, Any] = {"color": class_color(0), "linewidth": 1.6}
    dashed: dict[str, Any] = {**style, "linestyle": (0, (5, 1.5))}
    axes.plot(centres, median, label="median of the predictions", **style)
    axes.plot(centres, low, label="90 % of the predictions", **dashed)
    axes.plot(centres, high, **dashed)


def _draw_predictions(
    axes: "Axes", truth: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    """Draws a point per image, and intervals of as many as do not hide each other."""
    bars = np.argsort(truth, kind="stable")[:: -(-len(truth) // _BARS)]
    what = "predicted interval" + ("" if len(bars) == len(truth) else f" (of {len(bars)} images)")
    axes.vlines(
        truth[bars],
        low[bars],
        high[bars],
        color=class_color(1),
        alpha=0.35,
        linewidth=1.0,
        label=what,
    )
    axes.plot(
        truth,
        mean,
        ".",
        color=class_color(1),
        markersize=4.5,
        alpha=0.7,
        markeredgewidth=0,
        label="prediction",
    )


@styled
def error_by_bin(
    metrics: Mapping[str, Any],
    *,
    label: str = "log₁₀ (axion mass / eV)",
    floor: Mapping[str, Any] | None = None,
    published: float | None = None,
) -> "Figure":
    """Draws mean absolute error and bias in bins of the true value, with their confidence intervals.

    Args:
        metrics: What `regression_metrics` returns.
        label: What is predicted, with its unit, for the axis.
        floor: What `resolution_floor` returns, if the target is the axion mass.
        published: A published error over all images, to compare with.
    """
    bins = [row for row in metrics["by_bin"] if row["n"]]
    edges = np.array([[row["from"], row["to"]] for row in bins])
    centres, half = edges.mean(axis=1), np.diff(edges, axis=1)[:, 0] / 2
    figure = new_figure(6.4, 7.0)
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes, key, hue in ((panels[0], "mae", 1), (panels[1], "bias", 0)):
        value, lower, upper = np.array(
            [[row[key][part] for part in ("value", "low", "high")] for row in bins]
        ).T
        # A percentile interval need not hold the value of a bin with few images.
        spread = np.maximum([value - lower, upper - value], 0)
        style: dict[str, Any] = {"color": class_color(hue), "markersize": 5, "elinewidth": 1.4}
        axes.errorbar(centres, value, spread, half, fmt="o", **style)
        axes.set_ylabel("Mean absolute error [dex]" if key == "mae" else "Bias [dex]")
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    # What a model would get that always predicts the mean: the line to stay below.
    true, overall = np.linspace(edges[0, 0], edges[-1, 1], 201), metrics["mae"]["value"]
    guess: dict[str, Any] = {"color": FAINT, "linewidth": 1.4, "linestyle": (0, (5, 1.5))}
    whole = f"always the mean (over all images {metrics['mae_of_mean']:.3f})"
    panels[0].plot(true, np.abs(true - metrics["truth_mean"]), label=whole, **guess)
    panels[0].axhline(
        overall, color=class_color(1), linewidth=1.2, label=f"over all images {overall:.3f}"
    )
    if published is not None:
        line: dict[str, Any] = {
            "color": class_color(2),
            "linestyle": (0, (1.2, 1.2)),
            "linewidth": 1.6,
        }
        panels[0].axhline(published, label=f"best published {published:.3f}", **line)
    panels[1].plot(true, metrics["truth_mean"] - true, **guess)
    panels[1].axhline(0, color=INK, linewidth=0.8)
    panels[0].set_ylim(bottom=0)
    panels[1].set_xlabel(f"True {label}")
    panels[1].set_xlim(edges[0, 0], edges[-1, 1])
    rows = _draw_floor(panels[0], floor, edges[-1, 1])
    panels[0].set_title("Error by true value", pad=max(6, 10 * rows + 2))
    _draw_floor(panels[1], floor, edges[-1, 1], named=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def coverage_curve(
    truth: np.ndarray,
    mean: np.ndarray,
    sigma: np.ndarray,
    intervals: Mapping[float, Interval] | None = None,
) -> "Figure":
    """Draws how often intervals hold the truth against how often they should.

    Args:
        truth: (N,).
        mean: (N,).
        sigma: (N,) the curve's Gaussian standard deviations; NaN draws no curve.
        intervals: Nominal coverage → measured coverage of calibrated intervals, drawn as points.
    """
    figure = new_figure(5.6, 6.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=":", label="calibrated")
    levels = np.linspace(0.01, 0.99, 99)
    if not np.isnan(_known(truth, sigma)[1]).any():
        measured = sigma_coverage(truth, mean, sigma, levels)
        value, lower, upper = np.array([[i.value, i.low, i.high] for i in measured]).T
        axes.fill_between(levels, lower, upper, color=class_color(1), alpha=0.2, linewidth=0)
        axes.plot(levels, value, color=class_color(1), label="mean ± z · sigma of the network")
    if intervals:
        nominal = np.array(sorted(intervals))
        value, lower, upper = np.array(
            [[intervals[c].value, intervals[c].low, intervals[c].high] for c in nominal.tolist()]
        ).T
        spread = np.maximum([value - lower, upper - value], 0)
        style: dict[str, Any] = {
            "color": class_color(0),
            "markersize": 6,
            "markeredgecolor": PAPER,
            "elinewidth": 1.6,
            "capsize": 3,
        }
        axes.errorbar(nominal, value, spread, fmt="D", label="calibrated intervals", **style)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.005),
        xlabel="Nominal coverage",
        ylabel="Share of true values inside",
    )
    axes.set_aspect("equal")
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axes.set_title("Coverage of the predicted intervals")
    for place, words, side in (
        ((0.04, 0.94), "intervals too wide", "left"),
        ((0.96, 0.06), "intervals too narrow", "right"),
    ):
        axes.text(*place, words, transform=axes.transAxes, ha=side, va="center", color=FAINT)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def _draw_floor(
    axes: "Axes", floor: Mapping[str, Any] | None, stop: float, *, named: bool = True
) -> int:
    """Marks the masses above which the vortex is shorter than the camera resolves, or hidden by noise.

    Returns:
        How many rows of names stand above the axes.
    """
    names = {"noise": "noise limit", "psf": "λ = PSF", "pixel": "λ = pixel"}
    start = axes.get_xlim()[0]
    at: dict[float, list[str]] = {}
    for key in names:
        mass = floor.get(key) if floor else None
        if mass is not None and start < mass < stop:
            at.setdefault(mass, []).append(names[key])
    if not at:
        return 0
    axes.axvspan(min(at), stop, color=FAINT, alpha=0.12, linewidth=0, zorder=0)
    last: list[float] = []  # of each row of names above the axes, where its last one stands
    for mass in sorted(at):
        axes.axvline(mass, color=FAINT, linewidth=1.0, linestyle=(0, (5, 1.5, 1.2, 1.5)), zorder=1)
        if named:
            near = 0.2 * (stop - start)  # as wide as a name
            level = next((row for row, place in enumerate(last) if mass - place > near), len(last))
            last[level:] = [mass, *last[level + 1 :]]
            text = at[mass][0] + "".join(name.removeprefix("λ") for name in at[mass][1:])
            axes.annotate(
                text,
                (mass, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2 + 10 * level),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=FAINT,
                annotation_clip=False,
            )
    return len(last)


def _running_quantiles(truth: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres (M,) of groups of equally many images by truth, and the 5, 50 and 95 % of predictions, (3, M)."""
    groups = np.array_split(np.argsort(truth, kind="stable"), max(2, min(25, len(truth) // 100)))
    centres = np.array([truth[group].mean() for group in groups])
    return centres, np.stack(
        [np.quantile(mean[group], [0.05, 0.5, 0.95]) for group in groups], axis=1
    )


def _limits(values: np.ndarray) -> tuple[float, float]:
    start, stop = float(values.min()), float(values.max())
    margin = 0.03 * (stop - start) or 0.5
    return start - margin, stop + margin
