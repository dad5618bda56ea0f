"""The audited model, the images that it is tested on, and its predictions for them.

Each condition of an audit shows the *same* scenes with one thing changed, so that differences to the unchanged images are
paired.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.data.framing import Framing
from haloformer.data.grouping import LEFT_OUT
from haloformer.errors import InputError
from haloformer.evaluation.metrics import class_aucs, log_odds, macro_auc, paired_difference
from haloformer.evaluation.testset import (
    classes_of_use,
    order_of,
    own_survey,
    training_noise,
    unused_seed,
)
from haloformer.io.progress import progress_bar
from haloformer.prediction.predictor import Predictor
from haloformer.reporting.interval import Interval
from haloformer.simulation import Scenes, Simulator, Survey, draw_scenes, get_any_survey
from haloformer.simulation.surveys import AnySurvey

_QUANTILE = 0.99  # of the pixels: a brightness that neither a hot pixel nor the empty sky decides


_REFERENCE = 256  # images whose brightness is compared


_FEWER = 3  # parts that show each image many times take n / 3 images


@dataclass(frozen=True)
class Condition:
    """How test images are made: as for training, or with one thing changed.

    Attributes:
        survey: Survey of the scenes.
        noise: Noise mode of the simulator.
        change: Applied to the scenes before they are rendered; of a composed survey nothing is.
        prepare: Applied to the images (B, C, H, W) before the model gets them.
        n: Number of images; that of the audit if None.
    """

    survey: AnySurvey
    noise: str
    change: Callable[[Scenes], Scenes] | None = None
    prepare: Callable[[Tensor], Tensor] | None = None
    n: int | None = None


def times(factor: float) -> Callable[[Tensor], Tensor] | None:
    """Returns what multiplies images, for `Condition.prepare`."""
    return None if factor == 1 else lambda images: images * factor


@dataclass
class LabelledLogits:
    """Predictions for N images: (N,) true classes as the model numbers them, (N, K) logits."""

    labels: np.ndarray
    logits: np.ndarray

    def aucs(
        self, names: tuple[str, ...], reference: "LabelledLogits | None" = None
    ) -> dict[str, Any]:
        """Returns macro and class AUCs, and the paired difference to predictions for the same scenes."""
        scores = log_odds(self.logits)
        found = {
            "n": len(self.labels),
            "macro_auc": asdict(macro_auc(self.labels, scores)),
            "auc": {name: asdict(auc) for name, auc in zip(names, class_aucs(self.labels, scores))},
        }
        if reference is not None:
            found["difference"] = asdict(
                paired_difference(self.labels, self.logits, reference.logits)
            )
        return found


@dataclass
class AuditedModel:
    """A model with the survey, noise and seed of its test images.

    Attributes:
        predictor: The model.
        survey: The survey that it was trained on.
        noise: The noise that it was trained with.
        seed: Of the scenes.
        n: Images per condition.
        batch_size: Images at once.
        progress: Show progress bars.
    """

    predictor: Predictor
    survey: AnySurvey
    noise: str
    seed: int
    n: int
    batch_size: int = 256
    progress: bool | None = None

    def images(
        self, condition: Condition, seed: int | None = None
    ) -> Iterator[tuple[Tensor, np.ndarray, Scenes | None]]:
        """Yields images (B, C, H, W), labels (B,) in the model's classes, and scenes; None of a composed survey."""
        names = tuple(classes_of_use(condition.survey.class_names, self.predictor))
        if not names:
            raise InputError(f"survey {condition.survey.name} has none of the model's classes")
        simulator = Simulator(
            condition.survey,
            classes=names,
            seed=self.seed if seed is None else seed,
            noise=condition.noise,
        )
        order = np.array(order_of(names, self.predictor))
        if (order == LEFT_OUT).any():
            raise InputError(
                f"survey {condition.survey.name} has other classes than the model: {', '.join(names)}"
            )
        n = condition.n or self.n
        for start in range(0, n, self.batch_size):
            numbers = np.arange(start, min(start + self.batch_size, n))
            labels, index = numbers % len(names), numbers // len(names)
            scenes = None
            if isinstance(condition.survey, Survey):
                scenes = draw_scenes(condition.survey, labels, index, simulator.seed, names)
                scenes = condition.change(scenes) if condition.change else scenes
                images = simulator.images(scenes)[:, None]
            else:
                assert condition.change is None
                images = simulator.batch(numbers).images
            yield condition.prepare(images) if condition.prepare else images, order[labels], scenes

    def predictions(
        self, conditions: Mapping[str, Condition], what: str
    ) -> dict[str, LabelledLogits]:
        """Returns the model's predictions under each condition."""
        found = {}
        with progress_bar(
            what, sum(condition.n or self.n for condition in conditions.values()), self.progress
        ) as advance:
            for name, condition in conditions.items():
                labels, logits = [], []
                for images, truth, _ in self.images(condition):
                    labels.append(truth)
                    logits.append(self.logits(images))
                    advance(len(images))
                found[name] = LabelledLogits(np.concatenate(labels), np.concatenate(logits))
        return found

    def logits(self, images: Tensor) -> np.ndarray:
        """Returns float64 (B, K) for images (B, C, H, W)."""
        return self.predictor.predict_logits(self.channels(images)).double().numpy()

    def channels(self, images: Tensor) -> Tensor:
        """Returns images (B, C, H, W) with as many channels as the model takes."""
        return images.expand(-1, self.predictor.image_shape[0], -1, -1)

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes."""
        return self.predictor.class_names

    @property
    def plain(self) -> Condition:
        """New scenes, with images as for training."""
        return Condition(self.survey, self.noise)

    @cached_property
    def base(self) -> LabelledLogits:
        """Predictions for images as for training."""
        return self.predictions({"": self.plain}, "audit: as trained")[""]

    @cached_property
    def reference(self) -> Tensor:
        """The first M images as for training, (M, C, H, W)."""
        n = min(self.n, _REFERENCE)
        return torch.cat(
            [images for images, _, _ in self.images(dataclasses.replace(self.plain, n=n))]
        )

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
        """Number of images in parts that show each image many times."""
        return max(self.n // _FEWER, min(self.n, 30))

    @property
    def noise_mode(self) -> str:
        """Noise mode of the simulator, with ``"original"`` replaced by the mode of this survey."""
        return self.survey.noise_kind(self.noise)

    @property
    def is_composed(self) -> bool:
        """Whether the survey is one of components."""
        return not isinstance(self.survey, Survey)


def audited_model(
    predictor: Predictor,
    run: str,
    *,
    survey: str | None,
    n: int,
    seed: int | None,
    batch_size: int,
    progress: bool | None,
) -> AuditedModel:
    """Prepares a model to be audited.

    Args:
        predictor: The model.
        run: Its name, for messages.
        survey: The survey it was trained on, if the artefact does not name a shipped one.
        n: Images per condition.
        seed: Of the scenes; by default the first that the training has not used.
        batch_size: Images at once.
        progress: Show progress bars.

    Raises:
        InputError: It is no classifier, or its images are not those of a known survey.
    """
    if not predictor.class_names:
        raise InputError(
            f"{run}: estimates {', '.join(predictor.outputs.targets)} and knows no classes: no AUC to audit"
        )
    if survey is not None:
        recipe = get_any_survey(survey)
    elif predictor.residual is not None:  # which carries the definition
        recipe = get_any_survey(json.loads(predictor.residual.survey))
    else:
        wanted = "name it (--survey; in Python survey)"
        recipe = get_any_survey(own_survey(predictor, run, wanted))
    side = recipe.instrument.num_pix
    if predictor.image_shape[-2:] != (side, side):
        height, width = predictor.image_shape[-2:]
        raise InputError(
            f"{run}: takes images of {height}×{width}, but those of {recipe.name} have {side}×{side}"
        )
    return AuditedModel(
        predictor,
        recipe,
        training_noise(predictor),
        unused_seed(predictor) if seed is None else seed,
        n,
        batch_size,
        progress,
    )


def at_camera(audited: AuditedModel, survey: AnySurvey, mode: str) -> Callable[[Tensor], Tensor]:
    """Returns a function that brings another survey's images to the model's pixel scale, size and typical brightness."""

    def to_camera(images: Tensor) -> Tensor:
        side = images.shape[-1]
        new = max(1, round(side * survey.instrument.pixel_scale / audited.scale))
        if new != side:
            images = F.interpolate(
                images, (new, new), mode="bilinear", align_corners=False, antialias=True
            )
        return _sized(images, audited.size)

    first = Condition(survey, mode, prepare=to_camera, n=len(audited.reference))
    theirs = torch.cat([images for images, _, _ in audited.images(first)])
    factor = brightness_of(audited.reference) / max(brightness_of(theirs), 1e-30)
    return lambda images: to_camera(images) * factor


def _sized(images: Tensor, size: int) -> Tensor:
    """The central part of larger images; zeros around smaller ones."""
    if images.shape[-1] == size:
        return images
    return Framing(img_size=size, fit="crop" if images.shape[-1] > size else "pad")(images)


def brightness_of(images: Tensor) -> float:
    """The median over images of a bright pixel's value."""
    return float(images.flatten(1).quantile(_QUANTILE, dim=1).median())


def interval(value: Mapping[str, float]) -> Interval:
    """Returns an interval from its JSON form."""
    return Interval(
        *(math.nan if value[key] is None else value[key] for key in ("value", "low", "high"))
    )
