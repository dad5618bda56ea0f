"""The runs of a study: an experiment for each variant and seed, and the images it is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.evaluation.testset import N_SIMULATED
from haloformer.simulation import get_survey
from haloformer.studies.plan import PRETRAINED, Study, Variant, settings_of
from haloformer.training.config import Experiment, compose

if TYPE_CHECKING:
    pass


TEST_SEED = 1_000_000
"""Seed of the test images unless the study names another; studies train with seeds from 0 on."""


@dataclass(frozen=True)
class Run:
    """One training and its test. ``options`` are without out and seed; ``test`` is None for a pretraining."""

    variant: str
    seed: int
    changes: dict[str, Any]
    options: dict[str, Any]
    test: dict[str, Any] | None

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


def test_images_of(test: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Returns which images a run is tested on: by default those of its own survey, with the noise it is trained with."""
    data = str(test.get("data") or experiment.data.source)
    if Path(data).suffix.lower() in DATASET_SUFFIXES:
        if not test.get("data"):
            raise InputError(
                f"the study trains on the file {data}: its test must name the test images (test: data: …)"
            )
        if given := [key for key in ("noise", "n", "seed") if key in test]:
            raise InputError(f"test: {given[0]} is for simulated images; {data} is a file")
        return {"data": data}
    get_survey(data)
    fresh = experiment.augmentation.fresh_noise
    noise = test.get("noise") or (fresh if fresh != "none" else experiment.data.noise)
    found = {
        "data": data,
        "noise": noise,
        "n": test.get("n", N_SIMULATED),
        "seed": test.get("seed", TEST_SEED),
    }
    for key, least in (("n", 2), ("seed", 0)):
        if isinstance(found[key], bool) or not isinstance(found[key], int) or found[key] < least:
            raise InputError(
                f"test: {key} must be a whole number of at least {least}, not {found[key]!r}"
            )
    return found
