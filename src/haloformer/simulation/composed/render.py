"""From a composed survey's parameters to noise-free images, in batched PyTorch on any device."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.component import (
    LightComponent,
    MassComponent,
    as_tensors,
    column,
)
from haloformer.simulation.components.lens_light import LensLight
from haloformer.simulation.composed.lens_galaxy import LensGalaxyLight, component_prefix
from haloformer.simulation.composed.planes import outside_lens_plane
from haloformer.simulation.composed.survey import (
    MATCHED_UNITS,
    ComposedSurvey,
    component_parameters,
    given_up,
    gives_up,
    has_it,
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
        self,
        survey: ComposedSurvey,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        compiled: bool = False,
        threads: Callable[[], ThreadPoolExecutor | None] = lambda: None,
    ) -> None:
        """Prepares a renderer.

        Args:
            survey: The recipe.
            dtype: ``torch.float32`` or ``torch.float64``; positions are float64 until their differences are taken.
            device: Where to compute.
            compiled: Whether to use the kernels of :mod:`~haloformer.simulation.composed.compiled`: on a CPU, in float32.
            threads: What they share their work among.
        """
        self.compiled, self.threads = compiled, threads
        self.survey, self.dtype, self.device = survey, dtype, torch.device(device)
        axis = torch.as_tensor(ray_axis(survey.instrument), device=self.device)
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
        self._check(parameters)
        with torch.no_grad():
            images, peak = self._unit_images(parameters)
            # By the image of the smooth lens: neither class nor substructure decides how bright a source is.
            flux = self._flux(parameters, peak)
            scale = self._tensor(flux)
            if scale.shape == images.shape[:-2]:
                images *= scale[..., None, None]  # they are nobody else's
            else:
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

    def _check(self, parameters: Parameters) -> None:
        """Raises InputError if something that every image has is no number, or something of substructure is infinite."""
        for part in self.survey.lens:
            for name, values in component_parameters(part, parameters).items():
                if not np.isfinite(values).all():
                    raise InputError(f"survey {self.survey.name}: {part.kind}: {name} is no number in some image")  # fmt: skip
        for part in self.extra:  # populations end with NaN
            for name, values in component_parameters(part, parameters).items():
                if np.isinf(values).any():
                    raise InputError(f"survey {self.survey.name}: {part.kind}: {name} is infinite in some image")  # fmt: skip
        for name in ("source_x", "source_y", *MATCHED_UNITS):
            if not np.isfinite(parameters[name]).all():
                raise InputError(f"survey {self.survey.name}: {name} is no number in some image")

    def _needs_peaks(self, parameters: Parameters) -> bool:
        """Returns whether a source's flux or the lens's light follows from the brightest pixel without substructure."""
        light = self.survey.lens_light
        known = np.isfinite(parameters["source_flux"]).all()
        return not known or (isinstance(light, LensLight) and light.mode != "none")

    def _unit_images(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns images of sources of flux 1, and their brightest pixels without substructure, NaN if they do not matter.

        (B, H, W) and (B,); of a survey with bands (B, bands, H, W) and (B, bands), or one for all of them if they look alike.
        """
        if self.compiled:
            from haloformer.simulation.composed.compiled import unit_images

            found = unit_images(
                self.survey, parameters, self.threads(), peaks=self._needs_peaks(parameters)
            )
            images, peak = torch.from_numpy(found.images), torch.from_numpy(found.peak)
            return (images, peak) if self.survey.bands else (images[:, 0], peak[:, 0])
        alpha = self.smooth_deflection(parameters)
        images = self._observed(parameters, alpha)
        peak = images.flatten(-2).amax(-1)
        rows = self._changed(parameters)
        if len(rows):
            own = {name: values[rows] for name, values in parameters.items()}
            where = torch.from_numpy(rows).to(self.device)
            images[where] = self._observed(own, self._deflection(own, alpha, where))
        return images, peak

    def _lens_galaxy(self, part: LensGalaxyLight, parameters: Parameters) -> Tensor:
        """Returns the light of lens galaxies, (B, H, W) or (B, bands, H, W)."""
        total: Tensor | float = 0.0
        for number, light in enumerate(part.light):
            name = f"lens_light_{component_prefix(number, light)}"
            flux = self._tensor(parameters[f"{name}flux"])
            own = {key: parameters[name + key] for key in light.UNITS}
            images = [
                self._unlensed(look, own, parameters)
                for (look,) in self.survey.band_looks((light,))
            ]
            image = torch.stack(images, 1) if self.survey.bands else images[0]
            total = total + image * flux[..., None, None]
        assert isinstance(total, Tensor)
        return total

    def _unlensed(self, light: LightComponent, own: Parameters, parameters: Parameters) -> Tensor:
        """Returns images (B, H, W) of a component of the lens galaxy, of flux 1."""
        place = [parameters[f"lens_light_{k}"] for k in ("x", "y")]
        if self.compiled:
            from haloformer.simulation.composed.compiled import light_images

            at_rays = light.at_rays(own, np.ones(len(place[0])))
            camera = self.survey.instrument
            return torch.from_numpy(light_images(at_rays, np.stack(place), camera, self.threads()))
        x, y = (
            (axis - column(self._tensor(values, torch.float64))).to(self.dtype)
            for axis, values in zip((self.x, self.y), place)
        )
        values = {key: self._tensor(array) for key, array in own.items()}
        return observe(light.brightness(x, y, values), self.survey.instrument)

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
        if self.compiled:
            from haloformer.simulation.composed.compiled import light_images

            given = {name: parameters[f"lens_light_{name}"] for name in part.UNITS}
            place = np.stack([given["x"], given["y"]])
            found = light_images(part.at_rays(given), place, camera, self.threads())
            light = torch.from_numpy(found) * column(peak / camera.pixel_scale**2)
        else:
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
        if self.compiled:
            from haloformer.simulation.composed.compiled import unit_images

            found = unit_images(
                self.survey, parameters, self.threads(), peaks=True, substructure=False
            )
            peak = torch.from_numpy(found.peak)
            return self._flux(parameters, peak if self.survey.bands else peak[:, 0])
        with torch.no_grad():
            images = self._observed(parameters, self.smooth_deflection(parameters))
            return self._flux(parameters, images.flatten(-2).amax(-1))

    def _tensor(self, values: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
        return torch.as_tensor(values).to(self.device, dtype or self.dtype)

    def _own(self, part: MassComponent, parameters: Parameters) -> dict[str, Tensor]:
        """Returns a component's parameters as tensors: those of places in float64."""
        return as_tensors(component_parameters(part, parameters), self.dtype, self.device)

    def _of(self, part: MassComponent, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns a component's deflection at the rays."""
        return part.deflection(self.x, self.y, self._own(part, parameters))

    def smooth_deflection(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Returns the deflection (B, N, N) in arcsec at the rays, in x and in y, by the lenses without substructure."""
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
        if gives_up(parameters):  # the lens is another one
            alpha_x, alpha_y = self.smooth_deflection(given_up(parameters))
        else:
            alpha_x, alpha_y = smooth[0][where], smooth[1][where]
        for part in self.extra:
            rows = np.flatnonzero(has_it(part, component_parameters(part, parameters)))
            if not len(rows) or not part.IN_LENS_PLANE:
                continue
            theirs = {name: values[rows] for name, values in parameters.items()}
            more_x, more_y = self._of(part, theirs)
            which = torch.from_numpy(rows).to(self.device)
            alpha_x = alpha_x.index_add(0, which, more_x.to(self.dtype))
            alpha_y = alpha_y.index_add(0, which, more_y.to(self.dtype))
        outside = outside_lens_plane(self.survey, parameters, self.x, self.y, self.dtype)
        if outside is not None:
            which = torch.from_numpy(outside[0]).to(self.device)
            alpha_x = alpha_x.index_add(0, which, outside[1].to(self.dtype))
            alpha_y = alpha_y.index_add(0, which, outside[2].to(self.dtype))
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
            looks.append(observe(self.brightness(light, parameters, x, y), self.survey.instrument))
        return torch.stack(looks, dim=1) if self.survey.bands else looks[0]

    def brightness(
        self, light: tuple[LightComponent, ...], parameters: Parameters, x: Tensor, y: Tensor
    ) -> Tensor:
        """Returns the brightness of sources of flux 1, per arcsec².

        Args:
            light: The source's components, as a band shows them.
            parameters: Of B images.
            x: (B, N, N) arcsec from the source's place.
            y: As ``x``.
        """
        total = torch.zeros_like(x)
        for number, part in enumerate(light):
            name = source_prefix(number, part)
            own = {key: self._tensor(parameters[name + key]) for key in part.UNITS}
            share = column(self._tensor(parameters[f"{name}share"]))
            total = total + share * part.brightness(x, y, own)
        return total

    def _flux(self, parameters: Parameters, peaks: Tensor) -> np.ndarray:
        """Returns the flux (B,) that gives the brightest pixels (B,) of images of flux 1 the wanted signal to noise.

        s² = r² (b² + n (s + sky) / T), with n = 2 where the Poisson noise comes twice, solved for the signal s. Of a camera with a noise
        map s = r b, with b the map's median: a map has all noise in it.
        """
        known: np.ndarray = parameters["source_flux"]
        if np.isfinite(known).all():
            return known
        instrument = self.survey.instrument
        seconds = parameters["exposure_time"] * instrument.num_exposures
        ratio, rms = parameters["snr"], self.rms
        times = 2 if self.survey.original_noise == "double_poisson" else 1
        half = ratio**2 * times / seconds / 2
        photons = times * (instrument.sky or 0.0) / seconds
        signal = half + np.sqrt(half**2 + ratio**2 * (rms**2 + photons))
        if self.noise_map is not None:
            signal = ratio * rms
        peak = peaks.double().cpu().numpy()
        return np.where(np.isfinite(known), known, signal / np.maximum(peak, 1e-30))


def _stacked(bands: Sequence[Tensor | None]) -> Tensor | None:
    """Returns images (B, H, W) of several bands as (B, bands, H, W); None if there are none."""
    return (
        None if bands[0] is None else torch.stack([each for each in bands if each is not None], 1)
    )
