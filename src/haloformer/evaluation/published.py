"""The AUCs that others have published, as data: ``published_auc.csv``, one line per paper, network, images and class.

``family`` is the architecture's name in our registry; ``dataset`` the survey that has the released images' name, or other images that were
used. For most surveys these are what the survey makes; of :data:`AGAIN` only what it is simulated after.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

AGAIN = ("alexander_2020_a", "alexander_2020_b", "common_task")
"""Surveys that are simulated again after sets of which neither images nor programs were at hand."""


@dataclass(frozen=True)
class PublishedAuc:
    """One network's AUCs on one survey's released images, as a paper gives them.

    Attributes:
        source: The paper.
        model: The network, as the paper calls it.
        per_class: Class → AUC against the other classes.
    """

    source: str
    model: str
    per_class: dict[str, float]

    @property
    def macro(self) -> float:
        """Mean of the classes' AUCs."""
        return float(np.mean([*self.per_class.values()]))


@cache
def published_aucs() -> dict[tuple[str, str], tuple[PublishedAuc, ...]]:
    """Returns (family, dataset) → what was published of it, best first."""
    text = (
        resources.files("haloformer.evaluation")
        .joinpath("published_auc.csv")
        .read_text(encoding="utf-8")
    )
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        key = (row["family"], row["dataset"], row["source"], row["model"])
        found.setdefault(key, {})[row["class"]] = float(row["auc"])
    groups: dict[tuple[str, str], list[PublishedAuc]] = {}
    for (family, dataset, source, model), per_class in found.items():
        groups.setdefault((family, dataset), []).append(PublishedAuc(source, model, per_class))
    return {
        key: tuple(sorted(group, key=lambda item: -item.macro)) for key, group in groups.items()
    }


def best_published(family: str, dataset: str) -> PublishedAuc | None:
    """Returns the best published result of an architecture on a survey; None if there is none."""
    return next(iter(published_aucs().get((family, dataset), ())), None)
