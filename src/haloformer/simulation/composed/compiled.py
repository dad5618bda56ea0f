"""A composed survey's images by compiled kernels, on the CPU in float32: a few images at a time, so that they stay in a core's cache.

What a batch needs is prepared for all of its images at once (fields of granules, grids of galaxies); then threads take a few
images each from deflection to pixels. What the kernels make of an image does not depend on the others of its batch; fields and grids by
tensors do so in their last digit.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from haloformer.simulation.components import ray_kernels
from haloformer.simulation.components.component import (
    AtRays,
    LightComponent,
    MassComponent,
    OnGrid,
    added_arrays,
)
from haloformer.simulation.components.shear import linear_on_grid
from haloformer.simulation.composed.planes import outside_lens_plane
from haloformer.simulation.composed.survey import (
    ComposedSurvey,
    component_parameters,
    given_up,
    gives_up,
    has_it,
    source_prefix,
)
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.psf import SeparablePsf, observe, ray_axis, rays_per_pixel, separable_psf

Parameters = Mapping[str, np.ndarray]

AT_ONCE = 8
"""Images that a thread takes at a time: their rays fill a core's cache, not more."""


@dataclass(frozen=True)
class UnitImages:
    """Images of sources whose flux without lensing is 1.

    Attributes:
        images: (B, L, N, N) float32; L is 1, or the number of bands if they look different.
        peak: (B, L) the brightest pixel of each without substructure; NaN if it was not asked for.
    """

    images: np.ndarray
    peak: np.ndarray


def unit_images(
    survey: ComposedSurvey,
    parameters: Parameters,
    threads: ThreadPoolExecutor | None,
    *,
    peaks: bool,
    substructure: bool = True,
) -> UnitImages:
    """Renders images.

    Args:
        survey: The recipe.
        parameters: As the scenes have them.
        threads: What to share the work among; None: this thread alone.
        peaks: Whether the brightest pixels of the smooth lens's images are wanted.
        substructure: Whether the images have it.
    """
    count, camera = len(parameters["z_lens"]), survey.instrument
    work = _Work(survey, parameters, substructure, peaks)
    looks = len(work.looks)
    images = np.empty((count, looks, camera.num_pix, camera.num_pix), np.float32)
    peak = np.full((count, looks), np.nan, np.float32)

    def part(rows: np.ndarray) -> None:
        some = slice(rows[0], rows[-1] + 1)
        work.do(rows, images[some], peak[some])

    in_parts(part, count, threads)
    return UnitImages(images, peak)


def light_images(
    light: AtRays, place: np.ndarray, camera: Instrument, threads: ThreadPoolExecutor | None
) -> np.ndarray:
    """Returns what a camera without noise makes of light that no lens deflects, (B, N, N) float32.

    Args:
        light: At positions relative to ``place``.
        place: (2, B) x and y in arcsec.
        camera: The camera.
        threads: What to share the work among; None: this thread alone.
    """
    axis, psf, count = ray_axis(camera), separable_psf(camera), place.shape[1]
    images = np.empty((count, camera.num_pix, camera.num_pix), np.float32)

    def part(rows: np.ndarray) -> None:
        total = np.zeros((len(rows), len(axis), len(axis)), np.float32)
        x, y = (
            np.ascontiguousarray(np.broadcast_to(each.astype(np.float32), total.shape))
            for each in (
                axis[None, None, :] - place[0, rows, None, None],
                axis[None, :, None] - place[1, rows, None, None],
            )
        )
        light(rows, np.arange(len(rows)), x, y, total)
        images[rows[0] : rows[-1] + 1] = observed(total, camera, psf)

    in_parts(part, count, threads)
    return images


def in_parts(
    do: Callable[[np.ndarray], None], count: int, threads: ThreadPoolExecutor | None
) -> None:
    """Calls a function with the numbers of a few of ``count`` images at a time, in threads if there are any."""
    parts = (np.arange(k, min(k + AT_ONCE, count)) for k in range(0, count, AT_ONCE))
    for _ in map(do, parts) if threads is None else threads.map(do, parts):
        pass


class _Work:
    """All that a batch's images need, prepared."""

    def __init__(
        self, survey: ComposedSurvey, parameters: Parameters, substructure: bool, peaks: bool
    ) -> None:
        self.peaks = peaks
        self.camera = survey.instrument
        self.axis = ray_axis(self.camera)
        self.psf = separable_psf(self.camera)
        everything = np.arange(len(parameters["z_lens"]))
        self.lens = [self._prepared(part, parameters, everything) for part in survey.lens]
        self.added: list[_Part] = []
        if substructure:
            self.added = self._substructure(survey, parameters)
        self.changed = np.zeros(len(everything), bool)
        for each in self.added:
            self.changed |= each.row_of >= 0
        # A lens that gives up mass or slope is another lens, not only a smaller deflection.
        self.lighter: list[_Part] = []
        if self.changed.any() and gives_up(parameters):
            main = self._prepared(survey.lens[0], given_up(parameters), everything)
            self.lighter = [main, *self.lens[1:]]
        if self.changed.any():
            self.added.append(_Part(everything, self._given_up(parameters)))
        self.place = np.stack([parameters[f"source_{k}"] for k in ("x", "y")])
        self.looks = [
            self._at_rays(light, parameters) for light in survey.band_looks(survey.source.light)
        ]

    def _at_rays(self, light: Sequence[LightComponent], parameters: Parameters) -> list[AtRays]:
        found = []
        for number, part in enumerate(light):
            name = source_prefix(number, part)
            own = {key: parameters[name + key] for key in part.UNITS}
            found.append(part.at_rays(own, parameters[f"{name}share"]))
        return found

    def _prepared(self, part: MassComponent, parameters: Parameters, rows: np.ndarray) -> "_Part":
        own = {k: v[rows] for k, v in component_parameters(part, parameters).items()}
        row_of = np.full(len(parameters["z_lens"]), -1)
        row_of[rows] = np.arange(len(rows))
        return _Part(row_of, part.on_grid(self.axis, own))

    def _substructure(self, survey: ComposedSurvey, parameters: Parameters) -> "list[_Part]":
        found = []
        for part in survey.added:
            rows = np.flatnonzero(has_it(part, component_parameters(part, parameters)))
            if len(rows) and part.IN_LENS_PLANE:
                found.append(self._prepared(part, parameters, rows))
        axis = torch.as_tensor(self.axis)
        x, y = torch.broadcast_tensors(axis[None, None, :], axis[None, :, None])
        outside = outside_lens_plane(survey, parameters, x, y, torch.float32)
        if outside is not None:
            row_of = np.full(len(parameters["z_lens"]), -1)
            row_of[outside[0]] = np.arange(len(outside[0]))
            found.append(_Part(row_of, added_arrays(outside[1].numpy(), outside[2].numpy())))
        return found

    def _given_up(self, parameters: Parameters) -> OnGrid:
        """Takes the mean pull, sheet and shear out, about the lens."""
        names = ("x", "y", "kappa", "gamma1", "gamma2")
        pull_x, pull_y, kappa, gamma1, gamma2 = (parameters[f"matched_{k}"] for k in names)
        matrix = -np.stack([kappa + gamma1, gamma2, kappa - gamma1], axis=1)
        x, y = parameters["lens_x"], parameters["lens_y"]
        constant = [
            -pull_x - matrix[:, 0] * x - matrix[:, 1] * y,
            -pull_y - matrix[:, 1] * x - matrix[:, 2] * y,
        ]
        return linear_on_grid(self.axis, np.stack(constant, axis=1), matrix)

    def do(self, rows: np.ndarray, images: np.ndarray, peak: np.ndarray) -> None:
        """Renders neighbouring images of the batch.

        Args:
            rows: (K,) their numbers in the batch.
            images: (K, L, N, N) written.
            peak: (K, L) written, if peaks are wanted.
        """
        all_, changed = np.arange(len(rows)), np.flatnonzero(self.changed[rows])
        shape = (len(rows), len(self.axis), len(self.axis))
        alpha_x, alpha_y = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        # Where nobody asks for the smooth lens, that of changed images need not be rendered.
        smooth = np.flatnonzero(~self.changed[rows]) if self.lighter and not self.peaks else all_
        for part in self.lens:
            part.add(rows, smooth, alpha_x, alpha_y)
        if self.peaks:
            self._observe(rows, all_, alpha_x, alpha_y, images)
            peak[:] = images.max(axis=(2, 3))
        if self.lighter and len(changed):
            alpha_x[changed] = 0
            alpha_y[changed] = 0
            for part in self.lighter:
                part.add(rows, changed, alpha_x, alpha_y)
        for part in self.added:
            part.add(rows, changed, alpha_x, alpha_y)
        self._observe(rows, changed if self.peaks else all_, alpha_x, alpha_y, images)

    def _observe(
        self,
        rows: np.ndarray,
        some: np.ndarray,
        alpha_x: np.ndarray,
        alpha_y: np.ndarray,
        images: np.ndarray,
    ) -> None:
        """Renders the images ``some`` among the K, whose numbers in the batch are ``rows[some]``."""
        if not len(some):
            return
        shape = (len(some), *alpha_x.shape[1:])
        x, y = np.empty(shape, np.float32), np.empty(shape, np.float32)
        ray_kernels.at_source(self.axis, self.place, rows[some], some, alpha_x, alpha_y, x, y)
        for look, light in enumerate(self.looks):
            total = np.zeros_like(x)
            for part in light:
                part(rows[some], np.arange(len(some)), x, y, total)
            images[some, look] = observed(total, self.camera, self.psf)


@dataclass(frozen=True)
class _Part:
    """A component of a batch's images.

    Attributes:
        row_of: (B,) the row of its parameters that an image has, −1 if it has none.
        on_grid: Adds its deflections.
    """

    row_of: np.ndarray
    on_grid: OnGrid

    def add(
        self, rows: np.ndarray, some: np.ndarray, alpha_x: np.ndarray, alpha_y: np.ndarray
    ) -> None:
        """Adds the deflections of the images ``rows[some]`` of the batch to the images ``some`` of α."""
        which = self.row_of[rows[some]]
        there = which >= 0
        if there.any():
            self.on_grid(which[there], some[there], alpha_x, alpha_y)


def observed(
    brightness: np.ndarray,
    camera: Instrument,
    psf: SeparablePsf | None,
) -> np.ndarray:
    """Returns what a camera without noise makes of surface brightness, (B, N, N) float32.

    Args:
        brightness: (B, s·N, s·N) float32 at the rays.
        camera: The camera.
        psf: Of :func:`~haloformer.simulation.psf.separable_psf`; None: by Fourier transforms.
    """
    if psf is None:
        found: np.ndarray = observe(torch.from_numpy(brightness), camera).numpy()
        return found
    rays = rays_per_pixel(camera)
    side = brightness.shape[1] // rays
    out = np.empty((len(brightness), side, side), np.float32)
    area = np.float32(camera.pixel_scale**2)
    ray_kernels.observe(brightness, psf.across, psf.down, psf.radius, rays, area, out)
    return out
