"""Part `shift`: other cameras and other surveys."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.audit.bench import Bench, Point, at_camera, interval
from haloformer.audit.figures import GOOD, POOR, draw_curve
from haloformer.audit.words import auc_cells, change_cell, signed, with_ci
from haloformer.evaluation.testset import order_of
from haloformer.reporting.interval import format_value
from haloformer.reporting.style import FAINT, INK, literal, new_figure, styled
from haloformer.simulation import Survey, get_survey, list_surveys

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PSF_WIDTHS = (0.5, 1.0, 1.5, 2.5)


PIXEL_SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)


def shift(bench: Bench, others: Mapping[str, Bench]) -> dict[str, Any]:
    """Another PSF, another pixel scale, other surveys.

    Args:
        bench: The model.
        others: More models for the matrix, by name.
    """
    instrument = bench.survey.instrument
    values = {"psf": PSF_WIDTHS if instrument.psf_fwhm > 0 else (), "pixel_scale": PIXEL_SCALES}
    field = {"psf": "psf_fwhm", "pixel_scale": "pixel_scale"}
    points = {
        f"{kind} {factor:g}": Point(_with_camera(bench.survey, field[kind], factor), bench.noise)
        for kind, factors in values.items()
        for factor in factors
        if factor != 1
    }
    answers = bench.ask(points, "audit: shift")
    found: dict[str, Any] = {
        kind: [
            {
                "factor": factor,
                "arcsec": getattr(instrument, field[kind]) * factor,
                **answers.get(f"{kind} {factor:g}", bench.base).aucs(bench.names, bench.base),
            }
            for factor in factors
        ]
        for kind, factors in values.items()
    }
    return {**found, "matrix": _matrix({_survey_name(bench): bench, **others})}


def _with_camera(survey: Survey, field: str, factor: float) -> Survey:
    changed = {field: getattr(survey.instrument, field) * factor}
    return dataclasses.replace(survey, instrument=dataclasses.replace(survey.instrument, **changed))


def _survey_name(bench: Bench) -> str:
    return f"{bench.survey.name}, {bench.noise}"


def _matrix(benches: Mapping[str, Bench]) -> dict[str, Any]:
    """Every model on the survey of every model, and on the shipped surveys with the cameras' own noise."""
    tests: dict[str, tuple[Survey, str]] = {
        _survey_name(bench): (bench.survey, bench.noise) for bench in benches.values()
    }
    known = {survey.name for survey, _ in tests.values()}
    tests |= {
        f"{name}, instrument": (get_survey(name), "instrument")
        for name in list_surveys()
        if name not in known
    }
    cells = []
    for bench in benches.values():
        row: list[dict[str, Any] | None] = []
        for name, (survey, mode) in tests.items():
            if name == _survey_name(bench):
                row.append(bench.base.aucs(bench.names))
            elif sorted(order_of(survey.class_names, bench.predictor)) != list(
                range(len(bench.names))
            ):
                row.append(None)  # other classes
            else:
                point = Point(survey, mode, prepare=at_camera(bench, survey, mode))
                row.append(
                    bench.ask({name: point}, f"audit: on {survey.name}")[name].aucs(bench.names)
                )
        cells.append(row)
    return {"models": list(benches), "tests": list(tests), "cells": cells}


def shift_says(part: dict[str, Any]) -> str:
    """Returns what the part found, in sentences."""
    texts = []
    for kind, what in (("psf", "A PSF"), ("pixel_scale", "A pixel scale")):
        changed = [row for row in part[kind] if row["factor"] != 1]
        if changed:
            worst = min(changed, key=lambda row: row["macro_auc"]["value"])
            texts.append(
                f"{what} {worst['factor']:g} times the survey's is the worst tried, with a macro AUC of {worst['macro_auc']['value']:.3f}, "
                f"a change of {signed(interval(worst['difference']))}."
            )
    matrix = part["matrix"]
    cells = zip(matrix["cells"][0], matrix["tests"])
    away = [
        (cell["macro_auc"]["value"], test)
        for cell, test in cells
        if cell and test != matrix["models"][0]
    ]
    if away:
        texts.append(
            "On other surveys it reaches "
            + ", ".join(f"{auc:.3f} ({test})" for auc, test in away)
            + "."
        )
        texts.append(
            "It does not carry over to them."
            if max(away)[0] < POOR
            else "It carries over in part."
            if min(away)[0] < GOOD
            else "It carries over."
        )
    return " ".join(texts)


def shift_tables(
    part: dict[str, Any], names: Sequence[str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the header and rows of the part's tables."""
    tables = []
    for kind, what in (("psf", "PSF width"), ("pixel_scale", "Pixel scale")):
        rows = [
            [
                f"× {row['factor']:g}",
                f"{row['arcsec']:.4g}″",
                *auc_cells(row, names),
                change_cell(row) if row["factor"] != 1 else "",
            ]
            for row in part[kind]
        ]
        if rows:
            tables.append(([what, "", "Macro AUC", *names, "Change, paired"], rows))
    matrix = part["matrix"]
    rows = [
        [
            model,
            *(
                "other classes" if cell is None else with_ci(interval(cell["macro_auc"]))
                for cell in row
            ),
        ]
        for model, row in zip(matrix["models"], matrix["cells"])
    ]
    tables.append((["Trained on ↓, tested on →", *matrix["tests"]], rows))
    return tables


@styled
def draw_shift(part: dict[str, Any]) -> "Figure":
    """Draws the macro AUC against PSF width and pixel scale."""
    shown = [
        (kind, text)
        for kind, text in (("psf", "PSF width"), ("pixel_scale", "Pixel scale"))
        if part[kind]
    ]
    figure = new_figure(3.7 * len(shown), 3.6)
    for axes, (kind, text) in zip(
        figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown
    ):
        rows = part[kind]
        draw_curve(axes, [row["factor"] for row in rows], rows, 0, None)
        axes.axvline(1, color=FAINT, linewidth=0.9, linestyle=":")
        axes.set_xticks([row["factor"] for row in rows], [f"{row['factor']:g}" for row in rows])
        axes.set(xlabel=f"{text}, times the survey's", title=text)
    figure.axes[0].set_ylabel("Macro AUC")
    return figure


@styled
def draw_matrix(matrix: dict[str, Any]) -> "Figure":
    """Draws the AUCs of models on surveys as a table of colours."""
    values = np.array(
        [
            [np.nan if cell is None else cell["macro_auc"]["value"] for cell in row]
            for row in matrix["cells"]
        ]
    )
    figure = new_figure(2.6 + 1.5 * values.shape[1], 1.6 + 0.75 * values.shape[0])
    axes = figure.add_subplot()
    cells = np.zeros((*values.shape, 4))
    above = np.clip(np.nan_to_num((values - 0.5) / 0.5), 0, 1)
    cells[..., :3], cells[..., 3] = (0.0, 0.31, 0.62), 0.06 + 0.94 * above
    axes.imshow(cells, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        text = "–" if np.isnan(values[row, column]) else format_value(float(values[row, column]), 3)
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color="#fefefe" if above[row, column] > 0.5 else INK,
        )
    axes.set_xticks(
        range(values.shape[1]), [literal(name).replace(", ", ",\n") for name in matrix["tests"]]
    )
    axes.set_yticks(
        range(values.shape[0]), [literal(name).replace(", ", ",\n") for name in matrix["models"]]
    )
    axes.set(xlabel="Tested on", ylabel="Trained on", title="Macro AUC")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
