"""Does an answer hold although an image's geometry may be a little other than its survey's?

Substructure widens the ring by a few per cent, and so do pixels that are smaller by as much. So of each image the pixel scale is fitted, too,
as if the lens were smooth, and three questions are asked, all calibrated on images of the survey itself:

- Is the scale usual *for this answer*?
- Would another class be the answer, were the pixels of the size that makes the scale usual for that class? It is asked about those classes
  alone of which an image of the survey hardly ever says so.
- Does the image fit better mirrored, or turned by 90 degrees? The lenses of a survey may all have the same orientation.

And a lens that is farther than `FAR` from where the survey has it is none that was looked for.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from haloformer.errors import InputError
from haloformer.validation import Strict, validated

FAR = 4.0
"""Pixels along either axis: a lens farther away is not looked for."""

FORGONE_RATE = 0.1
"""Share of the answers of a class, on images of the survey itself, that a question may withdraw; one that withdraws more is not asked."""

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


class GeometryCheck(Strict, extra="ignore"):
    """What is usual of a survey's images.

    Attributes:
        n: Images that it was made of.
        scale: Class → its usual scale; a class that is missing was hardly ever the answer.
        asked: Class → classes about which images with this answer are asked.
    """

    n: int = Field(ge=1)
    scale: dict[str, UsualScale]
    asked: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, values: object, class_names: tuple[str, ...], where: str) -> "GeometryCheck":
        """Makes one of what ``artefact.json`` holds; raises InputError for what cannot be one."""
        found = validated(cls, values, where)
        named = {
            *found.scale,
            *found.asked,
            *(name for names in found.asked.values() for name in names),
        }
        if not named <= {*class_names} or not {
            n for names in found.asked.values() for n in names
        } <= {*found.scale}:
            raise InputError(f"{where}: scale and asked must be of classes of the model")
        return found

    @classmethod
    def of(cls, class_names: tuple[str, ...], answers: Tensor, scales: Tensor) -> "GeometryCheck":
        """Returns a check that asks about everything, of answers (N,) and scales (N,) for images of the survey itself."""
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
        asked = {
            name: tuple(other for other in class_names if other != name and other in usual)
            for name in class_names
        }
        return cls(n=len(answers), scale=usual, asked=asked)

    def without_costly(
        self, class_names: tuple[str, ...], answers: Tensor, others: dict[str, Tensor]
    ) -> "GeometryCheck":
        """Returns the check without the questions that withdraw too many answers for images of the survey itself.

        Args:
            class_names: The K classes.
            answers: (N,).
            others: Class → (N,) bool: it would be the answer, were the pixels of the size that is usual for it.
        """

        def is_cheap(name: str, other: str) -> bool:
            mine = answers == class_names.index(name)
            return bool(mine.any()) and float(others[other][mine].double().mean()) <= FORGONE_RATE

        asked = {
            name: tuple(other for other in names if is_cheap(name, other))
            for name, names in self.asked.items()
        }
        return GeometryCheck(n=self.n, scale=self.scale, asked=asked)

    def unusual_scale(self, class_names: Sequence[str], answers: Tensor, scales: Tensor) -> Tensor:
        """Returns (B,) bool: the scales (B,) are none that images with this answer (B,) have."""
        found = torch.zeros(len(answers), dtype=torch.bool)
        for name, usual in self.scale.items():
            mine = answers == class_names.index(name)
            found |= mine & ((scales < usual.low) | (scales > usual.high))
        return found
