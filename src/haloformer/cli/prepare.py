"""``haloformer prepare``."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.cli.present import say
from haloformer.cli.registry import Command

if TYPE_CHECKING:
    import numpy as np

    from haloformer.cli.planning import Plan
    from haloformer.data.prepared import PreparedImages
    from haloformer.training.config import Experiment


def present(done: Mapping[str, Any]) -> None:
    """Prints how many images are there, and what for."""
    of = ", ".join(f"{n:,} for {name}" for name, n in done["images"].items())
    total = sum(done["images"].values())
    say(f"{total:,} images ({of}) are in {done['prepared']}: {done['seconds']:.0f} s")


COMMAND = Command(
    "simulate and fit a survey's images once, for many trainings",
    experiment=True,
    present=present,
    dry_run=True,
    examples=(
        "haloformer prepare --preset haloformer --data model_i --crop 96 --prepared images",
        "haloformer prepare --data model_ii --physics detail --n 60000 --n_test 15000 --prepared images",
        "haloformer train --preset haloformer --data model_i --crop 96 --prepared images --out runs/x",
    ),
)


def prepare(
    *,
    preset: str | None = None,
    config: str | None = None,
    n: int | None = None,
    n_test: int = 0,
    test_seed: int | None = None,
    quiet: bool = False,
    options: Mapping[str, object] | None = None,
) -> Mapping[str, Any]:
    """Simulates and fits the images that a training would use, and stores them.

    Give the options of the training, with --prepared FOLDER. Trainings with the same --prepared
    then read them; what they need beyond, they make and store themselves, so that this command is
    needed for nothing but to have the work done beforehand. Stored images depend on the survey, its
    classes, seed and noise, on --physics, --fit_place, --wrong_fits and --crop, and on haloformer's
    code: any other network, learning rate or number of epochs uses the same ones. The image alone
    (--physics none) is read from what was prepared for a residual or a detail.

    The command may be interrupted at any time, and goes on where it was.

    Args:
        preset: Recipes, as for train.
        config: YAML file with options, or a run, whose config.yaml is taken.
        n: Training images; by default as many as the training uses.
        n_test: Test images to prepare, too, as `haloformer study` and `benchmark` simulate them.
        test_seed: Seed of the test images; by default that of studies.
        quiet: Print nothing but warnings and errors.
        options: Fields of the experiment, by short name.
    """
    from haloformer.io.progress import progress_bar

    experiment, parts = _asked_for(preset, config, n, n_test, test_seed, options)
    began, total = time.perf_counter(), sum(len(numbers) for _, _, numbers in parts)
    with progress_bar(f"prepare {experiment.data.source}", total, False if quiet else None) as bar:
        for _, images, numbers in parts:
            for done in images.prepare(numbers):
                bar(done)
    return {
        "prepared": experiment.trainer.prepared,
        "images": {name: len(numbers) for name, _, numbers in parts},
        "seconds": time.perf_counter() - began,
    }


def plan(
    preset: str | None = None,
    config: str | None = None,
    n: int | None = None,
    n_test: int = 0,
    test_seed: int | None = None,
    quiet: bool = False,
    options: Mapping[str, object] | None = None,
) -> "Plan":
    """Plans the command, with its options; see :mod:`haloformer.cli.planning`."""
    from haloformer.cli.planning import Plan, by, seconds_each
    from haloformer.cli.shared import size

    experiment, parts = _asked_for(preset, config, n, n_test, test_seed, options)
    counts = {name: len(numbers) for name, _, numbers in parts}
    missing = {name: images.n_missing(numbers) for name, images, numbers in parts}
    images = parts[0][1]
    each, measured = seconds_each(images.maker.batch, least=2)
    n_bytes = sum(missing.values()) * math.prod(images.image_shape) * images.bytes_per_value
    folder = str(experiment.trainer.prepared)
    limit = experiment.trainer.prepared_gb * 1e9
    facts = {
        "images": ", ".join(f"{count:,} for {name}" for name, count in counts.items()),
        "to be made": f"{sum(missing.values()):,}, {by(images.image_shape)}",
    }
    notes = []
    if n_bytes > limit:
        notes = [f"The folder may hold {size(limit)} (--prepared_gb): what is more is not stored."]
    what = f"prepare {sum(counts.values()):,} images of {experiment.data.source}"
    return Plan(what, facts, sum(missing.values()) * each, n_bytes, folder, measured, notes)


def _asked_for(
    preset: str | None,
    config: str | None,
    n: int | None,
    n_test: int,
    test_seed: int | None,
    options: Mapping[str, object] | None,
) -> "tuple[Experiment, list[tuple[str, PreparedImages, np.ndarray]]]":
    """Returns the training that images are for, and which; see :func:`haloformer.training.preparing.parts_of`."""
    from haloformer.studies.runs import TEST_SEED
    from haloformer.training.config import compose, read_options
    from haloformer.training.preparing import parts_of

    experiment = compose(preset, read_options(Path(config)) if config else {}, options or {})
    seed = TEST_SEED if test_seed is None else test_seed
    return experiment, parts_of(experiment, n, n_test, seed)
