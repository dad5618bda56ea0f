"""The scenes of composed surveys through lenstronomy, one image at a time: slow, and the way for anyone to check us on any scene.

Deflection and brightness are lenstronomy's; what the camera makes of the brightness at the rays is ours, as lenstronomy takes no other
point-spread function than ours at the rays' spacing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError, how_to_install
from haloformer.simulation.components.component import Profile
from haloformer.simulation.composed.lens_galaxy import LensGalaxyLight, component_prefix
from haloformer.simulation.composed.survey import (
    ComposedSurvey,
    component_parameters,
    given_up,
    has_it,
    source_prefix,
)
from haloformer.simulation.lenstronomy_backend import set_smoothing
from haloformer.simulation.psf import observe, ray_axis


def render_with_lenstronomy(survey: ComposedSurvey, parameters: Mapping[str, np.ndarray]) -> Tensor:
    """Renders noise-free images with lenstronomy.

    Args:
        survey: The recipe.
        parameters: As they travel with the images, ``source_flux`` included.

    Returns:
        (B, H, W) float64 in counts/s per pixel; (B, bands, H, W) of a survey with bands.

    Raises:
        InputError: lenstronomy is not installed.
    """
    try:
        from lenstronomy.LensModel.lens_model import LensModel
        from lenstronomy.LightModel.light_model import LightModel
    except ImportError as error:
        raise InputError(
            f"backend lenstronomy needs lenstronomy: {how_to_install('lenstronomy')}"
        ) from error
    axis = ray_axis(survey.instrument)
    x, y = (each.ravel() for each in np.meshgrid(axis, axis))

    def brightness(parts: list[tuple[float, list[Profile]]], x: Any, y: Any) -> Any:
        total = np.zeros_like(x)
        for flux, profiles in parts:
            names, keywords = _split(profiles)
            light = LightModel(names)
            set_smoothing(light)
            total += flux * light.surface_brightness(x, y, keywords)
        return total.reshape(len(axis), len(axis))

    images: list[list[np.ndarray]] = []
    for i in range(len(parameters["z_lens"])):
        names, keywords = _split(lens_profiles(survey, parameters, i))
        alpha_x, alpha_y = LensModel(names).alpha(x, y, keywords)
        beta_x = x - alpha_x - parameters["source_x"][i]
        beta_y = y - alpha_y - parameters["source_y"][i]
        images.append([])
        for band in range(max(1, len(survey.bands))):
            total = brightness(source_profiles(survey, parameters, i, band), beta_x, beta_y)
            if isinstance(survey.lens_light, LensGalaxyLight):
                own = lens_light_profiles(survey.lens_light, parameters, i, band)
                place = (parameters[f"lens_light_{k}"][i] for k in ("x", "y"))
                total = total + brightness(own, *(a - b for a, b in zip((x, y), place)))
            images[-1].append(total)
    bands = [observe(torch.from_numpy(np.stack(each)), survey.instrument) for each in zip(*images)]
    return torch.stack(bands, dim=1) if survey.bands else bands[0]


def lens_profiles(
    survey: ComposedSurvey, parameters: Mapping[str, np.ndarray], i: int
) -> list[Profile]:
    """Returns the mass of image ``i`` in lenstronomy's words, with what the lens gives up for its substructure."""
    profiles: list[Profile] = []
    for number, part in enumerate(survey.mass_components().values()):
        own = component_parameters(part, parameters)
        if not has_it(part, {name: values[i : i + 1] for name, values in own.items()})[0]:
            continue
        one = {name: values[i] for name, values in own.items()}
        if number == 0:
            lighter = given_up({name: values[i : i + 1] for name, values in parameters.items()})
            one = {name: values[0] for name, values in component_parameters(part, lighter).items()}
        profiles += part.lenstronomy(one)
    given = {name: float(parameters[f"matched_{name}"][i]) for name in ("x", "y", "kappa", "gamma1", "gamma2")}  # fmt: skip
    center = {"ra_0": parameters["lens_x"][i], "dec_0": parameters["lens_y"][i]}
    return [
        *profiles,
        ("SHIFT", {"alpha_x": -given["x"], "alpha_y": -given["y"]}),
        ("CONVERGENCE", {"kappa": -given["kappa"], **center}),
        ("SHEAR", {"gamma1": -given["gamma1"], "gamma2": -given["gamma2"], **center}),
    ]


def source_profiles(
    survey: ComposedSurvey, parameters: Mapping[str, np.ndarray], i: int, band: int = 0
) -> list[tuple[float, list[Profile]]]:
    """Returns the flux of each component of image ``i``'s source in counts/s in a band, and its profiles for a flux of 1."""
    found = []
    for number, part in enumerate(survey.source.light):
        name = source_prefix(number, part)
        one = {key: parameters[name + key][i] for key in part.UNITS}
        flux = parameters[f"{name}share"][i] * np.ravel(parameters["source_flux"][i])[band]
        found.append((float(flux), part.in_band(band).lenstronomy(one)))
    return found


def lens_light_profiles(
    light: LensGalaxyLight, parameters: Mapping[str, np.ndarray], i: int, band: int = 0
) -> list[tuple[float, list[Profile]]]:
    """Returns the same of image ``i``'s lens galaxy."""
    found = []
    for number, part in enumerate(light.light):
        name = f"lens_light_{component_prefix(number, part)}"
        one = {key: parameters[name + key][i] for key in part.UNITS}
        flux = float(np.ravel(parameters[f"{name}flux"][i])[band])
        found.append((flux, part.in_band(band).lenstronomy(one)))
    return found


def _split(profiles: list[Profile]) -> tuple[list[str], list[dict[str, Any]]]:
    return [name for name, _ in profiles], [keywords for _, keywords in profiles]
