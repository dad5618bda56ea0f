"""How exact the images are: against lenstronomy, and float32 against float64. Differences in units of the peak, and in flux.

python benchmarks/accuracy.py
"""

import dataclasses

import numpy as np
import torch
from components import AXIS, CASES, Images, on_grid
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from torch import Tensor

from haloformer.simulation import Simulator, get_any_survey, list_surveys
from haloformer.simulation.components import Clumpy, LensLight, Sersic, Setting, spiral
from haloformer.simulation.components.component import as_tensors
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.composed.render import ComposedRenderer
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import Uniform
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.lenstronomy_backend import set_smoothing
from haloformer.simulation.psf import rays_per_pixel

RAYS = 3
"""Per side of a pixel at most, of images that are compared with lenstronomy's."""


def worst(images: Tensor, exact: Tensor) -> tuple[float, float]:
    """The largest difference of a pixel in units of its image's peak, and the largest relative difference in flux."""
    images, exact = images.double(), exact.double()
    pixel = (images - exact).abs().amax((1, 2, 3)) / exact.amax((1, 2, 3))
    return pixel.max().item(), (images.sum((1, 2, 3)) / exact.sum((1, 2, 3)) - 1).abs().max().item()


def against_lenstronomy(survey: str, backend: str, count: int = 12) -> tuple[float, float]:
    """Noise-free float64 images of all classes, seed 5."""
    options = {"seed": 5, "noise": "none", "dtype": torch.float64}
    ours, theirs = (
        Simulator(survey, backend=b, **options).batch(range(count)).images
        for b in (backend, "lenstronomy")
    )
    return worst(ours, theirs)


def float32_against_float64(
    survey: str, name: str, count: int, block: int = 300
) -> tuple[float, float]:
    """Noise-free images of one class by the CPU kernel, seed 7."""
    single, double = (
        Simulator(survey, classes=[name], seed=7, noise="none", dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    blocks = [range(first, first + block) for first in range(0, count, block)]
    pixel, flux = zip(
        *(worst(single.batch(numbers).images, double.batch(numbers).images) for numbers in blocks)
    )
    return max(pixel), max(flux)


def components(count: int = 6) -> None:
    """Prints what each component does against lenstronomy, in float64, in float32, and by the compiled kernels in float32."""
    x, y = (torch.tensor(a)[None] for a in np.meshgrid(AXIS[::4], AXIS[::4]))
    setting = Setting.of(Cosmology(), np.full(count, 0.5), np.full(count, 1.5))
    lens = {"theta_E": 1.2, "e1": 0.1, "e2": -0.05, "x": 0.03, "y": -0.02}
    lens = {name: np.full(count, value) for name, value in lens.items()}
    print("| component | lenstronomy, float64 | float32 | compiled float32 | largest |")
    print("|---|---|---|---|---|")
    for name, part in CASES.items():
        drawn = part.draw(Images(count), setting, lens)
        double = {k: torch.tensor(v) for k, v in drawn.items()}
        exact = np.array([a.numpy() for a in part.deflection(x, y, double)])
        single = np.array([a.numpy() for a in part.deflection(x, y, as_tensors(drawn))])
        compiled = on_grid(part, drawn)[:, :, ::4, ::4]
        theirs = np.empty_like(exact)
        for i in range(count):
            names, words = zip(*part.lenstronomy({k: v[i] for k, v in drawn.items()}))
            alpha = LensModel(list(names)).alpha(x.numpy().ravel(), y.numpy().ravel(), list(words))
            theirs[:, i] = np.reshape(alpha, (2, *x.shape[1:]))
        # Beside a point mass a deflection has no limit: there in parts of itself.
        scale = np.maximum(np.abs(theirs), 1)
        errors = [(np.abs(found - theirs) / scale).max() for found in (exact, single, compiled)]
        cells = [f"{error:.0e}" for error in errors]
        print(
            f"| {name} | {' | '.join(cells)} | {np.median(np.abs(theirs).max((0, 2, 3))):.1e} |",
            flush=True,
        )


def galaxies(count: int = 6) -> None:
    """Prints what each kind of light does against lenstronomy, in parts of the peak."""
    axis = np.linspace(-0.5, 0.5, 61)
    x, y = (np.tile(a, (count, 1, 1)) for a in np.meshgrid(axis, axis))
    setting = Setting.of(Cosmology(), np.full(count, 0.5), np.full(count, 1.5))
    print("\n| light | lenstronomy, float64 | float32 | compiled float32 |")
    print("|---|---|---|---|")
    for name, part in {
        "Sérsic": Sersic(n_sersic=Uniform(0.5, 4.0), e1=0.2),
        "clumpy": Clumpy(),
    }.items():
        drawn = part.draw(Images(count), setting)
        tensors = {k: torch.tensor(v) for k, v in drawn.items()}
        exact = part.brightness(torch.tensor(x), torch.tensor(y), tensors).numpy()
        floats = {k: v.float() for k, v in tensors.items()}
        single = part.brightness(torch.tensor(x).float(), torch.tensor(y).float(), floats).numpy()
        compiled = np.zeros(x.shape, np.float32)
        rays = x.astype(np.float32), y.astype(np.float32)
        part.at_rays(drawn, np.ones(count))(np.arange(count), np.arange(count), *rays, compiled)
        theirs = np.empty_like(exact)
        for i in range(count):
            names, words = zip(*part.lenstronomy({k: v[i] for k, v in drawn.items()}))
            light = LightModel(list(names))
            set_smoothing(light)
            theirs[i] = light.surface_brightness(x[i].ravel(), y[i].ravel(), list(words)).reshape(
                61, 61
            )
        peak = theirs.max((1, 2), keepdims=True)
        errors = [(np.abs(found - theirs) / peak).max() for found in (exact, single, compiled)]
        print(f"| {name} | {' | '.join(f'{error:.0e}' for error in errors)} |", flush=True)


def without_lens_galaxy(name: str) -> ComposedSurvey:
    """Returns a composed survey without light of the lens galaxy, if that follows the arcs."""
    survey = get_any_survey(name)
    if isinstance(survey.lens_light, LensLight):
        survey = dataclasses.replace(survey, lens_light=None)
    return survey


def composed_surveys(count: int = 6) -> None:
    """Prints images of composed surveys against lenstronomy, in parts of the peak; without light of the lens galaxy, if it follows the arcs.

    Of cameras with more than :data:`RAYS` rays a pixel both trace those: lenstronomy takes minutes for more.
    """
    print("\n| survey | torch float64 | torch float32 | compiled float32 |")
    print("|---|---|---|---|")
    for name in list_surveys(composed=True):
        survey = without_lens_galaxy(name)
        if rays_per_pixel(survey.instrument) > RAYS:
            survey = survey.with_camera(supersampling=RAYS)
        given = {"seed": 5, "noise": "none"}
        ways = [("torch", torch.float64), ("torch", torch.float32), ("numba", torch.float32)]
        theirs = (
            Simulator(survey, backend="lenstronomy", dtype=torch.float64, **given)
            .batch(range(count))
            .images
        )
        found = [
            worst(
                Simulator(survey, backend=backend, dtype=dtype, **given).batch(range(count)).images,
                theirs,
            )[0]
            for backend, dtype in ways
        ]
        print(f"| {name} | {' | '.join(f'{error:.0e}' for error in found)} |", flush=True)


def finer_spirals(count: int = 3) -> None:
    """Prints `model_iv`'s images against lenstronomy, which is given its spirals as pictures: the finer those, the smaller what is left."""
    print("\n| pixels of lenstronomy's picture of a spiral | model_iv, torch float64 |")
    print("|---|---|")
    usual = spiral.PICTURE_SIDE
    given = {"seed": 5, "noise": "none", "dtype": torch.float64, "classes": ["no_sub"]}
    ours = Simulator("model_iv", backend="torch", **given).batch(range(count)).images
    for times in (1, 2, 4):
        spiral.PICTURE_SIDE = times * (usual - 1) + 1
        theirs = Simulator("model_iv", backend="lenstronomy", **given).batch(range(count)).images
        print(f"| {spiral.PICTURE_SIDE}² | {worst(ours, theirs)[0]:.0e} |", flush=True)
    spiral.PICTURE_SIDE = usual


def finer_rays(count: int = 24) -> None:
    """Prints what rays closer together change of the images of composed surveys, in standard deviations of the noise."""
    print(
        "\n| survey | rays a pixel, finer | images: median | 84 % | largest | substructure: median, as shipped | finer | the change of it |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in list_surveys(composed=True):
        survey = without_lens_galaxy(name)
        camera = survey.instrument
        rays = rays_per_pixel(camera)
        finer = min(4 * rays, 10)
        simulator = Simulator(survey, seed=5, noise="none", paired=True)
        parameters = dict(simulator.batch(range(count * len(simulator.class_names))).parameters)
        found = []
        for n in (rays, finer):
            traced = survey.with_camera(supersampling=n)
            made = ComposedRenderer(traced, torch.float32, compiled=True).images(parameters)
            found.append(made.images.double().reshape(len(made.images), -1))
        seconds = torch.as_tensor(parameters["exposure_time"] * camera.num_exposures)[:, None]
        photons = found[1].clamp(min=0) + (camera.sky or 0.0)
        noise = torch.sqrt(background_rms(camera) ** 2 + photons / seconds)
        scaled = [each / noise for each in found]
        smooth = simulator.class_names.index("no_sub")
        k = len(simulator.class_names)
        errors = (scaled[0] - scaled[1])[smooth::k].norm(dim=1)
        others = [i for i in range(len(found[0])) if i % k != smooth]
        twins = [i - i % k + smooth for i in others]
        signals = [(each[others] - each[twins]) for each in scaled]
        sizes = [each.norm(dim=1) for each in signals]
        change = (signals[0] - signals[1]).norm(dim=1)
        share = (change / sizes[1]).nanmedian().item()  # where there is some
        cells = [errors.median().item(), errors.quantile(0.84).item(), errors.max().item()]
        cells += [each.median().item() for each in sizes]
        print(
            f"| {name} | {rays}, {finer} | {' | '.join(f'{cell:.2g}' for cell in cells)} | {share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    for survey in ("model_i", "model_ii", "model_iii"):
        for backend in ("numba", "torch"):
            pixel, flux = against_lenstronomy(survey, backend)
            print(
                f"{survey:10} {backend:6} float64 against lenstronomy, 12 images: {pixel:.1e} of the peak, flux {flux:.1e}"
            )
    for survey, count in (("model_i", 1500), ("model_ii", 6000), ("model_iii", 6000)):
        for name in ("axion", "cdm"):
            pixel, flux = float32_against_float64(survey, name, count)
            print(
                f"{survey:10} {name:6} float32 against float64, {count} images: {pixel:.1e} of the peak, flux {flux:.1e}",
                flush=True,
            )
    print("\nDeflections of components, arcsec")
    components()
    print("\nSurface brightness, in parts of the peak")
    galaxies()
    print("\nImages of composed surveys, in parts of the peak")
    composed_surveys()
    print(
        "\nImages of model_iv by the picture of its spirals that lenstronomy gets, in parts of the peak"
    )
    finer_spirals()
    print("\nImages by rays that are closer together, in standard deviations of the noise")
    finer_rays()
