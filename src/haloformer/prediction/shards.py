"""Prediction by shards: in this process, in several of this machine, or on a cluster by Ray."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from haloformer._version import code_version
from haloformer.artefact.read import artefact_files, artefact_folder
from haloformer.data.reader import InputFile, Reading
from haloformer.data.shards import one_gpu_each
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.io.progress import progress_bar
from haloformer.io.shards import Shards, Workers, make_missing_shards
from haloformer.io.tables import Rows, table
from haloformer.io.writing import file_sha256
from haloformer.prediction.cameras import CameraFiles, read_with_cameras
from haloformer.prediction.predictor import Predictor, load
from haloformer.prediction.result import descriptions_of
from haloformer.prediction.rows import (
    SHOWN,
    Kept,
    PredictionSummary,
    empty_summary,
    predicted_rows,
    provenance_of,
)


@dataclass(frozen=True)
class _Settings:
    """What all shards have in common."""

    columns: list[str]
    batch_size: int
    reading: Reading
    on_error: str
    raw: bool
    cameras: CameraFiles


def predict_shards(
    predictor: Predictor,
    sources: list[InputFile],
    path: Path,
    columns: list[str],
    *,
    run: str,
    workers: int | None,
    shard_size: int,
    ray_address: str | None,
    batch_size: int,
    device: str,
    reading: Reading,
    overwrite: bool,
    on_error: str,
    progress: bool | None,
    raw: bool,
    cameras: CameraFiles,
    kept: Kept | None = None,
) -> PredictionSummary:
    """Predicts by shards: the work of :func:`haloformer.predict`, whose arguments these are.

    Args:
        predictor: The model; if other processes do the work, on the CPU.
        sources: The images.
        path: Table to write; a name without a suffix is a folder of ``part-00000.parquet`` ….
        columns: Of the table.
        run: Run folder or artefact folder of the model, or the name of a shipped one.
        workers: Processes; 0 takes all CPUs (or GPUs) of this machine or of the cluster, None is
            this one process.
        shard_size: Images per shard, rounded up to whole batches, as a batch's composition moves
            the last digits.
        ray_address: Of a running Ray cluster, or ``"auto"``; None: processes of this machine.
        batch_size: Images per batch.
        device: ``"cuda"``: every worker takes a GPU; ``"cpu"``; ``"auto"``: as this machine has it.
        reading: How images are read.
        overwrite: Replace finished shards, and those of another configuration.
        on_error: ``"row"`` or ``"stop"``.
        progress: Show a progress bar; by default when standard error is a terminal.
        raw: Flagged images have class and estimates all the same.
        cameras: Where the images' own point-spread functions and noise maps are.
        kept: Gets the table's rows, too.
    """
    target = _device(device, workers, ray_address)
    artefact = artefact_folder(Path(run))
    model = tuple(file_sha256(file) for file in artefact_files(artefact))
    told = [*columns, "error"] if on_error == "skip" else columns
    settings = _Settings(told, batch_size, reading, on_error, raw, cameras)
    merged = path.suffix != ""
    shards = Shards(
        folder=path.with_name(path.name + ".shards") if merged else path,
        suffix=".parquet",
        size=-(-shard_size // batch_size) * batch_size,
        n=sum(source.n for source in sources),
        configuration={
            "what": "predictions",
            "model": list(model),
            "images": _digest(sources),
            "columns": told,
            "batch_size": batch_size,
            **asdict(reading),
            **({"cameras": [cameras.given, cameras.states()]} if cameras.given else {}),
            "on_error": on_error,
            "raw": raw,
            "device": target.type,
            "code_version": code_version(),
        },
    )
    shards.prepare(overwrite)
    parts = _cut(sources, shards.size)
    if workers is None:
        _predict_here(shards, parts, predictor, settings, progress)
    else:
        fixed = (os.fspath(artefact), model, target.type, settings, os.getcwd())
        wanted = ((place, count, (next(parts), *fixed)) for place, _, count in shards.places())
        where = Workers(workers, one_gpu_each(target), ray_address)
        make_missing_shards(_predict_shard, wanted, shards.n, where, "predict", progress)
    summary = empty_summary(path, predictor, raw, on_error)
    merge = functools.partial(
        table,
        path,
        columns,
        overwrite,
        provenance_of(predictor, run),
        descriptions_of(columns, predictor.class_names),
    )
    _gather(shards, summary, merge if merged else None, progress, kept)
    if kept is not None:  # the images of other processes
        few = min(SHOWN, batch_size)
        next(kept.watch(read_with_cameras(predictor, sources, reading, cameras, few)), None)
    return summary


def _device(name: str, workers: int | None, ray_address: str | None) -> torch.device:
    if workers is not None and name not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"device '{name}': with workers it is auto, cpu or cuda, of which each worker takes one"
        )
    if (
        name == "cuda" and ray_address is not None
    ):  # a cluster may have GPUs where this machine has none
        return torch.device("cuda")
    return resolve_device(name)


def _predict_here(
    shards: Shards,
    parts: Iterable[list[InputFile]],
    predictor: Predictor,
    settings: _Settings,
    progress: bool | None,
) -> None:
    """Writes the missing shards in this process."""
    with progress_bar("predict", shards.n, progress) as advance:
        for (place, _, count), part in zip(shards.places(), parts, strict=True):
            if place.exists():
                advance(count)
            else:
                _write_predictions(place, predictor, part, settings, advance)


def _gather(
    shards: Shards,
    summary: PredictionSummary,
    merge: Callable[[], contextlib.AbstractContextManager[Callable[[Rows], None]]] | None,
    progress: bool | None,
    kept: Kept | None,
) -> None:
    """Counts the rows of all shards, and joins them to the table that ``merge`` opens, if given."""
    with contextlib.ExitStack() as stack:
        write = None if merge is None else stack.enter_context(merge())
        label = "count" if merge is None else "merge"
        advance = stack.enter_context(progress_bar(label, shards.n, progress))
        for rows in _read_parts(shards.files()):
            belonging = summary.count(rows)
            if write is not None:
                write(belonging)
            if kept is not None:
                kept.add(belonging)
            advance(len(rows))
        summary.finish()
    if merge is None:
        shards.finish()
    else:
        shards.remove()


def _predict_shard(
    path: Path,
    sources: list[InputFile],
    artefact: str,
    model: tuple[str, ...],
    device: str,
    settings: _Settings,
    folder: str,
) -> None:
    os.chdir(folder)  # names of images are relative to where the user is
    if path.exists():
        return
    torch.set_num_threads(1)
    _write_predictions(path, _loaded(artefact, model, device), sources, settings)


def _write_predictions(
    path: Path,
    predictor: Predictor,
    sources: list[InputFile],
    settings: _Settings,
    advance: Callable[[int], None] | None = None,
) -> None:
    with table(path, settings.columns, overwrite=False) as write:
        for rows in predicted_rows(
            predictor,
            sources,
            settings.batch_size,
            reading=settings.reading,
            on_error=settings.on_error,
            raw=settings.raw,
            cameras=settings.cameras,
        ):
            write(rows)
            if advance is not None:
                advance(len(rows))


@functools.lru_cache(maxsize=1)
def _loaded(artefact: str, model: tuple[str, ...], device: str) -> Predictor:
    """Returns the model, which a worker keeps; its hashes tell models of one folder apart."""
    return load(artefact, device)


def _read_parts(parts: Iterable[Path]) -> Iterator[Rows]:
    import pyarrow.parquet

    for part in parts:
        with pyarrow.parquet.ParquetFile(part) as file:
            for batch in file.iter_batches():
                yield batch.to_pylist()


def _cut(sources: Iterable[InputFile], size: int) -> Iterator[list[InputFile]]:
    """Yields the inputs of each shard: ``size`` images, datasets cut where a shard ends."""
    shard: list[InputFile] = []
    room = size
    for source in sources:
        while source.n:
            taken = replace(source, n=min(source.n, room))
            shard.append(taken)
            room -= taken.n
            source = replace(source, start=source.start + taken.n, n=source.n - taken.n)
            if not room:
                yield shard
                shard, room = [], size
    if shard:
        yield shard


def _digest(sources: Iterable[InputFile]) -> str:
    """Identifies the images by name and number.

    Datasets, cubes and catalogs, which hold many, are identified by size and date as well.
    """
    digest = hashlib.sha256()
    for source in sources:
        description: dict[str, object] = {**asdict(source), "path": os.fsencode(source.path).hex()}
        if source.is_dataset or source.is_stack or source.catalog is not None:
            states = [path.stat() for path in (source.path, source.catalog) if path is not None]
            description |= {"states": [(state.st_size, state.st_mtime_ns) for state in states]}
        digest.update(json.dumps(description, default=str).encode())
    return digest.hexdigest()
