"""Compares any two variants of a study on its test images: the difference of their macro AUCs, paired by image (DeLong).

    python benchmarks/paired.py results/peers haloformer_c8_nano-residual c8_nano-residual

A study's own table compares all with one reference. This needs the study's logits/, which only a folder has where the study was run.
"""

import argparse
from pathlib import Path

import numpy as np

from haloformer.evaluation.metrics import log_odds, macro_auc, paired_difference
from haloformer.reporting.interval import format_interval


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("first", help="variant")
    parser.add_argument("others", nargs="+", help="variants that are compared with it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    options = parser.parse_args()
    names = (options.first, *options.others)
    files = [np.load(options.study / "logits" / f"{name}-seed{options.seed}.npz") for name in names]
    labels, scores = files[0]["labels"], [log_odds(file["logits"]) for file in files]
    print(f"{names[0]}: {format_interval(macro_auc(labels, scores[0]))} on {len(labels):,} images")
    for name, file, other in zip(names[1:], files[1:], scores[1:]):
        if not np.array_equal(labels, file["labels"]):
            parser.error(f"{name} was tested on other images")
        found = paired_difference(labels, scores[0], other)
        print(
            f"minus {name}, {format_interval(macro_auc(labels, other))}: {found.value:+.4f} ({found.low:+.4f} … {found.high:+.4f}), p = {found.p:.2g}"
        )


if __name__ == "__main__":
    main()
