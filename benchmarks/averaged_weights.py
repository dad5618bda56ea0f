"""Why `make demo` averages weights: the loss of validation images with and without, and what makes it jump.

    python benchmarks/averaged_weights.py runs/averaged      # trains examples/quickstart.yaml twice: some 5 minutes of one core

Both trainings see the same images in the same order and have the same training loss. Of the weights after epoch 6 without an average, the loss
of new images is measured with batch norm's running statistics, with those of each batch, and with statistics measured anew.
"""

import argparse
import csv
import datetime
import shutil
from pathlib import Path

import torch
import yaml
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from haloformer._version import code_version
from haloformer.prediction.predictor import Predictor, load
from haloformer.simulation import Simulator
from haloformer.training import train
from simulation import hardware, table

ROOT = Path(__file__).parents[1]
EMA, EPOCH = 0.99, 6
N, BATCH = 1500, 64
SEEDS = (77, 78)  # of the images that the loss is measured on, and of those that the statistics are


def trained(folder: Path, ema: float) -> list[dict[str, str]]:
    """Returns the rows of metrics.csv; the weights after some epochs are kept in the folder."""
    options = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))

    def keep(epoch: int, _: dict[str, float]) -> bool:
        if epoch == EPOCH + 1:  # last.ckpt is of the epoch before
            shutil.copy(folder / "checkpoints" / "last.ckpt", folder / "early.ckpt")
        return False

    train(**{**options, "ema": ema, "out": str(folder), "progress": False}, on_epoch=keep)
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def losses(folder: Path) -> dict[str, float]:
    """Returns the loss of new images by the kept weights, by where batch norm's statistics are from."""
    predictor = load(str(folder))
    state = torch.load(folder / "early.ckpt", map_location="cpu", weights_only=True)
    assert state["epoch"] == EPOCH - 1
    weights = {
        name.removeprefix("model."): value
        for name, value in state["state_dict"].items()
        if name.startswith("model.")
    }
    predictor.model.load_state_dict(weights)
    norms = [module for module in predictor.model.modules() if isinstance(module, _BatchNorm)]
    found = {"as they run": loss(predictor)}
    for norm in norms:
        norm.train()
    found["of each batch"] = loss(predictor)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # their mean over all batches
    loss(predictor, SEEDS[1])
    predictor.model.eval()
    found["measured anew"] = loss(predictor)
    return found


@torch.no_grad()
def loss(predictor: Predictor, seed: int = SEEDS[0]) -> float:
    batch = Simulator("model_ii", seed=seed).batch(range(N))
    inputs = predictor.prepared(batch.images)
    full = range(0, N - BATCH + 1, BATCH)
    parts = [
        cross_entropy(predictor.model(inputs[i : i + BATCH]), batch.labels[i : i + BATCH])
        for i in full
    ]
    return float(torch.stack(parts).mean())


def number(row: dict[str, str], key: str) -> str:
    return f"{float(row[key]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folder", type=Path, help="for the two runs; finished ones are not repeated")  # fmt: skip
    folder = parser.parse_args().folder
    print(f"{datetime.date.today()}, {hardware()}, {code_version()}")
    plain, averaged = trained(folder / "plain", 0.0), trained(folder / "averaged", EMA)
    rows = [["epoch", *(row["epoch"] for row in plain)]]
    rows.append(["training", *(number(row, "train_loss") for row in plain)])
    rows.append(["validation, `ema: 0`", *(number(row, "val_loss") for row in plain)])
    rows.append([f"validation, `ema: {EMA}`", *(number(row, "val_loss") for row in averaged)])
    print(table(rows))
    for what, value in losses(folder / "plain").items():
        print(
            f"loss of {N} images after epoch {EPOCH}, batch norm's statistics {what}: {value:.2f}"
        )


if __name__ == "__main__":
    main()
