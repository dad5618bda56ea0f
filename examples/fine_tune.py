"""What a network that knows one survey is worth for another one with few labels: fine-tuned against trained from scratch.

python examples/fine_tune.py runs/few
"""

import sys
from pathlib import Path

from compare import main as compare

import haloformer


def main(
    out: str = "runs/few",
    model: str = "hybrid_nano",
    images: int = 1500,
    labels: int = 30,
    n_test: int = 600,
) -> None:
    recipe = {"normalization": "asinh_faint", "epochs": 3, "val_size": 90, "progress": False}
    source, scratch, tuned = (str(Path(out) / name) for name in ("source", "scratch", "tuned"))
    haloformer.train("model_iii", model, source, epoch_size=images, **recipe)
    # The same few images for both, several times over.
    few = {**recipe, "n_images": 3 * labels, "epoch_size": images // 3}
    haloformer.train("model_ii", model, scratch, **few)
    haloformer.train("model_ii", model, tuned, pretrained=source, lr=3e-4, **few)
    compare(scratch, tuned, "model_ii", n_test)


if __name__ == "__main__":
    main(*sys.argv[1:2])
