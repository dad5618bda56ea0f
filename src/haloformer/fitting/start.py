"""Where a fit begins: the draw of the survey whose image is most like the data."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.fitting.model import SmoothModel
from haloformer.fitting.moments import noise_moments
from haloformer.fitting.problem import BRIGHTNESS, SOUGHT, FitProblem

_RENDERED_AT_ONCE = 64

_BIN = 2  # pixels a side

_NEAR, _FAR = (
    tuple((y, x) for y in range(-far, far + 1) for x in range(-far, far + 1)) for far in (1, SOUGHT)
)
"""Rows and columns by which a lens may be away from where the survey has it."""


@dataclass(frozen=True)
class StartingPoints:
    """n images drawn from a survey, with which those to be fitted are compared.

    Attributes:
        problem: Of the fit.
        shapes: (n, pixels) their binned roots, each of length 1.
        light: (n,) their sums.
        u: (n, P) their parameters, as they are fitted.
    """

    problem: FitProblem
    shapes: Tensor
    light: Tensor
    u: Tensor

    @classmethod
    def of(cls, model: SmoothModel) -> "StartingPoints":
        """Renders the draws of a model's survey."""
        problem, device = model.problem, model.problem.axis.device
        columns = [
            torch.as_tensor(problem.draws[name], dtype=torch.float32) for name in problem.names
        ]
        values = torch.stack(columns, 1).to(device)
        seconds = problem.total_seconds(values, problem.seconds(len(values), None, device))
        n = 1 if not problem.names else len(values)
        images = torch.cat([
            noise_moments(problem.noise, model.render(part), t, problem.rms).mean
            for part, t in zip(
                values[:n].split(_RENDERED_AT_ONCE), seconds[:n].split(_RENDERED_AT_ONCE)
            )
        ])  # fmt: skip
        rooted = _binned(images.sqrt()).flatten(1)
        positive = problem.logarithmic(device)
        return cls(
            problem,
            shapes=rooted / rooted.norm(dim=1, keepdim=True).clamp(min=1e-30),
            light=images.sum((1, 2)).clamp(min=1e-30),
            u=torch.where(positive, torch.where(positive, values, 1.0).log(), values),
        )

    def nearest(self, data: Tensor, known: Tensor, far: bool = False) -> Tensor:
        """Returns (B, P) the draw most like each image (B, H, W), its brightness fitted, and its place to a pixel if that is free.

        Places at most a pixel from the survey's are tried, and with ``far`` at most four. In steps of one pixel: half a ring is like the
        other half at a place two pixels away, and that is why the far ones are another place to begin, and not the first.
        """
        light = torch.where(known, data, 0.0)
        # The root tames the brightest pixels, as their noise does.
        rooted = light.clamp(min=0).sqrt()
        moves = (_FAR if far else _NEAR) if self.problem.free_place else ((0, 0),)
        best, place = self._best_of(rooted, moves)
        start = self.u[best].clone()
        ratio = torch.log((light.sum((1, 2)) / self.light[best]).clamp(min=1e-6))
        for name in BRIGHTNESS:
            if name in self.problem.names:
                start[:, self.problem.names.index(name)] += ratio
                break
        for axis, name in ((1, "place_x"), (0, "place_y")):
            if name in self.problem.names:
                start[:, self.problem.names.index(name)] = place[:, axis].to(start.dtype)
        return torch.minimum(
            torch.maximum(start, self.problem.low + 1e-3), self.problem.high - 1e-3
        )

    def _best_of(self, rooted: Tensor, moves: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        """Returns (B,) the most alike draws, and (B, 2) the rows and columns by which images are moved then."""
        # Moved by whole bins after binning, so that there are four ways of binning alone.
        odd = {(y % _BIN, x % _BIN) for y, x in moves}
        binned = {(y, x): _binned(rooted.roll((-y, -x), (1, 2))) for y, x in odd}
        highest, nearest = torch.stack(
            [
                binned[y % _BIN, x % _BIN].roll((-(y // _BIN), -(x // _BIN)), (1, 2)).flatten(1)
                @ self.shapes.T
                for y, x in moves
            ],
            1,
        ).max(2)
        first = highest.argmax(1)
        found = nearest.gather(1, first[:, None])[:, 0]
        return found, torch.tensor(moves, device=rooted.device)[first]


def _binned(images: Tensor) -> Tensor:
    """Means of 2×2 pixels: enough to find where to begin."""
    return F.avg_pool2d(images[:, None], _BIN, ceil_mode=True)[:, 0]
