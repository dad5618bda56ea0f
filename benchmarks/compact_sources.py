"""Is the fit of a real lens right where the source is smaller than a pixel?

    python benchmarks/compact_sources.py --radii 0.4 0.7 1 2 --n 3          # some 30 s of one core for each fit
    python benchmarks/compact_sources.py --radii 0.4 --supersampling 2      # rays per side of a pixel; as many as the source asks for by default
    python benchmarks/compact_sources.py --psf pixels                       # a PSF known at the image's pixels alone

Lenses of the survey hst without multipoles and without the lens's light, each with one Sérsic source whose half-light radius is given in
pixels, in white noise. Pulls are (fitted − true) / error of Einstein radius, slope, ellipticities and shear: root mean square over lenses.
"""

import argparse
import dataclasses
import datetime
import warnings

import numpy as np
import torch
from real_lenses import psf_at_pixels

from haloformer._version import code_version
from haloformer.fitting.reallens import checked_observation, fit_observation
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.run import Options
from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.components import Multipoles, Sersic
from haloformer.simulation.composed.survey import ComposedSurvey
from haloformer.simulation.psf import psf_kernel
from simulation import hardware, table

SEED = 2_047
NAMES = ("theta_E", "gamma", "e1", "e2", "gamma1", "gamma2")
SNR = 25.0  # of the brightest pixel


def survey(radius: float, index: float) -> ComposedSurvey:
    """Returns lenses of hst with sources of one half-light radius in pixels."""
    found = get_any_survey("hst")
    assert isinstance(found, ComposedSurvey)
    light = Sersic(R_sersic=radius * found.instrument.pixel_scale, n_sersic=index, e1=0.1, e2=-0.05)
    return dataclasses.replace(
        found,
        lens=tuple(part for part in found.lens if not isinstance(part, Multipoles)),
        source=dataclasses.replace(found.source, light=(light,), snr=SNR),
        substructure={"no_sub": ()},
        lens_light=None,
    )


def lens(chosen: ComposedSurvey, number: int, psf: str) -> tuple[Observation, dict[str, float]]:
    """Returns the image of a lens with what is said of it, and the truth."""
    batch = Simulator(chosen, seed=SEED, noise="none").batch([number])
    clean, p = batch.images[0, 0].double().numpy(), batch.parameters
    camera = chosen.instrument
    seconds = float(p["exposure_time"][0]) * camera.num_exposures
    sigma = np.sqrt(camera.background_rms**2 + np.clip(clean, 0, None) / seconds)
    noise = np.random.default_rng([SEED, number]).standard_normal(clean.shape)
    given = {"psf": psf_at_pixels(camera)}
    if psf == "sharp":
        rays = camera.supersampling or 1
        given = {"psf": np.array(psf_kernel(camera)), "psf_scale": camera.pixel_scale / rays}
    theta_E = float(p["lens_theta_E"][0])
    seen = checked_observation(
        clean + sigma * noise, **given, noise=sigma, neighbour_correlation=0.0, pixel_scale=camera.pixel_scale,
        radius=min(theta_E + 0.75, 2.15), name=f"compact {number}",
    )  # fmt: skip
    own = {name: float(p[f"lens_{name}"][0]) for name in NAMES[:4]}
    return seen, own | {name: float(p[name][0]) for name in NAMES[4:]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--radii", nargs="+", type=float, default=[0.4, 0.7, 1.0, 2.0])
    parser.add_argument("--n", type=int, default=3, help="lenses for each radius")
    parser.add_argument("--first", type=int, default=0, help="number of the first lens")
    parser.add_argument("--n_sersic", type=float, default=1.0)
    parser.add_argument("--supersampling", type=int)
    parser.add_argument("--psf", choices=("sharp", "pixels"), default="sharp")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{datetime.date.today()}, {hardware()}, {code_version()}, seed {SEED}")
    options = {} if arguments.supersampling is None else {"supersampling": arguments.supersampling}
    rows = [["R [pixels]", "rays", *NAMES, "all", "told", "CPU s"]]
    for radius in arguments.radii:
        pulls, told, seconds, rays = [], 0, 0.0, set()
        for number in range(arguments.first, arguments.first + arguments.n):
            seen, truth = lens(survey(radius, arguments.n_sersic), number, arguments.psf)
            fit = fit_observation(seen, Options(lens_light=False, **options))
            errors = dict(zip(fit.smooth.problem.mass.names, np.sqrt(np.diag(fit.covariance))))
            pull = [(fit.smooth.value(k) - truth[k]) / errors[k] for k in NAMES]
            seconds += fit.seconds
            told += bool(fit.flags or fit.others or any("compact" in one for one in fit.cautions))
            rays.add(fit.ready.supersampling)
            pulls.append(pull)
            print(
                f"R {radius:g}, lens {number}, extent {fit.smooth.smoothness.extent * fit.smooth.scale / seen.pixel_scale:.2f} pixels:",
                " ".join(f"{name} {value:+.1f}" for name, value in zip(NAMES, pull)),
                f"-2 ln evidence {fit.evidence:.1f}",
                flush=True,
            )
        rms = np.sqrt(np.mean(np.square(pulls), axis=0))
        rows.append(
            [
                f"{radius:g}",
                "/".join(map(str, sorted(rays))),
                *(f"{each:.1f}" for each in rms),
                f"{np.sqrt(np.mean(np.square(pulls))):.1f}",
                f"{told} of {arguments.n}",
                f"{seconds / arguments.n:.0f}",
            ]
        )
    print(table(rows))


if __name__ == "__main__":
    main()
