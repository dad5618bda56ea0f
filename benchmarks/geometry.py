"""Is an answer wrong, sure and not flagged when the image's geometry is a little other than the survey's?

    python benchmarks/geometry.py model_i model_ii …           prints one table for all
    python benchmarks/geometry.py model_i model_ii … --speed   what the questions about geometry cost

Measures what ``haloformer audit --parts geometry`` does, for several models. No model was trained on images of this seed.
"""

import argparse
import datetime
import platform
import sys
import time

import torch

import haloformer
from haloformer.audit.audited import audited_model
from haloformer.audit.geometry import GOAL, answered, conditions
from haloformer.evaluation.calibration import SURE
from haloformer.simulation import simulate
from simulation import hardware

SEED = 977_001


def measured(name: str, n: int, only: str) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the shares under each condition."""
    predictor = haloformer.load(name, "cpu")
    audited = audited_model(
        predictor, name, survey=None, n=3 * n, seed=SEED, batch_size=60, progress=False
    )
    assert audited.fewer == n
    found = {}
    for title, condition in conditions(audited).items():
        if only in title:
            found[title] = answered(audited, condition, lambda _: None)
            shares = ", ".join(f"{100 * s['value']:.1f}" for s in found[title].values())
            print(f"{name}: {title}: {shares}", file=sys.stderr, flush=True)
    return found


def speed(name: str, n: int) -> tuple[float, float]:
    """Returns milliseconds per image of the survey with and without the questions about geometry, by the processor's time."""
    predictor = haloformer.load(name, "cpu")
    survey, noise = predictor.artefact["survey"], predictor.artefact["noise"]
    images = simulate(survey, n, seed=SEED, noise=noise).images
    found = []
    for geometry in (True, False):
        predictor.numbers_and_ood(images[:4], geometry=geometry)  # compiled, and kept what can be
        start = time.process_time()
        predictor.numbers_and_ood(images, geometry=geometry)
        found.append(1000 * (time.process_time() - start) / n)
    return found[0], found[1]


def cell(shares: dict[str, dict[str, float]]) -> str:
    """Returns right / flagged / wrong, sure and not flagged, in per cent; the last bold if above the goal."""
    right, flagged, silent = (100 * shares[k]["value"] for k in ("right", "flagged", "silent"))
    last = f"{silent:.1f}"
    return f"{right:.1f} / {flagged:.1f} / " + (f"**{last}**" if silent > 100 * GOAL else last)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--n", type=int, default=240)
    parser.add_argument("--only", default="", help="part of the names of the rows to measure")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"haloformer {haloformer.__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    print(
        f"{datetime.date.today()}, {versions}; {hardware()}, one thread; {arguments.n} images per row and model, seed {SEED}."
    )
    if arguments.speed:
        print("\n| model | asked [ms per image] | not asked | ratio |\n|---|---|---|---|")
        for name in arguments.models:
            asked, plain = speed(name, arguments.n)
            print(f"| `{name}` | {asked:.1f} | {plain:.1f} | {asked / plain:.1f} |")
        return
    tables = {name: measured(name, arguments.n, arguments.only) for name in arguments.models}
    print(f"Each cell: % right / % flagged / % **wrong with p > {SURE:g} and not flagged**.\n")
    print("| images | " + " | ".join(f"`{name}`" for name in tables) + " |")
    print("|---" * (1 + len(tables)) + "|")
    for title in dict.fromkeys(title for table in tables.values() for title in table):
        cells = [cell(table[title]) if title in table else "" for table in tables.values()]
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
