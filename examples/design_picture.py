"""Draws docs/images/haloformer.png: what haloformer_c8_nano sees of a lens of each class, and what it does with it.

python examples/design_picture.py docs/images/haloformer.png
"""

import io
import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from haloformer import create_model
from haloformer.fitting.channels import CLIP, Residual
from haloformer.models.haloformer import EquivariantStem, Haloformer
from haloformer.simulation import Simulator

SEED, CROP = 11, 96
CHANNELS = ("image", "residual of the\nbest smooth lens", "its detail")
CLASSES = {"no_sub": "no substructure", "cdm": "cold dark matter", "axion": "axion vortex"}


def lenses() -> dict[str, np.ndarray]:
    """One lens of each class as the network gets it, (3, H, W)."""
    simulator = Simulator("model_i", seed=SEED)
    batch = simulator.batch(range(3))
    seen = Residual(simulator.attributes["survey_definition"], "original", CROP, detail=True)(
        batch.images
    ).numpy()
    return {batch.class_names[label]: image for label, image in zip(batch.labels.tolist(), seen)}


def steps(model: Haloformer) -> list[tuple[str, str]]:
    """What happens to the channels, one (what, how large) for each box, read off the model itself."""
    stem = model.patch_embed.backbone
    assert isinstance(stem, EquivariantStem)
    order, side = stem.group.order, CROP
    layers = []
    for layer in stem.layers:
        halved = hasattr(layer, "halve") or type(layer.downsample).__name__ == "Downsample"
        side = -(-side // 2) if halved else side
        fields = layer.norm.num_features
        layers.append(f"{fields} fields × {order} orientations, {side}²")
    width, depth = model.embed_dim, len(model.blocks)
    heads = model.blocks[0].attn.num_heads
    return [
        ("group convolutions, 5×5\n(each filter in 8 orientations)", "\n".join(layers)),
        (
            "largest of the orientations,\nposition tied by symmetry",
            f"{side}² tokens of {width} numbers",
        ),
        (f"{depth} transformer blocks", f"every cell with every other,\n{heads} heads"),
        ("mean over the cells", "p(axion), p(cdm), p(no_sub);\naxion mass"),
    ]


def box(axes: Axes, x: float, y: float, width: float, height: float, title: str, text: str) -> None:
    """A box with a title and what is in it, in the axes' coordinates."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, "round,pad=0.01", facecolor="#eef4fb", edgecolor="#0072B2"
        )
    )
    axes.text(
        x + width / 2, y + height - 0.02, title, ha="center", va="top", fontsize=8.5, weight="bold"
    )
    axes.text(x + width / 2, y + 0.012, text, ha="center", va="bottom", fontsize=7.5)


def draw(path: str) -> None:
    """Writes the picture."""
    model = create_model("haloformer_c8_nano", CROP, in_chans=3)
    assert isinstance(model, Haloformer)
    figure = Figure(figsize=(11, 5), layout=None)
    seen = lenses()
    for row, (name, title) in enumerate(CLASSES.items()):
        for column, channel in enumerate(seen[name]):
            axes = figure.add_axes((0.045 + 0.118 * column, 0.63 - 0.29 * row, 0.112, 0.25))
            if column == 0:
                axes.imshow(np.sqrt(channel.clip(0)), cmap="inferno", origin="lower")
                axes.set_ylabel(title, fontsize=8.5)
            else:
                axes.imshow(channel, cmap="RdBu_r", origin="lower", vmin=-CLIP / 2, vmax=CLIP / 2)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(CHANNELS[column], fontsize=8.5)
    flow = figure.add_axes((0.43, 0.0, 0.56, 1.0))
    flow.set_axis_off()
    flow.set_xlim(0, 1)
    flow.set_ylim(0, 1)
    boxes = steps(model)
    heights, y = (0.3, 0.19, 0.17, 0.17), 0.99
    for k, ((title, text), height) in enumerate(zip(boxes, heights)):
        y -= height + 0.02
        box(flow, 0.2, y, 0.6, height - 0.03, title, text)
        if k + 1 < len(boxes):
            flow.add_patch(
                FancyArrowPatch(
                    (0.5, y - 0.01), (0.5, y - 0.045), arrowstyle="-|>", mutation_scale=9
                )
            )
        y -= 0.015
    flow.add_patch(FancyArrowPatch((0.0, 0.5), (0.185, 0.83), arrowstyle="-|>", mutation_scale=12))
    figure.text(
        0.22,
        0.012,
        f"residual and detail: −{CLIP / 2:g} σ (blue) to +{CLIP / 2:g} σ (red); Model I, {CROP} pixels of 0.05″",
        ha="center",
        fontsize=7.5,
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150, facecolor="white")
    colours = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(path, format="png", optimize=True)  # a third of the room of millions of colours


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else "haloformer.png")
