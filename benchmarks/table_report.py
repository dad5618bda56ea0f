"""From the runs of `table.py` to results/benchmark: tables, ROC curves, confusion matrices, and what differs by more than chance."""

import csv
import json
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import yaml

from haloformer.evaluation.metrics import (
    confusion_matrix,
    holm,
    log_odds,
    paired_difference,
    roc_curve,
)
from haloformer.evaluation.published import AGAIN, best_published
from haloformer.io.writing import figure_bytes, whole_file, write_text
from haloformer.models import find_model
from haloformer.reporting import html, markdown, style
from haloformer.reporting.interval import format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

COMPARED = "model_i-detail"
"""The runs whose networks are compared with each other; their answers are kept."""

SPEEDS = "speeds.json"
"""How many images/s each network classifies, all measured on the same idle CPU."""

COLUMNS = (
    *("survey", "model", "family", "kind", "input", "seed", "images", "learning_rate", "precision"),
    *("macro_auc", "macro_auc_low", "macro_auc_high", "published_macro_auc", "published_model", "published_source"),
    *("auc_axion", "auc_axion_low", "auc_axion_high", "auc_cdm", "auc_cdm_low", "auc_cdm_high", "auc_no_sub", "auc_no_sub_low", "auc_no_sub_high"),
    *("accuracy", "accuracy_low", "accuracy_high", "val_macro_auc", "parameters", "macs", "inference_images_per_second"),
    *("seconds", "hardware", "code_version", "date"),
)  # fmt: skip

_FALSE_RATES = np.logspace(-4, 0, 81)
_DPI = 120  # of the pictures: each is kept in the repository
_CNNS = ("EfficientNet", "ResNet")


def kind_of(model: str) -> str:
    """Returns what an architecture is: ``CNN``, ``equivariant``, or ``transformer``, with convolutions in it or not."""
    family = find_model(model).family
    if family in _CNNS:
        return "CNN"
    return "equivariant" if model.startswith("equivariant") else "transformer"


def report(runs: Path, results: Path, document: Path, pilot: str, how: str) -> None:
    """Copies what is new of the runs to the results, and writes the report.

    Args:
        runs: Holds a folder of each survey and input.
        results: Holds what the report is made from, in the repository.
        document: Has a table of the best.
        pilot: Name of the folder of the choice of the learning rates.
        how: How the runs were made.
    """
    for folder in sorted(path.parent for path in runs.glob("*-*/results.jsonl")):
        _copy(folder, results / folder.name, folder.name != pilot)
    rows = rows_of(results, pilot)
    with_speeds(rows, results / SPEEDS)
    write_text(document, with_table(document.read_text(encoding="utf-8"), rows))
    with whole_file(results / "table.csv") as part, part.open("w", newline="", encoding="utf-8") as file:  # fmt: skip
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    differences = compare(results / COMPARED, [r for r in rows if place_of(r) == COMPARED])
    drawn = {}
    for place in dict.fromkeys(map(place_of, rows)):
        drawn |= _figures(results / place, [r["run"] for r in rows if place_of(r) == place])
    for name, figure in drawn.items():
        with matplotlib.rc_context(style.STYLE):  # no SVG: there are hundreds of curves
            (results / f"{name}.png").write_bytes(figure_bytes(figure, "png", dpi=_DPI))
    write_text(results / "table.md", _markdown(rows, differences, how, list(drawn)))
    write_text(results / "table.html", _page(rows, differences, how, list(drawn)))
    print(f"{len(rows)} runs in {results / 'table.csv'}")


def rows_of(results: Path, pilot: str) -> list[Row]:
    """Returns the rows of the table, best first within a survey and input; of several learning rates that of the best validation AUC."""
    rows: dict[tuple[object, ...], Row] = {}
    for path in sorted(results.glob("*-*/results.jsonl")):
        if path.parent.name == pilot:
            continue
        survey, _, given = path.parent.name.partition("-")
        for record in _records(path):
            if record["status"] != "ok":
                continue
            row = row_of(record, survey, given)
            key = tuple(row[name] for name in ("survey", "input", "model", "seed", "images"))
            if key not in rows or row["val_macro_auc"] > rows[key]["val_macro_auc"]:
                rows[key] = row
    return sorted(rows.values(), key=lambda row: (row["survey"], row["input"], -row["macro_auc"]))


def with_speeds(rows: list[Row], path: Path) -> None:
    """Puts each network's speed on one CPU in the place of those of the machines that it was trained on."""
    known = json.loads(path.read_text(encoding="utf-8"))["images_per_second"]
    for row in rows:
        side = 64 if row["survey"] in ("model_ii", "model_iii") else row["crop"]
        row["inference_images_per_second"] = known.get(row["model"], {}).get(str(side))


def place_of(row: Row) -> str:
    """Returns the folder of a row's runs."""
    return f"{row['survey']}-{row['input']}"


def row_of(record: Row, survey: str, given: str) -> Row:
    """Returns a finished run's row of the table."""
    options, test = record["options"], record["test"]
    model = options["model"]
    theirs = best_published(find_model(model).family, survey)
    row = {
        "run": f"{record['variant']}-seed{record['seed']}",
        "survey": survey,
        "model": model,
        "family": find_model(model).family,
        "kind": kind_of(model),
        "input": given,
        "seed": record["seed"],
        "images": record["epochs"] * options["epoch_size"],
        "crop": options.get("crop"),
        "learning_rate": options.get("lr", 1e-3),
        "precision": options.get("precision", "32"),
        "published_macro_auc": None if theirs is None else round(theirs.macro, 6),
        "published_model": "" if theirs is None else theirs.model,
        "published_source": "" if theirs is None else theirs.source,
        "val_macro_auc": record["val"]["val_macro_auc"],
        **{key: record.get(key) for key in ("parameters", "macs", "inference_images_per_second")},
        **{key: record.get(key) for key in ("seconds", "hardware", "code_version", "date")},
    }
    intervals = {"macro_auc": test["macro_auc"], "accuracy": test["accuracy"]}
    intervals |= {f"auc_{name}": value for name, value in test["auc"].items()}
    for name, value in intervals.items():
        row |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    return row


# --- the runs -----------------------------------------------------------------------------------------------------------


def _records(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _copy(folder: Path, target: Path, tested: bool) -> None:
    """Copies a study's results, and what is drawn of its answers, which are large."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "results.jsonl", target / "results.jsonl")
    write_text(target / "study.yaml", described((folder / "study.yaml").read_text(encoding="utf-8"), _records(folder / "results.jsonl")))  # fmt: skip
    if not tested:
        return
    path = target / "answers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for file in sorted((folder / "logits").glob("*.npz")):
        with np.load(file) as kept:
            if "class_names" not in kept:  # taken up from the results: it is there
                continue
            labels, logits = kept["labels"], kept["logits"]
            names = kept["class_names"].tolist()
        known[file.stem] = answers_of(labels, logits, names)
        if target.name == COMPARED:
            (target / "logits").mkdir(exist_ok=True)
            with whole_file(target / "logits" / file.name) as part, part.open("wb") as out:
                np.savez_compressed(out, labels=labels.astype(np.uint8), logits=logits.astype(np.float16))  # fmt: skip
    write_text(path, json.dumps(known, sort_keys=True).replace('}, "', '},\n"') + "\n")


def described(text: str, records: list[Row]) -> str:
    """Returns the description of a study, which is that of the last call, with all variants and seeds that have results."""
    done = [record for record in records if record["status"] == "ok"]
    study = yaml.safe_load(text)
    study["variants"] = {record["variant"]: record["changes"] for record in done}
    study["seeds"] = sorted({record["seed"] for record in done})
    said = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return said + yaml.safe_dump(study, sort_keys=False, allow_unicode=True, width=100)


def answers_of(labels: np.ndarray, logits: np.ndarray, names: list[str]) -> Row:
    """Returns what is drawn of a run: its confusion matrix, and true positive rates of each class at fixed false ones."""
    odds = log_odds(logits)
    curves = {}
    for k, name in enumerate(names):
        found = np.interp(_FALSE_RATES, *roc_curve(odds[:, k], labels == k))
        curves[name] = np.round(found, 5).tolist()
    counts = confusion_matrix(labels, logits.argmax(axis=1), len(names))
    return {"class_names": names, "confusion": counts.tolist(), "true_rates": curves}


# --- more than chance? ------------------------------------------------------------------------------------------------


def compare(folder: Path, rows: list[Row]) -> list[Row]:
    """Compares the best transformer with the best of the other kinds, and with all other networks, on the same test images.

    The best of a kind is chosen by the validation images. The differences of the macro AUC have DeLong's interval; their p-values are
    corrected by Holm for the number of all of them.

    Args:
        folder: Holds the answers.
        rows: Of the table, of one survey and input; the first training seed counts.

    Returns:
        For each network other than the best transformer: ``model``, ``kind``, ``best_of_kind``, ``reference``, ``difference``, ``low``,
        ``high``, ``p``.
    """
    answers = {}
    for row in rows:
        path = folder / "logits" / f"{row['run']}.npz"
        if row["seed"] == 0 and path.exists():
            with np.load(path) as kept:
                answers[row["model"]] = kept["labels"].astype(int), kept["logits"].astype(float)
    rows = [row for row in rows if row["seed"] == 0 and row["model"] in answers]
    best: dict[str, Row] = {}
    for row in rows:
        if row["kind"] not in best or row["val_macro_auc"] > best[row["kind"]]["val_macro_auc"]:
            best[row["kind"]] = row
    if "transformer" not in best or len(rows) < 2:
        return []
    reference = best["transformer"]["model"]
    labels, logits = answers[reference]
    found = []
    for row in rows:
        if row["model"] == reference:
            continue
        difference = paired_difference(labels, logits, answers[row["model"]][1])
        found.append(
            {
                "model": row["model"],
                "kind": row["kind"],
                "best_of_kind": best[row["kind"]] is row,
                "reference": reference,
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p,
            }
        )
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p"] = p
    return found


def _difference_cells(row: Row) -> list[str]:
    mark = f"best {row['kind']}" if row["best_of_kind"] else row["kind"]
    p = "< 0.0001" if row["p"] < 1e-4 else f"{row['p']:.4f}"
    interval = f"{row['difference']:+.5f} ({row['low']:+.5f} – {row['high']:+.5f})"
    return [row["model"], mark, interval, p]


# --- pictures ---------------------------------------------------------------------------------------------------------


def _figures(folder: Path, runs: list[str]) -> dict[str, "Figure"]:
    path = folder / "answers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    answers = {name: known[name] for name in runs if name in known}
    if not answers:
        return {}
    return {
        f"roc_{folder.name}": _roc(answers),
        f"confusion_{folder.name}": _confusion(answers),
    }


def _panels(n: int, width: float, height: float) -> tuple["Figure", Iterable[Any]]:
    columns = min(6, n)
    rows = -(-n // columns)
    figure = style.new_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[n:]:
        unused.set_visible(False)
    return figure, axes


def _title(run: str) -> str:
    return style.literal(run.removesuffix("-seed0"))


@style.styled
def _roc(answers: dict[str, Row]) -> "Figure":
    figure, panels = _panels(len(answers), 2.3, 2.1)
    for (run, answer), axes in zip(sorted(answers.items()), panels):
        for k, (name, true_rates) in enumerate(answer["true_rates"].items()):
            axes.plot(_FALSE_RATES, true_rates, color=style.class_color(k), linewidth=1.2, label=name)  # fmt: skip
        axes.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1.02))
        axes.tick_params(labelsize=7)
        axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.5)
        axes.set_title(_title(run), fontsize=8)
    figure.axes[0].legend(fontsize=7, loc="best")
    figure.supxlabel("False positive rate", fontsize=9)
    figure.supylabel("True positive rate", fontsize=9)
    return figure


@style.styled
def _confusion(answers: dict[str, Row]) -> "Figure":
    figure, panels = _panels(len(answers), 2.0, 2.0)
    for (run, answer), axes in zip(sorted(answers.items()), panels):
        counts = np.array(answer["confusion"], float)
        shares = counts / counts.sum(axis=1, keepdims=True)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(j, i, f"{100 * share:.1f}", ha="center", va="center", fontsize=7, color=colour)  # fmt: skip
        names = [name.replace("_", " ") for name in answer["class_names"]]
        axes.set_xticks(range(len(names)), names, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
        axes.set_title(_title(run), fontsize=8)
    figure.supxlabel("Predicted class, % of the true one's images", fontsize=9)
    figure.supylabel("True class", fontsize=9)
    return figure


# --- docs/models/README.md -----------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- written by benchmarks/table.py report -->", "<!-- until here -->"
N_BEST = 10


def best_table(rows: list[Row]) -> str:
    """Returns the table of the document: the best architectures on Model I by its validation images, and what they reach on all surveys."""
    detail = [row for row in rows if row["input"] == "detail" and row["seed"] == 0]
    best = sorted(
        (row for row in detail if row["survey"] == "model_i"),
        key=lambda row: -row["val_macro_auc"],
    )[:N_BEST]
    reached = {(row["model"], row["survey"]): row for row in detail}
    header = ("network", "kind", "parameters", "Model I (95 %)", "Model II", "Model III", "published, Model I")  # fmt: skip
    lines = []
    for row in best:
        others = [reached.get((row["model"], survey)) for survey in ("model_ii", "model_iii")]
        theirs = row["published_macro_auc"]
        lines.append(
            [
                f"`{row['model']}`",
                row["kind"],
                f"{row['parameters'] / 1e6:.2f} M",
                _cells(row)[2],
                *("–" if each is None else format_value(each["macro_auc"]) for each in others),
                "–" if theirs is None else f"{theirs:.4f}",
            ]
        )
    table = ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]]
    return "\n".join([BEGIN, "", *table, "", END])


def with_table(text: str, rows: list[Row]) -> str:
    """Returns the document with its table of architectures written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + best_table(rows) + after


# --- text -------------------------------------------------------------------------------------------------------------

_HEADER = ("model", "kind", "macro AUC (95 %)", "axion", "cdm", "no_sub", "accuracy", "published", "lr", "parameters", "MACs", "images/s", "trained on", "training [s]")  # fmt: skip
_DIFFERENCES = ("model", "kind", "macro AUC of the reference more by (95 %)", "p (Holm)")
_SEEDS = ("model", "mean macro AUC", "standard deviation", "each seed")
_SEEDS_READ = "Each seed has other first weights, and trains on other images of the survey; the test images are the same."
_READ = (
    "Intervals: 95 %, over test images (DeLong), not over trainings. Published AUCs are the best of that architecture on the released "
    "images, of the papers' own sizes, pretraining and budgets, without a fit; * marks rows below them. Trained in 32 bits, but where bf16 stands at "
    "the learning rate (lr). Images/s: the network alone, batches of 64, all on one thread of the same idle CPU (speeds.json). Training "
    "[s] with the test, beside other work: some of the CPU on one core, and of an interrupted run its last part alone; those of a GPU some "
    "sixteen at a time. All numbers, with hardware, date and code version of each run, are in table.csv."
)


def _cells(row: Row) -> list[str]:
    theirs = row["published_macro_auc"]
    # Published to four digits
    below = theirs is not None and round(row["macro_auc"], 4) < round(theirs, 4)
    name = row["model"] if row["seed"] == 0 else f"{row['model']}, seed {row['seed']}"
    return [
        name,
        row["kind"],
        f"{format_value(row['macro_auc'])} ({format_value(row['macro_auc_low'])} – {format_value(row['macro_auc_high'])})",
        *(format_value(row[f"auc_{name}"]) for name in ("axion", "cdm", "no_sub")),
        f"{row['accuracy']:.3f}",
        "–" if theirs is None else f"{theirs:.4f}{' *' if below else ''}",
        f"{row['learning_rate']:g}{'' if row['precision'] == '32' else ', ' + row['precision']}",
        f"{row['parameters'] / 1e6:.2f} M",
        "–" if row["macs"] is None else f"{row['macs'] / 1e6:.0f} M",
        "–"
        if row["inference_images_per_second"] is None
        else f"{row['inference_images_per_second']:.0f}",
        row["hardware"].removeprefix("NVIDIA ") if "NVIDIA" in row["hardware"] else "CPU",
        f"{row['seconds']:.0f}",
    ]


def _groups(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(place_of(row), []).append(row)
    return groups


def _heading(place: str) -> str:
    survey, _, given = place.partition("-")
    return f"{survey}, input: {given}"


def _summary(rows: list[Row]) -> str:
    """Returns how many of the rows reach what was published of their architecture, each at its first training seed."""
    rows = [row for row in rows if row["seed"] == 0]
    known = [row for row in rows if row["published_macro_auc"] is not None]
    below = [row["model"] for row in known if _cells(row)[7].endswith("*")]
    text = f"{len(rows)} networks; {len(known) - len(below)} of {len(known)} with a published AUC reach it"
    text += f", not: {', '.join(dict.fromkeys(below))}." if below else "."
    if rows[0]["survey"] in AGAIN:
        text += " The published AUCs are of the original images, which these are simulated after: docs/deeplense.md."
    return text


def _over_seeds(rows: list[Row]) -> list[list[str]]:
    """Returns the cells of the networks that were trained with several seeds, the best mean first."""
    values: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        values.setdefault(row["model"], []).append(row["macro_auc"])
    several = {model: found for model, found in values.items() if len(found) > 1}
    best_first = sorted(several.items(), key=lambda each: -np.mean(each[1]))
    return [
        [model, format_value(np.mean(found)), f"{np.std(found, ddof=1):.5f}", ", ".join(map(format_value, found))]
        for model, found in best_first
    ]  # fmt: skip


def _captions(place: str, drawn: list[str]) -> list[tuple[str, str]]:
    said = {
        f"roc_{place}": f"ROC curves, {_heading(place)}",
        f"confusion_{place}": f"Confusion matrices, {_heading(place)}",
    }
    return [(name, text) for name, text in said.items() if name in drawn]


def _compared(differences: list[Row]) -> str:
    reference = differences[0]["reference"]
    return (
        f"The best transformer by the validation images is {reference}. How far it is above each other network on the same test images, with the "
        "interval of DeLong et al. (1988) for the mean of the classes, and p-values corrected by Holm for all rows; over test images, not over trainings."
    )


def _markdown(rows: list[Row], differences: list[Row], how: str, drawn: list[str]) -> str:
    lines = ["# Every architecture on every survey", ""]
    lines += textwrap.wrap(f"Made by `python benchmarks/table.py report`. {how} {_READ}", 100)
    for place, group in _groups(rows).items():
        lines += ["", f"## {_heading(place)}", "", _summary(group), ""]
        lines += markdown.markdown_table(_HEADER, map(_cells, group))
        lines += [f"\n![{text}]({name}.png)" for name, text in _captions(place, drawn)]
        if place == COMPARED and differences:
            lines += [
                "",
                "### More than chance?",
                "",
                *textwrap.wrap(_compared(differences), 100),
                "",
            ]
            lines += markdown.markdown_table(_DIFFERENCES, map(_difference_cells, differences))
        if seeds := _over_seeds(group):
            lines += ["", "### Over training seeds", "", *textwrap.wrap(_SEEDS_READ, 100), ""]
            lines += markdown.markdown_table(_SEEDS, seeds)
    return "\n".join(lines) + "\n"


def _page(rows: list[Row], differences: list[Row], how: str, drawn: list[str]) -> str:
    sections = []
    for place, group in _groups(rows).items():
        content = [
            html.paragraph(_summary(group)),
            html.table(_HEADER, [*map(_cells, group)], "numbers plain"),
        ]
        sections.append(html.section(_heading(place), *content))
        if place == COMPARED and differences:
            compared = html.table(_DIFFERENCES, [*map(_difference_cells, differences)], "numbers plain")  # fmt: skip
            sections.append(
                html.section("More than chance?", html.paragraph(_compared(differences)), compared)
            )
        if seeds := _over_seeds(group):
            table = html.table(_SEEDS, seeds, "numbers plain")
            sections.append(html.section("Over training seeds", html.paragraph(_SEEDS_READ), table))
        pictures = [html.photo(f"{name}.png", text, text) for name, text in _captions(place, drawn)]
        sections += [html.section("", *pictures)]
    lead = [html.paragraph(how), html.paragraph(_READ)]
    return html.page("networks trained alike", "Every architecture on every survey", lead, sections)
