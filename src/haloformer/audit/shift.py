"""Part `shift`: another camera, another survey."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.audit.audited import AuditedModel, Condition, at_camera, interval
from haloformer.audit.figures import GOOD, POOR, draw_curve
from haloformer.audit.part import Inputs, Measured, Part, Table, weights_digest
from haloformer.audit.words import auc_cells, change_cell, signed, with_ci
from haloformer.evaluation.testset import order_of
from haloformer.reporting.interval import format_value
from haloformer.reporting.style import FAINT, INK, literal, new_figure, styled
from haloformer.simulation import get_survey, list_surveys
from haloformer.simulation.surveys import AnySurvey

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PSF_WIDTHS = (0.5, 1.0, 1.5, 2.5)


PIXEL_SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)


def measure(audited: AuditedModel, inputs: Inputs) -> Measured:
    """Measures AUCs with another PSF or pixel scale, and on other surveys."""
    instrument = audited.survey.instrument
    has_width = instrument.psf_fwhm > 0 and instrument.psf_file is None
    values = {"psf": PSF_WIDTHS if has_width else (), "pixel_scale": PIXEL_SCALES}
    field = {"psf": "psf_fwhm", "pixel_scale": "pixel_scale"}
    conditions = {
        f"{kind} {factor:g}": Condition(
            audited.survey.with_camera(**{field[kind]: factor * getattr(instrument, field[kind])}),
            audited.noise,
        )
        for kind, factors in values.items()
        for factor in factors
        if factor != 1
    }
    predictions = audited.predictions(conditions, "audit: shift")
    found: Measured = {
        kind: [
            {
                "factor": factor,
                "arcsec": getattr(instrument, field[kind]) * factor,
                **predictions.get(f"{kind} {factor:g}", audited.base).aucs(
                    audited.names, audited.base
                ),
            }
            for factor in factors
        ]
        for kind, factors in values.items()
    }
    return {**found, "matrix": _matrix({_survey_name(audited): audited, **inputs.compare})}


def _survey_name(audited: AuditedModel) -> str:
    return f"{audited.survey.name}, {audited.noise}"


def _matrix(models: Mapping[str, AuditedModel]) -> dict[str, Any]:
    """Returns the AUCs of all models on each one's survey, and on the shipped surveys with the noise of their cameras."""
    tests: dict[str, tuple[AnySurvey, str]] = {
        _survey_name(audited): (audited.survey, audited.noise) for audited in models.values()
    }
    known = {survey.name for survey, _ in tests.values()}
    tests |= {
        f"{name}, instrument": (get_survey(name), "instrument")
        for name in list_surveys(composed=False)
        if name not in known
    }
    cells = [
        [_matrix_cell(audited, name, *test) for name, test in tests.items()]
        for audited in models.values()
    ]
    return {"models": list(models), "tests": list(tests), "cells": cells}


def _matrix_cell(
    audited: AuditedModel, name: str, survey: AnySurvey, mode: str
) -> dict[str, Any] | None:
    """Returns the AUCs of a model on a survey; None where that has other classes."""
    if name == _survey_name(audited):
        return audited.base.aucs(audited.names)
    order = order_of(survey.class_names, audited.predictor)
    if sorted(order) != list(range(len(audited.names))):
        return None
    condition = Condition(survey, mode, prepare=at_camera(audited, survey, mode))
    return audited.predictions({name: condition}, f"audit: on {survey.name}")[name].aucs(
        audited.names
    )


def sentences(measured: Measured) -> str:
    """Says what was found."""
    texts = []
    for kind, what in (("psf", "A PSF"), ("pixel_scale", "A pixel scale")):
        changed = [row for row in measured[kind] if row["factor"] != 1]
        if changed:
            worst = min(changed, key=lambda row: row["macro_auc"]["value"])
            texts.append(
                f"{what} {worst['factor']:g} times the survey's is the worst tried, with a macro AUC of "
                f"{worst['macro_auc']['value']:.3f}, a change of {signed(interval(worst['difference']))}."
            )
    return " ".join([*texts, *_other_surveys_in_words(measured["matrix"])])


def _other_surveys_in_words(matrix: dict[str, Any]) -> list[str]:
    elsewhere = [
        (cell["macro_auc"]["value"], test)
        for cell, test in zip(matrix["cells"][0], matrix["tests"])
        if cell and test != matrix["models"][0]
    ]
    if not elsewhere:
        return []
    aucs = ", ".join(f"{auc:.3f} ({test})" for auc, test in elsewhere)
    if max(elsewhere)[0] < POOR:
        verdict = "It does not generalise to them."
    elif min(elsewhere)[0] < GOOD:
        verdict = "It generalises in part."
    else:
        verdict = "It generalises to them."
    return [f"On other surveys its macro AUC is {aucs}.", verdict]


def tables(measured: Measured, names: Sequence[str]) -> list[Table]:
    """Returns the tables of the report."""
    found = []
    for kind, what in (("psf", "PSF width"), ("pixel_scale", "Pixel scale")):
        rows = [
            [
                f"× {row['factor']:g}",
                f"{row['arcsec']:.4g}″",
                *auc_cells(row, names),
                change_cell(row) if row["factor"] != 1 else "",
            ]
            for row in measured[kind]
        ]
        if rows:
            found.append(Table([what, "", "Macro AUC", *names, "Change, paired"], rows))
    matrix = measured["matrix"]
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
    found.append(Table(["Trained on ↓, tested on →", *matrix["tests"]], rows))
    return found


@styled
def draw_camera(measured: Measured) -> "Figure":
    """Draws the macro AUC against PSF width and pixel scale."""
    shown = [
        (kind, text)
        for kind, text in (("psf", "PSF width"), ("pixel_scale", "Pixel scale"))
        if measured[kind]
    ]
    figure = new_figure(3.7 * len(shown), 3.6)
    for axes, (kind, text) in zip(
        figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown
    ):
        rows = measured[kind]
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


def _settings(audited: AuditedModel, inputs: Inputs) -> dict[str, object]:
    found: dict[str, object] = {"compare": list(inputs.compare)}
    if inputs.compare:  # a run of the same name may have been trained again
        found["weights_compared"] = [weights_digest(name) for name in inputs.compare]
    return found


PART = Part(
    name="shift",
    title="Another camera, another survey",
    measure=measure,
    describe=lambda measured, n: (
        "The same scenes with another PSF, or with another pixel scale and the same number of pixels; the model is not "
        "informed. In the table of surveys, images of other surveys have the noise that is named and are adapted to the "
        "model's camera: resampled to its pixel scale (bilinear, antialiased), cut or framed with zeros to its size, and "
        "multiplied by one number for all, so that the 99 % quantile of the pixels has the same median over images."
    ),
    sentences=sentences,
    tables=tables,
    figures=lambda measured: {
        "shift": draw_camera(measured),
        "matrix": draw_matrix(measured["matrix"]),
    },
    captions={
        "shift": "Macro AUC with another PSF and with another pixel scale.",
        "matrix": "Macro AUC of models (rows) on surveys (columns).",
    },
    settings=_settings,
)
