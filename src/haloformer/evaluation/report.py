"""One evaluation as a page to read (HTML), as text (Markdown), and for machines (JSON).

The page is a single file: styles inline, figures as inline SVG, no script, no font, no request. It follows the reader's
light or dark setting. Everything that comes from outside (class names, file names, settings) is escaped.
"""

import html
import json
import math
from typing import Any

from haloformer.evaluation.figures import OKABE_ITO, format_interval, format_value
from haloformer.evaluation.metrics import Interval

CAPTIONS = {
    "roc": "ROC curve of each class against the other two together, with the area and its 95 % interval.",
    "confusion": "Which class the model named (columns) for images of each true class (rows).",
    "scores": "How sure the model is: its probability for each class, by the true class of the image.",
    "wrong": "The images that the model got wrong with the most confidence.",
    "learning": "How training went; the dotted line marks the epoch whose weights were kept.",
}
"""Figures in the order of the report, with their captions."""

METHODS = (
    "AUC intervals are DeLong's, logit-transformed; that of the macro AUC uses the same structural components of all "
    "classes, so it knows that they share images. Where an AUC is exactly 1 the lower bound is the exact binomial one, "
    "(α/2)^(1/n) with n the smallest class. Recall and accuracy have Wilson's intervals. The calibration error has 15 "
    "equal bins of the highest probability."
)


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
    lines += [f"**{_headline(result)}**", "", _cell(_subject(result)), ""]
    lines += [line for warning in result["warnings"] for line in (f"> **Warning:** {_cell(warning)}", "")]
    header, rows = _class_table(result)
    lines += _markdown_table(header, rows)
    lines += ["", *_markdown_table(["Over all classes", "", "95 % interval"], _overall(result)), ""]
    for name, path in (figures or {}).items():
        lines += [f"![{CAPTIONS[name]}]({path})", "", f"*{CAPTIONS[name]}*", ""]
    lines += ["## Protocol", "", *_markdown_table(["", ""], list(_protocol(result))), "", METHODS, ""]
    return "\n".join(lines)


def to_html(result: dict[str, Any], figures: dict[str, str] | None = None) -> str:
    """Returns the report as one self-contained page.

    Args:
        result: What ``evaluate`` returns.
        figures: Name of each figure and its ``<svg>`` element (`figures.inline_svg`), which is trusted.
    """
    figures = figures or {}
    header, rows = _class_table(result)
    warnings = "".join(f'<p class="warning"><strong>Warning.</strong> {_e(text)}</p>' for text in result["warnings"])
    tiles = "".join(
        f"<div><dt>{_e(name)}</dt><dd>{_e(value)}<small>{_e(interval)}</small></dd></div>"
        for name, value, interval in _overall(result)
    )
    pictures = "".join(
        f'<figure id="figure-{name}"><div role="img" aria-label="{_e(caption)}">{figures[name]}</div>'
        f"<figcaption>{_e(caption)}</figcaption></figure>"
        for name, caption in CAPTIONS.items()
        if name in figures
    )
    if result["n_wrong"] == 0:
        pictures += "<p>No image was classified wrongly, so there is no panel of wrong ones.</p>"
    protocol = "".join(
        f'<tr><th scope="row">{_e(name)}</th><td>{_e(value)}</td></tr>' for name, value in _protocol(result)
    )
    body_rows = "".join(
        f'<tr><th scope="row">{_e(first)}</th>' + "".join(f"<td>{_e(value)}</td>" for value in rest) + "</tr>"
        for first, *rest in rows
    )
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in header)
    macro = Interval(**result["macro_auc"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{_e(_title(result))}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<header>
<p class="kicker">haloformer evaluation</p>
<h1>{_e(_title(result))}</h1>
<p class="headline"><span class="value">{_e(format_value(macro.value))}</span>
<span class="what">macro AUC<br><small>{_e(_interval_text(macro, result["confidence"]))}</small></span></p>
<p>{_e(_subject(result))}</p>
{warnings}
</header>
<section>
<h2>Each class against the rest</h2>
<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body_rows}</tbody></table></div>
<dl class="tiles">{tiles}</dl>
</section>
<section class="figures">
<h2>Figures</h2>
{pictures}
</section>
<section>
<h2>Protocol</h2>
<table class="protocol"><tbody>{protocol}</tbody></table>
<p class="note">{_e(METHODS)}</p>
</section>
</main>
</body>
</html>
"""


# --- what both texts say ----------------------------------------------------------------------------------------------


def _title(result: dict[str, Any]) -> str:
    return f"{result['protocol']['model']} on {result['protocol']['data']}"


def _interval_text(interval: Interval, confidence: float) -> str:
    if not math.isfinite(interval.low):
        return "no interval: too few images"
    return f"{confidence:.0%} interval {format_value(interval.low)}–{format_value(interval.high)}".replace("%", " %")


def _headline(result: dict[str, Any]) -> str:
    macro = Interval(**result["macro_auc"])
    return f"Macro AUC {format_value(macro.value)} ({_interval_text(macro, result['confidence'])})"


def _subject(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    text = f"Measured on {result['n_images']:,} images"
    if protocol.get("survey"):
        text += f" of survey {protocol['survey']}"
    if protocol.get("seed") is not None:
        text += f", seed {protocol['seed']}"
    return text + (", which the model has seen in training." if result["contaminated"] else ".")


def _class_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["Class", "Images", "AUC", "Recall", "Precision"]
    rows = []
    for name, row in result["per_class"].items():
        auc, recall = (format_interval(Interval(**row["auc"])), format_interval(Interval(**row["recall"]), 3))
        rows.append([name, f"{row['n']:,}", auc, recall, format_value(row["precision"], 3)])
    macro = format_interval(Interval(**result["macro_auc"]))
    mean_recall = format_value(result["balanced_accuracy"], 3)
    return header, [*rows, ["mean", f"{result['n_images']:,}", macro, mean_recall, ""]]


def _overall(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    accuracy = Interval(**result["accuracy"])
    bounds = f"{format_value(accuracy.low)}–{format_value(accuracy.high)}"
    return [
        ("Accuracy", format_value(accuracy.value), bounds),
        ("Balanced accuracy", format_value(result["balanced_accuracy"]), ""),
        ("Negative log-likelihood", f"{result['nll']:.4g}", ""),
        ("Brier score", f"{result['brier']:.4g}", ""),
        ("Calibration error", f"{result['ece']:.4g}", ""),
    ]


_PROTOCOL_NAMES = {
    "data": "Test data",
    "survey": "Survey",
    "noise": "Noise",
    "seed": "Seed of the images",
    "n_images": "Test images",
    "data_code_version": "Images made by haloformer",
    "model": "Model",
    "parameters": "Parameters",
    "image_shape": "Image (channels, height, width)",
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
    for key, name in _PROTOCOL_NAMES.items():
        value = result["protocol"].get(key)
        if value is None:
            continue
        if isinstance(value, list):
            text = " × ".join(map(str, value))
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, float):
            text = format_value(value) if key == "val_macro_auc" else f"{value:g}"
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
.headline { display: flex; align-items: center; gap: .9rem; flex-wrap: wrap; margin: 0 0 .6rem; }
.headline .value { font-size: clamp(2.4rem, 11vw, 3.6rem); font-weight: 700; line-height: 1; color: var(--accent);
  font-variant-numeric: tabular-nums; }
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
thead th { color: var(--quiet); font-weight: 600; font-size: .9rem; }
.protocol { font-size: .95rem; }
.protocol th { font-weight: 400; color: var(--quiet); width: 40%; }
.protocol th, .protocol td { padding-left: 0; vertical-align: top; }
.protocol td { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .6rem; margin: 1rem 0 0; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .7rem; }
.tiles dt { color: var(--quiet); font-size: .85rem; }
.tiles dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; display: flex; flex-wrap: wrap;
  align-items: baseline; column-gap: .4rem; }
.tiles small { font-weight: 400; color: var(--quiet); white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.5rem; }
.figures h2, .figures > p { grid-column: 1 / -1; margin-bottom: 0; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-height: 90vh; }
figcaption { color: var(--quiet); font-size: .9rem; margin-top: .4rem; }
.note { color: var(--quiet); font-size: .9rem; margin: .8rem 0 0; }
@media (max-width: 30rem) { main { padding: .6rem .5rem 2rem; } header, section { padding: .9rem .8rem; }
  .numbers { font-size: .88rem; } .numbers th, .numbers td { padding: .4rem .4rem; } }
@media print { body { background: none; } header, section { border: 0; } figure { break-inside: avoid; } }
""".replace("LIGHT", _series(OKABE_ITO)).replace("DARK", _series(_SERIES_DARK))
