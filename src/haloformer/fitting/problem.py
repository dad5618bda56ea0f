"""The problem that a fit solves: which parameters of a survey are free, within which bounds, on which pixels."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.instruments import (
    FWHM_PER_SIGMA,
    background_rms,
    pixel_axis,
    psf_weights,
)
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.renderer import LENS_PARAMETERS, SOURCE_PARAMETERS
from haloformer.simulation.scenes import draw_scenes
from haloformer.simulation.surveys import AnySurvey, Survey, describe_survey, get_survey
from haloformer.vocabulary import unknown_name

SOURCE_POSITION = ("source_x", "source_y")

PLACE = ("place_x", "place_y", "place_scale")
"""Where a lens lies on the pixels, if not where its survey has it: pixels to the right, pixels upwards in the order of the rows, and the
relative excess of the pixel scale."""

MOST = {"place_x": 6.0, "place_y": 6.0, "place_scale": 0.1}
"""Lenses are not sought farther away: pixels, pixels and relative scale."""

SOUGHT = 4
"""Pixels along either axis at which a fit begins to look for a lens; farther, it may not be found."""

BRIGHTNESS = ("exposure_time", "source_amp")
"""Parameters to which the counts of an image are in proportion."""

_POSITIVE = {
    "lens_theta_E",
    "source_amp",
    "source_R_sersic",
    "source_n_sersic",
    "exposure_time",
}  # fitted as logarithms

_STEP_LIMIT = {"log": 0.2, "position": 0.08, "other": 0.05}  # of one step: arcsec for positions

_PLACE_STEP_LIMIT = {"place_x": 1.5, "place_y": 1.5, "place_scale": 0.02}

_ORDER = (*SOURCE_POSITION, *LENS_PARAMETERS, *SOURCE_PARAMETERS[:5], "exposure_time", *PLACE)

_MIN_SIZE = 8  # pixels: the least that an instrument has, too


@dataclass(frozen=True)
class FitProblem:
    """The fit of one survey's smooth lenses to its images.

    Attributes:
        survey: The survey.
        size: Side of the images in pixels.
        noise: Kind of noise, one of ``ORIGINAL_NOISE`` or ``none``.
        rms: Background in counts/s per pixel.
        names: The P free parameters: what the survey draws anew for every image.
        draws: Draws (n,) of every parameter from the survey.
        axis: (size,) coordinates of the pixels in arcsec.
        psf: (2r+1,) point-spread function along one axis.
        low: (P,) lower bounds of what is fitted: logarithms of positive parameters.
        high: (P,) upper bounds.
        limits: (P,) largest step.
    """

    survey: Survey
    size: int
    noise: str
    rms: float
    names: tuple[str, ...]
    draws: Mapping[str, np.ndarray]
    axis: Tensor
    psf: Tensor
    low: Tensor
    high: Tensor
    limits: Tensor

    @classmethod
    def of_survey(
        cls,
        survey: str | Survey,
        *,
        noise: str = "original",
        size: tuple[int, ...] | int | None = None,
        exposure_known: bool = False,
        free_place: tuple[str, ...] = (),
    ) -> "FitProblem":
        """Defines the fit of a survey; the arguments are those of `SmoothFitter`."""
        survey = get_survey(survey)
        if noise not in NOISE_MODES:
            raise unknown_name("noise mode", noise, NOISE_MODES)
        side = checked_size(survey, size)
        kind = survey.noise_kind(noise)
        full = survey.instrument.num_pix
        margin = (full - side) // 2
        draws = _smooth_draws(json.dumps(describe_survey(survey)))
        free_place = checked_free_place(free_place)
        _check_free_place(free_place, survey, draws)
        draws = draws | {name: np.zeros_like(draws["exposure_time"]) for name in PLACE}
        exposure_is_free = kind == "double_poisson" and not exposure_known
        parameters: tuple[str, ...] = (*LENS_PARAMETERS, *SOURCE_PARAMETERS)
        parameters += ("exposure_time",) if exposure_is_free else ()
        drawn = [name for name in parameters if np.ptp(draws[name]) > 0]
        names = tuple(sorted((*drawn, *free_place), key=_ORDER.index))
        low, high = _bounds(names, draws)
        return cls(
            survey=survey,
            size=side,
            noise=kind,
            rms=background_rms(survey.instrument),
            names=names,
            draws=draws,
            axis=torch.as_tensor(
                pixel_axis(survey.instrument)[margin : full - margin], dtype=torch.float32
            ),
            psf=torch.as_tensor(psf_weights(survey.instrument), dtype=torch.float32),
            low=torch.tensor(low, dtype=torch.float32),
            high=torch.tensor(high, dtype=torch.float32),
            limits=torch.tensor([_step_limit(name) for name in names], dtype=torch.float32),
        )

    @property
    def free_place(self) -> tuple[str, ...]:
        """Which of :data:`PLACE` are fitted: the last of the names."""
        return tuple(name for name in self.names if name in PLACE)

    @property
    def psf_sigma(self) -> float:
        """Width of the Gaussian point-spread function in the survey's pixels."""
        camera = self.survey.instrument
        return camera.psf_fwhm / FWHM_PER_SIGMA / camera.pixel_scale

    @property
    def background_variances(self) -> tuple[float, float]:
        """Variances in (counts/s)² per pixel: of the readout, which a pixel's size does not change, and of the sky, which grows with its area."""
        camera = self.survey.instrument
        wide = dataclasses.replace(camera, pixel_scale=2 * camera.pixel_scale)
        sky = (background_rms(wide) ** 2 - self.rms**2) / 3
        return self.rms**2 - sky, sky

    @property
    def lens_is_free(self) -> bool:
        """Whether a parameter of the lens is fitted."""
        return any(name in LENS_PARAMETERS for name in self.names)

    def to(self, device: torch.device) -> "FitProblem":
        """Returns the same with its tensors on a device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("axis", "psf", "low", "high", "limits")
        }
        return dataclasses.replace(self, **moved)

    def physical(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the parameters (B, P) of what is fitted (B, P), and their derivatives by it."""
        logarithmic = self.logarithmic(u.device)
        values = torch.where(logarithmic, torch.exp(torch.where(logarithmic, u, 0.0)), u).float()
        return values, torch.where(logarithmic, values, 1.0)

    def logarithmic(self, device: torch.device) -> Tensor:
        """Returns (P,) bool: which parameters are fitted as their logarithms."""
        return torch.tensor([name in _POSITIVE for name in self.names], device=device)

    def value(self, values: Tensor, name: str) -> Tensor:
        """Returns a parameter of the lens or the source: (B, 1, 1) if it is fitted, else (1, 1, 1)."""
        if name in self.names:
            return values[:, self.names.index(name)][:, None, None]
        return torch.full((1, 1, 1), float(self.draws[name][0]), device=values.device)

    def seconds(self, n: int, exposure_time: Tensor | None, device: torch.device) -> Tensor:
        """Returns seconds (n,) of one exposure: those given, else the middle of the survey's."""
        if exposure_time is None:
            return torch.full(
                (n,), float(np.exp(np.log(self.draws["exposure_time"]).mean())), device=device
            )
        check_exposures(exposure_time, n)
        return exposure_time.to(device, torch.float32)

    def total_seconds(self, values: Tensor, seconds: Tensor) -> Tensor:
        """Returns the seconds (B, 1, 1) of all exposures, of parameters (B, P) and seconds (B,) of one."""
        if "exposure_time" in self.names:
            seconds = values[:, self.names.index("exposure_time")]
        return (seconds * self.survey.instrument.num_exposures)[:, None, None]


def check_exposures(exposure_time: Tensor, n: int) -> None:
    """Raises InputError unless there is a positive number of seconds for each of n images."""
    if exposure_time.shape != (n,) or not are_exposures(exposure_time):
        raise InputError(f"exposure_time must hold {n} positive numbers of seconds, one per image")


def are_exposures(seconds: Tensor) -> bool:
    """Tells whether all are positive numbers of seconds."""
    # Far beyond any telescope's, and what float32 still squares
    return bool(((seconds > 1e-6) & (seconds < 1e12)).all())


def checked_size(
    survey: AnySurvey, size: tuple[int, ...] | int | None, least: int = _MIN_SIZE
) -> int:
    """Returns the side of the images that are fitted; raises InputError unless they are a central part of the survey's.

    Args:
        survey: That is fitted.
        size: Rows and columns of the images, or their side; None: all of the survey's.
        least: Pixels per side.
    """
    full = survey.instrument.num_pix
    shape = (full, full) if size is None else (size, size) if isinstance(size, int) else size
    if shape[0] != shape[1] or not least <= shape[0] <= full or (full - shape[0]) % 2:
        raise InputError(
            f"images of {shape[0]}×{shape[1]} pixels cannot be fitted as {survey.name}, whose images have {full}×{full}: "
            "they must be square and smaller by an even number of pixels, cut about the same centre"
        )
    return shape[0]


def _bounds(
    names: tuple[str, ...], draws: Mapping[str, np.ndarray]
) -> tuple[list[float], list[float]]:
    """Returns the range of what is fitted: that of the survey's draws, and a good deal beyond."""
    low, high = [], []
    for name in names:
        if name in MOST:
            low.append(-MOST[name])
            high.append(MOST[name])
            continue
        values = np.log(draws[name]) if name in _POSITIVE else draws[name]
        beyond = 0.25 * np.ptp(values) + (1.5 if name in BRIGHTNESS else 0.1)
        low.append(float(values.min() - beyond))
        high.append(float(values.max() + beyond))
    return low, high


def checked_free_place(free_place: Sequence[str]) -> tuple[str, ...]:
    """Returns what is fitted of where lenses lie; raises InputError unless these are names of ``PLACE``, each once."""
    if not isinstance(free_place, list | tuple):
        raise InputError(
            f"free_place must be a tuple of names, such as ('place_x', 'place_y'), not {free_place!r}"
        )
    for name in free_place:
        if name not in PLACE:
            raise unknown_name("free_place", str(name), PLACE)
    if len(set(free_place)) < len(free_place):
        raise InputError(f"free_place must name each once, not {', '.join(free_place)}")
    return tuple(free_place)


def _check_free_place(
    free: tuple[str, ...], survey: Survey, draws: Mapping[str, np.ndarray]
) -> None:
    for name in free:
        lens = name.replace("place", "lens")
        if np.ptp(draws.get(lens, np.zeros(1))) > 0:
            raise InputError(
                f"free_place: survey {survey.name} draws {lens} for every image, so that it is fitted already"
            )


def _step_limit(name: str) -> float:
    if name in PLACE:
        return _PLACE_STEP_LIMIT[name]
    kind = "log" if name in _POSITIVE else "position" if name.endswith(("_x", "_y")) else "other"
    return _STEP_LIMIT[kind]


@functools.lru_cache(maxsize=8)
def _smooth_draws(description: str) -> dict[str, np.ndarray]:
    """Parameters of smooth lenses drawn from a survey, (n,) each: where a fit may begin, and which parameters vary."""
    survey = get_survey(json.loads(description))
    name = next((n for n, parts in survey.substructure.items() if not parts), survey.class_names[0])

    def drawn(n: int) -> dict[str, np.ndarray]:
        # A seed apart: starting points shall not be the truth of anybody's images.
        scenes = draw_scenes(survey, np.zeros(n, np.int64), np.arange(n), 2**62, (name,))
        return {
            key: getattr(scenes, key)
            for key in (*LENS_PARAMETERS, *SOURCE_PARAMETERS, "exposure_time")
        }

    varying = sum(np.ptp(values) > 0 for values in drawn(16).values())
    return drawn(300 if varying <= 3 else 3000)
