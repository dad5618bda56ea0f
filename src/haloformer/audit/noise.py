"""Part `noise`: fainter and brighter exposures."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from haloformer.audit.bench import Bench, Point
from haloformer.audit.figures import GOOD, draw_curve
from haloformer.audit.words import auc_cells, change_cell, listed
from haloformer.reporting.style import FAINT, new_figure, styled
from haloformer.simulation import Survey
from haloformer.simulation.distributions import Quantity
from haloformer.simulation.instruments import background_rms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


EXPOSURES = (0.1, 0.3, 1.0, 3.0, 10.0)


def noise(bench: Bench) -> dict[str, Any]:
    """The same scenes, exposed for longer and shorter."""
    instrument_noise = bench.kind in (
        "doubled",
        "none",
    )  # trained on images without noise: the camera's own is added
    mode = "instrument" if instrument_noise else bench.noise
    unit = 2.0 if bench.kind == "doubled" else 1.0
    in_counts = bench.kind == "double_poisson"
    points: dict[str, Point] = {}
    for factor in EXPOSURES:
        survey = _exposed(bench.survey, factor)
        points[f"{factor:g}"] = Point(survey, mode, prepare=_times(unit))
        if in_counts and factor != 1:
            points[f"{factor:g} rescaled"] = Point(survey, mode, prepare=_times(1 / factor))
    known = {} if instrument_noise else {"1": bench.base}
    answers = known | bench.ask({k: v for k, v in points.items() if k not in known}, "audit: noise")
    rows = []
    for factor in EXPOSURES:
        name = f"{factor:g}"
        row = {
            "factor": factor,
            "snr": _peak_snr(bench, points[name]),
            **answers[name].aucs(bench.names, answers["1"]),
        }
        if in_counts:
            again = answers.get(f"{name} rescaled", answers[name])
            row["rescaled"] = again.aucs(bench.names, answers["1"])
        rows.append(row)
    return {
        "points": rows,
        "noise": mode,
        "noise_was_added": instrument_noise,
        "in_counts": in_counts,
    }


def _exposed(survey: Survey, factor: float) -> Survey:
    """Returns the survey with other exposure times; a background that is given as a number falls with their square root."""
    instrument = survey.instrument
    rms = instrument.background_rms
    return dataclasses.replace(
        survey,
        instrument=dataclasses.replace(
            instrument,
            exposure_time=_scaled(instrument.exposure_time, factor),
            background_rms=None if rms is None else rms / math.sqrt(factor),
        ),
    )


def _scaled(quantity: Quantity, factor: float) -> Quantity:
    if isinstance(quantity, float | int):
        return quantity * factor
    lengths = {
        f.name: getattr(quantity, f.name) * factor
        for f in dataclasses.fields(quantity)
        if f.name != "slope"
    }
    return dataclasses.replace(quantity, **lengths)


def _times(factor: float) -> Callable[[Tensor], Tensor] | None:
    return None if factor == 1 else lambda images: images * factor


def _peak_snr(bench: Bench, point: Point) -> float:
    """Returns the median over images of the brightest pixel's signal over its noise."""
    n = min(bench.n, 96)
    clean = dataclasses.replace(point, noise="none", n=n, prepare=None)
    twice = 2 if bench.kind == "double_poisson" else 1
    rms = background_rms(point.survey.instrument)
    ratios = []
    for images, _, scenes in bench.images(clean):
        peak = images.flatten(1).amax(1).double().numpy()
        seconds = scenes.exposure_time * point.survey.instrument.num_exposures
        ratios.append(peak / np.sqrt(rms**2 + twice * peak / seconds))
    return float(np.median(np.concatenate(ratios)))


def noise_says(part: dict[str, Any]) -> str:
    """Returns what the part found, in sentences."""
    rows = sorted(part["points"], key=lambda row: row["snr"])
    key = "rescaled" if part["in_counts"] else None
    curve = [(row["snr"], (row[key] if key else row)["macro_auc"]["value"]) for row in rows]
    good = [snr for snr, auc in curve if auc >= GOOD]
    usual = next(row for row in rows if row["factor"] == 1)
    text = (
        f"At the exposures of the survey (SNR {usual['snr']:.2g} of the brightest pixel) the macro AUC is {usual['macro_auc']['value']:.3f}; "
        f"at the lowest SNR tried, {curve[0][0]:.2g}, {curve[0][1]:.3f}, and at the highest, {curve[-1][0]:.2g}, {curve[-1][1]:.3f}"
    )
    text += " (images brought back to the usual brightness)" if key else ""
    text += (
        f"; it is at least {GOOD:g} at {listed([f'{snr:.2g}' for snr in good])}."
        if good
        else f"; nowhere {GOOD:g}."
    )
    if key:
        worst = max(
            rows, key=lambda row: row[key]["macro_auc"]["value"] - row["macro_auc"]["value"]
        )
        text += (
            f" Brightness matters beside noise: × {worst['factor']:g} the exposure gives {worst['macro_auc']['value']:.3f} "
            f"in raw counts and {worst[key]['macro_auc']['value']:.3f} rescaled."
        )
    return text


def noise_tables(
    part: dict[str, Any], names: Sequence[str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the header and rows of the part's tables."""
    header = ["Exposure", "SNR", "Macro AUC", *names, "Change, paired"]
    rows = []
    for row in part["points"]:
        start = [f"× {row['factor']:g}", f"{row['snr']:.1f}"]
        if part["in_counts"]:
            header[1:2] = ["SNR", "Brightness"] if "Brightness" not in header else ["SNR"]
            rows.append(
                [
                    *start,
                    "raw counts",
                    *auc_cells(row, names),
                    change_cell(row) if row["factor"] != 1 else "",
                ]
            )
            if row["factor"] != 1:
                rows.append(
                    [
                        *start,
                        "rescaled",
                        *auc_cells(row["rescaled"], names),
                        change_cell(row["rescaled"]),
                    ]
                )
        else:
            rows.append(
                [*start, *auc_cells(row, names), change_cell(row) if row["factor"] != 1 else ""]
            )
    return [(header, rows)]


@styled
def draw_noise(part: dict[str, Any]) -> "Figure":
    """Draws the macro AUC against the SNR."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    rows = part["points"]
    snr = [row["snr"] for row in rows]
    curves = {"raw counts" if part["in_counts"] else "images as they come": rows}
    if part["in_counts"]:
        curves["brought back to the usual brightness"] = [row["rescaled"] for row in rows]
    for k, (text, points) in enumerate(curves.items()):
        draw_curve(axes, snr, points, k, text)
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(snr, [f"{value:.2g}\n(× {row['factor']:g})" for value, row in zip(snr, rows)])
    axes.minorticks_off()
    axes.set(
        xlabel="SNR of the brightest pixel (exposure)",
        ylabel="Macro AUC",
        title="Longer and shorter exposures",
    )
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure
