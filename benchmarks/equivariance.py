"""How much do the features of an equivariant network change when its image is turned or mirrored?

    python benchmarks/equivariance.py
    python benchmarks/equivariance.py --escnn ref/escnn    # also the same network built by escnn, from a clone

The images are sums of Gaussians inside a disc with a soft edge, written down as formulas: turning one by 45° is evaluating
it at turned coordinates, without interpolation. A network has random weights; its normalisation has seen the upright
images. Printed is the root mean square change of the features that the classifier is given, in units of the root mean
square distance between those of different images: 1 means that a turned image is as good as another one.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from haloformer.models import create_model
from haloformer.models.convert import convert_state_dict

sys.path.insert(0, str(Path(__file__).parent))

GROUPS = ("c4", "d4", "c8", "d8")


def smooth_images(
    size: int, degrees: float = 0.0, mirror: bool = False, count: int = 12, seed: int = 0
) -> Tensor:
    """Returns (count, 1, size, size): images of six Gaussians each, mirrored left to right and then turned.

    Args:
        size: Pixels a side, which are 2 units long.
        degrees: Angle of the turn, counter-clockwise.
        mirror: Whether to mirror the image first.
        count: Number of images.
        seed: Of the Gaussians: their widths are 4 to 8 % of the side, their centres within half the inner radius.
    """
    generator = torch.Generator().manual_seed(seed)
    radius, turn, width, flux = torch.rand(4, count, 6, 1, 1, generator=generator).double()
    radius, turn, width, flux = (
        0.5 * radius.sqrt(),
        2 * math.pi * turn,
        0.08 + 0.08 * width,
        2 * flux - 1,
    )
    pixels = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / (size / 2)
    x, y = pixels[None, :], -pixels[:, None]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = cosine * x + sine * y, cosine * y - sine * x
    if mirror:
        u = -u
    distance = (u - radius * turn.cos()) ** 2 + (v - radius * turn.sin()) ** 2
    blobs = (flux * torch.exp(-distance / (2 * width**2))).sum(1, keepdim=True)
    return (blobs * torch.sigmoid((0.75 - torch.hypot(x, y)) / 0.05)).float()


@torch.no_grad()
def changes(
    model: nn.Module, features: Callable[[Tensor], Tensor], size: int, count: int = 12
) -> list[float]:
    """Returns the change of the features for turns by 90° and 45°, and for mirroring without and with a turn by 45°."""
    norms = [
        layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.momentum = None  # the average over what it sees from now on
        norm.reset_running_stats()
    model.train()
    upright = smooth_images(size, count=count)
    features(upright)
    model.eval()
    before = features(upright)
    distances = torch.cdist(before, before)
    unit = distances.square().sum().div(count * (count - 1)).sqrt()
    result = []
    for degrees, mirror in ((90, False), (45, False), (0, True), (45, True)):
        change = features(smooth_images(size, degrees, mirror, count)) - before
        result.append(float(change.square().sum(1).mean().sqrt() / unit))
    return result


def row(name: str, size: int, values: list[float]) -> None:
    print(
        f"| {name} | {size} | " + " | ".join(f"{value:.1g}" for value in values) + " |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 65, 150])
    parser.add_argument("--escnn", type=Path, help="a clone of escnn")
    options = parser.parse_args()
    print(
        "| network | pixels | turned by 90° | turned by 45° | mirrored | mirrored, turned by 45° |"
    )
    print("|---|---|---|---|---|---|")
    for name in ("resnet18", *(f"equivariant_{group}_nano" for group in GROUPS)):
        for size in options.sizes:
            torch.manual_seed(0)
            model = create_model(name, size)
            model.reset_classifier(0)
            row(f"`{name}`", size, changes(model, model, size))
    if options.escnn is None:
        return
    from official.equivariant import Network, import_escnn

    escnn = import_escnn(options.escnn.resolve())
    for size in (64, 65):
        torch.manual_seed(0)
        official = Network(escnn, "c8", in_chans=1, num_classes=3)
        row("C8 of DeepLense, by escnn", size, changes(official, official.features, size, 4))
        ours = create_model("equivariant_c8_deeplense_129", size, head_hidden=0)
        weights = {
            key: value
            for key, value in official.state_dict().items()
            if not key.startswith("fully_net")
        }
        ours.reset_classifier(0)
        ours.load_state_dict(convert_state_dict(weights, ours))
        row("`equivariant_c8_deeplense_129`, same weights", size, changes(ours, ours, size, 4))


if __name__ == "__main__":
    main()
