"""Simulation of many images by shards: on all cores of this machine, or on a cluster by Ray.

Every image is made by its number, so the shards hold the images that one process would make. What a
worker imports when it starts is kept small: it may take longer than a shard.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from haloformer.data.dataset import LensDataset
from haloformer.data.dataset_writer import DatasetWriter
from haloformer.errors import InputError, exists_already
from haloformer.io.progress import progress_bar
from haloformer.io.shards import Shards, Workers, check_counts, make_missing_shards
from haloformer.simulation import LensBatch, Simulator, describe_survey, iterate
from haloformer.simulation.named_files import file_digests

_DATASETS = (".h5", ".hdf5")
_MERGED_AT_ONCE = 1024  # images in memory


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
    """Simulates images ``start`` … ``start + n − 1`` in several processes.

    They are the images that one process makes.

    Args:
        simulator: What to simulate; on a GPU, every worker takes one.
        out: A name that ends in ``.h5`` or ``.hdf5`` becomes one dataset file, any other a folder
            of ``part-00000.h5`` …, each a dataset file by itself.
        n: Number of images.
        start: Number of the first image.
        batch_size: Images rendered at once.
        workers: Processes; 0 takes all CPUs (or GPUs) of this machine, or of the cluster.
        shard_size: Images per shard.
        ray_address: Of a running Ray cluster, or ``"auto"``; None: processes of this machine.
        overwrite: Replace finished shards, and those of another configuration.
        progress: Show a progress bar; by default when standard error is a terminal.

    Raises:
        InputError: A value out of range, shards of another configuration, no Ray at that address,
            or a shard whose workers were all killed.
    """
    out = Path(out)
    check_counts(n=n, batch_size=batch_size, shard_size=shard_size)
    if start < 0:
        raise InputError(f"start must be at least 0, not {start}")
    merged = out.suffix.lower() in _DATASETS
    if merged and out.exists() and not overwrite:
        raise exists_already(out)
    attributes = simulator.attributes
    provenance = {key: value for key, value in attributes.items() if key != "units"}
    files = file_digests(describe_survey(simulator.survey))
    shards = Shards(
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
            **({"files": files} if files else {}),
        },
    )
    shards.prepare(overwrite)
    wanted = (
        (path, count, (simulator, start + first, count, batch_size))
        for path, first, count in shards.places()
    )
    where = Workers(workers, one_gpu_each(simulator.device), ray_address)
    label = f"simulate {simulator.survey.name}"
    make_missing_shards(_simulate_shard, wanted, n, where, label, progress)
    if not merged:
        shards.finish()
        return
    with progress_bar("merge", n, progress) as advance:
        _merge(shards.files(), out, n, attributes, overwrite, advance)
    shards.remove()


def one_gpu_each(device: torch.device) -> bool:
    """Tells whether each worker needs a GPU.

    Raises InputError for a device that workers cannot share out.
    """
    if device.type == "mps" or device.index is not None:
        raise InputError(
            f"device '{device}': with workers it is cpu or cuda, of which each worker takes one"
        )
    return device.type == "cuda"


def _simulate_shard(path: Path, simulator: Simulator, start: int, n: int, batch_size: int) -> None:
    if path.exists():  # made by a worker that was killed before it could report
        return
    torch.set_num_threads(1)
    simulator.threads = 1
    with DatasetWriter(
        path,
        n=n,
        image_shape=simulator.image_shape,
        class_names=simulator.class_names,
        attributes=simulator.attributes,
        calibration=simulator.calibration,
    ) as writer:
        for batch in iterate(simulator, n, start=start, batch_size=batch_size):
            writer.write(batch)


def _merge(
    parts: Sequence[Path],
    out: Path,
    n: int,
    attributes: Mapping[str, object],
    overwrite: bool,
    advance: Callable[[int], None],
) -> None:
    """Copies the images of all shards into one dataset file."""
    with LensDataset(parts[0]) as first:
        writer = DatasetWriter(
            out,
            n=n,
            image_shape=first.image_shape,
            class_names=first.class_names,
            attributes=attributes,
            calibration=first.calibration,
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
                    labels = torch.from_numpy(shard.labels[rows])
                    writer.write(LensBatch(images, labels, some, shard.class_names))
                    advance(rows.stop - rows.start)
