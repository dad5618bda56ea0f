"""From a composed survey's parameters to noise-free images, in batched PyTorch on any device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.components.component import MassComponent, column
from haloformer.simulation.components.lens_light import LensLight
from haloformer.simulation.composed.lens_galaxy import LensGalaxyLight, component_prefix
from haloformer.simulation.composed.matching import has_it
from haloformer.simulation.composed.survey import (
    PLACES,
    ComposedSurvey,
    component_parameters,
    source_prefix,
)
from haloformer.simulation.correlation import read_noise_map
from haloformer.simulation.instruments import background_rms, pixel_axis
from haloformer.simulation.psf import (
    bin_pixels,
    convolve,
    observe,
    psf_fwhm,
    ray_axis,
    rays_per_pixel,
)

Parameters = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rendered:
    """Images without noise.

    Attributes:
        images: (B, H, W) in counts/s per pixel; (B, bands, H, W) of a survey with bands, as the others.
        hidden: (B, H, W) light of the lens galaxy that was subtracted, whose photons are in the noise; None without.
        kept: (B, H, W) 0 where pixels are masked, else 1; None where nothing is masked.
        flux: (B,) or (B, bands) of the sources without lensing, in counts/s.
    """

    images: Tensor
    hidden: Tensor | None
    kept: Tensor | None
    flux: np.ndarray


class ComposedRenderer:
    """Renders the scenes of one survey."""

    def __init__(
        self, survey: ComposedSurvey, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """Prepares a renderer.

        Args:
            survey: The recipe.
            dtype: ``torch.float32`` or ``torch.float64``; positions are float64 until their differences are taken.
            device: Where to compute.
        """
        self.survey, self.dtype, self.device = survey, dtype, torch.device(device)
        axis = torch.as_tensor(ray_axis(survey.instrument), device=self.device)
        self.axis = axis
        self.x, self.y = torch.broadcast_tensors(axis[None, None, :], axis[None, :, None])
        self.extra = survey.added
        self.looks = survey.band_looks(survey.source.light)
        camera = survey.instrument
        self.noise_map = read_noise_map(camera) if camera.noise_map else None
        """The camera's noise map (num_pix, num_pix), if it has one; read once."""
        self.rms = (
            background_rms(camera) if self.noise_map is None else float(np.median(self.noise_map))
        )

    def images(self, parameters: Parameters) -> Rendered:
        """Renders images.

        Args:
            parameters: As the scenes have them; where ``source_flux`` is NaN it follows from ``snr``.
        """
        with torch.no_grad():
            alpha = self._smooth_deflection(parameters)
            images = self._observed(parameters, alpha)
            # By the image of the smooth lens: neither class nor substructure decides how bright a source is.
            flux = self._flux(parameters, images)
            peak = images.flatten(-2).amax(-1)
            rows = self._changed(parameters)
            if len(rows):
                own = {name: values[rows] for name, values in parameters.items()}
                where = torch.from_numpy(rows).to(self.device)
                images[where] = self._observed(own, self._deflection(own, alpha, where))
            scale = self._tensor(flux)
            images = images * scale[..., None, None]
            light = self.survey.lens_light
            if light is None or light.mode == "none":
                return Rendered(images, None, None, flux)
            if isinstance(light, LensGalaxyLight):
                return Rendered(images + self._lens_galaxy(light, parameters), None, None, flux)
            if not self.survey.bands:
                return self._with_lens_light(light, parameters, images, peak * scale, flux)
            bands = [
                self._with_lens_light(light, parameters, image, bright, flux)
                for image, bright in zip(images.unbind(1), (peak * scale).unbind(1))
            ]
            return Rendered(
                torch.stack([each.images for each in bands], 1),
                _stacked([each.hidden for each in bands]),
                _stacked([each.kept for each in bands]),
                flux,
            )

    def _lens_galaxy(self, part: LensGalaxyLight, parameters: Parameters) -> Tensor:
        """Returns the light of lens galaxies, (B, H, W) or (B, bands, H, W)."""
        x, y = (
            axis - column(self._tensor(parameters[f"lens_light_{k}"], torch.float64))
            for axis, k in ((self.x, "x"), (self.y, "y"))
        )
        total: Tensor | float = 0.0
        for number, light in enumerate(part.light):
            name = f"lens_light_{component_prefix(number, light)}"
            flux = self._tensor(parameters[f"{name}flux"])
            own = {key: self._tensor(parameters[name + key]) for key in light.UNITS}
            images = [
                observe(look.brightness(x.to(self.dtype), y.to(self.dtype), own), self.survey.instrument)
                for look, in self.survey.band_looks((light,))
            ]  # fmt: skip
            image = torch.stack(images, 1) if self.survey.bands else images[0]
            total = total + image * flux[..., None, None]
        assert isinstance(total, Tensor)
        return total

    def _with_lens_light(
        self,
        part: LensLight,
        parameters: Parameters,
        images: Tensor,
        peak: Tensor,
        flux: np.ndarray,
    ) -> Rendered:
        """Adds the light of the lens galaxy, or what its subtraction leaves."""
        camera = self.survey.instrument
        own = {name: self._tensor(parameters[f"lens_light_{name}"]) for name in part.UNITS}
        brightness = convolve(part.brightness(self.x, self.y, own), camera)
        light = bin_pixels(brightness, rays_per_pixel(camera)) * column(peak)
        if part.mode == "present":
            return Rendered(images + light, None, None, flux)
        axis = torch.as_tensor(pixel_axis(camera), device=self.device)
        x, y = torch.broadcast_tensors(axis[None, None, :], axis[None, :, None])
        left = part.left(light, x, y, own, psf_fwhm(camera))
        return Rendered(images + left, light - left, part.outside(x, y, own), flux)

    def flux(self, parameters: Parameters) -> np.ndarray:
        """Returns the flux (B,), or (B, bands), of the sources alone, in counts/s."""
        known: np.ndarray = parameters["source_flux"]
        if np.isfinite(known).all():
            return known
        with torch.no_grad():
            images = self._observed(parameters, self._smooth_deflection(parameters))
            return self._flux(parameters, images)

    def _tensor(self, values: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        return torch.as_tensor(values).to(self.device, dtype or self.dtype)

    def _own(self, part: MassComponent, parameters: Parameters) -> dict[str, Tensor]:
        """Returns a component's parameters as tensors: those of places in float64."""
        own = component_parameters(part, parameters)
        return {
            name: self._tensor(values, torch.float64 if name in PLACES else None)
            for name, values in own.items()
        }

    def _of(self, part: MassComponent, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns a component's deflection at the rays, by the fastest way there is."""
        given = component_parameters(part, parameters)
        found = part.deflection_on_grid(self.axis, given, self.dtype)
        if found is not None:
            return found
        return part.deflection(self.x, self.y, self._own(part, parameters))

    def _smooth_deflection(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        count = len(parameters["z_lens"])
        size = self.x.shape[-1]
        alpha_x = torch.zeros(count, size, size, dtype=self.dtype, device=self.device)
        alpha_y = torch.zeros_like(alpha_x)
        for part in self.survey.lens:
            more_x, more_y = self._of(part, parameters)
            alpha_x, alpha_y = alpha_x + more_x, alpha_y + more_y
        return alpha_x, alpha_y

    def _changed(self, parameters: Parameters) -> np.ndarray:
        """Returns the images that have substructure."""
        there = np.zeros(len(parameters["z_lens"]), bool)
        for part in self.extra:
            there |= has_it(part, component_parameters(part, parameters))
        return np.flatnonzero(there)

    def _deflection(
        self, parameters: Parameters, smooth: tuple[Tensor, Tensor], where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the deflection of images with substructure, of which ``where`` among all are these."""
        alpha_x, alpha_y = smooth[0][where], smooth[1][where]
        if (parameters["matched_theta_E"] != 0).any():
            main = self.survey.lens[0]
            own = self._own(main, parameters)
            before = main.deflection(self.x, self.y, own)
            lighter = own["theta_E"] - self._tensor(parameters["matched_theta_E"])
            after = main.deflection(self.x, self.y, {**own, "theta_E": lighter})
            alpha_x, alpha_y = alpha_x + after[0] - before[0], alpha_y + after[1] - before[1]
        for part in self.extra:
            rows = np.flatnonzero(has_it(part, component_parameters(part, parameters)))
            if not len(rows):
                continue
            theirs = {name: values[rows] for name, values in parameters.items()}
            more_x, more_y = self._of(part, theirs)
            which = torch.from_numpy(rows).to(self.device)
            alpha_x = alpha_x.index_add(0, which, more_x.to(self.dtype))
            alpha_y = alpha_y.index_add(0, which, more_y.to(self.dtype))
        given_x, given_y = self._given_up(parameters)
        return alpha_x - given_x, alpha_y - given_y

    def _given_up(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the mean pull, sheet and shear that are taken out."""
        pull_x, pull_y, kappa, gamma1, gamma2 = (
            column(self._tensor(parameters[f"matched_{name}"]))
            for name in ("x", "y", "kappa", "gamma1", "gamma2")
        )
        x = (self.x - column(self._tensor(parameters["lens_x"], torch.float64))).to(self.dtype)
        y = (self.y - column(self._tensor(parameters["lens_y"], torch.float64))).to(self.dtype)
        return (
            pull_x + (kappa + gamma1) * x + gamma2 * y,
            pull_y + gamma2 * x + (kappa - gamma1) * y,
        )

    def _observed(self, parameters: Parameters, alpha: tuple[Tensor, Tensor]) -> Tensor:
        """Returns images (B, H, W) of sources of flux 1; with bands (B, bands, H, W), or (B, 1, H, W) where all show the same."""
        place_x, place_y = (
            column(self._tensor(parameters[f"source_{k}"], torch.float64)) for k in ("x", "y")
        )
        x = ((self.x - place_x) - alpha[0]).to(self.dtype)
        y = ((self.y - place_y) - alpha[1]).to(self.dtype)
        looks = []
        for light in self.looks:
            brightness = torch.zeros_like(x)
            for number, part in enumerate(light):
                name = source_prefix(number, part)
                own = {key: self._tensor(parameters[name + key]) for key in part.UNITS}
                share = column(self._tensor(parameters[f"{name}share"]))
                brightness = brightness + share * part.brightness(x, y, own)
            looks.append(observe(brightness, self.survey.instrument))
        return torch.stack(looks, dim=1) if self.survey.bands else looks[0]

    def _flux(self, parameters: Parameters, images: Tensor) -> np.ndarray:
        """Returns the flux (B,) that gives the brightest pixel of images of flux 1 the wanted signal to noise.

        s² = r² (b² + n s / T), with n = 2 where the Poisson noise comes twice, solved for the signal s.
        """
        known: np.ndarray = parameters["source_flux"]
        if np.isfinite(known).all():
            return known
        instrument = self.survey.instrument
        seconds = parameters["exposure_time"] * instrument.num_exposures
        ratio, rms = parameters["snr"], self.rms
        times = 2 if self.survey.original_noise == "double_poisson" else 1
        half = ratio**2 * times / seconds / 2
        signal = half + np.sqrt(half**2 + (ratio * rms) ** 2)
        peak = images.flatten(1).amax(1).double().cpu().numpy()
        return np.where(np.isfinite(known), known, signal / np.maximum(peak, 1e-30))


def _stacked(bands: Sequence[Tensor | None]) -> Tensor | None:
    """Returns images (B, H, W) of several bands as (B, bands, H, W); None if there are none."""
    return (
        None if bands[0] is None else torch.stack([each for each in bands if each is not None], 1)
    )
