"""A second look at each image: what its survey's best smooth lens cannot explain, in units of the noise, as further channels.

`residual` is one channel: what the fit leaves. `detail` adds to it what is left of that when small changes of the lens as a whole are taken
out, too: substructure makes the ring grow, and that growth, much stronger than all else, hides where the mass lies.

The fit is :func:`haloformer.simulation.fitting.fit_smooth`. It sees the image as the camera gave it, before any turn or shift, since it
knows how the survey's lenses lie; what it leaves is turned, shifted and framed with the image afterwards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError
from haloformer.simulation.fitting import SmoothFitter
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.surveys import get_survey
from haloformer.vocabulary import unknown_name

CLIP = 8.0
"""Standard deviations beyond which a residual says no more: a bright pixel of a wrong fit shall not outshine all else."""

_BATCH = 64


@dataclass(frozen=True)
class Residual:
    """Adds the residual, and perhaps its detail, to raw images of one survey.

    Attributes:
        survey: The survey's definition, as ``describe_survey`` gives it, as JSON.
        noise: The images' noise, one of :data:`~haloformer.simulation.noise.NOISE_MODES`.
        crop: Side of the central part that is cut out first, in pixels: what is not shown need not be fitted. None: all of the image.
        detail: Whether the residual's detail is added as well.
    """

    survey: str
    noise: str
    crop: int | None = None
    detail: bool = False

    @cached_property
    def _fitter(self) -> SmoothFitter:
        return SmoothFitter(get_survey(json.loads(self.survey)), noise=self.noise, size=self.crop)

    def output_shape(self, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns (2 or 3, H, W) for raw images of this shape, or says why they cannot be fitted."""
        channels, height, width = image_shape
        full = get_survey(json.loads(self.survey)).instrument.num_pix
        if (channels, height, width) != (1, full, full):
            raise InputError(
                f"physics {'detail' if self.detail else 'residual'}: images of shape {tuple(image_shape)}, but the survey's have {(1, full, full)}"
            )
        side = self._fitter.size
        return 2 + self.detail, side, side

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
        _, side, _ = self.output_shape(tuple(images.shape[1:]))
        images = Framing(crop=side)(images.float())
        if torch.compiler.is_compiling():  # a traced graph knows no number of images
            return torch.cat([images, self._fitter.residual(images, detail=self.detail).clamp(-CLIP, CLIP)], dim=1)
        fits = [self._fitter(part, detail=self.detail) for part in images.split(_BATCH)] if len(images) else []
        looks = [torch.cat([look for look in (fit.residual, fit.detail) if look is not None], dim=1) for fit in fits]
        further = torch.cat(looks).clamp(-CLIP, CLIP) if looks else images.expand(-1, 1 + self.detail, -1, -1)
        return torch.cat([images, further], dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` takes, ready for JSON."""
        return {
            "survey": json.loads(self.survey),
            "noise": self.noise,
            "crop": self.crop,
            **({"detail": True} if self.detail else {}),
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
        if not isinstance(detail := values.get("detail", False), bool):
            raise InputError(f"{where}: detail must be true or false, not {detail!r}")
        residual = cls(json.dumps(survey), str(noise), crop, detail)
        _ = residual._fitter  # a definition or a crop that cannot be fitted is refused here
        return residual

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: self.__dict__[name] for name in ("survey", "noise", "crop", "detail")
        }  # the fitter is made again where it is needed


def network_input(images: Tensor, framing: Framing, normalization: Normalization, with_residual: bool) -> Tensor:
    """Returns what the network gets (B, C', H', W') of raw images (B, C, H, W), whose channels after the first may be a residual.

    A residual is in units of the noise already: it is framed with the image, but not normalised.
    """
    framed = framing(images)
    if not with_residual:
        return normalization(framed)
    return torch.cat([normalization(framed[:, :1]), framed[:, 1:]], dim=1)
