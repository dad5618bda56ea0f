"""A fit in lenstronomy's words: profiles and keywords that render the same image."""

from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.fitting.reallens.masses import mass_profiles
from haloformer.fitting.reallens.operators import SourceGrid
from haloformer.simulation.psf import resampled

if TYPE_CHECKING:
    from haloformer.fitting.reallens.optimise import Fit
    from haloformer.fitting.reallens.result import RealLensFit

FINER = 10
"""Pixels of the source's picture per step of its grid: lenstronomy interpolates linearly between them."""

_LARGEST_PICTURE = 800  # pixels per side
_DIGITS = 8  # of its brightest pixel


def to_lenstronomy(fit: "RealLensFit") -> dict[str, Any]:
    """Returns lists of profiles and keywords for lenstronomy's classes, and the camera.

    Mass and lens light are exact. The source is two pictures on a finer grid, between whose pixels lenstronomy interpolates linearly where
    the fit has cubic splines.
    """
    best, seen = fit.best, fit.seen
    area = seen.pixel_scale**2  # lenstronomy's brightness is per arcsec²
    profiles = mass_profiles(best.problem.mass, best.vector)
    sources = [
        _interpolated(grid, best.solution.source[part], best, area)
        for grid, part in zip(best.source.grids, best.source.parts())
    ]
    height, width = seen.image.shape
    return {
        "lens_model_list": [name for name, _ in profiles],
        "kwargs_lens": [keywords for _, keywords in profiles],
        "source_light_model_list": ["INTERPOL"] * len(sources),
        "kwargs_source": sources,
        **_lens_light(fit, area),
        "kwargs_data": {
            "nx": width,
            "ny": height,
            "ra_at_xy_0": -(width - 1) / 2 * seen.pixel_scale,
            "dec_at_xy_0": -(height - 1) / 2 * seen.pixel_scale,
            "transform_pix2angle": [[seen.pixel_scale, 0.0], [0.0, seen.pixel_scale]],
        },
        **_psf(fit),
    }


def _psf(fit: "RealLensFit") -> dict[str, Any]:
    seen, rays = fit.seen, round(fit.ready.supersampling)
    kernel, fine = seen.psf, seen.sharp_psf is not None and rays > 1
    psf: dict[str, Any] = {"psf_type": "PIXEL"}
    if seen.sharp_psf is not None and fine:
        kernel = resampled(seen.sharp_psf, seen.sharp_scale, seen.pixel_scale / rays)
        psf["point_source_supersampling_factor"] = rays
    return {
        "kwargs_psf": {**psf, "kernel_point_source": kernel.tolist()},
        "kwargs_numerics": {"supersampling_factor": rays, "supersampling_convolution": fine},
    }


def source_picture(grid: SourceGrid, coefficients: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the brightness of one grid of a source on a picture about its middle, and the pixels' size, in units of :meth:`~.masses.Mass.scale`."""
    wide = 2 * grid.border
    n = min(round(FINER * wide / grid.step), _LARGEST_PICTURE) // 2 * 2 + 1
    scale = wide / (n - 1)
    axis = (np.arange(n) - (n - 1) / 2) * scale
    x, y = np.meshgrid(grid.x + axis, grid.y + axis)
    return (grid.splines(x.ravel(), y.ravel()) @ coefficients).reshape(n, n), scale


def _interpolated(
    grid: SourceGrid, coefficients: np.ndarray, fit: "Fit", area: float
) -> dict[str, Any]:
    picture, scale = source_picture(grid, coefficients)
    center_x, center_y = fit.middle(grid)
    picture /= area
    top = float(np.abs(picture).max())
    digits = _DIGITS - int(np.floor(np.log10(top))) if top > 0 else _DIGITS
    return {
        "image": picture.round(digits).tolist(),
        "amp": 1.0,
        "center_x": center_x,
        "center_y": center_y,
        "phi_G": 0.0,
        "scale": scale * fit.scale,
    }


def _lens_light(fit: "RealLensFit", area: float) -> dict[str, Any]:
    basis = fit.ready.basis
    amplitudes = fit.best.solution.light * basis.scale
    names, keywords = [], list[dict[str, float]]()
    for one, amplitude in zip(basis.gaussians, amplitudes[:-1]):
        size = (1 - one.q) / (1 + one.q)
        names.append("GAUSSIAN_ELLIPSE")
        keywords.append(
            {
                "amp": float(amplitude / area * 2 * np.pi * one.sigma**2),
                "sigma": one.sigma,
                "e1": size * float(np.cos(2 * one.angle)),
                "e2": size * float(np.sin(2 * one.angle)),
                "center_x": one.x,
                "center_y": one.y,
            }
        )
    names.append("UNIFORM")
    keywords.append({"amp": float(amplitudes[-1] / area)})
    return {"lens_light_model_list": names, "kwargs_lens_light": keywords}
