"""The same scenes through lenstronomy itself, one image at a time: slow, and the way for anyone to check us on any scene.

Needs the optional part ``lenstronomy``. Where lenstronomy's defaults have changed since 1.9.2, which made the original
data, the old ones are asked for explicitly; a survey's deflection scale enters through the lens parameters, as lenstronomy
would apply it to every reduced deflection.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from haloformer.errors import InputError, how_to_install
from haloformer.simulation.renderer import vortex_masses
from haloformer.simulation.sources import SERSIC_R_MIN
from haloformer.simulation.surveys import Survey


def render_with_lenstronomy(survey: Survey, parameters: Mapping[str, Any]) -> np.ndarray:
    """Renders noise-free images with lenstronomy.

    Args:
        survey: Gives the instrument, the Einstein radius of a mass, and the deflection scale.
        parameters: As for :func:`haloformer.simulation.render`.

    Returns:
        (B, H, W) float64 flux in counts/s per pixel.

    Raises:
        InputError: lenstronomy is not installed.
    """
    return np.stack(
        [
            model.image(lenses, sources)
            for model, lenses, sources in lenstronomy_scenes(survey, parameters)
        ]
    )


def lenstronomy_scenes(
    survey: Survey, parameters: Mapping[str, Any]
) -> Iterator[tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]]:
    """The scenes in lenstronomy's own terms, one by one.

    Args:
        survey: As for :func:`render_with_lenstronomy`.
        parameters: As for :func:`render_with_lenstronomy`.

    Yields:
        A lenstronomy ``ImageModel``, the parameters of its lenses and those of its source; ``model.image(lenses, sources)`` renders.
    """
    try:
        from lenstronomy.Data.pixel_grid import PixelGrid
        from lenstronomy.Data.psf import PSF
        from lenstronomy.ImSim.image_model import ImageModel
        from lenstronomy.LensModel.lens_model import LensModel
        from lenstronomy.LightModel.light_model import LightModel
    except ImportError as error:
        raise InputError(
            f"backend 'lenstronomy' needs the package lenstronomy: {how_to_install('lenstronomy')}"
        ) from error
    instrument, n = survey.instrument, survey.instrument.num_pix
    corner = -(n - 1) / 2 * instrument.pixel_scale
    grid = PixelGrid(
        nx=n,
        ny=n,
        ra_at_xy_0=corner,
        dec_at_xy_0=corner,
        transform_pix2angle=np.eye(2) * instrument.pixel_scale,
    )
    if instrument.psf_fwhm > 0:
        psf = PSF(
            "GAUSSIAN",
            fwhm=instrument.psf_fwhm,
            pixel_size=instrument.pixel_scale,
            truncation=instrument.psf_truncation,
        )
    else:
        psf = PSF("NONE")
    light = LightModel(["SERSIC_ELLIPSE"])
    set_smoothing(light)
    values = {name: np.asarray(array) for name, array in parameters.items()}
    for i in range(len(values["source_x"])):
        names, lenses = _lens_model(survey, values, i)
        source = {
            "amp": values["source_amp"][i],
            "R_sersic": values["source_R_sersic"][i],
            "n_sersic": values["source_n_sersic"][i],
            "e1": values["source_e1"][i],
            "e2": values["source_e2"][i],
            "center_x": values["source_x"][i],
            "center_y": values["source_y"][i],
        }
        yield ImageModel(grid, psf, LensModel(names), source_model_class=light), lenses, [source]


def _lens_model(
    survey: Survey, values: Mapping[str, np.ndarray], i: int
) -> tuple[list[str], list[dict[str, float]]]:
    """Profiles and parameters of one scene; a factor s on all deflections is s on θ_E of the SIE and the shear, √s on θ_E of a point."""
    scale = survey.scale()
    sie = {
        "theta_E": scale * values["lens_theta_E"][i],
        "e1": values["lens_e1"][i],
        "e2": values["lens_e2"][i],
        "center_x": values["lens_x"][i],
        "center_y": values["lens_y"][i],
    }
    shear = {
        "gamma1": scale * values["gamma1"][i],
        "gamma2": scale * values["gamma2"][i],
        "ra_0": 0.0,
        "dec_0": 0.0,
    }
    masses, xs, ys = [], [], []
    if "subhalo_mass" in values:
        there = np.isfinite(values["subhalo_mass"][i])
        masses.append(values["subhalo_mass"][i][there])
        xs.append(values["subhalo_x"][i][there])
        ys.append(values["subhalo_y"][i][there])
    if "vortex_mass" in values and np.isfinite(values["vortex_mass"][i]):
        n_masses = vortex_masses(survey)
        along = np.linspace(-1, 1, n_masses) * values["vortex_half_length"][i]
        masses.append(np.full(n_masses, values["vortex_mass"][i] / n_masses))
        xs.append(values["vortex_x"][i] + along * np.cos(values["vortex_angle"][i]))
        ys.append(values["vortex_y"][i] + along * np.sin(values["vortex_angle"][i]))
    points = [
        {"theta_E": np.sqrt(scale) * float(survey.theta_E(m)), "center_x": x, "center_y": y}
        for m, x, y in zip(
            np.concatenate([*masses, []]), np.concatenate([*xs, []]), np.concatenate([*ys, []])
        )
    ]
    return ["SIE", "SHEAR"] + ["POINT_MASS"] * len(points), [sie, shear, *points]


def set_smoothing(light: Any) -> None:
    """Gives the Sérsic profile the radius of constant brightness that lenstronomy had before 1.14."""
    for kind, profile in zip(light.profile_type_list, light.func_list, strict=True):
        names = [n for n in ("_smoothing", "smoothing", "_s") if hasattr(profile, n)]
        if not kind.startswith("SERSIC"):
            continue
        if not names:
            raise InputError(
                f"this lenstronomy's Sérsic profile ({inspect.getmodule(profile)}) has no smoothing radius that haloformer knows"
            )
        setattr(profile, names[0], SERSIC_R_MIN)
