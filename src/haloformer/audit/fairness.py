"""Whether a survey has shortcuts: what tells its classes that is not the detail of dark matter. No model is needed.

Each test is a classifier that must do no better than chance, an AUC of 0.5, on a survey without shortcuts. All are trained on images of one
seed and tested on those of another.
"""

import datetime
import os
import platform
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haloformer._version import code_version
from haloformer.audit.shortcut import image_moments, moment_classifiers
from haloformer.audit.words import with_ci
from haloformer.errors import InputError
from haloformer.evaluation.metrics import log_odds, macro_auc
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.progress import progress_bar
from haloformer.io.strict_json import to_json
from haloformer.io.writing import write_text
from haloformer.reporting.interval import Interval
from haloformer.simulation import Simulator
from haloformer.simulation.composed import ComposedSurvey

TESTS = {
    "moments": "two classifiers that see nine moments of the image",
    "macro": "a classifier that sees what is drawn of the smooth lens, the source and the exposure",
    "blurred": "a small network that sees images blurred by half an Einstein radius",
    "permuted": "a small network that sees whole images, whose labels were swapped among images of one lens and source",
    "smooth": "a small network that sees smooth lenses alone, whose labels were drawn",
}
"""The tests of a survey, each with the classifier that must do no better than chance."""

LEAST = 90
"""Test images at least."""

_FILES = ("audit.json", "audit.md")
_SIDE = 48  # pixels of the images that the small networks see
_BLURRED_SIDE = 24
_BATCH = 150
_EPOCHS = 6


@dataclass
class _Seen:
    """What classifiers see of N images."""

    labels: np.ndarray
    moments: np.ndarray
    macro: np.ndarray
    blurred: Tensor
    small: Tensor


def audit_survey(
    survey: str, out: str, *, n: int, seed: int, overwrite: bool, progress: bool | None
) -> dict[str, Any]:
    """Carries out the tests of :data:`TESTS`.

    Args:
        survey: Name of a shipped survey, or a YAML file.
        out: Folder to write ``audit.json`` and ``audit.md`` to.
        n: Test images; as many train each classifier.
        seed: Of the test images; the next one is that of the training images.
        overwrite: Replace an audit that is there.
        progress: Show progress bars.

    Returns:
        The content of ``audit.json``, with ``out``, ``report`` and ``verdict``.

    Raises:
        InputError: An unknown survey, one with fewer than two classes, or a folder with an audit.
    """
    simulator, target = checked(survey, out, n=n, seed=seed, overwrite=overwrite)
    names, total = simulator.class_names, 2 * n * (1 + _has_twins(simulator))
    with progress_bar(f"audit {simulator.survey.name}", total, progress) as bar:
        tests = carried_out(survey, simulator, n, seed, bar)
    result: dict[str, Any] = {
        "survey": simulator.survey.name,
        "tests": {
            name: {"auc": auc.value, "low": auc.low, "high": auc.high}
            for name, auc in tests.items()
        },
        "n": n,
        "seed": seed,
        "classes": list(names),
        "code_version": code_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    with new_folder(target, overwrite, _FILES, "audit of a survey") as part:
        write_text(part / "audit.json", to_json(result))
        write_text(part / "audit.md", _markdown(survey, result, tests))
    report = str(target / "audit.md")
    return {**result, "verdict": verdict(result), "out": str(target), "report": report}


def checked(survey: str, out: str, *, n: int, seed: int, overwrite: bool) -> tuple[Simulator, Path]:
    """Returns the simulator of the test images and the folder to write; raises InputError."""
    if n < LEAST:
        raise InputError(f"n is {n}: must be at least {LEAST}")
    simulator = Simulator(survey, seed=seed)
    if len(simulator.class_names) < 2:
        raise InputError(f"survey {simulator.survey.name}: has one class; there is nothing to tell")
    refuse_existing(Path(out), overwrite, _FILES, "audit of a survey")
    return simulator, Path(out)


def carried_out(
    survey: str, simulator: Simulator, n: int, seed: int, advance: Callable[[int], None]
) -> dict[str, Interval]:
    """Returns what the tests find, with n images for training and as many to test, twice of a composed survey."""
    sets = [_seen(Simulator(survey, seed=s), n, advance) for s in (seed + 1, seed)]
    twins = None
    if _has_twins(simulator):
        twins = [_seen(Simulator(survey, seed=s, paired=True), n, advance) for s in (seed + 3, seed + 2)]  # fmt: skip
    return _tests(sets[0], sets[1], twins, simulator.class_names, simulator, seed)


def _has_twins(simulator: Simulator) -> bool:
    return isinstance(simulator.survey, ComposedSurvey)


def verdict(result: dict[str, Any]) -> str:
    """Says which tests a survey does not pass."""
    found = {name: test for name, test in result["tests"].items() if test["low"] > 0.5}
    survey = result["survey"]
    if not found:
        return f"Survey {survey}: no test tells its classes better than chance ({len(result['tests'])} tests, {result['n']:,} images)."
    worst = max(found, key=lambda name: found[name]["auc"])
    return (
        f"Survey {survey} has shortcuts: {TESTS[worst]} reaches a macro AUC of {found[worst]['auc']:.3f} "
        f"({found[worst]['low']:.3f}–{found[worst]['high']:.3f})."
    )


def _seen(simulator: Simulator, n: int, advance: Callable[[int], None]) -> _Seen:
    """Simulates n images, and keeps what classifiers see of them."""
    parts: list[_Seen] = []
    theta_E = np.median(simulator.parameters(range(min(n, 60)))["lens_theta_E"])
    sigma = 0.5 * theta_E / simulator.survey.instrument.pixel_scale
    for batch in _batches(simulator, n):
        images = batch.images.float().mean(1, keepdim=True)  # over the bands
        parts.append(
            _Seen(
                labels=batch.labels.numpy(),
                moments=image_moments(images),
                macro=_macro(batch.parameters),
                blurred=_shrunk(_blurred(images, sigma), _BLURRED_SIDE),
                small=_shrunk(images, _SIDE),
            )
        )
        advance(len(images))
    return _Seen(
        labels=np.concatenate([part.labels for part in parts]),
        moments=np.concatenate([part.moments for part in parts]),
        macro=np.concatenate([part.macro for part in parts]),
        blurred=torch.cat([part.blurred for part in parts]),
        small=torch.cat([part.small for part in parts]),
    )


def _batches(simulator: Simulator, n: int) -> Iterator[Any]:
    for first in range(0, n, _BATCH):
        yield simulator.batch(range(first, min(first + _BATCH, n)))


_MACRO = ("lens_", "gamma", "multipoles_", "source_", "z_lens", "z_source", "snr", "exposure_time")


def _macro(parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Returns (B, P) what is drawn of lens, source and exposure."""
    names = [
        name
        for name, values in parameters.items()
        if name.startswith(_MACRO) and values.ndim == 1 and np.isfinite(values).all()
    ]
    return np.stack([parameters[name] for name in names], axis=1)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Returns images (B, 1, H, W) blurred by a Gaussian of this width in pixels."""
    radius = int(3 * sigma) + 1
    axis = torch.arange(-radius, radius + 1, dtype=images.dtype)
    weights = torch.exp(-0.5 * (axis / sigma) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(images, (radius,) * 4)  # beyond the image there is sky
    return F.conv2d(F.conv2d(padded, weights[None, None, None]), weights[None, None, :, None])


def _shrunk(images: Tensor, side: int) -> Tensor:
    """Returns images of at most so many pixels per side, each in units of its own scatter."""
    if images.shape[-1] > side:
        images = F.interpolate(images, (side, side), mode="area")
    mean, scatter = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True)
    return (images - mean) / scatter.clamp(min=1e-12)


def _tests(
    train: _Seen,
    test: _Seen,
    twins: list[_Seen] | None,
    names: tuple[str, ...],
    simulator: Simulator,
    seed: int,
) -> dict[str, Interval]:
    k, rng = len(names), np.random.default_rng([seed, 0x41554449])
    moments = moment_classifiers(train.moments, train.labels, test.moments)
    found = {
        "moments": max(
            (_auc(test.labels, answers) for answers in moments.values()), key=lambda auc: auc.value
        )
    }
    macro = moment_classifiers(train.macro, train.labels, test.macro)["gradient boosting"]
    found["macro"] = _auc(test.labels, macro)
    answers = _network_answers(train.blurred, train.labels, test.blurred, k, seed)
    found["blurred"] = _auc(test.labels, answers)
    if twins is not None:
        labels = [_swapped(seen.labels, k, rng) for seen in twins]
        answers = _network_answers(twins[0].small, labels[0], twins[1].small, k, seed)
        found["permuted"] = _auc(labels[1], answers)
    smooth = [c for c, name in enumerate(names) if not simulator.survey.substructure[name]]
    rows = [np.isin(seen.labels, smooth) for seen in (train, test)]
    if min(r.sum() for r in rows) >= 3 * k:
        drawn = [rng.permutation(np.arange(int(r.sum())) % k) for r in rows]
        answers = _network_answers(train.small[rows[0]], drawn[0], test.small[rows[1]], k, seed)
        found["smooth"] = _auc(drawn[1], answers)
    return found


def _auc(labels: np.ndarray, answers: np.ndarray) -> Interval:
    return macro_auc(labels, log_odds(answers))


def _swapped(labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Returns labels that are shuffled within each group of k images of one lens."""
    whole = len(labels) // k * k
    groups = rng.permuted(labels[:whole].reshape(-1, k), axis=1).reshape(-1)
    return np.concatenate([groups, labels[whole:]])


def _network_answers(
    images: Tensor, labels: np.ndarray, new: Tensor, k: int, seed: int
) -> np.ndarray:
    """Trains a small network, and returns its logits (N, K) of new images; nothing is chosen by them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(k)
        truth, steps = torch.from_numpy(labels), _EPOCHS * -(-len(images) // 64)
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(network(images[rows]), truth[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval()
    with torch.no_grad():
        answers: np.ndarray = torch.cat([network(part) for part in new.split(512)]).numpy()
    return answers


def _network(k: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, k))


def _markdown(survey: str, result: dict[str, Any], tests: dict[str, Interval]) -> str:
    lines = [
        f"# Has survey {result['survey']} shortcuts?",
        "",
        verdict(result),
        "",
        "| test | what must do no better than chance | macro AUC (95 %) | passed |",
        "|---|---|---|---|",
    ]
    for name, auc in tests.items():
        passed = "yes" if auc.low <= 0.5 else "**no**"
        lines.append(f"| {name} | {TESTS[name]} | {with_ci(auc)} | {passed} |")
    lines += [
        "",
        f"Of surveys without shortcuts, too, one interval in forty lies above 0.5 by chance; {len(tests)} are here. Another `--seed` tells.",
        "",
        f"`haloformer audit --survey {shlex.quote(survey)} --n {result['n']} --seed {result['seed']}`: {result['n']:,} test images of seed {result['seed']}, as many to train each "
        f"classifier; {result['date']}, {result['hardware']}, code {result['code_version']}. Intervals: DeLong, over test images.",
    ]
    return "\n".join(lines) + "\n"
