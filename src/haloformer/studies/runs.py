"""The runs of a study: an experiment for each variant and seed, and the images it is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Required, TypedDict

from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.evaluation.testset import N_SIMULATED
from haloformer.simulation import get_any_survey, names_survey
from haloformer.studies.plan import PRETRAINED, HeldOutImages, Study, Variant
from haloformer.studies.settings import settings_of
from haloformer.training.config import Experiment, compose
from haloformer.training.idle import warn_of_idle_among

TEST_SEED = 1_000_000
"""Seed of the test images unless the study names another; studies train with seeds from 0 on."""


class HeldOut(TypedDict, total=False):
    """Images that a run is tested on: a dataset file, or a survey with noise, n and seed."""

    data: Required[str]
    noise: str
    n: int
    seed: int


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        variant: Name of the variant.
        seed: Of the training.
        changes: What the variant changes.
        options: Fields that differ from the defaults, without out and seed.
        test: What it is tested on; None for a pretraining.
    """

    variant: str
    seed: int
    changes: dict[str, object]
    options: dict[str, object]
    test: HeldOut | None

    @property
    def key(self) -> str:
        """Name of the run in files and messages."""
        return f"{self.variant}-seed{self.seed}"


def run_of(plan: Study, variant: Variant, seed: int) -> Run:
    """Returns the run of a variant and a seed."""
    experiment = compose(None, plan.base, variant.changes)
    return Run(
        variant.name,
        seed,
        variant.changes,
        settings_of(experiment),
        test_images_of(plan.test, experiment),
    )


def runs_of(plan: Study, variants: Sequence[Variant]) -> list[Run]:
    """Returns all runs, seed by seed, so that an early stop leaves a table of fewer seeds, not of fewer variants."""
    runs = []
    for seed in plan.seeds:
        of_seed = [run_of(plan, variant, seed) for variant in variants]
        if any(f"{{{PRETRAINED}}}" in str(run.options.get("pretrained")) for run in of_seed):
            options = settings_of(compose(None, plan.base, plan.pretrain or {}))
            runs.append(Run(PRETRAINED, seed, plan.pretrain or {}, options, None))
        runs += of_seed
    return runs


def warn_of_idle_options(
    plan: Study, runs: Sequence[Run], given: Mapping[str, object] | None
) -> None:
    """Warns once of options that do nothing: of all runs, as the user gave them, and of variants.

    Args:
        plan: The study.
        runs: Its runs.
        given: Options of the command.
    """
    own = {run.variant: run for run in runs if run.variant != PRETRAINED}
    experiments = {name: compose(None, run.options) for name, run in own.items()}
    changes = {name: run.changes for name, run in own.items()}
    warn_of_idle_among("study", experiments, changes, given or {})


def test_images_of(test: HeldOutImages, experiment: Experiment) -> HeldOut:
    """Returns which images a run is tested on: by default those of its own survey, with the noise it is trained with."""
    data = test.data or experiment.data.source
    if Path(data).suffix.lower() in DATASET_SUFFIXES:
        if not test.data:
            raise InputError(
                f"the study trains on the file {data}: its test must name the test images (test: data: …)"
            )
        if given := sorted(test.model_fields_set - {"data"}):
            raise InputError(f"test: {given[0]} is for simulated images; {data} is a file")
        return {"data": data}
    if Path(data).exists() and not names_survey(data):
        raise InputError(
            f"test: {data} is neither a dataset file (.h5) nor a survey (.yaml); `haloformer convert` makes a dataset of images"
        )
    get_any_survey(data)
    fresh = experiment.augmentation.fresh_noise
    return {
        "data": data,
        "noise": test.noise or (fresh if fresh != "none" else experiment.data.noise),
        "n": N_SIMULATED if test.n is None else test.n,
        "seed": TEST_SEED if test.seed is None else test.seed,
    }
