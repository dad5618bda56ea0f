"""Compares the architectures written here with their official code: same weights, same images, same logits.

The official code is not part of haloformer. Clone what you want to compare with, at the commit that the file in
``benchmarks/official`` names, and say where it lies:

    git clone https://github.com/IBM/RegionViT ref/RegionViT
    python benchmarks/official_weights.py regionvit ref/RegionViT

For each variant that the paper names, the official model is built and all its weights are drawn at random; its state dict
goes through haloformer's conversion into our model, strictly, and both see the same random images. The exit code is 1 if
the parameters differ by one or the logits by more than 1e-5 of the largest.
"""

import argparse
import importlib
import math
import sys
from pathlib import Path

import timm
import torch
from torch import nn

import haloformer.models  # noqa: F401  registers our models with timm
from haloformer.models.convert import convert_state_dict

sys.path.insert(0, str(Path(__file__).parent))


def randomize(model: nn.Module) -> None:
    """Draws every weight and running statistic anew, so that nothing agrees by being zero or one."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            values = 1 + 0.1 * values.abs()
        elif tensor.ndim >= 2:
            values = values / math.sqrt(max(1, tensor[0].numel()))
        else:
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        tensor.copy_(values)


@torch.no_grad()
def compare(family: str, folder: Path, variants: list[str]) -> bool:
    """Prints a line per variant and returns whether all agree."""
    reference = importlib.import_module(f"official.{family}")
    print(f"\n{reference.REPOSITORY} at {reference.COMMIT[:10]}\n")
    print(
        "| ours | parameters there | here | largest logit | largest difference |\n|---|---|---|---|---|"
    )
    good = True
    for name in variants or reference.VARIANTS:
        entrypoint = timm.model_entrypoint(
            name
        )  # before the official file registers models of the same name
        official = reference.build(folder, name).eval()
        randomize(official)
        size = getattr(reference, "IMG_SIZE", {}).get(name, 224)
        ours = entrypoint(img_size=size, in_chans=3, num_classes=1000).eval()
        ours.load_state_dict(convert_state_dict(official.state_dict(), ours), strict=True)
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        expected, got = official(images), ours(images)
        expected = expected[0] if isinstance(expected, tuple) else expected
        counts = [sum(p.numel() for p in m.parameters()) for m in (official, ours)]
        scale, difference = float(expected.abs().max()), float((expected - got).abs().max())
        good &= counts[0] == counts[1] and difference <= 1e-5 * scale
        print(
            f"| `{name}` | {counts[0]:,} | {counts[1]:,} | {scale:.3g} | {difference:.1e} |",
            flush=True,
        )
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", help="a file of benchmarks/official, such as regionvit")
    parser.add_argument("folder", type=Path, help="the clone of the official repository")
    parser.add_argument("variants", nargs="*", help="only these")
    arguments = parser.parse_args()
    sys.exit(0 if compare(arguments.family, arguments.folder.resolve(), arguments.variants) else 1)
