"""Accuracy and AUC as functions of physical parameters of the images.

The parameters come from the simulator or from the dataset file; parameters that are missing or constant are left out.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from haloformer.evaluation.metrics import by_bins
from haloformer.evaluation.testset import TestImages
from haloformer.outputs.targets import TARGETS
from haloformer.simulation.dark_matter import subhalo_masses
from haloformer.vocabulary import CLASS_ALIASES

Parameters = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Physical:
    """Something physical that images differ in.

    Attributes:
        name: For files.
        label: With its unit, for an axis.
        of: From the parameters of N images to (N,) values, NaN where an image has none. Raises KeyError if a parameter
            is missing.
        class_name: The class whose images alone have it; None if all do.
    """

    name: str
    label: str
    of: Callable[[Parameters], np.ndarray]
    class_name: str | None = None


def _log10(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.log10(
        values, out=np.full(np.shape(values), np.nan), where=np.asarray(values) > 0
    )
    return result


def _heaviest(parameters: Parameters) -> np.ndarray:
    return _log10(np.nan_to_num(subhalo_masses(parameters)).max(axis=-1, initial=0.0))


def _source_offset(parameters: Parameters) -> np.ndarray:
    offset: np.ndarray = np.hypot(
        parameters["source_x"] - parameters["lens_x"],
        parameters["source_y"] - parameters["lens_y"],
    )
    return offset


QUANTITIES: tuple[Physical, ...] = (
    *(Physical(t.name, t.label, t.from_parameters, t.class_name) for t in TARGETS.values()),
    Physical("log10_m_heaviest", "log₁₀ (mass of the heaviest subhalo / M☉)", _heaviest, "cdm"),
    Physical(
        "log10_m_vortex",
        "log₁₀ (mass of the vortex / M☉)",
        lambda p: _log10(p["vortex_mass"]),
        "axion",
    ),
    Physical("source_offset", "Distance of source and lens centre [arcsec]", _source_offset),
    Physical("theta_E", "Einstein radius of the lens [arcsec]", lambda p: p["lens_theta_E"]),
    Physical("exposure_time", "Exposure time [s]", lambda p: p["exposure_time"]),
)
SNR = "snr"
SNR_LABEL = "Peak over the noise of a pixel at the border"


def by_quantity(
    images: TestImages,
    index: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    right: np.ndarray,
    class_names: tuple[str, ...],
    snr: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Returns accuracy and AUC in bins of each quantity that the images are known to vary in.

    Args:
        images: Where they come from.
        index: (N,) numbers of the tested images in it.
        labels: (N,) index into ``class_names``.
        scores: (N, K).
        right: (N,) bool, whether an image is classified correctly.
        class_names: The model's.
        snr: (N,) of `peak_to_noise`.

    Returns:
        Name → ``label``, ``class_name`` (None: all images have it) and ``bins``, see `metrics.by_bins`.
    """
    canonical = [CLASS_ALIASES.get(name.lower(), name) for name in class_names]
    parameters = images.parameters()
    measured: list[tuple[str, str, str | None, np.ndarray]] = []
    for quantity in QUANTITIES:
        if quantity.class_name is not None and quantity.class_name not in canonical:
            continue  # grouped away: the group's images do not all have it
        try:
            values = np.asarray(quantity.of(parameters), np.float64)
        except KeyError:
            continue
        if values.shape == (images.n,):  # a file may hold anything under that name
            measured.append((quantity.name, quantity.label, quantity.class_name, values[index]))
    if _noisy(images):
        measured.append((SNR, SNR_LABEL, None, snr))
    found = {}
    for name, label, class_name, values in measured:
        k = None if class_name is None else canonical.index(class_name)
        bins = by_bins(values, labels, scores, right, k)
        if bins:
            found[name] = {
                "label": label,
                "class_name": None if k is None else class_names[k],
                "bins": bins,
            }
    return found


def peak_to_noise(images: torch.Tensor) -> torch.Tensor:
    """Returns the brightest pixel over the scatter at the border, (B,) NaN where that has none.

    The border is a frame of a tenth of the image's width; its median is subtracted. It has no meaning for noise-free images.

    Args:
        images: (B, C, H, W); channels are averaged.
    """
    flat = images.float().mean(dim=1)
    height, width = flat.shape[-2:]
    frame = torch.ones(height, width, dtype=torch.bool)
    edge = max(1, min(height, width) // 10)
    frame[edge:-edge, edge:-edge] = False
    border = flat[:, frame]
    noise = border.std(dim=1)
    peak = flat.flatten(1).amax(dim=1) - border.median(dim=1).values
    return torch.where(noise > 0, peak / noise, torch.nan)


def _noisy(images: TestImages) -> bool:
    """Says whether the images are known to have noise."""
    noise = images.attributes.get("noise")
    if noise != "original":
        return noise == "instrument"
    try:
        described = json.loads(images.attributes.get("survey_definition") or "null")
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(described, dict) and described.get("original_noise") in (
        "double_poisson",
        "instrument",
    )
