"""Folders of shards: what they are shards of, which of them are finished, and work on the others.

A folder holds the shards, and ``_shards.json`` says what they are shards of. Each is written under
a temporary name and renamed when it is whole, so a shard that is there is finished, whatever
happened: the same call again makes only those that are missing.
"""

import contextlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from haloformer.errors import InputError, reason_of
from haloformer.io import cluster, jobs
from haloformer.io.progress import progress_bar
from haloformer.io.strict_json import read_json
from haloformer.io.writing import write_text

MANIFEST = "_shards.json"
"""Name of the description; Parquet readers that are given the folder pass over names like this."""

_RETRIES = 5  # of a shard whose worker was killed: enough for bad luck, and an end for a bad shard


def shards_hint(folder: Path) -> str:
    """Returns what to do with a folder of shards in place of one file, to follow a message; nothing for other folders."""
    if not (folder / MANIFEST).is_file():
        return ""
    return (
        f"{folder} is a folder of shards, each a file by itself: give one, such as {folder / 'part-00000.h5'}; "
        "`haloformer simulate --out NAME.h5` makes one file of all"
    )


@dataclass(frozen=True)
class Shards:
    """A folder of shards of ``size`` images, the last with what is left of ``n``.

    Attributes:
        folder: Where they are.
        suffix: Of their files, such as ``".h5"``.
        size: Images per shard.
        n: Images in all.
        configuration: JSON-able description of what they are shards of: a folder with another one
            is refused.
    """

    folder: Path
    suffix: str
    size: int
    n: int
    configuration: Mapping[str, object]

    def places(self) -> Iterator[tuple[Path, int, int]]:
        """Yields each shard's file, its first image counted from 0, and its number of images."""
        for i, first in enumerate(range(0, self.n, self.size)):
            yield self.folder / f"part-{i:05d}{self.suffix}", first, min(self.size, self.n - first)

    def files(self) -> list[Path]:
        """Returns each shard's file."""
        return [path for path, _, _ in self.places()]

    def prepare(self, overwrite: bool) -> None:
        """Makes the folder, or checks that what is in it belongs to this configuration.

        Args:
            overwrite: Replace finished shards, and those of another configuration.

        Raises:
            InputError: The folder holds something else, or cannot be written.
        """
        manifest = self.folder / MANIFEST
        if manifest.exists():
            there, mine = read_json(manifest), self._manifest(finished=False)
            keys = [key for key in {**mine, **there} if key != "finished"]
            differences = [key for key in keys if there.get(key) != mine.get(key)]
            if differences and not overwrite:
                shown = "; ".join(
                    f"{key}: {_brief(there, key, mine)} there, {_brief(mine, key, there)} here"
                    for key in differences[:4]
                )
                raise InputError(
                    f"{self.folder}: holds shards of another configuration ({shown}): "
                    "choose another out, or overwrite it (--overwrite; in Python overwrite=True)"
                )
            if not differences and not (overwrite and there.get("finished")):
                return  # goes on where an earlier call ended
            self.remove()
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(
                f"{self.folder}: exists and is no folder of shards ({MANIFEST}): choose another out"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(finished=False)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {reason_of(error)}") from error

    def finish(self) -> None:
        """Writes down that all shards are there; what killed workers have left of some goes."""
        self._write(finished=True)
        for file in self.folder.glob("part-*.part"):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes shards and description, and the folder if nothing else is in it."""
        for file in (*self.folder.glob("part-*"), self.folder / MANIFEST):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _manifest(self, finished: bool) -> dict[str, object]:
        counts = {
            "n": self.n,
            "shard_size": self.size,
            "shards": -(-self.n // self.size),
            "finished": finished,
        }
        return {"format": "haloformer-shards", **self.configuration, **counts}

    def _write(self, finished: bool) -> None:
        write_text(self.folder / MANIFEST, json.dumps(self._manifest(finished), indent=2) + "\n")


@dataclass(frozen=True)
class Workers:
    """Where shards are made.

    Attributes:
        number: Of processes; 0: one for each CPU (or GPU) of this machine or of the cluster.
        gpu: Whether each needs a GPU.
        ray_address: Of a running Ray cluster, or ``"auto"``; None: processes of this machine.
    """

    number: int
    gpu: bool
    ray_address: str | None = None

    def results(
        self,
        work: Callable[..., None],
        tasks: Iterable[tuple[Path, tuple[object, ...]]],
    ) -> Generator[tuple[Path, None], None, None]:
        """Calls ``work(*arguments)`` for each task, and yields its path when it has ended."""
        if self.number < 0:
            raise InputError(f"workers must be 0 or more, not {self.number}")
        if self.ray_address is not None:
            return cluster.results(
                work,
                tasks,
                address=self.ray_address,
                workers=self.number,
                gpu=self.gpu,
                retries=_RETRIES,
            )
        gpus = torch.cuda.device_count() if self.gpu else 0
        number = min(self.number or gpus, gpus) if self.gpu else self.number or _cpus()
        return jobs.results(work, tasks, workers=number, gpus=gpus, retries=_RETRIES)


def make_missing_shards(
    work: Callable[..., None],
    wanted: Iterable[tuple[Path, int, tuple[object, ...]]],
    total: int,
    workers: Workers,
    label: str,
    progress: bool | None,
) -> None:
    """Calls ``work(path, *arguments)`` for each shard that does not exist yet.

    Args:
        work: Writes one shard. A function of a module's top level.
        wanted: Each shard's file, its number of images, and the arguments.
        total: Number of images in all.
        workers: Where it is called.
        label: Of the progress bar.
        progress: Show it; by default when standard error is a terminal.

    Raises:
        InputError: As ``work`` raises it; or the workers of a shard were killed again and again.
    """
    missing: list[tuple[Path, tuple[object, ...]]] = []
    counts: dict[Path, int] = {}
    with progress_bar(label, total, progress) as advance:
        for path, n, arguments in wanted:
            if path.exists():
                advance(n)
            else:
                missing.append((path, (path.absolute(), *arguments)))
                counts[path] = n
        if not missing:
            return
        try:
            with contextlib.closing(workers.results(work, missing)) as ended:
                for path, _ in ended:
                    _check_shared(path)
                    advance(counts[path])
        except jobs.WorkerKilled as error:
            raise InputError(
                f"{error.key}: its worker was killed {error.times} times: fewer workers or a smaller "
                "batch_size need less memory; finished shards are kept"
            ) from error


def check_counts(**counts: int) -> None:
    """Raises InputError for the first of these that is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")


def _check_shared(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"{path}: was written on another machine: all machines of the cluster must share this "
            "folder"
        )


def _cpus() -> int:
    """Returns how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _brief(these: Mapping[str, object], key: str, others: Mapping[str, object]) -> str:
    """Returns what one configuration says of a key; a switch that only the other one has is off."""
    text = repr(these.get(key, False if isinstance(others.get(key), bool) else None))
    return text if len(text) <= 40 else text[:37] + "…"
