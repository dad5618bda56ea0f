"""An audit in words, tables and figures; everything is computed from the content of ``audit.json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.evaluation.audit_measure import MOMENTS, SURE, interval
from haloformer.evaluation.figures import (
    DASHES,
    FAINT,
    INK,
    _figure,
    _plain,
    _styled,
    colour,
    format_interval,
    format_value,
)
from haloformer.evaluation.metrics import Interval
from haloformer.evaluation.page import html_page, html_table
from haloformer.evaluation.report import _cell, _e, _markdown_table, _percent_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GOOD, _POOR = 0.95, 0.8  # macro AUCs that a sentence calls good, or lost
_SMALL = 0.005  # a loss of AUC that a sentence calls small
_FLAGGED = 0.9  # a share of flagged images that a sentence calls most

_TITLES = {
    "shortcut": "Shortcuts",
    "noise": "Noise",
    "shift": "Another camera, another survey",
    "symmetry": "Symmetry",
    "ood": "Images that it should not answer",
}

_WHAT = {
    "shortcut": (
        "In the DeepLense surveys substructure is added to a lens of fixed mass, so the ring grows with it, and the class can be read from the ring's size. "
        "Two classifiers get {n_moments} numbers of each image and nothing else ({moments}), from {n_train:,} images of another seed. Then the main lens of every scene "
        "is made lighter by what its substructure brings, so that all classes have the same mass within the same Einstein radius: the same scenes, seen by the model "
        "as it is, and by moment classifiers that are trained anew on such images."
    ),
    "noise": (
        "The same scenes with exposures from a tenth to ten times as long. SNR is that of the brightest pixel, the median over images; the background falls as "
        "sky and read noise do, or with the square root of the time where the survey gives it as one number."
    ),
    "shift": (
        "The same scenes through another PSF, or with another pixel scale and the same number of pixels; the model is not told. In the table of surveys, images of other surveys have "
        "the noise that is named and are brought to the model's camera: resampled to its pixel scale (bilinear, antialiased), cut or framed with zeros to its size, and "
        "multiplied by one number for all, so that the 99 % quantile of the pixels has the same median over images."
    ),
    "symmetry": (
        "The eight symmetries of the square. Physics does not care how a lens lies on the detector; a survey whose lenses all lie alike does. "
        "Δ logit is the mean of |change| over classes and images, after the mean over the classes is taken off; 'changed' is the share of images that get another class."
    ),
    "ood": (
        "What the model says of images that are not of its survey. 'Sure' is the share that gets a class with probability of at least {sure:g}. "
        "Files are cut to their central part (enlarged, if smaller than the model's images), their median is taken off, and their brightness is brought to that of the survey's images. "
        "'At 1 % false alarms': the score is above the one that 1 % of {n:,} images as trained exceed."
    ),
}


# --- in words ---------------------------------------------------------------------------------------------------------


def verdict(result: dict[str, Any]) -> str:
    """Returns one paragraph about the parts that were measured."""
    return " ".join(_paragraphs(result))


def _paragraphs(result: dict[str, Any]) -> list[str]:
    says = {
        "shortcut": _shortcut_says,
        "noise": _noise_says,
        "shift": _shift_says,
        "symmetry": _symmetry_says,
        "ood": _ood_says,
    }
    sentences = [says[name](part) for name, part in result["parts"].items()]
    if result["protocol"]["seen_in_training"]:
        sentences.insert(0, "The model was trained or selected on these very scenes, so all that follows flatters it.")
    return sentences


def _shortcut_says(part: dict[str, Any]) -> str:
    before, after = part["model"]["original"], part["model"]["matched"]
    simple = {
        name: max((kinds[k]["macro_auc"] for k in kinds), key=lambda auc: auc["value"])
        for name, kinds in part["moments"].items()
    }
    original, matched = interval(simple["original"]), interval(simple["matched"])
    model, loss = interval(before["macro_auc"]), interval(after["difference"])
    text = (
        f"The better of two classifiers that see only {len(part['moment_names'])} moments of the image reaches a macro AUC of {_ci(original)}; the model, {_ci(model)}. "
        f"With the mass within the Einstein radius matched across the classes, the moments are left with {_ci(matched)}"
    )
    text += " (not told from chance), " if matched.low <= 0.5 else ", "
    text += f"and the model with {_ci(interval(after['macro_auc']))}, a change of {_signed(loss)}: "
    if loss.high >= -_SMALL:
        text += "it hardly leans on the mass."
    elif interval(after["macro_auc"]).value <= matched.high:
        text += "without the mass it knows no more than the moments."
    else:
        share = -loss.value / max(model.value - 0.5, 1e-9)
        text += (
            f"{100 * share:.0f} % of what it has above chance hung on the mass, or on lenses just as heavy as those of its training; "
            "the rest is about finer structure."
        )
    if part["heavier"]:
        plain, heavier = (interval(part["heavier"][key]) for key in ("original", "heavier"))
        text += (
            f" Of smooth lenses it recognises {100 * plain.value:.0f} % as such, and {100 * heavier.value:.0f} % if they are made "
            "heavier by what substructure weighs."
        )
    return text


def _noise_says(part: dict[str, Any]) -> str:
    rows = sorted(part["points"], key=lambda row: row["snr"])
    key = "rescaled" if part["in_counts"] else None
    curve = [(row["snr"], (row[key] if key else row)["macro_auc"]["value"]) for row in rows]
    good = [snr for snr, auc in curve if auc >= _GOOD]
    usual = next(row for row in rows if row["factor"] == 1)
    text = (
        f"At the exposures of the survey (SNR {usual['snr']:.2g} of the brightest pixel) the macro AUC is {usual['macro_auc']['value']:.3f}; "
        f"at the lowest SNR tried, {curve[0][0]:.2g}, {curve[0][1]:.3f}, and at the highest, {curve[-1][0]:.2g}, {curve[-1][1]:.3f}"
    )
    text += " (images brought back to the usual brightness)" if key else ""
    text += (
        f"; it is at least {_GOOD:g} at {_listed([f'{snr:.2g}' for snr in good])}." if good else f"; nowhere {_GOOD:g}."
    )
    if key:
        worst = max(rows, key=lambda row: row[key]["macro_auc"]["value"] - row["macro_auc"]["value"])
        text += (
            f" Brightness matters beside noise: × {worst['factor']:g} the exposure gives {worst['macro_auc']['value']:.3f} "
            f"in raw counts and {worst[key]['macro_auc']['value']:.3f} rescaled."
        )
    return text


def _shift_says(part: dict[str, Any]) -> str:
    texts = []
    for kind, what in (("psf", "A PSF"), ("pixel_scale", "A pixel scale")):
        changed = [row for row in part[kind] if row["factor"] != 1]
        if changed:
            worst = min(changed, key=lambda row: row["macro_auc"]["value"])
            texts.append(
                f"{what} {worst['factor']:g} times the survey's is the worst tried, with a macro AUC of {worst['macro_auc']['value']:.3f}, "
                f"a change of {_signed(interval(worst['difference']))}."
            )
    matrix = part["matrix"]
    cells = zip(matrix["cells"][0], matrix["tests"])
    away = [(cell["macro_auc"]["value"], test) for cell, test in cells if cell and test != matrix["models"][0]]
    if away:
        texts.append("On other surveys it reaches " + ", ".join(f"{auc:.3f} ({test})" for auc, test in away) + ".")
        texts.append(
            "It does not carry over to them."
            if max(away)[0] < _POOR
            else "It carries over in part."
            if min(away)[0] < _GOOD
            else "It carries over."
        )
    return " ".join(texts)


def _symmetry_says(part: dict[str, Any]) -> str:
    rows = [row for row in part["elements"] if row["code"]]
    worst = max(rows, key=lambda row: row["changed"]["value"])
    text = (
        f"Turning or mirroring an image changes the class of {100 * np.mean([row['changed']['value'] for row in rows]):.0f} % on average, at most "
        f"{100 * worst['changed']['value']:.0f} % ({worst['name']}, macro AUC {worst['macro_auc']['value']:.3f})"
    )
    kept = [row for row in rows if row["keeps_survey"]]
    if kept:
        text += f"; where the survey's own lenses lie as before ({', '.join(row['name'] for row in kept)}), {100 * max(row['changed']['value'] for row in kept):.0f} %"
    if part["network"]:
        alone = [row for row in part["network"] if row["code"]]
        share = float(np.mean([row["changed"]["value"] for row in alone]))
        lowest = min(row["macro_auc"]["value"] for row in alone)
        text += f"; for the network alone, with image and residual turned together, {100 * share:.0f} %, macro AUC {lowest:.3f} or more"
        if share < 0.5 * np.mean([row["changed"]["value"] for row in rows]):
            text += ": the network hardly minds, but the smooth fit knows only lenses that lie as the survey's"
    return text + "."


def _ood_says(part: dict[str, Any]) -> str:
    foreign = part["sets"][1:]
    surest = max(foreign, key=lambda row: row["sure"]["value"])
    text = f"Of {surest['name']} it is sure (probability ≥ {SURE:g}) in {100 * surest['sure']['value']:.0f} % of the cases."
    if not part["available"]:
        return text + f" Nothing of this is flagged: {part['why']}."
    least = min(foreign, key=lambda row: row["flagged_at_threshold"]["value"])
    caught = [row["name"] for row in foreign if row["flagged_at_threshold"]["value"] >= _FLAGGED]
    text += (
        f" At 1 % false alarms its score flags at least {100 * _FLAGGED:g} % of {_listed(caught)}"
        if caught
        else " Its score flags no kind of image reliably"
    )
    if len(caught) == len(foreign):
        return text + "."
    return text + f"; least of all {least['name']} ({100 * least['flagged_at_threshold']['value']:.0f} %)."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _ci(value: Interval) -> str:
    return format_interval(value, 3)


def _signed(value: Interval) -> str:
    numbers = (f"{x:+.3f}".replace("-", "−") for x in (value.value, value.low, value.high))
    first, low, high = numbers
    return f"{first} ({low} to {high})"


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass
class _Section:
    """One part as both texts show it."""

    name: str
    what: str
    tables: list[tuple[list[str], list[list[str]]]]


def _sections(result: dict[str, Any]) -> list[_Section]:
    tables = {
        "shortcut": _shortcut_tables,
        "noise": _noise_tables,
        "shift": _shift_tables,
        "symmetry": _symmetry_tables,
        "ood": _ood_tables,
    }
    protocol = result["protocol"]
    found = []
    for name, part in result["parts"].items():
        what = _WHAT[name].format(
            n_moments=len(MOMENTS),
            moments=", ".join(MOMENTS),
            n_train=part.get("n_train", 0),
            sure=SURE,
            n=protocol["n"],
        )
        found.append(_Section(name, what, tables[name](part, protocol["class_names"])))
    return found


def _aucs(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [_ci(interval(row["macro_auc"])), *(format_value(interval(row["auc"][name]).value, 3) for name in names)]


def _change(row: dict[str, Any]) -> str:
    return _signed(interval(row["difference"])) if "difference" in row else ""


def _shortcut_tables(part: dict[str, Any], names: Sequence[str]) -> list[tuple[list[str], list[list[str]]]]:
    rows = []
    for kind, what in (("original", "as it is"), ("matched", "mass matched")):
        rows += [[f"moments, {name}", what, *_aucs(row, names), ""] for name, row in part["moments"][kind].items()]
    for kind, what in (("original", "as it is"), ("matched", "mass matched")):
        row = part["model"][kind]
        rows.append(["the model", what, *_aucs(row, names), _change(row)])
    tables = [(["Classifier", "Survey", "Macro AUC", *names, "Change, paired"], rows)]
    if part["heavier"]:
        shown = (("original", "as they are"), ("heavier", "heavier by what substructure weighs"))
        recognised = [[what, _percent_interval(interval(part["heavier"][key]))] for key, what in shown]
        tables.append(([f"Smooth lenses ({part['heavier']['n']:,})", "Recognised as such"], recognised))
    return tables


def _noise_tables(part: dict[str, Any], names: Sequence[str]) -> list[tuple[list[str], list[list[str]]]]:
    header = ["Exposure", "SNR", "Macro AUC", *names, "Change, paired"]
    rows = []
    for row in part["points"]:
        start = [f"× {row['factor']:g}", f"{row['snr']:.1f}"]
        if part["in_counts"]:
            header[1:2] = ["SNR", "Brightness"] if "Brightness" not in header else ["SNR"]
            rows.append([*start, "raw counts", *_aucs(row, names), _change(row) if row["factor"] != 1 else ""])
            if row["factor"] != 1:
                rows.append([*start, "rescaled", *_aucs(row["rescaled"], names), _change(row["rescaled"])])
        else:
            rows.append([*start, *_aucs(row, names), _change(row) if row["factor"] != 1 else ""])
    return [(header, rows)]


def _shift_tables(part: dict[str, Any], names: Sequence[str]) -> list[tuple[list[str], list[list[str]]]]:
    tables = []
    for kind, what in (("psf", "PSF width"), ("pixel_scale", "Pixel scale")):
        rows = [
            [
                f"× {row['factor']:g}",
                f"{row['arcsec']:.4g}″",
                *_aucs(row, names),
                _change(row) if row["factor"] != 1 else "",
            ]
            for row in part[kind]
        ]
        if rows:
            tables.append(([what, "", "Macro AUC", *names, "Change, paired"], rows))
    matrix = part["matrix"]
    rows = [
        [model, *("other classes" if cell is None else _ci(interval(cell["macro_auc"])) for cell in row)]
        for model, row in zip(matrix["models"], matrix["cells"])
    ]
    tables.append((["Trained on ↓, tested on →", *matrix["tests"]], rows))
    return tables


def _symmetry_tables(part: dict[str, Any], names: Sequence[str]) -> list[tuple[list[str], list[list[str]]]]:
    tables = []
    for key, what in (("elements", "Whole predictor"), ("network", "Network alone")):
        rows = [
            [
                row["name"],
                "yes" if row["keeps_survey"] else "no",
                f"{row['mean_abs_delta_logit']:.3f}",
                _percent_interval(interval(row["changed"])),
                _ci(interval(row["macro_auc"])),
                _change(row) if row["code"] else "",
            ]
            for row in part[key] or []
        ]
        if rows:
            tables.append(([what, "Survey lies alike", "Δ logit", "Changed", "Macro AUC", "Change, paired"], rows))
    return tables


def _ood_tables(part: dict[str, Any], names: Sequence[str]) -> list[tuple[list[str], list[list[str]]]]:
    header = ["Images", "Number", "Sure"]
    if part["available"]:
        header += ["Flagged by the model", "Flagged at 1 % false alarms"]
    rows = []
    for row in part["sets"]:
        shown = [row["name"], f"{row['n']:,}", _percent_interval(interval(row["sure"]))]
        if part["available"]:
            shown += [_percent_interval(interval(row[key])) for key in ("flagged", "flagged_at_threshold")]
        rows.append(shown)
    return [(header, rows)]


# --- the texts --------------------------------------------------------------------------------------------------------


def _title(result: dict[str, Any]) -> str:
    return f"Audit of {result['protocol']['run']}"


def _subject(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    return (
        f"{protocol['model']}{' with the residual of a smooth fit' if protocol['residual'] else ''}, trained on {protocol['survey']} (noise: {protocol['noise']}). "
        f"{protocol['n']:,} images per point ({protocol['n_fewer']:,} where each is seen many times), seed {protocol['seed']}; intervals are 95 %, over test images; "
        f"haloformer {protocol['code_version']}, {protocol['date']}."
    )


def to_markdown(result: dict[str, Any], figures: dict[str, str]) -> str:
    """Returns the audit as Markdown.

    Args:
        result: The content of ``audit.json``.
        figures: Name of each figure and its path relative to the text.
    """
    lines = [f"# {_cell(_title(result))}", "", _cell(result["verdict"]), "", f"*{_cell(_subject(result))}*", ""]
    for section in _sections(result):
        lines += [f"## {_TITLES[section.name]}", "", _cell(section.what), ""]
        for header, rows in section.tables:
            lines += [*_markdown_table([_cell(name) for name in header], rows), ""]
        for name in _FIGURES[section.name]:
            if name in figures:
                lines += [f"![{_cell(_CAPTIONS[name])}]({figures[name]})", ""]
    return "\n".join(lines)


def to_html(result: dict[str, Any], figures: dict[str, str]) -> str:
    """Returns the audit as one self-contained page.

    Args:
        result: The content of ``audit.json``.
        figures: Name of each figure and its ``<svg>`` element (`figures.inline_svg`), which is trusted.
    """
    sections = [
        (
            _TITLES[section.name],
            f"<p>{_e(section.what)}</p>"
            + "<br>".join(html_table("numbers measures", *table) for table in section.tables),
            [(figures[name], _CAPTIONS[name]) for name in _FIGURES[section.name] if name in figures],
        )
        for section in _sections(result)
    ]
    sections.append(("Protocol", f"<p>{_e(_subject(result))}</p>", []))
    return html_page(_title(result), "audit", _paragraphs(result), sections)


# --- figures ----------------------------------------------------------------------------------------------------------

_FIGURES = {
    "shortcut": ("shortcut",),
    "noise": ("noise",),
    "shift": ("shift", "matrix"),
    "symmetry": ("symmetry",),
    "ood": ("ood",),
}
_CAPTIONS = {
    "shortcut": "Macro AUC of the model and of classifiers that see a few moments only, on the survey as it is and with matched masses.",
    "noise": "Macro AUC against the SNR of the brightest pixel, for the same scenes exposed for longer and shorter.",
    "shift": "Macro AUC through another PSF and with another pixel scale.",
    "matrix": "Macro AUC of models (rows) on surveys (columns).",
    "symmetry": "Macro AUC and share of changed decisions under the symmetries of the square.",
    "ood": "Share of images that get a sure answer, and that are flagged.",
}


def draw(result: dict[str, Any]) -> "dict[str, Figure]":
    """Returns the figures of the parts that were measured, by name."""
    drawers: dict[str, Any] = {
        "shortcut": lambda part: {"shortcut": draw_shortcut(part)},
        "noise": lambda part: {"noise": draw_noise(part)},
        "shift": lambda part: {"shift": draw_shift(part), "matrix": draw_matrix(part["matrix"])},
        "symmetry": lambda part: {"symmetry": draw_symmetry(part)},
        "ood": lambda part: {"ood": draw_ood(part)},
    }
    return {
        name: figure for part, measured in result["parts"].items() for name, figure in drawers[part](measured).items()
    }


@_styled
def draw_shortcut(part: dict[str, Any]) -> "Figure":
    """Draws the AUCs with their intervals, one line per classifier."""
    figure = _figure(6.8, 3.2)
    axes = figure.add_subplot()
    kinds = list(part["moments"]["original"])
    labels = [*(f"moments,\n{kind}" for kind in kinds), "the model"]
    for k, (variant, text) in enumerate((("original", "survey as it is"), ("matched", "mass matched"))):
        rows = [*(part["moments"][variant][kind] for kind in kinds), part["model"][variant]]
        _points(axes, [row["macro_auc"] for row in rows], np.arange(len(rows)) + 0.13 * (2 * k - 1), k, text)
    _chance(axes)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="Macro AUC", title="What the mass alone gives away")
    axes.set_title(axes.get_title(loc="left"), pad=16)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_styled
def draw_noise(part: dict[str, Any]) -> "Figure":
    """Draws the macro AUC against the SNR."""
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    rows = part["points"]
    snr = [row["snr"] for row in rows]
    curves = {"raw counts" if part["in_counts"] else "images as they come": rows}
    if part["in_counts"]:
        curves["brought back to the usual brightness"] = [row["rescaled"] for row in rows]
    for k, (text, points) in enumerate(curves.items()):
        _curve(axes, snr, points, k, text)
    axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(snr, [f"{value:.2g}\n(× {row['factor']:g})" for value, row in zip(snr, rows)])
    axes.minorticks_off()
    axes.set(xlabel="SNR of the brightest pixel (exposure)", ylabel="Macro AUC", title="Longer and shorter exposures")
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def draw_shift(part: dict[str, Any]) -> "Figure":
    """Draws the macro AUC against PSF width and pixel scale."""
    shown = [(kind, text) for kind, text in (("psf", "PSF width"), ("pixel_scale", "Pixel scale")) if part[kind]]
    figure = _figure(3.7 * len(shown), 3.6)
    for axes, (kind, text) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown):
        rows = part[kind]
        _curve(axes, [row["factor"] for row in rows], rows, 0, None)
        axes.axvline(1, color=FAINT, linewidth=0.9, linestyle=":")
        axes.set_xticks([row["factor"] for row in rows], [f"{row['factor']:g}" for row in rows])
        axes.set(xlabel=f"{text}, times the survey's", title=text)
    figure.axes[0].set_ylabel("Macro AUC")
    return figure


@_styled
def draw_matrix(matrix: dict[str, Any]) -> "Figure":
    """Draws the AUCs of models on surveys as a table of colours."""
    values = np.array(
        [[np.nan if cell is None else cell["macro_auc"]["value"] for cell in row] for row in matrix["cells"]]
    )
    figure = _figure(2.6 + 1.5 * values.shape[1], 1.6 + 0.75 * values.shape[0])
    axes = figure.add_subplot()
    cells = np.zeros((*values.shape, 4))
    above = np.clip(np.nan_to_num((values - 0.5) / 0.5), 0, 1)
    cells[..., :3], cells[..., 3] = (0.0, 0.31, 0.62), 0.06 + 0.94 * above
    axes.imshow(cells, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        text = "–" if np.isnan(values[row, column]) else format_value(float(values[row, column]), 3)
        axes.text(column, row, text, ha="center", va="center", color="#fefefe" if above[row, column] > 0.5 else INK)
    axes.set_xticks(range(values.shape[1]), [_plain(name).replace(", ", ",\n") for name in matrix["tests"]])
    axes.set_yticks(range(values.shape[0]), [_plain(name).replace(", ", ",\n") for name in matrix["models"]])
    axes.set(xlabel="Tested on", ylabel="Trained on", title="Macro AUC")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


@_styled
def draw_symmetry(part: dict[str, Any]) -> "Figure":
    """Draws AUC and changed decisions of each symmetry."""
    figure = _figure(8.4, 4.2)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    series = {"whole predictor": part["elements"]}
    if part["network"]:
        series["network alone"] = part["network"]
    for k, (text, rows) in enumerate(series.items()):
        places = np.arange(len(rows)) + (0.13 * (2 * k - 1) if len(series) > 1 else 0)
        _points(left, [row["macro_auc"] for row in rows], places, k, text)
        _points(right, [row["changed"] for row in rows[1:]], places[1:], k, None)
    rows = part["elements"]
    left.set_yticks(
        range(len(rows)), [row["name"] + (" *" if row["keeps_survey"] and row["code"] else "") for row in rows]
    )
    left.invert_yaxis()
    left.set(xlabel="Macro AUC", title="AUC")
    right.set(xlabel="Share of images with another class", title="Changed decisions")
    right.set_xlim(left=-0.02)
    if any(row["keeps_survey"] and row["code"] for row in rows):
        left.annotate("* the survey's lenses lie as before", (0, 0), xycoords="figure fraction", xytext=(4, 4), textcoords="offset points", fontsize=9, color=FAINT)  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_styled
def draw_ood(part: dict[str, Any]) -> "Figure":
    """Draws the shares of sure answers and of flagged images."""
    rows = part["sets"]
    figure = _figure(7.4, 1.6 + 0.42 * len(rows))
    axes = figure.add_subplot()
    series = {"sure": f"sure answer (probability ≥ {SURE:g})"}
    if part["available"]:
        series["flagged_at_threshold"] = "flagged at 1 % false alarms"
    for k, (key, text) in enumerate(series.items()):
        places = np.arange(len(rows)) + (0.13 * (2 * k - 1) if len(series) > 1 else 0)
        _points(axes, [row[key] for row in rows], places, k, text)
    axes.set_yticks(range(len(rows)), [f"{_plain(row['name'])} ({row['n']:,})" for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(-0.03, 1.03), xlabel="Share of images", title="Images that it should not answer")
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _points(axes: Any, values: Sequence[dict[str, float]], places: np.ndarray, k: int, label: str | None) -> None:
    """Draws values with intervals along horizontal lines."""
    found = [interval(value) for value in values]
    ends = np.array([(v.value - v.low, v.high - v.value) for v in found]).T
    axes.errorbar(
        *([v.value for v in found], places),
        xerr=np.nan_to_num(ends), fmt="os"[k % 2], color=colour(k), markersize=5.5, capsize=3, linewidth=1.4, label=label,
    )  # fmt: skip


def _curve(axes: Any, x: Sequence[float], rows: Sequence[dict[str, Any]], k: int, label: str | None) -> None:
    """Draws macro AUCs with intervals against x."""
    found = [interval(row["macro_auc"]) for row in rows]
    ends = np.array([(v.value - v.low, v.high - v.value) for v in found]).T
    axes.errorbar(
        *(x, [v.value for v in found]),
        yerr=np.nan_to_num(ends), marker="os"[k % 2], linestyle=DASHES[k], color=colour(k), markersize=5.5, capsize=3, label=label,
    )  # fmt: skip


def _chance(axes: Any) -> None:
    axes.axvline(0.5, color=FAINT, linewidth=0.9, linestyle=":")
    axes.set_xlim(left=min(0.46, axes.get_xlim()[0]), right=1.01)
    axes.annotate(
        "chance", (0.5, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=9, color=FAINT
    )
