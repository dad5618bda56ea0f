"""What other lensing packages would take over from the fit of a real lens: deflections of the rays, and their derivatives by the parameters.

    python benchmarks/other_lensing.py ours rays.npz          # where haloformer is: writes the rays, the lens, and what it deflects
    python benchmarks/other_lensing.py jaxtronomy rays.npz    # tried with jaxtronomy 0.1.5, jax 0.10.2
    python benchmarks/other_lensing.py herculens rays.npz     # tried with herculens 0.3.0, jax 0.10.2
    python benchmarks/other_lensing.py caustics rays.npz      # tried with caustics 1.7.1

The lens is a power law with shear, as bright and large as J0946+1006; the rays are those of its fit, 2×2 a pixel within 1.85″ and what the
point-spread function reaches. Each prints the time of one call after it is compiled, the processor's, of one thread, the largest difference
of its deflections from ours in arcsec, and that of its derivatives. ``ours`` also times a whole evaluation: the evidence and its gradient.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np

LENS = {"theta_E": 1.4, "gamma": 1.82, "e1": 0.04, "e2": -0.06, "x": 0.02, "y": -0.01, "gamma1": 0.05, "gamma2": -0.07}  # fmt: skip
NAMES = tuple(LENS)
REPEATS = 5


def seconds(call: Callable[[], Any]) -> float:
    """Returns the least time of the processor of some calls, after one that compiles."""
    call()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def rays() -> tuple[np.ndarray, np.ndarray]:
    """Positions (R,) of the rays in arcsec."""
    axis = (np.arange(190) - 94.5) * 0.025
    x, y = (each.ravel() for each in np.meshgrid(axis, axis))
    inside = np.hypot(x, y) < 1.85 + 0.5
    return x[inside], y[inside]


def ours(path: Path) -> None:
    from haloformer.fitting.reallens.evidence import Problem
    from haloformer.fitting.reallens.masses import Mass
    from haloformer.fitting.reallens.operators import Camera, Source, SourceGrid
    from haloformer.fitting.reallens.optimise import fit_at
    from haloformer.fitting.reallens.source_prior import Smoothness

    x, y = rays()
    mass, vector = Mass(), np.array(list(LENS.values()))
    alpha, jacobian = mass.deflection(x, y, vector), mass.jacobian(x, y, vector)
    np.savez(path, x=x, y=y, vector=vector, alpha=np.stack(alpha), jacobian=np.stack(jacobian))
    report(
        "haloformer",
        seconds(lambda: mass.deflection(x, y, vector)),
        seconds(lambda: mass.jacobian(x, y, vector)),
    )
    axis = (np.arange(95) - 47) * 0.05
    mask = np.hypot(axis[None, :], axis[:, None]) < 1.85
    psf = np.outer(*[np.exp(-0.5 * (np.arange(-10, 11) / 1.0) ** 2)] * 2)
    camera = Camera.of(mask, np.ones(mask.shape), psf / psf.sum(), 0.05, 2)
    source = Source(SourceGrid(0.0, 0.0, 30, 0.025), SourceGrid(0.0, 0.0, 15, 0.15))
    data = np.random.default_rng(1).standard_normal(int(mask.sum()))
    light = np.random.default_rng(2).standard_normal((len(data), 61))
    problem = Problem(camera, data, light, mass)
    smoothness = Smoothness(1.0, 0.1, 0.1)
    fit = fit_at(problem, source, vector, smoothness)
    whole = seconds(lambda: fit_at(problem, source, vector, smoothness)), seconds(fit.slope)
    print(
        f"of one evaluation ({len(data)} pixels, {len(camera.x)} rays, {source.size} coefficients): evidence {whole[0]:.3f} s, its gradient {whole[1]:.3f} s"
    )


def report(name: str, deflection: float, jacobian: float, differences: str = "") -> None:
    print(
        f"{name:12} deflection {1e3 * deflection:6.1f} ms, derivatives {1e3 * jacobian:6.1f} ms {differences}",
        flush=True,
    )


def compared(
    name: str,
    path: Path,
    alpha: Callable[[np.ndarray], Any],
    jacobian: Callable[[np.ndarray], Any],
) -> None:
    """Times another package's functions of the parameters (8,): (2, R) and (2, R, 8)."""
    given = np.load(path)
    vector = given["vector"]
    off = np.abs(np.asarray(alpha(vector)) - given["alpha"]).max()
    steep = np.abs(np.asarray(jacobian(vector)) - given["jacobian"])
    far = np.hypot(given["x"] - LENS["x"], given["y"] - LENS["y"]) > 0.05
    differences = f"(off by {off:.0e}″; derivatives by {steep[:, far].max():.0e})"
    report(name, seconds(lambda: np.asarray(alpha(vector))), seconds(lambda: np.asarray(jacobian(vector))), differences)  # fmt: skip


def by_jax(name: str, path: Path, profiles: tuple[Any, Any]) -> None:
    """Times the profiles' ``derivatives(x, y, **keywords)``, compiled, and its forward-mode Jacobian."""
    import jax
    import jax.numpy as jnp

    given = np.load(path)
    x, y = jnp.asarray(given["x"]), jnp.asarray(given["y"])
    epl, shear = profiles

    def alpha(vector: Any) -> Any:
        theta_E, gamma, e1, e2, at_x, at_y, gamma1, gamma2 = vector
        lens = epl.derivatives(x, y, theta_E=theta_E, gamma=gamma, e1=e1, e2=e2, center_x=at_x, center_y=at_y)  # fmt: skip
        outer = shear.derivatives(x, y, gamma1=gamma1, gamma2=gamma2)
        return jnp.stack([lens[0] + outer[0], lens[1] + outer[1]])

    compared(name, path, jax.jit(alpha), jax.jit(jax.jacfwd(alpha)))


def jaxtronomy(path: Path) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    from jaxtronomy.LensModel.Profiles.epl import EPL
    from jaxtronomy.LensModel.Profiles.shear import Shear

    by_jax("jaxtronomy", path, (EPL(), Shear()))


def herculens(path: Path) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    from herculens.MassModel.Profiles.epl import EPL
    from herculens.MassModel.Profiles.shear import Shear

    by_jax("herculens", path, (EPL(), Shear()))


def caustics(path: Path) -> None:
    import torch
    from caustics.lenses.func import (
        reduced_deflection_angle_epl,
        reduced_deflection_angle_external_shear,
    )

    torch.set_num_threads(1)
    given = np.load(path)
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])

    def alpha(vector: torch.Tensor) -> torch.Tensor:
        theta_E, gamma, e1, e2, at_x, at_y, gamma1, gamma2 = vector
        size = torch.hypot(e1, e2)
        q, phi = (1 - size) / (1 + size), torch.atan2(e2, e1) / 2
        lens = reduced_deflection_angle_epl(at_x, at_y, q, phi, theta_E, gamma - 1, x, y, 30)
        outer = reduced_deflection_angle_external_shear(torch.zeros(()), torch.zeros(()), gamma1, gamma2, x, y)  # fmt: skip
        return torch.stack([lens[0] + outer[0], lens[1] + outer[1]])

    derivatives = torch.func.jacfwd(alpha)
    compared(
        "caustics",
        path,
        lambda vector: alpha(torch.from_numpy(vector)).numpy(),
        lambda vector: derivatives(torch.from_numpy(vector)).numpy(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    chosen = {"ours": ours, "jaxtronomy": jaxtronomy, "herculens": herculens, "caustics": caustics}
    parser.add_argument("package", choices=chosen)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    chosen[arguments.package](arguments.file)


if __name__ == "__main__":
    main()
