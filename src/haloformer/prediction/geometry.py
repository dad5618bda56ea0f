"""Answers that would be others if an image's geometry were a little other than its survey's: asked, and withdrawn."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from haloformer.fitting.channels import Look, Residual, recentred
from haloformer.outputs.geometry import FAR, GeometryCheck

if TYPE_CHECKING:
    from haloformer.prediction.predictor import Predictor

_FAR = "the lens is {x:+.1f}, {y:+.1f} pixels from where the survey has it"
_SCALE = "the ring is {scale:+.1%} from the size that {name} gives it: pixels of another size?"
_OTHER = "were its pixels {scale:+.1%} of another size, the answer would be {name}"
_TURNED = "mirrored or turned by 90 degrees, the image fits the survey's lenses better"


def why_withdrawn(predictor: "Predictor", raw: Tensor, look: Look, answers: Tensor) -> list[str]:
    """Returns B texts: why an answer does not hold; empty where it does.

    Args:
        predictor: With a geometry check.
        raw: (B, C, H, W) images, checked, on its device.
        look: How they were fitted.
        answers: (B,) numbers of the classes that the network gives, on the CPU.
    """
    check, residual, names = predictor.geometry, predictor.residual, predictor.class_names
    assert check is not None  # by the caller
    assert residual is not None  # as there is a check
    scales = smooth_scale(residual, raw)
    texts = [""] * len(raw)

    def withdraw(chosen: Tensor, text: Callable[[int], str]) -> None:
        for i in chosen.nonzero()[:, 0].tolist():
            texts[i] = texts[i] or text(i)

    places = look.places.cpu()
    withdraw(
        (places[:, :2].abs() > FAR).any(1),
        lambda i: _FAR.format(x=float(places[i, 0]), y=float(places[i, 1])),
    )
    withdraw(_turned(residual, raw, look), lambda i: _TURNED)
    withdraw(
        check.unusual_scale(names, answers, scales),
        lambda i: _scale_text(check, names[int(answers[i])], float(scales[i])),
    )
    for other, usual in check.scale.items():
        asked = torch.tensor([other in check.asked.get(name, ()) for name in names])[answers]
        rows = (asked & torch.tensor([not text for text in texts])).nonzero()[:, 0]
        if len(rows):
            shifts = scales - usual.mean
            found = torch.zeros_like(asked)
            found[rows] = would_be(predictor, raw[rows.to(raw.device)], shifts[rows], other)
            withdraw(found, partial(_other_text, other, shifts))
    return texts


def smooth_scale(residual: Residual, raw: Tensor) -> Tensor:
    """Returns (B,) float64 the relative excess of the pixel scale that raw images have, if their lenses are smooth."""
    free = replace(residual, fit_scale=True, detail=False)
    return free.look(raw).places[:, 2].double().cpu()


@torch.inference_mode()
def would_be(predictor: "Predictor", raw: Tensor, scale: Tensor, name: str) -> Tensor:
    """Returns (B,) bool: a class would be the answer for raw images, if their pixels were larger by a relative excess (B,)."""
    assert predictor.residual is not None  # by the caller
    shown = predictor.residual.look(raw, scale).channels.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    logits = predictor.outputs.split(predictor.numbers_of(shown))[0]
    assert logits is not None  # a model with a geometry check has classes
    return logits.argmax(1) == predictor.class_names.index(name)


def fitted_check(
    predictor: "Predictor", batches: Iterable[Tensor], advance: Callable[[int], None] | None = None
) -> GeometryCheck | None:
    """Returns the geometry check of a model; None for a model without classes, or whose fit does not find where a lens lies.

    Args:
        predictor: The model.
        batches: Raw images (B, C, H, W) of its survey.
        advance: Is told how many images are done.
    """
    residual, names = predictor.residual, predictor.class_names
    if residual is None or not residual.fit_place or not names:
        return None
    kept, answers, scales = [], [], []
    for batch in batches:
        raw = predictor.checked(batch)
        logits = predictor.predict_logits(raw)
        kept.append(raw.cpu())
        answers.append(logits.argmax(1))
        scales.append(smooth_scale(residual, raw))
    answer, scale = torch.cat(answers), torch.cat(scales)
    check = GeometryCheck.of(names, answer, scale)
    others: dict[str, list[Tensor]] = {name: [] for name in check.scale}
    first = 0
    for raw in kept:
        here = scale[first : first + len(raw)]
        for name, usual in check.scale.items():
            there = would_be(predictor, raw.to(predictor.device), here - usual.mean, name)
            others[name].append(there)
        first += len(raw)
        if advance is not None:
            advance(len(raw))
    return check.without_costly(names, answer, {name: torch.cat(p) for name, p in others.items()})


def _turned(residual: Residual, raw: Tensor, look: Look) -> Tensor:
    """Returns (B,) bool: another view of the image fits better. A half turn changes nothing, so that three of the eight are others.

    The other views are fitted with the lens where it is to a pixel: that is quick, and the upright view has the advantage.
    """
    plain = replace(residual, detail=False, fit_place=False)
    upright = recentred(raw, look.places[:, :2])
    views = (upright.mT, upright.flip(-1), torch.rot90(upright, 1, (-2, -1)))
    chi2 = torch.stack([plain.look(view.contiguous()).chi2 for view in views])
    return (chi2.amin(0) < look.chi2).cpu()


def _other_text(name: str, shifts: Tensor, i: int) -> str:
    return _OTHER.format(scale=float(shifts[i]), name=name)


def _scale_text(check: GeometryCheck, name: str, scale: float) -> str:
    return _SCALE.format(scale=check.scale[name].mean - scale, name=name)
