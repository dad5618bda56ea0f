"""Images that are simulated and fitted once and stored, for all trainings that ask for the same.

A folder of prepared images has one folder for each kind: survey, classes, seed, noise, fit, and the code that makes them. In it lie dataset
files of 256 images each, float16 where the images have noise (float32 where they have none, whose faint parts are all there is to see). A
file is written whole or not at all, so that several processes can fill and read the same folder, and a killed one leaves nothing half-done.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from haloformer.data.dataset_writer import DatasetWriter
from haloformer.errors import InputError, InputWarning, reason_of
from haloformer.io.writing import check_parents, write_text
from haloformer.readers.hdf5_checks import checked_images, damage_named, open_hdf5
from haloformer.simulation import LensBatch

SHARD_IMAGES = 256
"""Images per file."""

LEAST_FREE = 2 * 2**30
"""Bytes of the disk that are left to others."""

_DESCRIPTION = "prepared.json"
_LOCKS = 16  # files by which processes wait for each other, so many per kind
_CODE = ("simulation", "fitting")  # what decides the pixels


class Maker(Protocol):
    """Makes images by their number, and says all that they depend on."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels index."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    @property
    def attributes(self) -> dict[str, Any]:
        """Provenance that travels with the images, JSON-able."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """All that the images depend on but their numbers and the code, JSON-able."""
        ...

    @property
    def has_noise(self) -> bool:
        """Whether the images have noise."""
        ...

    def with_more_channels(self) -> "Sequence[Maker]":
        """Returns those whose first channels are this one's images."""
        ...

    def parameters(self, numbers: Sequence[int] | np.ndarray | range) -> dict[str, np.ndarray]:
        """Returns the physical parameters of these images."""
        ...

    def batch(self, numbers: Sequence[int] | np.ndarray | range) -> LensBatch:
        """Makes the images of these numbers, in this order."""
        ...


class KeptParameters(Mapping[str, np.ndarray]):
    """The physical parameters of images: single numbers as they were stored, all others drawn again when they are asked for.

    To draw those of a lens with its halos anew takes as long as several steps of a training.
    """

    def __init__(
        self, stored: Mapping[str, np.ndarray], drawn: Callable[[], Mapping[str, np.ndarray]]
    ) -> None:
        """Keeps them.

        Args:
            stored: Name → (B,).
            drawn: Returns all of them.
        """
        self._stored, self._drawn = stored, functools.cache(drawn)

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._stored.get(name)
        return self._drawn()[name] if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._drawn())

    def __len__(self) -> int:
        return len(self._drawn())


class _Stored(NamedTuple):
    """Where the images of a file lie, and their parameters that are single numbers."""

    path: Path
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    parameters: Mapping[str, np.ndarray]

    def images(self) -> np.ndarray:
        """Returns them; the file is open as long as they are used."""
        return np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape)


class PreparedImages:
    """Gives images by their number: stored ones as they are, the others are made and stored."""

    def __init__(self, maker: Maker, folder: str | Path, *, gigabytes: float = 20.0) -> None:
        """Prepares to read and to fill a folder.

        Args:
            maker: Makes what is missing.
            folder: Of prepared images of any kinds; made if missing.
            gigabytes: Largest size of the folder. Kinds that were not used for longest make room;
                where that is not enough, images are made anew each time.

        Raises:
            InputError: There is a file where the folder should be.
        """
        self.maker, self.root, self.limit = maker, Path(folder), int(gigabytes * 1e9)
        self.folder = self.root / kind_of(maker)
        self._others = [self.root / kind_of(other) for other in maker.with_more_channels()]
        self._known: dict[int, _Stored] = {}
        self._full = ""  # why no more can be stored
        if self.root.exists() and not self.root.is_dir():
            raise InputError(
                f"prepared {folder} is a file: name a folder, which is made if missing"
            )
        check_parents(self.root)
        _OPEN.add(self)
        for kind in (self.folder, *self._others):
            with contextlib.suppress(OSError):  # not there, or of somebody else
                os.utime(kind / _DESCRIPTION)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels index."""
        return self.maker.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.maker.image_shape

    @property
    def attributes(self) -> dict[str, Any]:
        """Provenance that travels with the images, JSON-able."""
        return self.maker.attributes

    def batch(self, numbers: Sequence[int] | np.ndarray | range) -> LensBatch:
        """Returns the images of these numbers, float32, in this order."""
        wanted = np.asarray(numbers, dtype=np.int64)
        images = np.empty((len(wanted), *self.image_shape), dtype=np.float32)
        shards = wanted // SHARD_IMAGES
        columns: dict[str, np.ndarray] | None = None
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            stored = self._shard(shard)
            known: Mapping[str, np.ndarray] = {}
            if stored is None:
                images[rows] = self.maker.batch(wanted[rows]).images.cpu().numpy()
            else:
                there = wanted[rows] - shard * SHARD_IMAGES
                images[rows] = stored[there, : images.shape[1]]
                known = self._known[shard].parameters
            del stored  # and with it the open file: there may be more than a process may have
            if columns is None:
                columns = {k: np.empty(len(wanted), v.dtype) for k, v in known.items()}
            columns = {k: column for k, column in columns.items() if k in known}
            for name, column in columns.items():
                column[rows] = known[name][there]
        return LensBatch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(wanted % len(self.class_names)),
            parameters=KeptParameters(columns or {}, lambda: self.maker.parameters(wanted)),
            class_names=self.class_names,
            attributes=self.attributes,
        )

    def prepare(self, numbers: np.ndarray | range) -> Iterator[int]:
        """Makes and stores the images of these numbers; yields how many more are there, file by file.

        Raises:
            InputError: They cannot be stored; says why.
        """
        wanted = np.asarray(numbers, dtype=np.int64) // SHARD_IMAGES
        for shard, n in zip(*np.unique(wanted, return_counts=True)):
            if self._shard(int(shard)) is None:
                why = self._full or f"{self.folder}: files are removed as they are written"
                raise InputError(f"not all of these images can be stored: {why}")
            yield int(n)

    def n_missing(self, numbers: np.ndarray | range) -> int:
        """Returns how many images would be made for these numbers: whole files of them."""
        shards = np.unique(np.asarray(numbers, dtype=np.int64) // SHARD_IMAGES).tolist()
        folders = (self.folder, *self._others)
        missing = [s for s in shards if not any((f / _shard_name(s)).exists() for f in folders)]
        return SHARD_IMAGES * len(missing)

    @property
    def bytes_per_value(self) -> int:
        """Of a stored pixel; images without noise keep all their digits."""
        return 2 if self.maker.has_noise else 4

    def _shard(self, shard: int) -> np.ndarray | None:
        """Returns the stored images (N, C, H, W) of a file, which is made if missing; None if there is no room."""
        if shard in self._known:
            with contextlib.suppress(OSError, ValueError):  # gone meanwhile: it is looked for again
                return self._known[shard].images()
        name = _shard_name(shard)
        for folder in (self.folder, *self._others):
            if (found := self._read(folder / name)) is not None:
                break
        else:
            found = self._made(shard, self.folder / name)
        if found is None:
            return None
        self._known[shard] = found
        return found.images()

    def _read(self, path: Path) -> "_Stored | None":
        """Returns where the images of a file lie; None if there is none, or it is not what it should be."""
        if not path.exists():
            return None
        try:
            with open_hdf5(path) as file, damage_named(path):
                shape = (SHARD_IMAGES, *checked_images(path, file))
                images = file["images"]
                offset, dtype, n = images.id.get_offset(), images.dtype, len(images)
                parameters = {
                    name: column[:]
                    for name, column in file["parameters"].items()
                    if getattr(column, "shape", ()) == (SHARD_IMAGES,) and column.dtype.kind in "fi"
                }
            if offset is None or n != SHARD_IMAGES:
                raise InputError(
                    f"{path}: holds something else than {SHARD_IMAGES} prepared images"
                )
            found = _Stored(path, dtype, offset, shape, parameters)
            found.images()
        except (InputError, ValueError) as error:
            warnings.warn(f"{error}; made anew", InputWarning, stacklevel=2)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except OSError:  # gone meanwhile
            return None
        channels, *size = self.image_shape
        return found if shape[1] >= channels and list(shape[2:]) == size else None

    def _made(self, shard: int, path: Path) -> "_Stored | None":
        """Makes the images of a file and stores them, or waits for a process that does."""
        if self._full:
            return None
        from filelock import FileLock  # comes with torch

        self._begin()
        with FileLock(self.folder / f"{shard % _LOCKS:02d}.lock"):
            if not path.exists():
                if not self._room():
                    return None
                self._store(shard, path)
        return self._read(path)

    def _store(self, shard: int, path: Path) -> None:
        batch = self.maker.batch(np.arange(shard * SHARD_IMAGES, (shard + 1) * SHARD_IMAGES))
        images = batch.images.cpu()
        fits = images.abs().max().item() <= np.finfo(np.float16).max
        small = fits and self.maker.has_noise
        attributes = {**self.attributes, "prepared": _described(self.maker)}
        with DatasetWriter(
            path,
            n=SHARD_IMAGES,
            image_shape=self.image_shape,
            class_names=self.class_names,
            attributes=attributes,
            overwrite=True,
            dtype="float16" if small else "float32",
        ) as writer:
            writer.write(batch)

    def _room(self) -> bool:
        """Returns whether one more file may be written, after others have made room."""
        need = SHARD_IMAGES * int(np.prod(self.image_shape)) * self.bytes_per_value
        while _size(self.root) + need > self.limit:
            others = [p for p in self.root.iterdir() if (p / _DESCRIPTION).exists()]
            # A run reads several kinds (training, validation, test): none of them makes room for another.
            open_here = {kind for each in _OPEN for kind in (each.folder, *each._others)}
            others = [p for p in others if p not in open_here]
            if not others:
                return self._give_up(f"{self.root} may hold {self.limit / 1e9:g} GB (prepared_gb)")
            oldest = min(others, key=_used)
            shutil.rmtree(oldest, ignore_errors=True)
            if oldest.exists():
                return self._give_up(f"{oldest}: cannot be removed to make room")
        free = shutil.disk_usage(self.root).free
        if free - need < LEAST_FREE:
            return self._give_up(f"{self.root}: only {free / 1e9:.1f} GB of the disk are free")
        return True

    def _give_up(self, why: str) -> bool:
        self._full = why
        warnings.warn(f"{why}: further images are made anew each time", InputWarning, stacklevel=2)
        return False

    def _begin(self) -> None:
        """Makes the folder, with a description for people."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _DESCRIPTION).exists():
                text = json.dumps({**_described(self.maker), "shape": self.image_shape}, indent=1)
                write_text(self.folder / _DESCRIPTION, text + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {reason_of(error)}") from error


_OPEN: "weakref.WeakSet[PreparedImages]" = weakref.WeakSet()
"""Those that are in use in this process."""


def _shard_name(shard: int) -> str:
    return f"{shard:06d}.h5"


def kind_of(maker: Maker) -> str:
    """Returns the name of the folder for a maker's images: the survey's, and a digest of all they depend on."""
    text = json.dumps(_described(maker), sort_keys=True)
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in maker.settings["survey"]["name"])
    return f"{name[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _described(maker: Maker) -> dict[str, Any]:
    return {**maker.settings, "code": code_digest()}


@functools.cache
def code_digest() -> str:
    """Returns a digest of the code that decides the pixels: another means other images, perhaps."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for folder in _CODE:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _size(folder: Path) -> int:
    """Returns the bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _used(folder: Path) -> float:
    """Returns when a kind was used last."""
    try:
        return (folder / _DESCRIPTION).stat().st_mtime
    except OSError:
        return 0.0
