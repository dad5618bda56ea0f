"""`compare`: several models on the same test images, side by side, and whether their differences are more than chance."""

import csv
import datetime
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.evaluation import figures
from haloformer.evaluation.answers import answers_of, check_that_something_can_be_measured
from haloformer.evaluation.drawing import save_figures
from haloformer.evaluation.metrics import (
    classification_metrics,
    holm,
    log_odds,
    paired_accuracy,
    paired_difference,
)
from haloformer.evaluation.report import PROTOCOL_NAMES, images_in_words
from haloformer.evaluation.result import plain
from haloformer.evaluation.testset import (
    ImageSource,
    class_order,
    contamination,
    mismatches,
    open_test_images,
    training_of,
    unused_seed,
)
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.strict_json import read_json, to_json
from haloformer.prediction.predictor import load
from haloformer.reporting import html, interval
from haloformer.reporting.interval import CONFIDENCE, Difference, Interval
from haloformer.reporting.markdown import cell, markdown_table
from haloformer.vocabulary import CLASS_ALIASES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compare"]

RESULT_FORMAT = 1
_FILES = ("comparison.json", "report.html")  # by which a comparison is known
_SAME = ("data", "survey", "noise", "seed", "images_digest")


@dataclass(frozen=True)
class Entry:
    """What one model says of the N test images.

    Attributes:
        name: For the tables.
        class_names: The K classes.
        index: (N,) number of each image in the data.
        labels: (N,) index into ``class_names``.
        logits: (N, K) float64.
        temperature: Of its probabilities.
        protocol: ``data``, ``survey``, ``noise``, ``seed``, ``images_digest``, ``model`` and ``parameters``.
        warnings: On the model and these images.
        contaminated: It was trained or selected on these images.
    """

    name: str
    class_names: tuple[str, ...]
    index: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    temperature: float
    protocol: dict[str, Any]
    warnings: list[str]
    contaminated: bool


def compare(
    runs: list[str],
    *,
    data: str | None = None,
    out: str = "comparison",
    n: int | None = None,
    seed: int | None = None,
    noise: Literal["original", "instrument", "none"] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Compares trained models on the same test images, with paired tests against the first of them.

    The folder ``out`` gets ``report.html`` (one self-contained page), ``report.md``, ``comparison.json`` and ``figures/``.
    It appears only when all of it is written.

    Args:
        runs: Two or more run folders, artefact folders or names of shipped models; or folders that evaluations of the
            same images wrote, which are then not asked again. The first is what the others are compared with.
        data: A dataset (.h5), or the name of a survey, of which fresh test images are then simulated; not with folders
            of evaluations.
        out: Folder to write.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default one that no model was trained or selected with; for a survey only.
        noise: Of the images to simulate; by default that of the first model's training; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Replace an earlier comparison in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``comparison.json`` (NaN where that says null), with ``out`` and ``report``, the paths of the folder
        and of the page.

    Raises:
        InputError: Something cannot be read, the models tell different classes apart, or had different images.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")
    if len(runs) < 2:
        raise InputError("a comparison needs at least two models")
    names = _names(runs)
    target = Path(out)
    refuse_existing(target, overwrite, _FILES, "comparison")
    evaluated = [_is_evaluation(Path(run)) for run in runs]
    if all(evaluated):
        given = {"data": data, "n": n, "seed": seed, "noise": noise}
        for option, value in given.items():
            if value is not None:
                raise InputError(
                    f"'{option}' is for models to be tested; {runs[0]} and the others were tested already"
                )
        entries = [_from_folder(Path(run), name) for run, name in zip(runs, names)]
    elif data is None:
        other = next(run for run, known in zip(runs, evaluated) if not known)
        raise InputError(f"{other}: is no evaluation: name the images to test all models on (data)")
    else:
        if any(evaluated):
            raise InputError(
                f"{runs[evaluated.index(True)]}: is an evaluation; with 'data', give the runs themselves"
            )
        entries = _from_models(runs, names, data, n, seed, noise, batch_size, device, progress)
    entries = _aligned(entries)
    result = _result(entries)
    drawn = _draw(result, entries)
    with new_folder(target, overwrite, _FILES, "comparison") as part:
        svgs, pngs = save_figures(part, drawn)
        (part / "report.html").write_text(_to_html(result, svgs), encoding="utf-8")
        (part / "report.md").write_text(_to_markdown(result, pngs), encoding="utf-8")
        (part / _FILES[0]).write_text(to_json(result), encoding="utf-8")
    return {**result, "out": str(target), "report": str(target / "report.html")}


def _is_evaluation(path: Path) -> bool:
    return (path / "predictions.csv").is_file() and (path / "metrics.json").is_file()


def _names(runs: list[str]) -> list[str]:
    """Returns short names that differ: the last parts of the paths, as many as it takes."""
    paths = [Path(run).resolve() if Path(run).exists() else Path(run) for run in runs]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{runs[i]}: is given twice")
    skipped = {"artefact", "evaluation"}
    parts = [
        [part for part in path.parts if part not in skipped] or list(path.parts) for path in paths
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            # Evaluations of the same data end alike; what they have in common says nothing.
            ends = {part[-1] for part in parts}
            return (
                ["/".join(part[-length:-1]) for part in parts]
                if length > 1 and len(ends) == 1
                else names
            )
    return [str(path) for path in paths]


# --- what the models say ----------------------------------------------------------------------------------------------


def _from_models(
    runs: list[str],
    names: list[str],
    data: str,
    n: int | None,
    seed: int | None,
    noise: str | None,
    batch_size: int,
    device: str,
    progress: bool | None,
) -> list[Entry]:
    predictors = [load(run, device) for run in runs]
    for run, predictor in zip(runs, predictors):
        if not predictor.class_names:
            raise InputError(
                f"{run}: estimates {', '.join(predictor.outputs.targets)}; only classifiers are compared"
            )
    first = open_test_images(data, predictors[0], n=n, seed=seed, noise=noise)
    sources: list[ImageSource] = [first]
    if first.path is None:
        seed = unused_seed(*map(training_of, predictors)) if seed is None else seed
        n, noise = first.n, first.attributes["noise"]
        sources = [open_test_images(data, predictors[0], n=n, seed=seed, noise=noise)]
    sources += [
        open_test_images(data, predictor, n=n, seed=seed, noise=noise)
        for predictor in predictors[1:]
    ]
    orders = [
        class_order(images, predictor) for images, predictor in zip(sources, predictors)
    ]  # before the long part
    entries = []
    for name, images, predictor, order in zip(names, sources, predictors, orders):
        answers = answers_of(predictor, images, order, batch_size, progress)
        check_that_something_can_be_measured(predictor, images, answers)
        seen = contamination(predictor, images)
        protocol: dict[str, Any] = {"data": images.name, "images_digest": answers.digest}
        protocol |= {key: images.attributes.get(key) for key in ("survey", "noise", "seed")}
        protocol["model"] = predictor.artefact["model"]["name"]
        protocol["parameters"] = sum(
            parameter.numel() for parameter in predictor.model.parameters()
        )
        entries.append(
            Entry(
                name=name,
                class_names=predictor.class_names,
                index=answers.index,
                labels=answers.labels,
                logits=answers.logits,
                temperature=predictor.temperature,
                protocol=protocol,
                warnings=seen + mismatches(predictor, images),
                contaminated=bool(seen),
            )
        )
    return entries


def _from_folder(folder: Path, name: str) -> Entry:
    """Reads what an evaluation wrote; nothing of it is trusted."""
    where = folder / "metrics.json"
    metrics = read_json(where)
    classes, protocol = metrics.get("class_names"), metrics.get("protocol")
    if not isinstance(classes, list) or not all(isinstance(item, str) for item in classes):
        raise InputError(f"{where}: class_names must be a list of names")
    if not classes:
        raise InputError(
            f"{folder}: is of a model that estimates parameters; only classifiers are compared"
        )
    if not isinstance(protocol, dict):
        raise InputError(f"{where}: protocol is missing")
    calibration, warnings = metrics.get("calibration"), metrics.get("warnings")
    temperature = calibration.get("temperature", 1.0) if isinstance(calibration, dict) else 1.0
    if (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float)
        or not 0 < temperature < np.inf
    ):
        raise InputError(f"{where}: calibration.temperature must be a positive number")
    index, labels, logits = _read_predictions(folder / "predictions.csv", classes)
    return Entry(
        name=name,
        class_names=tuple(classes),
        index=index,
        labels=labels,
        logits=logits,
        temperature=float(temperature),
        protocol={key: protocol.get(key) for key in (*_SAME, "model", "parameters")},
        warnings=[str(text) for text in warnings] if isinstance(warnings, list) else [],
        contaminated=metrics.get("contaminated") is True,
    )


def _read_predictions(path: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = {name: k for k, name in enumerate(classes)}
    index, labels, logits = [], [], []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            wanted = ["index", "label", *(f"logit_{name}" for name in classes)]
            if missing := [name for name in wanted if name not in (reader.fieldnames or [])]:
                raise InputError(f"{path}: column {missing[0]} is missing")
            for line, row in enumerate(reader, 2):
                try:
                    index.append(np.int64(row["index"]))
                    labels.append(numbers[row["label"]])
                    logits.append([float(row[name]) for name in wanted[2:]])
                except (KeyError, TypeError, ValueError, OverflowError) as error:
                    raise InputError(
                        f"{path}, line {line}: is not a prediction of {', '.join(classes)}"
                    ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    values = np.array(logits, np.float64).reshape(-1, len(classes))
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds NaN or infinite logits")
    if len(set(labels)) < 2:
        raise InputError(f"{path}: holds images of fewer than two classes; an AUC needs two")
    return np.array(index), np.array(labels), values


def _aligned(entries: list[Entry]) -> list[Entry]:
    """Returns the entries with the first one's order of classes; raises InputError if classes or images differ."""
    first = entries[0]
    wanted = [CLASS_ALIASES.get(name.lower(), name) for name in first.class_names]
    aligned = [first]
    for entry in entries[1:]:
        names = [CLASS_ALIASES.get(name.lower(), name) for name in entry.class_names]
        if sorted(names) != sorted(wanted):
            raise InputError(
                f"{entry.name} tells {', '.join(entry.class_names)} apart, but {first.name} {', '.join(first.class_names)}"
            )
        columns = [names.index(name) for name in wanted]
        labels = np.argsort(columns)[entry.labels]
        same = np.array_equal(entry.index, first.index) and np.array_equal(labels, first.labels)
        digests = (entry.protocol["images_digest"], first.protocol["images_digest"])
        # Where an evaluation has no digest, what it says of its images must do.
        keys = ("images_digest",) if all(digests) else ("data", "survey", "noise", "seed")
        differ = [key for key in keys if entry.protocol[key] != first.protocol[key]]
        if not same or differ:
            raise InputError(
                f"{entry.name} was tested on other images than {first.name}: compare the runs themselves, with 'data'"
            )
        aligned.append(
            replace(
                entry,
                class_names=first.class_names,
                labels=first.labels,
                logits=entry.logits[:, columns],
            )
        )
    return aligned


# --- the result -------------------------------------------------------------------------------------------------------


def _result(entries: list[Entry]) -> dict[str, Any]:
    first, classes = entries[0], entries[0].class_names
    present = [k for k in range(len(classes)) if 0 < np.sum(first.labels == k) < len(first.labels)]
    measures = {
        "macro_auc": "Macro AUC",
        **{f"auc_{classes[k]}": f"AUC of {classes[k]}" for k in present},
    }
    measures["accuracy"] = "Accuracy"
    models = []
    for entry in entries:
        metrics = classification_metrics(
            first.labels, entry.logits, classes, temperature=entry.temperature
        )
        facts = {"model": entry.protocol["model"], "parameters": entry.protocol["parameters"]}
        models.append(
            {"name": entry.name, **facts, "contaminated": entry.contaminated, **plain(metrics)}
        )
    found: list[dict[str, Difference]] = []
    for entry in entries[1:]:
        differences = {"macro_auc": paired_difference(first.labels, entry.logits, first.logits)}
        differences |= {
            f"auc_{classes[k]}": paired_difference(first.labels, entry.logits, first.logits, k)
            for k in present
        }
        right, others = (e.logits.argmax(axis=1) == first.labels for e in (entry, first))
        found.append({**differences, "accuracy": paired_accuracy(right, others)})
    corrected = iter(holm([difference.p for row in found for difference in row.values()]))
    return {
        "format": RESULT_FORMAT,
        "class_names": list(classes),
        "n_images": len(first.labels),
        "confidence": CONFIDENCE,
        "reference": first.name,
        "measures": measures,
        "models": models,
        "differences": [
            {
                "name": entry.name,
                "differences": {
                    key: {**asdict(d), "p_holm": next(corrected)} for key, d in row.items()
                },
            }
            for entry, row in zip(entries[1:], found)
        ],
        "warnings": [f"{entry.name}: {text}" for entry in entries for text in entry.warnings],
        "protocol": {
            **{key: first.protocol[key] for key in _SAME},
            "n_images": len(first.labels),
            "code_version": code_version(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        },
    }


def _draw(result: dict[str, Any], entries: list[Entry]) -> dict[str, "Figure"]:
    labels, scores = entries[0].labels, [log_odds(entry.logits) for entry in entries]
    names = [entry.name for entry in entries]
    drawn = {
        "differences": figures.differences(
            result["differences"], result["measures"], result["reference"]
        )
    }
    for k, class_name in enumerate(result["class_names"]):
        if f"auc_{class_name}" in result["measures"]:
            aucs = [Interval(**model["per_class"][class_name]["auc"]) for model in result["models"]]
            drawn[_roc_name(k, class_name)] = figures.roc_of_models(
                labels, scores, k, class_name, names, aucs
            )
    return drawn


def _roc_name(k: int, class_name: str) -> str:
    """Returns a name for files; a class may be called anything."""
    return f"roc_{class_name if class_name.isidentifier() and class_name.isascii() else k}"


# --- the report -------------------------------------------------------------------------------------------------------

_METHODS = (
    "All models answered for the same images, so that their errors are correlated; differences are taken image by image. "
    "AUCs: DeLong's test of correlated ROC curves, for the macro AUC with the terms of all classes. Accuracy: McNemar's "
    "exact test, with Agresti & Min's interval. Intervals hold with 95 % confidence each. The corrected p-values are "
    "Holm's, for all tests in the table together. They cover other test images, not another training: whether a recipe "
    "is better than another takes several seeds each, as haloformer study runs."
)


def _title(result: dict[str, Any]) -> str:
    return " vs ".join(model["name"] for model in result["models"])


def _subject(result: dict[str, Any]) -> str:
    return (
        f"Compared on the same {images_in_words(result)}; differences are to {result['reference']}."
    )


def _side_by_side(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = {
        "macro_auc": "Macro AUC",
        "micro_auc": "Micro AUC",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "macro_average_precision": "Mean average precision",
        "nll": "Negative log-likelihood",
        "brier": "Brier score",
        "ece": "Calibration error",
    }
    models = result["models"]
    table = [
        [name, *(interval.format_interval(Interval(**model[key])) for model in models)]
        for key, name in rows.items()
    ]
    aucs = [
        [
            f"AUC of {name}",
            *(
                interval.format_interval(Interval(**model["per_class"][name]["auc"]))
                for model in models
            ),
        ]
        for name in result["class_names"]
    ]
    facts = [
        ["Network", *(str(model["model"] or "") for model in models)],
        [
            "Parameters",
            *(f"{m['parameters']:,}" if isinstance(m["parameters"], int) else "" for m in models),
        ],
    ]
    return ["", *(model["name"] for model in models)], [*facts, table[0], *aucs, *table[1:]]


def _difference_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for row in result["differences"]:
        for key, title in result["measures"].items():
            found = row["differences"][key]
            width = found["high"] - found["low"]
            digits = (
                max(4, 1 - int(np.floor(np.log10(width)))) if width > 1e-9 else 4
            )  # two of the interval at least
            bounds = (
                f" ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"
                if np.isfinite(width)
                else ""
            )
            text = f"{found['value']:+.{digits}f}{bounds}".replace("-", "−")
            rows.append([row["name"], title, text, _p_text(found["p"]), _p_text(found["p_holm"])])
    return ["Model", "Measure", f"Difference to {result['reference']}", "p", "p, corrected"], rows


def _p_text(p: float) -> str:
    if not np.isfinite(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _captions(result: dict[str, Any]) -> dict[str, str]:
    found = {
        "differences": f"Differences to {result['reference']}, paired by image, with their 95 % intervals."
    }
    for k, name in enumerate(result["class_names"]):
        found[_roc_name(k, name)] = f"ROC curves of {name} against the other classes together."
    return found


def _protocol_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, str(result["protocol"][key]))
        for key, name in PROTOCOL_NAMES.items()
        if result["protocol"].get(key) is not None
    ]


def _to_html(result: dict[str, Any], svgs: dict[str, Markup]) -> str:
    captions = _captions(result)
    figures = [html.figure(name, svg, captions[name]) for name, svg in svgs.items()]
    protocol = html.pairs_table(_protocol_rows(result))
    sections = [
        html.section("Differences", html.table(*_difference_table(result))),
        html.section("Side by side", html.table(*_side_by_side(result))),
        html.section("Figures", *figures, kind="figures"),
        html.section("Protocol", protocol, html.paragraph(_METHODS, kind="note")),
    ]
    lead = [html.paragraph(_subject(result)), *map(html.warning, result["warnings"])]
    return html.page("comparison", _title(result), lead, sections)


def _to_markdown(result: dict[str, Any], pngs: dict[str, str]) -> str:
    captions = _captions(result)
    lines = [f"# {cell(_title(result))}", "", cell(_subject(result)), ""]
    lines += [
        line for warning in result["warnings"] for line in (f"> **Warning:** {cell(warning)}", "")
    ]
    for title, (header, rows) in (
        ("Differences", _difference_table(result)),
        ("Side by side", _side_by_side(result)),
    ):
        lines += [f"## {title}", "", *markdown_table([cell(name) for name in header], rows), ""]
    for name, path in pngs.items():
        lines += [f"![{cell(captions[name])}]({path})", "", f"*{cell(captions[name])}*", ""]
    lines += [
        "## Protocol",
        "",
        *markdown_table(["", ""], _protocol_rows(result)),
        "",
        _METHODS,
        "",
    ]
    return "\n".join(lines)
