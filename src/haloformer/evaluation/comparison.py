"""The body of `compare`: several models on the same test images, and whether their differences are more than chance."""

import csv
import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer._version import code_version
from haloformer.errors import InputError, reason_of
from haloformer.evaluation import comparison_report as report
from haloformer.evaluation import figures
from haloformer.evaluation.drawing import save_figures
from haloformer.evaluation.duplicates import count_duplicates, duplicates_in_words
from haloformer.evaluation.measured import Comparison
from haloformer.evaluation.metrics import (
    classification_metrics,
    holm,
    log_odds,
    paired_accuracy,
    paired_difference,
)
from haloformer.evaluation.predictions import (
    Predictions,
    check_measurable,
    predictions_of_all,
)
from haloformer.evaluation.result import answers_in_words, plain, unlike_training
from haloformer.evaluation.testset import (
    TestImages,
    class_order,
    contamination,
    mismatches,
    open_test_images,
    unused_seed,
)
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.strict_json import read_json, to_json
from haloformer.prediction.predictor import Predictor, load
from haloformer.readers.reading import check_batch_size
from haloformer.reporting.interval import CONFIDENCE, Difference, Interval
from haloformer.vocabulary import CLASS_ALIASES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT_FORMAT = 1
_FILES = ("comparison.json", "report.html")  # files that mark a folder as a comparison
_SAME = ("data", "survey", "noise", "seed", "images_digest")
_EVERY_RUN_HAS = {"artefact", "evaluation"}


@dataclass(frozen=True)
class Entry:
    """Predictions of one model for the N test images.

    Attributes:
        name: In tables and figures.
        class_names: The K classes.
        index: (N,) number of each image in the data.
        labels: (N,) index into ``class_names``.
        logits: (N, K) float64.
        temperature: That its logits are divided by.
        protocol: ``data``, ``survey``, ``noise``, ``seed``, ``images_digest``, ``model`` and ``parameters``.
        warnings: About the model and these images.
        contaminated: Whether it was trained or selected on these images.
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


def run_comparison(
    runs: list[str],
    *,
    data: str | None,
    out: str,
    n: int | None,
    seed: int | None,
    noise: str | None,
    batch_size: int,
    device: str,
    overwrite: bool,
    progress: bool | None,
) -> Comparison:
    """Carries out :func:`haloformer.evaluation.compare` (see there for the arguments)."""
    check_batch_size(batch_size)
    if len(runs) < 2:
        raise InputError("a comparison needs at least two models")
    names = short_names(runs)
    target = Path(out)
    refuse_existing(target, overwrite, _FILES, "comparison")
    if _are_evaluations(runs, {"data": data, "n": n, "seed": seed, "noise": noise}):
        entries = [_from_folder(Path(run), name) for run, name in zip(runs, names)]
    else:
        assert data is not None  # checked in _are_evaluations
        predictors = _classifiers(runs, names, device)
        sources = _same_images(predictors, data, n, seed, noise)
        entries = _from_models(names, predictors, sources, batch_size, progress)
    entries = _aligned(entries)
    result = _result(entries)
    drawn = _draw(result, entries)
    with new_folder(target, overwrite, _FILES, "comparison") as part:
        svgs, pngs = save_figures(part, drawn)
        html, markdown = report.to_html(result, svgs), report.to_markdown(result, pngs)
        (part / "report.html").write_text(html, encoding="utf-8")
        (part / "report.md").write_text(markdown, encoding="utf-8")
        (part / _FILES[0]).write_text(to_json(result), encoding="utf-8")
    return Comparison({**result, "out": str(target), "report": str(target / "report.html")})


def _are_evaluations(runs: list[str], image_options: Mapping[str, str | int | None]) -> bool:
    """Returns whether ``runs`` are folders of evaluations; raises InputError for a mix, or for options that do not fit."""
    evaluated = [run for run in runs if _is_evaluation(Path(run))]
    if len(evaluated) == len(runs):
        for option, value in image_options.items():
            if value is not None:
                raise InputError(
                    f"'{option}' is for models to be tested; {runs[0]} and the others were tested already"
                )
        return True
    if image_options["data"] is None:
        other = next(run for run in runs if run not in evaluated)
        raise InputError(f"{other}: is no evaluation: name the images to test all models on (data)")
    if evaluated:
        raise InputError(f"{evaluated[0]}: is an evaluation; with 'data', give the runs themselves")
    return False


def _is_evaluation(path: Path) -> bool:
    return (path / "predictions.csv").is_file() and (path / "metrics.json").is_file()


def short_names(runs: list[str]) -> list[str]:
    """Returns short names that differ: as many of the last parts of the paths as it takes.

    Raises:
        InputError: A path is given twice.
    """
    paths = [Path(run).resolve() if Path(run).exists() else Path(run) for run in runs]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{runs[i]}: is given twice")
    parts = [_telling_parts(path) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = [part[-length:] for part in parts]
        if len({"/".join(end) for end in ends}) < len(ends):
            continue
        # Evaluations of the same data end alike; the common end is left out.
        if length > 1 and len({end[-1] for end in ends}) == 1:
            ends = [end[:-1] for end in ends]
        return ["/".join(end) for end in ends]
    return [str(path) for path in paths]


def _telling_parts(path: Path) -> list[str]:
    """Returns the parts of a path without the folders that every run has."""
    return [part for part in path.parts if part not in _EVERY_RUN_HAS] or list(path.parts)


# --- predictions of the models ----------------------------------------------------------------------------------------------


def _classifiers(runs: list[str], names: list[str], device: str) -> list[Predictor]:
    predictors = [load(run, device) for run in runs]
    for run, predictor in zip(runs, predictors):
        if not predictor.class_names:
            raise InputError(
                f"{run}: estimates {', '.join(predictor.outputs.targets)}; only classifiers are compared"
            )
    classes = [predictor.class_names for predictor in predictors]
    for name, learned in zip(names, classes):
        _class_columns(
            names[0], classes[0], name, learned
        )  # says before the long part if they differ
    return predictors


def _same_images(
    predictors: list[Predictor], data: str, n: int | None, seed: int | None, noise: str | None
) -> list[TestImages]:
    """Opens the same images for each model; simulated ones are new to all of them, with the first model's noise."""
    first = open_test_images(data, predictors[0], n=n, seed=seed, noise=noise)
    if first.path is None:
        seed = unused_seed(*predictors) if seed is None else seed
        n, noise = first.n, first.attributes["noise"]
    return [
        open_test_images(data, predictor, n=n, seed=seed, noise=noise) for predictor in predictors
    ]


def _from_models(
    names: list[str],
    predictors: list[Predictor],
    sources: list[TestImages],
    batch_size: int,
    progress: bool | None,
) -> list[Entry]:
    # Before the long part: whether all models take these images.
    orders = [_order(*each) for each in zip(names, sources, predictors)]
    entries = []
    predicted = _predicted(predictors, sources, orders, batch_size, progress)
    for name, images, predictor, predictions in zip(names, sources, predictors, predicted):
        check_measurable(predictor, images, predictions)
        seen, n = contamination(predictor, images), len(predictions.index)
        duplicates = count_duplicates(predictor, images, predictions.hashes)
        protocol = {
            "data": images.name,
            "images_digest": predictions.digest,
            **{key: images.attributes.get(key) for key in ("survey", "noise", "seed")},
            "model": predictor.artefact["model"]["name"],
            "parameters": sum(values.numel() for values in predictor.model.parameters()),
        }
        entries.append(
            Entry(
                name=name,
                class_names=predictor.class_names,
                index=predictions.index,
                labels=predictions.labels,
                logits=predictions.logits,
                temperature=predictor.temperature,
                protocol=protocol,
                warnings=[
                    *seen,
                    *duplicates_in_words(duplicates, n),
                    *unlike_training(predictions.n_flagged, n),
                    *mismatches(predictor, images),
                ],
                contaminated=bool(seen or duplicates["in_training"]),
            )
        )
    return entries


def _order(name: str, images: TestImages, predictor: Predictor) -> np.ndarray:
    """Returns a model's number of each class of the data; raises InputError, with the model's name, if it does not take the images."""
    try:
        return class_order(images, predictor)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _predicted(
    predictors: list[Predictor],
    sources: list[TestImages],
    orders: list[np.ndarray],
    batch_size: int,
    progress: bool | None,
) -> list[Predictions]:
    """Returns each model's predictions; models that take the same images share them and their fits."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, images in enumerate(sources):
        groups.setdefault(images.class_names, []).append(number)
    found: dict[int, Predictions] = {}
    for members in groups.values():
        models, theirs = [predictors[k] for k in members], [orders[k] for k in members]
        images = sources[members[0]]
        together = predictions_of_all(models, images, theirs, batch_size, progress)
        found |= dict(zip(members, together, strict=True))
    return [found[number] for number in range(len(sources))]


def _from_folder(folder: Path, name: str) -> Entry:
    """Reads what an evaluation wrote; raises InputError where it is not what an evaluation writes."""
    where = folder / "metrics.json"
    metrics = read_json(where)
    classes, protocol, warnings = (
        metrics.get(key) for key in ("class_names", "protocol", "warnings")
    )
    if not isinstance(classes, list) or not all(isinstance(item, str) for item in classes):
        raise InputError(f"{where}: class_names must be a list of names")
    if not classes:
        raise InputError(
            f"{folder}: is of a model that estimates parameters; only classifiers are compared"
        )
    if not isinstance(protocol, dict):
        raise InputError(f"{where}: protocol is missing")
    index, labels, logits = _read_predictions(folder / "predictions.csv", classes)
    return Entry(
        name=name,
        class_names=tuple(classes),
        index=index,
        labels=labels,
        logits=logits,
        temperature=_temperature(metrics.get("calibration"), where),
        protocol={key: protocol.get(key) for key in (*_SAME, "model", "parameters")},
        warnings=[str(text) for text in warnings] if isinstance(warnings, list) else [],
        contaminated=metrics.get("contaminated") is True,
    )


def _temperature(calibration: object, where: Path) -> float:
    found = calibration.get("temperature", 1.0) if isinstance(calibration, dict) else 1.0
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not 0 < found < np.inf:
        raise InputError(f"{where}: calibration.temperature must be a positive number")
    return float(found)


def _read_predictions(path: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads ``predictions.csv``, its rows in any order: numbers of the images (N,), ascending, labels (N,) and logits (N, K)."""
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
                    labels.append(classes.index(row["label"]))
                    logits.append([float(row[name]) for name in wanted[2:]])
                except (TypeError, ValueError, OverflowError) as error:
                    raise InputError(
                        f"{path}, line {line}: is not a prediction of {', '.join(classes)}"
                    ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {reason_of(error)}") from error
    values = np.array(logits, np.float64).reshape(-1, len(classes))
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds NaN or infinite logits")
    if len(set(labels)) < 2:
        raise InputError(f"{path}: holds images of fewer than two classes; an AUC needs two")
    order = np.argsort(index, kind="stable")
    return np.array(index)[order], np.array(labels)[order], values[order]


def _aligned(entries: list[Entry]) -> list[Entry]:
    """Returns the entries with the first one's order of classes; raises InputError if classes or images differ."""
    first = entries[0]
    return [first, *(_aligned_with(first, entry) for entry in entries[1:])]


def _aligned_with(first: Entry, entry: Entry) -> Entry:
    columns = _class_columns(first.name, first.class_names, entry.name, entry.class_names)
    labels = np.argsort(columns)[entry.labels]
    same = np.array_equal(entry.index, first.index) and np.array_equal(labels, first.labels)
    digests = (entry.protocol["images_digest"], first.protocol["images_digest"])
    # Without a digest, images are compared by how they were made.
    keys = ("images_digest",) if all(digests) else ("data", "survey", "noise", "seed")
    if not same or any(entry.protocol[key] != first.protocol[key] for key in keys):
        raise InputError(
            f"{entry.name} was tested on other images than {first.name}: compare the runs themselves, with 'data'"
        )
    return replace(
        entry,
        class_names=first.class_names,
        labels=first.labels,
        logits=entry.logits[:, columns],
    )


def _class_columns(
    first: str, wanted: tuple[str, ...], name: str, classes: tuple[str, ...]
) -> list[int]:
    """Returns the number that each class of the first model has in another; raises InputError if they tell others apart."""
    of_first, of_this = (
        [CLASS_ALIASES.get(each.lower(), each) for each in names] for names in (wanted, classes)
    )
    if sorted(of_this) != sorted(of_first):
        raise InputError(
            f"{name} tells {', '.join(classes)} apart, but {first} {', '.join(wanted)}"
        )
    return [of_this.index(each) for each in of_first]


# --- the result -------------------------------------------------------------------------------------------------------


def _result(entries: list[Entry]) -> dict[str, Any]:
    """Returns the content of ``comparison.json``."""
    first, classes = entries[0], entries[0].class_names
    present = [k for k in range(len(classes)) if 0 < np.sum(first.labels == k) < len(first.labels)]
    class_measures = {f"auc_{classes[k]}": f"AUC of {classes[k]}" for k in present}
    models = [_model_metrics(entry, first.labels) for entry in entries]
    return {
        "format": RESULT_FORMAT,
        "class_names": list(classes),
        "n_images": len(first.labels),
        "confidence": CONFIDENCE,
        "reference": first.name,
        "measures": {"macro_auc": "Macro AUC", **class_measures, "accuracy": "Accuracy"},
        "models": models,
        "differences": _corrected(
            {entry.name: _differences(entry, first, present) for entry in entries[1:]}
        ),
        "warnings": [
            f"{entry.name}: {text}"
            for entry, model in zip(entries, models, strict=True)
            for text in dict.fromkeys([*entry.warnings, *answers_in_words(model)])
        ],
        "protocol": {
            **{key: first.protocol[key] for key in _SAME},
            "n_images": len(first.labels),
            "code_version": code_version(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        },
    }


def _model_metrics(entry: Entry, labels: np.ndarray) -> dict[str, Any]:
    metrics = classification_metrics(
        labels, entry.logits, entry.class_names, temperature=entry.temperature
    )
    return {
        "name": entry.name,
        "model": entry.protocol["model"],
        "parameters": entry.protocol["parameters"],
        "contaminated": entry.contaminated,
        **plain(metrics),
    }


def _differences(entry: Entry, first: Entry, present: list[int]) -> dict[str, Difference]:
    """Returns the paired differences of a model to the first one, by measure."""
    labels, classes = first.labels, first.class_names
    found = {"macro_auc": paired_difference(labels, entry.logits, first.logits)}
    for k in present:
        found[f"auc_{classes[k]}"] = paired_difference(labels, entry.logits, first.logits, k)
    right, reference = (each.logits.argmax(axis=1) == labels for each in (entry, first))
    return {**found, "accuracy": paired_accuracy(right, reference)}


def _corrected(found: Mapping[str, dict[str, Difference]]) -> list[dict[str, Any]]:
    """Adds to all differences the p-values that are corrected for their number."""
    p_values = iter(holm([each.p for row in found.values() for each in row.values()]))
    return [
        {
            "name": name,
            "differences": {
                key: {**asdict(each), "p_holm": next(p_values)} for key, each in row.items()
            },
        }
        for name, row in found.items()
    ]


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
            drawn[report.roc_name(k, class_name)] = figures.roc_of_models(
                labels, scores, k, class_name, names, aucs
            )
    return drawn
