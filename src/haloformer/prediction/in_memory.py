"""Images that are in memory already, of whatever type: tensors, arrays, lists, what astropy holds images in, simulated lenses."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from haloformer.data.grids import PixelGrid, to_grid
from haloformer.data.reader import (
    ReadImage,
    Reading,
    images_in_memory,
    read_fits,
    stacked,
    with_channels,
)
from haloformer.errors import InputError, reason_of
from haloformer.prediction.resampled import Scales
from haloformer.readers.pixels import in_single_precision, known_pixels
from haloformer.readers.sky import check_header, is_surface_brightness
from haloformer.simulation.batch import LensBatch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Images: TypeAlias = Tensor | ArrayLike
    """Raw images: one (H, W) or (C, H, W), or several (B, H, W) or (B, C, H, W), of any array type.

    A masked pixel is one that is NaN, and a unit is left away, as that of a file is.
    """


def as_tensor(images: Any, name: str = "images") -> Tensor:
    """Returns images as a tensor of real numbers of at most 32 bits, in which masked pixels are NaN.

    Raises:
        InputError: They are no numbers, not all of one shape, logarithms (magnitudes), or too large.
    """
    found = _as_given(images, name)
    if found.dtype != torch.float64:
        return found
    array = np.array(in_single_precision(found.cpu().numpy(), name))
    return torch.from_numpy(array).to(found.device)


def _as_given(images: Any, name: str) -> Tensor:
    """Returns images as a tensor of the precision that they have, 32 bits or 64."""
    if isinstance(images, LensBatch):
        images = images.images
    if isinstance(images, list | tuple) and images and all(isinstance(i, Tensor) for i in images):
        if len({each.shape for each in images}) > 1:
            raise InputError(f"{name} differ in shape: {_shapes(images)}")
        images = torch.stack(list(images))
    if isinstance(images, Tensor):
        if images.is_complex():
            raise InputError(f"{name} hold {images.dtype}, not real numbers")
        found = images.detach()
        return found if found.layout == torch.strided else found.to_dense()
    array = _as_array(images, name)
    if array.dtype.kind not in "biuf":
        what = f"{name} are {type(images).__name__} of {array.dtype}, not real numbers"
        raise InputError(
            what
            if array.ndim
            else f"{what}: an array, a tensor, a list of them, or an image of astropy is taken"
        )
    if array.dtype != np.float64:
        array = in_single_precision(array, name)
    return torch.from_numpy(np.array(array))


def _as_array(images: Any, name: str) -> np.ndarray:
    """Returns what is no tensor as an array of whatever type, NaN where it is masked."""
    if hasattr(images, "colnames"):
        columns = ", ".join(map(str, images.colnames))
        raise InputError(f"{name} are a table: give one of its columns, {columns}")
    check_header({"BUNIT": _unit_of(images)}, name, has_scale=True)
    try:
        if _is_nddata(images):
            mask: Any = getattr(images, "mask", None)
            images = np.ma.masked_array(images.data, mask=mask)
        if hasattr(images, "filled") and hasattr(images, "mask"):
            images = images.astype(np.promote_types(images.dtype, np.float32)).filled(np.nan)
        if isinstance(images, list | tuple) and any(_says_more(each) for each in images):
            return np.stack([_as_array(each, name) for each in images])
        array = np.asarray(images)
        if array.dtype == object and array.ndim == 1 and len(array):  # a column of arrays
            array = np.stack([_as_array(each, name) for each in array])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be read as one array of numbers: {reason_of(error)}"
        ) from error
    return array


def as_batch(images: Any, grid: PixelGrid) -> Tensor:
    """Returns what :func:`on_grid` does, without the scales."""
    return on_grid(images, grid)[0]


def on_grid(images: Any, grid: PixelGrid) -> tuple[Tensor, list[Scales]]:
    """Returns images in memory as (B, C, H, W) on a grid; a pixel scale that comes with them counts, and is returned for each.

    Args:
        images: As `haloformer.predict` takes them.
        grid: That of the model.

    Raises:
        InputError: They are no images of this grid.
    """
    if isinstance(images, LensBatch) or _has_header(images) or _are_apart(images):
        read = read_in_memory(images, grid, Reading(nan="mask"))
        return stacked(read), [each.scales for each in read]
    found = as_tensor(images)
    if not found.numel():
        raise InputError(f"images have the shape {tuple(found.shape)}: there are none")
    batch = images_in_memory(found, grid)
    return batch, [None] * len(batch)


def read_in_memory(images: Any, grid: PixelGrid, reading: Reading) -> list[ReadImage]:
    """Returns images in memory as those of files are read: one by one, on the model's grid.

    What has a WCS (an NDData, a CCDData, an HDU of a FITS file) is read as the FITS file that it
    would be: its pixel scale counts, its middle has a position, and its unit says whether its light
    is per pixel. A batch of simulated lenses has its pixel scale and its labels.

    Args:
        images: As `haloformer.predict` takes them.
        grid: That of the model.
        reading: The options; those of files are for what has a header.

    Raises:
        InputError: They are no images, or have a shape that no images for this model have.
    """
    if _are_apart(images):
        found = [
            image
            for k, each in enumerate(images)
            for image in _one_by_one(each, grid, reading, f"image {k}")
        ]
    else:
        found = _one_by_one(images, grid, reading, "image")
    if not found:
        raise InputError("there are no images: the batch is empty")
    return [replace(image, index=k) for k, image in enumerate(found)]


def _one_by_one(images: Any, grid: PixelGrid, reading: Reading, name: str) -> list[ReadImage]:
    """Returns the images of one thing that holds some."""
    if _has_header(images):
        return [
            replace(image, error=image.error and _in_python(image.error))
            for image in read_fits(_as_fits(images, name), name, grid, reading)
        ]
    if given := [
        key for key in ("hdu", "band", "catalog", "size") if getattr(reading, key) is not None
    ]:
        raise InputError(f"{given[0]} is for files, and these images are an array in memory")
    batch = with_channels(_as_given(images, f"{name}s"), grid, f"{name}s")
    scale, labels = reading.pixel_scale, [None] * len(batch)
    if isinstance(images, LensBatch):
        scale = scale or images.attributes.get("pixel_scale")
        labels = [images.class_names[k] for k in images.labels.tolist()]
    scales = None if scale is None else (float(scale), float(scale))
    per_area = is_surface_brightness({"BUNIT": _unit_of(images)})
    found = []
    wide = batch.dtype == torch.float64  # what is too large for 32 bits is told of that image
    for k, pixels in enumerate(batch.to("cpu", None if wide else torch.float32).numpy()):
        image = ReadImage("", label=labels[k], scales=scales)
        where = name if len(batch) == 1 else f"{name} {k}"
        try:
            single = in_single_precision(np.ascontiguousarray(pixels), where)
            known = known_pixels(single, "mask", where)
            image.image = to_grid(known, grid, reading, where, scales=scales, per_area=per_area)
        except InputError as error:
            image.error = _in_python(str(error))
        found.append(image)
    return found


def _in_python(text: str) -> str:
    """Returns an error as one of Python's interface: an option of the command is a keyword there."""
    return text.replace("--pixel_scale", "pixel_scale").replace("--hdu", "hdu")


def _is_nddata(images: Any) -> bool:
    """Tells whether images are an NDData, a CCDData or a Cutout2D of astropy, or like them."""
    return hasattr(images, "data") and hasattr(images, "wcs")


def _has_header(images: Any) -> bool:
    """Tells whether images are an HDU, a list of them, or an NDData whose WCS is known."""
    if _is_nddata(images):
        return images.wcs is not None
    return _is_hdu(images) or _is_hdu_list(images)


def _is_hdu_list(images: Any) -> bool:
    return isinstance(images, list) and hasattr(images, "writeto")


def _says_more(image: Any) -> bool:
    """Tells whether something holds a mask or a unit, which an array made of several would not keep."""
    return hasattr(image, "mask") or hasattr(image, "unit")


def _are_apart(images: Any) -> bool:
    """Tells whether images are a list of things that do not make one array.

    Such are those with headers, masks or units, and those of several sizes.
    """
    if not isinstance(images, list | tuple) or _is_hdu_list(images):
        return False
    shapes = {tuple(each.shape) if hasattr(each, "shape") else None for each in images}
    return any(
        _has_header(each) or _is_nddata(each) or (_says_more(each) and np.ndim(each) > 1)
        for each in images
    ) or (len(shapes) > 1 and None not in shapes)


def _is_hdu(images: Any) -> bool:
    return hasattr(images, "header") and hasattr(images, "fileinfo") and hasattr(images, "data")


def _as_fits(images: Any, name: str) -> bytes:
    """Returns what has a header as a FITS file."""
    from astropy.io import fits

    if _is_nddata(images):
        header = _header_of(images, name)
        hdus: Sequence[Any] = [fits.PrimaryHDU(_pixels_of(images, name), header)]
    else:
        hdus = images if _is_hdu_list(images) else [images]
    if not isinstance(hdus[0], fits.PrimaryHDU):
        hdus = [fits.PrimaryHDU(), *hdus]
    stream = io.BytesIO()
    try:
        fits.HDUList([each.copy() for each in hdus]).writeto(stream, output_verify="silentfix")
    except (TypeError, ValueError, OSError) as error:
        raise InputError(f"{name} is no image that FITS knows: {reason_of(error)}") from error
    return stream.getvalue()


def _pixels_of(images: Any, name: str) -> np.ndarray:
    """Returns the pixels of an NDData, NaN where they are masked."""
    array: np.ndarray = as_tensor(images, name).numpy()
    return array


def _header_of(images: Any, name: str) -> Any:
    """Returns the header of an NDData: its WCS and its unit, before what its ``meta`` says."""
    from astropy.io import fits

    meta, wcs = getattr(images, "meta", None), images.wcs
    header = meta.copy() if isinstance(meta, fits.Header) else fits.Header()
    if not hasattr(wcs, "to_header"):
        wcs = _wcs_at_the_middle(wcs, np.shape(images.data)[-2:], name)
    header.update(wcs.to_header(relax=True))
    if unit := _unit_of(images):
        header["BUNIT"] = unit
    return header


def _wcs_at_the_middle(wcs: Any, shape: tuple[int, ...], name: str) -> Any:
    """Returns a WCS that FITS knows for one that it does not, such as a slice of one or JWST's: the same at the image's middle."""
    from astropy.wcs import WCS

    low = getattr(wcs, "low_level_wcs", wcs)
    if low.pixel_n_dim != 2 or low.world_axis_physical_types != ["pos.eq.ra", "pos.eq.dec"]:
        raise InputError(
            f"{name}: its WCS is not one of right ascension and declination: give .data, and pixel_scale"
        )
    y, x = ((side - 1) / 2 for side in shape)
    ra, dec = low.pixel_to_world_values(np.array([x, x + 1, x]), np.array([y, y, y + 1]))
    turn = (np.asarray(ra) - ra[0] + 180) % 360 - 180  # across 0 degrees, too
    found = WCS(naxis=2)
    found.wcs.ctype, found.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra[0], dec[0]]
    found.wcs.crpix = [x + 1, y + 1]
    found.wcs.cd = [turn[1:] * np.cos(np.radians(dec[0])), np.asarray(dec)[1:] - dec[0]]
    return found


def _unit_of(images: Any) -> str:
    unit = getattr(images, "unit", None)
    return "" if unit is None else str(unit)


def _shapes(images: list[Tensor] | tuple[Tensor, ...]) -> str:
    return ", ".join(str(shape) for shape in dict.fromkeys(tuple(each.shape) for each in images))
