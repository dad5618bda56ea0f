"""What is left out of a fit, drawn as regions of DS9: a neighbour, a star, the spikes of one."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.errors import InputError, InputWarning, how_to_install, reason_of
from haloformer.files import check_regular

REGION_SUFFIX = ".reg"

_LEAST_CORNERS = 3  # of a polygon
_MOST_BYTES = 1 << 20


def region_mask(path: str | Path, shape: tuple[int, int], wcs: Any) -> np.ndarray:
    """Returns the pixels whose middles lie in a region.

    Args:
        path: A file of DS9 regions, in pixels (``image``) or on the sky; those that DS9 excludes (``-circle``) are taken out of the others.
        shape: (H, W) of the image.
        wcs: Of the image, for regions on the sky; None if it has none.

    Returns:
        (H, W) bool.

    Raises:
        InputError: The file cannot be read, holds no region, something that is no region, or one without an area, or is on the sky and the
            image is not.
    """
    drawn = [_on_pixels(region, wcs, path) for region in _read(Path(path))]
    inside, outside = np.zeros(shape, bool), np.zeros(shape, bool)
    without = []
    for region in drawn:
        corners = getattr(region, "vertices", None)
        if corners is not None and len(corners) < _LEAST_CORNERS:
            raise InputError(
                f"{path}: a {_kind(region)} has no area: it has fewer than three corners"
            )
        try:
            found = region.to_mask(mode="center").to_image(shape)
        except ValueError as error:
            raise InputError(
                f"{path}: a {_kind(region)} has no area: {reason_of(error)}"
            ) from error
        except NotImplementedError:
            without.append(_kind(region))
            continue
        if found is not None:  # None beside the image
            target = inside if region.meta.get("include", 1) in (1, "+", True) else outside
            target |= found > 0
    if len(without) == len(drawn):
        raise InputError(
            f"{path}: a {without[0]} has no area; draw circles, ellipses, boxes or polygons"
        )
    if without:
        told = f"{path}: {len(without)} of {len(drawn)} regions have no area ({', '.join(sorted(set(without)))}) and leave nothing out"
        warnings.warn(told, InputWarning, stacklevel=2)
    return inside & ~outside


def _read(path: Path) -> list[Any]:
    try:
        from regions import Regions
    except ImportError as error:
        raise InputError(
            f"a mask of DS9 regions needs the package regions: {how_to_install('regions')}"
        ) from error
    check_regular(path)
    try:
        data = path.read_bytes()[: _MOST_BYTES + 1]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{path} is larger than 1 MB, too large for a file of regions")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of lines that would be left out
        try:
            found = list(Regions.parse(data.decode("utf-8"), format="ds9"))
        except (Warning, ValueError, UnicodeDecodeError) as error:
            line = reason_of(error)
            if "not supported" in line:
                raise InputError(
                    f"{path}: {line.removesuffix(', skipping.')}: save them in DS9 as image or fk5, circles, ellipses, boxes or polygons"
                ) from error
            raise InputError(f"{path} is no file of DS9 regions: {line}") from error
    if not found:
        raise InputError(f"{path} holds no region")
    return found


def _on_pixels(region: Any, wcs: Any, path: str | Path) -> Any:
    if not hasattr(region, "to_pixel"):
        return region
    if wcs is None:
        raise InputError(
            f"{path}: its regions are on the sky, and the image has no WCS; save them in image coordinates"
        )
    return region.to_pixel(wcs)


def _kind(region: Any) -> str:
    return type(region).__name__.removesuffix("PixelRegion").lower()
