"""What one image file holds: its extensions, pixels and pixel scale, and which of it would be read."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.data.inspect import write_figure
from haloformer.errors import InputError
from haloformer.io.quantities import NOT_SQUARE
from haloformer.readers.fits import (
    FitsImage,
    Hdu,
    choose_hdus,
    fits_hdus,
    header_of,
    is_fits_image,
    is_sky_image,
)
from haloformer.readers.images import (
    FITS_SUFFIXES,
    PICTURE_SUFFIXES,
    image_suffix,
    read_image,
)
from haloformer.readers.npy import read_npy_file
from haloformer.readers.npz import choose_arrays, npz_arrays, npz_shapes
from haloformer.readers.pixels import channels_first, stack_length
from haloformer.readers.reading import Reading

_MOST = 40  # extensions
MOST_FILES = 1000  # of a folder, that are looked into
_FACTS = ("BUNIT", "EXPTIME", "FILTER", "INSTRUME", "TELESCOP", "OBJECT")
_LARGEST = 4096  # pixels per side that are looked at
_NEAR_0 = 1e-6


def describe_image(path: str | Path) -> dict[str, Any]:
    """Returns what an image file holds, JSON-able.

    Args:
        path: A FITS, PNG, JPEG, TIFF, ``.npy`` or ``.npz`` file.

    Returns:
        ``path``, ``bytes``, ``images`` (one row for each image or extension: number, name, shape, pixel_scale in arcsec or
        None, unit, count of pixels that are not finite, min, median, max and share of negative pixels of the others, and
        ``read``: whether it is what other commands take by default; of a cube it is the first plane), ``header`` (what it says of the exposure), and
        ``notes``, sentences on what is unusual.

    Raises:
        InputError: It cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    header: dict[str, Any] = {}
    if image_suffix(path.name) in FITS_SUFFIXES:
        images, header = _of_fits(path)
    elif arrays := _arrays(path):
        images = [_row(k, key, array) for k, (key, array, _) in enumerate(arrays)]
        for row, (_, _, read) in zip(images, arrays):
            row["read"] = read
    else:
        images = [{**_row(0, "", read_image(path, nan="mask")), "read": True}]
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "images": images,
        "header": header,
        "notes": _notes(images, picture=image_suffix(path.name) in PICTURE_SUFFIXES),
    }


def describe_folder(folder: str | Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Returns what the image files of a folder hold, the first image of each.

    Args:
        folder: The folder.
        paths: Its images, as :func:`~haloformer.data.finding.find_images` finds them.

    Returns:
        ``path``, ``bytes``, and ``images`` as :func:`describe_image` has them, named by their files; ``number`` counts them, ``read`` is True, and
        what cannot be read says why under ``error``. Of more than ``MOST_FILES`` files ``left_out`` says how many were not looked at.
    """
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths[:MOST_FILES]):
        name = str(path.relative_to(folder))
        try:
            images = describe_image(path)["images"]
            row = next((each for each in images if each["read"]), images[0])
            rows.append({**row, "number": number, "name": name, "read": True})
        except InputError as error:
            rows.append({"number": number, "name": name, "error": str(error)})
    return {
        "path": str(folder),
        "bytes": sum(path.stat().st_size for path in paths),
        "images": rows,
        "header": {},
        "n_files": len(paths),
        "left_out": max(0, len(paths) - MOST_FILES),
        "notes": [],
    }


def figure_of_images(files: Sequence[str | Path], out: str | Path) -> Path:
    """Draws images, each with its own scale: logarithmic above the noise (asinh), so that faint arcs show.

    Args:
        files: Of which the images are drawn that other commands read; those that cannot be read are left out.
        out: The picture to write: .png, .svg or .pdf.

    Raises:
        InputError: None can be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import AsinhNorm
    from matplotlib.figure import Figure

    drawn = []
    for file in files:
        try:
            drawn.append((Path(file).name, *_to_draw(Path(file))))
        except InputError as error:
            refused = error
    if not drawn:
        raise refused
    columns = min(len(drawn), 4)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, pixels, scale) in zip(axes, drawn):
        height, width = pixels.shape
        side = scale or 1.0
        extent = (-width * side / 2, width * side / 2, -height * side / 2, height * side / 2)
        middle, scatter = _scatter(pixels)
        norm = AsinhNorm(linear_width=3 * scatter)
        ax.imshow(pixels - middle, origin="lower", cmap="viridis", norm=norm, extent=extent, interpolation="nearest")  # fmt: skip
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=7, length=2)
        ax.set_xlabel("arcsec" if scale else "pixels from the middle", fontsize=7)
    for ax in axes[len(drawn) :]:
        ax.set_axis_off()
    return write_figure(figure, Path(out))


def _scatter(pixels: np.ndarray) -> tuple[float, float]:
    """Returns the median of an image (H, W), and by how much most pixels differ from it; 0 and 1 where nothing is known or all is the same."""
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        return 0.0, 1.0
    middle = float(np.median(finite))
    return middle, 1.4826 * float(np.median(np.abs(finite - middle))) or 1.0


def _to_draw(path: Path) -> tuple[np.ndarray, float | None]:
    """Returns the pixels (H, W) of the image that is read by default, the mean of its planes, and its pixel scale."""
    described = describe_image(path)["images"]
    row = next((each for each in described if each["read"]), described[0])
    if arrays := _arrays(path):
        array = arrays[row["number"]][1]
        first = array[0] if stack_length(array.shape) else array
        pixels = channels_first(first, None, str(path))
    else:
        hdu = row["number"] if image_suffix(path.name) in FITS_SUFFIXES else None
        pixels = read_image(path, nan="mask", hdu=hdu)
    if max(pixels.shape[-2:]) > _LARGEST:
        raise InputError(f"{path} has more than {_LARGEST} pixels per side: too large to draw")
    return pixels.mean(axis=0), row["pixel_scale"]


def _of_fits(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with fits_hdus(path, str(path)) as hdus:
        numbers = []
        for number in range(_MOST):
            try:
                item = hdus[number]
            except IndexError:
                break
            if is_fits_image(item):
                numbers.append(number)
        if not numbers:
            raise InputError(f"{path} holds no 2-D image or 3-D cube")
        chosen = _chosen(hdus, str(path))
        for number in numbers:
            image = FitsImage(hdus, number, str(path), Reading())
            rows.append(_pixels_of(image, hdus[number], number, path))
            scale = None if image.scales is None else float(np.mean(image.scales))
            rows[-1] |= {"pixel_scale": scale, "unit": image.unit, "read": number == chosen}
            sides = None if image.scales is None else [float(side) for side in image.scales[::-1]]
            rows[-1] |= {"pixel_sides": sides, "version": hdus[number].ver}
            rows[-1]["sky"] = is_sky_image(hdus[number])
        header = header_of(hdus, chosen if chosen is not None else numbers[0])
        facts = {key: header[key] for key in _FACTS if key in header}
    return rows, {
        key: value if isinstance(value, int | float) else str(value) for key, value in facts.items()
    }


def _arrays(path: Path) -> list[tuple[str, np.ndarray, bool]]:
    """Returns key, values and whether it is read by default of each array in a ``.npz`` file, or of a ``.npy`` file of many images; else none."""
    suffix = image_suffix(path.name)
    if suffix == ".npy":
        array, _ = read_npy_file(path)
        return [("", array, True)] if stack_length(array.shape) else []
    if suffix != ".npz":
        return []
    shapes = npz_shapes(path, str(path))
    keys = [key for key, shape in shapes.items() if shape and len(shape) > 1]
    read: list[str] = []
    with contextlib.suppress(InputError):  # there are several that may be meant, or none
        read = choose_arrays(shapes, str(path), None)
    if not keys:
        raise InputError(f"{path} holds no array that may be an image")
    return [(key, array, key in read) for key, array in npz_arrays(path, keys, str(path))]


def _chosen(hdus: Sequence[Hdu], name: str) -> int | None:
    """Returns the extension that is read by default; None if one must be named."""
    try:
        return choose_hdus(hdus, name, None)[0]
    except InputError:
        return None


def _pixels_of(image: FitsImage, hdu: Hdu, number: int, path: Path) -> dict[str, Any]:
    """Returns the row of an extension, of whose pixels those of the middle are looked at where there are very many."""
    sides = image.shape[-2:]
    starts = [max(0, (side - _LARGEST) // 2) for side in sides]
    rows, columns = (slice(start, start + _LARGEST) for start in starts)
    plane = 0 if len(image.shape) == 3 else None
    pixels = image.pixels((rows, columns), plane, None, str(path))
    found = {**_row(number, hdu.name, pixels), "shape": list(image.shape)}
    return {**found, "part": list(pixels.shape[-2:]) if max(sides) > _LARGEST else None}


def _row(number: int, name: str, pixels: np.ndarray) -> dict[str, Any]:
    finite = pixels[np.isfinite(pixels)]
    there = finite if finite.size else np.full(1, np.nan)
    return {
        "number": number,
        "name": name,
        "shape": list(pixels.shape),
        "pixel_scale": None,
        "unit": "",
        "not_finite": int(pixels.size - finite.size),
        "min": float(there.min()),
        "median": float(np.median(there)),
        "max": float(there.max()),
        "negative": float((there < 0).mean()),
        "read": False,
        "sky": True,
    }


def _notes(images: Sequence[dict[str, Any]], picture: bool) -> list[str]:
    notes = [
        f"Of {row['name'] or 'the image'} the {row['part'][0]}×{row['part'][1]} pixels in the middle were looked at."
        for row in images
        if row.get("part")
    ]
    read = next((row for row in images if row["read"]), None)
    if read is None:
        return [*notes, "No extension is an image of the sky by its name: name one with --hdu."]
    if read["pixel_scale"] is None:
        notes.append("The pixel scale is not known: other commands take it from --pixel_scale.")
    sides = read.get("pixel_sides")
    if sides is not None and max(sides) > (1 + NOT_SQUARE) * min(sides):
        notes.append(
            f"Pixels are {sides[0]:.4g}″ by {sides[1]:.4g}″ (x, y), no squares: a fit of a real lens needs them resampled."
        )
    if read["not_finite"]:
        notes.append(
            f"{read['not_finite']} pixels are NaN or infinite: --nan says what is done with them."
        )
    low, high = read["min"], read["max"]
    if low == high:
        notes.append("All pixels have the same value.")
    elif abs(low) < _NEAR_0 and abs(high - 1) < _NEAR_0:
        notes.append(
            "The values reach from 0 to 1: the image looks scaled (min–max), and its brightness and noise are lost."
        )
    elif low >= 0 and read["negative"] == 0 and abs(high - 1) < _NEAR_0:
        notes.append("The largest value is 1: the image looks divided by its brightest pixel.")
    elif picture and 1 < high <= 255 and low >= 0 and float(high).is_integer() and float(low).is_integer():  # fmt: skip
        notes.append(
            "The values are those of an 8-bit picture, which stretches and cuts: not the light of a detector."
        )
    return notes
