"""Images that were scaled before they were released, brought back to counts/s: by the brightness that their survey's sources have.

A lens keeps surface brightness, so that what the best smooth lens says of a source's flux says by how much an image was divided; its noise
is known then, too. Where a minimum was subtracted, the sky beside the arcs says how much that was.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.fitting.composed.method import Finished, FitImages
from haloformer.fitting.composed.names import FLUX
from haloformer.fitting.composed.problem import ComposedProblem

_MOST = 4.0  # times as bright as thought an image is at most found to be, in one correction


@dataclass(frozen=True)
class Unscaling:
    """How B scaled images become counts/s: ``factor`` · image + ``level``.

    Attributes:
        factor: (B,) in counts/s.
        level: (B,) in counts/s, of what is 0 in a scaled image.
    """

    factor: Tensor
    level: Tensor

    @classmethod
    def of_peak(cls, images: Tensor, peak: float, scaling: str) -> "Unscaling":
        """Returns a first guess for images (B, 1, N, N): their brightest pixel has ``peak`` counts/s, and if they reach from their minimum their darkest none."""
        known = torch.isfinite(images)
        high = torch.where(known, images, -torch.inf).flatten(1).amax(1).clamp(min=-1e15)
        low = torch.where(known, images, torch.inf).flatten(1).amin(1).clamp(max=1e15)
        if scaling != "min_max":
            low = torch.zeros_like(low)
        factor = (peak / (high - low).clamp(min=1e-12)).float()
        return cls(factor, -low.float() * factor)

    def counts(self, images: Tensor) -> Tensor:
        """Returns images (B, 1, N, N) in counts/s."""
        return images.float() * wide(self.factor) + wide(self.level)

    def scaled(self, counts: Tensor) -> Tensor:
        """Returns images (B, 1, N, N) of counts/s as they were scaled."""
        return (counts - wide(self.level)) / wide(self.factor)

    def corrected(
        self, problem: ComposedProblem, images: FitImages, u: Tensor, found: Finished
    ) -> "Unscaling":
        """Returns what the fit of the images makes of it.

        Args:
            problem: The fit.
            images: What was fitted: this one's counts/s.
            u: (B, 22) the best smooth lenses.
            found: What the fit has found there.
        """
        sky = problem.survey.instrument.sky or 0.0
        brighter = torch.exp(u[:, FLUX] - problem.log_flux).float()[:, None, None]
        light = (found.mean - sky) / brighter  # as bright as the survey's
        weight = images.known / found.variance

        def mean(values: Tensor) -> Tensor:
            return (weight * values).double().sum((1, 2)) / weight.double().sum((1, 2)).clamp(min=1e-30)  # fmt: skip

        one, level = mean(light), mean(images.data)
        spread = mean(light.square()) - one.square()
        times = (mean(light * images.data) - one * level) / spread.clamp(min=1e-30)
        times = torch.nan_to_num(times, nan=1.0).clamp(1 / _MOST, _MOST)
        level = level - times * (one + sky)
        if problem.scaling != "min_max":  # only divided
            level = torch.zeros_like(level)
        times, level = times.to(self.factor), torch.nan_to_num(level).to(self.level)
        return Unscaling(self.factor / times, (self.level - level) / times)


def wide(values: Tensor) -> Tensor:
    """Returns numbers (B,) as factors of images, (B, 1, 1, 1)."""
    return values[:, None, None, None]
