"""From images of any kind to the table of a model's answers."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.data.camera import ImageCamera
from haloformer.data.dataset import LensDataset
from haloformer.data.reader import (
    ReadImage,
    Reading,
    check_choices,
    find_inputs,
    location_columns,
)
from haloformer.errors import InputError
from haloformer.fitting.given import given_array
from haloformer.io.progress import progress_bar
from haloformer.prediction.cameras import CameraFiles, read_with_cameras
from haloformer.prediction.in_memory import read_in_memory
from haloformer.prediction.result import Predictions
from haloformer.prediction.rows import Kept, answer_columns, provenance_of, rows_of
from haloformer.readers.reading import NanChoice

if TYPE_CHECKING:
    from haloformer.prediction.predictor import Predictor


def answer_images(
    predictor: "Predictor",
    images: Any,
    *,
    raw: bool = False,
    nan: NanChoice = "error",
    pixel_scale: float | None = None,
    psf: "np.ndarray | str | os.PathLike[str] | None" = None,
    noise_map: "np.ndarray | str | os.PathLike[str] | None" = None,
    on_error: str | None = None,
    batch_size: int = 256,
    progress: bool | None = None,
    hdu: int | str | None = None,
    band: int | str | None = None,
    catalog: str | None = None,
    size: float | None = None,
) -> Predictions:
    """Returns a model's answers; the arguments are those of `haloformer.predict`."""
    paths = paths_of(images)
    stop = "stop" if paths is None else "row"
    on_error = stop if on_error is None else on_error
    check_choices(on_error, batch_size)
    reading = Reading(hdu, band, nan, pixel_scale, catalog, size)
    reading.check()
    columns = answer_columns(predictor)
    if paths is None:
        found = _with_cameras(
            read_in_memory(images, predictor.grid, reading), psf, noise_map, reading
        )
        names = ["index", *columns, *_location(found)]
        total, batches = len(found), _in_batches(found, batch_size)
    else:
        cameras = camera_files(psf, noise_map)
        inputs = find_inputs(
            paths,
            keep_errors=on_error == "row",
            channels=predictor.image_shape[0],
            reading=reading,
        )
        names = ["file", *columns, *location_columns(inputs)]
        total = sum(each.n for each in inputs)
        cameras.check(predictor, inputs)
        batches = read_with_cameras(predictor, inputs, reading, cameras, batch_size)
    kept = Kept()
    rows: list[dict[str, Any]] = []
    with progress_bar("predict", total, progress) as advance:
        for part in rows_of(predictor, kept.watch(batches), on_error=on_error, raw=raw):
            rows += part
            advance(len(part))
    return Predictions(
        names=names + (["error"] if on_error == "row" else []),
        rows=rows,
        class_names=predictor.class_names,
        model=dict(provenance_of(predictor, predictor.name)),
        images=kept.images,
        pixel_scale=predictor.grid.pixel_scale,
    )


def paths_of(images: Any) -> list[str] | None:
    """Returns the files that images are, as `find_inputs` takes them; None if they are in memory.

    Raises:
        InputError: Some are files, and some are not.
    """
    if isinstance(images, str | os.PathLike):
        return [os.fspath(images)]
    if isinstance(images, LensDataset):
        return [str(images.path)]
    if hasattr(images, "to_list"):  # a column of pandas
        images = images.to_list()
    if isinstance(images, np.ndarray) and images.dtype.kind in "US":  # a column of file names
        return [str(path) for path in images.astype(str).ravel()]
    if not isinstance(images, list | tuple):
        return None
    are_paths = [isinstance(each, str | os.PathLike) for each in images]
    if any(are_paths) and not all(are_paths):
        raise InputError("some of the images are paths and others are not: give them apart")
    return [os.fspath(each) for each in images] if any(are_paths) else None


def camera_files(
    psf: "np.ndarray | str | os.PathLike[str] | None",
    noise_map: "np.ndarray | str | os.PathLike[str] | None",
) -> CameraFiles:
    """Returns where the cameras of images in files are; raises InputError if they are arrays."""
    given = []
    for name, value in (("psf", psf), ("noise_map", noise_map)):
        if value is not None and not isinstance(value, str | os.PathLike):
            raise InputError(f"{name} is an array, which goes with images in memory: give a file")
        given.append(None if value is None else os.fspath(value))
    return CameraFiles(*given)


def _with_cameras(
    found: list[ReadImage], psf: Any, noise_map: Any, reading: Reading
) -> list[ReadImage]:
    """Returns images in memory with their camera; pixels whose noise is not known with it are not, if the reading says so."""
    if psf is None and noise_map is None:
        return found
    for name, value in (("psf", psf), ("noise_map", noise_map)):
        if isinstance(value, str | os.PathLike):
            raise InputError(f"{name} is a file, and the images are in memory: read it first")
    each: Sequence[Any] = [noise_map] * len(found)
    if noise_map is not None and np.ndim(noise_map) in (2, 3):
        given = given_array(noise_map, "noise_map")
        each = list(given) if given.ndim == 3 else [given] * len(found)
        if len(each) != len(found):
            raise InputError(
                f"noise_map holds {len(each)} maps for {len(found)} images: one for each, or (H, W)"
            )
    psf = None if psf is None else np.asarray(psf)  # one array: images of it are fitted together
    if reading.nan != "mask":
        return [replace(image, camera=ImageCamera(psf, one)) for image, one in zip(found, each)]
    return [_where_known(image, psf, one) for image, one in zip(found, each)]


def _where_known(image: ReadImage, psf: Any, noise: Any) -> ReadImage:
    """Returns an image with its camera, NaN where its noise map (H, W) is not positive."""
    if noise is None or image.image is None or np.shape(noise) != image.image.shape[1:]:
        return replace(image, camera=ImageCamera(psf, noise))
    known = noise > 0
    pixels = np.where(known, image.image, np.nan).astype(np.float32)
    return replace(image, image=pixels, camera=ImageCamera(psf, np.where(known, noise, 1.0)))


def _location(found: Sequence[ReadImage]) -> list[str]:
    """Returns the columns that say more of images in memory, where any has it."""
    return [
        name
        for name in ("label", "ra", "dec")
        if any(getattr(each, name) is not None for each in found)
    ]


def _in_batches(found: Sequence[ReadImage], batch_size: int) -> Iterator[list[ReadImage]]:
    for start in range(0, len(found), batch_size):
        yield list(found[start : start + batch_size])
