"""How fast are the images simulated? Images/s per survey and class, and the ratio to lenstronomy in the same run.

    python benchmarks/simulation.py              # the whole table, some minutes
    python benchmarks/simulation.py --quick      # a shorter measurement, for a look
    python benchmarks/simulation.py --gpu        # the torch backend's table alone, on a GPU where there is one
    python benchmarks/simulation.py --out results/measurements/simulation.md

Every figure is the best of several repeats, so that another load on the machine counts least.
"""

import argparse
import dataclasses
import datetime
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from haloformer._version import code_version
from haloformer.simulation import Simulator, get_any_survey, get_survey
from haloformer.simulation.components import TNFW, LensLight
from haloformer.simulation.composed.lenstronomy import lens_profiles, source_profiles
from haloformer.simulation.lenstronomy_backend import lenstronomy_scenes
from haloformer.simulation.psf import psf_kernel

PEERS = """`lenstronomy` is that package's image call alone, everything prepared beforehand. `original` is the original simulator's way of working with it, in one process: one image at a time; cosmology, an Einstein radius per mass and the models built anew for each; noise added. It leaves out the unused pyHalo realisation per image, which took most of the original's time, so its ratios (to ours on all cores) are lower bounds."""

COMPOSED_PEER = """`lenstronomy` is that package's image call alone, everything prepared beforehand, on one core: deflections and brightness at the same rays, its own convolution, the light of the lens galaxy where there is any. Ours is all that it takes from numbers to images: draws, fields of granules, galaxies, halos, what the lens gives up, the camera, and for `hst`, `euclid` and `jwst` what the subtraction of the lens galaxy's light leaves, which lenstronomy does not have. Halos are those above 10⁸ M_sun unless it says otherwise."""

SURVEYS = ("model_i", "model_ii", "model_iii")
CLASSES = ("no_sub", "cdm", "axion")


def best_rate(work: Callable[[], int], seconds: float, repeats: int = 5) -> float:
    """Images/s of the fastest of several repeats, each at least a share of the given time."""
    work()
    rates = []
    for _ in range(repeats):
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / repeats:
            done += work()
        rates.append(done / (time.perf_counter() - began))
    return max(rates)


def ours(
    survey: object, name: str | None, seconds: float, *, batch: int, threads: int, **options
) -> float:
    torch.set_num_threads(threads)
    simulator = Simulator(survey, classes=name and [name], seed=1, threads=threads, **options)

    def work() -> int:
        simulator.batch(range(batch))
        if simulator.device.type == "cuda":
            torch.cuda.synchronize()
        return batch

    return best_rate(work, seconds)


def lenstronomy_rate(arguments: tuple[str, str, float]) -> float:
    survey, name, seconds = arguments
    parameters = Simulator(survey, classes=[name], seed=1, noise="none").batch(range(4)).parameters
    scenes = list(lenstronomy_scenes(get_survey(survey), parameters))

    def work() -> int:
        for model, lenses, sources in scenes:
            model.image(lenses, sources)
        return len(scenes)

    return best_rate(work, seconds, repeats=3)


def composed_cases() -> list[tuple[str, object, str | None]]:
    """Returns surveys of components: a name for the table, the survey, and a class or None for all of them together."""
    heavy = dataclasses.replace(get_any_survey("hst"), name="hst")
    lighter = {
        name: tuple(
            dataclasses.replace(part, mass_low=1e7) if isinstance(part, TNFW) else part
            for part in parts
        )
        for name, parts in heavy.substructure.items()
    }
    more = dataclasses.replace(heavy, substructure=lighter)
    cases = [
        ("model_i_fair", get_any_survey("model_i_fair")),
        ("hst", heavy),
        ("hst, M > 10⁷", more),
    ]
    cases += [(name, get_any_survey(name)) for name in ("euclid", "jwst")]
    return [(label, given, name) for label, given in cases for name in (*CLASSES, None)]


def composed_lenstronomy_rate(survey: object, name: str | None, seconds: float) -> float:
    """Images/s of lenstronomy's image call, everything prepared beforehand."""
    from lenstronomy.Data.pixel_grid import PixelGrid
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    classes = None if name is None else [name]
    simulator = Simulator(survey, classes=classes, seed=1, noise="none")
    recipe, parameters = simulator.survey, simulator.batch(range(3)).parameters
    camera = recipe.instrument
    corner, rays = -(camera.num_pix - 1) / 2 * camera.pixel_scale, camera.supersampling or 1
    transform = np.eye(2) * camera.pixel_scale
    grid = PixelGrid(camera.num_pix, camera.num_pix, transform, corner, corner)
    kernel = psf_kernel(camera).copy()  # older ones write into it
    psf = PSF("PIXEL", kernel_point_source=kernel, point_source_supersampling_factor=rays)
    if camera.psf_beta is None and camera.psf_file is None:
        psf = PSF("GAUSSIAN", fwhm=camera.psf_fwhm, pixel_size=camera.pixel_scale, truncation=camera.psf_truncation)  # fmt: skip
    numerics = {"supersampling_factor": rays, "supersampling_convolution": rays > 1}
    scenes = []
    for i in range(3):
        lens, lens_words = zip(*lens_profiles(recipe, parameters, i))
        source, source_words = [], []
        for flux, profiles in source_profiles(recipe, parameters, i):
            for kind, words in profiles:
                source.append(kind)
                words = {**words, "amp": words["amp"] * flux}
                words["center_x"] = words["center_x"] + parameters["source_x"][i]
                words["center_y"] = words["center_y"] + parameters["source_y"][i]
                source_words.append(words)
        light, light_words = [], []
        if isinstance(recipe.lens_light, LensLight):
            own = {k: parameters[f"lens_light_{k}"][i] for k in recipe.lens_light.UNITS}
            light, light_words = zip(*recipe.lens_light.lenstronomy(own))
        model = ImageModel(
            grid, psf, LensModel(list(lens)), LightModel(source), LightModel(list(light)), kwargs_numerics=numerics
        )  # fmt: skip
        scenes.append((model, list(lens_words), source_words, list(light_words)))

    def work() -> int:
        for model, *words in scenes:
            model.image(*words)
        return len(scenes)

    return best_rate(work, seconds, repeats=1)


def original_rate(arguments: tuple[str, str, float]) -> float:
    """One image at a time: cosmology, an Einstein radius per mass, the models, the image and its noise."""
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM
    from lenstronomy.Util import image_util

    survey_name, name, seconds = arguments
    survey = get_survey(survey_name)
    simulator = Simulator(survey, classes=[name], seed=1, noise="none")
    index = iter(range(10**9))

    def work() -> int:
        cosmology = FlatLambdaCDM(H0=70, Om0=0.3, Ob0=0.05)
        parameters = simulator.batch([next(index)]).parameters
        vortex_masses = 100 * int(np.isfinite(parameters["vortex_mass"]).sum())
        for _ in range(1 + vortex_masses + int(np.isfinite(parameters["subhalo_mass"]).sum())):
            d_l, d_s = (
                cosmology.luminosity_distance(survey.z_lens),
                cosmology.luminosity_distance(survey.z_source),
            )
            np.sqrt(
                (
                    4 * constants.G * 3e8 * units.M_sun / constants.c**2 * (d_s - d_l) / (d_l * d_s)
                ).decompose()
            )
        for model, lenses, sources in lenstronomy_scenes(survey, parameters):
            image = model.image(lenses, sources)
            seconds_exposed = float(parameters["exposure_time"][0])
            image_util.add_poisson(image, exp_time=seconds_exposed)
            image_util.add_background(image, sigma_bkd=0.01)
        return 1

    return best_rate(work, seconds, repeats=2)


def on_all_cores(function: Callable, arguments: tuple, cores: int) -> float:
    """The summed rate of as many processes as there are cores, all at work at once."""
    if cores == 1:
        return function(arguments)
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(function, [arguments] * cores))


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(w) if i > 1 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        )
        + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def hardware() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next(
            (
                line.split(":")[1].strip()
                for line in cpuinfo.read_text().splitlines()
                if line.startswith("model name")
            ),
            name,
        )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {name}{gpu}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the measuring time")
    parser.add_argument("--gpu", action="store_true", help="the torch backend's table alone")
    parser.add_argument("--out", help="also write the tables to this Markdown file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    seconds, cores = (
        (0.3 if options.quick else 3.0),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    versions = ", ".join(
        f"{p} {metadata.version(p)}" for p in ("torch", "numba", "lenstronomy", "numpy")
    )
    report = [
        "# Simulation speed\n",
        f"{datetime.date.today()}, {hardware()}, load average before {load:.1f}; haloformer {code_version()}, Python {platform.python_version()}, {versions}.",
        f"Command: `python benchmarks/simulation.py{' --quick' if options.quick else ''}{' --gpu' if options.gpu else ''}`. Images/s, float32, seed 1, best of 5 repeats of {seconds / 5:g} s.\n",
    ]

    def say(*lines: str) -> None:
        report.extend(lines)
        print(*lines, sep="\n", flush=True)

    print(*report, sep="\n", flush=True)
    if options.gpu:
        say(*device_tables(seconds, cores, torch.cuda.is_available()))
    else:
        cpu_tables(say, seconds, cores)
        say(*device_tables(seconds, cores))
    if options.out:
        target = Path(options.out)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        part.write_text("\n".join(report) + "\n", encoding="utf-8")
        os.replace(part, target)
        print(f"wrote {target}")


def cpu_tables(say: Callable[..., None], seconds: float, cores: int) -> None:
    """Says the tables of the compiled CPU engine, as they are measured."""
    say(f"## Noise-free images, one core and {cores} cores, against lenstronomy on as many\n")
    rows = [
        [
            "survey",
            "class",
            "1 core",
            "lenstronomy",
            "ratio",
            f"{cores} cores",
            "lenstronomy",
            "ratio",
            "original",
            "ratio",
        ]
    ]
    for survey in SURVEYS:
        batch = 256 if survey == "model_i" else 1024
        for name in CLASSES:
            one = ours(survey, name, seconds, batch=batch, threads=1, noise="none")
            peer = lenstronomy_rate((survey, name, seconds))
            many = ours(survey, name, seconds, batch=batch, threads=cores, noise="none")
            peers = on_all_cores(lenstronomy_rate, (survey, name, seconds), cores)
            original = original_rate((survey, name, seconds))
            rows.append(
                [survey, name, f"{one:.0f}", f"{peer:.0f}", f"{one / peer:.0f}×", f"{many:.0f}", f"{peers:.0f}", f"{many / peers:.0f}×",
                 f"{original:.1f}", f"{many / original:.0f}×"]
            )  # fmt: skip
            print("  " + "  ".join(rows[-1]), file=sys.stderr, flush=True)
    say(table(rows), f"\n{PEERS}\n")

    say(f"## With noise, {cores} cores\n")
    rows = [["survey", "class", "original noise", "instrument noise"]]
    for survey in SURVEYS:
        for name in CLASSES:
            batch = 256 if survey == "model_i" else 1024
            rates = [
                ours(survey, name, seconds, batch=batch, threads=cores, noise=noise)
                for noise in ("original", "instrument")
            ]
            rows.append([survey, name, *(f"{rate:.0f}" for rate in rates)])
    say(table(rows), "")

    say(f"## Composed surveys, noise-free, one core and {cores} cores, against lenstronomy\n")
    header = ["survey", "class", "1 core", "lenstronomy", "ratio", f"{cores} cores"]
    rows = [[*header, f"{cores} cores with noise"]]
    for survey, given, name in composed_cases():
        batch = 48 if "hst" in survey else 128
        one = ours(given, name, seconds, batch=batch, threads=1, noise="none")
        peer = composed_lenstronomy_rate(given, name, seconds)
        many = ours(given, name, seconds, batch=batch, threads=cores, noise="none")
        noisy = ours(given, name, seconds, batch=batch, threads=cores)
        rows.append(
            [survey, name or "all", f"{one:.0f}", f"{peer:.2f}", f"{one / peer:.0f}×", f"{many:.0f}", f"{noisy:.0f}"]
        )  # fmt: skip
        print("  " + "  ".join(rows[-1]), file=sys.stderr, flush=True)
    say(table(rows), f"\n{COMPOSED_PEER}\n")


def device_tables(seconds: float, cores: int, alone: bool = False) -> list[str]:
    """Returns the tables of the torch backend: on the CPU, if not a GPU alone, and on a GPU where there is one."""
    gpu = torch.cuda.is_available()
    devices = [*([] if alone else ["cpu"]), *(["cuda"] if gpu else [])]
    cases: list[tuple[str, object, str | None]] = [(s, s, c) for s in SURVEYS for c in CLASSES]
    rows = [["survey", "class", *(f"{d} float32" for d in devices), *(["cuda with noise"] if gpu else [])]]  # fmt: skip
    if gpu:
        cases += [case for case in composed_cases() if case[2] is None]
    for survey, given, name in cases:
        size = {"hst, M > 10⁷": 128}.get(survey, 512)
        options = {"threads": cores, "backend": "torch"}
        rates = []
        if survey in SURVEYS and not alone:
            rates.append(f"{ours(given, name, seconds, batch=64, noise='none', **options):.0f}")
        elif not alone:
            rates.append("")
        for noise in ("none", "original") if gpu else ():
            rate = ours(given, name, seconds, batch=size, noise=noise, device="cuda", **options)
            rates.append(f"{rate:.0f}")
        rows.append([survey, name or "all", *rates])
        print("  " + "  ".join(rows[-1]), file=sys.stderr, flush=True)
    return [f"## The torch backend, noise-free, on {' and '.join(devices)}\n", table(rows), ""]


if __name__ == "__main__":
    main()
