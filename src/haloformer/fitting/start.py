"""Where a fit begins: the draw of the survey whose image is most like the data."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.fitting.model import SmoothModel
from haloformer.fitting.moments import noise_moments
from haloformer.fitting.problem import BRIGHTNESS, FitProblem

_RENDERED_AT_ONCE = 64

_BIN = 2  # pixels a side

_MOVES = tuple((y, x) for y in (0, -1, 1) for x in (0, -1, 1))
"""Bins by which images are moved to look like a draw, if a lens may be elsewhere; none first."""


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

    def nearest(self, data: Tensor, known: Tensor) -> Tensor:
        """Returns (B, P) the draw most like each image (B, H, W), its brightness fitted."""
        light = torch.where(known, data, 0.0)
        # The root tames the brightest pixels, as their noise does.
        rooted = _binned(light.clamp(min=0).sqrt())
        moves = _MOVES if self.problem.free_place else _MOVES[:1]
        likeness = torch.stack(
            [rooted.roll(move, (1, 2)).flatten(1) @ self.shapes.T for move in moves], 1
        )
        highest, nearest = likeness.max(2)
        move = highest.argmax(1)
        best = nearest.gather(1, move[:, None])[:, 0]
        start = self.u[best].clone()
        moved = -_BIN * torch.tensor(moves, device=start.device, dtype=start.dtype)[move]
        for k, name in ((1, "place_x"), (0, "place_y")):
            if name in self.problem.names:
                start[:, self.problem.names.index(name)] = moved[:, k]
        ratio = torch.log((light.sum((1, 2)) / self.light[best]).clamp(min=1e-6))
        for name in BRIGHTNESS:
            if name in self.problem.names:
                start[:, self.problem.names.index(name)] += ratio
                break
        return torch.minimum(
            torch.maximum(start, self.problem.low + 1e-3), self.problem.high - 1e-3
        )


def _binned(images: Tensor) -> Tensor:
    """Means of 2×2 pixels: enough to find where to begin."""
    return F.avg_pool2d(images[:, None], _BIN, ceil_mode=True)[:, 0]
