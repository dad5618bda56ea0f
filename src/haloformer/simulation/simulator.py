"""Scenes in, batches of images out: the one place where survey, renderer, noise and random numbers meet."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haloformer._version import code_version
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.simulation import noise as torch_noise
from haloformer.simulation.ahead import batches_ahead
from haloformer.simulation.batch import LensBatch
from haloformer.simulation.components import LensLight
from haloformer.simulation.composed import (
    ComposedRenderer,
    ComposedSurvey,
    Rendered,
    parameter_units,
)
from haloformer.simulation.composed import scenes as composed_scenes
from haloformer.simulation.correlation import add_correlated_noise, noise_sigma
from haloformer.simulation.instruments import (
    background_rms,
    central_part,
    pixel_axis,
    psf_weights,
)
from haloformer.simulation.psf import psf_kernel
from haloformer.simulation.renderer import (
    LENS_PARAMETERS,
    SOURCE_PARAMETERS,
    render,
    smooth_source_positions,
    vortex_masses,
)
from haloformer.simulation.scenes import UNITS, Scenes, draw_scenes
from haloformer.simulation.sources import SERSIC_R_MIN
from haloformer.simulation.surveys import AnySurvey, Survey, describe_survey, get_any_survey
from haloformer.simulation.visible import check_visible
from haloformer.validation import whole_number, whole_numbers
from haloformer.vocabulary import CLASS_ALIASES, unknown_name

_SCALED_UNITS = {
    "max": "1 at the maximum",
    "min_max": "0 at the minimum, 1 at the maximum",
    "clipped_max": "0 or more, 1 at the maximum",
}

_BRIGHTEST = 1e15
"""Counts/s in a pixel, of which no noise is drawn: counts are 64-bit numbers."""

BACKENDS = ("auto", "numba", "torch", "lenstronomy")


class Simulator:
    """Simulates the images of a survey by their number.

    Image number g belongs to class g mod n_classes and is image g div n_classes of that class, so that any run of numbers is balanced.
    Image i of (survey, class, seed) has the same parameters whatever the batch, worker, shard or device, and the same pixels on the same
    kind of device and backend.
    """

    def __init__(
        self,
        survey: str | Path | AnySurvey,
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        noise: str = "original",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        threads: int | None = None,
        paired: bool = False,
    ) -> None:
        """Prepares a simulator.

        Args:
            survey: A shipped survey's name, a YAML file or a :class:`Survey`.
            classes: Which of its classes; all if None. They keep canonical order.
            seed: Of all random draws, 0 ≤ seed < 2⁶³.
            noise: ``"original"``: as the survey was released; ``"instrument"``: the camera's own, in counts/s; ``"none"``.
            dtype: ``torch.float32`` or ``torch.float64``.
            device: Where to render.
            backend: ``"numba"``: the compiled CPU kernel; ``"torch"``: any device; ``"lenstronomy"``: that package, slowly, to check us;
                ``"auto"``: numba on a CPU where it is installed, torch otherwise.
            threads: Threads of the CPU kernel; as many as torch uses if None.
            paired: Of a survey whose lenses vary: images of one number within their class have the same lens, source and noise in all classes,
                and follow one another.

        Raises:
            InputError: An unknown survey, class, noise mode, backend or device, a class named twice, a seed out of range, or a survey
                whose lenses leave no image.
        """
        self.survey = get_any_survey(survey)
        check_visible(self.survey)
        composed = isinstance(self.survey, ComposedSurvey)
        if paired and not composed:
            raise InputError(
                f"survey {self.survey.name}: its lens never varies, so that images are not paired; only those of surveys whose lenses vary are"
            )
        self.paired = paired
        self.class_names = _choose_classes(self.survey, classes)
        if (
            isinstance(seed, bool)
            or not isinstance(seed, int | np.integer)
            or not 0 <= seed < 2**63
        ):
            raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed!r}")
        self.seed = int(seed)
        if noise not in torch_noise.NOISE_MODES:
            raise unknown_name("noise mode", noise, torch_noise.NOISE_MODES)
        self.noise = noise
        dtype = {"float32": torch.float32, "float64": torch.float64}.get(dtype, dtype)  # type: ignore[call-overload]
        if dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"dtype must be torch.float32 or torch.float64, not {str(dtype).removeprefix('torch.')!r}"
            )
        self.dtype = dtype
        self.device = resolve_device(device)
        if composed and dtype == torch.float64 and backend == "auto":
            backend = "torch"  # the kernels of composed surveys are in float32
        self.backend = _choose_backend(backend, self.device)
        compiled = self.backend == "numba"
        if composed and compiled and dtype == torch.float64:
            raise InputError(
                f"survey {self.survey.name} is composed: backend numba is float32 only; use torch, or auto"
            )
        self._renderer = (
            ComposedRenderer(
                self.survey,
                self.dtype,
                self.device,
                compiled=compiled,
                threads=self._threads_if_several,
            )
            if isinstance(self.survey, ComposedSurvey)
            else None
        )
        self.threads = (
            torch.get_num_threads() if threads is None else whole_number(threads, "threads", 1)
        )
        bands = self.survey.band_names if isinstance(self.survey, ComposedSurvey) else ()
        side = self.survey.instrument.num_pix
        self.image_shape = (max(1, len(bands)), side, side)
        self.bands: tuple[str, ...] = bands
        """Names of the channels; none of one channel without a name."""
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = -1

    @property
    def attributes(self) -> dict[str, Any]:
        """Provenance that travels with the images, JSON-able."""
        return {
            "survey": self.survey.name,
            "survey_definition": json.dumps(describe_survey(self.survey)),
            "noise": self.noise,
            "seed": self.seed,
            "units": self.units,
            "image_unit": self._image_unit(),
            "pixel_scale": self.survey.instrument.pixel_scale,
            "backend": self.backend,
            "dtype": str(self.dtype).removeprefix("torch."),
            "code_version": code_version(),
            **({"bands": list(self.bands)} if self.bands else {}),
            **({"paired": True} if self.paired else {}),
        }

    @property
    def units(self) -> dict[str, str]:
        """Unit of every parameter that travels with the images."""
        if isinstance(self.survey, ComposedSurvey):
            return parameter_units(self.survey)
        return dict(UNITS)

    @property
    def calibration(self) -> dict[str, np.ndarray]:
        """What belongs to the camera: ``psf`` (K, K) at the spacing of the rays, of sum 1, and its ``noise_map`` (N, N), if it has one."""
        found = {"psf": psf_kernel(self.survey.instrument).astype(np.float32)}
        if self._renderer is not None and self._renderer.noise_map is not None:
            found["noise_map"] = np.asarray(self._renderer.noise_map, np.float32)
        return found

    def batch(
        self, numbers: Sequence[int] | np.ndarray | range, *, side: int | None = None
    ) -> LensBatch:
        """Simulates the images of these numbers, in this order.

        Args:
            numbers: (B,) image numbers, from 0.
            side: Pixels per side of the central part that is wanted; None: all of the image. The pixels are the same.

        Returns:
            The batch; its images are (B, C, H, W) on the simulator's device, with a channel for each of the survey's bands.

        Raises:
            InputError: These are no image numbers, or no side.
        """
        side = None if side is None else whole_number(side, "side", 1)
        if self._renderer is not None:
            return self._composed_batch(self._renderer, numbers, side)
        scenes = self.scenes(numbers)
        return LensBatch(
            images=self._finite(self.images(scenes, side=side)[:, None]),
            labels=torch.from_numpy(scenes.label),
            parameters=scenes.parameters(self.seed),
            class_names=self.class_names,
            attributes=self.attributes,
        )

    def _finite(self, images: Tensor) -> Tensor:
        """Returns images (B, …); raises InputError for those of a CPU with pixels that are no number. A GPU is not waited for."""
        # A sum is no number if a pixel is none, and is quicker than asking each.
        if images.device.type == "cpu" and not abs(float(images.sum())) < _BRIGHTEST:
            bad = int((~(images.abs() < _BRIGHTEST)).flatten(1).any(1).sum())
            if bad:
                raise InputError(
                    f"survey {self.survey.name}: {bad} of {len(images)} images have pixels that are NaN, or above "
                    f"{_BRIGHTEST:g} counts/s: some number of the survey is far from those of lenses"
                )
        return images

    def parameters(self, numbers: Sequence[int] | np.ndarray | range) -> dict[str, np.ndarray]:
        """Returns the physical parameters of these images, as `batch` does, without rendering more of them than they need."""
        if self._renderer is not None:
            scenes = self._composed_scenes(numbers)
            flux = self._renderer.flux(scenes.parameters)
            return self._complete({**scenes.parameters, "source_flux": flux}, scenes.index)
        return self.scenes(numbers).parameters(self.seed)

    def _composed_scenes(
        self, numbers: Sequence[int] | np.ndarray | range
    ) -> composed_scenes.ComposedScenes:
        assert isinstance(self.survey, ComposedSurvey)
        labels, index = self._places(numbers)
        return composed_scenes.draw_scenes(
            self.survey,
            labels,
            index,
            self.seed,
            self.class_names,
            paired=self.paired,
            device=self.device,
        )

    def _composed_batch(
        self,
        renderer: ComposedRenderer,
        numbers: Sequence[int] | np.ndarray | range,
        side: int | None,
    ) -> LensBatch:
        assert isinstance(self.survey, ComposedSurvey)
        scenes = self._composed_scenes(numbers)
        if self.backend == "lenstronomy":
            rendered = self._by_lenstronomy(renderer, scenes)
        else:
            rendered = renderer.images(scenes.parameters)
        self._finite(rendered.images)  # before the noise, which turns what is no number into one
        return LensBatch(
            images=self._channels(rendered, scenes, side),
            labels=torch.from_numpy(scenes.label),
            parameters=self._complete(
                {**scenes.parameters, "source_flux": rendered.flux}, scenes.index
            ),
            class_names=self.class_names,
            attributes=self.attributes,
        )

    def _by_lenstronomy(
        self, renderer: ComposedRenderer, scenes: composed_scenes.ComposedScenes
    ) -> Rendered:
        from haloformer.simulation.composed.lenstronomy import render_with_lenstronomy

        assert isinstance(self.survey, ComposedSurvey)
        light = self.survey.lens_light
        if isinstance(light, LensLight) and light.mode != "none":
            raise InputError(
                f"survey {self.survey.name}: backend lenstronomy renders light of the lens galaxy that has magnitudes, not this one"
            )
        flux = renderer.flux(scenes.parameters)
        images = render_with_lenstronomy(self.survey, {**scenes.parameters, "source_flux": flux})
        return Rendered(images.to(self.device, self.dtype), None, None, flux)

    def _channels(
        self, rendered: Rendered, scenes: composed_scenes.ComposedScenes, side: int | None
    ) -> Tensor:
        """Returns images (B, C, H, W) with the simulator's noise, each band's of its own."""
        assert isinstance(self.survey, ComposedSurvey)
        if (scaling := self.survey.scaling(self.noise)) != "none":  # by the whole image
            return central_part(
                scaled_images(self._unscaled(rendered, scenes, None), scaling), side
            )
        return self._unscaled(rendered, scenes, side)

    def _unscaled(
        self, rendered: Rendered, scenes: composed_scenes.ComposedScenes, side: int | None
    ) -> Tensor:
        if not self.bands:
            return self._observed(rendered, scenes, side)[:, None]
        channels = []
        for k in range(len(self.bands)):
            band = Rendered(
                rendered.images[:, k],
                None if rendered.hidden is None else rendered.hidden[:, k],
                None if rendered.kept is None else rendered.kept[:, k],
                rendered.flux[:, k],
            )
            own = dataclasses.replace(scenes, noise_word=scenes.noise_word[:, k])
            channels.append(self._observed(band, own, side))
        return torch.stack(channels, dim=1)

    def _observed(
        self, rendered: Rendered, scenes: composed_scenes.ComposedScenes, side: int | None
    ) -> Tensor:
        """Returns images with the simulator's noise, or their central part; masked pixels are 0."""
        assert isinstance(self.survey, ComposedSurvey)
        images = rendered.images
        if sky := self.survey.instrument.sky:
            images = images + sky
        if rendered.hidden is None:
            noisy = self._noisy(images, scenes, side)
        else:  # what was subtracted is gone, but for the noise of its photons
            hidden = central_part(rendered.hidden, side)
            noisy = self._noisy(images + rendered.hidden, scenes, side) - hidden
        return noisy if rendered.kept is None else noisy * central_part(rendered.kept, side)

    def _noisy(
        self, images: Tensor, scenes: composed_scenes.ComposedScenes, side: int | None
    ) -> Tensor:
        """Adds the simulator's noise to noise-free images (B, H, W) in counts/s, and returns their central part."""
        kind, camera = self.survey.noise_kind(self.noise), self.survey.instrument
        if kind not in ("double_poisson", "instrument"):
            return central_part(images, side)
        seconds = scenes.parameters["exposure_time"] * camera.num_exposures
        if kind == "instrument" and (camera.noise_correlation is not None or camera.noise_map):
            return self._correlated(central_part(images, side), scenes, torch.as_tensor(seconds))
        if images.device.type == "cpu" and torch_noise.has_numba():
            return central_part(self._compiled_noise(images, scenes.noise_word, seconds), side)
        return torch_noise.add_noise(
            central_part(images, side),
            scenes.noise_word,
            torch.as_tensor(seconds),
            background_rms(camera),
            twice=kind == "double_poisson",
            num_pix=camera.num_pix,
        )

    def _compiled_noise(self, images: Tensor, words: np.ndarray, seconds: np.ndarray) -> Tensor:
        """Returns whole images (B, H, W) with noise by a compiled kernel."""
        from haloformer.simulation import noise_kernels

        out = images.contiguous().numpy().copy()
        twice = self.survey.noise_kind(self.noise) == "double_poisson"
        rms, tables = background_rms(self.survey.instrument), noise_kernels.noise_tables()

        def work(part: slice) -> None:
            noise_kernels.add_sorted_noise(
                out[part], words[part], seconds[part], rms, twice, *tables
            )

        self._in_parts(work, len(out))
        return torch.from_numpy(out)

    def _correlated(
        self, images: Tensor, scenes: composed_scenes.ComposedScenes, seconds: Tensor
    ) -> Tensor:
        camera = self.survey.instrument
        assert self._renderer is not None  # the survey is composed
        if self._renderer.noise_map is not None:
            sigma = torch.as_tensor(self._renderer.noise_map)[None]
            sigma = central_part(sigma, images.shape[-1]).to(images.device)
        else:
            sigma = noise_sigma(images, seconds.to(images.device), background_rms(camera))
        white = np.zeros(len(images))
        a = torch.as_tensor(scenes.parameters.get("noise_correlation", white)).to(images.device)
        return add_correlated_noise(images, sigma, scenes.noise_word, a, camera.num_pix)

    def _complete(
        self, parameters: dict[str, np.ndarray], index: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Adds seed and index to the parameters of a composed survey's images."""
        return {
            **parameters,
            "seed": np.full(len(index), self.seed, dtype=np.int64),
            "index": index,
        }

    def scenes(self, numbers: Sequence[int] | np.ndarray | range) -> Scenes:
        """Draws the scenes of the images of these numbers (B,), from 0, in this order.

        Raises:
            InputError: The survey is composed: its scenes have other parts.
        """
        if isinstance(self.survey, ComposedSurvey):
            raise InputError(
                f"survey {self.survey.name} is composed: its scenes are in `parameters`"
            )
        labels, index = self._places(numbers)
        return draw_scenes(self.survey, labels, index, self.seed, self.class_names)

    def _places(self, numbers: Sequence[int] | np.ndarray | range) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels (B,) of images, and their numbers within their class."""
        classes = len(self.class_names)
        try:
            found = whole_numbers(numbers, "image numbers")
        except InputError:
            found = np.array([-1])
        if found.ndim != 1 or (len(found) and (found.min() < 0 or found.max() // classes >= 2**32)):
            raise InputError(
                "image numbers must be a list of whole numbers from 0 to 2^32 per class"
            )
        return found % classes, found // classes

    def images(self, scenes: Scenes, *, side: int | None = None) -> Tensor:
        """Renders scenes with the simulator's noise, as (B, H, W), or the central (B, side, side) of them."""
        assert isinstance(self.survey, Survey)  # else there are no such scenes
        if self.backend == "numba":
            return central_part(self._numba_images(scenes), side)
        if self.backend == "lenstronomy":
            from haloformer.simulation.lenstronomy_backend import render_with_lenstronomy

            images = torch.as_tensor(
                render_with_lenstronomy(self.survey, scenes.parameters(self.seed))
            )
            images = images.to(self.device, self.dtype)
        else:
            with torch.no_grad():
                images = render(
                    self.survey, scenes.parameters(self.seed), dtype=self.dtype, device=self.device
                )
        images = central_part(images, side)
        kind = self.survey.noise_kind(self.noise)
        if kind in ("double_poisson", "instrument"):
            seconds = torch.as_tensor(scenes.exposure_time * self.survey.instrument.num_exposures)
            rms = background_rms(self.survey.instrument)
            return torch_noise.add_noise(
                images,
                scenes.noise_word,
                seconds,
                rms,
                twice=kind == "double_poisson",
                num_pix=self.survey.instrument.num_pix,
            )
        return images * 2 if kind == "doubled" else images

    def _image_unit(self) -> str:
        if isinstance(self.survey, ComposedSurvey):
            scaled = _SCALED_UNITS.get(self.survey.scaling(self.noise))
            if scaled is not None:
                return scaled
        return {"double_poisson": "counts", "doubled": "2 × counts/s"}.get(
            self.survey.noise_kind(self.noise), "counts/s"
        )

    def _numba_images(self, scenes: Scenes) -> Tensor:
        from haloformer.simulation import kernels, noise_kernels

        assert isinstance(self.survey, Survey)
        T = np.float32 if self.dtype == torch.float32 else np.float64
        inputs = _KernelInputs(self.survey, scenes, T)
        size = self.survey.instrument.num_pix
        out = np.empty((len(scenes), size, size), dtype=T)
        kind = self.survey.noise_kind(self.noise)
        seconds = scenes.exposure_time * self.survey.instrument.num_exposures
        rms = background_rms(self.survey.instrument)

        def work(part: slice) -> None:
            kernels.render_images(out[part], *inputs.arguments(part))
            if kind in ("double_poisson", "instrument"):
                noise_kernels.add_noise(
                    out[part],
                    scenes.noise_word[part],
                    seconds[part],
                    rms,
                    kind == "double_poisson",
                    *noise_kernels.noise_tables(),
                )
            elif kind == "doubled":
                out[part] *= 2

        self._in_parts(work, len(scenes))
        return torch.from_numpy(out)

    def _in_parts(self, work: Callable[[slice], None], count: int) -> None:
        """Calls ``work`` with parts of ``count`` images, in threads if there are several."""
        # Several parts per thread, as classes differ in cost; small enough to stay in a core's cache.
        step = max(1, min(-(-count // (4 * self.threads)), 64))
        parts = [slice(i, min(i + step, count)) for i in range(0, count, step)]
        if self.threads == 1 or len(parts) == 1:
            for part in parts:
                work(part)
        else:
            list(self._threads().map(work, parts))

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool_process != os.getpid():  # threads do not survive a fork
            self._pool, self._pool_process = (
                ThreadPoolExecutor(self.threads, thread_name_prefix="haloformer"),
                os.getpid(),
            )
        return self._pool

    def _threads_if_several(self) -> ThreadPoolExecutor | None:
        return None if self.threads == 1 else self._threads()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


def simulate(
    survey: str | Path | AnySurvey,
    n: int,
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    start: int = 0,
    noise: str = "original",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    backend: str = "auto",
) -> LensBatch:
    """Simulates ``n`` lenses of a survey, balanced over its classes.

    Args:
        survey: A shipped survey's name (``"model_i"``, ``"model_ii"``, ``"model_iii"``), a YAML file or a :class:`Survey`.
        n: Number of images in all.
        classes: Which of the survey's classes; all if None.
        seed: Of all random draws.
        start: Number of the first image; image ``start + k`` is the same in every call that contains it.
        noise: ``"original"``: as the survey was released; ``"instrument"``: the camera's own; ``"none"``.
        dtype: ``torch.float32`` or ``torch.float64``.
        device: Where to render, such as ``"cpu"`` or ``"cuda"``.
        batch_size: Images rendered at once; bounds the memory, changes nothing else.
        backend: ``"auto"``, ``"numba"``, ``"torch"`` or ``"lenstronomy"``.

    Returns:
        One batch of all of them.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 6, seed=1)
        >>> lenses.images.shape
        torch.Size([6, 1, 64, 64])
    """
    simulator = Simulator(
        survey, classes=classes, seed=seed, noise=noise, dtype=dtype, device=device, backend=backend
    )
    return collect(simulator, n, start=start, batch_size=batch_size)


def collect(simulator: Simulator, n: int, *, start: int = 0, batch_size: int = 256) -> LensBatch:
    """Simulates images ``start`` … ``start + n − 1`` into memory, as one batch."""
    batches = list(iterate(simulator, n, start=start, batch_size=batch_size))
    names = batches[0].parameters
    return LensBatch(
        images=torch.cat([b.images for b in batches]),
        labels=torch.cat([b.labels for b in batches]),
        parameters={name: np.concatenate([b.parameters[name] for b in batches]) for name in names},
        class_names=simulator.class_names,
        attributes=simulator.attributes,
    )


def iterate(
    simulator: Simulator, n: int, *, start: int = 0, batch_size: int = 256
) -> Iterator[LensBatch]:
    """Simulates images ``start`` … ``start + n − 1`` in batches.

    Raises:
        InputError: ``n`` or ``batch_size`` is not positive, or ``start`` is negative.
    """
    n, batch_size = whole_number(n, "n", 1), whole_number(batch_size, "batch_size", 1)
    start = whole_number(start, "start")
    stop = start + n
    yield from batches_ahead(
        simulator,
        [range(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)],
    )


def scaled_images(images: Tensor, how: str) -> Tensor:
    """Returns images (B, C, H, W) as :data:`~haloformer.simulation.composed.survey.Scaling` says, each by its own pixels of all channels.

    Images without any light stay as they are.
    """
    if how == "none":
        return images
    if how == "clipped_max":
        images = images.clamp(min=0)
    low = images.amin((1, 2, 3), keepdim=True) if how == "min_max" else 0.0
    high = (images - low).amax((1, 2, 3), keepdim=True)
    return torch.where(high > 0, (images - low) / torch.where(high > 0, high, 1.0), images)


def _choose_classes(survey: AnySurvey, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        return survey.class_names
    names = [classes] if isinstance(classes, str) else classes
    if not isinstance(names, Iterable):
        raise InputError(f"classes must be names of classes, not {classes!r}")
    chosen = set()
    for name in names:
        canonical = name if name in survey.class_names else CLASS_ALIASES.get(str(name), name)
        if canonical not in survey.class_names:
            raise unknown_name(f"class of survey {survey.name}", name, survey.class_names)
        if canonical in chosen:
            also = "" if canonical == name else f" ({name} is another name of it)"
            raise InputError(
                f"classes names {canonical} twice{also}; survey {survey.name} has {', '.join(survey.class_names)}"
            )
        chosen.add(canonical)
    if not chosen:
        raise InputError(
            f"classes is empty; survey {survey.name} has {', '.join(survey.class_names)}"
        )
    return tuple(name for name in survey.class_names if name in chosen)


def _choose_backend(backend: str, device: torch.device) -> str:
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend == "auto":
        if device.type != "cpu":
            return "torch"
        try:
            import numba  # noqa: F401
        except ImportError:
            return "torch"
        return "numba"
    if backend == "numba" and device.type != "cpu":
        raise InputError(
            f"backend 'numba' renders on the CPU only; use backend 'torch' on device '{device}'"
        )
    return backend


class _KernelInputs:
    """A batch's scenes laid out for :func:`haloformer.simulation.kernels.render_images`."""

    def __init__(self, survey: Survey, scenes: Scenes, T: Any) -> None:
        from haloformer.simulation.kernels import vortex_series

        instrument = survey.instrument
        axis = torch.from_numpy(pixel_axis(instrument))
        with torch.no_grad():
            lens = [torch.from_numpy(getattr(scenes, name)) for name in LENS_PARAMETERS]
            beta = smooth_source_positions(survey, lens, axis)
        self.beta_x, self.beta_y = (b.numpy().astype(T) for b in beta)
        self.axis, self.axis64 = axis.numpy().astype(T), axis.numpy()
        self.source = np.stack(
            [getattr(scenes, name) for name in SOURCE_PARAMETERS], axis=1
        ).astype(T)
        self.constants = T(survey.scale()), T(SERSIC_R_MIN), T(instrument.pixel_scale**2)
        self.psf = psf_weights(instrument).astype(T)
        n_max = scenes.subhalo_theta_E.shape[1]
        even = n_max + n_max % 2
        self.points = [np.zeros((len(scenes), even)) for _ in range(3)]
        for target, values in zip(
            self.points, (scenes.subhalo_theta_E**2, scenes.subhalo_x, scenes.subhalo_y)
        ):
            target[:, :n_max] = np.nan_to_num(values)
        self.point_count = np.where((scenes.subhalo_theta_E > 0).any(axis=1), even, 0)
        vortex = (
            scenes.vortex_theta_E**2,
            scenes.vortex_x,
            scenes.vortex_y,
            scenes.vortex_angle,
            scenes.vortex_half_length,
        )
        self.vortex = np.nan_to_num(np.stack(vortex, axis=1))
        self.vortex_n = scenes.vortex_n_masses
        self.series = vortex_series(vortex_masses(survey), T)

    def arguments(self, part: slice) -> tuple[Any, ...]:
        """The kernel's arguments after ``out`` for some of the images."""
        scale, r_min, area = self.constants
        lens = part if len(self.beta_x) > 1 else slice(None)
        return (
            self.axis, self.axis64, self.beta_x[lens], self.beta_y[lens], scale, self.source[part], r_min, area, self.psf,
            self.point_count[part], *(p[part] for p in self.points), self.vortex_n[part], self.vortex[part], *self.series,
        )  # fmt: skip
