"""Simulation and prediction of more images than one process should do: by shards, on all cores or on a cluster, by Ray.

A folder holds the shards, and ``_shards.json`` says what they are shards of. Each is written beside its place and renamed when it is
whole, so what is there is finished, whatever happened: the same call again makes only what is missing. A worker that is killed is
replaced, and as every image is made by its number and every batch is the same as one process would make, so is the output.

A worker imports this module when it starts: what only predictions need is imported where they do, as it takes longer than a shard may.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from haloformer._version import code_version
from haloformer.data.store import DatasetWriter, LensDataset
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.io.progress import progress_bar
from haloformer.io.tables import Rows, table
from haloformer.simulation import LensBatch, Simulator, iterate

if TYPE_CHECKING:
    from haloformer.data.reader import InputFile, Reading
    from haloformer.prediction.predictor import Predictor
    from haloformer.prediction.rows import PredictionSummary

MANIFEST = "_shards.json"  # Parquet readers that are given the folder pass over names like this

_DATASETS = (".h5", ".hdf5")
_RETRIES = (
    5  # of a shard whose worker was killed; one that kills every worker must not go on for ever
)
_MERGED_AT_ONCE = 1024
_PATIENCE = 10  # seconds in which a cluster must answer
_OBJECT_STORE_BYTES = 2**27  # nothing large passes through it: shards go to the disk


def simulate_shards(
    simulator: Simulator,
    out: str | Path,
    *,
    n: int,
    start: int = 0,
    batch_size: int = 256,
    workers: int = 0,
    shard_size: int = 8192,
    ray_address: str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Simulates images ``start`` … ``start + n − 1`` in several processes: the same images as one process makes.

    Args:
        simulator: What to simulate; on a GPU, every worker takes one.
        out: A name that ends in ``.h5`` or ``.hdf5`` becomes one dataset file, any other a folder of ``part-00000.h5`` …, each a
            dataset file by itself.
        n: Number of images.
        start: Number of the first image.
        batch_size: Images rendered at once.
        workers: Processes; 0 takes all CPUs (or GPUs) that Ray has.
        shard_size: Images per shard.
        ray_address: Of a running cluster, or ``"auto"``; None starts Ray on this machine, unless the caller has done so.
        overwrite: Replace what is finished, or of another configuration.
        progress: Show a progress bar; by default when standard error is a terminal.

    Raises:
        InputError: A value out of range, shards of another configuration, Ray is missing, or a shard whose workers all died.
    """
    out = Path(out)
    _check_counts(n=n, batch_size=batch_size, shard_size=shard_size)
    if start < 0:
        raise InputError(f"start must be at least 0, not {start}")
    merged = out.suffix.lower() in _DATASETS
    if merged and out.exists() and not overwrite:
        raise InputError(
            f"{out} exists already; choose another name or ask for it to be overwritten"
        )
    attributes = simulator.attributes
    provenance = {key: value for key, value in attributes.items() if key != "units"}
    shards = _Shards(
        folder=out.with_name(out.name + ".shards") if merged else out,
        suffix=".h5",
        size=shard_size,
        n=n,
        configuration={
            "what": "simulation",
            **provenance,
            "class_names": list(simulator.class_names),
            "device": simulator.device.type,
            "start": start,
        },
    )
    shards.prepare(overwrite)
    jobs = (
        (path, count, (simulator, start + first, count, batch_size))
        for path, first, count in shards.places()
    )
    cluster = _Cluster(workers, _on_gpu(simulator.device), ray_address)
    _carry_out(_simulate_shard, jobs, n, cluster, f"simulate {simulator.survey.name}", progress)
    if merged:
        with progress_bar("merge", n, progress) as advance:
            _merge_datasets(
                [path for path, _, _ in shards.places()], out, n, attributes, overwrite, advance
            )
        shards.remove()
    else:
        shards.finish()


def predict_shards(
    predictor: "Predictor",
    sources: "list[InputFile]",
    path: Path,
    columns: list[str],
    *,
    run: str,
    workers: int | None,
    shard_size: int,
    ray_address: str | None,
    batch_size: int,
    device: str,
    reading: "Reading",
    overwrite: bool,
    on_error: str,
    progress: bool | None,
) -> "PredictionSummary":
    """Predicts by shards, in several processes or in this one: the work of :func:`haloformer.predict`, whose arguments these are.

    Args:
        predictor: The model; if other processes do the work, on the CPU.
        sources: The images.
        path: Table to write; a name without a suffix is a folder of ``part-00000.parquet`` ….
        columns: Of the table.
        run: Run folder or artefact folder of the model, or the name of a shipped one.
        workers: Processes; 0 takes all CPUs (or GPUs) that Ray has, None is this one process, without Ray.
        shard_size: Images per shard, rounded up to whole batches, as a batch's composition moves the last digits.
        ray_address: Of a running cluster, or ``"auto"``; None starts Ray on this machine, unless the caller has done so.
        batch_size: Images per batch.
        device: ``"cuda"``: every worker takes a GPU; ``"cpu"``; ``"auto"``: as this machine has it.
        reading: How images are read.
        overwrite: Replace what is finished, or of another configuration.
        on_error: ``"row"`` or ``"stop"``.
        progress: Show a progress bar; by default when standard error is a terminal.
    """
    from haloformer.artefact.read import artefact_files, artefact_folder
    from haloformer.io.writing import file_sha256
    from haloformer.prediction.rows import empty_summary

    if workers is not None and device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"device '{device}': with workers it is auto, cpu or cuda, of which each worker takes one"
        )
    # A cluster may have GPUs where this machine has none.
    target = (
        torch.device("cuda")
        if device == "cuda" and ray_address is not None
        else resolve_device(device)
    )
    merged = path.suffix != ""
    artefact = artefact_folder(Path(run))
    model = [file_sha256(file) for file in artefact_files(artefact)]
    shards = _Shards(
        folder=path.with_name(path.name + ".shards") if merged else path,
        suffix=".parquet",
        size=-(-shard_size // batch_size) * batch_size,
        n=sum(source.n for source in sources),
        configuration={
            "what": "predictions",
            "model": model,
            "images": _digest(sources),
            "columns": columns,
            "batch_size": batch_size,
            **asdict(reading),
            "on_error": on_error,
            "device": target.type,
            "code_version": code_version(),
        },
    )
    shards.prepare(overwrite)
    options: dict[str, Any] = {
        "columns": columns,
        "batch_size": batch_size,
        "reading": reading,
        "on_error": on_error,
    }
    parts = _cut(sources, shards.size)
    if workers is None:
        with progress_bar("predict", shards.n, progress) as advance:
            for (place, _, count), part in zip(shards.places(), parts, strict=True):
                if place.exists():
                    advance(count)
                else:
                    _write_predictions(place, predictor, part, **options, advance=advance)
    else:
        fixed = (os.fspath(artefact), tuple(model), target.type, options, os.getcwd())
        jobs = ((place, count, (next(parts), *fixed)) for place, _, count in shards.places())
        cluster = _Cluster(workers, _on_gpu(target), ray_address)
        _carry_out(_predict_shard, jobs, shards.n, cluster, "predict", progress)

    summary = empty_summary(path, predictor)
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(table(path, columns, overwrite)) if merged else None
        advance = stack.enter_context(
            progress_bar("merge" if merged else "count", shards.n, progress)
        )
        for rows in _read_parts([place for place, _, _ in shards.places()]):
            if write is not None:
                write(rows)
            summary.count(rows)
            advance(len(rows))
    if merged:
        shards.remove()
    else:
        shards.finish()
    return summary


# --- the folder of shards ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shards:
    """A folder of shards of ``size`` images, the last with what is left of ``n``."""

    folder: Path
    suffix: str
    size: int
    n: int
    configuration: dict[str, Any]

    def places(self) -> Iterator[tuple[Path, int, int]]:
        """Yields each shard's file, its first image counted from 0, and its number of images."""
        for i, first in enumerate(range(0, self.n, self.size)):
            yield self.folder / f"part-{i:05d}{self.suffix}", first, min(self.size, self.n - first)

    def prepare(self, overwrite: bool) -> None:
        """Makes the folder, or checks that what is in it belongs to this configuration."""
        manifest = self.folder / MANIFEST
        if manifest.exists():
            from haloformer.io.strict_json import read_json

            there, mine = read_json(manifest), self._manifest(finished=False)
            differences = [key for key in mine if key != "finished" and there.get(key) != mine[key]]
            if differences and not overwrite:
                shown = "; ".join(f"{key}: {_brief(there.get(key))} there, {_brief(mine[key])} here" for key in differences[:4])  # fmt: skip
                raise InputError(
                    f"{self.folder}: holds shards of another configuration ({shown}): choose another out, or overwrite it"
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
            raise InputError(f"{self.folder}: cannot be written: {error.strerror}") from error

    def finish(self) -> None:
        """Says that all shards are there."""
        self._write(finished=True)

    def remove(self) -> None:
        """Removes what this module has written, and the folder if nothing else is in it."""
        for file in (*self.folder.glob("part-*"), self.folder / MANIFEST):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _manifest(self, finished: bool) -> dict[str, Any]:
        counts = {
            "n": self.n,
            "shard_size": self.size,
            "shards": -(-self.n // self.size),
            "finished": finished,
        }
        return {"format": "haloformer-shards", **self.configuration, **counts}

    def _write(self, finished: bool) -> None:
        from haloformer.io.writing import write_text

        write_text(self.folder / MANIFEST, json.dumps(self._manifest(finished), indent=2) + "\n")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")


# --- what a worker does -----------------------------------------------------------------------------------------------


def _simulate_shard(path: Path, simulator: Simulator, start: int, n: int, batch_size: int) -> None:
    if path.exists():  # by a worker that was killed before it could say so
        return
    torch.set_num_threads(1)
    simulator.threads = 1
    with DatasetWriter(
        path,
        n=n,
        image_shape=simulator.image_shape,
        class_names=simulator.class_names,
        attributes=simulator.attributes,
    ) as writer:
        for batch in iterate(simulator, n, start=start, batch_size=batch_size):
            writer.write(batch)


def _predict_shard(
    path: Path,
    sources: "list[InputFile]",
    artefact: str,
    model: tuple[str, ...],
    device: str,
    options: dict[str, Any],
    folder: str,
) -> None:
    os.chdir(folder)  # names of images are relative to where the user is
    if path.exists():
        return
    torch.set_num_threads(1)
    _write_predictions(path, _loaded(artefact, model, device), sources, **options)


def _write_predictions(
    path: Path,
    predictor: "Predictor",
    sources: "list[InputFile]",
    *,
    columns: list[str],
    batch_size: int,
    reading: "Reading",
    on_error: str,
    advance: Callable[[int], None] | None = None,
) -> None:
    from haloformer.prediction.rows import predicted_rows

    with table(path, columns, overwrite=False) as write:
        for rows in predicted_rows(
            predictor, sources, batch_size, reading=reading, on_error=on_error
        ):
            write(rows)
            if advance is not None:
                advance(len(rows))


@functools.lru_cache(maxsize=1)
def _loaded(artefact: str, model: tuple[str, ...], device: str) -> "Predictor":
    """The model, kept by a worker from shard to shard; its hashes tell it from another in the same folder."""
    from haloformer.prediction.predictor import load

    return load(artefact, device)


def _on_gpu(device: torch.device) -> bool:
    if device.type == "mps" or device.index is not None:
        raise InputError(
            f"device '{device}': with workers it is cpu or cuda, of which each worker takes one"
        )
    return device.type == "cuda"


# --- Ray --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cluster:
    """How many workers, whether each needs a GPU, and where Ray is."""

    workers: int
    gpu: bool
    address: str | None

    @contextlib.contextmanager
    def connected(self) -> Iterator[tuple[Any, int]]:
        """Yields Ray's module and the number of workers."""
        if self.workers < 0:
            raise InputError(f"workers must be 0 or more, not {self.workers}")
        try:
            import ray
        except ImportError as error:
            raise InputError("workers need ray: pip install 'haloformer[scale]'") from error
        ours = not ray.is_initialized()
        before = signal.getsignal(signal.SIGTERM)  # which Ray makes its own
        if ours:
            self._start(ray)
        try:
            there = int(ray.cluster_resources().get("GPU" if self.gpu else "CPU", 0))
            if there < 1:
                raise InputError(f"Ray has no {'GPU' if self.gpu else 'CPU'} to offer")
            yield ray, self.workers or there
        finally:
            if ours:
                ray.shutdown()
                with contextlib.suppress(
                    ValueError, TypeError
                ):  # only the main thread may, and only there Ray has
                    signal.signal(signal.SIGTERM, before)

    def _start(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
        )  # spares a warning on machines without GPU
        options: dict[str, Any] = {"address": self.address}
        if self.address is None:
            options = {
                "address": "local",  # whatever RAY_ADDRESS says
                "num_cpus": self.workers or None,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
            }
        else:
            _check_answers(self.address)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = "on this machine" if self.address is None else f"at {self.address}"
            text = " ".join(str(error).split())[:200]
            raise InputError(f"Ray does not answer {where}: {text}") from error


def _check_answers(address: str) -> None:
    """Asks a cluster's door once: Ray itself would knock for many minutes, and report every knock."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at '{address}' ({error}): HOST:PORT or auto is needed"
        ) from error


def _carry_out(
    work: Callable[..., None],
    jobs: Iterable[tuple[Path, int, tuple[Any, ...]]],
    total: int,
    cluster: _Cluster,
    label: str,
    progress: bool | None,
) -> None:
    """Calls ``work(path, *arguments)`` for every (path, images, arguments) whose path does not exist yet."""
    missing = []
    with progress_bar(label, total, progress) as advance:
        for path, n, arguments in jobs:
            if path.exists():
                advance(n)
            else:
                missing.append((path.absolute(), n, arguments))
        if not missing:
            return
        with cluster.connected() as (ray, workers):
            remote = ray.remote(work).options(
                num_cpus=1, num_gpus=int(cluster.gpu), max_retries=_RETRIES
            )
            running: dict[Any, tuple[Path, int]] = {}
            try:
                for path, n, arguments in missing:
                    if len(running) >= workers:
                        _wait(ray, running, advance)
                    running[remote.remote(path, *arguments)] = path, n
                while running:
                    _wait(ray, running, advance)
            except BaseException:
                for reference in running:
                    ray.cancel(reference, force=True)
                raise


def _wait(ray: Any, running: dict[Any, tuple[Path, int]], advance: Callable[[int], None]) -> None:
    """Waits for a shard, and says in one line why it failed if it did."""
    (reference,), _ = ray.wait(list(running), num_returns=1)
    path, n = running.pop(reference)
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"{path}: its worker was killed {_RETRIES + 1} times, the last time by {type(error).__name__}: fewer workers or a smaller "
            "batch_size need less memory; finished shards are kept"
        ) from error
    if not path.exists():
        raise InputError(
            f"{path}: was written on another machine: all machines of the cluster must share this folder"
        )
    advance(n)


# --- joining shards ---------------------------------------------------------------------------------------------------


def _merge_datasets(
    parts: Sequence[Path],
    out: Path,
    n: int,
    attributes: dict[str, Any],
    overwrite: bool,
    advance: Callable[[int], None],
) -> None:
    with LensDataset(parts[0]) as first:
        writer = DatasetWriter(
            out,
            n=n,
            image_shape=first.image_shape,
            class_names=first.class_names,
            attributes=attributes,
            overwrite=overwrite,
        )
    with writer:
        for path in parts:
            with LensDataset(path) as shard:
                parameters = {name: shard.parameters(name) for name in shard.parameter_names}
                for start in range(0, len(shard), _MERGED_AT_ONCE):
                    rows = slice(start, min(start + _MERGED_AT_ONCE, len(shard)))
                    some = {name: values[rows] for name, values in parameters.items()}
                    images = shard.images_at(range(rows.start, rows.stop))
                    writer.write(
                        LensBatch(
                            images, torch.from_numpy(shard.labels[rows]), some, shard.class_names
                        )
                    )
                    advance(rows.stop - rows.start)


def _read_parts(parts: Iterable[Path]) -> Iterator[Rows]:
    import pyarrow.parquet

    for part in parts:
        with pyarrow.parquet.ParquetFile(part) as file:
            for batch in file.iter_batches():
                yield batch.to_pylist()


def _cut(sources: "Iterable[InputFile]", size: int) -> "Iterator[list[InputFile]]":
    """Yields the sources of each shard: ``size`` images, datasets cut where a shard ends."""
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


def _digest(sources: "Iterable[InputFile]") -> str:
    """Identifies the images by name and number; datasets, cubes and catalogs, which hold many, also by their size and date."""
    digest = hashlib.sha256()
    for source in sources:
        description: dict[str, Any] = {**asdict(source), "path": os.fsencode(source.path).hex()}
        if source.is_dataset or source.is_stack or source.catalog is not None:
            states = [path.stat() for path in (source.path, source.catalog) if path is not None]
            description |= {"states": [(state.st_size, state.st_mtime_ns) for state in states]}
        digest.update(json.dumps(description, default=str).encode())
    return digest.hexdigest()
