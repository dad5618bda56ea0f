"""``haloformer simulate``."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from haloformer.cli.present import say
from haloformer.cli.registry import Command
from haloformer.errors import InputError, InputWarning

if TYPE_CHECKING:
    from haloformer.cli.planning import Plan
    from haloformer.simulation import LensBatch, Simulator

_SHARD = 8192  # images


@dataclass(frozen=True)
class Simulated:
    """What was simulated.

    Attributes:
        out: File or folder that was written.
        n: Images.
        survey: Name of the survey.
        classes: Names of the classes.
        image_shape: (C, H, W).
        seed: Of all random draws.
        start: Number of the first image.
        seconds: That it took.
    """

    out: str
    n: int
    survey: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    seed: int
    start: int
    seconds: float


def present(done: Simulated) -> None:
    """Prints what was written, and how fast."""
    images = f"{done.n} images of {done.survey} ({', '.join(done.classes)})"
    speed = done.n / done.seconds
    say(f"wrote {images} to {done.out}: {speed:{'.0f' if speed >= 10 else '.2g'}} images/s")


COMMAND = Command(
    "simulate lenses of a survey into a dataset file",
    positional=("survey",),
    present=present,
    dry_run=True,
    examples=(
        "haloformer simulate model_ii --n 3000 --seed 1 --out train.h5",
        "haloformer simulate model_i --classes axion,no_sub --noise instrument --out two.h5",
        "haloformer simulate model_iii --n 900 --format deeplense --out Model_III",
        "haloformer simulate hst --n 6 --noise instrument --format fits --out cutouts",
        "haloformer simulate hst --n 300 --paired --out triplets.h5",
        "haloformer simulate model_ii --n 1000000 --workers 8 --out million.h5",
    ),
)


def simulate(
    survey: str,
    out: str,
    *,
    n: int = 3000,
    seed: int = 0,
    start: int = 0,
    classes: list[str] | str | None = None,
    noise: Literal["original", "instrument", "none"] = "original",
    paired: bool = False,
    format: Literal["hdf5", "deeplense", "fits"] = "hdf5",
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "cpu",
    backend: Literal["auto", "numba", "torch", "lenstronomy"] = "auto",
    batch_size: int = 256,
    workers: int = 0,
    shard_size: int = _SHARD,
    ray_address: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Simulated:
    """Simulates lenses and writes them, with their class and all physical parameters, to one file.

    Image k of (survey, seed) is always the same, so a dataset can be made in parts with --start.
    With --workers many processes make the same images as one would, shard by shard; the same
    command again makes only the shards that are missing.

    Args:
        survey: Its name (model_i, hst …: `haloformer surveys` lists them), or a YAML file that describes a survey of your own.
        out: File to write (folder, for the formats deeplense and fits). It must not exist. With workers: a
            name that ends in .h5 is one file in the end, any other a folder of shards, each a
            dataset file.
        n: Number of images in all, balanced over the classes.
        seed: Seed of all random draws: another seed gives other, independent images.
        start: Number of the first image.
        classes: Classes to simulate, such as cdm,no_sub; all of the survey's by default.
        noise: original: as the survey was released; instrument: the camera's own, in counts/s;
            none.
        paired: One image of each class in turn of the same lens, source and noise, so that only the dark matter
            differs; for surveys whose lenses vary. Trainings keep such images together when they split a file.
        format: hdf5: one self-describing file; deeplense: the original folders of .npy files; fits: the
            same folders of FITS cutouts, each with its PSF, as fit, predict and inspect take them.
        dtype: Precision of the computation; files hold float32.
        device: Where to render: cpu, cuda, cuda:1.
        backend: numba: compiled CPU kernel; torch: any device; lenstronomy: that package, slowly,
            to check ours.
        batch_size: Images rendered at once; changes memory and speed only.
        workers: Processes that share the images, one CPU (or one GPU) each; 0: this process
            does it alone.
        shard_size: With workers: images per shard.
        ray_address: Of a running Ray cluster, or auto: its machines share the images.
        overwrite: Replace an existing file.
        quiet: Print nothing but warnings and errors.
    """
    _check_format(format, out, workers, ray_address)
    if shard_size != _SHARD and not workers and ray_address is None:
        warnings.warn(
            "--shard_size is of several processes: without --workers it changes nothing",
            InputWarning,
            stacklevel=2,
        )
    simulator = simulator_of(
        survey,
        classes=classes,
        seed=seed,
        noise=noise,
        paired=paired,
        dtype=dtype,
        device=device,
        backend=backend,
    )
    began = time.perf_counter()
    if workers or ray_address is not None:
        from haloformer.data.shards import simulate_shards

        simulate_shards(
            simulator, out, n=n, start=start, batch_size=batch_size, workers=workers, shard_size=shard_size,
            ray_address=ray_address, overwrite=overwrite, progress=False if quiet else None,
        )  # fmt: skip
    else:
        _simulate_alone(simulator, out, n, start, format, batch_size, overwrite, quiet)
    names, shape = tuple(simulator.class_names), tuple(simulator.image_shape)
    seconds = time.perf_counter() - began
    return Simulated(out, n, simulator.survey.name, names, shape, seed, start, seconds)


def plan(survey: str, out: str, **options: Any) -> "Plan":
    """Plans the command, with its options; see :mod:`haloformer.cli.planning`."""
    from haloformer.cli.planning import Plan, by, cores, existing, seconds_each
    from haloformer.data import DatasetWriter
    from haloformer.data.dataset_writer import check_free_space
    from haloformer.data.deeplense import refuse_existing_folder
    from haloformer.io.shards import check_counts

    n, workers, overwrite = options["n"], options["workers"], options["overwrite"]
    apart = bool(workers) or options["ray_address"] is not None
    _check_format(options["format"], out, workers, options["ray_address"])
    kept = ("classes", "seed", "noise", "paired", "dtype", "device", "backend")
    simulator = simulator_of(survey, **{key: options[key] for key in kept})
    check_counts(n=n, batch_size=options["batch_size"], shard_size=options["shard_size"])
    if options["start"] < 0:
        raise InputError(f"start must be at least 0, not {options['start']}")
    shape, target = simulator.image_shape, Path(out)
    n_bytes = n * math.prod(shape) * 4
    if options["format"] in _FOLDERS:
        refuse_existing_folder(target, overwrite)
    elif not apart or target.suffix:
        names = simulator.class_names
        DatasetWriter(out, n=n, image_shape=shape, class_names=names, overwrite=overwrite)
    check_free_space(existing(target) / target.name, n_bytes * (2 if apart else 1))
    processes = min(max(1, workers), cores())
    if apart:
        simulator.threads = 1
    each, measured = seconds_each(simulator.batch)
    facts = {
        "images": f"{n:,} of {simulator.survey.name}, {by(shape)}",
        "classes": ", ".join(simulator.class_names),
        "speed": f"about {processes / each:.0f} images/s",
    }
    notes = ["Processes need some seconds to start, which were not counted."] if apart else []
    what = f"simulate {n:,} images"
    return Plan(what, facts, n * each / processes, n_bytes, out, measured, notes)


_FOLDERS = ("deeplense", "fits")


def _check_format(format: str, out: str, workers: int, ray_address: str | None) -> None:
    """Refuses a name that says another format than what is written."""
    from haloformer.io.tables import TABLE_SUFFIXES
    from haloformer.readers.archives import ARCHIVE_SUFFIXES
    from haloformer.readers.images import FITS_SUFFIXES, SUFFIXES, image_suffix
    from haloformer.readers.reading import DATASET_SUFFIXES

    if format in _FOLDERS and (workers or ray_address is not None):
        raise InputError(f"--workers writes the format hdf5, not {format}")
    suffix = image_suffix(Path(out).name)
    others = (*SUFFIXES, *ARCHIVE_SUFFIXES, *TABLE_SUFFIXES)
    if format in _FOLDERS and suffix in (*others, *DATASET_SUFFIXES):
        raise InputError(
            f"{out}: the format {format} is a folder of files: give it a name without {suffix}"
        )
    if suffix in others:
        fits = suffix in FITS_SUFFIXES
        instead = "FITS cutouts --format fits" if fits else "folders of .npy files --format deeplense"  # fmt: skip
        raise InputError(
            f"{out}: what is written is HDF5: give a name that ends in .h5, or for {instead} and a folder"
        )


def simulator_of(
    survey: str, *, classes: list[str] | str | None, dtype: str, **options: Any
) -> "Simulator":
    """Returns the simulator that the command's options name."""
    import torch

    from haloformer.simulation import Simulator

    names = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else classes
    return Simulator(survey, classes=names, dtype=getattr(torch, dtype), **options)


def _simulate_alone(
    simulator: "Simulator",
    out: str,
    n: int,
    start: int,
    format: str,
    batch_size: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Simulates in this process."""
    from haloformer.data import DatasetWriter, write_deeplense_folder, write_fits_folder
    from haloformer.io.progress import progress_bar
    from haloformer.simulation import iterate
    from haloformer.simulation.psf import rays_per_pixel

    label, names = f"simulate {simulator.survey.name}", simulator.class_names
    with progress_bar(label, n, False if quiet else None) as advance:
        batches = _counted(iterate(simulator, n, start=start, batch_size=batch_size), advance)
        if format == "deeplense":
            write_deeplense_folder(batches, out, class_names=names, n=n, overwrite=overwrite)
            return
        if format == "fits":
            camera = simulator.survey.instrument
            write_fits_folder(
                batches, out, class_names=names, attributes=simulator.attributes, psf=simulator.calibration["psf"],
                noise_map=simulator.calibration.get("noise_map"),
                psf_scale=camera.pixel_scale / rays_per_pixel(camera), n=n, overwrite=overwrite,
            )  # fmt: skip
            return
        writer = DatasetWriter(
            out,
            n=n,
            image_shape=simulator.image_shape,
            class_names=names,
            attributes=simulator.attributes,
            calibration=simulator.calibration,
            overwrite=overwrite,
        )
        with writer:
            for batch in batches:
                writer.write(batch)


def _counted(
    batches: "Iterator[LensBatch]", advance: Callable[[int], None]
) -> "Iterator[LensBatch]":
    """Yields the batches, and moves the progress bar when each was written."""
    for batch in batches:
        yield batch
        advance(len(batch.labels))
