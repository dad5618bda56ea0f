"""The measurements of an audit, one function per part; each returns what JSON can hold.

They share a :class:`Bench`: a model, the survey that it was trained on, and new scenes of it. Every point of an audit is the *same* scenes with
something changed, so that differences to the unchanged images are paired.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.data.augment import transform
from haloformer.data.framing import Framing
from haloformer.data.grouping import LEFT_OUT
from haloformer.data.images import find_images, read_image
from haloformer.data.residual import network_input
from haloformer.deploy.predictor import Predictor
from haloformer.deploy.tables import progress_bar
from haloformer.errors import InputError
from haloformer.evaluation.metrics import (
    Interval,
    class_aucs,
    log_odds,
    macro_auc,
    paired_difference,
    wilson,
)
from haloformer.evaluation.testset import _classes_of_use, _order, training_of, unused_seed
from haloformer.simulation import Scenes, Simulator, Survey, draw_scenes, get_survey, list_surveys
from haloformer.simulation.distributions import Normal, Quantity, Uniform
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.matching import add_mass, match_mass

EXPOSURES = (0.1, 0.3, 1.0, 3.0, 10.0)
PSF_WIDTHS = (0.5, 1.0, 1.5, 2.5)
PIXEL_SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)
ELEMENTS = (
    *("identity", "turned by 90°", "turned by 180°", "turned by 270°"),
    *("mirrored left-right", "mirrored at a diagonal", "mirrored up-down", "mirrored at the other diagonal"),
)
"""The symmetries of the square, by the codes of :mod:`haloformer.data.augment`."""
FALSE_ALARMS = 0.01
SURE = 0.9
"""A probability from which an answer counts as sure."""

_QUANTILE = 0.99  # of an image's pixels: its brightness, which neither one hot pixel nor the empty sky decides
_REFERENCE = 256  # images that fix a brightness
_FEWER = 3  # the symmetry and the out-of-distribution parts take n / 3 images, as each is seen many times


@dataclass(frozen=True)
class Point:
    """Images to ask the model about.

    Attributes:
        survey: Where the scenes come from.
        noise: Noise mode of the simulator.
        change: Of the scenes, before they are rendered.
        prepare: Of the images (B, C, H, W), before the model sees them.
        n: Number of images; the bench's if None.
    """

    survey: Survey
    noise: str
    change: Callable[[Scenes], Scenes] | None = None
    prepare: Callable[[Tensor], Tensor] | None = None
    n: int | None = None


@dataclass
class Answers:
    """(N,) labels in the model's classes and (N, K) logits."""

    labels: np.ndarray
    logits: np.ndarray

    def aucs(self, names: tuple[str, ...], reference: "Answers | None" = None) -> dict[str, Any]:
        """Returns macro and class AUCs, and the paired difference to answers about the same scenes."""
        scores = log_odds(self.logits)
        found = {
            "n": len(self.labels),
            "macro_auc": asdict(macro_auc(self.labels, scores)),
            "auc": {name: asdict(auc) for name, auc in zip(names, class_aucs(self.labels, scores))},
        }
        if reference is not None:
            found["difference"] = asdict(paired_difference(self.labels, self.logits, reference.logits))
        return found


@dataclass
class Bench:
    """What an audit of one model works with.

    Attributes:
        predictor: The model.
        survey: The survey that it was trained on.
        noise: The noise that it was trained with.
        seed: Of the scenes.
        n: Images per point.
        batch_size: Images at once.
        progress: Show progress bars.
    """

    predictor: Predictor
    survey: Survey
    noise: str
    seed: int
    n: int
    batch_size: int = 256
    progress: bool | None = None

    def images(self, point: Point, seed: int | None = None) -> Iterator[tuple[Tensor, np.ndarray, Scenes]]:
        """Yields images (B, 1, H, W), labels (B,) in the model's classes, and scenes."""
        names = tuple(_classes_of_use(point.survey.class_names, self.predictor))
        if not names:
            raise InputError(f"survey {point.survey.name} has none of the model's classes")
        simulator = Simulator(point.survey, classes=names, seed=self.seed if seed is None else seed, noise=point.noise)
        order = np.array(_order(names, self.predictor))
        if (order == LEFT_OUT).any():
            raise InputError(f"survey {point.survey.name} has other classes than the model: {', '.join(names)}")
        n = point.n or self.n
        for start in range(0, n, self.batch_size):
            numbers = np.arange(start, min(start + self.batch_size, n))
            labels, index = numbers % len(names), numbers // len(names)
            scenes = draw_scenes(point.survey, labels, index, simulator.seed, names)
            scenes = point.change(scenes) if point.change else scenes
            images = simulator.images(scenes)[:, None]
            yield point.prepare(images) if point.prepare else images, order[labels], scenes

    def ask(self, points: Mapping[str, Point], what: str) -> dict[str, Answers]:
        """Asks the model about all points."""
        found = {}
        with progress_bar(what, sum(point.n or self.n for point in points.values()), self.progress) as advance:
            for name, point in points.items():
                labels, logits = [], []
                for images, truth, _ in self.images(point):
                    labels.append(truth)
                    logits.append(self.logits(images))
                    advance(len(images))
                found[name] = Answers(np.concatenate(labels), np.concatenate(logits))
        return found

    def logits(self, images: Tensor) -> np.ndarray:
        """Returns float64 (B, K) for images (B, 1, H, W)."""
        return self.predictor.predict_logits(self.channels(images)).double().numpy()

    def channels(self, images: Tensor) -> Tensor:
        """Returns images (B, 1, H, W) with as many channels as the model takes."""
        return images.expand(-1, self.predictor.image_shape[0], -1, -1)

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes."""
        return self.predictor.class_names

    @property
    def plain(self) -> Point:
        """The images as in training, of new scenes."""
        return Point(self.survey, self.noise)

    @cached_property
    def base(self) -> Answers:
        """What the model says of them."""
        return self.ask({"": self.plain}, "audit: as trained")[""]

    @cached_property
    def reference(self) -> Tensor:
        """The first images as in training, (M, 1, H, W)."""
        n = min(self.n, _REFERENCE)
        return torch.cat([images for images, _, _ in self.images(dataclasses.replace(self.plain, n=n))])

    @cached_property
    def scale(self) -> float:
        """Pixel scale of the model's images in arcsec."""
        return self.survey.instrument.pixel_scale

    @property
    def size(self) -> int:
        """Side of the model's images in pixels."""
        return self.predictor.image_shape[-1]

    @property
    def fewer(self) -> int:
        """Number of images where each is seen many times."""
        return max(self.n // _FEWER, min(self.n, 30))

    @property
    def kind(self) -> str:
        """The simulator's noise, with what ``"original"`` stands for in this survey."""
        return self.survey.original_noise if self.noise == "original" else self.noise


def make_bench(
    predictor: Predictor,
    run: str,
    *,
    survey: str | None,
    n: int,
    seed: int | None,
    batch_size: int,
    progress: bool | None,
) -> Bench:
    """Returns a bench for a model, or says why it cannot be audited.

    Args:
        predictor: The model.
        run: Its name, for messages.
        survey: The survey it was trained on, if the artefact does not name a shipped one.
        n: Images per point.
        seed: Of the scenes; by default the first that the training has not used.
        batch_size: Images at once.
        progress: Show progress bars.
    """
    if not predictor.class_names:
        raise InputError(
            f"{run}: estimates {', '.join(predictor.outputs.targets)} and knows no classes: no AUC to audit"
        )
    if survey is not None:
        recipe = get_survey(survey)
    elif predictor.residual is not None:  # which carries the definition
        recipe = get_survey(json.loads(predictor.residual.survey))
    elif predictor.artefact.get("survey") in list_surveys():
        recipe = get_survey(predictor.artefact["survey"])
    else:
        raise InputError(
            f"{run}: was trained on survey {predictor.artefact.get('survey')!r}, which does not come with the package: "
            "give its YAML file as survey"
        )
    side = recipe.instrument.num_pix
    if predictor.image_shape[-2:] != (side, side):
        height, width = predictor.image_shape[-2:]
        raise InputError(f"{run}: takes images of {height}×{width}, but those of {recipe.name} have {side}×{side}")
    noise = predictor.artefact.get("noise")
    return Bench(
        predictor,
        recipe,
        noise if isinstance(noise, str) else "original",
        unused_seed(training_of(predictor)) if seed is None else seed,
        n,
        batch_size,
        progress,
    )


# --- shortcuts --------------------------------------------------------------------------------------------------------

MOMENTS = ("flux", "peak", "x", "y", "xx", "yy", "xy", "ring radius", "ring width")


def image_moments(images: Tensor) -> np.ndarray:
    """Returns a few numbers of each image (B, 1, H, W) that know nothing of its details, (B, 9): :data:`MOMENTS`.

    Lengths are in pixels; the ring's radius and width are the mean and the standard deviation of the distance from the centre, weighted by light
    (pixels brighter than a tenth of the image's 99.5 % quantile).
    """
    pixels = images[:, 0].flatten(1)
    peak = pixels.quantile(0.995, dim=1, keepdim=True)
    light = torch.where(pixels > peak / 10, pixels, 0.0).double()
    axis = torch.arange(images.shape[-1], dtype=torch.float64) - (images.shape[-1] - 1) / 2
    x, y = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="xy"))
    weights = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y, torch.hypot(x, y)], dim=1)  # (H W, 7)
    total, *sums = (light @ weights).unbind(1)
    cx, cy, xx, yy, xy, radius = (value / total.clamp(min=1e-30) for value in sums)
    width = (xx + yy - radius**2).clamp(min=0).sqrt()
    columns = (pixels.double().sum(1), peak[:, 0].double(), cx, cy, xx - cx**2, yy - cy**2, xy - cx * cy, radius, width)
    return torch.stack(columns, dim=1).numpy()


def shortcut(bench: Bench) -> dict[str, Any]:
    """How far image moments get, and how far the model falls, when all classes have the same mass within the ring."""

    def match(scenes: Scenes) -> Scenes:
        return match_mass(scenes, bench.survey)

    points = {"original": bench.plain, "matched": dataclasses.replace(bench.plain, change=match)}
    model = bench.ask({"matched": points["matched"]}, "audit: matched masses")["matched"]
    heavy = dataclasses.replace(bench.plain, change=lambda scenes: add_mass(scenes, bench.survey), n=bench.fewer)
    n_train, train_seed = 2 * bench.n, bench.seed + 1
    moments: dict[str, Any] = {}
    with progress_bar("audit: moments", 2 * (n_train + bench.n), bench.progress) as advance:
        for name, point in points.items():
            sets = []
            for n, seed in ((n_train, train_seed), (bench.n, bench.seed)):
                values, labels = [], []
                for images, truth, _ in bench.images(dataclasses.replace(point, n=n), seed):
                    values.append(image_moments(images))
                    labels.append(truth)
                    advance(len(images))
                sets.append((np.concatenate(values), np.concatenate(labels)))
            moments[name] = {
                kind: Answers(sets[1][1], logits).aucs(bench.names)
                for kind, logits in _moment_classifiers(*sets[0], sets[1][0]).items()
            }
    return {
        "moments": moments,
        "moment_names": list(MOMENTS),
        "n_train": n_train,
        "train_seed": train_seed,
        "heavier": _heavier(bench, bench.ask({"": heavy}, "audit: heavier lenses")[""]),
        "model": {"original": bench.base.aucs(bench.names), "matched": model.aucs(bench.names, bench.base)},
    }


def _heavier(bench: Bench, heavier: Answers) -> dict[str, Any] | None:
    """Returns how many of the smooth lenses the model knows as such, as they are and with more mass."""
    names = bench.survey.class_names
    order = _order(names, bench.predictor)
    smooth = [k for name, k in zip(names, order) if k != LEFT_OUT and not bench.survey.substructure[name]]
    n = len(heavier.labels)
    which = np.isin(heavier.labels, smooth)
    if not which.any():
        return None
    known = {}
    for key, logits in (("original", bench.base.logits[:n]), ("heavier", heavier.logits)):
        right = logits[which].argmax(axis=1) == heavier.labels[which]
        known[key] = asdict(wilson(int(right.sum()), int(which.sum())))
    return {"n": int(which.sum()), **known}


def _moment_classifiers(x: np.ndarray, labels: np.ndarray, new: np.ndarray) -> dict[str, np.ndarray]:
    """Returns log-probabilities (N, K) of new images by two kinds of classifier; nothing is chosen by the test images."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    kinds = {
        "logistic regression": make_pipeline(
            StandardScaler(),
            PolynomialFeatures(2, include_bias=False),
            StandardScaler(),
            LogisticRegression(max_iter=3000),
        ),
        "gradient boosting": HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.08, max_leaf_nodes=15, random_state=0
        ),
    }
    return {name: np.log(np.clip(kind.fit(x, labels).predict_proba(new), 1e-12, None)) for name, kind in kinds.items()}


# --- noise ------------------------------------------------------------------------------------------------------------


def noise(bench: Bench) -> dict[str, Any]:
    """The same scenes, exposed for longer and shorter."""
    instrument_noise = bench.kind in ("doubled", "none")  # trained on images without noise: the camera's own is added
    mode = "instrument" if instrument_noise else bench.noise
    unit = 2.0 if bench.kind == "doubled" else 1.0
    in_counts = bench.kind == "double_poisson"
    points: dict[str, Point] = {}
    for factor in EXPOSURES:
        survey = _exposed(bench.survey, factor)
        points[f"{factor:g}"] = Point(survey, mode, prepare=_times(unit))
        if in_counts and factor != 1:
            points[f"{factor:g} rescaled"] = Point(survey, mode, prepare=_times(1 / factor))
    known = {} if instrument_noise else {"1": bench.base}
    answers = known | bench.ask({k: v for k, v in points.items() if k not in known}, "audit: noise")
    rows = []
    for factor in EXPOSURES:
        name = f"{factor:g}"
        row = {"factor": factor, "snr": _peak_snr(bench, points[name]), **answers[name].aucs(bench.names, answers["1"])}
        if in_counts:
            again = answers.get(f"{name} rescaled", answers[name])
            row["rescaled"] = again.aucs(bench.names, answers["1"])
        rows.append(row)
    return {"points": rows, "noise": mode, "noise_was_added": instrument_noise, "in_counts": in_counts}


def _exposed(survey: Survey, factor: float) -> Survey:
    """Returns the survey with other exposure times; a background that is given as a number falls with their square root."""
    instrument = survey.instrument
    rms = instrument.background_rms
    return dataclasses.replace(
        survey,
        instrument=dataclasses.replace(
            instrument,
            exposure_time=_scaled(instrument.exposure_time, factor),
            background_rms=None if rms is None else rms / math.sqrt(factor),
        ),
    )


def _scaled(quantity: Quantity, factor: float) -> Quantity:
    if isinstance(quantity, float | int):
        return quantity * factor
    lengths = {f.name: getattr(quantity, f.name) * factor for f in dataclasses.fields(quantity) if f.name != "slope"}
    return dataclasses.replace(quantity, **lengths)


def _times(factor: float) -> Callable[[Tensor], Tensor] | None:
    return None if factor == 1 else lambda images: images * factor


def _peak_snr(bench: Bench, point: Point) -> float:
    """Returns the median over images of the brightest pixel's signal over its noise."""
    n = min(bench.n, 96)
    clean = dataclasses.replace(point, noise="none", n=n, prepare=None)
    twice = 2 if bench.kind == "double_poisson" else 1
    rms = background_rms(point.survey.instrument)
    ratios = []
    for images, _, scenes in bench.images(clean):
        peak = images.flatten(1).amax(1).double().numpy()
        seconds = scenes.exposure_time * point.survey.instrument.num_exposures
        ratios.append(peak / np.sqrt(rms**2 + twice * peak / seconds))
    return float(np.median(np.concatenate(ratios)))


# --- shift ------------------------------------------------------------------------------------------------------------


def shift(bench: Bench, others: Mapping[str, Bench]) -> dict[str, Any]:
    """Another PSF, another pixel scale, other surveys.

    Args:
        bench: The model.
        others: More models for the matrix, by name.
    """
    instrument = bench.survey.instrument
    values = {"psf": PSF_WIDTHS if instrument.psf_fwhm > 0 else (), "pixel_scale": PIXEL_SCALES}
    field = {"psf": "psf_fwhm", "pixel_scale": "pixel_scale"}
    points = {
        f"{kind} {factor:g}": Point(_with_camera(bench.survey, field[kind], factor), bench.noise)
        for kind, factors in values.items()
        for factor in factors
        if factor != 1
    }
    answers = bench.ask(points, "audit: shift")
    found: dict[str, Any] = {
        kind: [
            {
                "factor": factor,
                "arcsec": getattr(instrument, field[kind]) * factor,
                **answers.get(f"{kind} {factor:g}", bench.base).aucs(bench.names, bench.base),
            }
            for factor in factors
        ]
        for kind, factors in values.items()
    }
    return {**found, "matrix": _matrix({_survey_name(bench): bench, **others})}


def _with_camera(survey: Survey, field: str, factor: float) -> Survey:
    changed = {field: getattr(survey.instrument, field) * factor}
    return dataclasses.replace(survey, instrument=dataclasses.replace(survey.instrument, **changed))


def _survey_name(bench: Bench) -> str:
    return f"{bench.survey.name}, {bench.noise}"


def _matrix(benches: Mapping[str, Bench]) -> dict[str, Any]:
    """Every model on the survey of every model, and on the shipped surveys with the cameras' own noise."""
    tests: dict[str, tuple[Survey, str]] = {
        _survey_name(bench): (bench.survey, bench.noise) for bench in benches.values()
    }
    known = {survey.name for survey, _ in tests.values()}
    tests |= {f"{name}, instrument": (get_survey(name), "instrument") for name in list_surveys() if name not in known}
    cells = []
    for bench in benches.values():
        row: list[dict[str, Any] | None] = []
        for name, (survey, mode) in tests.items():
            if name == _survey_name(bench):
                row.append(bench.base.aucs(bench.names))
            elif sorted(_order(survey.class_names, bench.predictor)) != list(range(len(bench.names))):
                row.append(None)  # other classes
            else:
                point = Point(survey, mode, prepare=_brought(bench, survey, mode))
                row.append(bench.ask({name: point}, f"audit: on {survey.name}")[name].aucs(bench.names))
        cells.append(row)
    return {"models": list(benches), "tests": list(tests), "cells": cells}


def _brought(bench: Bench, survey: Survey, mode: str) -> Callable[[Tensor], Tensor]:
    """Returns the step that brings another survey's images to the model's pixel scale, size and typical brightness."""

    def to_camera(images: Tensor) -> Tensor:
        side = images.shape[-1]
        new = max(1, round(side * survey.instrument.pixel_scale / bench.scale))
        if new != side:
            images = F.interpolate(images, (new, new), mode="bilinear", align_corners=False, antialias=True)
        return _sized(images, bench.size)

    first = Point(survey, mode, prepare=to_camera, n=len(bench.reference))
    theirs = torch.cat([images for images, _, _ in bench.images(first)])
    factor = _brightness(bench.reference) / max(_brightness(theirs), 1e-30)
    return lambda images: to_camera(images) * factor


def _sized(images: Tensor, size: int) -> Tensor:
    """The central part of larger images; zeros around smaller ones."""
    if images.shape[-1] == size:
        return images
    return Framing(img_size=size, fit="crop" if images.shape[-1] > size else "pad")(images)


def _brightness(images: Tensor) -> float:
    """The median over images of a bright pixel's value."""
    return float(images.flatten(1).quantile(_QUANTILE, dim=1).median())


# --- symmetry ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def symmetry(bench: Bench) -> dict[str, Any]:
    """What the eight symmetries of the square change, for the whole predictor and for its network alone.

    A predictor with a residual first fits a smooth lens that lies as the survey's lenses lie. The network alone gets the residual of the
    unturned image, turned with it, as in training.
    """
    predictor, n = bench.predictor, bench.fewer
    with_residual = predictor.residual is not None
    whole: list[list[np.ndarray]] = [[] for _ in ELEMENTS]
    network: list[list[np.ndarray]] = [[] for _ in ELEMENTS]
    labels = []
    with progress_bar("audit: symmetry", n * len(ELEMENTS) * (1 + with_residual), bench.progress) as advance:
        for images, truth, _ in bench.images(dataclasses.replace(bench.plain, n=n)):
            labels.append(truth)
            for code, logits in enumerate(whole):
                logits.append(bench.logits(_turned(images, code)))
                advance(len(images))
            if predictor.residual is None:
                continue
            fitted = predictor.residual(images.to(predictor.device))
            for code, logits in enumerate(network):
                ready = network_input(_turned(fitted, code), predictor.framing, predictor.normalization, True)
                numbers = predictor.outputs.split(predictor.model(ready).float().cpu())[0]
                assert numbers is not None  # the bench takes classifiers only
                logits.append(numbers.double().numpy())
                advance(len(images))
    truth = np.concatenate(labels)
    found: dict[str, Any] = {
        "n": n,
        "elements": _elements(bench, truth, whole),
        "network": _elements(bench, truth, network) if with_residual else None,
    }
    return found


def _turned(images: Tensor, code: int) -> Tensor:
    return transform(images, np.full(len(images), code))


def _elements(bench: Bench, labels: np.ndarray, parts: list[list[np.ndarray]]) -> list[dict[str, Any]]:
    logits = [np.concatenate(part) for part in parts]
    # A number added to all logits changes no probability.
    centred = [values - values.mean(axis=1, keepdims=True) for values in logits]
    upright = Answers(labels, logits[0])
    rows = []
    for code, name in enumerate(ELEMENTS):
        changed = int((logits[code].argmax(1) != logits[0].argmax(1)).sum())
        rows.append(
            {
                "code": code,
                "name": name,
                "keeps_survey": keeps_survey(bench.survey, code),
                "mean_abs_delta_logit": float(np.abs(centred[code] - centred[0]).mean()),
                "changed": asdict(wilson(changed, len(labels))),
                **Answers(labels, logits[code]).aucs(bench.names, upright),
            }
        )
    return rows


def keeps_survey(survey: Survey, code: int) -> bool:
    """Says whether turned images are as likely as others in this survey: its lens, shear, and source are drawn alike then.

    Ellipticities and shear are spin 2: a quarter turn changes the sign of both components, a mirror at an axis that of the second.
    """
    if code == 0:
        return True
    lens, source = survey.deflector, survey.source
    for x, y in ((lens.x, lens.y), (source.x, source.y)):
        if x != y or not _is_even(x):
            return code == 2 and _is_even(x) and _is_even(y)
    quarter, mirror = code % 2 == 1, code >= 4
    for first, second in ((lens.e1, lens.e2), (lens.gamma1, lens.gamma2), (source.e1, source.e2)):
        if (quarter and not _is_even(first)) or (quarter != mirror and not _is_even(second)):
            return False
    return True


def _is_even(quantity: Quantity) -> bool:
    """Says whether a quantity and its negative are drawn alike."""
    if isinstance(quantity, Uniform):
        return quantity.low == -quantity.high
    if isinstance(quantity, Normal):
        return quantity.mean == 0
    return quantity == 0


# --- out of distribution ----------------------------------------------------------------------------------------------


def ood(bench: Bench, real: Sequence[str], galaxies: Sequence[str]) -> dict[str, Any]:
    """What the model says of images that it should not answer, and which of them it flags.

    Args:
        bench: The model.
        real: Folders or files of real lens cutouts.
        galaxies: The same of galaxies that are no lenses.
    """
    n = bench.fewer
    sets = _foreign_sets(bench, n, real, galaxies)
    why_not = _why_no_ood(bench.predictor, bench.reference[:1])
    found: dict[str, Any] = {"available": why_not is None, "why": why_not, "false_alarms": FALSE_ALARMS, "sets": []}
    threshold = math.nan
    for label, batches in sets.items():
        confidence, scores, flags, size = [], [], [], 0
        for images in batches:
            confidence.append(bench.predictor.probabilities(bench.channels(images)).amax(1).numpy())
            size += len(images)
            if why_not is None:
                verdict = _ood(bench.predictor, images)
                scores.append(np.asarray(verdict.score, np.float64))
                flags.append(np.asarray(verdict.flag, bool))
        if not size:
            continue
        row: dict[str, Any] = {
            "name": label,
            "n": size,
            "sure": asdict(wilson(int((np.concatenate(confidence) >= SURE).sum()), size)),
        }
        if why_not is None:
            score = np.concatenate(scores)
            if math.isnan(threshold):  # the first set is the in-distribution one
                threshold = float(np.quantile(score, 1 - FALSE_ALARMS, method="higher"))
                found["threshold"] = threshold
            row["flagged"] = asdict(wilson(int(np.concatenate(flags).sum()), size))
            row["flagged_at_threshold"] = asdict(wilson(int((score > threshold).sum()), size))
            row["median_score"] = float(np.median(score))
        found["sets"].append(row)
    return found


def _why_no_ood(predictor: Predictor, image: Tensor) -> str | None:
    """Returns why the predictor cannot say what is out of distribution; None if it can."""
    if not hasattr(predictor, "ood"):
        return "this version has no detection of unusual images"
    try:
        return None if _ood(predictor, image) is not None else "the model holds no statistics of its training images"
    except InputError as error:
        return str(error)


def _ood(predictor: Any, images: Tensor) -> Any:
    return predictor.ood(images.expand(-1, predictor.image_shape[0], -1, -1))


def _foreign_sets(bench: Bench, n: int, real: Sequence[str], galaxies: Sequence[str]) -> dict[str, Iterator[Tensor]]:
    """Returns batches (B, 1, H, W) of each kind of image; the first kind is the in-distribution one."""

    def simulated(point: Point) -> Iterator[Tensor]:
        return (images for images, _, _ in bench.images(dataclasses.replace(point, n=point.n or n)))

    reference = bench.reference
    generator = torch.Generator().manual_seed(bench.seed % 2**63)
    white = torch.randn((n, *reference.shape[1:]), generator=generator) * reference.std() + reference.mean()
    blank = torch.stack([torch.zeros_like(reference[0]), torch.full_like(reference[0], float(reference.mean()))])
    sets = {
        # all n: the 1 % quantile of fewer images would rest on a handful
        "as trained": simulated(dataclasses.replace(bench.plain, n=bench.n)),
        "galaxies without a lens, simulated": simulated(dataclasses.replace(bench.plain, change=_unlensed)),
        "sky without a source": simulated(dataclasses.replace(bench.plain, change=_dark)),
        "white noise": iter(white.clamp(min=float(reference.min())).split(bench.batch_size)),
        "blank": iter([blank]),
    }
    for name in list_surveys():
        if name != bench.survey.name:
            survey = get_survey(name)
            if _classes_of_use(survey.class_names, bench.predictor):
                point = Point(survey, "instrument", prepare=_brought(bench, survey, "instrument"))
                sets[f"lenses of {name}"] = simulated(point)
    if real:
        sets["real lenses"] = _from_files(bench, real)
    if galaxies:
        sets["real galaxies"] = _from_files(bench, galaxies)
    return sets


def _unlensed(scenes: Scenes) -> Scenes:
    """The sources as they are without anything in front of them."""
    return dataclasses.replace(
        scenes,
        lens_theta_E=np.full_like(scenes.lens_theta_E, 1e-6),
        **{
            name: np.zeros_like(getattr(scenes, name))
            for name in ("gamma1", "gamma2", "vortex_theta_E", "vortex_n_masses")
        },
        **{name: np.full_like(getattr(scenes, name), np.nan) for name in ("vortex_mass", "subhalo_mass")},
        subhalo_theta_E=np.zeros_like(scenes.subhalo_theta_E),
    )


def _dark(scenes: Scenes) -> Scenes:
    return dataclasses.replace(scenes, source_amp=np.zeros_like(scenes.source_amp))


def _from_files(bench: Bench, paths: Sequence[str]) -> Iterator[Tensor]:
    """Yields images of files, brought to the model's size and to the brightness of its own."""
    return (_cutout(bench, path) for path in find_images(list(paths)))


def _cutout(bench: Bench, path: Path) -> Tensor:
    image = torch.tensor(read_image(path, nan="zero")).mean(0)[None, None]
    side = min(image.shape[-2:])
    image = Framing(img_size=None, crop=min(side, bench.size))(image)
    if side < bench.size:  # its scale is not known; a small cutout shows the same lens on fewer pixels
        image = F.interpolate(image, (bench.size, bench.size), mode="bilinear", align_corners=False, antialias=True)
    image = image - image.median()
    image = image * (_brightness(bench.reference) / max(_brightness(image), 1e-30))
    return image.clamp(min=min(0.0, float(bench.reference.min()))) if bench.reference.min() >= 0 else image


def interval(value: Mapping[str, float]) -> Interval:
    """Returns an interval from its JSON form."""
    return Interval(*(math.nan if value[key] is None else value[key] for key in ("value", "low", "high")))
