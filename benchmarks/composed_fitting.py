"""The smooth fit of composed surveys, for ``fitting.py``: its speed beside the former code's and lenstronomy's, convergence, and pulls."""

import contextlib
import dataclasses
import io
import time

import numpy as np
import torch

from haloformer.fitting import SmoothFit, SmoothFitter
from haloformer.fitting.composed import ComposedFitter, as_named
from haloformer.fitting.composed.fitter import BY_TENSORS
from haloformer.simulation import Simulator, collect, get_any_survey, get_survey
from haloformer.simulation.instruments import background_rms, pixel_axis
from haloformer.simulation.psf import psf_kernel

SEED = 45  # of no image by which the fit was tuned: those had 5, 11, 43 and 44
SIZE = 96  # pixels that are fitted of model_i_fair, as in training
SURVEYS = (("model_i_fair", SIZE), ("ladder_1_camera", None), ("ladder_3_multipoles", None))
STARTS = 10
NEAR = 0.1  # standard deviations
ITERATIONS = 4000  # of Nelder–Mead at most

FORMER = {
    "base": "model_i",
    "name": "fifteen",
    "deflector": {
        "theta_E": {"normal": [1.2, 0.15]},
        **{name: {"normal": [0, 0.1]} for name in ("e1", "e2")},
        **{name: {"normal": [0, 0.03]} for name in ("x", "y")},
        **{name: {"normal": [0, 0.05]} for name in ("gamma1", "gamma2")},
    },
    "source": {
        "base": "disc_amp20",
        "R_sersic": {"uniform": [0.1, 0.5]},
        "n_sersic": {"uniform": [0.5, 2.0]},
        **{name: {"normal": [0, 0.1]} for name in ("e1", "e2")},
        "amp": {"uniform": [10, 40]},
    },
}
"""A survey of one lens galaxy and one source with 15 free parameters, which the fit by tensors of ``SmoothFitter`` knows."""


class TensorFitter(ComposedFitter):
    """The fit without its compiled kernel."""

    def _method(self, device: torch.device) -> object:
        return BY_TENSORS


def images_of(name: str, size: int | None, n: int, classes: list[str], **options: object) -> tuple[torch.Tensor, dict[str, np.ndarray]]:  # fmt: skip
    """Images of a survey (n, 1, N, N), their central part, and their parameters."""
    simulator = Simulator(name, classes=classes, seed=SEED, threads=1, **options)  # type: ignore[arg-type]  # by name
    batch = collect(simulator, n)
    images, parameters = batch.images, batch.parameters
    if size is not None:
        margin = (images.shape[-1] - size) // 2
        images = images[..., margin : margin + size, margin : margin + size].contiguous()
    return images, parameters


def rate(fitter: object, images: torch.Tensor, seconds: float, repeats: int = 3) -> float:
    """Images/s by the processor's time, the best of several repeats."""
    fitter(images[:2])  # type: ignore[operator]  # compiles, and prepares the starting points
    rates = []
    for _ in range(repeats):
        done, began = 0, time.process_time()
        while time.process_time() - began < seconds / repeats:
            fitter(images)  # type: ignore[operator]
            done += len(images)
        rates.append(done / (time.process_time() - began))
    return max(rates)


def speed(seconds: float) -> tuple[list[list[str]], list[str]]:
    """Rows of images/s, and what was compared."""
    rows = [["survey", "pixels", "free parameters", "kernel", "with detail", "tensors", "former tensors", "lenstronomy", "ratios"]]  # fmt: skip
    former = get_survey(FORMER)
    smooth = Simulator(former, classes=["no_sub"], seed=SEED, threads=1)
    margin = (150 - SIZE) // 2
    old_images = collect(smooth, 16).images[..., margin:-margin, margin:-margin].contiguous()
    fitter = SmoothFitter(former, size=SIZE)
    old = rate(fitter, old_images, seconds, 1)
    converged = float(fitter(old_images).converged.double().mean())
    theirs, remark = lenstronomy_fit()
    for name, size in (*SURVEYS, ("hst", None), ("euclid", None), ("jwst", None)):
        survey = get_any_survey(name)
        images, _ = images_of(name, size, 64, ["no_sub"])
        ours = ComposedFitter(survey, size=size)
        by_kernel = rate(ours, images, seconds)
        detailed = rate(lambda part, ours=ours: ours(part, detail=True), images, seconds)
        by_tensors = rate(TensorFitter(survey, size=size), images[:8], seconds / 2, 1)
        side, count = images.shape[-1], len(ours.names)
        row = [name, f"{side}×{side}", str(count), f"{by_kernel:.0f}", f"{detailed:.0f}", f"{by_tensors:.1f}"]  # fmt: skip
        if name == "model_i_fair":
            row += [f"{old:.1f}", f"{theirs:.4f}", f"{by_kernel / old:.0f}×, {by_kernel / theirs:,.0f}×"]  # fmt: skip
        else:
            row += ["–", "–", "–"]
        rows.append(row)
    remarks = [
        f"former tensors: the fit of surveys of one lens galaxy and one Sérsic source, with 15 free parameters; {100 * converged:.0f} % of 16 images converged in its 8 steps.",
        remark,
    ]
    return rows, remarks


def lenstronomy_fit() -> tuple[float, str]:
    """Images/s of lenstronomy's Nelder–Mead on one image of model_i_fair, and how much better or worse it is than ours.

    The image has the camera's own noise, as lenstronomy has no likelihood for the counts. It starts two standard errors off our result in
    each parameter: nearer than any fit begins.
    """
    from lenstronomy.Workflow.fitting_sequence import FittingSequence

    survey = get_any_survey("model_i_fair")
    images, parameters = images_of("model_i_fair", SIZE, 1, ["no_sub"], noise="instrument")
    seconds = float(parameters["exposure_time"][0])
    fitter = ComposedFitter(survey, noise="instrument", size=SIZE, exposure_known=True)
    fit = fitter(images, torch.tensor([seconds]))
    camera, axis = survey.instrument, pixel_axis(survey.instrument)
    corner = float(axis[(camera.num_pix - SIZE) // 2])
    start = dict(zip(fit.names, (fit.values + 2 * fit.errors)[0].tolist()))
    width = dict(zip(fit.names, fit.errors[0].tolist()))
    groups = {
        "lens": [
            {"theta_E": "lens_theta_E", "e1": "lens_e1", "e2": "lens_e2", "center_x": "lens_x", "center_y": "lens_y"},
            {"gamma1": "gamma1", "gamma2": "gamma2"},
        ],
        "source": [
            {"R_sersic": "source_R_sersic", "n_sersic": "source_n_sersic", "e1": "source_e1", "e2": "source_e2",
             "center_x": "source_x", "center_y": "source_y"},
        ],
    }  # fmt: skip
    fixed = {"lens": [{}, {"ra_0": 0, "dec_0": 0}], "source": [{}]}
    wide = {"theta_E": (0.3, 3), "R_sersic": (0.01, 3), "n_sersic": (0.3, 6)}
    settings = {}
    for kind, parts in groups.items():
        begin = [{k: start[v] for k, v in part.items()} for part in parts]
        sigma = [{k: width[v] for k, v in part.items()} for part in parts]
        low = [{k: wide.get(k, (-0.8, 0.8))[0] for k in part} for part in parts]
        high = [{k: wide.get(k, (-0.8, 0.8))[1] for k in part} for part in parts]
        settings[f"{kind}_model"] = [begin, sigma, fixed[kind], low, high]
    data = {
        "image_data": images[0, 0].double().numpy(), "background_rms": background_rms(camera), "exposure_time": seconds,
        "ra_at_xy_0": corner, "dec_at_xy_0": corner, "transform_pix2angle": np.eye(2) * camera.pixel_scale,
    }  # fmt: skip
    psf = {"psf_type": "PIXEL", "kernel_point_source": psf_kernel(camera)}
    sequence = FittingSequence(
        {"multi_band_list": [[data, psf, {"supersampling_factor": 1}]], "multi_band_type": "single-band"},
        {"lens_model_list": ["SIE", "SHEAR"], "source_light_model_list": ["SERSIC_ELLIPSE"]},
        {"linear_solver": True}, {"source_marg": False}, settings, verbose=False,
    )  # fmt: skip
    before = sequence.best_fit_likelihood()
    began, said = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(said):
        sequence.fit_sequence([["SIMPLEX", {"n_iterations": ITERATIONS}]])
    spent = time.process_time() - began
    best = sequence.best_fit()
    found = {
        v: best[f"kwargs_{kind}"][k][name]
        for kind, parts in groups.items()
        for k, part in enumerate(parts)
        for name, v in part.items()
    }
    apart = max(abs(found[name] - start[name] + 2 * width[name]) / width[name] for name in found)
    return 1 / spent, (
        f"lenstronomy: one image of model_i_fair with the camera's own noise, SIE, shear and Sérsic source, 13 non-linear parameters and the flux solved for, by Nelder–Mead, begun two standard errors from our result in each parameter: "
        f"{spent:.0f} s, log-likelihood {before:.0f} to {sequence.best_fit_likelihood():.0f}, at the end at most {apart:.2f} standard errors from ours."
    )


def convergence(n: int) -> list[list[str]]:
    """Rows of how many of n smooth lenses end where the best of ten starts does."""
    rows = [["survey", "pixels", "converged", f"within {NEAR}σ of the best of {STARTS} starts", "each start alone"]]  # fmt: skip
    for name, size in SURVEYS:
        survey = get_any_survey(name)
        images, _ = images_of(name, size, n, ["no_sub"])
        fitter = ComposedFitter(survey, size=size)
        fits = [_numbers(fitter(part)) for part in images.split(64)]
        values, errors = (
            torch.cat([getattr(fit, k) for fit in fits]) for k in ("values", "errors")
        )
        converged = torch.cat([fit.converged for fit in fits])
        ends = [fitter.ends(part, STARTS) for part in images.split(64)]
        found, cost, moved = (torch.cat([each[k] for each in ends]) for k in range(3))
        cost = torch.where(moved < NEAR, cost, torch.inf)
        best = found[torch.arange(n), cost.argmin(1)]
        sigma = errors.clamp(min=1e-12)
        here = ((values - best).abs() / sigma).amax(1) < NEAR
        # A start of the ten that ends lower than all others may still be no better than ours.
        alone = ((found - best[:, None]).abs() / sigma[:, None]).amax(2) < NEAR
        side = images.shape[-1]
        rows.append([name, f"{side}×{side}", f"{100 * converged.double().mean():.1f} %", f"{100 * here.double().mean():.1f} %", f"{100 * alone.double().mean():.0f} %"])  # fmt: skip
    return rows


def pulls(n: int, more: int) -> list[list[str]]:
    """Rows of mean, standard deviation and half the distance from the 16th to the 84th percentile of the pulls of each parameter.

    The last says how many of the fits that converged have one above 5.
    """
    columns: dict[str, dict[str, str]] = {}
    wrong: dict[str, str] = {}
    names: list[str] = []
    for name, size in SURVEYS:
        survey = get_any_survey(name)
        count = n if name == "model_i_fair" else more
        images, parameters = images_of(name, size, count, ["no_sub"])
        fitter = ComposedFitter(survey, size=size)
        fits = [_numbers(fitter(part)) for part in images.split(64)]
        found, truth = _pulls(fits, as_named(survey, parameters))
        title = f"{name} ({count:,})"
        low, high = np.percentile(found, [15.87, 84.13], axis=0)
        columns[title] = {
            each: f"{mean:+.2f} {spread:.2f} ({half:.2f})"
            for each, mean, spread, half in zip(
                fitter.names, found.mean(0), found.std(0), (high - low) / 2
            )
        }
        wrong[title] = f"{(np.abs(found) > 5).any(1).sum()} of {len(found):,}"
        names += [each for each in truth if each not in names]
    rows = [["parameter", *columns]]
    rows += [[each, *(column.get(each, "–") for column in columns.values())] for each in names]
    return [*rows, ["any above 5", *wrong.values()]]


def _numbers(fit: SmoothFit) -> SmoothFit:
    """A fit without its images, of which many would fill the memory."""
    nothing = torch.zeros(0)
    return dataclasses.replace(fit, model=nothing, sigma=nothing, residual=nothing)


def _pulls(
    fits: list[SmoothFit], named: dict[str, np.ndarray]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pulls (n, P) of the fits that converged, in what is fitted: relative for positive parameters."""
    converged = torch.cat([fit.converged for fit in fits]).numpy()
    values = torch.cat([fit.values for fit in fits]).double().numpy()
    errors = torch.cat([fit.errors for fit in fits]).double().numpy()
    names = fits[0].names
    truth = np.stack([named[name] for name in names], axis=1)
    positive = np.array([name in ("lens_theta_E", "source_R_sersic", "source_n_sersic", "source_flux", "exposure_time") for name in names])  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = (np.log(values) - np.log(truth)) / (errors / values)
    found = np.where(positive, logs, (values - truth) / errors)
    return found[converged], names


def classes(n: int) -> list[list[str]]:
    """Rows of what fits of each class leave."""
    rows = [["survey", "class", "converged", "χ² 5 %", "χ² median", "χ² 95 %", "detail 5 %", "detail median", "detail 95 %"]]  # fmt: skip
    for name, size in (("model_i_fair", SIZE), ("ladder_3_multipoles", None), ("hst", None)):
        fitter = ComposedFitter(get_any_survey(name), size=size)
        for class_name in ("no_sub", "cdm", "axion"):
            images, _ = images_of(name, size, n, [class_name])
            fits = [fitter(part, detail=True) for part in images.split(64)]
            chi2 = torch.cat([fit.chi2 for fit in fits]).numpy()
            fine = torch.cat([_mean_square(fit) for fit in fits]).numpy()
            converged = torch.cat([fit.converged for fit in fits]).double().mean()
            numbers = [f"{np.quantile(x, q):.3f}" for x in (chi2, fine) for q in (0.05, 0.5, 0.95)]
            rows.append([name, class_name, f"{100 * converged:.1f} %", *numbers])
    return rows


def _mean_square(fit: SmoothFit) -> torch.Tensor:
    """Mean square of the detail per pixel that counts."""
    assert fit.detail is not None
    counted = (fit.residual != 0).sum((1, 2, 3)).clamp(min=1)
    return fit.detail.square().sum((1, 2, 3)) / counted
