"""What a conversion would do: how many images there are, of what shape, and how fast they are read."""

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from haloformer.data.conversion import checked_paths, open_stored_images
from haloformer.data.dataset_writer import check_free_space
from haloformer.data.deeplense import LabelledSource
from haloformer.data.stated import StatedSurvey
from haloformer.io.writing import free_file
from haloformer.readers.archives import is_archive

_SECONDS = 1.5


@dataclass(frozen=True)
class Preview:
    """What was seen of the images.

    Attributes:
        n: How many there are; None where only reading all of them tells.
        image_shape: (C, H, W).
        class_names: Classes that there may be.
        seconds: That an image takes to read.
        n_read: Images that this was measured on.
    """

    n: int | None
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    seconds: float
    n_read: int


def preview_conversion(
    src: str | Path,
    out: str | Path,
    *,
    channels: int | None = None,
    overwrite: bool = False,
    hdu: int | str | None = None,
    class_map: dict[str, str] | None = None,
    subset: str | None = None,
    nan: str = "error",
    compression: str | None = None,
    skip_bad: bool = False,
    survey: str | None = None,
    noise: str = "original",
) -> Preview:
    """Reads some of the images that `convert` would read, for a second or two, and writes nothing.

    The arguments are those of `convert`.

    Raises:
        InputError: What `convert` would raise for the source, the first images, and the output.
    """
    src, out = checked_paths(src, out)
    free_file(out, overwrite)
    began = time.perf_counter()
    if src.is_dir() or is_archive(src):
        source = LabelledSource(
            src,
            class_map=class_map,
            subset=subset,
            channels=channels,
            hdu=hdu,
            nan=nan,
            skip_bad=skip_bad,
        )
        items = iter(source)
        first = next(items)
        shape: tuple[int, ...] = first.image.shape
        example, where = first.image, f"{src}/{first.file}"
        n_read, are_all = _read_some(itertools.chain([first], items), began)
        n, names = source.n, source.class_names
    else:
        with open_stored_images(src, channels=channels, class_map=class_map, nan=nan) as stored:
            n, shape, names = stored.n, stored.image_shape, stored.class_names
            example, where = next(stored.each()), f"{src}: image 0"
            n_read, are_all = _read_some(stored.each(), began)
    if survey is not None:
        stated = StatedSurvey(survey, noise)
        stated.check(shape, names)
        stated.check_scale(example, where)
    n = n_read if are_all else n
    if n is not None and compression is None:
        n_bytes = 4 * n
        for side in shape:
            n_bytes *= side
        check_free_space(existing_parent(out) / out.name, n_bytes)
    seconds = (time.perf_counter() - began) / n_read
    return Preview(n, shape, names, seconds, n_read)


def _read_some(images: Iterable[object], began: float) -> tuple[int, bool]:
    """Reads images for a second or two; returns how many, and whether those are all."""
    n_read = 0
    for _ in images:
        n_read += 1
        if time.perf_counter() - began > _SECONDS:
            return n_read, False
    return n_read, True


def existing_parent(path: Path) -> Path:
    """Returns the nearest folder above a path that is there."""
    return next(parent for parent in path.absolute().parents if parent.exists())
