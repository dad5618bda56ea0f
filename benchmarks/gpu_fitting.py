"""The smooth fit on a GPU: images/s beside one CPU core in the same run, and whether both find the same."""

import time
from collections.abc import Callable

import composed_fitting
import torch

from haloformer.fitting import SmoothFit, SmoothFitter
from haloformer.fitting.composed import tensors
from haloformer.fitting.composed.fitter import ComposedFitter
from haloformer.simulation import Simulator, collect, get_any_survey, get_survey
from haloformer.simulation.instruments import central_part
from simulation import best_rate

SEED = 46
SIZES = {"model_i": 96, "model_i_fair": 96}  # pixels that are fitted, where not all are
CASES = (
    ("model_i", "original"),
    ("model_ii", "instrument"),
    ("model_iii", "instrument"),
    ("fifteen, one source", "original"),
    ("model_i_fair", "original"),
    ("hst", "original"),
)
Fitter = SmoothFitter | ComposedFitter


def fitter_of(name: str, noise: str) -> tuple[object, Fitter]:
    """Returns a survey of the table, and its fit."""
    if name == "fifteen, one source":
        former = get_survey(composed_fitting.FORMER)
        return former, SmoothFitter(former, size=composed_fitting.SIZE)
    if name.startswith("model_i") and "fair" not in name:
        return name, SmoothFitter(name, noise=noise, size=SIZES.get(name))
    survey = get_any_survey(name)
    return name, ComposedFitter(survey, size=SIZES.get(name))


def rate(fit: Callable[[], SmoothFit], n: int, seconds: float) -> float:
    """Images/s by the clock, the best of three repeats."""

    def work() -> int:
        fit()
        torch.cuda.synchronize()
        return n

    return best_rate(work, seconds, repeats=3)


def rows(
    seconds: float, batch: int, compiled: bool, only: list[str] | None = None
) -> list[list[str]]:
    """Rows of images/s; on the CPU 64 images on one thread, on the GPU ``batch`` of them at a time."""
    header = ["survey", "noise", "pixels", "free", "batch", "GPU", "with detail"]
    header += ["fused", "one core", "ratio", "converged", "as on the CPU"]
    found = [header]
    for name, noise in CASES:
        if only and name not in only:
            continue
        survey, fitter = fitter_of(name, noise)
        simulator = Simulator(survey, classes=["no_sub"], seed=SEED, noise=noise)
        size = SIZES.get(name, composed_fitting.SIZE if "fifteen" in name else None)
        few = collect(simulator, 64).images
        few = few if size is None else central_part(few, size).contiguous()
        n = batch if few.shape[-1] <= 96 else batch // 4
        many = few.repeat(n // 64, 1, 1, 1).cuda()
        beside = fitter_of(name, noise)[1]
        on_gpu, on_cpu = fitter(few.cuda()), beside(few)
        fast = rate(lambda f=fitter, x=many: f(x), n, seconds)
        detailed = rate(lambda f=fitter, x=many: f(x, detail=True), n, seconds)
        fused = "–"
        if name == "model_i_fair" and compiled:
            plain = tensors.sharp_columns
            tensors.sharp_columns = torch.compile(plain, dynamic=True, fullgraph=True)
            try:
                began = time.perf_counter()
                fitter(few.cuda())
                fitter(many)
                first = time.perf_counter() - began
                fused = f"{rate(lambda f=fitter, x=many: f(x), n, seconds):.0f} (compiled in {first:.0f} s)"
            except Exception as error:  # whatever a compiler has to say
                fused = f"{type(error).__name__}"
                print(error, flush=True)
            finally:
                tensors.sharp_columns = plain
        core = rate(lambda f=beside, x=few: f(x), 64, seconds)
        both = on_cpu.converged & on_gpu.converged.cpu()
        apart = ((on_cpu.values - on_gpu.values.cpu()).abs() / on_cpu.errors)[both].amax(1)
        found.append(
            [name, noise, f"{few.shape[-1]}×{few.shape[-1]}", str(len(fitter.names)), str(n), f"{fast:.0f}", f"{detailed:.0f}", fused,
             f"{core:.0f}", f"{fast / core:.0f}×", f"{on_gpu.converged.double().mean():.0%}", f"{(apart < 0.1).double().mean():.0%}"]
        )  # fmt: skip
        print("  " + "  ".join(found[-1]), flush=True)
        del many
    return found
