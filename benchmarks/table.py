"""The table of all architectures: every one on every survey, with the detail and with the image alone, at a learning rate of its own.

    python benchmarks/table.py run model_i detail --workers 2             # goes on where it stopped; some ten hours of one core
    python benchmarks/table.py run model_i image --models 'vit_nano,c?_nano'
    python benchmarks/table.py report                                     # results/benchmark from what is there

First each network is trained on few images of Model II, with the detail, at each of `RATES`; the rate with the best *validation* macro
AUC is taken, from nothing, for the trainings that count, on every survey. Nothing is chosen by the test images. All trainings on a survey see the same images, simulated and fitted once
(`haloformer prepare`). Runs lie in runs/benchmark; what is needed to write the report anew is copied to results/benchmark.
"""

import argparse
import csv
import fnmatch
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from haloformer.errors import InputError
from haloformer.evaluation.published import best_published
from haloformer.io.writing import write_text
from haloformer.models import create_model, find_model
from haloformer.models.cost import count_macs
from haloformer.studies.plan import parse_study
from haloformer.studies.run import carry_out

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = Path("runs/benchmark"), Path("results/benchmark")
_PREPARED = {"prepared": str(RUNS / "prepared"), "prepared_gb": 40}

MODELS = (
    *("vit_nano", "tnt_nano", "swin_nano", "swinv2_nano", "regionvit_nano", "t2t_vit_nano", "pvt_nano", "pvt_v2_nano", "cpvt_nano"),
    *("cvt_nano", "crossformer_nano", "cait_nano", "crossvit_nano", "cct_nano", "twins_svt_nano", "twins_pcpvt_nano", "a_vit_nano"),
    *("rvt_nano", "cswin_nano", "mobile_former_nano", "efficientnet_lite0", "resnet18", "convit_lens_nano", "botnet_nano"),
    *("efficientformer_nano", "coat_nano", "coatnet_lens_nano", "levit_nano", "pit_nano"),
    *("equivariant_c4_nano", "equivariant_c8_nano", "equivariant_d4_nano", "equivariant_d8_nano"),
    *("haloformer_nano", "haloformer_c8_nano"),
)  # fmt: skip

INPUTS = {"image": "none", "residual": "residual", "detail": "detail"}
_PILOT = "model_ii-detail-pilot"  # the learning rates are chosen there: images without noise, of 64 pixels, tell soonest
RATES = (1e-3, 3e-3)
PILOT, IMAGES, EPOCH = 9_600, 60_000, 12_000
TEST = {"n": 15_000, "seed": 1_000_000}

_COMMON: dict[str, Any] = {
    "augment": "none",  # these surveys' lenses all have the same orientation
    "noise": "original",
    "batch_size": 32,
    "ema": 0.99,
    "patience": 0,
    "loggers": [],
}
_SURVEYS: dict[str, dict[str, Any]] = {
    "model_i": {"crop": 96},
    "model_ii": {"normalization": "asinh_faint"},
    "model_iii": {"normalization": "asinh_faint"},
}

COLUMNS = (
    *("survey", "model", "family", "input", "seed", "images", "learning_rate"),
    *("macro_auc", "macro_auc_low", "macro_auc_high", "published_macro_auc", "published_model", "published_source"),
    *("auc_axion", "auc_axion_low", "auc_axion_high", "auc_cdm", "auc_cdm_low", "auc_cdm_high", "auc_no_sub", "auc_no_sub_low", "auc_no_sub_high"),
    *("accuracy", "accuracy_low", "accuracy_high", "val_macro_auc", "parameters", "macs", "inference_images_per_second"),
    *("seconds", "hardware", "code_version", "date"),
)  # fmt: skip


def base_of(survey: str, given: str) -> dict[str, Any]:
    """Returns what all trainings on a survey with an input share."""
    return {"data": survey, "physics": INPUTS[given], **_COMMON, **_SURVEYS[survey]}


def rate_name(rate: float) -> str:
    """Returns a learning rate as part of a name: ``lr0.003``."""
    return f"lr{rate:g}"


def pilot(models: list[str], workers: int) -> dict[str, float]:
    """Returns each network's learning rate: the one with the best validation macro AUC after few images; none where all failed."""
    folder = RUNS / _PILOT
    variants = {
        f"{model}-{rate_name(rate)}": {"model": model, "lr": rate}
        for model in models
        for rate in RATES
    }
    raw = {
        "title": "Learning rates on model_ii, detail",
        "base": {**base_of("model_ii", "detail"), "epochs": 1, "epoch_size": PILOT, "val_size": 1500,
                 **_PREPARED},
        "variants": variants,
        "seeds": [0],
        "test": {"n": 30, "seed": TEST["seed"] + 1},  # a study tests; nothing is read from it
    }  # fmt: skip
    _carried_out(raw, folder, workers)
    best: dict[str, tuple[float, float]] = {}
    for record in _records(folder):
        if record["status"] == "ok" and record["variant"] in variants:
            change = variants[record["variant"]]
            value = (record["val"]["val_macro_auc"], -float(change["lr"]))
            best[str(change["model"])] = max(best.get(str(change["model"]), (0.0, 0.0)), value)
    return {model: -value[1] for model, value in best.items() if value[1]}


def run(survey: str, given: str, models: list[str], seed: int, workers: int) -> None:
    """Trains what is missing of the networks on a survey: some at a time, the cheap ones first, so that early rows come early."""
    _taken_up(survey, given)
    models = sorted(models, key=_cost)
    for first in range(0, len(models), workers):
        part = models[first : first + workers]
        final(survey, given, part, pilot(part, workers), seed, workers)
    final(survey, given, models, pilot(models, workers), seed, workers)


def _cost(model: str) -> float:
    """Returns the operations of a network for an image of 64 pixels, which tell roughly how long its training takes."""
    return count_macs(create_model(model, 64, 3), (3, 64, 64)) or math.inf


def final(
    survey: str, given: str, models: list[str], rates: dict[str, float], seed: int, workers: int
) -> None:
    """Trains and tests networks at their learning rates."""
    variants = {model: {"model": model, "lr": rates[model]} for model in models if model in rates}
    if not variants:
        return
    raw = {
        "title": f"All architectures on {survey}, {given}",
        "base": {
            **base_of(survey, given),
            **_PREPARED,
            "epochs": IMAGES // EPOCH,
            "epoch_size": EPOCH,
            "val_size": 3000,
        },
        "variants": variants,
        "seeds": [seed],
        "test": TEST,
    }
    _carried_out(raw, RUNS / f"{survey}-{given}", workers)


def _taken_up(survey: str, given: str) -> None:
    """Puts results of a fresh checkout where runs go on from."""
    for name in (_PILOT, f"{survey}-{given}"):
        if not (RUNS / name / "results.jsonl").exists() and (RESULTS / name).exists():
            shutil.copytree(RESULTS / name, RUNS / name, dirs_exist_ok=True)


def _carried_out(raw: dict[str, Any], folder: Path, workers: int) -> None:
    plan = parse_study(raw, folder.name)
    try:
        carry_out(plan, folder, "python benchmarks/table.py", None, workers, True)
    except InputError as error:  # no run succeeded, or none did yet
        print(f"{folder.name}: {error}", flush=True)


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row_of(record: dict[str, Any], survey: str, given: str) -> dict[str, Any]:
    """Returns a finished run's row of the table."""
    options, test = record["options"], record["test"]
    family = find_model(options["model"]).family
    theirs = best_published(family, survey)
    row = {
        "survey": survey,
        "model": options["model"],
        "family": family,
        "input": given,
        "seed": record["seed"],
        "images": record["epochs"] * options["epoch_size"],
        "learning_rate": options.get("lr", 1e-3),
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


def report() -> None:
    """Copies what is new to results/benchmark, and writes table.csv and table.md."""
    for folder in sorted(path.parent for path in RUNS.glob("*-*/results.jsonl")):
        target = RESULTS / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for name in ("results.jsonl", "study.yaml"):
            shutil.copy(folder / name, target / name)
        if folder.name == _PILOT:
            continue
        (target / "logits").mkdir(exist_ok=True)
        for path in (folder / "logits").glob("*.npz"):
            shutil.copy(path, target / "logits" / path.name)
    rows = []
    for path in sorted(RESULTS.glob("*-*/results.jsonl")):
        if path.parent.name == _PILOT:
            continue
        survey, _, given = path.parent.name.partition("-")
        rows += [row_of(r, survey, given) for r in _records(path.parent) if r["status"] == "ok"]
    rows.sort(key=lambda row: (row["survey"], row["input"], -row["macro_auc"]))
    with (RESULTS / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    write_text(RESULTS / "table.md", _markdown(rows))
    print(f"{len(rows)} runs in {RESULTS / 'table.csv'}")


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Every architecture on every survey",
        "",
        "Made by `python benchmarks/table.py report`; all numbers, with hardware, date and code version of",
        "each run, are in [table.csv](table.csv). Each network is trained once on "
        f"{IMAGES:,} images, each",
        f"seen once, at the better of the learning rates {' and '.join(f'{r:g}' for r in RATES)} by the validation images of a",
        f"training on {PILOT:,} of Model II (detail), and tested on {TEST['n']:,} images of seed {TEST['seed']}, which chose nothing.",
        "Intervals: 95 %, over test images (DeLong), not over trainings. Published AUCs are of the released",
        "images, of the papers' own sizes, pretraining and budgets, without a fit. *Images/s*: the network",
        "alone, batches of 64, on one thread, beside other work. *Training [s]*: of an interrupted run",
        "its last part alone.",
    ]
    for survey, given in dict.fromkeys((row["survey"], row["input"]) for row in rows):
        lines += ["", f"## {survey}, input: {given}", ""]
        lines += [
            "| model | macro AUC (95 %) | axion | cdm | no_sub | accuracy | published | lr | parameters | MACs | images/s | training [s] |",
            "|---" * 12 + "|",
        ]
        for row in (r for r in rows if (r["survey"], r["input"]) == (survey, given)):
            theirs = row["published_macro_auc"]
            cells = [
                f"`{row['model']}`",
                f"{row['macro_auc']:.4f} ({row['macro_auc_low']:.4f} – {row['macro_auc_high']:.4f})",
                *(f"{row[f'auc_{name}']:.4f}" for name in ("axion", "cdm", "no_sub")),
                f"{row['accuracy']:.3f}",
                "–" if theirs is None else f"{theirs:.4f}",
                f"{row['learning_rate']:g}",
                f"{row['parameters'] / 1e6:.2f} M",
                "–" if row["macs"] is None else f"{row['macs'] / 1e6:.0f} M",
                f"{row['inference_images_per_second']:.0f}",
                f"{row['seconds']:.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("report")
    runs = commands.add_parser("run")
    runs.add_argument("survey", choices=_SURVEYS)
    runs.add_argument("input", choices=INPUTS)
    runs.add_argument("--models", default="*", help="names or patterns, separated by commas")
    runs.add_argument("--seed", type=int, default=0)
    runs.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.command == "report":
        report()
        return
    patterns = arguments.models.split(",")
    models = [name for name in MODELS if any(fnmatch.fnmatch(name, p) for p in patterns)]
    run(arguments.survey, arguments.input, models, arguments.seed, arguments.workers)


if __name__ == "__main__":
    main()
