"""The same fit by tensors, for any device and without numba: damped steps, and what is left.

All images of a batch take the same number of steps, none of which depends on how another image fares; nothing asks for values, so that the
fit can be traced.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.fitting.composed.camera import Blur, FitCamera
from haloformer.fitting.composed.columns import physical, sharp_columns
from haloformer.fitting.composed.method import (
    DOUBLE_POISSON,
    Finished,
    FitImages,
    Method,
    with_nuisances,
)
from haloformer.fitting.composed.names import (
    A1C,
    E1,
    E2,
    FLUX,
    MOST_LENS,
    MOST_SOURCE,
    NAMES,
    SECONDS,
    SOURCE_E1,
    SOURCE_E2,
    SOURCE_X,
)
from haloformer.fitting.composed.problem import ComposedProblem
from haloformer.fitting.convergence import SETTLED
from haloformer.fitting.linear import damped_step
from haloformer.fitting.moments import noise_moments
from haloformer.simulation.components.multipoles import ORDERS


class TensorCamera:
    """Blurs and adds up light by products with band matrices."""

    def __init__(self, camera: FitCamera, device: torch.device) -> None:
        self.axis = torch.as_tensor(camera.image.axis, device=device)
        rays = camera.image.rays
        self.image = self._matrices(camera.image, device)
        self.columns = self._matrices(camera.columns, device)
        self.quick = [
            (down.repeat_interleave(rays, 1) / rays, across.repeat_interleave(rays, 0) / rays)
            for down, across in self._matrices(camera.quick, device)
        ]
        self.area = camera.pixel_scale**2

    @staticmethod
    def _matrices(blur: Blur, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        side, rays, last = blur.side, blur.rays, len(blur.axis) - 1
        found = []
        for pair in zip(blur.across, blur.down):
            both = []
            for weights in pair:
                matrix = np.zeros((side, last + 1), np.float32)
                for k, weight in enumerate(weights):
                    where = np.clip(np.arange(side) * rays - blur.radius + k, 0, last)
                    np.add.at(matrix, (np.arange(side), where), weight)
                both.append(torch.from_numpy(matrix).to(device))
            found.append((both[1], both[0].T.contiguous()))
        return found

    def observe(self, sharp: Tensor, blur: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns (B, C, N, N) counts/s per pixel of brightness (B, C, M, M), by one of the three kinds of blur."""
        total = blur[0][0] @ sharp @ blur[0][1]
        for down, across in blur[1:]:
            total = total + down @ sharp @ across
        scaled: Tensor = total * self.area
        return scaled

    def trace_back(self, pixels: Tensor) -> Tensor:
        """Returns (B, M, M) how much the brightness at each ray counts in a sum of pixels of the derivatives, with weights (B, N, N)."""
        total = self.columns[0][0].T @ pixels @ self.columns[0][1].T
        for down, across in self.columns[1:]:
            total = total + down.T @ pixels @ across.T
        scaled: Tensor = total * self.area
        return scaled


@dataclass
class _State:
    """The model at some parameters, and the normal equations of the next step; (B, …)."""

    u: Tensor
    mean: Tensor
    weight: Tensor
    hessian: Tensor
    score: Tensor
    chi2: Tensor

    def where(self, chosen: Tensor, other: "_State") -> "_State":
        """This state where chosen (B,), else the other."""
        picked = {
            name: torch.where(chosen.reshape(-1, *[1] * (mine.ndim - 1)), mine, getattr(other, name))
            for name, mine in vars(self).items()
        }  # fmt: skip
        return _State(**picked)


class _Fit:
    """Steps of one problem on one kind of images."""

    def __init__(self, problem: ComposedProblem, images: FitImages, device: torch.device) -> None:
        self.problem, self.images = problem, images
        self.camera = TensorCamera(images.camera, device)
        self.free = torch.from_numpy(problem.free).to(device)
        self.wanted = [int(k) for k in problem.free if k != SECONDS]
        self.timed = SECONDS in problem.free
        prior = torch.from_numpy(problem.prior).to(device)
        self.mean, self.inverse, self.low, self.high, self.limits = prior
        self.multipoles = any(A1C <= k < SOURCE_X for k in problem.free)

    def penalty(self, u: Tensor) -> Tensor:
        """Returns (B,) what the priors add to χ²."""
        off = (u - self.mean)[:, self.free]
        found: Tensor = (self.inverse[self.free] * off**2).sum(1)
        return found

    def cost(self, state: _State) -> Tensor:
        """Returns (B,) −2 ln of the posterior but for a constant; without the variances a model could win by claiming more noise."""
        weight = torch.where(state.weight > 0, state.weight, 1.0).double()
        found: Tensor = state.chi2 + self.penalty(state.u) - weight.log().sum((1, 2))
        return found

    def moments(self, base: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor | float, Tensor | None]:  # fmt: skip
        """Returns mean, variance with its factor, ∂mean/∂base and ∂mean/∂ln(exposure) of images (B, N, N)."""
        images, problem = self.images, self.problem
        kind, background, sky, least, factor, only = images.noise(problem)
        seconds = images.seconds * (u[:, SECONDS].exp() if self.timed else 1.0)
        seconds = seconds.to(base.dtype)[:, None, None]
        base = base + sky
        if kind == DOUBLE_POISSON:
            found = noise_moments("double_poisson", base, seconds, background**0.5)
            return found.mean, found.variance * factor, found.by_base, found.by_log_time
        own = 0.0 if only else background + base.clamp(min=0) / seconds
        return base, (own + images.extra).clamp(min=least) * factor, 1.0, None

    def arrive(self, u: Tensor, weight: Tensor | None) -> tuple[_State, Tensor]:
        """Renders at ``u`` (B, 22); returns the state there, and χ² (B,) with the weights before.

        Without those they are of a flux that makes the model's light the image's.
        """
        images, problem, camera = self.images, self.problem, self.camera
        sharp = sharp_columns(physical(u), self.wanted, camera.axis)
        image = camera.observe(sharp[:, :1], camera.image)[:, 0]
        scale = torch.ones_like(image[:, :1, :1])
        if problem.linear:
            if weight is None:
                image, u, scale = self._rescaled(image, u, images.known)
                weight = images.known / self.moments(image, u)[1]
            image, u, again = self._rescaled(image, u, weight)
            scale = scale * again
        mean, variance, growth, by_time = self.moments(image, u)
        new = images.known / variance
        # The slope is that of good derivatives, by one image that is traced back to the rays; how far a step goes, of quick ones.
        off = images.data - mean
        growth = growth * scale
        back = camera.trace_back(growth * new * off)
        slopes = [(sharp[:, 1:].flatten(2) @ back.flatten(1)[:, :, None])[:, :, 0].double()]
        columns = camera.observe(sharp[:, 1:], camera.quick)
        rows = [columns[:, k] * growth for k in range(len(self.wanted))]
        if self.timed:
            assert by_time is not None  # the exposure is fitted to counts
            rows.append(by_time)
            slopes.append((by_time * new * off).sum((1, 2), dtype=torch.float64)[:, None])
        root = new.sqrt()
        jacobian = (torch.stack(rows, 1) * root[:, None]).flatten(2)
        hessian = (jacobian @ jacobian.transpose(1, 2)).double()
        distance = (u - self.mean)[:, self.free]
        inverse = self.inverse[self.free]
        score = torch.cat(slopes, 1) - inverse * distance
        chi2 = (new * off * off).double().sum((1, 2))
        state = _State(u, mean, new, hessian + torch.diag(inverse), score, chi2)
        before = chi2
        if weight is not None:
            before = (weight * off**2).double().sum((1, 2))
        return state, before

    def _rescaled(self, image: Tensor, u: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Multiplies images (B, N, N) by the factor that fits the data best, within bounds; returns it last, (B, 1, 1)."""
        sky = self.images.noise(self.problem)[2]
        there = (weight * image * image).double().sum((1, 2)).clamp(min=1e-30)
        factor = (weight * image * (self.images.data - sky)).double().sum((1, 2)) / there
        low, high = (each[FLUX] - u[:, FLUX] for each in (self.low, self.high))
        factor = factor.clamp(min=1e-26).log()
        factor = torch.minimum(torch.maximum(factor, low), high)
        scale = factor.exp().to(image.dtype)[:, None, None]
        change = F.one_hot(torch.tensor(FLUX, device=u.device), len(NAMES)).to(u.dtype)
        return image * scale, u + factor[:, None] * change, scale

    def bounded(self, u: Tensor) -> Tensor:
        """Brings parameters within their bounds, and ellipticities within those of an ellipse."""
        columns, prior = list(u.unbind(1)), self.problem.prior
        for k in self.problem.free.tolist():
            columns[k] = columns[k].clamp(float(prior[2, k]), float(prior[3, k]))
        for first, second, most in ((E1, E2, MOST_LENS), (SOURCE_E1, SOURCE_E2, MOST_SOURCE)):
            size = torch.sqrt(columns[first] ** 2 + columns[second] ** 2)
            shorter = most / size.clamp(min=most)
            columns[first], columns[second] = columns[first] * shorter, columns[second] * shorter
        return torch.stack(columns, 1)

    def turned(self, u: Tensor, angle: Tensor) -> Tensor:
        """Gives the multipoles of (B, 22) in frames that are turned by ``angle`` (B,)."""
        columns = list(u.unbind(1))
        for number, m in enumerate(ORDERS):
            k = A1C + 2 * number
            cos, sin = (m * angle).cos(), (m * angle).sin()
            columns[k], columns[k + 1] = (
                cos * columns[k] + sin * columns[k + 1],
                cos * columns[k + 1] - sin * columns[k],
            )
        return torch.stack(columns, 1)

    def run(self, u: Tensor, steps: int) -> _State:
        """Takes steps from ``u`` (B, 22)."""
        u = self.bounded(u)
        state, _ = self.arrive(u, None)
        damping = torch.full_like(u[:, 0], 1e-3)
        moving = torch.ones_like(damping, dtype=torch.bool)
        place = F.one_hot(self.free, len(NAMES)).to(u.dtype)
        low, high, limits = self.low[self.free], self.high[self.free], self.limits[self.free]
        for _ in range(steps):
            at = state.u[:, self.free]
            held = ((at <= low) & (state.score < 0)) | ((at >= high) & (state.score > 0))
            score = torch.where(held, 0.0, state.score)
            both = held[:, :, None] | held[:, None, :]
            hessian = torch.where(both, 0.0, state.hessian) + torch.diag_embed(held.double())
            step = damped_step(hessian, score, damping)
            moving = moving & ((step * score).sum(1) > SETTLED**2)
            shrink = (step.abs() / limits).amax(1, keepdim=True).clamp(min=1.0)
            trial = self.bounded(state.u + (step / shrink) @ place)
            here = state.u
            if self.multipoles:
                angle = 0.5 * (
                    torch.atan2(trial[:, E2], trial[:, E1]) - torch.atan2(here[:, E2], here[:, E1])
                )
                trial, here = self.turned(trial, angle), self.turned(here, angle)
            proposed, chi2 = self.arrive(trial, state.weight)
            after = chi2 + self.penalty(proposed.u)
            better = moving & (after < state.chi2 + self.penalty(here))
            state = proposed.where(better, state)
            damping = torch.where(better, damping / 10, damping * 10).clamp(1e-7, 1e7)
        return state


def _fit(
    problem: ComposedProblem, images: FitImages, starts: Tensor, steps: int, first_steps: int
) -> tuple[Tensor, Tensor]:
    fit = _Fit(problem, images, starts.device)
    ends = [fit.run(start, first_steps) for start in starts.double().unbind(1)]
    cost = torch.stack([fit.cost(end) for end in ends], 1)
    best = cost.argmin(1)
    u = torch.stack([end.u for end in ends], 1)
    u = u.gather(1, best[:, None, None].expand(-1, 1, u.shape[2]))[:, 0]
    if steps > first_steps:
        end = fit.run(u, steps - first_steps)
        u, cost = end.u, cost.scatter(1, best[:, None], fit.cost(end)[:, None])
    return u, cost


def _finish(problem: ComposedProblem, images: FitImages, u: Tensor, detail: bool) -> Finished:
    fit = _Fit(problem, images, u.device)
    numbers, nuisance, prior = with_nuisances(problem)
    if not detail:
        numbers = torch.from_numpy(problem.free)
        nuisance = torch.zeros(len(numbers), dtype=torch.bool)
    wanted = [int(k) for k in numbers if k != SECONDS]
    u = u.double()
    camera = fit.camera
    sharp = sharp_columns(physical(u), wanted, camera.axis)
    image = camera.observe(sharp[:, :1], camera.image)[:, 0]
    columns = camera.observe(sharp[:, 1:], camera.columns)
    mean, variance, growth, by_time = fit.moments(image, u)
    rows = [columns[:, k] * growth for k in range(len(wanted))]
    if fit.timed:
        assert by_time is not None  # the exposure is fitted to counts
        rows.append(by_time)
    root = images.known / variance.sqrt()
    patterns = torch.stack(rows, 1) * root[:, None]
    left = (images.data - mean) * root
    jacobian = patterns.flatten(2)
    sums = (jacobian @ jacobian.transpose(1, 2)).double()
    score = (jacobian @ left.flatten(1)[:, :, None])[:, :, 0].double()
    prior, numbers = prior.to(u.device), numbers.to(u.device)
    inverse = prior[1, numbers]
    mine = ~nuisance.to(u.device)
    fitted = [k for k, other in enumerate(nuisance.tolist()) if not other]
    off = torch.where(mine, (u - prior[0])[:, numbers], 0.0)
    right = score - inverse * off
    rootf = images.factor**0.5
    residual, fine = left * rootf, None
    if detail:
        matrix = sums + torch.diag(inverse)
        amounts = damped_step(matrix, right, torch.full_like(right[:, 0], 1e-6))
        fine = residual - rootf * (amounts[:, None].to(jacobian.dtype) @ jacobian).reshape(
            left.shape
        )
    hessian = sums[:, fitted][:, :, fitted] + torch.diag(inverse[fitted])
    middle = hessian
    if problem.correlation > 0:
        like = _correlated(patterns[:, fitted], problem.correlation).flatten(2)
        middle = (like @ like.transpose(1, 2)).double() / images.factor + torch.diag(
            inverse[fitted]
        )
    return Finished(
        mean, variance / images.factor, residual, fine, hessian, middle, right[:, fitted]
    )


def _correlated(patterns: Tensor, a: float) -> Tensor:
    """Filters patterns (B, P, N, N) by (a, 1, a)/√(1 + 2a²) along both axes."""
    norm = math.sqrt(1 + 2 * a * a)
    taps = torch.tensor([a, 1.0, a], device=patterns.device, dtype=patterns.dtype) / norm
    flat = patterns.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, taps[None, None, None, :], padding=(0, 1))
    flat = F.conv2d(flat, taps[None, None, :, None], padding=(1, 0))
    return flat[:, 0].reshape(patterns.shape)


def _render(problem: ComposedProblem, u: Tensor, camera: FitCamera) -> Tensor:
    made = TensorCamera(camera, u.device)
    parts = [
        made.observe(sharp_columns(physical(part.double()), [], made.axis), made.image)[:, 0]
        for part in u.split(256)
    ]
    return torch.cat(parts)


BY_TENSORS = Method(_fit, _finish, _render)
