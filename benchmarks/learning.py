"""Does every model learn? Overfits 64 images with each, then trains it briefly on fresh simulated ones.

    python benchmarks/learning.py                         # all nano models, on images of model_ii
    python benchmarks/learning.py --models swin_nano --normalization standard --results results/ablation.jsonl
    python benchmarks/learning.py --table results/measurements/learning.md   # only writes the table from what is there

Two questions per model, with one recipe for all: AdamW, learning rate 1e-3 after a linear warm-up over a tenth of the
steps, then half a cosine down to nothing, batches of 32, images flipped and turned, normalisation asinh_faint.

1. After how many steps on the same 64 images (in halves, without augmentation; of at most 240, else 720; the course of the learning
   rate as above) does it know all of them, in evaluation mode?
2. What is the macro AUC on validation images after ``--images`` fresh images? If it is not above 0.9, the model is slow: it
   starts again with three times as many. At the end the macro AUC is measured once on test images.

Each answer is a line of a JSON file, written as it comes; what is there is not done again. Two processes with one thread
each (``--part 1/2``, ``--part 2/2``, OMP_NUM_THREADS=1) use two cores better than one with two.
"""

import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from haloformer.data.augment import draw_transforms, transform
from haloformer.data.normalization import Normalization
from haloformer.data.stream import EpochStream, simulate_set, validation_seed
from haloformer.evaluation.metrics import classification_metrics
from haloformer.models import create_model, find_model, list_models
from haloformer.simulation import Simulator
from haloformer.training.optim import build_optimizer, build_schedule
from haloformer.vocabulary import CLASS_NAMES

BATCH = 32
SETS = {"overfit": (5, 64), "validation": (validation_seed(0), 900), "test": (1000, 1500)}
"""Seeds and sizes; training images have seed 0."""


@torch.no_grad()
def logits_of(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    was_training = model.training
    model.eval()
    logits = torch.cat([model(chunk) for chunk in images.split(150)]).double().numpy()
    model.train(was_training)
    return logits


def auc_of(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor):
    return classification_metrics(labels.numpy(), logits_of(model, images), CLASS_NAMES)[
        "macro_auc"
    ]


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
):
    if hasattr(model, "forward_with_auxiliary_loss"):
        logits, extra = model.forward_with_auxiliary_loss(images)
    else:
        logits, extra = model(images), 0.0
    loss = F.cross_entropy(logits, labels) + extra
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def overfit(
    name: str, options: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor
) -> int | None:
    """Returns the number of steps after which all images are known, or None: of 240, and if they do not do, of 720."""
    for steps in (options.overfit_steps, 3 * options.overfit_steps):
        if (step := overfit_within(name, options, images, labels, steps)) is not None:
            return step
    return None


def overfit_within(
    name: str, options: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor, steps: int
) -> int | None:
    """The same, within so many steps."""
    torch.manual_seed(options.seed)
    model = create_model(name, images.shape[-1], **options.model_args).train()
    optimizer = build_optimizer(model, lr=options.lr, weight_decay=0.0)
    schedule = build_schedule(optimizer, name="cosine", total_steps=steps, steps_per_epoch=steps)
    for step in range(steps):
        if step % 2 == 0:
            halves = torch.randperm(len(images)).split(len(images) // 2)
        train_step(model, optimizer, images[halves[step % 2]], labels[halves[step % 2]])
        schedule.step()
        known = step % 10 == 9 and (logits_of(model, images).argmax(1) == labels.numpy()).all()
        if known:
            return step + 1
    return None


def learn(
    name: str, options: argparse.Namespace, normalize: Normalization, sets: dict, n_images: int
) -> dict:
    """Trains on fresh images and measures."""
    torch.manual_seed(options.seed)
    simulator = Simulator(options.survey, seed=options.seed)
    model = create_model(name, simulator.image_shape[-1], **options.model_args).train()
    optimizer = build_optimizer(model, lr=options.lr, weight_decay=0.05)
    stream = EpochStream(simulator, 0, n_images, BATCH)
    steps = len(stream)
    schedule = build_schedule(
        optimizer, name="cosine", total_steps=steps, steps_per_epoch=steps, warmup=options.warm_up
    )
    rng = np.random.default_rng(options.seed)
    begin = time.perf_counter()
    for images, labels in stream:
        images = normalize(transform(images, draw_transforms("d4", len(images), rng)))
        train_step(model, optimizer, images, labels)
        schedule.step()
    seconds = time.perf_counter() - begin
    validation, test = auc_of(model, *sets["validation"]), auc_of(model, *sets["test"])
    return {
        "images": n_images,
        "validation_auc": validation.value,
        "test_auc": test.value,
        "test_low": test.low,
        "test_high": test.high,
        "images_per_second": round(len(stream) * BATCH / seconds, 1),
    }


def table(results: list[dict]) -> str:
    varied = [
        key
        for key in results[0]["setting"]
        if len({json.dumps(r["setting"][key]) for r in results}) > 1
    ]
    lines = [
        "| model | family | parameters | fresh images | validation macro AUC | test macro AUC (95 %) | steps to know 64 images |"
        + "".join(f" {key} |" for key in varied),
        "|---" * (7 + len(varied)) + "|",
    ]
    steps = {row["name"]: row["steps"] or "never" for row in results if row["kind"] == "overfit"}
    learned = [row for row in results if row["kind"] == "learn"]
    for row in sorted(learned, key=lambda r: (r["images"], -r["validation_auc"])):
        lines.append(
            f"| `{row['name']}` | {row['family']} | {row['parameters'] / 1e6:.2f} M | {row['images']:,} "
            f"| {row['validation_auc']:.3f} | {row['test_auc']:.3f} ({row['test_low']:.3f}–{row['test_high']:.3f}) "
            f"| {steps.get(row['name'], 'not tried')} |"
            + "".join(f" {row['setting'][key]} |" for key in varied)
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="names; all of --size if none")
    parser.add_argument("--size", default="nano", help="nano or tiny")
    parser.add_argument("--survey", default="model_ii")
    parser.add_argument(
        "--images",
        type=int,
        default=4_800,
        help="fresh training images; slow models get three times as many",
    )
    parser.add_argument(
        "--part", default="1/1", help="i/n: every n-th model, beginning with the i-th"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--warm-up",
        type=float,
        default=0.1,
        help="part of the steps over which the learning rate rises",
    )
    parser.add_argument(
        "--model-args",
        type=json.loads,
        default={},
        help="""keywords as JSON, such as '{"patch_size": 16}'""",
    )
    parser.add_argument("--normalization", default="asinh_faint")
    parser.add_argument("--overfit-steps", type=int, default=240)
    parser.add_argument(
        "--kinds", nargs="*", default=["learn", "overfit"], choices=["learn", "overfit"]
    )
    parser.add_argument(
        "--no-second-chance", action="store_true", help="do not train slow models for longer"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/learning.jsonl"))
    parser.add_argument(
        "--table", type=Path, help="write the table into this file instead of training"
    )
    options = parser.parse_args()

    done = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    if options.table:
        options.table.write_text(table(done) + "\n")
        return
    names = options.models or [info.name for info in list_models() if info.size == options.size]
    setting = {
        key: getattr(options, key)
        for key in ("survey", "lr", "warm_up", "normalization", "model_args", "seed", "images")
    }
    part, parts = map(int, options.part.split("/"))
    tasks = [
        (kind, name)
        for kind in options.kinds
        for name in names[part - 1 :: parts]
        if not any(
            r["name"] == name and r["kind"] == kind and r["setting"] == setting for r in done
        )
    ]
    raw = {
        key: simulate_set(Simulator(options.survey, seed=seed), n)
        for key, (seed, n) in SETS.items()
    }
    normalize = Normalization(options.normalization).fit(
        simulate_set(Simulator(options.survey, seed=0), 2048).images
    )
    sets = {key: (normalize(made.images), made.labels) for key, made in raw.items()}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for kind, name in tasks:
        info = find_model(name)
        if kind == "learn":
            result = learn(name, options, normalize, sets, options.images)
            if result["validation_auc"] <= 0.9 and not options.no_second_chance:
                result = learn(name, options, normalize, sets, 3 * options.images)
        else:
            result = {"steps": overfit(name, options, *sets["overfit"])}
        row = {
            "kind": kind,
            "name": name,
            "family": info.family,
            "parameters": sum(
                p.numel() for p in create_model(name, 64, **options.model_args).parameters()
            ),
            **result,
            "setting": setting,
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        }
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in result.items()
        }
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
