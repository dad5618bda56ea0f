"""A second look at each image: what its survey's best smooth lens cannot explain, in units of the noise, as further channels.

`residual` is one channel: what the fit leaves. `detail` adds to it what is left of that when small changes of the lens as a whole are taken
out, too: substructure makes the ring grow, and that growth, much stronger than all else, hides where the mass lies.

The fit is :func:`haloformer.fitting.parametric.fit_smooth`. It sees the image as the camera gave it, before any turn or shift, since it
knows how the survey's lenses lie; what it leaves is rotated, shifted and framed with the image afterwards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.fitting.composed.fitter import ComposedFitter
from haloformer.fitting.given import given_noise_map
from haloformer.fitting.parametric import SmoothFitter, composed_fitter, smooth_fitter
from haloformer.fitting.problem import PLACE
from haloformer.fitting.result import SmoothFit
from haloformer.simulation.instruments import MOST_RAYS, Instrument, central_part
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.psf import psf_kernel, rays_per_pixel
from haloformer.simulation.surveys import get_any_survey
from haloformer.vocabulary import unknown_name

CLIP = 8.0
"""Standard deviations beyond which a residual says no more: a bright pixel of a wrong fit shall not outshine all else."""


N_WRONG = 16
"""Wrong lenses that :meth:`Residual.wrong` knows."""


# What may be wrong with a fit's idea of the survey: factors of what is positive, and shifts. Wide enough for a PSF half as wide again, a
# source a quarter larger and a shear twice as strong.
_WRONG_FACTORS = {
    ("instrument", "psf_fwhm"): 1.6,
    ("source", "R_sersic"): 1.3,
    ("source", "n_sersic"): 1.5,
    ("deflector", "mass"): 1.03,
}


_WRONG_SHIFTS = {
    **{("source", name): 0.15 for name in ("e1", "e2")},
    **{("deflector", name): 0.05 for name in ("e1", "e2", "gamma1", "gamma2", "x", "y")},
}


_SAME_PSF = 1e-4  # of the light, by which two point-spread functions may differ

_BATCHES = {"cpu": 64}  # a CPU's cache holds few images; a GPU wants many
_BATCH_ELSEWHERE = 512


@dataclass(frozen=True)
class Look:
    """Images with what their fit left.

    Attributes:
        channels: (B, 2 or 3, H', W') the (cropped) images, and residual and detail within ±``CLIP`` standard deviations; moved by whole
            pixels where the lens was found to lie elsewhere.
        places: (B, 3) where the lenses lie, in the order of :data:`~haloformer.fitting.problem.PLACE`; what was not fitted as it was said to be.
        chi2: (B,) mean square of the residual, per degree of freedom.
    """

    channels: Tensor
    places: Tensor
    chi2: Tensor


@dataclass(frozen=True)
class Residual:
    """Adds the residual, and perhaps its detail, to raw images of one survey.

    Attributes:
        survey: The survey's definition, as ``describe_survey`` gives it, as JSON.
        noise: The images' noise, one of :data:`~haloformer.simulation.noise.NOISE_MODES`.
        crop: Side of the central part that is cut out first, in pixels: what is not shown need not be fitted. None: all of the image.
        detail: Whether the residual's detail is added as well.
        fit_place: Whether the fit finds where each lens lies on the pixels: images may then be off by some pixels or by a half.
        fit_scale: Whether it finds the pixel scale, too, so that substructure cannot be told by the ring's size: a second opinion, which
            no network is trained on and no artefact asks for.
    """

    survey: str
    noise: str
    crop: int | None = None
    detail: bool = False
    fit_place: bool = False
    fit_scale: bool = False

    @cached_property
    def _fitter(self) -> SmoothFitter | ComposedFitter:
        return smooth_fitter(
            get_any_survey(json.loads(self.survey)),
            noise=self.noise,
            size=self.crop,
            free_place=(
                *(PLACE[:2] if self.fit_place else ()),
                *(PLACE[2:] if self.fit_scale else ()),
            ),
        )

    @property
    def is_composed(self) -> bool:
        """Whether the survey is one of components, whose lens varies from image to image."""
        return isinstance(self._fitter, ComposedFitter)

    @property
    def camera(self) -> Instrument:
        """The survey's camera."""
        return self._fitter.survey.instrument

    @property
    def is_noise_free(self) -> bool:
        """Whether the images have no noise, so that the least mistake of a pixel stands out of what the fit leaves."""
        return not self._fitter.survey.has_noise(self.noise)

    def output_shape(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns (2 or 3, H, W) for raw images of this shape, or says why they cannot be fitted."""
        channels, height, width = image_shape
        full = self.camera.num_pix
        if (channels, height, width) != (1, full, full):
            raise InputError(
                f"physics {'detail' if self.detail else 'residual'}: images of shape {tuple(image_shape)}, but the survey's have {(1, full, full)}"
            )
        side = self._fitter.size
        return 2 + self.detail, side, side

    def wrong(self, number: int) -> "Residual":
        """Returns the same with a wrong idea of the survey: of its PSF, source and deflector, each of whose numbers is changed or not.

        Args:
            number: 0 … ``N_WRONG - 1``; the same number is always the same mistake.
        """
        rng = np.random.default_rng([0x57524F4E, number])
        definition = json.loads(self.survey)
        for part, field in (*_WRONG_FACTORS, *_WRONG_SHIFTS):
            size, changed = rng.uniform(-1, 1), rng.random() < 0.4
            value = definition.get(part, {}).get(field)
            if changed and isinstance(
                value, int | float
            ):  # what varies from image to image is fitted
                factor = _WRONG_FACTORS.get((part, field))
                new = value * factor**size if factor else value + size * _WRONG_SHIFTS[part, field]
                definition[part][field] = new
        return replace(self, survey=json.dumps(definition))

    def with_wrong_fits(self, images: Tensor, wrong: np.ndarray) -> Tensor:
        """Returns images with their residual, of which some come from a wrong lens.

        Args:
            images: (B, 1, H, W), raw, or the central part of such that is fitted.
            wrong: (B,) numbers of :meth:`wrong`; -1: the right lens.

        Returns:
            As a call does.
        """
        images = central_part(images, self._fitter.size)
        found = images.new_empty((len(images), 2 + self.detail, *images.shape[2:]))
        for number in np.unique(wrong).tolist():
            chosen = torch.from_numpy(np.flatnonzero(wrong == number)).to(images.device)
            fit = self if number < 0 else _wrong(self, number)
            found[chosen] = fit.look_at_part(images[chosen]).channels
        return found

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Computes what the fit needs of its survey; before ``torch.export`` follows a call."""
        self._fitter.prepare(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns images with their residual.

        Args:
            images: (B, 1, H, W), raw.

        Returns:
            (B, 2 or 3, H', W'): the (cropped) images, and residual and detail within ±``CLIP`` standard deviations.
        """
        if torch.compiler.is_compiling():  # a traced graph knows no number of images
            _, side, _ = self.output_shape(tuple(images.shape[1:]))
            if isinstance(self._fitter, ComposedFitter):
                raise InputError(
                    f"survey {self._fitter.survey.name}: the smooth fit of a composed survey has no graph of fixed steps, and cannot be exported; use haloformer predict, or a model that was trained without physics"
                )
            images = central_part(images.float(), side)
            further, place = self._fitter.residual(images, detail=self.detail)
            return recentred(torch.cat([images, further.clamp(-CLIP, CLIP)], dim=1), place[:, :2])
        return self.look(images).channels

    def look(
        self,
        images: Tensor,
        scale: Tensor | None = None,
        *,
        psf: np.ndarray | None = None,
        noise_map: np.ndarray | None = None,
        psf_oversampling: int = 1,
    ) -> "Look":
        """Returns images with their residual, as a call does, and how they were fitted.

        Args:
            images: (B, 1, H, W), raw.
            scale: (B,) relative excess of their pixel scale, if it is another than the survey's.
            psf: (odd, odd) their own point-spread function, on pixels as large as theirs; of composed surveys.
            noise_map: (H, W) or (B, H, W) standard deviation of their own noise, in their unit; of composed surveys.
            psf_oversampling: Pixels of ``psf`` per side of one of the images.
        """
        _, side, _ = self.output_shape(tuple(images.shape[1:]))
        if psf is None and noise_map is None:
            return self.look_at_part(central_part(images, side), scale)
        return self._look_with(images.float(), side, psf, noise_map, psf_oversampling)

    def _look_with(
        self,
        images: Tensor,
        side: int,
        psf: np.ndarray | None,
        noise_map: np.ndarray | None,
        psf_oversampling: int,
    ) -> "Look":
        """Returns what :meth:`look` does, for images with a camera of their own."""
        fitter, maps = composed_fitter(self._fitter), None
        if noise_map is not None:
            shape = (images.shape[2], images.shape[3])
            given = torch.from_numpy(given_noise_map(noise_map, shape))
            if tuple(given.shape) not in (
                tuple(images.shape[2:]),
                (len(images), *images.shape[2:]),
            ):
                raise InputError(
                    f"noise_map has shape {tuple(given.shape)}, but the images {(len(images), *images.shape[2:])}"
                )
            maps = central_part(given, side).numpy()
        part = central_part(images, side)
        fit = fitter(
            part, detail=self.detail, psf=psf, noise_map=maps, psf_oversampling=psf_oversampling
        )
        return self._seen(part, [fit], images.new_zeros(len(images), len(PLACE)))

    def look_at_part(self, images: Tensor, scale: Tensor | None = None) -> "Look":
        """Returns what :meth:`look` does, for images of which no more is there than the central part that is fitted."""
        images = images.float()
        zero = images.new_zeros(len(images))
        known = torch.stack([zero, zero, zero if scale is None else scale.to(images)], 1)
        size = _BATCHES.get(images.device.type, _BATCH_ELSEWHERE)
        fits = [
            # Nothing is asked of the values where nothing can be there: that would wait for the device.
            self._fitter(
                part, detail=self.detail, place=place if scale is not None and place.any() else None
            )
            for part, place in zip(images.split(size), known.split(size))
            if len(part)
        ]
        return self._seen(images, fits, known)

    def _seen(self, images: Tensor, fits: list[SmoothFit], known: Tensor) -> "Look":
        """Returns images (B, 1, H, W), the central part, with what the fits of their batches left, and ``known`` (B, 3) places."""
        looks = [
            torch.cat([look for look in (fit.residual, fit.detail) if look is not None], dim=1)
            for fit in fits
        ]
        further = (
            torch.cat(looks).clamp(-CLIP, CLIP)
            if looks
            else images.expand(-1, 1 + self.detail, -1, -1)
        )
        first = [sum(len(fit.values) for fit in fits[:k]) for k in range(len(fits))]
        places = [
            self._fitter.places(fit, known[start : start + len(fit.values)])
            for fit, start in zip(fits, first)
        ]
        place = torch.cat([known[:0], *places])
        channels = torch.cat([images, further], dim=1)
        return Look(
            channels=recentred(channels, place[:, :2]) if self.fit_place else channels,
            places=place,
            chi2=torch.cat([images.new_zeros(0), *(fit.chi2 for fit in fits)]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {
            "survey": json.loads(self.survey),
            "noise": self.noise,
            "crop": self.crop,
            **({"detail": True} if self.detail else {}),
            **({"fit_place": True} if self.fit_place else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "residual") -> "Residual":
        """Makes one of what `to_dict` wrote, refusing what cannot be one."""
        survey, noise, crop = values.get("survey"), values.get("noise"), values.get("crop")
        if not isinstance(survey, Mapping):
            raise InputError(f"{where}: survey must be a survey's definition")
        if noise not in NOISE_MODES:
            raise unknown_name(f"{where}: noise mode", str(noise), NOISE_MODES)
        whole = isinstance(crop, int) and not isinstance(crop, bool)
        if crop is not None and not (whole and 8 <= crop <= 4096):
            raise InputError(f"{where}: crop must be a whole number from 8 to 4096, not {crop!r}")
        options = {name: values.get(name, False) for name in ("detail", "fit_place")}
        for name, value in options.items():
            if not isinstance(value, bool):
                raise InputError(f"{where}: {name} must be true or false, not {value!r}")
        residual = cls(json.dumps(survey), str(noise), crop, **options)
        residual.check()
        return residual

    def check_takes_camera(self) -> None:
        """Raises InputError if the survey's camera is always the same, so that images cannot have their own."""
        composed_fitter(self._fitter)

    def check(self) -> None:
        """Raises InputError for a definition or a crop that cannot be fitted."""
        _ = self._fitter

    def __getstate__(self) -> dict[str, Any]:
        return {
            field.name: self.__dict__[field.name] for field in fields(self)
        }  # the fitter is made again where it is needed


class OwnCamera(TypedDict, total=False):
    """What :meth:`Residual.look` takes of images whose camera is not the survey's."""

    psf: np.ndarray
    psf_oversampling: int
    noise_map: np.ndarray


def own_camera(
    residual: Residual, calibration: Mapping[str, np.ndarray], definition: object = None
) -> OwnCamera:
    """Returns what a file says of its images' camera, for :meth:`Residual.look`; nothing where that is the survey's.

    Args:
        residual: Of the file's images.
        calibration: The file's ``/calibration``: ``psf`` at the spacing of the rays, and perhaps ``noise_map``.
        definition: Its attribute ``survey_definition``, whose rays may be others than those of ``residual``.
    """
    return other_camera(residual.camera, calibration, definition) if residual.is_composed else {}


def other_camera(
    camera: Instrument, calibration: Mapping[str, np.ndarray], definition: object = None
) -> OwnCamera:
    """Returns what a file says of its images' camera; nothing where that is the ``camera`` of a composed survey. See :func:`own_camera`."""
    found = OwnCamera()
    if "psf" in calibration:
        psf = calibration["psf"].astype(float)
        rays = camera_number(definition, "supersampling")
        rays = rays if rays is not None and rays <= MOST_RAYS else rays_per_pixel(camera)
        own = psf_kernel(replace(camera, supersampling=rays))
        if psf.shape != own.shape or np.abs(psf - own).sum() > _SAME_PSF:
            found |= {"psf": psf, "psf_oversampling": rays}
    if "noise_map" in calibration:
        found |= {"noise_map": calibration["noise_map"]}
    return found


def camera_number(definition: object, name: str) -> int | None:
    """Returns a number of the camera in a survey's description in JSON, such as ``supersampling``; None where it says nothing that can be."""
    try:
        camera = json.loads(definition)["instrument"] if isinstance(definition, str) else {}
        number = camera.get(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return number if type(number) is int and number >= 1 else None


@lru_cache(maxsize=N_WRONG)
def _wrong(residual: Residual, number: int) -> Residual:
    return residual.wrong(number)


def recentred(channels: Tensor, places: Tensor) -> Tensor:
    """Moves images by whole pixels to where their survey has the lens; what leaves on one side enters on the other.

    Not for less than three quarters of a pixel, by which substructure moves a ring, too: what a survey's own images look like stays as it is.

    Args:
        channels: (B, C, H, W).
        places: (B, 2) pixels to the right, and in the order of the rows.

    Returns:
        (B, C, H, W).
    """
    _, planes, height, width = channels.shape
    whole = (places.sign() * (places.abs() + 0.25).floor()).long()
    if not torch.compiler.is_compiling() and not whole.any():
        return channels
    column = torch.arange(width, device=channels.device) + whole[:, :1]
    row = torch.arange(height, device=channels.device) + whole[:, 1:]
    moved = channels.gather(2, (row % height)[:, None, :, None].expand(-1, planes, -1, width))
    return moved.gather(3, (column % width)[:, None, None, :].expand(-1, planes, height, -1))
