"""From what users have (class folders, archives, other HDF5 files) to a dataset file."""

import contextlib
import itertools
import math
import shutil
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from haloformer._version import code_version
from haloformer.data.dataset import LensDataset
from haloformer.data.dataset_writer import DatasetWriter
from haloformer.data.deeplense import LabelledImage, LabelledSource, class_order
from haloformer.data.left_out import LeftOut
from haloformer.data.own_table import PAIRED, TABLE
from haloformer.data.stated import StatedSurvey
from haloformer.errors import InputError, InputWarning, reason_of
from haloformer.files import check_regular, printable
from haloformer.io.tables import TABLE_SUFFIXES
from haloformer.readers.archives import ARCHIVE_SUFFIXES, is_archive
from haloformer.readers.hdf5_checks import (
    damage_named,
    open_hdf5,
    parameter_paths,
    plain_dataset,
    read_attributes,
    read_class_names,
    survives_hdf5,
    unit_of,
)
from haloformer.readers.images import SUFFIXES, image_suffix
from haloformer.readers.npz import npz_arrays, npz_shapes
from haloformer.readers.pixels import AS_ZERO, channels_first, known_pixels
from haloformer.readers.unpacked import check_chunks
from haloformer.vocabulary import CLASS_ALIASES, mapped_classes, plain_name, unknown_class

_CHUNK_BYTES = 2**24  # images in memory at a time

_NPZ_KEYS = {
    **dict.fromkeys(("images", "x", "X"), "images"),
    **dict.fromkeys(("labels", "y", "Y"), "labels"),
    "class_names": "class_names",
}
"""Keys of the arrays of a ``.npz`` file of labelled images, with what they are."""

Progress = Callable[[int, int | None], None]
"""Called as progress(done, total) after every chunk; total is None while it is unknown."""


def convert(
    src: str | Path,
    out: str | Path,
    *,
    channels: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    hdu: int | str | None = None,
    class_map: Mapping[str, str] | None = None,
    subset: str | None = None,
    nan: str = "error",
    compression: str | None = None,
    skip_bad: bool = False,
    survey: str | None = None,
    noise: str = "original",
) -> dict[str, Any]:
    """Makes a dataset file of labelled images.

    Args:
        src: A folder or archive with class folders (DeepLense ``.npy``, ``.npz``, FITS, PNG, JPEG, TIFF), or an HDF5 or
            ``.npz`` file with ``images`` and ``labels``.
        out: The file to make.
        channels: How many each image must have; None takes what is there.
        progress: Called with (images done, total or None).
        overwrite: Replace an existing file.
        hdu: FITS extension, or key of an array in a ``.npz`` file.
        class_map: Names of the source (folders, or label numbers of an HDF5 file) → class names.
        subset: Which part to take where a source holds several, such as ``train`` and ``val``: they are never mixed.
        nan: ``"error"`` or ``"zero"``: what to do with NaN and infinite pixels.
        compression: None, ``"gzip"`` or ``"lzf"``.
        skip_bad: Leave out images that cannot be read instead of ending at the first.
        survey: The survey that the images are of, a name or a YAML file, for fits of their lenses; None: unknown, or as the
            source says.
        noise: With a survey: the images' noise, as `simulate` takes it.

    Returns:
        ``{"path", "n", "image_shape", "classes": {name: count}, "parameters": [names], "notes": [lines]}``; the notes
        say how many images were left out, and why.

    Raises:
        InputError: Anything about the source or the output that cannot be used; nothing is left of the output then.
    """
    src, out = checked_paths(src, out)
    options: dict[str, Any] = {
        "stated": None if survey is None else StatedSurvey(survey, noise),
        "out": out,
        "progress": progress,
        "overwrite": overwrite,
        "compression": compression,
    }
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
        return _convert_source(source, **options)
    with _as_hdf5(src, class_map) as file:
        return _convert_hdf5(
            src, file, channels=channels, class_map=class_map, nan=nan, skip_bad=skip_bad, **options
        )


def checked_paths(src: str | Path, out: str | Path) -> tuple[Path, Path]:
    """Returns source and output of a conversion.

    Raises:
        InputError: There is no such source, it is no regular file or folder, or both are the same.
    """
    src, out = Path(src), Path(out)
    if out.exists() and src.exists() and out.resolve() == src.resolve():
        raise InputError(f"{out} is the source itself; choose another name for the output")
    if not src.exists():
        raise InputError(f"{src} does not exist")
    if not src.is_dir():
        check_regular(src)
    if image_suffix(out.name) in (*SUFFIXES, *ARCHIVE_SUFFIXES, *TABLE_SUFFIXES):
        raise InputError(f"{out}: what is written is HDF5: give a name that ends in .h5")
    return src, out


@contextlib.contextmanager
def _as_hdf5(src: Path, class_map: Mapping[str, str] | None) -> Iterator[h5py.File]:
    """Opens an HDF5 file, or a ``.npz`` file as one."""
    if image_suffix(src.name) == ".npz":
        with _npz_as_hdf5(src) as file:
            yield file
    elif h5py.is_hdf5(src) or src.suffix.lower() in (".h5", ".hdf5", ".hdf"):
        survives_hdf5(src, lambda: _try_hdf5(src, class_map))
        check_chunks(src)
        with open_hdf5(src) as file:
            yield file
    else:
        raise InputError(
            f"{src} is neither a folder, nor an archive ({', '.join(ARCHIVE_SUFFIXES)}), nor an HDF5 or .npz file"
        )


@dataclass(frozen=True)
class StoredImages:
    """Images of an HDF5 or ``.npz`` file: how many, (C, H, W) of each, their classes, and each read anew."""

    n: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    each: Callable[[], Iterator[np.ndarray]]


@contextlib.contextmanager
def open_stored_images(
    src: Path, *, channels: int | None, class_map: Mapping[str, str] | None, nan: str
) -> Iterator[StoredImages]:
    """Opens labelled images of an HDF5 or ``.npz`` file without converting them; arguments as in `convert`."""
    check_regular(src)
    with _as_hdf5(src, class_map) as file:
        images = _stored_array(src, file)
        n = images.shape[0]
        with damage_named(src):
            _, class_names = _labels(src, file, n, class_map)

        def each() -> Iterator[np.ndarray]:
            for i in range(n):
                yield from _images(src, images, range(i, i + 1), channels, nan, None)[0]

        yield StoredImages(n, _shape_of_images(src, images, channels), class_names, each)


def _stored_array(src: Path, file: h5py.File) -> h5py.Dataset:
    with damage_named(src):
        images = plain_dataset(src, file, "images")
    if images.ndim not in (3, 4) or images.dtype.kind not in "biuf" or min(images.shape) < 1:
        raise InputError(
            f"{src}: /images is {images.dtype} {images.shape}; (N, H, W), (N, C, H, W) or (N, H, W, C) needed"
        )
    return images


def open_labelled(path: str | Path, *, skip_bad: bool = False) -> tuple[LensDataset, list[str]]:
    """Opens labelled images of any kind that `convert` reads.

    What is no dataset file is converted to a temporary one, which goes with the dataset.

    Args:
        path: A dataset file, a folder of class folders, an archive, or a ``.npz`` file.
        skip_bad: As in `convert`; a dataset file is read as it is.

    Returns:
        The dataset, and the notes of `convert`.
    """
    path = Path(path)
    if not (path.is_dir() or is_archive(path) or image_suffix(path.name) == ".npz"):
        return LensDataset(path), []
    folder = tempfile.mkdtemp(prefix="haloformer-")
    try:
        done = convert(path, Path(folder) / "images.h5", skip_bad=skip_bad)
        dataset = LensDataset(done["path"])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(dataset, shutil.rmtree, folder, ignore_errors=True)
    return dataset, done["notes"]


@dataclass
class _Batch:
    images: np.ndarray
    labels: np.ndarray
    parameters: dict[str, np.ndarray]
    files: list[str] | None = None


def _convert_source(
    source: LabelledSource,
    stated: StatedSurvey | None,
    out: Path,
    progress: Progress | None,
    overwrite: bool,
    compression: str | None,
) -> dict[str, Any]:
    items = iter(source)
    first = next(items)  # raises where there is nothing
    attributes = {
        "survey": "",
        "noise": "",
        "source": source.src.name,
        "code_version": code_version(),
        "units": {"log10_m_axion": "log10(eV)"},
    }
    if stated is not None:
        stated.check(first.image.shape, source.class_names)
        attributes = stated.attributes(source.src.name, attributes)
    size = max(1, _CHUNK_BYTES // first.image.nbytes)
    with DatasetWriter(
        out,
        n=source.n,
        image_shape=first.image.shape,
        class_names=source.class_names,
        attributes=attributes,
        compression=compression,
        overwrite=overwrite,
    ) as writer:
        files: list[str] = []
        checked = _checked_scales(itertools.chain([first], items), source, stated)
        for batch in _batches(checked, size, source.class_names):
            writer.write(batch, files=batch.files)
            files += batch.files or []
            if progress is not None:
                progress(writer.written, source.n)
        writer.drop_absent_classes()
        _note(writer, source.left_out)
        _note_table(writer, source, files, {} if stated is None else stated.units)
        _note_pairs(writer, source, files)
    return _summary(out, source.left_out)


def _checked_scales(
    items: Iterable[LabelledImage], source: LabelledSource, stated: StatedSurvey | None
) -> Iterator[LabelledImage]:
    """Yields images, of which each is scaled as those of the survey that they are said to be of."""
    for item in items:
        if stated is not None:
            stated.check_scale(item.image, f"{source.src}/{item.file}")
        yield item


def _note(writer: DatasetWriter, left_out: LeftOut) -> None:
    """Keeps in the file what was left out of it."""
    if left_out.n:
        writer.attributes["left_out"] = {"n": left_out.n, "reasons": left_out.reasons}


def _note_table(
    writer: DatasetWriter, source: LabelledSource, files: Sequence[str], units: Mapping[str, str]
) -> None:
    """Keeps in the file the parameters that a table of haloformer's gives."""
    parameters = source.table.parameters(files)
    for name, values in parameters.items():
        writer.replace_parameter(name, values, units.get(name) or writer.units.get(name, ""))
    if parameters and "log10_m_axion" not in parameters and not writer.has_numbers("log10_m_axion"):
        writer.replace_parameter("log10_m_axion", None)  # another one is its survey's


def _note_pairs(writer: DatasetWriter, source: LabelledSource, files: Sequence[str]) -> None:
    """Keeps in the file that images of one ``index`` are of one lens, so that trainings do not part them."""
    paired = source.table.paired
    if not paired:
        return
    if paired.issuperset(files):
        writer.attributes[PAIRED] = True
    else:
        warnings.warn(
            f"{source.src}: {TABLE} says which images are of one lens, but not of all that are there: "
            "trainings will not know it, and may validate on lenses that they trained on",
            InputWarning,
            stacklevel=2,
        )


@contextlib.contextmanager
def _npz_as_hdf5(src: Path) -> Iterator[h5py.File]:
    """Yields the arrays of a ``.npz`` file that are images, labels and names of classes, in an HDF5 file in memory."""
    arrays: dict[str, np.ndarray] = {}
    for key, found in npz_arrays(src, _NPZ_KEYS, str(src)):
        arrays[_NPZ_KEYS[key]] = found
    for name in ("images", "labels"):
        if name not in arrays:
            listed = ", ".join(map(printable, npz_shapes(src, str(src)))) or "no arrays"
            raise InputError(
                f"{src} has no array '{name}' and holds {listed}; a dataset needs images and labels"
            )
    with h5py.File(str(src), "w", driver="core", backing_store=False) as file:
        with damage_named(src):
            for name in ("images", "labels"):
                file[name] = _as_bytes(arrays[name])
            if "class_names" in arrays:
                file.attrs["class_names"] = list(_as_bytes(arrays["class_names"]).reshape(-1))
        yield file


def _as_bytes(values: np.ndarray) -> np.ndarray:
    """Returns an array whose texts are UTF-8, as HDF5 has them."""
    return np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values


def _batches(
    items: Iterable[LabelledImage], size: int, class_names: tuple[str, ...]
) -> Iterator[_Batch]:
    number = {name: label for label, name in enumerate(class_names)}
    counts: Counter[str] = Counter()
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        index = []
        for item in chunk:
            index.append(counts[item.class_name])
            counts[item.class_name] += 1
        yield _Batch(
            images=np.stack([item.image for item in chunk]),
            labels=np.array([number[item.class_name] for item in chunk], dtype=np.int64),
            parameters={
                "log10_m_axion": np.array([item.log10_m_axion for item in chunk]),
                "index": np.array(index, dtype=np.int64),
            },
            files=[item.file for item in chunk],
        )


def _convert_hdf5(
    src: Path,
    file: h5py.File,
    *,
    channels: int | None,
    class_map: Mapping[str, str] | None,
    nan: str,
    stated: StatedSurvey | None,
    out: Path,
    progress: Progress | None,
    overwrite: bool,
    compression: str | None,
    skip_bad: bool,
) -> dict[str, Any]:
    images = _stored_array(src, file)
    n = images.shape[0]
    with damage_named(src):
        labels, class_names = _labels(src, file, n, class_map)
        parameters = _parameters(src, file, n)
        files = _files(src, file, n)
        units = {name: unit_of(dataset) for name, dataset in parameters.items()}
        attributes = read_attributes(file) | {
            "source": src.name,
            "converted_by": code_version(),
            "units": units,
        }
    for own in ("format", "format_version", "class_names"):
        attributes.pop(own, None)

    left_out = LeftOut()

    def read(start: int, stop: int) -> tuple[list[np.ndarray], list[int]]:
        return _images(
            src, images, range(start, stop), channels, nan, left_out if skip_bad else None
        )

    shape = _shape_of_images(src, images, channels)
    if stated is not None:
        stated.check(shape, class_names)
        attributes = stated.attributes(src.name, attributes)
    size = max(1, _CHUNK_BYTES // (4 * math.prod(shape)))
    with DatasetWriter(
        out,
        n=None if skip_bad else n,
        image_shape=shape,
        class_names=class_names,
        attributes=attributes,
        compression=compression,
        overwrite=overwrite,
    ) as writer:
        for start in range(0, n, size):
            stop = min(start + size, n)
            found, numbers = read(start, stop)
            with damage_named(src):
                columns = {name: dataset[start:stop] for name, dataset in parameters.items()}
            rows = np.array(numbers, dtype=int) - start
            if stated is not None:
                for image, number in zip(found, numbers, strict=True):
                    stated.check_scale(image, f"{src}: image {number}")
            if found:
                writer.write(
                    _Batch(
                        np.stack(found),
                        labels[numbers],
                        {name: column[rows] for name, column in columns.items()},
                    ),
                    files and [files[number] for number in numbers],
                )
            if progress is not None:
                progress(stop, n)
        left_out.refuse_if_all(writer.written)
        _note(writer, left_out)
    return _summary(out, left_out)


def _shape_of_images(src: Path, images: h5py.Dataset, channels: int | None) -> tuple[int, int, int]:
    """Returns the shape (C, H, W) that each image of a file will have."""
    blank = np.broadcast_to(np.zeros((), images.dtype), images.shape[1:])
    shape: tuple[int, int, int] = channels_first(blank, channels, f"{src}: image 0").shape
    return shape


def _images(
    src: Path,
    images: h5py.Dataset,
    numbers: range,
    channels: int | None,
    nan: str,
    left_out: LeftOut | None,
) -> tuple[list[np.ndarray], list[int]]:
    """Reads images (C, H, W) float32 of an HDF5 file, under the same checks as those of image files.

    Returns:
        The images, and the number of each: all of ``numbers`` unless ``left_out`` takes the others.
    """
    try:
        block = images[numbers.start : numbers.stop]
    except Exception as error:  # HDF5 fails in many ways on damaged chunks
        raise InputError(
            f"{src}: /images cannot be read from image {numbers.start} on: {reason_of(error)[:120]}"
        ) from error
    found, good = [], []
    for number, image in zip(numbers, block, strict=True):
        name = f"{src}: image {number}"
        try:
            found.append(known_pixels(channels_first(image, channels, name), nan, name, AS_ZERO))
            good.append(number)
        except InputError as error:
            if left_out is None:
                raise
            left_out.add(error)
    return found, good


def _try_hdf5(src: Path, class_map: Mapping[str, str] | None) -> None:
    """Touches whatever converting will: for the process in which HDF5 may crash."""
    check_chunks(src)
    with open_hdf5(src) as file:
        read_attributes(file)
        images = plain_dataset(src, file, "images")
        n = images.shape[0]
        _labels(src, file, n, class_map)
        for dataset in _parameters(src, file, n).values():
            unit_of(dataset)
        _files(src, file, n)
        images[n - 1]


def _labels(
    src: Path, file: h5py.File, n: int, class_map: Mapping[str, str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels in this package's class order, whatever the file's own order and spelling."""
    labels, own_names = _stored_labels(src, file, n, has_map=class_map is not None)
    known = mapped_classes(class_map)
    # Our own files may have classes of any name.
    own = read_attributes(file).get("format") is not None
    renamed = []
    for name in own_names:
        plain = plain_name(name)
        canonical = known.get(plain, CLASS_ALIASES.get(plain, name if own else None))
        if canonical is None:
            raise unknown_class(src, "class", name, CLASS_ALIASES)
        renamed.append(canonical)
    class_names = class_order(renamed)
    return np.array([class_names.index(name) for name in renamed])[labels], class_names


def _stored_labels(
    src: Path, file: h5py.File, n: int, *, has_map: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels (n,) and the names that they index, as the file has them."""
    stored = plain_dataset(src, file, "labels")
    if len(stored.shape) == 2 and stored.shape[0] == n and stored.dtype.kind in "biuf":
        return _numbered(src, file, _of_one_hot(src, stored), has_map=has_map)
    if stored.shape != (n,):
        raise InputError(f"{src}: /labels has shape {stored.shape}, and there are {n} images")
    if h5py.check_string_dtype(stored.dtype) is not None or stored.dtype.kind == "S":
        texts = [
            item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
            for item in stored[...]
        ]
        found, labels = np.unique(texts, return_inverse=True)
        return labels, tuple(str(name) for name in found)
    if stored.dtype.kind not in "iu":
        raise InputError(f"{src}: /labels is {stored.dtype}; integers or names are needed")
    return _numbered(src, file, stored[...], has_map=has_map)


def _of_one_hot(src: Path, stored: h5py.Dataset) -> np.ndarray:
    """Returns the number of the class in each row of zeros and a one."""
    rows = stored[...]
    if not (np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all()):
        raise InputError(
            f"{src}: /labels has shape {stored.shape}; one label per image is needed, or rows of zeros and a one"
        )
    numbers: np.ndarray = rows.argmax(axis=1)
    return numbers


def _numbered(
    src: Path, file: h5py.File, labels: np.ndarray, *, has_map: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels (n,) and the names that they index, of a file whose labels are numbers."""
    names = read_class_names(src, file)
    if names is None:
        if not has_map:
            raise InputError(
                f"{src}: the attribute class_names is missing; class_map says what each label number means (of haloformer convert)"
            )
        # Only the numbers that occur: they may be as large as they like.
        numbers, labels = np.unique(labels, return_inverse=True)
        return labels, tuple(map(str, numbers.tolist()))
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(
            f"{src}: /labels runs from {labels.min()} to {labels.max()}, with {len(names)} classes"
        )
    return labels.astype(np.int64), names


def _parameters(src: Path, file: h5py.File, n: int) -> dict[str, Any]:
    parameters = {}
    for place in parameter_paths(src, file):
        name, dataset = place.removeprefix("parameters/"), plain_dataset(src, file, place)
        if dataset.ndim not in (1, 2) or dataset.shape[0] != n or dataset.dtype.kind not in "biuf":
            raise InputError(
                f"{src}: /parameters/{name} is {dataset.dtype} {dataset.shape}, which is not one row per image"
            )
        parameters[name] = dataset
    return parameters


def _files(src: Path, file: h5py.File, n: int) -> list[str] | None:
    """Where the images of one of our own converted files came from."""
    if "files" not in file or "format" not in file.attrs:
        return None
    stored = plain_dataset(src, file, "files")
    if stored.shape != (n,) or h5py.check_string_dtype(stored.dtype) is None:
        raise InputError(
            f"{src}: /files is {stored.dtype} {stored.shape}; one text per image is needed"
        )
    return [item.decode("utf-8", "replace") for item in stored[...]]


def _summary(out: Path, left_out: LeftOut) -> dict[str, Any]:
    with LensDataset(out) as dataset:
        counts = np.bincount(dataset.labels, minlength=len(dataset.class_names)).tolist()
        return {
            "path": str(out),
            "n": len(dataset),
            "image_shape": dataset.image_shape,
            "classes": dict(zip(dataset.class_names, counts, strict=True)),
            "parameters": list(dataset.parameter_names),
            "notes": left_out.notes,
        }
