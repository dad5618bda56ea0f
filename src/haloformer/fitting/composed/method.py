"""What the two implementations of the fit share: images with all that belongs to them, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.fitting.composed.camera import FitCamera
from haloformer.fitting.composed.problem import ComposedProblem

GAUSSIAN, DOUBLE_POISSON = 0, 1
LEAST_VARIANCE = 1e-12  # (counts/s)² per pixel


@dataclass(frozen=True)
class FitImages:
    """B images to be fitted, as one camera shows them.

    Attributes:
        data: (B, N, N) float32, finite.
        known: (B, N, N) float32: 0 where a pixel does not count, else 1.
        extra: (B or 1, N, N) float32 variance beside that of background and photons, in (counts/s)².
        extra_only: Whether that is all of the variance: a noise map.
        seconds: (B,) float64 total exposure where it is not fitted, else the number of exposures.
        camera: The camera.
        factor: Of all variances.
    """

    data: Tensor
    known: Tensor
    extra: Tensor
    extra_only: bool
    seconds: Tensor
    camera: FitCamera
    factor: float

    def some(self, rows: Tensor | slice) -> "FitImages":
        """Returns some of the images."""
        extra = self.extra if len(self.extra) == 1 else self.extra[rows]
        return FitImages(
            self.data[rows], self.known[rows], extra, self.extra_only, self.seconds[rows], self.camera, self.factor
        )  # fmt: skip

    def noise(self, problem: ComposedProblem) -> tuple[float, ...]:
        """Kind of noise, variance of the background, sky, least variance, factor of all variances, and whether ``extra`` is all."""
        kind = DOUBLE_POISSON if problem.noise == "double_poisson" else GAUSSIAN
        sky = problem.survey.instrument.sky or 0.0
        return (
            float(kind), problem.background, sky, LEAST_VARIANCE, self.factor, float(self.extra_only)
        )  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """What a fit has found, (B, …).

    Attributes:
        mean: (B, N, N) expected images.
        variance: (B, N, N) of the noise.
        residual: (B, N, N) in standard deviations.
        detail: (B, N, N) what is left of it; None if not wanted.
        hessian: (B, P, P) float64 Fisher information, with the priors.
        middle: (B, P, P) float64 variance of the score.
        score: (B, P) float64.
    """

    mean: Tensor
    variance: Tensor
    residual: Tensor
    detail: Tensor | None
    hessian: Tensor
    middle: Tensor
    score: Tensor


@dataclass(frozen=True)
class Method:
    """An implementation: on a CPU with numba, or by tensors.

    Attributes:
        fit: (problem, images, starts (B, K, 22), steps, first steps) → (B, 22) and (B, K) −2 ln of the posterior.
        finish: (problem, images, (B, 22), whether the detail is wanted) → what was found.
        render: (problem, (n, 22), camera) → images (n, N, N) in counts/s per pixel.
    """

    fit: Callable[[ComposedProblem, FitImages, Tensor, int, int], tuple[Tensor, Tensor]]
    finish: Callable[[ComposedProblem, FitImages, Tensor, bool], Finished]
    render: Callable[[ComposedProblem, Tensor, FitCamera], Tensor]


def with_nuisances(problem: ComposedProblem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns numbers (Q,) of all that the detail takes out, which of them (Q,) are not fitted, and the priors (5, 22) with theirs."""
    from haloformer.fitting.composed.names import LENS

    fitted = {int(k) for k in problem.free}
    numbers = sorted(fitted | set(LENS))
    prior = problem.prior.copy()
    for k in LENS:
        if k not in fitted:
            prior[1, k] = problem.loose[k]
    nuisance = [k not in fitted for k in numbers]
    return torch.tensor(numbers), torch.tensor(nuisance), torch.from_numpy(prior)
