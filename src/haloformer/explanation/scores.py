"""Scores of explanations: whether they depend on the weights, and whether they point to substructure.

The truth comes from the simulator: the same scene with and without its substructure, both free of noise, differs in certain
pixels only. A network that detects substructure should look there; one that has learnt something else need not.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.evaluation.regression import bootstrap_means
from haloformer.explanation.explained import Explained, Map
from haloformer.explanation.methods import DEPTH
from haloformer.models import create_model
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.interval import CONFIDENCE, Interval
from haloformer.simulation import Simulator

SHARE = 0.5
"""Of the absolute difference that the region of substructure holds."""

_N_BOOTSTRAP = 2000


def substructure_difference(
    simulator: Simulator, numbers: Sequence[int] | np.ndarray | range
) -> Tensor:
    """Returns what substructure changes in images: |with − without|, (B, H, W) in counts/s per pixel, free of noise.

    Args:
        simulator: Of any noise; its survey, classes and seed count.
        numbers: (B,) image numbers.
    """
    noise_free = Simulator(
        simulator.survey,
        classes=simulator.class_names,
        seed=simulator.seed,
        noise="none",
        device=simulator.device,
    )
    scenes = noise_free.scenes(numbers)
    return (
        (noise_free.images(scenes) - noise_free.images(scenes.without_substructure())).abs().cpu()
    )


def substructure_region(difference: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Returns the fewest pixels that hold a share of the difference: (B, P) bool of (B, P); none where there is no difference."""
    order = np.argsort(-difference, axis=1, kind="stable")
    running = np.cumsum(np.take_along_axis(difference, order, 1), axis=1)
    total = running[:, -1:]
    before = np.concatenate([np.zeros_like(total), running[:, :-1]], axis=1)
    region = np.zeros(difference.shape, dtype=bool)
    np.put_along_axis(region, order, (before < share * total) & (total > 0), axis=1)
    return region


def gain(maps: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Returns the share of each map (B, P) in a region (B, P) over the region's share of the pixels: (B,), 1 by chance, NaN if undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result: np.ndarray = (maps * region).sum(1) / maps.sum(1) / region.mean(1)
        return result


def pixel_auc(maps: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Returns the probability that a pixel of the region has a larger value than one outside: (B,), 0.5 by chance."""
    n = region.sum(1)
    ranks = (rankdata(maps, axis=1) * region).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = (ranks - n * (n + 1) / 2) / (n * (region.shape[1] - n))
    return np.where(maps.any(1), auc, np.nan)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns Spearman's correlation of maps (B, P) with others, (B,); NaN where one is constant."""
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        result: np.ndarray = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
        return result


def randomised(predictor: Predictor, seed: int = 0) -> Predictor:
    """Returns the same predictor with a network of the same kind that has learnt nothing (Adebayo et al. 2018, arXiv:1810.03292)."""
    spec = predictor.artefact["model"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(
            spec["name"],
            img_size=spec["img_size"]
            if isinstance(spec["img_size"], int)
            else tuple(spec["img_size"]),
            in_chans=spec["in_chans"],
            num_classes=spec["num_classes"],
            **spec.get("kwargs", {}),
        )
        for parameter in model.parameters():
            # A classifier that begins as zero would let nothing through.
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return dataclasses.replace(predictor, model=model.eval().to(predictor.device))


@dataclass
class Scores:
    """Collects what was measured of image after image.

    Attributes:
        measured: (quantity, weights, method, layer) → values of the images so far, NaN where undefined.
        kinds: (method, layer) → more of it.
    """

    measured: dict[tuple[str, str, str, str], list[np.ndarray]] = field(default_factory=dict)
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)

    def add_truth(
        self,
        found: Explained,
        difference: Tensor,
        class_names: Sequence[str],
        weights: str = "trained",
    ) -> None:
        """Scores a batch against what substructure changes in it, in the pixels that the network sees.

        Args:
            found: The explanations of the batch.
            difference: (B, H, W).
            class_names: (B,) the true classes.
            weights: ``trained`` or ``random``.
        """
        region = substructure_region(_pixels(difference, found.seen))
        for each in [*found.maps, *(references(found) if weights == "trained" else [])]:
            if each.method == DEPTH:
                continue
            values = _pixels(each.values, found.seen)
            self._note("gain", weights, each, gain(values, region))
            self._note("auc", weights, each, pixel_auc(values, region))
            self._note("class", weights, each, np.array(class_names))

    def add_correlation(self, trained: Explained, random: Explained) -> None:
        """Compares a batch's explanations with those of the same network with random weights."""
        others = {(each.method, each.layer): each for each in random.maps}
        for each in trained.maps:
            if other := others.get((each.method, each.layer)):
                values = rank_correlation(
                    _pixels(each.values, trained.seen), _pixels(other.values, trained.seen)
                )
                self._note("correlation", "random", each, values)

    def table(self) -> list[dict[str, Any]]:
        """Returns a row for each map, class and kind of weights, with 95 % bootstrap intervals of the mean over images."""
        rows = []
        for key in [key for key in self.measured if key[0] == "gain"]:
            weights, method, layer = key[1:]
            labels, *numbers = (
                np.concatenate(self.measured[what, *key[1:]]) for what in ("class", "gain", "auc")
            )
            values = dict(zip(("gain", "auc"), numbers, strict=True))
            names = list(dict.fromkeys(labels.tolist()))
            for name in [*(sorted(names) if len(names) > 1 else []), "all"]:
                chosen = np.ones(len(labels), bool) if name == "all" else labels == name
                row: dict[str, Any] = {
                    "weights": weights,
                    "method": method,
                    "layer": layer,
                    "kind": self.kinds[method, layer],
                }
                row |= {"class": name if name != "all" or len(names) > 1 else names[0]}
                row["n"] = int(np.isfinite(values["gain"][chosen]).sum())
                for what, measured in values.items():
                    row |= _columns(what, mean_interval(measured[chosen]))
                rows.append(row)
        return rows

    def sanity(self) -> list[dict[str, Any]]:
        """Returns, for each map, the mean rank correlation with that of random weights."""
        rows = []
        for (what, _, method, layer), batches in self.measured.items():
            if what == "correlation":
                values = np.concatenate(batches)
                row: dict[str, Any] = {
                    "method": method,
                    "layer": layer,
                    "n": int(np.isfinite(values).sum()),
                }
                rows.append({**row, **_columns("correlation", mean_interval(values))})
        return rows

    def _note(self, what: str, weights: str, each: Map, values: np.ndarray) -> None:
        self.kinds[each.method, each.layer] = each.kind
        self.measured.setdefault((what, weights, each.method, each.layer), []).append(values)


def references(found: Explained) -> list[Map]:
    """Returns what needs no network: the light itself, and the absolute residual where the network gets one."""
    maps = [
        Map("brightness", "", "the light itself", found.images.mean(1).clamp_min(0) * found.seen)
    ]
    if "residual" in found.channels:
        maps.append(
            Map(
                "residual",
                "",
                "|image − smooth lens| / noise",
                found.inputs[:, found.channels.index("residual")].abs(),
            )
        )
    return maps


def mean_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Returns the mean of the finite values with its percentile bootstrap interval; one value, or none, has none."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Interval(float(values.mean()) if len(values) else np.nan, np.nan, np.nan)
    means = bootstrap_means(values[:, None], _N_BOOTSTRAP, np.random.default_rng(seed))[:, 0]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def mean_channels(batches: Sequence[Tensor], names: Sequence[str]) -> dict[str, Any]:
    """Returns the mean share of each channel over images, of batches (B, C)."""
    shares = torch.cat(list(batches)).double().numpy()
    return {name: dataclasses.asdict(mean_interval(shares[:, k])) for k, name in enumerate(names)}


def scored_simulator(survey: str, classes: Sequence[str], seed: int, noise: str) -> Simulator:
    """Returns the simulator of those of the classes that have substructure."""
    simulator = Simulator(survey, seed=seed, noise=noise)
    chosen = [name for name in classes if simulator.survey.substructure.get(name)]
    if not chosen:
        raise InputError(
            f"survey {simulator.survey.name}: none of the classes {', '.join(classes)} has substructure to look for"
        )
    return Simulator(survey, classes=chosen, seed=seed, noise=noise)


def _columns(what: str, interval: Interval) -> dict[str, float]:
    return {what: interval.value, f"{what}_low": interval.low, f"{what}_high": interval.high}


def _pixels(maps: Tensor, seen: Tensor) -> np.ndarray:
    return maps[:, seen].double().numpy()
