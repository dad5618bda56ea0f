"""How many images/s does paltax simulate on one core of a CPU, and we of as many halos and of the survey hst?

    pip install paltax==1.0.1 tensorboard && python benchmarks/paltax.py peer peer.json    # in an environment of its own
    python benchmarks/paltax.py compare peer.json                                          # where haloformer is, right after it

paltax (arXiv:2404.14487) is at work as its training has it: ``draw_image_and_truth`` under ``vmap`` and ``jit``, compiled beforehand, with
the numbers of ``input_config_br.py`` in its repository, which its packages leave out, but for the camera of hst, a Sérsic source in place of
its COSMOS images, which are not in the package, and the least mass. For 10⁷ M_sun, its arrays are as long as in its later
``input_config_wdm.py``: the 750 halos of the former would cut most of them off.

``like paltax's`` is our survey with the same lens, redshifts, source and camera, and subhalos with the same masses in a disc of the same size,
as many as in paltax's images on average. What differs still:

- paltax computes every slot of its arrays of halos, filled or not; we the halos that there are.
- It draws the normalisation of the mass function anew for each image; ours is fixed. In hst it varies, too, about fewer halos.
- It traces rays through planes of halos along the line of sight; its configurations have none there (``delta_los`` of 0), but 10 slots before
  and 10 behind the lens are computed. Ours are in one plane; hst adds half as many as are expected outside it.
- Its point-spread function is a Gaussian, ours a Moffat profile; it adds white noise, we correlated noise.
- It divides an image by its scatter. We set the source's brightness by its signal to noise, and take from the lens what the halos add to it.
- hst has multipoles, clumpy galaxies and what the subtraction of the lens's light leaves.

Images/s are per second of processor time of one thread, the best of several repeats, so that another load on the machine counts least.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

CASES = (
    {"name": "M > 10⁸", "mass_low": 1e8, "halos": 750, "positions": 200_000, "batch": 4},
    {"name": "M > 10⁷", "mass_low": 1e7, "halos": 8192, "positions": 2_000_000, "batch": 1},
)
"""Least mass in M_sun, length of the array of subhalos, trial positions for them, and images at once: its training has 32 for a GPU."""
MASS_HIGH = 1e10  # M_sun
NUM_PIX, PIXEL_SCALE, SUPERSAMPLING, FWHM = 88, 0.05, 2, 0.064  # of hst
SLOPE = -1.97  # of the mass function: the mean of paltax's


def best_rate(work: Callable[[], int], seconds: float, repeats: int = 3) -> float:
    """Returns the images per second of processor time of the fastest of several repeats, each at least a share of the given time."""
    work()
    rates = []
    for _ in range(repeats):
        done, began = 0, time.process_time()
        while time.process_time() - began < seconds / repeats:
            done += work()
        rates.append(done / (time.process_time() - began))
    return max(rates)


def peer(path: Path, seconds: float) -> None:
    """Measures paltax and writes its rates as JSON."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):  # XLA starts as many threads as there are cores for it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    here = Path(__file__).resolve().parent
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != here]  # of the same name as this file  # fmt: skip
    found = []
    for case in CASES:
        found.append({**case, **peer_case(case, seconds)})
        print(json.dumps(found[-1]), flush=True)
    versions = {name: metadata.version(name) for name in ("paltax", "jax")}
    path.write_text(json.dumps({"versions": versions, "cases": found}, indent=1) + "\n")


def peer_case(case: dict[str, Any], seconds: float) -> dict[str, float]:
    """Returns paltax's images/s, its mean number of subhalos, and how long it took to compile."""
    import jax
    from paltax import input_pipeline, subhalos

    config = peer_config(case)
    lensing, names = config["lensing_config"], ("all_models", "principal_model_indices", "kwargs_simulation", "kwargs_detector", "kwargs_psf", "truth_parameters")  # fmt: skip
    cosmology = input_pipeline.initialize_cosmology_params(config, jax.random.PRNGKey(0))
    grid = input_pipeline.generate_grids(config)
    draw = functools.partial(
        input_pipeline.draw_image_and_truth, **{name: config[name] for name in names}
    )
    draw = jax.jit(jax.vmap(draw, in_axes=(None, None, None, None, 0, None)))
    keys = iter(range(10**9))

    def work() -> int:
        key = jax.random.PRNGKey(next(keys))
        images, _ = draw(lensing, cosmology, *grid, jax.random.split(key, case["batch"]), 0.0)
        if not bool(jax.numpy.isfinite(images).all()):
            raise SystemExit("an image of paltax has pixels that are no numbers")
        return int(images.shape[0])

    @jax.jit
    @jax.vmap
    def number(key: Any) -> Any:
        first, second, third = jax.random.split(key, 3)
        lens = input_pipeline.draw_sample(lensing["main_deflector_params"], first)
        halos = input_pipeline.draw_sample(lensing["subhalo_params"], second)
        masses = subhalos.draw_nfw_masses(lens, halos, cosmology, third, case["halos"])
        return (masses > 0).sum()

    numbers = number(jax.random.split(jax.random.PRNGKey(1), 1000))
    began = time.process_time()
    work()
    compiled = time.process_time() - began
    return {
        "rate": best_rate(work, seconds),
        "mean_halos": float(numbers.mean()),
        "full": float((numbers == case["halos"]).mean()),
        "compile_seconds": compiled,
    }


def peer_config(case: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration: that of ``input_config_br.py`` but for camera, source and least mass."""
    from paltax import lens_models, psf_models, source_models
    from paltax.input_pipeline import encode_constant, encode_normal, encode_uniform

    def constants(**values: float) -> dict[str, Any]:
        return {name: encode_constant(value) for name, value in values.items()}

    halos = constants(m_max=MASS_HIGH, conc_m_ref=1e8) | {
        "c_zero": encode_normal(16.0, 2.0),
        "conc_zeta": encode_normal(-0.3, 0.1),
        "conc_beta": encode_normal(0.55, 0.3),
        "conc_dex_scatter": encode_normal(0.1, 0.06),
    }
    light = {
        "sersic_radius": encode_uniform(0.1, 0.4),
        "n_sersic": encode_uniform(0.5, 2.0),
        "axis_ratio": encode_normal(1.0, 0.05),
        "angle": encode_uniform(0.0, 2 * math.pi),
        "center_x": encode_normal(0.0, 0.16),
        "center_y": encode_normal(0.0, 0.16),
    }
    lens = {name: encode_normal(0.0, 0.1) for name in ("ellip_x", "ellip_xy")}
    lens |= {name: encode_normal(0.0, 0.05) for name in ("gamma_one", "gamma_two")}
    lens |= {name: encode_normal(0.0, 0.16) for name in ("center_x", "center_y")}
    lens |= {"theta_e": encode_normal(1.1, 0.15), "slope": encode_normal(2.0, 0.1)}
    objects = ("los_params", "subhalo_params", "main_deflector_params", "source_params", "lens_light_params", "psf_params")  # fmt: skip
    return {
        "lensing_config": {
            "los_params": halos
            | constants(delta_los=0, r_min=0.5, r_max=10, m_min=1e7, dz=0.01, cone_angle=8, angle_buffer=0.8),
            "main_deflector_params": lens | constants(mass=1e13, z_lens=0.5, zero_x=0, zero_y=0),
            "subhalo_params": halos
            | {"sigma_sub": encode_normal(2e-3, 1.1e-3), "shmf_plaw_index": encode_uniform(-2.02, -1.92)}
            | constants(m_min=case["mass_low"], m_pivot=1e10, k_one=0, k_two=0),
            "source_params": light | constants(z_source=1.5, amp=100),
            "lens_light_params": light | constants(amp=0),
        },
        "kwargs_detector": {
            "n_x": NUM_PIX, "n_y": NUM_PIX, "pixel_width": PIXEL_SCALE, "supersampling_factor": SUPERSAMPLING, "exposure_time": 522,
            "num_exposures": 4.0, "sky_brightness": 22, "magnitude_zero_point": 25.95, "read_noise": 3.5,
        },
        "all_models": {
            "all_los_models": (lens_models.NFW(),),
            "all_subhalo_models": (lens_models.TNFW(),),
            "all_main_deflector_models": (lens_models.EPLEllip(), lens_models.ShearCart()),
            "all_source_models": (source_models.SersicElliptic(),),
            "all_lens_light_models": (source_models.SersicElliptic(),),
            "all_psf_models": (psf_models.Gaussian(),),
        },
        "principal_model_indices": dict.fromkeys(objects, 0),
        "cosmology_params": constants(
            omega_m_zero=0.3089, omega_b_zero=0.0486, omega_de_zero=0.6910088292453472, omega_rad_zero=9.117075466e-5, temp_cmb_zero=2.7255,
            hubble_constant=67.74, n_s=0.9667, sigma_eight=0.815,
        ),
        "kwargs_simulation": {
            "num_z_bins": 1000, "los_pad_length": 10, "subhalos_pad_length": case["halos"], "sampling_pad_length": case["positions"],
        },
        "kwargs_psf": constants(fwhm=FWHM, pixel_width=PIXEL_SCALE / SUPERSAMPLING),
        "truth_parameters": (["main_deflector_params", "subhalo_params"], ["theta_e", "sigma_sub"], [0, 0]),
    }  # fmt: skip


def compare(path: Path, seconds: float) -> None:
    """Measures ours and prints the table."""
    from haloformer._version import code_version
    from simulation import hardware, table

    theirs = json.loads(path.read_text())
    versions = {**theirs["versions"], **{name: metadata.version(name) for name in ("torch", "numba", "numpy")}}  # fmt: skip
    print(
        f"{datetime.date.today()}, one core, {hardware()}, load average before {os.getloadavg()[0]:.1f}; haloformer {code_version()}, "
        f"Python {platform.python_version()}, {', '.join(f'{name} {version}' for name, version in versions.items())}\n"
    )
    rows = [["case", "our survey", "paltax: halos", "slots", "images/s", "ours: halos", "images/s", "ratio"]]  # fmt: skip
    for case in theirs["cases"]:
        for label, survey in our_surveys(case):
            rate, halos = ours(survey, seconds)
            rows.append(
                [case["name"], label, f"{case['mean_halos']:.0f}", str(case["halos"]), f"{case['rate']:.3g}",
                 f"{halos:.0f}", f"{rate:.3g}", f"{rate / case['rate']:.0f}×"]
            )  # fmt: skip
            print("  " + "  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    compiling = " and ".join(f"{case['compile_seconds']:.0f}" for case in theirs["cases"])
    full = " and ".join(f"{100 * case['full']:.1f} %" for case in theirs["cases"])
    print(
        f"\nCompiling took paltax {compiling} s, which its rates leave out. Its arrays were full, and so cut, in {full} of its images."
    )


def our_surveys(case: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns ours that are like a case of paltax's: a name for the table and the survey, with halos in class cdm."""
    from haloformer.simulation import get_any_survey
    from haloformer.simulation.distributions import Normal, Uniform

    hst = get_any_survey("hst")
    epl, shear = hst.lens[:2]
    (halos,) = hst.substructure["cdm"]
    halos = dataclasses.replace(halos, mass_low=case["mass_low"])
    heavy = dataclasses.replace(hst, substructure={"cdm": (halos,)})

    simple = get_any_survey("ladder_2_halos")
    (sersic,) = simple.source.light
    sersic = dataclasses.replace(sersic, R_sersic=Uniform(0.1, 0.4), n_sersic=Uniform(0.5, 2.0))
    epl = dataclasses.replace(
        epl, theta_E=Normal(1.1, 0.15), gamma=Normal(2.0, 0.1), x=Normal(0, 0.16), y=Normal(0, 0.16)
    )
    simple = dataclasses.replace(
        simple,
        lens=(epl, shear),
        source=dataclasses.replace(simple.source, light=(sersic,)),
        z_lens=0.5,
        z_source=1.5,
        z_beyond=None,
    )
    trial = 0.1  # 1/kpc²; the number of halos is proportional to it
    like = dataclasses.replace(
        halos, slope=SLOPE, mass_high=MASS_HIGH, disc_radius=3 * 1.1, line_of_sight=0.0, Sigma_sub=trial
    )  # fmt: skip
    some = mean_halos(dataclasses.replace(simple, substructure={"cdm": (like,)}))
    like = dataclasses.replace(like, Sigma_sub=trial * case["mean_halos"] / some)
    return [
        ("like paltax's", dataclasses.replace(simple, substructure={"cdm": (like,)})),
        ("hst", heavy),
    ]


def ours(survey: Any, seconds: float, batch: int = 48) -> tuple[float, float]:
    """Returns our images/s, with noise, and the mean number of halos."""
    import torch

    from haloformer.simulation import Simulator

    torch.set_num_threads(1)
    simulator = Simulator(survey, seed=1, threads=1)

    def work() -> int:
        return int(simulator.batch(range(batch)).images.shape[0])

    return best_rate(work, seconds), mean_halos(survey, batch)


def mean_halos(survey: Any, n: int = 48) -> float:
    """Returns the mean number of halos in the first images of a survey."""
    import numpy as np

    from haloformer.simulation import Simulator

    return float(np.isfinite(Simulator(survey, seed=1).parameters(range(n))["tnfw_mass"]).sum() / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("command", choices=("peer", "compare"))
    parser.add_argument("file", type=Path, help="of paltax's rates: JSON")
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring per case")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    {"peer": peer, "compare": compare}[options.command](options.file, options.seconds)


if __name__ == "__main__":
    main()
