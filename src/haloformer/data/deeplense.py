"""Labelled images in class folders or archives, as DeepLense and others publish them; and writing that layout.

A source is a folder or an archive whose files lie in folders named after their class,
``.../axion/*.npy``; the names that are seen in the wild (``vort``, ``sphere``, ``no`` …) are known. A folder of
archives named after their class (``axion.tgz`` …) is read too. Archives are streamed: nothing is ever unpacked to disk.
"""

import csv
import itertools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from haloformer.data.dataset_writer import Batch, check_free_space
from haloformer.data.empty_folders import empty_class_folders, tell_of_empty_folders
from haloformer.data.left_out import LeftOut
from haloformer.data.own_table import PAIRED, TABLE, OwnTable
from haloformer.errors import InputError, InputWarning, exists_already
from haloformer.files import printable
from haloformer.io.folders import whole_folder
from haloformer.io.shards import shards_hint
from haloformer.readers.archives import ARCHIVE_SUFFIXES, is_archive, read_archive
from haloformer.readers.images import decode_image, image_suffix, is_image_name
from haloformer.readers.npy import MAX_FILE_BYTES, read_bytes
from haloformer.readers.npz import choose_arrays, npz_shapes
from haloformer.readers.pixels import AS_ZERO
from haloformer.readers.walking import (
    is_archive_name,
    is_hidden_path,
    is_image_path,
    passed_over,
    walk,
    warn_of_passed_over,
)
from haloformer.simulation.dark_matter import axion_mass
from haloformer.vocabulary import (
    CLASS_ALIASES,
    CLASS_NAMES,
    mapped_classes,
    plain_name,
    unknown_class,
)

_MOST_TABLE = (
    2**30
)  # bytes of a table of parameters: that of 100,000 images with halos has some hundred MiB

Save = Callable[[Path, np.ndarray, str, dict[str, np.ndarray], int], None]
"""Writes an image (C, H, W): its file, pixels, class, the parameters of the batch, and its row among them."""


@dataclass
class LabelledImage:
    """One image of a class folder."""

    image: np.ndarray
    """(C, H, W) float32."""
    class_name: str
    file: str
    """Where it lies, relative to the source."""
    log10_m_axion: float
    """log10 of the axion mass in eV, NaN where the file has none."""


@dataclass(frozen=True)
class _Place:
    """What the path of a file says about it."""

    class_name: str
    subset: str
    """The path above the class folder, such as ``train`` or ``Model_I_test``."""


class LabelledSource:
    """A folder or archive of labelled images, read one image at a time in a fixed order."""

    def __init__(
        self,
        src: str | Path,
        *,
        class_map: Mapping[str, str] | None = None,
        subset: str | None = None,
        channels: int | None = None,
        hdu: int | str | None = None,
        nan: str = "error",
        max_bytes: int = MAX_FILE_BYTES,
        skip_bad: bool = False,
    ):
        """Looks through a folder (not yet through archives) and refuses what cannot be read as labelled images.

        Args:
            src: The folder or archive.
            class_map: Folder name → class name, for folders whose names are not known.
            subset: Which part to read where the source holds several, such as ``train`` and ``val``.
            channels: As in `haloformer.data.read_image`, and so are the others.
            hdu: FITS extension.
            nan: What to do with NaN and infinite values.
            max_bytes: Limit for one image file.
            skip_bad: Leave out files that cannot be read, or have another shape than those before;
                ``left_out`` tells them when the images are read.
        """
        self.src = Path(src)
        self._classes = {**CLASS_ALIASES, **mapped_classes(class_map)}
        self._subset = subset
        self._options: dict[str, Any] = {
            "channels": channels,
            "hdu": hdu,
            "nan": nan,
            "remedy": AS_ZERO,
            "max_bytes": max_bytes,
        }
        self._max_bytes = max_bytes
        self._skip_bad = skip_bad
        self.left_out = LeftOut()
        self._subsets_seen: set[str] = set()
        self.table = OwnTable()
        self._files: list[tuple[Path, _Place]] = []
        self._archives: list[Path] = []
        if not self.src.exists():
            raise InputError(f"{self.src} does not exist")
        if self.src.is_dir():
            self._scan()
        elif is_archive(self.src):
            self._archives = [self.src]
        else:
            raise InputError(
                f"{self.src} is neither a folder nor an archive ({', '.join(ARCHIVE_SUFFIXES)})"
            )

    @property
    def n(self) -> int | None:
        """How many images there are; None where only reading tells: of archives and ``.npz`` files, and with ``skip_bad``."""
        if self._skip_bad:
            return None
        several = self._archives or any(
            image_suffix(path.name) == ".npz" for path, _ in self._files
        )
        return None if several else len(self._files)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that can occur (archives) or do occur (folders): the package's own first, in their order."""
        if self._archives:
            return class_order(self._classes.values())
        return class_order(place.class_name for _, place in self._files)

    def __iter__(self) -> Iterator[LabelledImage]:
        shape: tuple[int, ...] | None = None
        n_read = n_odd = 0
        first = another = ""
        classes = set()
        for item in self._items():
            if shape is None:
                shape, first = item.image.shape, item.file
            if item.image.shape != shape:
                odd = InputError(
                    f"{self.src}: {item.file} has the shape {item.image.shape}, and those before it have {shape}"
                )
                self._leave_out(odd)
                another = another or f"{item.file} with {item.image.shape}"
                n_odd += 1
                continue
            n_read += 1
            classes.add(item.class_name)
            yield item
        self.left_out.refuse_if_all(n_read)
        if shape is None:
            raise InputError(self._nothing_found())
        if n_odd > n_read:
            raise InputError(
                f"{self.src}: most images have another shape than the first, {first} with {shape}, such as {another}: take those of another shape out "
                "of the folder"
            )
        if not self._archives and (absent := set(self.class_names) - classes):
            warnings.warn(
                f"{self.src}: no image of class {', '.join(sorted(absent))} can be read: left out",
                InputWarning,
                stacklevel=2,
            )

    def _items(self) -> Iterator[LabelledImage]:
        for path, place in self._files:
            file = path.relative_to(self.src).as_posix()
            yield from self._decode(path, str(path), file, place)
        empty: dict[PurePosixPath, str] = {}
        classes = set()
        for archive in self._archives:
            others: list[Path] = []
            folders: list[str] = []
            full = set()
            for member, data in read_archive(
                archive,
                accept=self._accept(archive, others),
                max_bytes=self._max_bytes,
                folders=folders,
            ):
                if PurePosixPath(member).name == TABLE:
                    self.table.read(data, PurePosixPath(member).parent)
                    continue
                inside = self._place(PurePosixPath(member), archive)
                assert inside is not None
                full.add(PurePosixPath(member).parent)
                classes.add(inside.class_name)
                yield from self._decode(data, f"{archive}/{printable(member)}", member, inside)
            warn_of_passed_over(archive, others)
            empty |= self._empty(map(PurePosixPath, folders), full)
        if classes:
            self._tell_of_empty(empty, classes)

    def _decode(
        self, content: Path | bytes, where: str, file: str, place: _Place
    ) -> list[LabelledImage]:
        """Returns the image of a file, or those of the arrays of a ``.npz``."""
        try:
            if isinstance(content, Path):
                content = read_bytes(content, max_bytes=self._max_bytes)
            return list(self._decoded(content, where, file, place))
        except InputError as error:
            self._leave_out(error)
            return []

    def _leave_out(self, error: InputError) -> None:
        if not self._skip_bad:
            raise error
        self.left_out.add(error)

    def _decoded(
        self, data: bytes, where: str, file: str, place: _Place
    ) -> Iterator[LabelledImage]:
        if image_suffix(file) != ".npz":
            yield self._image(data, where, file, place, self._options["hdu"])
            return
        for key in choose_arrays(npz_shapes(data, where), where, self._options["hdu"]):
            yield self._image(data, where, f"{file}[{printable(key)}]", place, key)

    def _image(
        self, data: bytes, where: str, file: str, place: _Place, hdu: int | str | None
    ) -> LabelledImage:
        image, mass = decode_image(data, where, **{**self._options, "hdu": hdu})
        if not math.isnan(mass) and not 0 < mass < math.inf:
            raise InputError(f"{where}: the axion mass {mass} eV is not a positive number")
        return LabelledImage(
            image, place.class_name, file, math.nan if math.isnan(mass) else math.log10(mass)
        )

    def _accept(self, archive: Path, others: list[Path]) -> Any:
        """Returns what says whether a file in an archive is wanted; the others are listed."""

        def wanted(member: str) -> bool:
            path = PurePosixPath(member)
            if is_hidden_path(member):
                return False
            if path.name == TABLE:
                return True
            if not is_image_name(path.name):
                others.append(Path(member))
            return self._place(path, archive) is not None

        return wanted

    def _scan(self) -> None:
        paths, folders = walk(self.src)
        for path in paths:
            if path.name == TABLE and path.is_file():
                folder = PurePosixPath(path.parent.relative_to(self.src).as_posix())
                if path.stat().st_size <= _MOST_TABLE:
                    self.table.read(read_bytes(path, max_bytes=_MOST_TABLE), folder)
                else:
                    text = f"{path}: is larger than {_MOST_TABLE / 2**30:g} GiB, and is not read: parameters of its images are not known"
                    warnings.warn(text, InputWarning, stacklevel=2)
        self._archives = [path for path in paths if is_archive_name(path.name)]
        for path in filter(is_image_path, paths):
            place = self._place(PurePosixPath(path.relative_to(self.src).as_posix()), self.src)
            if place is not None:
                self._files.append((path, place))
        if self._archives and self._files:
            raise InputError(
                f"{self.src} holds archives beside images; convert the one or the other by its own path"
            )
        if not self._files and not self._archives:
            counts = passed_over(paths)
            if hint := shards_hint(self.src):
                raise InputError(hint)
            raise InputError(self._nothing_found() + (counts and f"; it holds {counts}"))
        read = {*self._archives, *filter(is_image_path, paths)}
        warn_of_passed_over(self.src, itertools.filterfalse(read.__contains__, paths))
        if not self._archives:
            inside = [PurePosixPath(path.relative_to(self.src).as_posix()) for path in folders]
            full = {PurePosixPath(path.parent.relative_to(self.src).as_posix()) for path in read}
            self._tell_of_empty(self._empty(inside, full), self.class_names)

    def _empty(
        self, folders: Iterable[PurePosixPath], full: Iterable[PurePosixPath]
    ) -> dict[PurePosixPath, str]:
        """Returns the class folders of the wanted set in which there is no image."""
        wanted = [
            folder
            for folder in folders
            if not is_hidden_path(str(folder)) and self._is_chosen("/".join(folder.parts[:-1]))
        ]
        return empty_class_folders(wanted, full, self._classes)

    def _tell_of_empty(self, empty: Mapping[PurePosixPath, str], there: Collection[str]) -> None:
        tell_of_empty_folders(self.src, empty, there, refuse=not self._skip_bad)

    def _is_chosen(self, subset: str) -> bool:
        wanted = None if self._subset is None else self._subset.strip("/")
        return wanted is None or wanted in (subset, subset.rpartition("/")[2])

    def _place(self, file: PurePosixPath, container: Path) -> _Place | None:
        """Reads class and subset off a path; None for what is passed over."""
        folders = [part for part in file.parts[:-1] if part not in (".", "/")]
        if not is_image_name(file.name) or is_hidden_path(str(file)):
            return None
        for depth in range(len(folders) - 1, -1, -1):
            if (name := plain_name(folders[depth])) in self._classes:
                class_name, subset = self._classes[name], "/".join(folders[:depth])
                break
        else:
            # The folder that was given, or the archive's own name, may itself be that of one class.
            own = plain_name(container.name.split(".")[0])
            if own not in self._classes:
                raise self._no_class(folders)
            class_name, subset = self._classes[own], "/".join(folders)
        if not self._is_chosen(subset):
            self._subsets_seen.add(subset)
            return None
        self._subsets_seen.add(subset)
        if self._subset is None and len(self._subsets_seen) > 1:
            first, second = sorted(self._subsets_seen)[:2]
            raise InputError(
                f"{self.src} holds several sets ('{first}' and '{second}'), which must not be mixed: `haloformer convert` "
                f"takes one with --subset {first} (in Python subset)"
            )
        return _Place(class_name, subset)

    def _no_class(self, folders: list[str]) -> InputError:
        if not folders:
            return InputError(
                f"{self.src} holds images that are not in class folders ({', '.join(CLASS_NAMES)}); without labels "
                "they can only be predicted: `haloformer predict`"
            )
        return unknown_class(self.src, "class folder", folders[-1], self._classes)

    def _nothing_found(self) -> str:
        if self._subset is not None and self._subsets_seen:
            return f"{self.src} has no set '{self._subset}'; there are {', '.join(sorted(self._subsets_seen))}"
        return f"{self.src} holds no image in a class folder ({', '.join(CLASS_NAMES)})"


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns each name once: the package's own classes in canonical order, then the others as they come."""
    unique = list(dict.fromkeys(names))
    return (
        *(name for name in CLASS_NAMES if name in unique),
        *(name for name in unique if name not in CLASS_NAMES),
    )


def write_deeplense_folder(
    batches: Iterable[Batch],
    out: str | Path,
    *,
    class_names: Iterable[str] | None = None,
    n: int | None = None,
    overwrite: bool = False,
) -> int:
    """Writes the original layout: ``OUT/{axion,cdm,no_sub}/*.npy`` and, beside them, ``parameters.csv``.

    ``cdm`` and ``no_sub`` files are plain (H, W) arrays ((H, W, C) with several bands); an ``axion`` file is the
    original's pickled object array ``[image, mass_eV]``. The table has a row per image with every parameter; lists are
    joined by ``;``. The folder appears under its name when it is whole.

    Args:
        batches: `LensBatch` objects; only one is in memory at a time.
        out: The folder to make.
        class_names: What the labels index; by default each batch's own ``class_names``.
        n: How many images will come, if known: whether they fit on the disk is then checked before the second batch.
        overwrite: Replace a folder that this function wrote earlier; any other folder is left alone.

    Returns:
        How many images were written.
    """
    out = Path(out)
    refuse_existing_folder(out, overwrite)
    names = tuple(class_names) if class_names is not None else None
    with whole_folder(out, lambda: refuse_existing_folder(out, overwrite)) as part:
        return write_class_folders(batches, part, names, n, _save, ".npy")


def write_class_folders(
    batches: Iterable[Batch],
    folder: Path,
    class_names: tuple[str, ...] | None,
    n: int | None,
    save: Save,
    suffix: str,
) -> int:
    """Writes images into folders named after their classes, and ``parameters.csv`` beside them.

    Args:
        batches: `LensBatch` objects.
        folder: An empty folder.
        class_names: What the labels index; None: each batch's own.
        n: How many images will come, if known.
        save: Writes one image.
        suffix: Of the files.

    Returns:
        How many images were written.
    """
    count = 0
    made: set[str] = set()
    with open(folder / TABLE, "w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        for batch in batches:
            names = class_names if class_names is not None else tuple(batch.class_names)  # type: ignore[attr-defined]
            images = np.asarray(batch.images, dtype=np.float32)
            parameters = {key: np.asarray(value) for key, value in batch.parameters.items()}
            paired = bool(getattr(batch, "attributes", {}).get(PAIRED))
            if count == 0:
                if n is not None:
                    check_free_space(folder, n * images[:1].nbytes)
                writer.writerow(["file", "class", *([PAIRED] if paired else []), *parameters])
            for row, (image, label) in enumerate(
                zip(images, np.asarray(batch.labels).tolist(), strict=True)
            ):
                name = names[label]
                file = f"{name}/{name}_{count:07d}{suffix}"
                if name not in made:
                    (folder / name).mkdir()
                    made.add(name)
                save(folder / file, image, name, parameters, row)
                writer.writerow(
                    [
                        *(file, name),
                        *(["True"] if paired else []),
                        *(_cell(values[row]) for values in parameters.values()),
                    ]
                )
                count += 1
    if count == 0:
        raise InputError("there are no images to write")
    return count


def _save(
    path: Path, image: np.ndarray, name: str, parameters: dict[str, np.ndarray], row: int
) -> None:
    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    mass = _axion_mass(parameters, row) if name == "axion" else None
    if mass is not None:
        pair = np.empty(2, dtype=object)  # numpy no longer makes this of [image, mass] by itself
        pair[0], pair[1] = pixels, 10.0**mass
        np.save(path, pair, allow_pickle=True)
    else:
        np.save(path, np.ascontiguousarray(pixels))


def _axion_mass(parameters: Mapping[str, np.ndarray], row: int) -> float | None:
    """Returns log10 of the axion's mass in eV in the image of a row; None where no mass goes with its vortex or granules."""
    try:
        mass = float(axion_mass({key: values[row : row + 1] for key, values in parameters.items()})[0])  # fmt: skip
    except KeyError:
        return None
    return mass if np.isfinite(mass) else None


def _cell(value: Any) -> str:
    if np.ndim(value):
        return ";".join(_cell(item) for item in value if not np.isnan(item))
    return (
        str(int(value))
        if isinstance(value, np.integer)
        else ("" if np.isnan(value) else repr(float(value)))
    )


def refuse_existing_folder(out: Path, overwrite: bool) -> None:
    """Refuses a folder that `write_deeplense_folder` and `write_fits_folder` may not write; writes nothing."""
    if not out.exists():
        return
    if not overwrite:
        raise exists_already(out)
    entries = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if entries and (TABLE not in entries or not entries <= {TABLE, *CLASS_NAMES}):
        raise InputError(
            f"{out} is not a folder of images written by haloformer, so it is not overwritten"
        )
    if not out.is_dir():
        raise InputError(f"{out} is a file, which a folder does not replace")
