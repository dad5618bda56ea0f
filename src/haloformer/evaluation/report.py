"""One evaluation as a page to read (HTML), as text (Markdown), and for machines (JSON).

The page is a single file: styles inline, figures as inline SVG, no script, no font, no request. It follows the reader's
light or dark setting. Everything that comes from outside (class names, file names, settings) is escaped.
"""

import html
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from haloformer.evaluation.figures import OKABE_ITO, format_interval, format_value
from haloformer.evaluation.metrics import Interval

_CLASS_CAPTIONS = {
    "roc": "ROC curve of each class against the others together, with the area and its 95 % interval.",
    "confusion": "Which class the model named (columns) for images of each true class (rows).",
    "reliability": "How often the model is right against how sure it is, in equal bins of the highest probability; "
    "an honest model stays on the dotted line. Below: how many images.",
    "scores": "How sure the model is: its probability for each class, by the true class of the image.",
    "wrong": "The images that the model got wrong with the most confidence.",
    "hardest": "The images that the model found hardest: those with the smallest margin between the two likeliest classes.",
}
_LEARNING_CAPTION = "How training went; the dotted line marks the epoch whose weights were kept."

_CLASS_METHODS = (
    "AUC intervals are DeLong's, logit-transformed; those of the macro and micro AUC use the same structural components "
    "of all classes, so they know that these share images. Where an AUC is exactly 1 the lower bound is the exact "
    "binomial one, (α/2)^(1/n) with n the smallest class. Recall and accuracy have Wilson's intervals, the balanced "
    "accuracy Zou & Donner's combination of them. Average precision, TPR at a FPR, negative log-likelihood and Brier "
    "score have percentiles, the calibration error (15 equal bins of the highest probability) the pivotal interval of "
    "one bootstrap of RESAMPLES resamples within each class. AUCs and TPRs are of the network's own logits; a temperature "
    "changes probabilities only."
)
_REGRESSION_METHODS = (
    "Each parameter is measured on the images that have it. Errors are predicted − true, in dex (factors of ten). "
    "Intervals of MAE, RMSE, bias, R² and pulls are percentiles of a bootstrap over images, that of the coverage is "
    "Wilson's. A pull is an error divided by the model's own σ; pulls of an honest σ have mean 0 and spread 1."
)


def captions(result: dict[str, Any]) -> dict[str, str]:
    """Returns the figures that a report may have, in its order, with their captions."""
    found: dict[str, str] = {}
    for name, caption in _CLASS_CAPTIONS.items() if result["class_names"] else ():
        if name == "scores":  # what matters more comes before
            found |= {f"by_{key}": _quantity_in_words(row) for key, row in result["by_quantity"].items()}
        found[name] = caption
    for name, measured in result["regression"].items():
        found[f"predicted_{name}"] = " ".join(
            [
                f"Predicted against true {name}, for the {measured['n']:,} images of class {measured['class_name']} "
                "that have it. A model that sees nothing predicts the middle for all.",
                *_floor_in_words(measured["floor"]),
            ]
        )
        found[f"error_{name}"] = " ".join(
            [
                f"Error of {name} in bins of the true value, with 95 % intervals; dashed grey: always predicting the mean.",
                *_published_in_words(measured),
                *(["Shaded as in the figure before."] if measured["floor"] else []),
            ]
        )
        found[f"coverage_{name}"] = _coverage_in_words(name, measured)
    return {**found, "learning": _LEARNING_CAPTION}


def _quantity_in_words(measured: dict[str, Any]) -> str:
    name, label = measured["class_name"], measured["label"]
    what = "accuracy, and the macro AUC within each bin"
    if name:
        what = f"the share of {name} images that is recognised, and their AUC against all images of other classes"
    return f"Against the {label[0].lower() + label[1:]}: {what}. Bins of equally many images, 95 % intervals."


def _expected_in_words(calibration: dict[str, Any]) -> str:
    low, high = (f"{100 * end:.1f}" for end in calibration["expected"])
    return f"with {calibration['n']:,} calibration images, chance alone moves it between {low} and {high} %"


def _floor_in_words(floor: dict[str, Any] | None) -> list[str]:
    if not floor:
        return []
    limits = [f"the pixel above {_mass(floor['pixel'])}"]
    if floor["psf"] is not None:
        limits.insert(0, f"the PSF above {_mass(floor['psf'])}")
    text = f"Shaded: the vortex's half-length λ is shorter than the camera resolves ({', '.join(limits)})"
    if floor["noise"] is None:
        return [
            text + "; its length then shows as a small change of brightness only, which these images may still reveal."
        ]
    return [
        text + f", or hidden by noise (above {_mass(floor['noise'])}): with all else known, an image then differs from "
        "one with a point of the same mass by less than 2 standard deviations, and no method can measure the length."
    ]


def _published_in_words(measured: dict[str, Any]) -> list[str]:
    if measured["published_mae"] is None:
        return []
    return [
        f"Dotted green: the best published error, {measured['published_mae']:g} dex, on this survey's released images."
    ]


def _coverage_in_words(name: str, measured: dict[str, Any]) -> str:
    text = f"How often intervals of {name} hold the true value, against how often they should."
    if measured["coverage_by_sigma"]:
        text += " The line: the model's own σ; on the diagonal it would be honest."
    if measured["calibration"]:
        coverage = Interval(**measured["coverage"])
        text += (
            f" The diamond: the calibrated intervals, which shall hold {_percent(measured['nominal_coverage'])} and hold "
            f"{_percent_interval(coverage)}; {_expected_in_words(measured['calibration'])}. This is promised on average over images of class "
            f"{measured['class_name']} that are like those of the calibration, from the same survey with the same noise: "
            "where an image does not reveal the value, fewer intervals may hold it, and elsewhere more."
        )
    return text


def to_json(result: dict[str, Any]) -> str:
    """Returns the result as strict JSON; NaN, which JSON does not know, becomes null."""
    return json.dumps(_without_nan(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_markdown(result: dict[str, Any], figures: dict[str, str] | None = None) -> str:
    """Returns the report as Markdown.

    Args:
        result: What ``evaluate`` returns.
        figures: Name of each figure and its path relative to the report.
    """
    lines = ["# Evaluation of " + _cell(result["protocol"]["model"]), ""]
    lines += [
        line
        for what, value, unit, interval in _headlines(result)
        for line in (f"**{what} {value}{unit}** ({interval})", "")
    ]
    lines += [_cell(_subject(result)), ""]
    lines += [line for warning in result["warnings"] for line in (f"> **Warning:** {_cell(warning)}", "")]
    if result["class_names"]:
        lines += [*_markdown_table(*_class_table(result)), ""]
        lines += [*_markdown_table(*_ranking_table(result)), ""]
        lines += [*_markdown_table(["Over all classes", "", "95 % interval"], _overall(result)), ""]
        lines += [*_markdown_table(*_probability_table(result)), ""]
    if result["regression"]:
        lines += [*_markdown_table(*_target_table(result)), ""]
    texts = captions(result)
    for name, path in (figures or {}).items():
        lines += [f"![{_cell(texts[name].partition('. ')[0])}]({path})", "", f"*{_cell(texts[name])}*", ""]
    lines += ["## Protocol", "", *_markdown_table(["", ""], list(_protocol(result))), ""]
    return "\n".join([*lines, *(line for text in _methods(result) for line in (text, ""))])


def to_html(result: dict[str, Any], figures: dict[str, str] | None = None) -> str:
    """Returns the report as one self-contained page.

    Args:
        result: What ``evaluate`` returns.
        figures: Name of each figure and its ``<svg>`` element (`figures.inline_svg`), which is trusted.
    """
    figures = figures or {}
    warnings = "".join(f'<p class="warning"><strong>Warning.</strong> {_e(text)}</p>' for text in result["warnings"])
    headlines = "".join(
        f'<p class="headline"><span class="value">{_e(value)}<small>{_e(unit)}</small></span>\n'
        f'<span class="what">{_e(what)}<br><small>{_e(interval)}</small></span></p>'
        for what, value, unit, interval in _headlines(result)
    )
    pictures = "".join(
        picture(name, figures[name], caption) for name, caption in captions(result).items() if name in figures
    )
    if result.get("n_wrong") == 0:
        pictures += "<p>No image was classified wrongly, so there is no panel of wrong ones.</p>"
    notes = "".join(f'<p class="note">{_e(text)}</p>' for text in _methods(result))
    header = f"""<div class="headlines">{headlines}</div>
<p>{_e(_subject(result))}</p>
{warnings}"""
    sections = f"""{_class_section(result)}{_target_section(result)}<section class="figures">
<h2>Figures</h2>
{pictures}
</section>
<section>
<h2>Protocol</h2>
{pairs_table(_protocol(result))}
{notes}
</section>"""
    return page("haloformer evaluation", _title(result), header, sections)


def pairs_table(rows: Sequence[tuple[str, str]]) -> str:
    """Returns a table of names and values, as of a protocol."""
    body = "".join(f'<tr><th scope="row">{_e(name)}</th><td>{_e(value)}</td></tr>' for name, value in rows)
    return f'<table class="protocol"><tbody>{body}</tbody></table>'


_WIDE_POINTS = (
    560  # a figure of several panels: it takes the whole width, and on a phone it scrolls in its place to stay readable
)


def picture(name: str, svg: str, caption: str) -> str:
    """Returns a figure of a page with its caption; the ``<svg>`` element is trusted."""
    width = re.search(r'viewBox="\S+ \S+ ([\d.]+)', svg)
    wide = ' class="wide"' if width and float(width[1]) > _WIDE_POINTS else ""
    return (
        f'<figure id="figure-{_e(name)}"{wide}><div role="img" aria-label="{_e(caption)}">{svg}</div>'
        f"<figcaption>{_e(caption)}</figcaption></figure>"
    )


def page(kicker: str, title: str, header: str, body: str) -> str:
    """Returns a self-contained page in our style.

    Args:
        kicker: A small line above the title: what kind of report this is. Plain text, as the title.
        title: Of the page and its heading.
        header: HTML below the heading, trusted.
        body: HTML of the sections, trusted.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{_e(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{_e(kicker)}</p>
<h1>{_e(title)}</h1>
{header}
</header>
{body}
</main>
</body>
</html>
"""


def _class_section(result: dict[str, Any]) -> str:
    if not result["class_names"]:
        return ""
    tiles = "".join(
        f"<div><dt>{_e(name)}</dt><dd>{_e(value)}<small>{_e(interval)}</small></dd></div>"
        for name, value, interval in _overall(result)
    )
    return f"""<section>
<h2>Each class against the rest</h2>
{_html_table("numbers", *_class_table(result))}
<dl class="tiles">{tiles}</dl>
</section>
<section>
<h2>Finding a class among the others</h2>
{_html_table("numbers", *_ranking_table(result))}
</section>
<section>
<h2>The probabilities</h2>
{_html_table("numbers measures", *_probability_table(result))}
</section>
"""


def _target_section(result: dict[str, Any]) -> str:
    if not result["regression"]:
        return ""
    return f"""<section>
<h2>Estimated parameters</h2>
{_html_table("numbers measures", *_target_table(result))}
</section>
"""


def _html_table(kind: str, header: list[str], rows: list[list[str]]) -> str:
    """Returns a table whose first column names the rows; ``kind`` is its class in the style sheet."""
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{_e(first)}</th>' + "".join(f"<td>{_e(value)}</td>" for value in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


# --- what both texts say ----------------------------------------------------------------------------------------------


def _title(result: dict[str, Any]) -> str:
    return f"{result['protocol']['model']} on {result['protocol']['data']}"


def _interval_text(interval: Interval, confidence: float, digits: int = 4) -> str:
    if not math.isfinite(interval.low):
        return "no interval: too few images"
    bounds = f"{format_value(interval.low, digits)}–{format_value(interval.high, digits)}"
    return f"{_percent(confidence)} interval {bounds}"


def _headlines(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Returns what the whole comes down to: a name, a value, its unit, and its interval."""
    found = []
    if result["class_names"]:
        macro = Interval(**result["macro_auc"])
        found.append(("Macro AUC", format_value(macro.value), "", _interval_text(macro, result["confidence"])))
    for name, measured in result["regression"].items():
        mae = Interval(**measured["mae"])
        interval = _interval_text(mae, measured["confidence"], 3)
        found.append((f"Mean absolute error of {name}", format_value(mae.value, 3), " dex", interval))
    return found


def images_in_words(result: dict[str, Any]) -> str:
    """Returns how many images of which survey and seed a result is of."""
    protocol = result["protocol"]
    text = f"{result['n_images']:,} images"
    if protocol.get("survey"):
        text += f" of survey {protocol['survey']}"
    if protocol.get("seed") is not None:
        text += f", seed {protocol['seed']}"
    return text


def _subject(result: dict[str, Any]) -> str:
    text = f"Measured on {images_in_words(result)}"
    text += ", which the model has seen in training." if result["contaminated"] else "."
    if result["left_out"]:
        counts = ", ".join(f"{n:,} images of class {name}" for name, n in result["left_out"].items())
        why = "the model was trained without them" if result["class_names"] else "there is nothing to estimate in them"
        text += f" Left out: {counts}; {why}."
    return text


def _methods(result: dict[str, Any]) -> list[str]:
    class_methods = _CLASS_METHODS.replace("RESAMPLES", f"{result.get('resamples', 0):,}")
    chosen = [(class_methods, result["class_names"]), (_REGRESSION_METHODS, result["regression"])]
    return [text for text, is_there in chosen if is_there]


def _target_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns one column per estimated parameter, and one row per measure; rows that no parameter has are left out."""
    columns = [_target_column(measured) for measured in result["regression"].values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    return ["Errors in dex", *result["regression"]], [
        [name, *(column.get(name, "") for column in columns)] for name in names
    ]


def _target_column(measured: dict[str, Any]) -> dict[str, str]:
    intervals = {
        key: Interval(**measured[key])
        for key in ("mae", "rmse", "bias", "r2", "pull_mean", "pull_std", "coverage")
        if measured[key]["value"] is not None and math.isfinite(measured[key]["value"])
    }
    names = {
        "rmse": "Root mean square error",
        "bias": "Bias (predicted − true)",
        "r2": "R²",
        "pull_mean": "Mean of the pulls",
        "pull_std": "Spread of the pulls",
    }
    column = {"Images with a true value": f"{measured['n']:,}"}
    column["Mean absolute error (MAE)"] = _signed_interval(intervals["mae"])
    column["MAE of always predicting the mean"] = format_value(measured["mae_of_mean"], 3)
    if measured["published_mae"] is not None:
        column["Best published MAE, on released images"] = f"{measured['published_mae']:g}"
    column |= {name: _signed_interval(intervals[key]) for key, name in names.items() if key in intervals}
    if "coverage" in intervals:
        kind = "calibrated" if measured["calibration"] else "predicted"
        of = f"{kind} {_percent(measured['nominal_coverage'])} intervals"
        column[f"Coverage of the {of}"] = _percent_interval(intervals["coverage"])
        column["Mean width of these intervals"] = format_value(measured["width"], 3)
    limits = {
        "psf": "Vortex shorter than the PSF above",
        "pixel": "Vortex shorter than a pixel above",
        "noise": "Vortex's length lost in noise above",
    }
    for key, name in limits.items():
        if measured["floor"] and measured["floor"][key] is not None:
            column[name] = _mass(measured["floor"][key])
    return column


def _signed_interval(interval: Interval) -> str:
    value, low, high = (format_value(x, 3).replace("-", "−") for x in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})" if interval.low < 0 else f"{value} ({low}–{high})"


def _percent_interval(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f}–{100 * interval.high:.1f} %)"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _mass(log10_m: float) -> str:
    return f"log₁₀ m = {log10_m:.2f}".replace("-", "−")


def _class_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["Class", "Images", "AUC", "Recall", "Precision"]
    rows = []
    for name, row in result["per_class"].items():
        auc, recall = (format_interval(Interval(**row["auc"])), format_interval(Interval(**row["recall"]), 3))
        rows.append([name, f"{row['n']:,}", auc, recall, format_value(row["precision"], 3)])
    macro = format_interval(Interval(**result["macro_auc"]))
    mean_recall = format_interval(Interval(**result["balanced_accuracy"]), 3)
    return header, [*rows, ["mean", f"{result['n_images']:,}", macro, mean_recall, ""]]


def _ranking_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rates = [rate for row in result["per_class"].values() for rate in row["tpr_at_fpr"]]
    rates = list(dict.fromkeys(rates))
    rows = [
        [
            name,
            format_interval(Interval(**row["average_precision"])),
            *(format_interval(Interval(**row["tpr_at_fpr"][rate]), 3) for rate in rates),
        ]
        for name, row in result["per_class"].items()
    ]
    macro = format_interval(Interval(**result["macro_average_precision"]))
    header = ["Class", "Average precision", *(f"TPR at {_percent(float(rate))} FPR" for rate in rates)]
    return header, [*rows, ["mean", macro, *[""] * len(rates)]]


def _probability_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the quality of the probabilities, as the network gives them and with its temperature, if it has one."""
    calibration = result["calibration"]
    stages = {"as the network says": calibration["before"]}
    if "after" in calibration:
        stages[f"with temperature {calibration['temperature']:.3f}"] = calibration["after"]
    names = {"nll": "Negative log-likelihood", "brier": "Brier score", "ece": "Calibration error"}
    return ["Less is better", *stages], [
        [name, *(format_interval(Interval(**stage[key])) for stage in stages.values())] for key, name in names.items()
    ]


def _overall(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "micro_auc": "Micro AUC",
        "macro_average_precision": "Mean average precision",
    }
    found = []
    for key, name in names.items():
        interval = Interval(**result[key])
        known = math.isfinite(interval.low)
        bounds = f"{format_value(interval.low)}–{format_value(interval.high)}" if known else ""
        found.append((name, format_value(interval.value), bounds))
    return found


PROTOCOL_NAMES = {
    "data": "Test data",
    "survey": "Survey",
    "noise": "Noise",
    "seed": "Seed of the images",
    "n_images": "Test images",
    "images_digest": "Digest of the images",
    "data_code_version": "Images made by haloformer",
    "model": "Model",
    "parameters": "Parameters",
    "targets": "Estimated parameters",
    "loss": "Loss of the estimates",
    "class_of": "Classes told apart",
    "image_shape": "Image (channels, height, width)",
    "network_shape": "Image as the model sees it",
    "normalization": "Normalisation",
    "run": "Run",
    "training_data": "Training data",
    "training_survey": "Training survey",
    "training_noise": "Training noise",
    "training_seed": "Training seed",
    "train_seed": "Seed of the training images",
    "val_seed": "Seed of the validation images",
    "n_train": "Training images (per epoch)",
    "n_val": "Validation images",
    "epochs": "Epochs, at most",
    "best_epoch": "Epoch kept (by validation macro AUC)",
    "val_macro_auc": "Validation macro AUC",
    "val_mae": "Validation MAE",
    "batch_size": "Batch size",
    "lr": "Learning rate",
    "weight_decay": "Weight decay",
    "augment": "Augmentation",
    "pretrained": "Pretrained weights",
    "training_code_version": "Trained by haloformer",
    "code_version": "Evaluated by haloformer",
    "device": "Device",
    "platform": "Platform",
    "cpu_count": "CPU cores",
    "torch_version": "PyTorch",
    "python_version": "Python",
    "date": "Date (UTC)",
}


def _protocol(result: dict[str, Any]) -> list[tuple[str, str]]:
    shown = []
    for key, name in PROTOCOL_NAMES.items():
        value = result["protocol"].get(key)
        if value is None or (key == "network_shape" and value == result["protocol"]["image_shape"]):
            continue
        if key == "best_epoch" and not result["class_names"]:
            name = "Epoch kept (by validation MAE)"
        if isinstance(value, list):
            text = (", " if key == "targets" else " × ").join(map(str, value))
            text += f" ({result['protocol']['fit']})" if key == "network_shape" else ""
        elif isinstance(value, dict):
            text = ", ".join(f"{name} → {group}" if name != group else name for name, group in value.items())
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, float):
            text = format_value(value) if key in ("val_macro_auc", "val_mae") else f"{value:g}"
        elif isinstance(value, int) and key in ("parameters", "n_images", "n_train", "n_val"):
            text = f"{value:,}"
        else:
            text = str(value)
        shown.append((name, text))
    return shown


# --- helpers ----------------------------------------------------------------------------------------------------------


def _e(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _cell(value: Any) -> str:
    """Escapes what Markdown would read as markup, and keeps a value on its line."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text


def _markdown_table(header: list[str], rows: Any) -> list[str]:
    """Returns the lines of a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_SERIES_DARK = ("#f08a4b", "#5aaee6", "#35c79b", "#dd9ac0", "#eab64d", "#8ccaf0", "#b0b0b0")  # OKABE_ITO, lightened


def _series(colours: tuple[str, ...]) -> str:
    return " ".join(f"--series-{k}: {colour};" for k, colour in enumerate(colours))


_CSS = """
:root { --paper: #ffffff; --ground: #f3f4f6; --ink: #1b1f24; --quiet: #5b626c; --line: #d9dde2; --accent: #0072b2;
  --warn: #fdf0d5; --warn-line: #d98e04; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #1a1d22; --ground: #111317; --ink: #e6e9ed; --quiet: #a2aab5;
  --line: #343a43; --accent: #6cb8ec; --warn: #3a2c0c; --warn-line: #e69f00; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
header, section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.25rem;
  margin-bottom: 1rem; }
.kicker { margin: 0; color: var(--quiet); font-size: .85rem; letter-spacing: .06em; text-transform: uppercase; }
h1 { margin: .1rem 0 .8rem; font-size: clamp(1.25rem, 4.5vw, 1.8rem); line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 .8rem; font-size: 1.15rem; }
.headlines { display: flex; flex-wrap: wrap; gap: .4rem 2.5rem; margin: 0 0 .6rem; }
.headline { display: flex; align-items: center; gap: .4rem .9rem; flex-wrap: wrap; margin: 0; }
.headline .value { font-size: clamp(2.4rem, 11vw, 3.6rem); font-weight: 700; line-height: 1; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.headline .value small { color: inherit; font-size: .5em; font-weight: 600; }
.headline + .headline .value { font-size: clamp(1.6rem, 7vw, 2.2rem); }
.headline .what { font-weight: 600; line-height: 1.35; }
.headline small { font-weight: 400; color: var(--quiet); font-size: .95rem; }
header p:last-child { margin-bottom: 0; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line); padding: .6rem .8rem; border-radius: 4px;
  overflow-wrap: anywhere; }
/* A shadow at the edge shows that a table goes on. */
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--paper) 1.5rem, transparent 3rem) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
.numbers th, .numbers td { white-space: nowrap; }
.numbers th:not(:first-child), .numbers td { text-align: right; }
.numbers tbody tr:last-child > * { font-weight: 700; border-bottom: 0; }
.measures tbody th { font-weight: 400; color: var(--quiet); white-space: normal; min-width: 9rem; }
.measures tbody tr:last-child > * { font-weight: 400; }
.plain tbody tr:last-child td { font-weight: 400; }
.plain th:nth-child(-n+3), .plain td:nth-child(-n+3) { text-align: left; }
thead th { color: var(--quiet); font-weight: 600; font-size: .9rem; }
.protocol { font-size: .95rem; }
.protocol th { font-weight: 400; color: var(--quiet); width: 40%; }
.protocol th, .protocol td { padding-left: 0; vertical-align: top; }
.protocol thead th:last-child { width: auto; }
.protocol td { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .6rem; margin: 1rem 0 0; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .7rem; }
.tiles dt { color: var(--quiet); font-size: .85rem; }
.tiles dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; display: flex; flex-wrap: wrap;
  align-items: baseline; column-gap: .4rem; }
.tiles small { font-weight: 400; color: var(--quiet); white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.5rem;
  grid-auto-flow: dense; }
.figures h2, .figures > p { grid-column: 1 / -1; margin-bottom: 0; }
.figures > .wide { grid-column: 1 / -1; }
.figures > figure:only-child { max-width: 44rem; }
figure { margin: 0; min-width: 0; }
section > figure { margin-bottom: 1.2rem; }
.figures > figure { margin-bottom: 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figure svg { display: block; width: 100%; height: auto; max-height: 90vh; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .4rem; }
.note { color: var(--quiet); font-size: .9rem; margin: .8rem 0 0; }
@media (max-width: 30rem) { main { padding: .6rem .5rem 2rem; } header, section { padding: .9rem .8rem; }
  .wide > div { overflow-x: auto; } .wide svg { min-width: 36rem; } .protocol th { width: 36%; }
  .numbers { font-size: .88rem; } .numbers th, .numbers td { padding: .4rem .4rem; } }
@media print { body { background: none; } header, section { border: 0; } figure { break-inside: avoid; } }
""".replace("LIGHT", _series(OKABE_ITO)).replace("DARK", _series(_SERIES_DARK))
