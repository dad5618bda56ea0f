"""Where fits of a composed survey begin: the draws whose images are most like the data, on coarse pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.fitting.composed.names import FLUX


@dataclass(frozen=True)
class Templates:
    """n images drawn from a survey, with which those to be fitted are compared.

    Attributes:
        shapes: (n, pixels) roots of the images on pixels twice as large again, each of length 1.
        light: (n,) their sums in counts/s.
        u: (n, 22) float64 their parameters, as they are fitted.
    """

    shapes: Tensor
    light: Tensor
    u: Tensor

    @classmethod
    def of(cls, images: Tensor, u: Tensor) -> "Templates":
        """Takes images (n, N, N) on coarse pixels, in counts/s, and their parameters (n, 22)."""
        rooted = _shapes(images)
        length = rooted.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return cls(rooted / length, images.double().sum((1, 2)).clamp(min=1e-30), u)

    def nearest(
        self, images: Tensor, count: int, moves: tuple[tuple[int, int], ...] = ((0, 0),)
    ) -> tuple[Tensor, Tensor]:
        """Returns the draws most like each image, best first.

        Args:
            images: (B, N, N) on coarse pixels; 0 where they are not known.
            count: K, how many draws are wanted.
            moves: By how many pixels of ``shapes``, rows and columns, the images may have been moved.

        Returns:
            (B, K, 22) float64 what is fitted, with the light of the images, as if they were in counts/s, but without regard to the
            moves; and (B, K, 2) the moves in coarse pixels, rows and columns.
        """
        alike = torch.cat([
            _shapes(images.roll((-2 * y, -2 * x), (1, 2))) @ self.shapes.T for y, x in moves
        ], 1)  # fmt: skip
        best = alike.topk(count, dim=1).indices
        n = len(self.u)
        draw, move = best % n, torch.div(best, n, rounding_mode="floor")
        found = self.u[draw].clone()
        light = images.double().sum((1, 2)).clamp(min=1e-30)[:, None]
        found[:, :, FLUX] += torch.log(light / self.light[draw])
        return found, 2 * torch.tensor(moves, device=images.device)[move]


def _shapes(images: Tensor) -> Tensor:
    """Roots (n, pixels) of images on pixels twice as large: they tame the brightest, as their noise does."""
    return F.avg_pool2d(images.clamp(min=0)[:, None], 2)[:, 0].sqrt().flatten(1)
