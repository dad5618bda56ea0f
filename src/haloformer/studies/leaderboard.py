"""`benchmark`: many networks trained alike on the same surveys, and the table that ranks them beside what was published.

It is a study (:mod:`haloformer.studies.run`) whose grid has networks and surveys, so it stops, resumes and tests as every study does;
added are the leaderboard, with published AUCs and costs, the ROC curves of the best and the best one's confusion matrix.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from haloformer.data.conversion import convert
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.evaluation import figures
from haloformer.evaluation.metrics import class_aucs, confusion_matrix, log_odds
from haloformer.evaluation.published import best_published
from haloformer.io.writing import write_text
from haloformer.models import find_model
from haloformer.reporting import html, style
from haloformer.reporting.interval import Interval, format_interval, format_value
from haloformer.simulation import get_survey
from haloformer.studies.plan import Study, parse_study, read_study, with_options
from haloformer.studies.report import protocol, report, write_csv
from haloformer.studies.results import StudyResult
from haloformer.studies.run import carry_out, prepare_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPOCH_SIZE = 4800
"""Images per epoch of a benchmark: how often it is validated."""

N_ROC = 8
"""Networks whose ROC curves are drawn."""

_SURVEY_NOISE = {
    "model_ii": "instrument",
    "model_iii": "instrument",
}  # released without any: too easy to rank networks


def benchmark(
    *,
    models: str | list[str] = "*_nano",
    surveys: str | list[str] = "model_ii",
    seeds: int = 3,
    budget: int = 24_000,
    noise: Literal["survey", "original", "instrument", "none"] = "survey",
    train_data: str | None = None,
    test_data: str | None = None,
    n_test: int = 3000,
    out: str = "leaderboard",
    preset: str | list[str] | None = None,
    workers: int = 1,
    report_only: bool = False,
    progress: bool = True,
    options: dict[str, Any] | None = None,
) -> StudyResult:
    """Trains many networks alike and ranks them, beside the published AUCs of the same architectures.

    Writes leaderboard.md, .csv and .html, ROC curves and a confusion matrix, with all that is needed to run it again. It can be stopped at any
    time: the same command goes on. Nothing is chosen by the test images.

    Args:
        models: Names or patterns, such as ``*_nano`` or ``resnet18,coatnet_nano``.
        surveys: Names of surveys, each a table of its own; with train_data one name, for what was published of it.
        seeds: How many trainings of each network.
        budget: Images that each network is shown in training; of a survey no image twice.
        noise: Of the images: ``survey`` takes the original noise of a survey, and for Models II and III, released without any, their
            instruments'.
        train_data: A DeepLense folder or archive, or a dataset file, to train on instead of simulating; validated on a part of it.
        test_data: The same for the test images, which are not used for anything else.
        n_test: Test images to simulate.
        out: Folder to write, or to continue.
        preset: Presets for all trainings.
        workers: Processes that train at the same time.
        report_only: Train nothing: write the leaderboard anew from the results that are there.
        progress: Say after each run how it went.
        options: Fields of the experiment, such as ``{"lr": 1e-3}``, for all trainings.

    Returns:
        The study's result: folder, rows, counts.

    Raises:
        InputError: Unknown networks, surveys or fields, or data that cannot be read.
    """
    folder = Path(out)
    if report_only:
        if not (folder / "study.yaml").exists():
            raise InputError(
                f"{folder}: there is no benchmark yet; leave report_only out to run it"
            )
        plan = read_study(str(folder / "study.yaml"))
        command = (
            (folder / "study.yaml")
            .read_text(encoding="utf-8")
            .partition("\n")[0]
            .removeprefix("# ")
        )
        result = report(folder, plan, command)
    else:
        _check_numbers(budget, n_test, seeds, workers)
        names = _listed(surveys)
        test: dict[str, Any] = {"n": n_test}
        if (train_data is None) != (test_data is None):
            raise InputError(
                "train_data and test_data go together: one to train on, one that is left untouched for the test"
            )
        if train_data is not None and test_data is not None:
            if len(names) != 1:
                raise InputError(
                    f"with train_data, surveys names the one that the images are of, not {len(names)}"
                )
            data = {names[0]: {"data": _dataset_path(train_data, folder / "data" / "train.h5")}}
            test = {"data": _dataset_path(test_data, folder / "data" / "test.h5")}
        else:
            data = {name: {"data": name, "noise": _noise(name, noise)} for name in names}
        raw = {
            "title": "Leaderboard",
            "question": "How do the networks compare when all are trained alike?",
            "notes": f"One recipe and {budget:,} training images for all: it compares what networks learn from so much, not what each could reach.",
            "base": {"augment": "d4", "lr": 1e-3, **_epochs(budget)},
            "grid": {"model": _listed(models), "data": data},
            "seeds": seeds,
            "test": test,
            "figure": {"kind": "bars", "x": "model", "by": "data"},
        }
        plan = with_options(parse_study(raw, "benchmark"), preset, options, None)
        command = _command(locals())
        given = (
            {str(train_data): data[names[0]]["data"], str(test_data): test.get("data", "")}
            if train_data
            else {}
        )
        if conversions := {source: path for source, path in given.items() if source != path}:
            prepare_folder(folder, plan, command)
            _convert(conversions, progress)
        result = carry_out(plan, folder, command, None, workers, progress)
    _write(folder, plan, command, result)
    return result


def _check_numbers(budget: int, n_test: int, seeds: int, workers: int) -> None:
    for name, value, least in (
        ("budget", budget, 64),
        ("n_test", n_test, 30),
        ("seeds", seeds, 1),
        ("workers", workers, 1),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")


def _listed(names: str | list[str]) -> list[str]:
    found = [part.strip() for part in (names.split(",") if isinstance(names, str) else names)]
    if not all(found) or not found:
        raise InputError(f"'{names}' must be names with commas between them")
    return found


def _noise(survey: str, noise: str) -> str:
    get_survey(survey)
    return _SURVEY_NOISE.get(survey, "original") if noise == "survey" else noise


def _epochs(budget: int) -> dict[str, int]:
    """Returns epochs of about `EPOCH_SIZE` images that make up the budget."""
    epochs = max(1, round(budget / EPOCH_SIZE))
    return {
        "epochs": epochs,
        "epoch_size": max(1, budget // epochs),
        "val_size": 600,
        "patience": 0,
    }


def _dataset_path(given: str, converted: Path) -> str:
    """Returns the dataset file itself, or where a folder or an archive is converted to."""
    return (
        given
        if Path(given).is_file() and Path(given).suffix.lower() in DATASET_SUFFIXES
        else str(converted)
    )


def _convert(conversions: Mapping[str, str], progress: bool) -> None:
    for source, target in conversions.items():
        if not Path(target).exists():
            if progress:
                print(f"converting {source}", flush=True)
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            convert(source, target)


def _command(given: Mapping[str, Any]) -> str:
    """Returns the command line that does the same."""
    import inspect

    parts = ["haloformer", "benchmark"]
    for name, parameter in inspect.signature(benchmark).parameters.items():
        value = given[name]
        if name in ("options", "report_only", "progress") or value == parameter.default:
            continue
        parts += [f"--{name}", ",".join(value) if isinstance(value, list) else str(value)]
    for name, value in (given["options"] or {}).items():
        parts += [f"--{name}", str(value)]
    return shlex.join(parts)


# --- the leaderboard --------------------------------------------------------------------------------------------------

COLUMNS = (
    *(
        "rank",
        "model",
        "family",
        "macro AUC (95 %)",
        "axion",
        "cdm",
        "no_sub",
        "published macro AUC",
    ),
    *("accuracy", "parameters", "MACs", "images/s", "training s"),
)


def board(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the leaderboard's rows, survey by survey, the best macro AUC first.

    Args:
        rows: Of a study whose grid has ``model`` and ``data``; rows without a result are left out.
    """
    ranked = []
    for survey in dict.fromkeys(row["data"] for row in rows):
        own = sorted(
            (r for r in rows if r["data"] == survey and "macro_auc" in r),
            key=lambda r: -r["macro_auc"],
        )
        for rank, row in enumerate(own, 1):
            family = find_model(row["model"]).family
            theirs = best_published(family, survey)
            entry = {"survey": survey, "rank": rank, "model": row["model"], "family": family}
            entry |= {
                key: value
                for key, value in row.items()
                if key.startswith(("macro_auc", "auc_", "accuracy"))
            }
            entry |= {"interval": row["interval"], "n_seeds": row["n_seeds"]}
            entry |= {"published_macro_auc": theirs.macro if theirs else None}
            entry |= {
                "published_model": theirs.model if theirs else "",
                "published_source": theirs.source if theirs else "",
            }
            entry |= {
                key: row.get(key)
                for key in ("parameters", "macs", "inference_images_per_second", "seconds_per_run")
            }
            ranked.append(entry)
    return ranked


def _cells(entry: Mapping[str, Any]) -> list[str]:
    interval = Interval(*(entry[f"macro_auc{end}"] for end in ("", "_low", "_high")))
    theirs, macs, speed = (
        entry[key] for key in ("published_macro_auc", "macs", "inference_images_per_second")
    )
    classes = [
        format_value(entry.get(f"auc_{name}", float("nan"))) for name in ("axion", "cdm", "no_sub")
    ]
    return [
        str(entry["rank"]),
        entry["model"],
        entry["family"],
        format_interval(interval),
        *classes,
        "–" if theirs is None else format_value(theirs),
        format_value(entry["accuracy"], 3),
        f"{entry['parameters'] / 1e6:.2f} M",
        "–" if macs is None else f"{macs / 1e6:.0f} M",
        "–" if speed is None else f"{speed:.0f}",
        f"{entry['seconds_per_run']:.0f}",
    ]


def _write(folder: Path, plan: Study, command: str, result: StudyResult) -> None:
    entries = board(result.rows)
    drawn: dict[str, Figure] = {}
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        own = [entry for entry in entries if entry["survey"] == survey]
        drawn[f"cost_{survey}"] = _cost_figure(own, survey)
        drawn |= _answer_figures(folder, own, plan.seeds[0], survey)
    for name, figure in drawn.items():
        style.save(figure, folder / name)
    write_csv(folder / "leaderboard.csv", entries)
    facts = list(protocol(folder, plan, command))
    write_text(folder / "leaderboard.md", _markdown(entries, facts, drawn, result))
    write_text(folder / "leaderboard.html", _page(entries, facts, drawn))


_HOW_TO_READ = (
    "Intervals: 95 %, over seeds or, with one seed, over test images. Published AUCs are of the released images and of the papers' own sizes, "
    "pretraining and budgets (Models II and III without noise): they stand beside ours, they were not measured under this protocol. "
    "Images/s: the network alone, batches of 64. Training s: the whole run, simulation, validation and test included; as other work ran "
    "on the same machine, it is an upper bound."
)


def _captions(names: Sequence[str]) -> dict[str, str]:
    said = {
        "cost": "Macro AUC against multiply-accumulate operations per image",
        "roc": "ROC curves of the best",
        "confusion": "Confusion matrix of the best",
    }
    kinds = {name: name.partition("_") for name in names}
    return {name: f"{said[kind]}, {survey}" for name, (kind, _, survey) in kinds.items()}


def _markdown(
    entries: Sequence[Mapping[str, Any]],
    facts: Sequence[tuple[str, str]],
    drawn: Mapping[str, Any],
    result: StudyResult,
) -> str:
    lines = ["# Leaderboard", "", _HOW_TO_READ]
    captions = _captions(list(drawn))
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        lines += ["", f"## {survey}", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        lines += [
            f"| {' | '.join(_cells(entry))} |" for entry in entries if entry["survey"] == survey
        ]
        lines += [
            f"\n![{text}]({name}.png)"
            for name, text in captions.items()
            if name.endswith(f"_{survey}")
        ]
    if failed := [row for row in result.rows if row["failed"]]:
        lines += ["", "## Failed", "", *(f"- {row['variant']}: {row['failed']}" for row in failed)]
    lines += ["", "## Protocol", "", "| | |", "|---|---|"]
    lines += [
        f"| {name} | {' '.join(text.split()).replace('|', chr(92) + '|')} |" for name, text in facts
    ]
    return "\n".join(lines) + "\n"


def _page(
    entries: Sequence[Mapping[str, Any]],
    facts: Sequence[tuple[str, str]],
    drawn: Mapping[str, "Figure"],
) -> str:
    sections = []
    captions = _captions(list(drawn))
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        rows = [_cells(entry) for entry in entries if entry["survey"] == survey]
        shown = [
            html.figure(name, style.inline_svg(drawn[name], name), text)
            for name, text in captions.items()
            if name.endswith(f"_{survey}")
        ]
        sections.append(html.section(survey, html.table(COLUMNS, rows, kind="numbers plain")))
        sections += html.figures_section(shown)
    how = [[name, text.strip("`")] for name, text in facts]
    sections.append(html.section("Protocol", html.table(["What", "How"], how, kind="protocol")))
    lead = [html.paragraph(_HOW_TO_READ)]
    return html.page("networks trained alike", "Leaderboard", lead, sections)


# --- figures ----------------------------------------------------------------------------------------------------------


@style.styled
def _cost_figure(entries: Sequence[Mapping[str, Any]], survey: str) -> "Figure":
    """Draws what networks reach against what they cost; those that none beats at no more cost carry their names."""
    figure = style.new_figure(7.6, 5.2)
    axes = figure.add_subplot()
    points = sorted((entry for entry in entries if entry["macs"]), key=lambda entry: entry["macs"])
    best = 0.0
    for entry in points:
        error = max(1 - entry["macro_auc"], 1e-6)
        leads = entry["macro_auc"] > best
        best = max(best, entry["macro_auc"])
        axes.plot(
            entry["macs"] / 1e6,
            error,
            "o",
            color=style.class_color(1) if leads else style.FAINT,
            markersize=6,
        )
        if leads:
            axes.annotate(
                style.literal(entry["model"]),
                (entry["macs"] / 1e6, error),
                textcoords="offset points",
                xytext=(5, -9),
                fontsize=8.5,
            )
    axes.set(
        xscale="log", yscale="log", xlabel="MACs per image (millions)", ylabel="1 − test macro AUC"
    )
    axes.invert_yaxis()
    axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.6)
    axes.set_title(style.literal(f"{survey}: named are those that nothing cheaper beats"))
    return figure


def _answer_figures(
    folder: Path, entries: Sequence[Mapping[str, Any]], seed: int, survey: str
) -> dict[str, "Figure"]:
    """Draws ROC curves of the best networks and the best one's confusion matrix, from the answers of the first seed."""
    answers = []
    for entry in entries[:N_ROC]:
        file = folder / "logits" / f"{entry['model']}-{survey}-seed{seed}.npz"
        if file.exists():
            with np.load(file) as kept:
                answers.append(
                    (
                        entry["model"],
                        kept["labels"],
                        kept["logits"],
                        tuple(kept["class_names"].tolist()),
                    )
                )
    if not answers:
        return {}
    _, labels, logits, names = answers[0]
    counts = confusion_matrix(labels, logits.argmax(axis=1), len(names))
    return {
        f"roc_{survey}": _roc_figure(answers),
        f"confusion_{survey}": figures.confusion(counts, names),
    }


@style.styled
def _roc_figure(answers: Sequence[tuple[str, np.ndarray, np.ndarray, tuple[str, ...]]]) -> "Figure":
    """Draws one panel per class, with false positives on a logarithmic axis: there the networks differ."""
    names = answers[0][3]
    figure = style.new_figure(4.2 * len(names), 4.6)
    for k, axes in enumerate(figure.subplots(1, len(names), sharey=True, squeeze=False)[0]):
        for i, (model, labels, logits, _) in enumerate(answers):
            odds = log_odds(logits)
            false_rate, true_rate = figures.roc_curve(odds[:, k], labels == k)
            auc = format_value(class_aucs(labels, odds)[k].value)
            look: dict[str, Any] = {
                "color": style.class_color(i),
                "linestyle": style.DASHES[i % len(style.DASHES)],
            }
            axes.plot(
                false_rate, true_rate, label=style.literal(f"{model} {auc}"), linewidth=1.4, **look
            )
        axes.set(
            xscale="log",
            xlim=(1 / max(1, int((answers[0][1] != k).sum())), 1),
            ylim=(0, 1.01),
            xlabel="False positive rate",
        )
        axes.set_title(style.literal(f"{names[k]} against the rest"))
        axes.legend(fontsize=7.5, loc="lower right")
        axes.grid(color=style.FAINT, alpha=0.25, linewidth=0.6)
    figure.axes[0].set_ylabel("True positive rate")
    return figure
