"""One evaluation as a page (HTML) and as text (Markdown).

The page is a single file: style inline, figures as inline SVG, no script, no font, no request. It follows the reader's
light or dark setting.
"""

import math
from typing import Any

from markupsafe import Markup

from haloformer.evaluation.metrics import has_exact_interval
from haloformer.reporting import html
from haloformer.reporting.html import Headline
from haloformer.reporting.interval import (
    Interval,
    format_interval,
    format_value,
    interval_text,
    percent,
    percent_interval,
    signed_interval,
)
from haloformer.reporting.markdown import cell, markdown_table

_CLASS_CAPTIONS = {
    "roc": "ROC curve of each class against the others together, with the area and its 95 % interval.",
    "confusion": "Predicted class (columns) of images of each true class (rows).",
    "reliability": "Accuracy against confidence, in equal bins of the highest probability; a calibrated model stays on the dotted "
    "line. Below: number of images.",
    "scores": "Predicted probability of each class, by the true class of the image.",
    "wrong": "The images that were misclassified with the highest confidence.",
    "hardest": "The hardest images: those with the smallest margin between the two likeliest classes.",
}


_LEARNING_CAPTION = "Learning curves; the dotted line marks the epoch whose weights were kept."


_CLASS_METHODS = (
    "AUC intervals are DeLong's, logit-transformed; those of the macro and micro AUC use the same structural components "
    "of all classes, as these share their images. Where an AUC is exactly 1 or 0 (marked *) DeLong's variance is 0 and "
    "means nothing: the interval is the exact binomial one, down to (α/2)^(1/n) with n the smallest class, wider than "
    "those beside it. Recall and accuracy have Wilson's intervals, the balanced "
    "accuracy Zou & Donner's combination of them. Average precision, TPR at a FPR, negative log-likelihood and Brier "
    "score have percentiles, the calibration error (15 equal bins of the highest probability) the pivotal interval of "
    "one bootstrap of RESAMPLES resamples within each class. AUCs and TPRs are of the network's own logits; a temperature "
    "changes probabilities only."
)


_REGRESSION_METHODS = (
    "Each parameter is measured on the images that have it. Errors are predicted − true, in dex (factors of ten). "
    "Intervals of MAE, RMSE, bias, R² and pulls are percentiles of a bootstrap over images, that of the coverage is "
    "Wilson's. A pull is an error divided by the model's own σ; if σ is right, pulls have mean 0 and standard deviation 1."
)


def captions(result: dict[str, Any]) -> dict[str, str]:
    """Returns the figures that a report may have, in its order, with their captions."""
    found: dict[str, str] = {}
    for name, caption in _CLASS_CAPTIONS.items() if result["class_names"] else ():
        if name == "scores":  # what matters more comes before
            found |= {
                f"by_{key}": _quantity_in_words(row) for key, row in result["by_quantity"].items()
            }
        found[name] = caption
    for name, measured in result["regression"].items():
        found[f"predicted_{name}"] = " ".join(
            [
                f"Predicted against true {name}, for the {measured['n']:,} images of class {measured['class_name']} "
                "that have it. A model without information predicts the mean for all.",
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
        what = f"the recall of {name} images, and their AUC against all images of other classes"
    return f"Against the {label[0].lower() + label[1:]}: {what}. Bins of equally many images, 95 % intervals."


def _expected_in_words(calibration: dict[str, Any]) -> str:
    low, high = (f"{100 * end:.1f}" for end in calibration["expected"])
    return f"with {calibration['n']:,} calibration images, chance alone varies it between {low} and {high} %"


def _floor_in_words(floor: dict[str, Any] | None) -> list[str]:
    if not floor:
        return []
    limits = [f"the pixel above {_mass(floor['pixel'])}"]
    if floor["psf"] is not None:
        limits.insert(0, f"the PSF above {_mass(floor['psf'])}")
    text = f"Shaded: the vortex's half-length λ is shorter than the camera resolves ({', '.join(limits)})"
    if floor["noise"] is None:
        return [
            text
            + "; its length then shows as a small change of brightness only, which these images may still reveal."
        ]
    return [
        text
        + f", or hidden by noise (above {_mass(floor['noise'])}): with all else known, an image then differs from "
        "one with a point of the same mass by less than 2 standard deviations, and no method can measure the length."
    ]


def _published_in_words(measured: dict[str, Any]) -> list[str]:
    if measured["published_mae"] is None:
        return []
    return [
        f"Dotted green: the best published error, {measured['published_mae']:g} dex, on this survey's released images."
    ]


def _coverage_in_words(name: str, measured: dict[str, Any]) -> str:
    text = (
        f"Share of intervals of {name} that contain the true value, against their nominal coverage."
    )
    if measured["coverage_by_sigma"]:
        text += " The line: the model's own σ, which is calibrated on the diagonal."
    if measured["calibration"]:
        coverage = Interval(**measured["coverage"])
        text += (
            f" The diamond: the calibrated intervals, with a nominal coverage of {percent(measured['nominal_coverage'])} and a measured one of "
            f"{percent_interval(coverage)}; {_expected_in_words(measured['calibration'])}. This holds on average over images of class "
            f"{measured['class_name']} that are like those of the calibration, from the same survey with the same noise: "
            "it may be lower where an image holds no information on the value, and higher elsewhere."
        )
    return text


def to_markdown(result: dict[str, Any], figures: dict[str, str] | None = None) -> str:
    """Returns the report as Markdown.

    Args:
        result: What ``evaluate`` returns.
        figures: Name of each figure and its path relative to the report.
    """
    lines = ["# Evaluation of " + cell(result["protocol"]["model"]), ""]
    lines += [
        line
        for what, value, unit, interval in _headlines(result)
        for line in (f"**{what} {value}{unit}** ({interval})", "")
    ]
    lines += [cell(_subject(result)), ""]
    lines += [
        line for warning in result["warnings"] for line in (f"> **Warning:** {cell(warning)}", "")
    ]
    if result["class_names"]:
        lines += [*markdown_table(*_class_table(result)), ""]
        lines += [*markdown_table(*_ranking_table(result)), ""]
        lines += [*markdown_table(["Over all classes", "", "95 % interval"], _overall(result)), ""]
        lines += [*markdown_table(*_probability_table(result)), ""]
    if result["regression"]:
        lines += [*markdown_table(*_target_table(result)), ""]
    texts = captions(result)
    for name, path in (figures or {}).items():
        lines += [
            f"![{cell(texts[name].partition('. ')[0])}]({path})",
            "",
            f"*{cell(texts[name])}*",
            "",
        ]
    lines += ["## Protocol", "", *markdown_table(["", ""], list(_protocol(result))), ""]
    return "\n".join([*lines, *(line for text in _methods(result) for line in (text, ""))])


def to_html(result: dict[str, Any], figures: dict[str, Markup] | None = None) -> str:
    """Returns the report as one self-contained page.

    Args:
        result: What ``evaluate`` returns.
        figures: Name of each figure and its ``<svg>`` element, of `reporting.style.inline_svg`.
    """
    figures = figures or {}
    shown = [
        html.figure(name, figures[name], caption)
        for name, caption in captions(result).items()
        if name in figures
    ]
    if result.get("n_wrong") == 0:
        shown.append(html.paragraph("No image was misclassified, so none is shown."))
    lead = [
        html.headlines(_headlines(result)),
        html.paragraph(_subject(result)),
        *map(html.warning, result["warnings"]),
    ]
    notes = [html.paragraph(text, kind="note") for text in _methods(result)]
    sections = [
        *(_class_sections(result) if result["class_names"] else []),
        *(_target_sections(result) if result["regression"] else []),
        html.section("Figures", *shown, kind="figures"),
        html.section("Protocol", html.pairs_table(_protocol(result)), *notes),
    ]
    return html.page("evaluation", _title(result), lead, sections)


def _class_sections(result: dict[str, Any]) -> list[Markup]:
    return [
        html.section(
            "Each class against the rest",
            html.table(*_class_table(result), kind="numbers"),
            html.tiles(_overall(result)),
        ),
        html.section(
            "Finding a class among the others",
            html.table(*_ranking_table(result), kind="numbers"),
        ),
        html.section("The probabilities", html.table(*_probability_table(result))),
    ]


def _target_sections(result: dict[str, Any]) -> list[Markup]:
    return [html.section("Estimated parameters", html.table(*_target_table(result)))]


def _title(result: dict[str, Any]) -> str:
    return f"{result['protocol']['model']} on {result['protocol']['data']}"


def _headlines(result: dict[str, Any]) -> list[Headline]:
    """Returns the main results: the macro AUC, and the mean absolute error of each parameter."""
    found = []
    if result["class_names"]:
        macro = Interval(**result["macro_auc"])
        found.append(
            Headline(
                "Macro AUC",
                format_value(macro.value),
                "",
                interval_text(macro, result["confidence"]),
            )
        )
    for name, measured in result["regression"].items():
        mae = Interval(**measured["mae"])
        interval = interval_text(mae, measured["confidence"], 3)
        found.append(
            Headline(f"Mean absolute error of {name}", format_value(mae.value, 3), " dex", interval)
        )
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
        counts = ", ".join(
            f"{n:,} images of class {name}" for name, n in result["left_out"].items()
        )
        why = (
            "the model was trained without them"
            if result["class_names"]
            else "there is nothing to estimate in them"
        )
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
        "pull_std": "Standard deviation of the pulls",
    }
    column = {"Images with a true value": f"{measured['n']:,}"}
    column["Mean absolute error (MAE)"] = signed_interval(intervals["mae"])
    column["MAE of always predicting the mean"] = format_value(measured["mae_of_mean"], 3)
    if measured["published_mae"] is not None:
        column["Best published MAE, on released images"] = f"{measured['published_mae']:g}"
    column |= {
        name: signed_interval(intervals[key]) for key, name in names.items() if key in intervals
    }
    if "coverage" in intervals:
        kind = "calibrated" if measured["calibration"] else "predicted"
        of = f"{kind} {percent(measured['nominal_coverage'])} intervals"
        column[f"Coverage of the {of}"] = percent_interval(intervals["coverage"])
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


def _mass(log10_m: float) -> str:
    return f"log₁₀ m = {log10_m:.2f}".replace("-", "−")


def _auc_in_words(auc: dict[str, float]) -> str:
    """Returns an AUC with its interval, marked where that is not DeLong's."""
    return format_interval(Interval(**auc)) + ("*" if has_exact_interval(auc["value"]) else "")


def _class_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["Class", "Images", "AUC", "Recall", "Precision"]
    rows = []
    for name, row in result["per_class"].items():
        auc, recall = (
            _auc_in_words(row["auc"]),
            format_interval(Interval(**row["recall"]), 3),
        )
        rows.append([name, f"{row['n']:,}", auc, recall, format_value(row["precision"], 3)])
    macro = _auc_in_words(result["macro_auc"])
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
    header = [
        "Class",
        "Average precision",
        *(f"TPR at {percent(float(rate))} FPR" for rate in rates),
    ]
    return header, [*rows, ["mean", macro, *[""] * len(rates)]]


def _probability_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the quality of the probabilities, as the network gives them and with its temperature, if it has one."""
    calibration = result["calibration"]
    stages = {"without temperature": calibration["before"]}
    if "after" in calibration:
        stages[f"with temperature {calibration['temperature']:.3f}"] = calibration["after"]
    names = {"nll": "Negative log-likelihood", "brier": "Brier score", "ece": "Calibration error"}
    return ["Less is better", *stages], [
        [name, *(format_interval(Interval(**stage[key])) for stage in stages.values())]
        for key, name in names.items()
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
    protocol = result["protocol"]
    shown = []
    for key, name in PROTOCOL_NAMES.items():
        value = protocol.get(key)
        if value is None or (key == "network_shape" and value == protocol["image_shape"]):
            continue
        if key == "best_epoch" and not result["class_names"]:
            name = "Epoch kept (by validation MAE)"
        text = _protocol_value(key, value)
        shown.append((name, f"{text} ({protocol['fit']})" if key == "network_shape" else text))
    return shown


def _protocol_value(key: str, value: object) -> str:
    if isinstance(value, list):
        return (", " if key == "targets" else " × ").join(map(str, value))
    if isinstance(value, dict):
        pairs = value.items()
        return ", ".join(f"{name} → {group}" if name != group else name for name, group in pairs)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_value(value) if key in ("val_macro_auc", "val_mae") else f"{value:g}"
    if isinstance(value, int) and key in ("parameters", "n_images", "n_train", "n_val"):
        return f"{value:,}"
    return str(value)
