"""Answers that would be others if an image's geometry were a little other than its survey's: asked, and withdrawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from haloformer.fitting.channels import Look, Residual, recentred
from haloformer.fitting.problem import SOUGHT
from haloformer.outputs.geometry import GeometryCheck

if TYPE_CHECKING:
    from haloformer.prediction.predictor import Predictor

_FAR = "the lens is {x:+.1f}, {y:+.1f} pixels from where the survey has it"
_SCALE = "the ring is {scale:.1%} {larger} than that of {name} usually is: pixels of another size?"
_OTHER = "with pixels {scale:.1%} {larger} the answer might be {name}"
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
        (places[:, :2].abs() > SOUGHT).any(1),
        lambda i: _FAR.format(x=float(places[i, 0]), y=float(places[i, 1])),
    )
    withdraw(_turned(residual, raw, look), lambda i: _TURNED)
    withdraw(
        check.unusual_scale(names, answers, scales),
        lambda i: _scale_text(check, names[int(answers[i])], float(scales[i])),
    )
    for other, usual in check.scale.items():
        limits = check.limits_of(names, answers, other)
        rows = (limits.isfinite() & torch.tensor([not text for text in texts])).nonzero()[:, 0]
        if len(rows):
            shifts = scales - usual.mean
            found = torch.zeros(len(raw), dtype=torch.bool)
            lead = lead_of(predictor, raw[rows.to(raw.device)], shifts[rows], other)
            found[rows] = lead > limits[rows]
            withdraw(found, partial(_other_text, other, shifts))
    return texts


def smooth_scale(residual: Residual, raw: Tensor) -> Tensor:
    """Returns (B,) float64 the relative excess of the pixel scale that raw images have, if their lenses are smooth."""
    return _variant(residual, fit_place=True, fit_scale=True).look(raw).places[:, 2].double().cpu()


@torch.inference_mode()
def lead_of(predictor: "Predictor", raw: Tensor, scale: Tensor, name: str) -> Tensor:
    """Returns (B,) float64 by how much a class's logit would lie above all others for raw images, if their pixels were larger by a relative excess (B,)."""
    assert predictor.residual is not None  # by the caller
    shown = predictor.residual.look(raw, scale).channels.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    logits = predictor.outputs.split(predictor.numbers_of(shown))[0]
    assert logits is not None  # a model with a geometry check has classes
    k = predictor.class_names.index(name)
    others = torch.cat([logits[:, :k], logits[:, k + 1 :]], 1)
    return (logits[:, k] - others.amax(1)).double()


@dataclass(frozen=True)
class Scaled:
    """What N images say of their pixel scale.

    Attributes:
        scales: (N,) float64: its relative excess, were their lenses smooth.
        leads: Class → (N,) by how much its logit would lie above all others, were the pixels of the size that is usual for it.
    """

    scales: Tensor
    leads: dict[str, Tensor]

    def withdrawn(
        self, check: GeometryCheck, class_names: Sequence[str], answers: Tensor
    ) -> Tensor:
        """Returns (N,) bool: the pixel scale speaks against the answers (N,)."""
        found = check.unusual_scale(class_names, answers, self.scales)
        for other, lead in self.leads.items():
            found |= lead > check.limits_of(class_names, answers, other)
        return found


def smooth_scales(
    residual: Residual, batches: Sequence[Tensor], advance: Callable[[int], None]
) -> Tensor:
    """Returns what `smooth_scale` does, of N images in batches; tells how many are done."""
    found = []
    for batch in batches:
        found.append(smooth_scale(residual, batch))
        advance(len(batch))
    return torch.cat(found)


def scaled(
    predictor: "Predictor",
    batches: Sequence[Tensor],
    check: GeometryCheck,
    scales: Tensor,
    advance: Callable[[int], None],
) -> Scaled:
    """Returns what images say of their pixel scale.

    Args:
        predictor: The model.
        batches: N raw images (B, C, H, W) in all.
        check: Knows the scale that is usual for each class.
        scales: (N,) of `smooth_scales`.
        advance: Is told how many images are done.
    """
    leads: dict[str, list[Tensor]] = {name: [] for name in check.scale}
    for batch, scale in zip(batches, scales.split([len(b) for b in batches]), strict=True):
        raw = predictor.checked(batch)
        for name, usual in check.scale.items():
            leads[name].append(lead_of(predictor, raw, scale - usual.mean, name))
        advance(len(batch))
    return Scaled(scales, {name: torch.cat(found) for name, found in leads.items()})


def _turned(residual: Residual, raw: Tensor, look: Look) -> Tensor:
    """Returns (B,) bool: another view of the image fits better. A half turn changes nothing, so that three of the eight are others.

    The other views are fitted with the lens where it is to a pixel: that is quick, and the upright view has the advantage.
    """
    plain = _variant(residual, fit_place=False, fit_scale=False)
    upright = recentred(raw, look.places[:, :2])
    views = (upright.mT, upright.flip(-1), torch.rot90(upright, 1, (-2, -1)))
    chi2 = torch.stack([plain.look(view.contiguous()).chi2 for view in views])
    return (chi2.amin(0) < look.chi2).cpu()


@lru_cache(maxsize=16)
def _variant(residual: Residual, fit_place: bool, fit_scale: bool) -> Residual:
    """Returns the same fit with other things free, without its detail; kept, for its starting points are rendered once."""
    return replace(residual, detail=False, fit_place=fit_place, fit_scale=fit_scale)


def _other_text(name: str, shifts: Tensor, i: int) -> str:
    return _sized(_OTHER, name, float(shifts[i]))


def _scale_text(check: GeometryCheck, name: str, scale: float) -> str:
    return _sized(_SCALE, name, check.scale[name].mean - scale)


def _sized(text: str, name: str, excess: float) -> str:
    return text.format(name=name, scale=abs(excess), larger="larger" if excess > 0 else "smaller")
