"""Compiles the kernels ahead of their first use, which is what `make setup` ends with: ``python -m haloformer.fitting.compiling``.

numba compiles a function when it is first called with arguments of some type, and keeps the result beside the module (or in
``NUMBA_CACHE_DIR``); processes that begin at the same time in a new installation would each compile all of them.
"""

import json
import time
from collections.abc import Callable

import torch

from haloformer.fitting.channels import Residual
from haloformer.fitting.fitted import FittedSimulator
from haloformer.fitting.reallens.operators import compile_response
from haloformer.simulation import Simulator, describe_survey, get_survey


def compile_kernels(tell: Callable[[str], None] = lambda text: None) -> None:
    """Simulates and fits an image with each kind of substructure, where the fit finds the lens and where not; and in float64.

    Args:
        tell: Called with what is compiled next.
    """
    survey, noise, numbers = get_survey("model_ii"), "instrument", range(3)
    definition = json.dumps(describe_survey(survey))
    for fit_place, what in (
        (False, "simulation and smooth fit"),
        (True, "fit that finds the lens"),
    ):
        tell(what)
        fit = Residual(definition, noise, detail=True, fit_place=fit_place)
        FittedSimulator(Simulator(survey, noise=noise), fit).batch(numbers)
    tell("simulation in 64 bits")
    Simulator(survey, noise=noise, dtype=torch.float64).batch(numbers)
    Simulator(survey, noise=noise, backend="torch").batch(numbers)  # draws by counters
    tell("simulation and fit of composed surveys")
    hst = Simulator("hst")  # halos, and the fit of a composed survey
    FittedSimulator(hst, Residual(json.dumps(describe_survey(hst.survey)), "original")).batch(
        numbers
    )
    Simulator("model_i_fair").batch(numbers)  # noise of composed surveys
    tell("fit of real lenses")
    compile_response()


if __name__ == "__main__":
    began = time.perf_counter()
    compile_kernels(lambda text: print(f"      {text}", flush=True))
    print(f"kernels compiled in {time.perf_counter() - began:.0f} s")
