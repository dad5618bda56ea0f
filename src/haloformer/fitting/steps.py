"""Damped Gauss–Newton steps by tensor operations, on any device, and in a graph that ``torch.export`` can follow."""

from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.fitting.convergence import SETTLED
from haloformer.fitting.linear import damped_step
from haloformer.fitting.model import SmoothModel


@dataclass
class FitState:
    """The model at the parameters of a step, and the normal equations of the next; all (B, …)."""

    mean: Tensor
    inverse_variance: Tensor
    residual: Tensor
    hessian: Tensor
    gradient: Tensor
    chi2: Tensor

    @property
    def sigma(self) -> Tensor:
        """(B, H, W) standard deviation of the noise."""
        return self.inverse_variance.clamp(min=1e-30).rsqrt()

    def fits_better_than(self, other: "FitState") -> Tensor:
        """Whether χ² is no more (B,), with the other's weights: else a model could lower its χ² by claiming more noise.

        The sum of the differences keeps digits that the difference of the sums, in float32, has lost.
        """
        change = (self.residual - other.residual) * (self.residual + other.residual)
        return (change * other.inverse_variance).sum((1, 2)) <= 0

    def replace(self, rows: Tensor, other: "FitState", chosen: Tensor) -> None:
        """Puts the chosen images (b,) of another state, a mask or numbers, in the place of these rows."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(other, name)[chosen]

    def where(self, chosen: Tensor, other: "FitState") -> "FitState":
        """This state where chosen (B,), else the other."""

        def pick(name: str) -> Tensor:
            mine = getattr(self, name)
            return torch.where(
                chosen.reshape(-1, *[1] * (mine.ndim - 1)), mine, getattr(other, name)
            )

        return FitState(**{name: pick(name) for name in self.__dataclass_fields__})


def linearized(
    model: SmoothModel, u: Tensor, data: Tensor, known: Tensor, seconds: Tensor
) -> FitState:
    """Returns the expected images, their noise, and the normal equations of a step, at u (B, P)."""
    found = model.derivatives(u, seconds)
    moments = found.moments
    jacobian = torch.stack(found.by_parameter, 1).flatten(2)  # (B, P, H·W)
    inverse_variance = model.seen(model.problem.physical(u)[0], known) / moments.variance
    weighted = jacobian * inverse_variance.flatten(1)[:, None, :]
    residual = data - moments.mean
    return FitState(
        mean=moments.mean,
        inverse_variance=inverse_variance,
        residual=residual,
        hessian=weighted @ jacobian.transpose(1, 2),
        gradient=(weighted @ residual.flatten(1)[:, :, None])[:, :, 0],
        chi2=(residual.square() * inverse_variance).sum((1, 2)),
    )


def fit_by_tensors(
    model: SmoothModel, start: Tensor, data: Tensor, known: Tensor, seconds: Tensor, steps: int
) -> tuple[Tensor, FitState]:
    """Fits images by a fixed number of steps, none of which depends on how another image fares.

    Args:
        model: The model.
        start: (B, P) where to begin.
        data: (B, H, W) finite.
        known: (B, H, W) bool: pixels that count.
        seconds: (B,) of one exposure.
        steps: Number of steps.

    Returns:
        (B, P) float32 where the fit ended, and the model there.
    """
    # The parameters in float64, as in the kernel: a coordinate's rounding in float32 is no longer small beside its error.
    u, problem = start.double(), model.problem
    low, high, limits = problem.low.double(), problem.high.double(), problem.limits.double()
    # Not len(), which would make the batch size of a trace that of every batch.
    damping = torch.full((data.shape[0],), 1e-3, device=data.device, dtype=u.dtype)
    moving = torch.ones(data.shape[0], dtype=torch.bool, device=data.device)
    state = linearized(model, u, data, known, seconds)
    for _ in range(steps):
        step = damped_step(state.hessian, state.gradient, damping)
        moving = moving & ((step * state.gradient).sum(1) > SETTLED**2)
        # One factor for all components, so that a long step keeps its direction.
        shrink = (step.abs() / limits).amax(1, keepdim=True).clamp(min=1.0)
        trial = (u + step / shrink).clamp(low, high)
        proposed = linearized(model, trial, data, known, seconds)
        better = moving & proposed.fits_better_than(state)
        u = torch.where(better[:, None], trial, u)
        state = proposed.where(better, state)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-6, 1e6)
    return u.float(), state
