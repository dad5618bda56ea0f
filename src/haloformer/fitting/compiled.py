"""The same steps by a compiled kernel, on a CPU with numba: several times as fast."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from haloformer.fitting.behind import kernel_serves
from haloformer.fitting.model import SmoothModel
from haloformer.fitting.problem import PLACE, SOURCE_POSITION, FitProblem
from haloformer.fitting.steps import FitState
from haloformer.simulation.renderer import SOURCE_PARAMETERS
from haloformer.simulation.sources import SERSIC_R_MIN

_IMAGES_PER_JOB = 4  # of one thread


def can_be_compiled(problem: FitProblem, device: torch.device) -> bool:
    """Tells whether the kernel serves: on a CPU with numba, if the source's position is free, and perhaps the exposure and the lens's place."""
    position = problem.names[:2]
    others = tuple(name for name in problem.names[2:] if name not in PLACE)
    simple = position == SOURCE_POSITION and others in ((), ("exposure_time",))
    return simple and kernel_serves(device)


def fit_by_kernel(
    model: SmoothModel, start: Tensor, data: Tensor, known: Tensor, seconds: Tensor, steps: int
) -> tuple[Tensor, FitState]:
    """Fits images as `fit_by_tensors` does, whose arguments and results these are."""
    from haloformer.fitting import kernel

    problem = model.problem
    n, p = start.shape
    arrays = {
        "u": start.double().numpy(),
        "mean": np.empty(data.shape, np.float32),
        "weights": np.zeros(data.shape, np.float32),
        "hessian": np.zeros((n, p, p)),
        "gradient": np.zeros((n, p)),
        "chi2": np.zeros(n),
    }
    there, values = known.float().numpy(), data.contiguous().numpy()
    time = seconds.double().numpy()
    source = np.array([problem.draws[name][0] for name in SOURCE_PARAMETERS], dtype=np.float32)
    camera = problem.survey.instrument
    kind = kernel.DOUBLE_POISSON if problem.noise == "double_poisson" else kernel.GAUSSIAN
    unit = np.float32(2.0 if problem.noise == "doubled" else 1.0)
    bounds = [limit.double().numpy() for limit in (problem.low, problem.high, problem.limits)]
    places = np.ascontiguousarray(model.places(start).double().expand(n, -1).numpy())
    kinds = np.array([PLACE.index(name) for name in problem.free_place], dtype=np.int64)
    lens = model.deflection_table.arguments
    light = (problem.psf_sigma, *problem.background_variances, source, np.float32(SERSIC_R_MIN))
    radius, free_time = len(problem.psf) // 2, "exposure_time" in problem.names

    def work(part: slice) -> None:
        kernel.fit_positions(  # type: ignore[call-arg]
            values[part], there[part], places[part], kinds, *lens, *light, radius, kind, unit, time[part], free_time,
            camera.num_exposures, *bounds, steps, *(array[part] for array in arrays.values()),
        )  # fmt: skip

    threads = torch.get_num_threads()
    parts = [slice(i, i + _IMAGES_PER_JOB) for i in range(0, n, _IMAGES_PER_JOB)]
    if threads == 1 or len(parts) == 1:
        work(slice(0, n))
    else:
        with ThreadPoolExecutor(threads) as pool:  # the kernel releases Python's lock
            list(pool.map(work, parts))
    found = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    weights, u = found.pop("weights"), found.pop("u")
    return u, FitState(inverse_variance=weights, residual=data - found["mean"], **found)
