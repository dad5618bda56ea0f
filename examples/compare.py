"""Is one network better than another? Both see the same test images, so the difference has an interval of its own.

python examples/compare.py runs/a runs/b model_ii
python examples/compare.py                            trains two small ones first
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import haloformer
from haloformer.evaluation.metrics import paired_difference


def logits(run: str, lenses) -> np.ndarray:
    predictor = haloformer.load(run, device="cpu")
    return np.concatenate([predictor.numbers(part).numpy() for part in lenses.images.split(100)])


def main(a: str, b: str, survey: str = "model_ii", n: int = 600) -> None:
    lenses = haloformer.simulate(survey, n, seed=1000)  # neither was trained on this seed
    difference = paired_difference(lenses.labels.numpy(), logits(b, lenses), logits(a, lenses))
    print(
        f"macro AUC of {b} minus that of {a}: {difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    )


def two_small_ones(
    folder: str, models: tuple[str, str] = ("vit_nano", "hybrid_nano"), images: int = 900
) -> list[str]:
    runs = [str(Path(folder) / model) for model in models]
    for model, run in zip(models, runs):
        haloformer.train(
            "model_ii", model, run, epochs=2, epoch_size=images, val_size=90, progress=False
        )
    return runs


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(*sys.argv[1:4])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(*two_small_ones(folder))
