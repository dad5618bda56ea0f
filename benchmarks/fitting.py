"""How fast is the smooth fit, and how good? Images/s and the ratio to lenstronomy's own fit in the same run; pulls and χ² by class.

    python benchmarks/fitting.py                 # all tables, some five minutes
    python benchmarks/fitting.py --composed      # only those of composed surveys, whose lens varies
    python benchmarks/fitting.py --gpu           # on a GPU, beside one core of the CPU
    python benchmarks/fitting.py --quick         # fewer images, for a look
    python benchmarks/fitting.py --out results/measurements/fitting.md

lenstronomy fits the same images with the same noise by its ``FittingSequence``: Nelder–Mead (``SIMPLEX``) from our own starting points, on
the same two free parameters, one image at a time. All on one thread, and by the processor's time, of which other work takes none.
"""

import argparse
import contextlib
import datetime
import io
import os
import platform
import re
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import composed_fitting as composed
import gpu_fitting
import numpy as np
import torch

from haloformer._version import code_version
from haloformer.fitting import SmoothFit, SmoothFitter
from haloformer.simulation import Simulator, collect, get_survey
from haloformer.simulation.instruments import background_rms
from haloformer.simulation.lenstronomy_backend import lenstronomy_scenes
from haloformer.simulation.simulator import LensBatch
from simulation import hardware, table

SURVEYS = (("model_i", "original"), ("model_ii", "instrument"), ("model_iii", "instrument"))
SEED = 41
ITERATIONS = 400  # of Nelder–Mead at most; it ends by its own tolerances long before


class TensorFitter(SmoothFitter):
    """The fit without its compiled kernel."""

    def _compiled(self, device: torch.device) -> bool:
        return False


def lenses(survey: str, noise: str, n: int, classes: list[str] | None = None) -> LensBatch:
    return collect(Simulator(survey, classes=classes, seed=SEED, noise=noise, threads=1), n)


def fit_rate(
    kind: type[SmoothFitter], survey: str, noise: str, images: torch.Tensor, seconds: float
) -> float:
    fitter = kind(survey, noise=noise)

    fitter(images)  # compiles, and prepares the starting points
    rates = []
    for _ in range(3):
        done, began = 0, time.process_time()
        while time.process_time() - began < seconds / 3:
            fitter(images)
            done += len(images)
        rates.append(done / (time.process_time() - began))
    return max(rates)


def starting_points(fitter: SmoothFitter, images: torch.Tensor) -> np.ndarray:
    """Where our own fit begins, (B, P)."""
    return fitter.prepare().start(images).double().numpy()


def fit_with_lenstronomy(
    survey: str, batch: LensBatch, start: np.ndarray, linear: bool
) -> tuple[np.ndarray, float, float]:
    """Source positions (B, 2) by lenstronomy's Nelder–Mead, its images/s, and the mean number of images that it rendered for one fit.

    Args:
        survey: Whose lenses they are.
        batch: Images with the instrument's noise.
        start: (B, 2) where to begin.
        linear: Whether lenstronomy solves for the amplitude, too, as it does by default; else it is held at the survey's.
    """
    from lenstronomy.Workflow.fitting_sequence import FittingSequence

    camera = get_survey(survey).instrument
    corner = -(camera.num_pix - 1) / 2 * camera.pixel_scale
    psf = {"psf_type": "GAUSSIAN", "fwhm": camera.psf_fwhm, "pixel_size": camera.pixel_scale, "truncation": camera.psf_truncation}  # fmt: skip
    found, spent, evaluations = [], 0.0, []
    scenes = lenstronomy_scenes(get_survey(survey), batch.parameters)
    for (model, lens, (source,)), image, place in zip(
        scenes, batch.images[:, 0].double().numpy(), start
    ):
        data = {
            "image_data": image,
            "background_rms": background_rms(camera),
            "exposure_time": float(camera.exposure_time) * camera.num_exposures,
            "ra_at_xy_0": corner,
            "dec_at_xy_0": corner,
            "transform_pix2angle": np.eye(2) * camera.pixel_scale,
        }
        free = {"center_x": float(place[0]), "center_y": float(place[1])}
        fixed = {
            key: value
            for key, value in source.items()
            if key not in free and not (linear and key == "amp")
        }
        width, low, high = ({key: value for key in free} for value in (0.05, -1.0, 1.0))
        sequence = FittingSequence(
            {
                "multi_band_list": [[data, psf, {"supersampling_factor": 1}]],
                "multi_band_type": "single-band",
            },
            {
                "lens_model_list": model.LensModel.lens_model_list,
                "source_light_model_list": ["SERSIC_ELLIPSE"],
            },
            {"linear_solver": linear},
            {"source_marg": False},
            {
                "lens_model": [
                    lens,
                    [{} for _ in lens],
                    lens,
                    [{} for _ in lens],
                    [{} for _ in lens],
                ],
                "source_model": [[fixed | free], [width], [fixed], [low], [high]],
            },
            verbose=False,
        )
        began, said = time.process_time(), io.StringIO()
        with contextlib.redirect_stdout(said):
            sequence.fit_sequence([["SIMPLEX", {"n_iterations": ITERATIONS}]])
        spent += time.process_time() - began
        evaluations.append(int(re.findall(r"Function evaluations: (\d+)", said.getvalue())[0]))
        best = sequence.best_fit()["kwargs_source"][0]
        found.append((best["center_x"], best["center_y"]))
    return np.array(found), len(found) / spent, float(np.mean(evaluations))


def speed(seconds: float, n: int) -> tuple[list[list[str]], list[str]]:
    """Rows of images/s, and what the comparison of the positions gave."""
    rows = [
        [
            "survey",
            "noise",
            "pixels",
            "kernel",
            "tensors",
            "lenstronomy",
            "with its amplitude",
            "ratio",
        ]
    ]
    remarks = []
    for survey, noise in SURVEYS:
        batch = lenses(survey, noise, 64, ["no_sub"])
        rates = [
            fit_rate(kind, survey, noise, batch.images, seconds)
            for kind in (SmoothFitter, TensorFitter)
        ]
        side = batch.images.shape[-1]
        row = [survey, noise, f"{side}×{side}", *(f"{rate:.0f}" for rate in rates)]
        if (
            noise == "original"
        ):  # counts by a twofold Poisson process, which lenstronomy has no likelihood for
            rows.append([*row, "–", "–", "–"])
            continue
        few = lenses(survey, noise, n, ["no_sub"])
        fitter = SmoothFitter(survey, noise=noise)
        ours, start = fitter(few.images), starting_points(fitter, few.images)
        theirs, fixed_rate, evaluations = fit_with_lenstronomy(survey, few, start, linear=False)
        _, linear_rate, _ = fit_with_lenstronomy(survey, few, start, linear=True)
        apart = np.abs(theirs - ours.values.numpy()) / ours.errors.numpy()
        rows.append(
            [
                *row,
                f"{fixed_rate:.2f}",
                f"{linear_rate:.2f}",
                f"{rates[0] / max(fixed_rate, linear_rate):.0f}×",
            ]
        )
        remarks.append(
            f"{survey}: of {n} images, our position and lenstronomy's lie {np.median(apart):.3f} standard errors apart in the median and "
            f"{apart.max():.2f} at most; lenstronomy rendered {evaluations:.0f} images for each."
        )
        if np.median(apart) > 0.5:
            raise SystemExit(f"{survey}: the two fits disagree: {remarks[-1]}")
    return rows, remarks


def accuracy(n: int) -> list[list[str]]:
    """Rows of pulls and χ² of n images of each class."""
    rows = [
        ["survey", "noise", "class", "converged", "χ² 5 %", "χ² median", "χ² 95 %", "detail 5 %", "detail median", "detail 95 %", "pulls: mean", "pulls: std"]
    ]  # fmt: skip
    for survey, noise in SURVEYS:
        for name in ("no_sub", "cdm", "axion"):
            batch = lenses(survey, noise, n, [name])
            fitter = SmoothFitter(survey, noise=noise)
            parts = [fitter(part, detail=True) for part in batch.images.split(64)]
            chi2 = torch.cat([part.chi2 for part in parts]).numpy()
            pulls = np.concatenate([_pulls(part, batch, 64 * i) for i, part in enumerate(parts)])
            fine = torch.cat([part.detail.square().mean((1, 2, 3)) for part in parts]).numpy()  # type: ignore[union-attr]
            converged = torch.cat([part.converged for part in parts]).float().mean()
            rows.append(
                [survey, noise, name, f"{100 * converged:.1f} %", *(f"{np.quantile(x, q):.3f}" for x in (chi2, fine) for q in (0.05, 0.5, 0.95)),
                 " / ".join(f"{x:+.2f}" for x in pulls.mean(0)), " / ".join(f"{x:.2f}" for x in pulls.std(0))]
            )  # fmt: skip
    return rows


def _pulls(fit: SmoothFit, batch: LensBatch, first: int) -> np.ndarray:
    """(estimate − truth) / error, (B, P)."""
    truth = np.stack(
        [batch.parameters[name][first : first + len(fit.values)] for name in fit.names], axis=1
    )
    return (fit.values.numpy() - truth) / fit.errors.numpy()


def of_one_lens(
    say: Callable[..., None], accuracy_only: bool, seconds: float, few: int, many: int
) -> None:
    """The tables of surveys whose lens never varies."""
    if not accuracy_only:
        rows, remarks = speed(seconds, few)
        say(
            "## Images per second of one core\n",
            table(rows),
            f"\n`no_sub` images of seed {SEED}; ours the best of 3 repeats of at least {seconds / 3:.1f} s on batches of 64 images, lenstronomy once on {few} images: Nelder–Mead of its "
            "`FittingSequence` from our starting points, with our two free parameters; *with its amplitude*: it also solves for the source's amplitude, "
            "as it does by default. The ratio is of the compiled kernel to the faster of the two. Much of it is the method: derivatives need few steps. "
            "lenstronomy has no likelihood for the counts of `model_i`.\n",
            "\n".join(remarks) + "\n",
        )
    say(
        "## χ² and pulls\n",
        table(accuracy(many)),
        f"\n{many} images of each class, seed {SEED}. Pulls, (estimate − truth) / error, of source_x / source_y (/ exposure_time): of `no_sub` their mean should be "
        f"0 ± {1 / np.sqrt(many):.2f} and their standard deviation 1. Of `cdm` and `axion` they say how far substructure, which the smooth lens does not have, pulls the source along. "
        "*Detail*: mean square of what is left when small changes of the lens as a whole are taken out of the residual.\n",
    )


def on_a_gpu(
    say: Callable[..., None], seconds: float, batch: int, compiled: bool, only: list[str] | None
) -> None:
    """The table of a GPU."""
    say(
        "## On a GPU\n",
        table(gpu_fitting.rows(seconds, batch, compiled, only)),
        f"\nImages/s by the clock, best of 3 repeats, of `no_sub` images of seed {gpu_fitting.SEED}; on the GPU in batches of *batch* images, on one core of the CPU in batches of 64 "
        "by its compiled kernel (but for *fifteen, one source*: the former fit by tensors). *Fused*: what is computed per ray compiled into few kernels. "
        "*As on the CPU*: of what converged on both, the share within 0.1σ in all parameters.\n",
    )


def of_composed_surveys(
    say: Callable[..., None], seconds: float, quick: bool, rates: bool = False
) -> None:
    """The tables of surveys whose lens, source and exposure vary."""
    n, pulled, more, each = (64, 128, 64, 32) if quick else (300, 2000, 500, 200)
    rows, remarks = composed.speed(seconds)
    say(
        "## Composed surveys: images per second of one core\n",
        table(rows),
        f"\n`no_sub` images of seed {composed.SEED} in batches of 64, the best of 3 repeats; the last three have clumpy sources, of which one Sérsic profile is "
        "an approximation. Ratios: to the former code by tensors, and to lenstronomy.\n",
        "\n".join(remarks) + "\n",
    )
    if rates:
        return
    say(
        "## Composed surveys: convergence\n",
        table(composed.convergence(n)),
        f"\n{n} smooth lenses of each survey; within {composed.NEAR}σ in each parameter of where the fit with the lowest χ² ends among {composed.STARTS} that begin at the "
        f"{composed.STARTS} draws most like the image. *Each start alone*: the share of single starts that end there.\n",
    )
    say(
        "## Composed surveys: pulls\n",
        table(composed.pulls(pulled, more)),
        "\nMean and standard deviation of (estimate − truth) / error over the fits that converged, of smooth lenses, and in brackets half the distance "
        "from the 16th to the 84th percentile, which a few fits at a wrong place do not raise; last, how many have a pull above 5. "
        f"They should be 0 ± {1 / np.sqrt(pulled):.2f} and 1 for the first survey, 0 ± {1 / np.sqrt(more):.2f} and 1 for the others.\n",
    )
    say(
        "## Composed surveys: what is left\n",
        table(composed.classes(each)),
        f"\n{each} images of each class. *Detail*: mean square, per pixel that counts, of what is left of the residual when all freedoms of the lens are fitted to it.\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer images and shorter measurements"
    )
    parser.add_argument("--accuracy", action="store_true", help="only the table of pulls and χ²")
    parser.add_argument("--out", help="also write the tables to this Markdown file")
    parser.add_argument(
        "--composed", action="store_true", help="only the tables of composed surveys"
    )
    parser.add_argument("--rates", action="store_true", help="with --composed: only their rates")
    parser.add_argument("--gpu", action="store_true", help="only the table of a GPU")
    parser.add_argument("--batch", type=int, default=2048, help="images at a time on the GPU")
    parser.add_argument("--surveys", nargs="+", help="with --gpu: only these")
    parser.add_argument(
        "--fused", action="store_true", help="with --gpu: also compile, which takes minutes"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seconds, few, many = (1.0, 5, 64) if options.quick else (4.0, 20, 400)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    named = ("torch", "numba", "scipy", "numpy", *(() if options.gpu else ("lenstronomy",)))
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in named)
    flags = "".join(
        f" --{name}"
        for name in ("quick", "accuracy", "composed", "rates", "gpu", "fused")
        if getattr(options, name)
    )
    report = [
        "# Speed and accuracy of the smooth fit\n",
        f"{datetime.date.today()}, {hardware()}, one thread; haloformer {code_version()}, Python {platform.python_version()}, {versions}.",
        f"Load average before: {load:.1f}; above 1, other work shared the cores; rates are by the processor's time.",
        f"Command: `python benchmarks/fitting.py{flags}`.\n",
    ]

    def say(*lines: str) -> None:
        report.extend(lines)
        print(*lines, sep="\n", flush=True)

    print(*report, sep="\n", flush=True)
    if options.gpu:
        on_a_gpu(say, seconds, options.batch, options.fused, options.surveys)
    elif not options.composed:
        of_one_lens(say, options.accuracy, seconds, few, many)
    if not options.accuracy and not options.gpu:
        of_composed_surveys(say, seconds, options.quick, options.rates)
    if options.out:
        target = Path(options.out)
        part = target.with_name(target.name + ".part")
        part.write_text("\n".join(report) + "\n", encoding="utf-8")
        os.replace(part, target)
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
