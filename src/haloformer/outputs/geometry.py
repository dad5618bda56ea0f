"""Does an answer hold although an image's geometry may be a little other than its survey's?

Substructure widens the ring by a few per cent, and so do pixels that are smaller by as much. So of each image the pixel scale is fitted, too,
as if the lens were smooth, and three questions are asked, all calibrated on images of the survey itself:

- Is the scale usual *for this answer*?
- How near would another class be to being the answer, were the pixels of the size that makes the scale usual for that class? Nearer than for
  nearly all images of the survey is too near.
- Does the image fit better mirrored, or turned by 90 degrees? The lenses of a survey may all have the same orientation.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from haloformer.errors import InputError
from haloformer.validation import Strict, validated

FORGONE_RATES = (0.01, 0.02, 0.03, 0.05)
"""Shares of the answers of a class, on images of the survey itself, that the question about one other class may withdraw: the smallest that serves."""

LEAST_LEAD = -10.0
"""A class whose logit stays further below the best is not near, whatever images of the survey say: at odds of 1 to 20,000."""

MIN_PER_CLASS = 30

_ALARM_RATE = 0.01  # share of a class's own images whose scale is unusual for it
_MARGIN = 0.1  # of the range that was seen, on both sides
_LEAST = 1e-4  # half of a range at least: noise-free lenses are all within rounding


class UsualScale(Strict):
    """The relative excess of the pixel scale that images of the survey seem to have if they get an answer.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        mean: Mean.
    """

    low: float = Field(gt=-1, lt=1)
    high: float = Field(gt=-1, lt=1)
    mean: float = Field(gt=-1, lt=1)


Limit = Annotated[float, Field(ge=-1e6, le=1e6)]


class GeometryCheck(Strict, extra="ignore"):
    """What is usual of a survey's images.

    Attributes:
        n: Images that it was made of.
        scale: Class → its usual scale; a class that is missing was hardly ever the answer.
        limits: Class → other class → by how much the other's logit, with pixels of the size usual for it, must lie above all others to
            withdraw the answer; below 0: by how little it may fall short.
    """

    n: int = Field(ge=1)
    scale: dict[str, UsualScale]
    limits: dict[str, dict[str, Limit]]

    @classmethod
    def read(cls, values: object, class_names: tuple[str, ...], where: str) -> "GeometryCheck":
        """Makes one of what ``artefact.json`` holds; raises InputError for what cannot be one."""
        found = validated(cls, values, where)
        others = {name for limits in found.limits.values() for name in limits}
        if not {*found.scale, *found.limits} <= {*class_names} or not others <= {*found.scale}:
            raise InputError(f"{where}: scale and limits must be of classes of the model")
        return found

    @classmethod
    def of(cls, class_names: tuple[str, ...], answers: Tensor, scales: Tensor) -> "GeometryCheck":
        """Returns a check without limits, of answers (N,) and scales (N,) for images of the survey itself."""
        usual = {}
        for k, name in enumerate(class_names):
            mine = scales[answers == k].double()
            if len(mine) >= MIN_PER_CLASS:
                low, high = torch.quantile(
                    mine, torch.tensor([_ALARM_RATE / 2, 1 - _ALARM_RATE / 2]).double()
                ).tolist()
                beyond = _MARGIN * (high - low) + _LEAST
                usual[name] = UsualScale(
                    low=low - beyond, high=high + beyond, mean=float(mine.mean())
                )
        return cls(n=len(answers), scale=usual, limits={})

    def with_limits(
        self,
        class_names: tuple[str, ...],
        answers: Tensor,
        leads: dict[str, Tensor],
        rate: float = FORGONE_RATES[0],
    ) -> "GeometryCheck":
        """Returns the check with limits, measured on images of the survey itself.

        Args:
            class_names: The K classes.
            answers: (N,).
            leads: Class → (N,) by how much its logit lies above all others, were the pixels of the size that is usual for it.
            rate: Share of the answers of a class that each limit may withdraw.
        """

        def limit(mine: Tensor) -> float:
            return max(LEAST_LEAD, float(torch.quantile(mine, 1 - rate)))

        limits = {}
        for k, name in enumerate(class_names):
            mine = answers == k
            if mine.sum() >= MIN_PER_CLASS:
                limits[name] = {
                    o: limit(lead[mine].double()) for o, lead in leads.items() if o != name
                }
        return GeometryCheck(n=self.n, scale=self.scale, limits=limits)

    def unusual_scale(self, class_names: Sequence[str], answers: Tensor, scales: Tensor) -> Tensor:
        """Returns (B,) bool: the scales (B,) are none that images with this answer (B,) have."""
        found = torch.zeros(len(answers), dtype=torch.bool)
        for name, usual in self.scale.items():
            mine = answers == class_names.index(name)
            found |= mine & ((scales < usual.low) | (scales > usual.high))
        return found

    def limits_of(self, class_names: Sequence[str], answers: Tensor, other: str) -> Tensor:
        """Returns (B,) by how much another class must lead to withdraw the answers (B,); infinite where it cannot."""
        never = float("inf")
        found = [self.limits.get(name, {}).get(other, never) for name in class_names]
        return torch.tensor(found, dtype=torch.float64)[answers]
