"""The best smooth lens of images of a composed survey: from templates on coarse pixels to a converged fit, and what is left.

Each image begins at the draws of the survey that are most like it; all of them take a few steps on pixels twice as large, the best of them
goes on there, and then on the image's own pixels. What has not converged, or leaves much, begins again at other draws.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.errors import InputError
from haloformer.fitting.behind import kernel_serves
from haloformer.fitting.composed.camera import COARSE, FitCamera
from haloformer.fitting.composed.columns import physical
from haloformer.fitting.composed.hidden import hidden_variance, rescaled
from haloformer.fitting.composed.method import Finished, FitImages, Method
from haloformer.fitting.composed.names import FLUX, LOGARITHMIC, NAMES, SECONDS, X, Y
from haloformer.fitting.composed.problem import LEAST_SIDE, ComposedProblem, has_sersic
from haloformer.fitting.composed.scaled import Unscaling, wide
from haloformer.fitting.composed.start import Templates
from haloformer.fitting.composed.tensors import BY_TENSORS
from haloformer.fitting.convergence import UNSEEN
from haloformer.fitting.given import (
    Values,
    given_images,
    given_noise_map,
    given_seconds,
    weighty,
)
from haloformer.fitting.problem import MOST, check_exposures, checked_free_place, checked_size
from haloformer.fitting.result import SmoothFit
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.correlation import correlation
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.psf import rays_per_pixel

STEPS = 12
"""Gauss–Newton steps on an image's own pixels at most."""

_STARTS, _OTHER_STARTS = 2, 9
_FIRST_STEPS, _COARSE_STEPS, _MORE_STEPS = 3, 8, 30
_CONVERGED = (
    0.1  # standard deviations that a further step would go, of a fit that counts as converged
)
_SIGNIFICANT = 8.0  # standard deviations that the fitted light must have
_POOR, _POOR_STRUCTURED, _POOR_ELSEWHERE = 1.08, 3.0, 1.06
"""Mean square of a residual that another start may lower; of sources that are no Sérsic profiles; of lenses that may lie anywhere."""

_UNUSUAL = 2.0  # standard deviations of what the priors add to χ², beyond which a lens is one that another start may lead away from
_CORRECTIONS, _OF_PEAK = (("coarse", 2), ("fine", 2)), 64
"""Of how images were scaled, on coarse pixels and then on their own; and how many images tell a survey's usual peak."""

_APART = 0.034
"""Arcsec between rays, close enough for a Sérsic profile that is fitted to another source."""

_MASK_MARGIN = 0.3  # arcsec beyond a mask's radius within which dark pixels are its
_NEAR = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
"""Places at which a lens is looked for, in pixels of the templates, if it may lie anywhere."""


class ComposedFitter:
    """The fit of one composed survey, ready for any number of batches."""

    def __init__(
        self,
        survey: ComposedSurvey,
        *,
        noise: str = "original",
        size: tuple[int, ...] | int | None = None,
        exposure_known: bool = False,
        free_place: tuple[str, ...] = (),
    ) -> None:
        """Defines the fit; the arguments are those of :class:`~haloformer.fitting.parametric.SmoothFitter`.

        Raises:
            InputError: The fit does not know something of the survey, or another size or place.
        """
        free_place = checked_free_place(free_place)
        if "place_scale" in free_place:
            raise InputError(
                f"survey {survey.name} draws its lenses' sizes: place_scale cannot be told from them; place_x and place_y can be fitted"
            )
        problem = ComposedProblem.of_survey(survey, noise=noise, exposure_known=exposure_known)
        if free_place:
            reach = MOST["place_x"] * survey.instrument.pixel_scale
            problem = problem.with_free_place(reach, free_place)
        self.problem, self.free_place = problem, free_place
        self.size = checked_size(survey, size, LEAST_SIDE)
        self._templates: Templates | None = None
        self._peak_found: float | None = None

    @property
    def survey(self) -> ComposedSurvey:
        """The survey that is fitted."""
        return self.problem.survey

    @property
    def names(self) -> tuple[str, ...]:
        """The P free parameters."""
        return self.problem.names

    @property
    def camera(self) -> Instrument:
        """The survey's camera, with fewer rays where those are for what its sources have that no Sérsic profile has."""
        camera = self.survey.instrument
        enough = math.ceil(camera.pixel_scale / _APART)
        if has_sersic(self.survey) or rays_per_pixel(camera) <= enough:
            return camera
        return dataclasses.replace(camera, supersampling=enough)

    @property
    def _starts(self) -> int:
        """From how many draws fits begin: half a ring is like its other half, if the lens may lie anywhere."""
        return 3 * _STARTS if self.free_place else _STARTS

    def prepare(self, device: torch.device | str = "cpu") -> "ComposedFitter":
        """Renders the images with which fits begin."""
        where = torch.device(device)
        if self._templates is None or self._templates.u.device != where:
            u = torch.from_numpy(self.problem.draws).to(where)
            camera = FitCamera.coarse(self.camera, self.size)
            images = self._method(where).render(self.problem, u, camera)
            self._templates = Templates.of(images, u)
        return self

    def __call__(
        self,
        images: Tensor | np.ndarray,
        exposure_time: Values | None = None,
        *,
        steps: int = STEPS,
        detail: bool = False,
        place: tuple[float, float, float] | Tensor | None = None,
        psf: np.ndarray | None = None,
        noise_map: Values | None = None,
        psf_oversampling: int = 1,
    ) -> SmoothFit:
        """Fits images.

        Args:
            images: (B, 1, N, N); pixels that are not finite are left out.
            exposure_time: (B,) seconds of one exposure where it is known, or one number for all.
            steps: Steps on the images' own pixels at most.
            detail: Also compute what is left of the residual when all freedoms of the lens are fitted to it.
            place: Not of composed surveys, which fit the lens's centre.
            psf: (odd, odd) the images' own point-spread function, on pixels as large as theirs.
            noise_map: (N, N) or (B, N, N) standard deviation of the images' noise, in their unit, or one number for all. Pixels where it is
                infinite, or more than 1000 times that of the quietest twentieth of them, are left out.
            psf_oversampling: Pixels of ``psf`` per side of one of the images.

        Raises:
            InputError: Images, exposure times, a point-spread function or a noise map that cannot be.
        """
        images = given_images(images)
        if images.shape[1:] != (1, self.size, self.size):
            raise InputError(
                f"images have shape {tuple(images.shape)}, but {(1, self.size, self.size)} each are fitted"
            )
        if place is not None:
            raise InputError(
                f"place: survey {self.survey.name} draws its lenses' centres, which are fitted: use free_place for images that are cut out elsewhere"
            )
        with torch.no_grad():
            own = (psf, psf_oversampling)
            seconds = given_seconds(exposure_time, len(images))
            sigma = given_noise_map(noise_map, (self.size, self.size))
            return self._fit(images, seconds, steps, detail, own, sigma)

    def _method(self, device: torch.device) -> Method:
        if kernel_serves(device):
            from haloformer.fitting.composed.compiled import BY_KERNEL

            return BY_KERNEL
        return BY_TENSORS

    def _fit(
        self,
        images: Tensor,
        exposure_time: Tensor | None,
        steps: int,
        detail: bool,
        psf: tuple[np.ndarray | None, int],
        noise_map: np.ndarray | None,
    ) -> SmoothFit:
        self.prepare(images.device)

        def seen(unscaling: Unscaling | None = None) -> FitImages:
            if unscaling is None:
                return self._images(images, exposure_time, psf, noise_map)
            noise = None
            if noise_map is not None:
                noise = noise_map * unscaling.factor.cpu().numpy()[:, None, None]
            return self._images(unscaling.counts(images), exposure_time, psf, noise)

        if self.problem.scaling == "none":
            return self._result(*self._ends(seen(), steps, detail, psf))
        unscaling, u = self._unscaled(images, seen, psf)
        fit = self._result(*self._ends(seen(unscaling), steps, detail, psf, u))
        return dataclasses.replace(
            fit, model=unscaling.scaled(fit.model), sigma=fit.sigma / wide(unscaling.factor)
        )

    def _unscaled(
        self,
        images: Tensor,
        seen: Callable[[Unscaling], FitImages],
        psf: tuple[np.ndarray | None, int],
    ) -> tuple[Unscaling, Tensor]:
        """Returns how images (B, 1, N, N) were scaled, found on coarse pixels and then on their own, and where their fits are (B, 22)."""
        method = self._method(images.device)
        unscaling = Unscaling.of_peak(images, self._peak(), self.problem.scaling)
        u = self._begin(method, self._coarse(seen(unscaling), psf), self._starts)
        for pixels, corrections in _CORRECTIONS:
            for k in range(corrections):
                now = self._unseen(seen(unscaling), u)
                if pixels == "coarse":
                    now = self._coarse(now, psf)
                most = STEPS if k == 0 else _FIRST_STEPS
                u, _ = method.fit(self.problem, now, u[:, None], most, most)
                found = method.finish(self.problem, now, u, False)
                unscaling = unscaling.corrected(self.problem, now, u, found)
                u[:, FLUX] = self.problem.log_flux
        return unscaling, u

    def _peak(self) -> float:
        """Returns how bright the brightest pixel of the survey's images is, in counts/s, in the mean."""
        if self._peak_found is None:
            u = torch.from_numpy(self.problem.draws[:_OF_PEAK])
            camera = FitCamera.of(self.camera, self.size)
            images = self._method(u.device).render(self.problem, u, camera)
            sky = self.survey.instrument.sky or 0.0
            self._peak_found = sky + float(images.flatten(1).amax(1).mean())
        return self._peak_found

    def _ends(
        self,
        fine: FitImages,
        steps: int,
        detail: bool,
        psf: tuple[np.ndarray | None, int],
        begun: Tensor | None = None,
    ) -> tuple[FitImages, Tensor, Finished]:
        """Returns images with what is known of their pixels in the end, where their fits end (B, 22), and what is found there.

        They start where they have ``begun`` (B, 22), if they have.
        """
        coarse = self._coarse(fine, psf)
        method = self._method(fine.data.device)
        u = self._begin(method, coarse, self._starts) if begun is None else begun
        fine = self._unseen(fine, u)
        if self.problem.subtracted is not None and not fine.extra_only:
            extra = hidden_variance(self.problem, u, fine)
            fine = dataclasses.replace(fine, extra=extra)
            extra = rescaled(
                extra, fine, method.finish(self.problem.without_shape(), fine, u, False)
            )
            fine = dataclasses.replace(fine, extra=extra)
            coarse = dataclasses.replace(coarse, extra=_binned(extra))
        u, _ = method.fit(self.problem, fine, u[:, None], steps, steps)
        found = method.finish(self.problem, fine, u, detail)
        poor = self._poor(fine, u, found)
        if len(poor):
            other = self._begin(method, coarse.some(poor), _OTHER_STARTS, skip=self._starts)
            both = torch.stack([u[poor], other], 1)
            again, _ = method.fit(self.problem, fine.some(poor), both, _MORE_STEPS, _FIRST_STEPS)
            u[poor] = again
            _replace(found, poor, method.finish(self.problem, fine.some(poor), again, detail))
        return fine, u, found

    def _images(
        self,
        images: Tensor,
        exposure_time: Tensor | None,
        psf: tuple[np.ndarray | None, int] = (None, 1),
        noise_map: np.ndarray | None = None,
    ) -> FitImages:
        """Returns images with the pixels that count, their noise and their camera."""
        problem, device, n = self.problem, images.device, len(images)
        data = images[:, 0].to(torch.float32)
        known = torch.isfinite(data)
        data = torch.where(known, data, 0.0).clamp(-1e15, 1e15)
        if not self.free_place:
            known = known & self._outside(data, None)
        camera = self.survey.instrument
        given = noise_map
        if given is None and camera.noise_map:
            from haloformer.simulation.correlation import read_noise_map

            margin = (camera.num_pix - self.size) // 2
            given = read_noise_map(camera)[margin : margin + self.size, margin : margin + self.size]
        extra = torch.zeros(1, self.size, self.size, device=device)
        if given is not None:
            sigma = self._noise(given, n)
            counts = weighty(sigma)
            known = known & torch.from_numpy(counts).to(device)
            variance = np.where(counts, sigma, 1.0) ** 2
            extra = torch.from_numpy(variance).to(device, torch.float32)
        lag = correlation(problem.correlation, 1)
        return FitImages(
            data=data,
            known=known.float(),
            extra=extra,
            extra_only=given is not None,
            seconds=self._seconds(n, exposure_time, device),
            camera=FitCamera.of(self.camera, self.size, *psf),
            # Correlated noise, summed over as many pixels as a change of the lens concerns
            factor=(1 + 2 * lag + 2 * correlation(problem.correlation, 2)) ** 2,
        )

    def _noise(self, noise_map: np.ndarray, n: int) -> np.ndarray:
        """Returns a checked noise map (B or 1, N, N) of n images."""
        sigma = np.asarray(noise_map, dtype=np.float64)
        sigma = sigma[None] if sigma.ndim == 2 else sigma
        if tuple(sigma.shape) not in ((1, self.size, self.size), (n, self.size, self.size)):
            raise InputError(
                f"noise_map has shape {tuple(np.shape(noise_map))}, but the images {(n, self.size, self.size)}"
            )
        if not bool((sigma > 0).all()):  # NaN neither
            raise InputError("noise_map holds values that are not positive numbers")
        if self.problem.noise == "double_poisson":
            raise InputError(
                f"noise_map: the noise of survey {self.survey.name} is that of counts, which no map describes: noise must be instrument"
            )
        return sigma

    def _seconds(self, n: int, exposure_time: Tensor | None, device: torch.device) -> Tensor:
        """Returns the total exposure (B,), or where it is fitted the number of exposures."""
        problem = self.problem
        if exposure_time is not None:
            check_exposures(exposure_time, n)
            return exposure_time.to(device, torch.float64) * problem.exposures
        number = problem.exposures if "exposure_time" in self.names else problem.seconds
        return torch.full((n,), float(number), dtype=torch.float64, device=device)

    def _outside(self, data: Tensor, u: Tensor | None) -> Tensor:
        """Returns (B or 1, N, N) bool: pixels that are not on the lens's centre, where the light changes within a pixel, nor masked.

        Args:
            data: (B, N, N) images.
            u: (B, 22) the lenses; None: they lie where the survey has them on the average.
        """
        scale = self.survey.instrument.pixel_scale
        axis = (torch.arange(self.size, device=data.device) - (self.size - 1) / 2) * scale
        x, y = axis[None, None, :], axis[None, :, None]
        if u is not None:
            x, y = x - u[:, X, None, None].float(), y - u[:, Y, None, None].float()
        radius = torch.hypot(x, y)
        seen = radius > UNSEEN * scale
        if (light := self.problem.subtracted) is not None:
            # The mask is about the light's own centre, which is near.
            seen = seen & (radius > light.mask_radius)
            seen = seen & ~((data == 0) & (radius < light.mask_radius + _MASK_MARGIN))
        return seen

    def _unseen(self, fine: FitImages, u: Tensor) -> FitImages:
        """Leaves out the centres of lenses that may lie anywhere, where they were found (B, 22)."""
        if not self.free_place:
            return fine
        return dataclasses.replace(fine, known=fine.known * self._outside(fine.data, u))

    def _coarse(self, fine: FitImages, psf: tuple[np.ndarray | None, int] = (None, 1)) -> FitImages:
        """Returns the images on coarse pixels, of which those count that do so wholly."""
        known = -F.max_pool2d(-fine.known[:, None], COARSE)[:, 0]
        camera = FitCamera.coarse(self.camera, self.size, *psf)
        return dataclasses.replace(
            fine, data=_binned(fine.data), known=known, extra=_binned(fine.extra), camera=camera, factor=fine.factor / COARSE**2
        )  # fmt: skip

    def _begin(self, method: Method, coarse: FitImages, count: int, skip: int = 0) -> Tensor:
        """Returns (B, 22) where the best fit of each coarse image from the draws most like it ends.

        Args:
            method: Of the fit.
            coarse: The images.
            count: How many draws.
            skip: Of the draws most like the images, so many are left out.
        """
        assert self._templates is not None  # by prepare
        sky = (self.survey.instrument.sky or 0.0) * coarse.known
        seen = (coarse.data - sky) * coarse.known
        moves = tuple(
            (y, x)
            for y, x in _NEAR
            if ("place_y" in self.free_place or not y) and ("place_x" in self.free_place or not x)
        )
        starts, moved = self._templates.nearest(seen, count + skip, moves)
        starts, moved = starts[:, skip:], moved[:, skip:]
        if self.problem.noise == "double_poisson":
            light = seen.double().sum((1, 2))[:, None].clamp(min=1e-30)
            timed = "exposure_time" in self.names
            seconds = coarse.seconds[:, None] * (starts[..., SECONDS].exp() if timed else 1.0)
            # Half of the sky is dark, the other half its noise: 0.4 σ in the mean.
            dark = 0.4 * self.problem.background**0.5 * seconds * coarse.known.sum((1, 2))[:, None]
            starts[..., FLUX] += torch.log((light - dark).clamp(min=1.0) / light / seconds)
        step = COARSE * self.survey.instrument.pixel_scale
        for axis, numbers in ((1, (X, NAMES.index("source_x"))), (0, (Y, NAMES.index("source_y")))):
            for number in numbers:
                starts[..., number] += moved[..., axis] * step
        u, _ = method.fit(self.problem, coarse, starts, _COARSE_STEPS, _FIRST_STEPS)
        return u

    def _within(self, u: Tensor) -> Tensor:
        """Returns (B, P) bool: what is fitted lies within its bounds, and not on them."""
        low, high = (torch.from_numpy(self.problem.prior[k]).to(u.device) for k in (2, 3))
        free = torch.from_numpy(self.problem.free).to(u.device)
        within: Tensor = ((u > low + 1e-6) & (u < high - 1e-6))[:, free]
        return within

    def _inside(self, within: Tensor) -> Tensor:
        """Returns (B,) bool: nothing is at its bound but how a source is that no Sérsic profile describes."""
        if has_sersic(self.survey):
            return within.all(1)
        shape = ("source_R_sersic", "source_n_sersic")
        counted = [k for k, name in enumerate(self.names) if name not in shape]
        return within[:, counted].all(1)

    def _poor(self, fine: FitImages, u: Tensor, found: Finished) -> Tensor:
        """Returns numbers of the images whose fit has not converged, or leaves so much that another start may do better."""
        chi2 = found.residual.square().sum((1, 2)) / fine.known.sum((1, 2)).clamp(min=1)
        if not has_sersic(self.survey):  # no start may lead to a model that is right
            rows: Tensor = (~(chi2 < _POOR_STRUCTURED)).nonzero()[:, 0]
            return rows
        bad = ~(chi2 < (_POOR_ELSEWHERE if self.free_place else _POOR))
        bad = bad | ~(_distance(found, self._within(u)) < _CONVERGED)
        # Half of a ring fits as well with a lens that nobody has seen.
        free = torch.from_numpy(self.problem.free).to(u.device)
        mean, inverse = (torch.from_numpy(self.problem.prior[k]).to(u.device)[free] for k in (0, 1))
        held = int((inverse > 0).sum())
        penalty = (inverse * (u[:, free] - mean) ** 2).sum(1)
        bad = bad | (penalty > held + _UNUSUAL * (2 * held) ** 0.5)
        rows = bad.nonzero()[:, 0]
        return rows

    def _result(self, fine: FitImages, u: Tensor, found: Finished) -> SmoothFit:
        """Returns values in physical units, their covariance, and which fits have converged."""
        problem = self.problem
        free = torch.from_numpy(problem.free).to(u.device)
        logarithmic = torch.tensor([name in LOGARITHMIC for name in self.names], device=u.device)
        at, within = u[:, free], self._within(u)
        values = torch.where(logarithmic, at.clamp(-60, 60).exp(), at)
        inverse = _inverse(found.hessian)
        covariance = inverse @ torch.nan_to_num(found.middle) @ inverse
        slope = torch.where(logarithmic, values, 1.0)
        covariance = slope[:, :, None] * covariance * slope[:, None, :]
        weight = fine.known / found.variance
        share = weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-30)
        pattern = found.mean - (found.mean * share).sum((1, 2), keepdim=True)
        flat = fine.data - (fine.data * share).sum((1, 2), keepdim=True)
        light = (pattern * weight * flat).double().sum((1, 2))
        noise = (pattern.square() * weight).double().sum((1, 2)).clamp(min=1e-30).sqrt()
        significant = light / noise / fine.factor**0.5 > _SIGNIFICANT
        pixels = fine.known.sum((1, 2)) - len(self.names)
        chi2 = found.residual.double().square().sum((1, 2)) / pixels.clamp(min=1)
        fine_numbers = torch.isfinite(chi2) & torch.isfinite(covariance).flatten(1).all(1)
        converged = (_distance(found, within) < _CONVERGED) & self._inside(within)
        converged = converged & significant & (pixels > 0)
        return SmoothFit(
            names=self.names,
            values=torch.nan_to_num(values).float(),
            covariance=torch.nan_to_num(covariance, posinf=0.0, neginf=0.0).float(),
            model=torch.nan_to_num(found.mean)[:, None],
            sigma=torch.nan_to_num(found.variance.sqrt())[:, None],
            residual=_bounded(found.residual)[:, None],
            chi2=torch.nan_to_num(chi2, nan=1e12, posinf=1e12).clamp(max=1e12).float(),
            converged=converged & fine_numbers,
            detail=None if found.detail is None else _bounded(found.detail)[:, None],
        )

    def ends(
        self, images: Tensor, count: int, *, steps: int = _MORE_STEPS
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns where fits of images (B, 1, N, N) end that begin at each of the ``count`` draws most like them.

        Returns:
            (B, count, P) values in physical units, (B, count) −2 ln of the posterior but for a constant, and (B, count) how many standard deviations a further
            step would go.

        Raises:
            InputError: The images were scaled: where other starts end is not told of such.
        """
        if self.problem.scaling != "none":
            raise InputError(f"survey {self.survey.name}: its images are scaled, and are fitted from the best starts alone")  # fmt: skip
        with torch.no_grad():
            self.prepare(images.device)
            fine = self._images(images, None)
            coarse, method = self._coarse(fine), self._method(images.device)
            free = torch.from_numpy(self.problem.free).to(images.device)
            values, costs, distances = [], [], []
            for number in range(count):
                u = self._begin(method, coarse, 1, skip=number)
                seen = self._unseen(fine, u)
                u, cost = method.fit(self.problem, seen, u[:, None], steps, steps)
                finished = method.finish(self.problem, seen, u, False)
                values.append(physical(u)[:, free])
                costs.append(cost[:, 0])
                distances.append(_distance(finished, self._within(u)))
        return torch.stack(values, 1), torch.stack(costs, 1), torch.stack(distances, 1)

    def places(self, fit: SmoothFit, known: Tensor) -> Tensor:
        """Returns (B, 3) where the lenses of a fit lie, in the order of ``PLACE``; what was not fitted as it is ``known`` (B, 3)."""
        found = known.clone()
        for k, (place, name) in enumerate((("place_x", "lens_x"), ("place_y", "lens_y"))):
            if place in self.free_place:
                number = self.names.index(name)
                found[:, k] = fit.values[:, number] / self.survey.instrument.pixel_scale
        return found


def _replace(found: Finished, rows: Tensor, other: Finished) -> None:
    """Puts what another fit has found of some images into its place."""
    for field in dataclasses.fields(found):
        mine, theirs = getattr(found, field.name), getattr(other, field.name)
        if mine is not None:
            mine[rows] = theirs


def _distance(found: Finished, within: Tensor) -> Tensor:
    """Returns (B,) how many standard deviations a further step would go, of what is ``within`` (B, P) its bounds; NaN if unknown."""
    both = within[:, :, None] & within[:, None, :]
    held = torch.diag_embed(torch.where(within, 0.0, 1.0).double())
    hessian = torch.where(both, found.hessian, 0.0) + held
    score = torch.where(within, found.score, 0.0)
    step = (_inverse(hessian) @ score[:, :, None])[:, :, 0]
    return (step * score).sum(1).clamp(min=0).sqrt()


def _inverse(hessian: Tensor) -> Tensor:
    """Returns the inverses (B, P, P) of positive definite matrices, in units in which their diagonals are 1; NaN of others."""
    unit = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).rsqrt()
    scaled = torch.nan_to_num(hessian * unit[:, :, None] * unit[:, None, :])
    eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    inverse, _ = torch.linalg.inv_ex(scaled + 1e-12 * eye)
    found: Tensor = inverse * unit[:, :, None] * unit[:, None, :]
    return found


def _binned(images: Tensor) -> Tensor:
    return F.avg_pool2d(images[:, None], COARSE)[:, 0].contiguous()


def _bounded(residual: Tensor) -> Tensor:
    return torch.nan_to_num(residual, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)
