"""The best smooth lens: what a survey's deflector and source, without substructure, can explain of an image, and what remains.

A batched Gauss–Newton (Levenberg–Marquardt) fit through the differentiable renderer. Free is what the survey draws anew for every
image (in the faithful surveys the source's position, and the exposure time where images are counts); all else is as the survey
says. The number of steps is fixed and no step depends on how another image fares, so that the fit can stand inside a network.
"""

import dataclasses
import functools
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.errors import InputError
from haloformer.fitting.convergence import SETTLED
from haloformer.fitting.linear import damped_step, inverse
from haloformer.fitting.moments import Moments, noise_moments
from haloformer.simulation.instruments import background_rms, convolve_psf, pixel_axis, psf_weights
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.renderer import (
    LENS_PARAMETERS,
    SOURCE_PARAMETERS,
    smooth_source_positions,
)
from haloformer.simulation.scenes import draw_scenes
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b, sersic_ellipse
from haloformer.simulation.surveys import Survey, describe_survey, get_survey
from haloformer.vocabulary import unknown_name

STEPS = 8
"""Gauss–Newton steps; most images of the faithful surveys are there after four."""


_POSITIVE = {
    "lens_theta_E",
    "source_amp",
    "source_R_sersic",
    "source_n_sersic",
    "exposure_time",
}  # fitted as logarithms


_STEP_LIMIT = {"log": 0.2, "position": 0.08, "other": 0.05}  # of one step: arcsec for positions


_DERIVATIVE_STEP = 1e-3  # of a forward difference: small beside every scale of the lens, large beside float32's rounding


MACRO_CHANGES = ("mass at the centre", "Einstein radius", "shear", "quadrupole of the mass inside")
"""What is fitted to the residual for its detail: all that substructure does to the lens as a whole, and not at a place. The last two have
two components each. Linear, after the fit, so that it costs no steps."""


_CONVERGED = 0.1  # the same, of a fit that counts as converged


_SIGNIFICANT = 5.0  # standard deviations that the fitted light must have


@dataclass(frozen=True)
class SmoothFit:
    """The best smooth lens of each of B images.

    Attributes:
        names: The P free parameters, by the names that travel with images (``scenes.UNITS``).
        values: (B, P) their values.
        covariance: (B, P, P) of the estimates, in the parameters' units.
        model: (B, 1, H, W) the expected image, in the unit of the images.
        sigma: (B, 1, H, W) standard deviation of the noise on it.
        residual: (B, 1, H, W) (image − model) / sigma; 0 where a pixel was not finite.
        chi2: (B,) mean square of the residual, per degree of freedom; 1 for a smooth lens.
        converged: (B,) bool: the fit has settled on light that is there. If not, the numbers are finite and mean little.
        detail: (B, 1, H, W) what remains of the residual when small changes of the main lens are fitted, too (:data:`MACRO_CHANGES`);
            None if not asked for.
    """

    names: tuple[str, ...]
    values: Tensor
    covariance: Tensor
    model: Tensor
    sigma: Tensor
    residual: Tensor
    chi2: Tensor
    converged: Tensor
    detail: Tensor | None = None

    @property
    def errors(self) -> Tensor:
        """(B, P) standard errors of the values."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


def fit_smooth(
    images: Tensor,
    survey: str | Survey,
    *,
    noise: str = "original",
    exposure_time: Tensor | None = None,
    steps: int = STEPS,
    detail: bool = False,
    batch_size: int | None = None,
) -> SmoothFit:
    """Fits the smooth lens of a survey to images by maximum (quasi-)likelihood: weighted least squares, each pixel's weight its expected noise.

    Args:
        images: (B, 1, H, W), as the survey has them; or their central part, smaller by an even number of pixels. Pixels that are not
            finite are left out.
        survey: The survey that they are of, or its name.
        noise: The images' noise, ``"original"``, ``"instrument"`` or ``"none"``; with it goes their unit. Of noise-free images the
            residual is in units of the noise that the instrument would have.
        exposure_time: (B,) seconds of one exposure where it is known; else it is the survey's. Where that draws it anew it is fitted to
            images in counts, and of images in counts/s, which hardly tell it, the middle of the draws is taken.
        steps: Gauss–Newton steps.
        detail: Also compute :attr:`SmoothFit.detail`.
        batch_size: Images fitted at once; changes nothing else.

    Returns:
        The fit. Images without a lens are no error: see :attr:`SmoothFit.converged`.

    Raises:
        InputError: Images of another shape than the survey's, exposure times that cannot be, or an unknown survey or noise.

    Example:
        >>> from haloformer.fitting import fit_smooth
        >>> from haloformer.simulation import simulate
        >>> lenses = simulate("model_i", 6, seed=1)
        >>> fit = fit_smooth(lenses.images, "model_i")
        >>> fit.names
        ('source_x', 'source_y', 'exposure_time')
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise InputError(f"fit_smooth takes images (B, 1, H, W), not {tuple(images.shape)}")
    batch_size = 64 if batch_size is None else batch_size
    if batch_size < 1 or steps < 1:
        raise InputError(f"batch_size and steps must be at least 1, not {batch_size} and {steps}")
    if exposure_time is not None:
        _check_seconds(exposure_time, len(images))
    fitter = SmoothFitter(
        survey, noise=noise, size=tuple(images.shape[-2:]), exposure_known=exposure_time is not None
    )
    batches = images.split(batch_size)
    seconds = [None] * len(batches) if exposure_time is None else exposure_time.split(batch_size)
    parts = [
        fitter(part, t, steps=steps, detail=detail)
        for part, t in zip(batches, seconds, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    fields = (
        "values",
        "covariance",
        "model",
        "sigma",
        "residual",
        "chi2",
        "converged",
        *(("detail",) if detail else ()),
    )
    return SmoothFit(
        fitter.names, *(torch.cat([getattr(part, name) for part in parts]) for name in fields)
    )


class SmoothFitter:
    """The fit of one survey, ready for any number of batches."""

    def __init__(
        self,
        survey: str | Survey,
        *,
        noise: str = "original",
        size: tuple[int, ...] | int | None = None,
        exposure_known: bool = False,
    ) -> None:
        """Prepares the starting points.

        Args:
            survey: The survey or its name.
            noise: ``"original"``, ``"instrument"`` or ``"none"``.
            size: Side of the images in pixels; the survey's if None.
            exposure_known: The exposure time will be given with the images.
        """
        self.survey = get_survey(survey)
        if noise not in NOISE_MODES:
            raise unknown_name("noise mode", noise, NOISE_MODES)
        full = self.survey.instrument.num_pix
        shape = (full, full) if size is None else (size, size) if isinstance(size, int) else size
        # Eight pixels are the least that an instrument has, too.
        if shape[0] != shape[1] or not 8 <= shape[0] <= full or (full - shape[0]) % 2:
            raise InputError(
                f"images of {shape[0]}×{shape[1]} pixels cannot be fitted as {self.survey.name}, whose images have {full}×{full}: "
                "they must be square and smaller by an even number of pixels, cut about the same centre"
            )
        self.size = shape[0]
        self.kind = self.survey.original_noise if noise == "original" else noise
        self.rms = background_rms(self.survey.instrument)
        margin = (full - self.size) // 2
        self.axis = torch.as_tensor(
            pixel_axis(self.survey.instrument)[margin : full - margin], dtype=torch.float32
        )
        self.weights = torch.as_tensor(psf_weights(self.survey.instrument), dtype=torch.float32)
        self._draws = _smooth_draws(json.dumps(describe_survey(self.survey)))
        in_counts = self.kind == "double_poisson"
        everything = (
            *LENS_PARAMETERS,
            *SOURCE_PARAMETERS,
            *(() if exposure_known or not in_counts else ("exposure_time",)),
        )
        self.names = tuple(
            sorted((n for n in everything if np.ptp(self._draws[n]) > 0), key=_ORDER.index)
        )
        self.low, self.high = (torch.tensor(x, dtype=torch.float32) for x in self._bounds())
        limits = [_STEP_LIMIT[_kind_of(name)] for name in self.names]
        self.limits = torch.tensor(limits, dtype=torch.float32)
        self._lens_free = any(name in LENS_PARAMETERS for name in self.names)
        self._beta: tuple[Tensor, Tensor] | None = None
        self._band: Tensor | None = None
        self._templates: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(
        self,
        images: Tensor,
        exposure_time: Tensor | None = None,
        *,
        steps: int = STEPS,
        detail: bool = False,
    ) -> SmoothFit:
        """Fits images (B, 1, H, W) with exposure times (B,) where known; see :func:`fit_smooth`."""
        if images.shape[1:] != (1, self.size, self.size):
            raise InputError(
                f"images have shape {tuple(images.shape)}, but {(1, self.size, self.size)} each are fitted"
            )
        with torch.no_grad():
            return self._fit(images, exposure_time, steps, detail)

    def prepare(self, device: torch.device | str = "cpu") -> "SmoothFitter":
        """Computes all that does not depend on the images, which a graph then holds as constants; see :meth:`residual`."""
        self._to(torch.device(device))
        if self._templates is None or self._templates[0].device != self.axis.device:
            self._templates = self._make_templates(self.axis.device)
        return self

    def residual(self, images: Tensor, *, steps: int = STEPS, detail: bool = False) -> Tensor:
        """The residual alone (B, 1, H, W) of images (B, 1, H, W), by tensor operations that ``torch.export`` can follow.

        Nothing here depends on values but by masks. :meth:`prepare` comes first. With ``detail`` that is a second channel.
        """
        data, known = _finite(images)
        # Not len(), which would make the batch size of the trace that of every batch.
        seconds = self._seconds(data.shape[0], None, data.device)
        u, state = self._fit_tensors(self._start(data, known), data, known, seconds, steps)
        residual = _in_noise(state, data, known)
        maps = (
            [residual, self._detail(u, _bounded(residual), known, seconds)]
            if detail
            else [residual]
        )
        return _bounded(torch.stack(maps, 1))

    def _fit(
        self, images: Tensor, exposure_time: Tensor | None, steps: int, detail: bool
    ) -> SmoothFit:
        data, known = _finite(images)
        self.prepare(data.device)
        seconds = self._seconds(len(data), exposure_time, data.device)
        fit = self._fit_compiled if self._compiled(data.device) else self._fit_tensors
        u, state = fit(self._start(data, known), data, known, seconds, steps)
        found = self._result(u, state, data, known)
        if not detail:
            return found
        # A few images at a time, whose patterns stay in a CPU's cache
        parts = [
            part.split(8 if data.device.type == "cpu" else 64)
            for part in (u, found.residual[:, 0], known, seconds)
        ]
        fine = torch.cat([self._detail(*part) for part in zip(*parts)])
        return dataclasses.replace(found, detail=_bounded(fine)[:, None])

    def _fit_tensors(
        self, u: Tensor, data: Tensor, known: Tensor, seconds: Tensor, steps: int
    ) -> tuple[Tensor, "_State"]:
        # The parameters in float64, as in the kernel: a coordinate's rounding in float32 is no longer small beside its error.
        u = u.double()
        low, high, limits = self.low.double(), self.high.double(), self.limits.double()
        damping = torch.full((data.shape[0],), 1e-3, device=data.device, dtype=u.dtype)
        moving = torch.ones(data.shape[0], dtype=torch.bool, device=data.device)
        state = self._linearised(u, data, known, seconds)
        for _ in range(steps):
            step = damped_step(state.hessian, state.gradient, damping)
            moving = moving & ((step * state.gradient).sum(1) > SETTLED**2)
            # One factor for all components, so that a long step keeps its direction.
            shrink = (step.abs() / limits).amax(1, keepdim=True).clamp(min=1.0)
            trial = (u + step / shrink).clamp(low, high)
            proposed = self._linearised(trial, data, known, seconds)
            better = moving & proposed.fits_better_than(state)
            u = torch.where(better[:, None], trial, u)
            state = proposed.where(better, state)
            damping = torch.where(better, damping / 10, damping * 10).clamp(1e-6, 1e6)
        return u.float(), state

    def _result(self, u: Tensor, state: "_State", data: Tensor, known: Tensor) -> SmoothFit:
        left = damped_step(state.hessian, state.gradient, torch.zeros(len(u), device=u.device))
        covariance = inverse(state.hessian)
        # How far a further step would go, in standard deviations
        moved = (left * state.gradient).sum(1).clamp(min=0).sqrt()
        free = ((u > self.low + 1e-6) & (u < self.high - 1e-6)).all(1)
        # How many standard deviations the model's pattern is above a flat image
        weight = state.inverse_variance
        share = weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-30)
        pattern = state.mean - (state.mean * share).sum((1, 2), keepdim=True)
        light = (pattern * weight * (data - (data * share).sum((1, 2), keepdim=True))).sum((1, 2))
        noise = (pattern.square() * weight).sum((1, 2)).clamp(min=1e-30).sqrt()
        pixels = known.sum((1, 2)) - len(self.names)
        converged = (moved < _CONVERGED) & free & (light / noise > _SIGNIFICANT) & (pixels > 0)
        residual = _in_noise(state, data, known)
        chi2 = residual.square().sum((1, 2)) / pixels.clamp(min=1)
        values, slope = self._physical(u)
        covariance = slope[:, :, None] * covariance * slope[:, None, :]
        fine = torch.isfinite(chi2) & torch.isfinite(covariance).flatten(1).all(1)
        return SmoothFit(
            names=self.names,
            values=values,
            covariance=torch.nan_to_num(covariance),
            model=state.mean[:, None],
            sigma=state.sigma[:, None],
            residual=_bounded(residual)[:, None],
            chi2=torch.nan_to_num(chi2, nan=1e12, posinf=1e12).clamp(max=1e12),
            converged=converged & fine,
        )

    def _compiled(self, device: torch.device) -> bool:
        """Whether the compiled kernel serves: on a CPU with numba, if the source's place alone is free, and perhaps the exposure."""
        if (
            device.type != "cpu"
            or self.names[:2] != ("source_x", "source_y")
            or self.names[2:] not in ((), ("exposure_time",))
        ):
            return False
        return importlib.util.find_spec("numba") is not None

    def _fit_compiled(
        self, u: Tensor, data: Tensor, known: Tensor, seconds: Tensor, steps: int
    ) -> tuple[Tensor, "_State"]:
        from haloformer.fitting import kernel

        if self._beta is None:
            self._source(u[:1])
        assert self._beta is not None
        n, p = u.shape
        arrays = {
            "u": u.double().numpy(),
            "mean": np.empty(data.shape, np.float32),
            "weights": np.zeros(data.shape, np.float32),
            "hessian": np.zeros((n, p, p)),
            "gradient": np.zeros((n, p)),
            "chi2": np.zeros(n),
        }
        there, values, time = (
            known.float().numpy(),
            data.contiguous().numpy(),
            seconds.double().numpy(),
        )
        source = np.array([self._draws[name][0] for name in SOURCE_PARAMETERS], dtype=np.float32)
        fixed = [beta[0].numpy() for beta in self._beta]
        camera = self.survey.instrument
        kind = kernel.DOUBLE_POISSON if self.kind == "double_poisson" else kernel.GAUSSIAN
        unit = np.float32(2.0 if self.kind == "doubled" else 1.0)
        bounds = [limit.double().numpy() for limit in (self.low, self.high, self.limits)]

        def work(part: slice) -> None:
            kernel.fit_positions(  # type: ignore[call-arg]
                values[part], there[part], *fixed, source, np.float32(SERSIC_R_MIN), np.float32(camera.pixel_scale**2),
                self.weights.numpy(), kind, unit, time[part], camera.num_exposures, self.rms, *bounds, steps,
                *(array[part] for array in arrays.values()),
            )  # fmt: skip

        threads = torch.get_num_threads()
        parts = [slice(i, i + 4) for i in range(0, n, 4)]
        if threads == 1 or len(parts) == 1:
            work(slice(0, n))
        else:
            with ThreadPoolExecutor(threads) as pool:  # the kernel releases Python's lock
                list(pool.map(work, parts))
        found = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
        weights = found.pop("weights")
        u = found.pop("u")
        return u, _State(inverse_variance=weights, residual=data - found["mean"], **found)

    # --- the model ---

    def _linearised(self, u: Tensor, data: Tensor, known: Tensor, seconds: Tensor) -> "_State":
        """Expected image, noise, and the normal equations of a step, at parameters u (B, P)."""
        moments, columns, _ = self._derivatives(u, seconds)
        jacobian = torch.stack(columns, 1).flatten(2)  # (B, P, H·W)
        inverse_variance = known / moments.variance
        weighted = jacobian * inverse_variance.flatten(1)[:, None, :]
        residual = data - moments.mean
        return _State(
            mean=moments.mean,
            inverse_variance=inverse_variance,
            residual=residual,
            hessian=weighted @ jacobian.transpose(1, 2),
            gradient=(weighted @ residual.flatten(1)[:, :, None])[:, :, 0],
            chi2=(residual.square() * inverse_variance).sum((1, 2)),
        )

    def _derivatives(
        self, u: Tensor, seconds: Tensor, place: bool = False
    ) -> tuple[Moments, list[Tensor], list[Tensor]]:
        """Moments of the images at parameters u (B, P), the means' derivatives by these, and, if wanted, by the source's x and y."""
        values, _ = self._physical(u)
        base, derivatives = self._render_with_derivatives(u, values, place)
        if "exposure_time" in self.names:
            seconds = values[:, self.names.index("exposure_time")]
        seconds = (seconds * self.survey.instrument.num_exposures)[:, None, None]
        moments = noise_moments(self.kind, base, seconds, self.rms)
        columns = []
        for name in self.names:
            if name == "exposure_time":
                assert moments.by_log_time is not None
                columns.append(moments.by_log_time)
            else:
                columns.append(moments.by_base * derivatives[name])
        return (
            moments,
            columns,
            [moments.by_base * derivatives[name] for name in _PLACE] if place else [],
        )

    def _detail(self, u: Tensor, residual: Tensor, known: Tensor, seconds: Tensor) -> Tensor:
        """The residual (B, H, W) without what small changes of the lens as a whole, and of all that is fitted, can explain of it.

        A further deflection δα moves the point of the source that a pixel sees by −δα, as if the source moved by δα: the image changes by
        ∂I/∂x_s δα_x + ∂I/∂y_s δα_y. Each change of the lens is a field δα; its amount follows by linear least squares.
        """
        moments, columns, (by_x, by_y) = self._derivatives(u, seconds, place=True)
        values, _ = self._physical(u)
        x, y = self._from_centre(values, "lens_x"), self._from_centre(values, "lens_y")
        fields = _macro_fields(x, y, self.survey.instrument.pixel_scale)
        inverse_sigma = known / moments.variance.sqrt()
        patterns = (
            torch.stack(
                [
                    *columns,
                    *(by_x * towards_x + by_y * towards_y for towards_x, towards_y in fields),
                ],
                1,
            )
            * inverse_sigma[:, None]
        )
        # In float64, since some patterns are nearly sums of others (a shear, where it is fitted already), which rounding must not feel.
        patterns, left = patterns.flatten(2).double(), residual.flatten(1).double()
        products = patterns @ patterns.transpose(1, 2)
        overlap = (patterns @ left[:, :, None])[:, :, 0]
        amounts = damped_step(products, overlap, torch.full_like(overlap[:, 0], 1e-6))
        return (left - (amounts[:, None] @ patterns)[:, 0]).float().reshape(residual.shape)

    def _from_centre(self, values: Tensor, name: str) -> Tensor:
        """Coordinates of the pixels from the lens's centre: (B or 1, 1, W) of ``lens_x``, (B or 1, H, 1) of ``lens_y``."""
        axis = self.axis[None, :] if name == "lens_x" else self.axis[:, None]
        return axis[None] - self._value(values, name)

    def _render_with_derivatives(
        self, u: Tensor, values: Tensor, place: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise-free smooth images (B, H, W) in counts/s per pixel, and their derivatives by what is fitted, but for the exposure.

        With ``place``, by the source's coordinates in any case.
        """
        brightness, by_position = self._source(
            values, tuple(name for name in _PLACE if place or name in self.names)
        )
        sharp = [brightness, *by_position.values()]
        derivatives = dict(zip(by_position, [None] * len(by_position)))
        names = [
            name for name in self.names if name not in (*by_position, "exposure_time", "source_amp")
        ]
        for name in names:
            k = self.names.index(name)
            shifted = u.clone()
            shifted[:, k] += _DERIVATIVE_STEP
            sharp.append(
                (self._source(self._physical(shifted)[0])[0] - brightness) / _DERIVATIVE_STEP
            )
        base, *blurred = self._blurred(torch.stack(sharp))
        return base, dict(zip([*derivatives, *names], blurred)) | {"source_amp": base}

    def _render(self, values: Tensor) -> Tensor:
        return self._blurred(self._source(values)[0])

    def _blurred(self, sharp: Tensor) -> Tensor:
        """Through the point-spread function: (…, H, W). Two products by a band matrix, for which processors are made."""
        if self._band is None or self._band.device != sharp.device:
            eye = torch.eye(self.size, device=sharp.device)
            self._band = convolve_psf(eye[:, None, :].expand(-1, self.size, -1), self.weights)[
                :, 0
            ].T.contiguous()
        return self._band @ sharp @ self._band.T * self.survey.instrument.pixel_scale**2

    def _source(self, values: Tensor, by: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Surface brightness (B, H, W) where the pixels lie, and its derivatives by the source's coordinates that are asked for."""

        def get(name: str) -> Tensor:
            return self._value(values, name)

        if self._beta is None or self._lens_free:
            lens = [get(name)[:, 0, 0] for name in LENS_PARAMETERS]
            lens = [p.expand(max(len(q) for q in lens)) for p in lens]
            beta = smooth_source_positions(self.survey, lens, self.axis)
            if not self._lens_free:
                self._beta = beta
        else:
            beta = self._beta
        return sersic_with_gradient(*beta, *(get(name) for name in SOURCE_PARAMETERS), by=by)

    def _value(self, values: Tensor, name: str) -> Tensor:
        """A parameter of the lens or the source: (B, 1, 1) if it is fitted, else (1, 1, 1)."""
        if name in self.names:
            return values[:, self.names.index(name)][:, None, None]
        return torch.full((1, 1, 1), float(self._draws[name][0]), device=values.device)

    def _physical(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters (B, P) and their derivatives by what is fitted."""
        logarithmic = torch.tensor([name in _POSITIVE for name in self.names], device=u.device)
        values = torch.where(logarithmic, torch.exp(torch.where(logarithmic, u, 0.0)), u).float()
        return values, torch.where(logarithmic, values, 1.0)

    # --- where to begin ---

    def _bounds(self) -> tuple[list[float], list[float]]:
        """The range of what is fitted: that of the survey's draws, and a good deal beyond."""
        low, high = [], []
        for name in self.names:
            values = np.log(self._draws[name]) if name in _POSITIVE else self._draws[name]
            beyond = 0.25 * np.ptp(values) + (
                1.5 if name in ("exposure_time", "source_amp") else 0.1
            )
            low.append(float(values.min() - beyond))
            high.append(float(values.max() + beyond))
        return low, high

    def _start(self, data: Tensor, known: Tensor) -> Tensor:
        """The draw of the survey whose image is most like the data, its brightness fitted (B, P)."""
        assert self._templates is not None
        templates, sums, u = self._templates
        light = torch.where(known, data, 0.0)
        # The root tames the brightest pixels, as their noise does.
        rooted = _binned(light.clamp(min=0).sqrt()).flatten(1)
        best = (rooted @ templates.T).argmax(1)
        start = u[best].clone()
        ratio = torch.log((light.sum((1, 2)) / sums[best]).clamp(min=1e-6))
        for name in ("exposure_time", "source_amp"):  # counts are in proportion to both
            if name in self.names:
                start[:, self.names.index(name)] += ratio
                break
        return torch.minimum(torch.maximum(start, self.low + 1e-3), self.high - 1e-3)

    def _make_templates(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        columns = [torch.as_tensor(self._draws[name], dtype=torch.float32) for name in self.names]
        values = torch.stack(columns, 1).to(device)
        seconds = self._seconds(len(values), None, device)
        if "exposure_time" in self.names:
            seconds = values[:, self.names.index("exposure_time")]
        seconds = (seconds * self.survey.instrument.num_exposures)[:, None, None]
        n = 1 if not self.names else len(values)
        images = torch.cat([
            noise_moments(self.kind, self._render(part), t, self.rms).mean
            for part, t in zip(values[:n].split(64), seconds[:n].split(64))
        ])  # fmt: skip
        rooted = _binned(images.sqrt()).flatten(1)
        positive = torch.tensor([name in _POSITIVE for name in self.names], device=device)
        u = torch.where(positive, torch.where(positive, values, 1.0).log(), values)
        return (
            rooted / rooted.norm(dim=1, keepdim=True).clamp(min=1e-30),
            images.sum((1, 2)).clamp(min=1e-30),
            u,
        )

    def _seconds(self, n: int, exposure_time: Tensor | None, device: torch.device) -> Tensor:
        if exposure_time is None:
            return torch.full(
                (n,), float(np.exp(np.log(self._draws["exposure_time"]).mean())), device=device
            )
        _check_seconds(exposure_time, n)
        return exposure_time.to(device, torch.float32)

    def _to(self, device: torch.device) -> None:
        if self.axis.device != device:
            for name in ("axis", "weights", "low", "high", "limits"):
                setattr(self, name, getattr(self, name).to(device))
            self._beta = None


@dataclass
class _State:
    """The model at the parameters of a step; all (B, …)."""

    mean: Tensor
    inverse_variance: Tensor
    residual: Tensor
    hessian: Tensor
    gradient: Tensor
    chi2: Tensor

    @property
    def sigma(self) -> Tensor:
        """(B, H, W) standard deviation of the noise."""
        return self.inverse_variance.clamp(min=1e-30).rsqrt()

    def fits_better_than(self, other: "_State") -> Tensor:
        """Whether χ² is no more (B,), with the other's weights: else a model could lower its χ² by claiming more noise.

        The sum of the differences keeps digits that the difference of the sums, in float32, has lost.
        """
        change = (self.residual - other.residual) * (self.residual + other.residual)
        return (change * other.inverse_variance).sum((1, 2)) <= 0

    def where(self, chosen: Tensor, other: "_State") -> "_State":
        """This state where chosen (B,), else the other."""

        def pick(name: str) -> Tensor:
            mine = getattr(self, name)
            return torch.where(
                chosen.reshape(-1, *[1] * (mine.ndim - 1)), mine, getattr(other, name)
            )

        return _State(**{name: pick(name) for name in self.__dataclass_fields__})


def sersic_with_gradient(
    x: Tensor, y: Tensor, amp: Tensor, R_sersic: Tensor, n_sersic: Tensor, e1: Tensor, e2: Tensor, x0: Tensor, y0: Tensor, *, by: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The profile of :func:`~haloformer.simulation.sources.sersic_ellipse` and its derivatives by the centre, from one exponential.

    Args:
        x: Source-plane positions in arcsec, as ``y``; all arguments broadcast, and mean what they mean there.
        y: See ``x``.
        amp: Surface brightness at R_sersic.
        R_sersic: Half-light radius.
        n_sersic: Sérsic index.
        e1: Ellipticity.
        e2: Ellipticity.
        x0: Centre.
        y0: Centre.
        by: Derivatives that are wanted: ``source_x``, ``source_y``.

    Returns:
        Brightness, and its derivatives by name.
    """
    if not by:
        return sersic_ellipse(x, y, amp, R_sersic, n_sersic, e1, e2, x0, y0), {}
    norm = (1 - e1**2 - e2**2).sqrt()
    a, b, c = (1 - e1) / norm, -e2 / norm, (1 + e1) / norm
    dx, dy = x - x0, y - y0
    u, v = a * dx + b * dy, b * dx + c * dy
    square = (u * u + v * v).clamp(min=SERSIC_R_MIN**2)
    R = square.sqrt()
    slope = sersic_b(n_sersic)
    # A traced graph cannot ask for values.
    exponential = not torch.compiler.is_compiling() and bool((n_sersic == 1).all())
    power = R / R_sersic if exponential else (R / R_sersic) ** (1 / n_sersic)
    brightness = amp * torch.exp(-slope * (power - 1))
    # dI/dR / R; constant inside the smallest radius
    steep = torch.where(square > SERSIC_R_MIN**2, brightness * power / square, 0.0) * (
        slope / n_sersic
    )
    found = {
        "source_x": lambda: steep * (a * u + b * v),
        "source_y": lambda: steep * (b * u + c * v),
    }
    return brightness, {name: found[name]() for name in by}


def _macro_fields(x: Tensor, y: Tensor, pixel_scale: float) -> list[tuple[Tensor, Tensor]]:
    """Deflections by :data:`MACRO_CHANGES`, of any size: the gradients of ln r, r, (x² − y²)/2, xy, (x² − y²)/r⁴ and xy/r⁴.

    Args:
        x: (B, 1, W) arcsec from the lens's centre.
        y: (B, H, 1) the same.
        pixel_scale: Twice as much softens the centre, where no arc is.
    """
    square = x * x + y * y + (2 * pixel_scale) ** 2
    r = square.sqrt()
    difference, product, fourth, sixth = x * x - y * y, x * y, square**2, square**3
    return [
        (x / square, y / square),
        (x / r, y / r),
        (x, -y),
        (y, x),
        (2 * x / fourth - 4 * x * difference / sixth, -2 * y / fourth - 4 * y * difference / sixth),
        (y / fourth - 4 * x * product / sixth, x / fourth - 4 * y * product / sixth),
    ]


_PLACE = ("source_x", "source_y")


_ORDER = ("source_x", "source_y", *LENS_PARAMETERS, *SOURCE_PARAMETERS[:5], "exposure_time")


def _kind_of(name: str) -> str:
    return "log" if name in _POSITIVE else "position" if name.endswith(("_x", "_y")) else "other"


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


def _check_seconds(exposure_time: Tensor, n: int) -> None:
    # Far beyond any telescope's, and what float32 still squares
    if exposure_time.shape != (n,) or not bool(
        ((exposure_time > 1e-6) & (exposure_time < 1e12)).all()
    ):
        raise InputError(f"exposure_time must hold {n} positive numbers of seconds, one per image")


def _finite(images: Tensor) -> tuple[Tensor, Tensor]:
    """Data (B, H, W) float32, 0 where they are not finite, and where they are."""
    data = images[:, 0].to(torch.float32)
    known = torch.isfinite(data)
    return torch.where(known, data, 0.0).clamp(-1e30, 1e30), known


def _in_noise(state: "_State", data: Tensor, known: Tensor) -> Tensor:
    """What the model leaves, in standard deviations (B, H, W)."""
    return torch.where(known, (data - state.mean) / state.sigma, 0.0)


def _bounded(residual: Tensor) -> Tensor:
    return torch.nan_to_num(residual, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)


def _binned(images: Tensor) -> Tensor:
    """Means of 2×2 pixels: enough to find where to begin."""
    return F.avg_pool2d(images[:, None], 2, ceil_mode=True)[:, 0]


def describe_fit(fit: SmoothFit) -> dict[str, Any]:
    """A fit's numbers as columns: each parameter, its ``_error``, ``chi2`` and ``converged``, all (B,)."""
    columns: dict[str, Any] = {}
    for k, name in enumerate(fit.names):
        columns[name] = fit.values[:, k].cpu().numpy()
        columns[f"{name}_error"] = fit.errors[:, k].cpu().numpy()
    return columns | {"chi2": fit.chi2.cpu().numpy(), "converged": fit.converged.cpu().numpy()}
