"""Part `noise`: longer and shorter exposures of the same scenes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from haloformer.audit.audited import AuditedModel, Condition, times
from haloformer.audit.figures import GOOD, draw_curve
from haloformer.audit.part import Inputs, Measured, Part, Table
from haloformer.audit.words import auc_cells, change_cell, listed
from haloformer.reporting.style import FAINT, new_figure, styled
from haloformer.simulation import Survey
from haloformer.simulation.distributions import Quantity
from haloformer.simulation.instruments import background_rms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


EXPOSURES = (0.1, 0.3, 1.0, 3.0, 10.0)


def measure(audited: AuditedModel, inputs: Inputs) -> Measured:
    """Measures AUCs of the same scenes, exposed for longer and shorter."""
    # A model that was trained on images without camera noise gets images with it.
    noise_was_added = audited.noise_mode in ("doubled", "none")
    mode = "instrument" if noise_was_added else audited.noise
    in_counts = audited.noise_mode == "double_poisson"
    unit = 2.0 if audited.noise_mode == "doubled" else 1.0
    conditions = _conditions(audited, mode, unit, in_counts)
    known = {} if noise_was_added else {"1": audited.base}
    new = {name: each for name, each in conditions.items() if name not in known}
    predictions = known | audited.predictions(new, "audit: noise")
    rows = []
    for factor in EXPOSURES:
        name = f"{factor:g}"
        row = {
            "factor": factor,
            "snr": _peak_snr(audited, conditions[name]),
            **predictions[name].aucs(audited.names, predictions["1"]),
        }
        if in_counts:
            rescaled = predictions.get(f"{name} rescaled", predictions[name])
            row["rescaled"] = rescaled.aucs(audited.names, predictions["1"])
        rows.append(row)
    return {
        "points": rows,
        "noise": mode,
        "noise_was_added": noise_was_added,
        "in_counts": in_counts,
    }


def _conditions(
    audited: AuditedModel, mode: str, unit: float, in_counts: bool
) -> dict[str, Condition]:
    """Returns the conditions by exposure; images in counts also brought back to the usual brightness."""
    conditions = {}
    assert isinstance(audited.survey, Survey)
    for factor in EXPOSURES:
        survey = _exposed(audited.survey, factor)
        conditions[f"{factor:g}"] = Condition(survey, mode, prepare=times(unit))
        if in_counts and factor != 1:
            conditions[f"{factor:g} rescaled"] = Condition(survey, mode, prepare=times(1 / factor))
    return conditions


def _exposed(survey: Survey, factor: float) -> Survey:
    """Returns the survey with other exposure times; a background that is given as a number falls with their square root."""
    instrument = survey.instrument
    rms = instrument.background_rms
    return survey.with_camera(
        exposure_time=_scaled(instrument.exposure_time, factor),
        background_rms=None if rms is None else rms / math.sqrt(factor),
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


def _peak_snr(audited: AuditedModel, condition: Condition) -> float:
    """Returns the median over images of the brightest pixel's signal over its noise."""
    n = min(audited.n, 96)
    clean = dataclasses.replace(condition, noise="none", n=n, prepare=None)
    twice = 2 if audited.noise_mode == "double_poisson" else 1
    rms = background_rms(condition.survey.instrument)
    ratios = []
    for images, _, scenes in audited.images(clean):
        assert scenes is not None
        peak = images.flatten(1).amax(1).double().numpy()
        seconds = scenes.exposure_time * condition.survey.instrument.num_exposures
        ratios.append(peak / np.sqrt(rms**2 + twice * peak / seconds))
    return float(np.median(np.concatenate(ratios)))


def sentences(measured: Measured) -> str:
    """Says what was found."""
    rows = sorted(measured["points"], key=lambda row: row["snr"])
    key = "rescaled" if measured["in_counts"] else None
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


def tables(measured: Measured, names: Sequence[str]) -> list[Table]:
    """Returns the tables of the report."""
    in_counts = measured["in_counts"]
    brightness = ["Brightness"] if in_counts else []
    header = ["Exposure", "SNR", *brightness, "Macro AUC", *names, "Change, paired"]
    rows = []
    for row in measured["points"]:
        start = [f"× {row['factor']:g}", f"{row['snr']:.1f}"]
        is_usual = row["factor"] == 1
        variants = {"raw counts": row} if in_counts else {"": row}
        if in_counts and not is_usual:
            variants["rescaled"] = row["rescaled"]
        for text, found in variants.items():
            change = "" if is_usual else change_cell(found)
            rows.append([*start, *([text] if in_counts else []), *auc_cells(found, names), change])
    return [Table(header, rows)]


@styled
def draw(measured: Measured) -> "Figure":
    """Draws the macro AUC against the SNR."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    rows = measured["points"]
    snr = [row["snr"] for row in rows]
    curves = {"raw counts" if measured["in_counts"] else "images as they come": rows}
    if measured["in_counts"]:
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


PART = Part(
    name="noise",
    of_composed=False,
    title="Noise",
    measure=measure,
    describe=lambda measured, n: (
        "The same scenes with exposures from a tenth to ten times as long. SNR is that of the brightest pixel, the median "
        "over images; the background falls as sky and read noise do, or with the square root of the time where the survey "
        "gives it as one number."
    ),
    sentences=sentences,
    tables=tables,
    figures=lambda measured: {"noise": draw(measured)},
    captions={
        "noise": "Macro AUC against the SNR of the brightest pixel, for the same scenes with longer and shorter exposures."
    },
)
