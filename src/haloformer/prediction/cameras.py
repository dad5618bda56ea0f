"""Point-spread functions and noise maps of image files: where they are, and which belongs to which image."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.data.camera import ImageCamera
from haloformer.data.dataset import LensDataset
from haloformer.data.finding import fits_inputs
from haloformer.data.grids import PixelGrid, to_grid
from haloformer.data.reader import (
    InputFile,
    ReadImage,
    Reading,
    find_inputs,
    read_images,
    scale_of_dataset,
)
from haloformer.errors import InputError, brief
from haloformer.fitting.channels import own_camera
from haloformer.io.quantities import noise_factor
from haloformer.readers.archives import is_archive
from haloformer.readers.extensions import (
    EXTENSION,
    check_standard_deviation,
    named_extension,
    own_extension,
)
from haloformer.readers.fits import first_image, fits_hdus, unit_in_file
from haloformer.readers.images import FITS_SUFFIXES, SUFFIXES, image_suffix, read_image
from haloformer.simulation.psf import checked_kernel, read_kernel, resampled

if TYPE_CHECKING:
    from haloformer.prediction.predictor import Predictor

_STEM = "*"
_SAME = 0.1  # pixels by which two grids may drift apart, centre to edge, and count as the same
_PLAIN = Reading(nan="mask")


@dataclass(frozen=True)
class CameraFiles:
    """Where the point-spread functions and noise maps of image files are.

    Each is one file for all images, a folder of files with the images' stems, a path in which ``*`` stands for the image's stem, or
    ``hdu:NAME``, an extension of each image's own FITS file.

    Attributes:
        psf: Of the point-spread functions; None: the survey's.
        noise_map: Of the noise maps; None: as the survey says.
    """

    psf: str | None = None
    noise_map: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Name of the option → what was given."""
        pairs = {"psf": self.psf, "noise_map": self.noise_map}
        return {name: value for name, value in pairs.items() if value is not None}

    def check(self, predictor: "Predictor", sources: Sequence[InputFile]) -> None:
        """Refuses what can be used for no image: raises InputError.

        Args:
            predictor: The model.
            sources: The images.
        """
        if not self.given:
            return
        predictor.check_takes_camera()
        for name, value in self.given.items():
            if not _is_one(value):
                _check_each(name, value, sources)
            elif not Path(value).is_file():
                raise InputError(f"{name} {value} does not exist")
        if self.psf is not None and _is_one(self.psf):
            _fitting_kernel(self.psf, InputFile(Path(self.psf)), predictor, None)
        if self.noise_map is not None and _is_one(self.noise_map):
            maps = _map_input(self.noise_map, InputFile(Path(self.noise_map)))
            for source in sources:
                if maps.n not in (1, source.n):
                    raise InputError(
                        f"noise_map {maps.name} holds {maps.n} maps for the {source.n} images of {source.name}: one for each, or one"
                    )

    def states(self) -> list[object]:
        """Returns what changes when a file that is for all images does."""
        files = [Path(value) for value in self.given.values() if _is_one(value)]
        return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def read_with_cameras(
    predictor: "Predictor",
    sources: Sequence[InputFile],
    reading: Reading,
    files: CameraFiles,
    batch_size: int,
) -> Iterator[list[ReadImage]]:
    """Yields the images of all inputs, as `read_images` does, each with the camera that belongs to it.

    What is wrong with a camera becomes the error of its image. Datasets bring their own, where none is given.

    Args:
        predictor: The model.
        sources: The images.
        reading: How they are read.
        files: Where their cameras are.
        batch_size: Images in memory at a time.
    """
    residual = predictor.residual
    own = residual is not None and residual.is_composed and any(s.is_dataset for s in sources)
    if not files.given and not own:
        yield from read_images(sources, predictor.grid, reading, batch_size=batch_size)
        return
    images = itertools.chain.from_iterable(
        _of_source(predictor, source, reading, files, batch_size) for source in sources
    )
    while batch := list(itertools.islice(images, batch_size)):
        yield batch


def _of_source(
    predictor: "Predictor",
    source: InputFile,
    reading: Reading,
    files: CameraFiles,
    batch_size: int,
) -> Iterator[ReadImage]:
    """Yields the images of one input, each with its camera."""
    batches = read_images([source], predictor.grid, reading, batch_size=batch_size)
    images = itertools.chain.from_iterable(batches)
    if not files.given:
        camera = _of_dataset(predictor, source, reading) if source.is_dataset else None
        yield from (replace(image, camera=camera) for image in images)
        return
    try:
        maps = _maps_of(files.noise_map, source, predictor.grid, reading)
    except InputError as error:
        maps = itertools.repeat(ReadImage("", error=brief(error)))
    kernels = _Kernels(files.psf, source, predictor)
    found = None
    for image in images:
        found = next(maps, found)  # a file that cannot be read is one error for all its images
        if image.error is None:
            _put_camera(image, found, kernels, predictor.grid, reading)
        yield image


def _put_camera(
    image: ReadImage,
    noise: ReadImage | None,
    kernels: "_Kernels",
    grid: PixelGrid,
    reading: Reading,
) -> None:
    """Gives an image its camera, or the reason why it has none as its error."""
    try:
        noise_map = None if noise is None else _checked_map(image, noise, grid, reading)
        image.camera = ImageCamera(kernels(image.scales), noise_map)
    except InputError as error:
        image.error = f"{image.name}: {brief(error)}"


class _Kernels:
    """The point-spread function of an input, on the model's pixels; read once."""

    def __init__(self, value: str | None, source: InputFile, predictor: "Predictor") -> None:
        self._value, self._source, self._predictor = value, source, predictor
        self._known: dict[tuple[float, float] | None, np.ndarray] = {}

    def __call__(self, scales: tuple[float, float] | None) -> np.ndarray | None:
        if self._value is None:
            return None
        if scales not in self._known:
            found = _fitting_kernel(self._value, self._source, self._predictor, scales)
            self._known[scales] = found
        return self._known[scales]


_SHARED: dict[tuple[object, ...], np.ndarray] = {}


def _fitting_kernel(
    value: str,
    source: InputFile,
    predictor: "Predictor",
    scales: tuple[float, float] | None,
) -> np.ndarray:
    """Returns a point-spread function on the model's pixels.

    Args:
        value: Where it is.
        source: The image that it belongs to.
        predictor: The model, whose pixels they are.
        scales: Sides of the image's pixels in arcsec, which count where the kernel does not know its own.
    """
    hdu, path = _place_of("psf", value, source)
    state = (path, hdu, path.stat().st_mtime_ns, scales, predictor.grid)
    if state in _SHARED:
        return _SHARED[state]
    wanted = predictor.grid.pixel_scale
    its_image = wanted if scales is None else scales[0]
    kernel, scale = _read_kernel(path, hdu, its_image)
    scale = scale or (None if scales is None else scales[0])
    if scale is not None and wanted is not None:
        kernel = resampled(kernel, scale, wanted)
    side = predictor.fitted_side
    if len(kernel) > side:
        raise InputError(
            f"the PSF {path} has {len(kernel)}×{len(kernel)} pixels of the model's, more than the {side}×{side} that are fitted: cut its rim"
        )
    if len(_SHARED) > 8:  # images of one kernel are fitted together, so that it must be one array
        _SHARED.clear()
    _SHARED[state] = kernel
    return kernel


def _read_kernel(
    path: Path, hdu: int | str | None, image_scale: float | None
) -> tuple[np.ndarray, float | None]:
    if image_suffix(path.name) in FITS_SUFFIXES:
        return read_kernel(path, hdu, image_scale=image_scale)
    return checked_kernel(read_image(path, channels=1, nan="mask")[0], str(path)), None


def _checked_map(
    image: ReadImage, noise: ReadImage, grid: PixelGrid, reading: Reading
) -> np.ndarray:
    """Returns a noise map (H, W) on the model's grid; pixels of the image that are not known with it become NaN."""
    if noise.error is not None:
        raise InputError(f"noise_map: {noise.error}")
    assert image.image is not None
    assert noise.image is not None
    if image.shape is not None and noise.shape is not None and image.shape != noise.shape:
        here, there = ("×".join(map(str, each)) for each in (noise.shape, image.shape))
        raise InputError(f"the noise map has {here} pixels, the image {there}: they must match")
    _refuse_resampled(image, grid)
    sigma, pixels = noise.image[0], image.image
    frame = _frame(image, grid)
    bad = ~(np.isfinite(sigma) & (sigma > 0)) & ~frame
    if bad.any() and reading.nan != "mask":
        raise InputError(
            f"the noise map holds {int(bad.sum())} pixels that are not positive numbers; it must be a standard deviation (--nan mask "
            "leaves such pixels out of the fit)"
        )
    unknown = bad | frame
    if not unknown.any():
        return np.asarray(sigma)
    image.image = np.where(unknown, np.nan, pixels).astype(np.float32)
    return np.where(unknown, 1.0, sigma).astype(np.float32)


def _refuse_resampled(image: ReadImage, grid: PixelGrid) -> None:
    """Refuses an image whose pixels are mixed: its noise is no longer that of a map."""
    step = grid.step(image.scales)
    if step is None:
        return
    drift = max(abs(side - 1) * n / 2 for side, n in zip(step, grid.shape[1:]))
    if drift > _SAME and image.scales is not None:
        raise InputError(
            f"its pixels are {image.scales[0]:.4g}″ and the model's {grid.pixel_scale:.4g}″: the noise of resampled pixels is no longer that of "
            "its map; give the image at the model's scale, or no noise map"
        )


def _frame(image: ReadImage, grid: PixelGrid) -> np.ndarray:
    """Returns which pixels (H, W) of the grid lie beyond an image's own."""
    if image.shape is None or image.shape == tuple(grid.shape[1:]) or image.scales is None:
        return np.zeros(grid.shape[1:], bool)
    one = np.ones((1, *image.shape), np.float32)
    plain = PixelGrid((1, *grid.shape[1:]), grid.pixel_scale)
    found: np.ndarray = np.isnan(to_grid(one, plain, _PLAIN, image.name, scales=image.scales)[0])
    return found


def _maps_of(
    value: str | None, source: InputFile, grid: PixelGrid, reading: Reading
) -> Iterator[ReadImage | None]:
    """Yields the noise map of each image of an input, on the grid."""
    if value is None:
        return itertools.repeat(None)
    found = _map_input(value, source)
    if source.catalog is not None:
        found = replace(found, catalog=source.catalog, n=source.n, start=source.start)
    elif found.n > 1:
        found = replace(found, start=source.start, n=source.n)
    how = replace(_PLAIN, pixel_scale=reading.pixel_scale, size=reading.size)
    batches = read_images([found], grid, how, batch_size=1)
    each: Iterator[ReadImage] = itertools.chain.from_iterable(batches)
    factor = _factor_of(value, found, source)
    if factor != 1:
        each = (_multiplied(image, factor) for image in each)
    if found.n > 1 or source.n == 1:
        return each
    return itertools.repeat(next(each))


def _factor_of(value: str, found: InputFile, source: InputFile) -> float:
    """Returns by what a noise map is multiplied to be in the unit of its image, where headers say both."""
    both = found, source
    if not all(each.is_fits and each.member is None and not is_archive(each.path) for each in both):
        return 1.0
    units = [unit_in_file(each.path, each.hdu) for each in both]
    return noise_factor(units[0], units[1], f"noise_map {value}")


def _multiplied(image: ReadImage, factor: float) -> ReadImage:
    if image.image is None:
        return image
    return replace(image, image=image.image * np.float32(factor))


def _map_input(value: str, source: InputFile) -> InputFile:
    """Returns where the noise maps of an input are."""
    hdu, path = _place_of("noise_map", value, source)
    if image_suffix(path.name) not in FITS_SUFFIXES:
        found = find_inputs([str(path)], keep_errors=False)
    else:
        wanted = Reading(hdu=first_image(path) if hdu is None else hdu)
        found = fits_inputs(InputFile(path), path, 1, wanted)
        with fits_hdus(path, str(path)) as hdus:
            for each in found:
                check_standard_deviation(value, hdus[each.hdu or 0].name)
    if len(found) != 1:
        raise InputError(
            f"noise_map {value} of {source.name} is {len(found)} images: one is needed"
        )
    return found[0]


def _of_dataset(predictor: "Predictor", source: InputFile, reading: Reading) -> ImageCamera | None:
    """Returns the camera that a dataset says, where it is another than the survey's; None of images that are resampled, whose noise and blur are not what it has."""
    assert predictor.residual is not None
    with LensDataset(source.path) as dataset:
        if not predictor.grid.is_that_of(dataset.image_shape, scale_of_dataset(dataset, reading)):
            return None
        definition = dataset.attributes.get("survey_definition")
        found: dict[str, Any] = dict(
            own_camera(predictor.residual, dataset.calibration, definition)
        )
    return ImageCamera(**found) if found else None


# --- where they are ---------------------------------------------------------------------------------------------------


def _is_one(value: str) -> bool:
    """Whether what was given is one file for all images."""
    return not (value.startswith(EXTENSION) or _STEM in value or Path(value).is_dir())


def _check_each(name: str, value: str, sources: Sequence[InputFile]) -> None:
    """Refuses images of which each cannot have a file or extension of its own."""
    for source in sources:
        if source.error is not None:
            continue
        if source.member is not None or is_archive(source.path):
            raise InputError(
                f"{name} {value}: {source.name} is within another file; unpack it, or give one file for all"
            )
        if value.startswith(EXTENSION) and not source.is_fits:
            raise InputError(f"{name} {value}: {source.name} is no FITS file and has no extensions")
    first = next((source for source in sources if source.error is None), None)
    if first is not None and len(sources) == 1:
        own_extension(name, value, first.path)
        _place_of(name, value, first)


def _place_of(name: str, value: str, source: InputFile) -> tuple[int | str | None, Path]:
    """Returns the extension, by whatever names it, and the file of what belongs to an input."""
    own = own_extension(name, value, source.path, source.hdu)
    if own is not None:
        return own, source.path
    path = _file_of(name, value, source)
    if image_suffix(path.name) not in FITS_SUFFIXES or not path.is_file():
        return None, path
    return named_extension(name, path, source.path, source.hdu), path


def _file_of(name: str, value: str, source: InputFile) -> Path:
    """Returns the file of what belongs to an input."""
    if _is_one(value):
        return Path(value)
    suffix = image_suffix(source.path.name)
    stem = source.path.name[: len(source.path.name) - len(suffix)]
    if _STEM in value:
        candidates = [Path(value.replace(_STEM, stem))]
    else:
        candidates = [Path(value) / f"{stem}{end}" for end in dict.fromkeys((suffix, *SUFFIXES))]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"{name} {candidates[0]} does not exist, which would belong to {source.name}")
