"""How many images of other kinds a trained model flags as unlike those of its training, and how sure of a class it would have been.

haloformer calibrate copy/of/model_i                # unless its training has done so
python benchmarks/ood.py copy/of/model_i --real folder/of/lenses folder/of/galaxies

Real images are given in 8 views (turned, mirrored), cut or padded to the model's size about their centre, once as they are, and once, the harder case, with their sky taken away and the mean brightness of a training image.
"""

import argparse
import copy
import functools
import operator
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer import load
from haloformer.prediction.predictor import Predictor
from haloformer.simulation import describe_survey, get_survey, list_surveys, simulate

_LEAST = 40  # pixels of a side; what is smaller is a point-spread function


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder or artefact folder")
    parser.add_argument(
        "--real", nargs="*", default=[], type=Path, help="folders with FITS files and arrays (.npz)"
    )
    parser.add_argument("--n", type=int, default=2000, help="images of the training's survey")
    parser.add_argument("--few", type=int, default=200, help="images of each other simulated kind")
    given = parser.parse_args()
    predictor = load(given.run, device="cpu")
    survey, noise = predictor.artefact["survey"], predictor.artefact["noise"]
    own = simulate(survey, given.n, seed=1000, noise=noise).images
    print("| images | n | flagged | by features | by image | by fit | a class with p ≥ 0.9 |")
    print("|---|---|---|---|---|---|---|")
    report(predictor, f"`{survey}`, seed 1000", own)
    few = own[: given.few]
    for name, recipe in variants(survey).items():
        report(predictor, name, simulate(recipe, given.few, seed=1000, noise=noise).images)
    for name, images in {**altered(few), **nothing(few)}.items():
        report(predictor, name, images)
    for other in list_surveys(composed=False):
        if other == survey:
            continue
        images = fitted(simulate(other, given.few, seed=1000).images, own.shape[-1])
        report(predictor, f"`{other}`, cut or padded", images)
        report(predictor, f"`{other}`, cut or padded, same brightness", as_bright(images, few))
    for folder in given.real:
        found = [
            fitted(torch.from_numpy(image)[None, None], own.shape[-1])
            for image in real_images(folder)
        ]
        if found:
            images = views(torch.cat(found))
            report(predictor, f"{folder.name}, as they are", images)
            report(predictor, f"{folder.name}, same brightness", as_bright(images, few))


def report(predictor: Predictor, name: str, images: Tensor) -> None:
    """Prints a row of the table."""
    detector = predictor.detector
    assert detector is not None, "haloformer calibrate makes the statistics first"
    beyond, flagged, sure = [], 0, 0
    for batch in images.split(100):
        numbers, traits = predictor.numbers_and_ood_features(batch)
        verdict = detector.verdict(traits)
        flagged += int(verdict.flag.sum())
        sure += int((predictor.probabilities_of(torch.nan_to_num(numbers)).amax(1) >= 0.9).sum())
        beyond.append(
            torch.stack(
                [detector.clouds[p].distance(traits[p]) > t for p, t in detector.thresholds.items()]
            )
        )
    shares = dict(zip(detector.thresholds, torch.cat(beyond, 1).double().mean(1).tolist()))
    cells = [
        f"{100 * shares[part]:.1f} %" if part in shares else "–"
        for part in ("features", "image", "fit")
    ]
    n = len(images)
    print(
        f"| {name} | {n} | {100 * flagged / n:.1f} % | {' | '.join(cells)} | {100 * sure / n:.0f} % |",
        flush=True,
    )


def variants(survey: str) -> dict[str, dict[str, Any]]:
    """The training's survey with something changed in its recipe: nature or instrument are not quite as was thought."""
    changed = {}
    for name, place, factor in (
        ("twice as many subhalos", ("substructure", "cdm", 0, "number"), 2),
        ("source 1.3 times as large", ("source", "R_sersic"), 1.3),
        ("point-spread function 1.5 times as wide", ("instrument", "psf_fwhm"), 1.5),
        ("sky twice as noisy", ("instrument", "background_rms"), 2),
        ("lens at z = 0.4", ("z_lens",), 0.8),
    ):
        recipe = copy.deepcopy(describe_survey(get_survey(survey)))
        *parents, last = place
        inner = functools.reduce(operator.getitem, parents, recipe)
        if isinstance(inner.get(last), int | float):  # it may lack it, or draw it
            inner[last] = type(inner[last])(factor * inner[last])
            changed[f"`{survey}`, {name}"] = recipe
    return changed


def altered(images: Tensor) -> dict[str, Tensor]:
    """The training's own kind, with one thing changed."""
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    return {
        "brightness × 3": 3 * images,
        "brightness × 0.3": 0.3 * images,
        "sky + 10 % of the peak": images + 0.1 * images.amax((1, 2, 3), keepdim=True),
        "turned by 90°": images.rot90(1, (2, 3)),
        "moved by 10 pixels": images.roll((10, 10), (2, 3)),
        "enlarged by 1.3": F.interpolate(fitted(images, round(images.shape[-1] / 1.3)), images.shape[-2:], mode="bilinear"),
        "blurred by 5 pixels": blurred,
        "quarter missing": images * (torch.arange(images.shape[-1]) < 3 * images.shape[-1] // 4),
    }  # fmt: skip


def nothing(images: Tensor) -> dict[str, Tensor]:
    """No lens at all."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=rng)
    shuffled = images.flatten(2)[:, :, torch.randperm(images[0, 0].numel(), generator=rng)].reshape(
        images.shape
    )
    blank = torch.zeros_like(images[:8])
    return {
        "noise of the images' mean and rms": images.mean() + images.std() * noise,
        "sky of the images' dimmer half, as noise": (images.median() * (1 + noise)).clamp(min=0),
        "their pixels in random order": shuffled,
        "blank": blank,
        "constant": blank + images.mean(),
        "saturated": blank + 65535.0,
    }


def fitted(images: Tensor, size: int) -> Tensor:
    """Cuts or pads images (B, C, H, W) with zeros about their centre."""
    extra_h, extra_w = size - images.shape[-2], size - images.shape[-1]
    return F.pad(
        images, (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)
    )


def as_bright(images: Tensor, like: Tensor) -> Tensor:
    """Without sky (the median), and with the mean pixel of other images."""
    light = (images - images.flatten(1).median(1).values[:, None, None, None]).double()
    return (
        light / light.mean((1, 2, 3), keepdim=True).abs().clamp(min=1e-12) * like.double().mean()
    ).float()


def views(images: Tensor) -> Tensor:
    """All symmetries of the square: (8 B, C, H, W)."""
    return torch.cat(
        [
            turned
            for k in range(4)
            for turned in (images.rot90(k, (2, 3)), images.rot90(k, (2, 3)).mT)
        ]
    )


def real_images(folder: Path) -> Iterator[np.ndarray]:
    """Pictures in a folder: of FITS files the first image, or all if they are galaxies' stamps; of arrays those of light."""
    from astropy.io import fits

    for path in sorted(folder.rglob("*.fits")):
        if any(word in path.name.lower() for word in ("psf", "noise", "catalog")):
            continue
        with warnings.catch_warnings(), fits.open(path) as file:
            warnings.simplefilter("ignore")
            pictures = [
                part.data
                for part in file
                if part.data is not None and getattr(part, "is_image", False)
            ]
        pictures = [p for p in pictures if p.ndim == 2 and min(p.shape) >= _LEAST]
        several = (
            len({p.shape for p in pictures}) > 1
        )  # one galaxy each; of one shape: one object with its maps
        yield from (
            np.nan_to_num(p.astype(np.float32)) for p in (pictures if several else pictures[:1])
        )
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            yield from (
                image.astype(np.float32)
                for name in arrays.files
                if "source" in name
                for image in arrays[name]
            )


if __name__ == "__main__":
    main()
