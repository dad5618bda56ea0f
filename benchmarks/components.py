"""How fast and how accurate are the deflections of mass components? One thread, images of 176 × 176 rays.

    python benchmarks/components.py            # the table, about two minutes
    python benchmarks/components.py --quick    # a shorter measurement, for a look

Every figure is the best of several repeats, so that another load on the machine counts least. The error is the largest difference to
the deflection in float64, in parts of the image's largest.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special

from haloformer.simulation import rng
from haloformer.simulation.components import (
    EPL,
    NFW,
    TNFW,
    Granules,
    MassComponent,
    Multipoles,
    PointMasses,
    PseudoJaffe,
    Setting,
    Shear,
    Soliton,
    VortexLine,
)
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import Quantity, draw

AXIS = (np.arange(176) - 87.5) * 0.025  # arcsec

CASES: dict[str, MassComponent] = {
    "EPL": EPL(e1=0.1),
    "shear": Shear(gamma1=0.05),
    "multipoles": Multipoles(),
    "25 point masses": PointMasses(),
    "vortex line": VortexLine(),
    "pseudo-Jaffe": PseudoJaffe(x=0.5),
    "25 NFW": NFW(),
    "tNFW, M > 10⁸": TNFW(),
    "tNFW, M > 10⁷": TNFW(mass_low=1e7),
    "granules": Granules(log10_m_axion=-23.0),
    "10 soliton cores": Soliton(log10_m_axion=-22.5),
}


@dataclass(frozen=True)
class Images:
    """Draws of the first images."""

    count: int

    def __len__(self) -> int:
        return self.count

    def draw(self, quantity: Quantity, name: str, size: int | None = None) -> np.ndarray:
        """See :class:`haloformer.simulation.components.component.Draws`."""
        shape = (self.count,) if size is None else (self.count, size)
        return draw(quantity, lambda: self.uniform(name, size), shape)

    def shared(self, quantity: Quantity, name: str) -> np.ndarray:
        """As above."""
        return self.draw(quantity, name)

    def uniform(self, name: str, size: int | None = None) -> np.ndarray:
        """As above."""
        stream = np.zeros(self.count, np.uint64)
        drawn = rng.uniform(0, stream, np.arange(self.count), name, size or 1)
        return drawn[:, 0] if size is None else drawn

    def normal(self, name: str, size: int | None = None) -> np.ndarray:
        """As above."""
        return special.ndtri(self.uniform(name, size))


def best_rate(work: Callable[[], object], images: int, seconds: float) -> float:
    """Images/s of the fastest of several repeats."""
    work()
    fastest, began = np.inf, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return images / fastest


def worst(found: np.ndarray, exact: np.ndarray) -> float:
    size = np.hypot(*exact).max((1, 2))
    return float((np.hypot(*(found - exact)).max((1, 2)) / np.maximum(size, 1e-12)).max())


def on_grid(component: MassComponent, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the deflections (2, B, N, N) by the compiled kernels."""
    everything = np.arange(len(next(iter(parameters.values()))))
    alpha = np.zeros((2, len(everything), len(AXIS), len(AXIS)), np.float32)
    component.on_grid(AXIS, parameters)(everything, everything, *alpha)
    return alpha


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a shorter measurement")
    parser.add_argument("--images", type=int, default=8, help="in a batch")
    options = parser.parse_args()
    seconds, count = (1.0 if options.quick else 5.0), options.images
    torch.set_num_threads(1)
    setting = Setting.of(Cosmology(), np.full(count, 0.5), np.full(count, 1.5))
    lens = {"theta_E": np.full(count, 1.2), "e1": np.full(count, 0.1), "e2": np.zeros(count)}
    lens |= {"x": np.zeros(count), "y": np.zeros(count)}
    x, y = (torch.tensor(a)[None] for a in np.meshgrid(AXIS, AXIS))
    print("| component | images/s to draw | images/s float32 | error | images/s compiled | error |")
    print("|---|---|---|---|---|---|")
    for name, component in CASES.items():
        parameters = component.draw(Images(count), setting, lens)
        tensors = {
            key: torch.tensor(value, dtype=torch.float64 if key in ("x", "y") else torch.float32)
            for key, value in parameters.items()
        }
        double = {key: torch.tensor(value) for key, value in parameters.items()}
        exact = np.array([a.numpy() for a in component.deflection(x, y, double)])
        single = np.array([a.numpy() for a in component.deflection(x, y, tensors)])
        drawn = best_rate(
            lambda c=component: c.draw(Images(count), setting, lens), count, seconds / 5
        )
        rate = best_rate(lambda c=component, t=tensors: c.deflection(x, y, t), count, seconds)
        cells = [name, f"{drawn:,.0f}", f"{rate:,.0f}", f"{worst(single, exact):.0e}"]
        if isinstance(component, TNFW):
            halos = (~np.isnan(parameters["mass"])).sum(axis=1).mean()
            cells[0] += f" ({halos:.0f})"
        compiled = on_grid(component, parameters)
        fast = best_rate(lambda c=component, p=parameters: on_grid(c, p), count, seconds)
        cells += [f"{fast:,.0f}", f"{worst(compiled, exact):.0e}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
