"""The table of all architectures: every one on every survey, with the detail and with the image alone, at a learning rate of its own.

    python benchmarks/table.py run model_i detail --workers 2             # goes on where it stopped; some ten hours of one core
    python benchmarks/table.py run model_i image --models 'vit_nano,c?_nano'
    python benchmarks/table.py run model_i detail --models levit_tiny     # one of 4 to 7 million parameters
    python benchmarks/table.py run common_task detail --models 'resnet18,equivariant_*' --images 1200000   # for a GPU
    python benchmarks/table.py prepare model_i --workers 16               # images for all of the trainings, beforehand, on the CPU
    python benchmarks/table.py speeds                                     # of all networks, one after the other, on an idle CPU
    python benchmarks/table.py report                                     # results/benchmark from what is there

First each network is trained on few images of Model II, with the detail, at each of `RATES`; the rate with the best *validation* macro
AUC is taken, from nothing, for the trainings that count, on every survey. Nothing is chosen by the test images. All trainings on a survey see the same images, simulated and fitted once
(`haloformer prepare`). Runs lie in runs/benchmark; what is needed to write the report anew is copied to results/benchmark.
"""

import argparse
import datetime
import fnmatch
import json
import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table_report import SPEEDS, report

from haloformer.data.prepared import SHARD_IMAGES
from haloformer.errors import InputError
from haloformer.io.writing import write_text
from haloformer.models import create_model
from haloformer.models.cost import count_macs
from haloformer.studies.plan import parse_study
from haloformer.studies.run import carry_out
from haloformer.training.config import compose
from haloformer.training.preparing import parts_of

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

LARGER = (
    *("haloformer_tiny", "rvt_tiny", "cct_tiny", "coat_tiny"),
    *("levit_tiny", "mobile_former_tiny", "efficientformer_tiny"),
)
"""Networks of 4 to 7 million parameters, which are trained where they are named."""

_IN_BF16 = (
    *("crossformer_nano", "convit_lens_nano", "resnet18", "haloformer_c8_nano", "equivariant_c4_nano", "equivariant_c8_nano"),
    *("equivariant_d4_nano", "equivariant_d8_nano", "tnt_nano", "swin_nano", "swinv2_nano"),
)  # fmt: skip
"""Networks that a processor with AMX trains 1.2 to 1.9 times as fast in bf16, with --bf16; the others not."""

INPUTS = {"image": "none", "residual": "residual", "detail": "detail"}
_PILOT = "model_ii-detail-pilot"  # the learning rates are chosen there: images without noise, of 64 pixels, tell soonest
RATES = (1e-3, 3e-3)
LOWER = (1e-3, 3e-4)
LITTLE = 0.8
"""Validation macro AUC below which a network has learnt little: of noisy images alone some do at the pilot's rates. Those are tried in turn,
below its rate, until it has learnt more."""
PILOT, IMAGES, EPOCH = 9_600, 60_000, 12_000
TEST = {"n": 15_000, "seed": 1_000_000}

_COMMON: dict[str, Any] = {
    "augment": "none",  # these surveys' lenses all have the same orientation
    "noise": "original",
    "batch_size": 32,
    "ema": 0.99,
    "patience": 0,
    "precision": "32",  # on GPUs as on CPUs, and
    "simulate_on": "cpu",  # on the same images
    "loggers": [],
}
_SURVEYS: dict[str, dict[str, Any]] = {
    "model_i": {"crop": 96},
    "model_ii": {"normalization": "asinh_faint"},
    "model_iii": {"normalization": "asinh_faint"},
    "alexander_2020_a": {"crop": 96},  # all of the rings
    "alexander_2020_b": {"crop": 96},
    "common_task": {"crop": 96},
    "model_i_fair": {
        "crop": 96
    },  # lenses that vary, and give up what would betray their substructure
    "ladder_1_camera": {},
    "ladder_2_halos": {},
    "ladder_3_multipoles": {},
    "ladder_4_clumpy": {},
    "hst": {},
    "euclid": {},
    "jwst": {},
}


def base_of(survey: str, given: str) -> dict[str, Any]:
    """Returns what all trainings on a survey with an input share."""
    return {"data": survey, "physics": INPUTS[given], **_COMMON, **_SURVEYS[survey]}


def rate_name(rate: float) -> str:
    """Returns a learning rate as part of a name: ``lr0.003``."""
    return f"lr{rate:g}"


def faster(model: str, bf16: bool) -> dict[str, Any]:
    """Returns what a network's trainings do otherwise than in 32 bits, to be faster."""
    return {"precision": "bf16", "channels_last": True} if bf16 and model in _IN_BF16 else {}


def pilot(models: list[str], workers: int, bf16: bool = False) -> dict[str, float]:
    """Returns each network's learning rate: the one with the best validation macro AUC after few images; none where all failed."""
    folder = RUNS / _PILOT
    variants = {
        f"{model}-{rate_name(rate)}": {"model": model, "lr": rate, **faster(model, bf16)}
        for model in models
        for rate in RATES
    }
    variants |= _as_done(folder, variants)
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


def run(
    survey: str,
    given: str,
    models: list[str],
    seed: int,
    workers: int,
    images: int = IMAGES,
    bf16: bool = False,
) -> None:
    """Trains what is missing of the networks on a survey: on a CPU some at a time, the cheap ones first, so that early rows come early.

    On a GPU all side by side, the dear ones first, so that none is left alone at the end.
    """
    _taken_up(survey, given)
    done = {
        record["variant"]
        for record in _records(RUNS / f"{survey}-{given}")
        if record["status"] == "ok" and record["seed"] == seed
    }
    gpu = torch.cuda.is_available()
    costs = {record["options"]["model"]: record["macs"] for record in _records(RUNS / _PILOT) if record.get("macs")}  # fmt: skip
    missing = sorted(
        (m for m in models if _row(m, images) not in done),
        key=lambda model: costs.get(model) or _cost(model),
        reverse=gpu,
    )
    at_once = len(missing) if gpu else workers
    for first in range(0, len(missing), max(at_once, 1)):
        part = missing[first : first + at_once]
        final(survey, given, part, pilot(part, workers, bf16), seed, workers, images, bf16)
    rates = pilot(models, workers, bf16)
    final(survey, given, models, rates, seed, workers, images, bf16)
    for lower in LOWER if _limit(survey) > LITTLE else ():  # else nobody can learn more
        still = _learnt_little(survey, given, models, seed, images)
        slower = {model: lower for model in still if lower < rates.get(model, 0)}
        final(survey, given, list(slower), slower, seed, workers, images, bf16, lower)


def _limit(survey: str) -> float:
    """Returns the macro AUC that can be reached on a survey, of results/limits; 1 where it is not known."""
    path = Path("results/limits") / survey / "limits.json"
    if not path.exists():
        return 1.0
    found = json.loads(path.read_text(encoding="utf-8"))
    return float(found["levels"][found["limit"]]["reached"]["value"])


def _learnt_little(survey: str, given: str, models: list[str], seed: int, images: int) -> list[str]:
    """Returns those of the networks that have learnt little at any rate so far."""
    best: dict[str, float] = {}
    for record in _records(RUNS / f"{survey}-{given}"):
        model = record.get("options", {}).get("model")
        names = [_row(model, images, lower) for lower in (None, *LOWER)]
        if record["status"] == "ok" and record["seed"] == seed and record["variant"] in names:
            best[model] = max(best.get(model, 0.0), record["val"]["val_macro_auc"])
    return [model for model in models if best.get(model, 1.0) < LITTLE]


def prepare(survey: str, workers: int) -> None:
    """Simulates and fits the images of all trainings on a survey, in several processes."""
    options = {**base_of(survey, "detail"), **_PREPARED, "model": "resnet_nano", "epochs": IMAGES // EPOCH,
               "epoch_size": EPOCH, "val_size": 3000, "device": "cpu", "out": str(RUNS / "x")}  # fmt: skip
    parts = parts_of(compose(None, options), None, TEST["n"], TEST["seed"])
    tasks = [
        (options, name, numbers[first : first + 4 * SHARD_IMAGES])
        for name, _, numbers in parts
        for first in range(0, len(numbers), 4 * SHARD_IMAGES)
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = sum(pool.map(_prepared_part, tasks))
    print(f"{survey}: {done} images prepared", flush=True)


def _prepared_part(task: tuple[dict[str, Any], str, np.ndarray]) -> int:
    options, name, numbers = task
    torch.set_num_threads(1)
    parts = parts_of(compose(None, options), None, TEST["n"], TEST["seed"])
    (made,) = (images for part, images, _ in parts if part == name)
    return sum(made.prepare(numbers))


def speeds(models: list[str]) -> None:
    """Measures how many images/s each of some networks alone classifies on one thread of the CPU, and writes it down; the others stay."""
    from simulation import best_rate, hardware

    torch.set_num_threads(1)
    path = RESULTS / SPEEDS
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: dict[str, dict[str, float]] = dict(known.get("images_per_second", {}))
    for model in models:
        found[model] = {}
        for side in (64, 96):
            network, batch = create_model(model, side, 3).eval(), torch.randn(64, 3, side, side)
            with torch.inference_mode():
                rate = best_rate(lambda n=network, b=batch: len(n(b)), 1.0, repeats=5)
            found[model][str(side)] = round(rate, 1)
        print(f"{model}: {found[model]} images/s", flush=True)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    facts = {"hardware": f"{hardware()}, one thread", "date": date, "torch": torch.__version__}
    if set(found) - set(models):  # of another day
        later = {**known.get("later", {}), **{model: facts for model in models}}
        facts = {key: known[key] for key in facts} | {"later": later}
    write_text(path, json.dumps({**facts, "images_per_second": found}, indent=1) + "\n")


def _row(model: str, images: int, lower: float | None = None) -> str:
    """Returns the name of a network's row: its own, with the number of images where that is not the usual one, and a rate below the pilot's."""
    name = model if images == IMAGES else f"{model}-{images}"
    return name if lower is None else f"{name}-{rate_name(lower)}"


def _cost(model: str) -> float:
    """Returns the operations of a network for an image of 64 pixels, which tell roughly how long its training takes."""
    return count_macs(create_model(model, 64, 3), (3, 64, 64)) or math.inf


def final(
    survey: str,
    given: str,
    models: list[str],
    rates: dict[str, float],
    seed: int,
    workers: int,
    images: int = IMAGES,
    bf16: bool = False,
    lower: float | None = None,
) -> None:
    """Trains and tests networks at their learning rates; on another number of images, or at a ``lower`` rate, they are variants of their own."""
    more = {} if images == IMAGES else {"epochs": images // EPOCH}
    variants = {
        _row(model, images, lower): {
            "model": model,
            "lr": rates[model],
            **more,
            **faster(model, bf16),
        }
        for model in models
        if model in rates
    }
    if not variants:
        return
    variants |= _as_done(RUNS / f"{survey}-{given}", variants)
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


def _as_done(folder: Path, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns those of the variants that are done, with the settings that they had."""
    return {
        record["variant"]: record["changes"]
        for record in _records(folder)
        if record["status"] == "ok" and record["variant"] in variants
    }


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def how_made() -> str:
    """Returns how the runs were made, for the report."""
    rates = " and ".join(f"{rate:g}" for rate in RATES)
    return (
        f"Each network is trained on {IMAGES:,} images, each seen once, in batches of {_COMMON['batch_size']}, at the better of "
        f"the learning rates {rates} by the validation images of a training on {PILOT:,} of Model II (detail); where it learns little "
        f"(validation macro AUC below {LITTLE}), again at {' and '.join(f'{rate:g}' for rate in LOWER)} until it does not, unless nobody can learn more (results/limits). It is tested on "
        f"{TEST['n']:,} images of seed {TEST['seed']}, which chose nothing."
    )


def _chosen(given: str) -> list[str]:
    """Returns the networks of some names or patterns; larger ones by name alone."""
    patterns = given.split(",")
    models = [name for name in MODELS if any(fnmatch.fnmatch(name, p) for p in patterns)]
    return models + [name for name in LARGER if name in patterns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    alone = commands.add_parser("speeds")
    alone.add_argument("--models", default="*", help="names or patterns, separated by commas")
    commands.add_parser("report")
    before = commands.add_parser("prepare")
    before.add_argument("survey", choices=_SURVEYS)
    before.add_argument("--workers", type=int, default=os.cpu_count())
    runs = commands.add_parser("run")
    runs.add_argument("survey", choices=_SURVEYS)
    runs.add_argument("input", choices=INPUTS)
    runs.add_argument(
        "--models",
        default="*",
        help="names or patterns, separated by commas; the larger ones by name: "
        + ", ".join(LARGER),
    )
    runs.add_argument("--seed", type=int, default=0)
    runs.add_argument("--workers", type=int, default=1)
    runs.add_argument(
        "--bf16",
        action="store_true",
        help="those in bf16 that a processor with AMX trains faster so",
    )
    runs.add_argument("--images", type=int, default=IMAGES, help="to train on, each seen once")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.command == "speeds":
        speeds(_chosen(arguments.models))
        return
    if arguments.command == "report":
        report(RUNS, RESULTS, Path("docs/models/README.md"), _PILOT, how_made())
        return
    if arguments.command == "prepare":
        prepare(arguments.survey, arguments.workers)
        return
    models = _chosen(arguments.models)
    if arguments.images < EPOCH:
        parser.error(f"--images must be at least {EPOCH}")
    run(*(getattr(arguments, name) for name in ("survey", "input")), models, arguments.seed, arguments.workers, arguments.images, arguments.bf16)  # fmt: skip


if __name__ == "__main__":
    main()
