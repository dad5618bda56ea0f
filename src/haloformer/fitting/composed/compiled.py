"""The fit by compiled kernels, on a CPU: images are shared among threads, a few at a time."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from haloformer.fitting.composed.camera import FitCamera
from haloformer.fitting.composed.method import Finished, FitImages, Method, with_nuisances
from haloformer.fitting.composed.names import FLUX, SECONDS
from haloformer.fitting.composed.problem import ComposedProblem

_IMAGES_PER_JOB = 4  # of one thread
_RENDERED_AT_ONCE = 256


def _fit(
    problem: ComposedProblem, images: FitImages, starts: Tensor, steps: int, first_steps: int
) -> tuple[Tensor, Tensor]:
    from haloformer.fitting.composed import fit_kernel

    begin, free = np.ascontiguousarray(starts.double().numpy()), problem.free
    n, count, numbers = begin.shape
    u, cost = np.empty((n, numbers)), np.empty((n, count))
    data, known, extra, seconds = _arrays(images)
    noise, camera = np.array(images.noise(problem)), images.camera.arguments
    wanted = free[free != SECONDS]

    def work(part: slice) -> None:
        more = extra if len(extra) == 1 else extra[part]
        fit_kernel.fit_images(
            data[part], known[part], more, begin[part], free, wanted, seconds[part], camera, noise, problem.prior, problem.linear,
            steps, u[part], cost[part], first_steps,
        )  # fmt: skip

    _in_threads(work, n)
    return torch.from_numpy(u), torch.from_numpy(cost)


def _finish(
    problem: ComposedProblem, images: FitImages, u: Tensor, detail: bool
) -> Finished:  # fmt: skip
    from haloformer.fitting.composed import fit_kernel

    free, prior = problem.free, problem.prior
    nuisance = np.zeros(len(free), bool)
    if detail:
        free, nuisance, prior = (each.numpy() for each in with_nuisances(problem))
    place, count = u.double().numpy(), len(problem.free)
    data, known, extra, seconds = _arrays(images)
    n, side = data.shape[:2]
    mean, variance, residual = (np.empty((n, side, side), np.float32) for _ in range(3))
    fine = np.empty((n, side, side) if detail else (n, 0, 0), np.float32)
    hessian, middle = np.empty((n, count, count)), np.empty((n, count, count))
    score = np.empty((n, count))
    noise, camera = np.array(images.noise(problem)), images.camera.arguments
    wanted = free[free != SECONDS]

    def work(part: slice) -> None:
        more = extra if len(extra) == 1 else extra[part]
        fit_kernel.finish_images(
            data[part], known[part], more, place[part], free, wanted, seconds[part], camera, noise, prior, nuisance,
            problem.correlation, mean[part], variance[part], residual[part], fine[part], hessian[part], middle[part], score[part],
        )  # fmt: skip

    _in_threads(work, n)
    return Finished(
        mean=torch.from_numpy(mean),
        variance=torch.from_numpy(variance),
        residual=torch.from_numpy(residual),
        detail=torch.from_numpy(fine) if detail else None,
        hessian=torch.from_numpy(hessian),
        middle=torch.from_numpy(middle),
        score=torch.from_numpy(score),
    )


def _render(problem: ComposedProblem, u: Tensor, camera: FitCamera) -> Tensor:
    parts = []
    for part in u.split(_RENDERED_AT_ONCE):
        nothing = torch.zeros(len(part), camera.side, camera.side)
        images = FitImages(
            nothing, nothing + 1, nothing[:1], False, torch.ones(len(part)).double(), camera, 1.0
        )
        parts.append(_finish(_plain(problem), images, part, False).mean)
    return torch.cat(parts)


def _plain(problem: ComposedProblem) -> ComposedProblem:
    """Returns a problem whose expected images are those without noise and sky, of which one parameter is free."""
    camera = dataclasses.replace(problem.survey.instrument, sky=None)
    return dataclasses.replace(
        problem,
        survey=dataclasses.replace(problem.survey, instrument=camera),
        noise="instrument",
        free=np.array([FLUX]),
        correlation=0.0,
    )


def _arrays(images: FitImages) -> list[np.ndarray]:
    tensors = images.data, images.known, images.extra, images.seconds
    return [np.ascontiguousarray(each.numpy()) for each in tensors]


def _in_threads(work: Callable[[slice], None], n: int) -> None:
    """Calls a function with a few of n images at a time, in threads if torch has several."""
    threads = torch.get_num_threads()
    parts = [slice(i, i + _IMAGES_PER_JOB) for i in range(0, n, _IMAGES_PER_JOB)]
    if threads == 1 or len(parts) <= 1:
        work(slice(0, n))
        return
    with ThreadPoolExecutor(threads) as pool:  # the kernels release Python's lock
        list(pool.map(work, parts))


BY_KERNEL = Method(_fit, _finish, _render)
