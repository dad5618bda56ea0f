"""Trains a small transformer for a minute or two, and draws where its layers look in lenses that it has not seen.

python examples/attention.py docs/images/attention.png          trains one first
python examples/attention.py attention.png runs/first           takes a run of yours
"""

import sys
import tempfile

import torch
from matplotlib.figure import Figure

import haloformer
from haloformer.models import attention
from haloformer.simulation import simulate

SURVEY, CLASSES = (
    "model_ii",
    {"no_sub": "no substructure", "cdm": "cold dark matter", "axion": "axions"},
)


def trained(run: str | None) -> "haloformer.prediction.predictor.Predictor":
    if run is not None:
        return haloformer.load(run, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        # Cells of 8 pixels: coarser ones show little.
        haloformer.train(
            SURVEY,
            "hybrid_nano_s8",
            folder,
            epochs=4,
            epoch_size=3000,
            val_size=600,
            normalization="asinh_faint",
        )
        return haloformer.load(folder, device="cpu")


def main(out: str, run: str | None = None) -> None:
    predictor = trained(run)
    lenses = simulate(SURVEY, len(CLASSES), seed=1000)
    images = predictor.normalization(lenses.images)
    brightest = divmod(int(lenses.images[0, 0].argmax()), images.shape[-1])
    layers = attention(predictor.model, images)
    asked = attention(predictor.model, images[:1], query=brightest)

    figure = Figure(figsize=(1.9 * (1 + len(layers)), 8.2), layout="constrained")
    axes = figure.subplots(1 + len(CLASSES), 1 + len(layers), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=(), yticks=())
    for row, (name, image) in enumerate(zip(CLASSES.values(), images[:, 0])):
        axes[row, 0].imshow(image, cmap="gray")
        axes[row, 0].set_ylabel(name)
        for axis, layer in zip(axes[row, 1:], layers):
            show(axis, image, layer.maps[row].mean(0))
            if row == 0:
                axis.set_title(
                    f"{layer.layer}\n{layer.kind}, mean of {layer.maps.shape[1]} heads", fontsize=8
                )
    axes[-1, 0].imshow(images[0, 0], cmap="gray")
    axes[-1, 0].set_ylabel("what the token\nat + looks at")
    for axis, layer in zip(axes[-1, 1:], asked):
        show(axis, images[0, 0], layer.maps[0].mean(0))
    for axis in axes[-1]:
        axis.plot(brightest[1], brightest[0], "c+", markersize=9, markeredgewidth=1.5)
    figure.savefig(out, dpi=110)
    print(f"drew {out}")


def show(axis, image: torch.Tensor, attended: torch.Tensor) -> None:
    """A map (H, W), with the image's bright parts outlined."""
    axis.imshow(attended, cmap="inferno", vmin=0)
    axis.contour(
        image, levels=[float(image.mean() + 1.5 * image.std())], colors="w", linewidths=0.6
    )


if __name__ == "__main__":
    main(*(sys.argv[1:3] or ["attention.png"]))
