"""``haloformer inspect``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haloformer.cli.present import print_table, print_warnings, rounded, say
from haloformer.cli.registry import Command
from haloformer.errors import InputError, exists_already

_LIMIT = 60  # rows of a table
_DRAWN = 24  # images of a folder


def present(found: Mapping[str, Any]) -> None:
    """Prints what a file holds as tables."""
    if "images" in found:
        _print_image(found)
        if found.get("figure") is not None:
            say(f"drew {found['figure']}")
        return
    _print_summary(found["path"], found)
    if found.get("figure") is not None:
        say(f"drew {found['figure']}")


COMMAND = Command(
    "show the content of a dataset or image file, as tables and as a figure",
    positional=("data",),
    present=present,
    text=True,
    examples=(
        "haloformer inspect train.h5",
        "haloformer inspect train.h5 --figure samples.png",
        "haloformer inspect cutout.fits --figure cutout.png",
        "haloformer inspect cutouts/",
    ),
)


def inspect(
    data: str,
    *,
    figure: str | None = None,
    per_class: int = 6,
    seed: int = 0,
    overwrite: bool = False,
) -> Mapping[str, Any]:
    """Shows the content of a dataset file (classes, pixel statistics, parameters, provenance), or of an image file.

    Of an image it shows the extensions, which of them is read by default, pixels, pixel scale, and what is unusual.

    Args:
        data: Dataset file (.h5), or what convert makes one of: class folders, archives, .npz; or a file of
            one image or more (.fits, .npy, .npz, .png, .jpg, .tiff), or a folder of such files.
        figure: Also draw sample images of each class, or the image, or the first of the folder, to this file (.png, .svg, .pdf).
        per_class: Images per class in the figure.
        seed: Seed that chooses the images of the figure.
        overwrite: Replace an existing figure.
    """
    from haloformer.data import inspect as inspection
    from haloformer.data.conversion import open_labelled
    from haloformer.readers.images import is_image_name

    path = Path(data)
    if figure is not None:
        inspection.check_figure(Path(figure))
        if Path(figure).exists() and not overwrite:
            raise exists_already(figure)
    if is_image_name(data) and not path.is_dir() and not _is_labelled(path):
        return _of_images(data, [path], figure)
    if path.is_dir() and (files := _without_classes(path)):
        return _of_images(data, files, figure)
    _check_kind(path)
    with open_labelled(data)[0] as dataset:
        summary = {**inspection.summarise(dataset), "path": data}
        if figure is not None:
            name = Path(data).name
            inspection.figure(dataset, figure, per_class=per_class, seed=seed, title=name)
    return summary if figure is None else {**summary, "figure": figure}


def _is_labelled(path: Path) -> bool:
    """Tells whether a file is a ``.npz`` of images with their labels, which is a dataset."""
    from haloformer.readers.images import image_suffix
    from haloformer.readers.npz import npz_shapes

    return (
        image_suffix(path.name) == ".npz"
        and path.is_file()
        and "labels" in npz_shapes(path, str(path))
    )


def _of_images(data: str, files: list[Path], figure: str | None) -> dict[str, Any]:
    """Describes one image file, or those of a folder, and draws the first of them."""
    from haloformer.data.inspect_image import describe_folder, describe_image, figure_of_images

    found = describe_folder(data, files) if Path(data).is_dir() else describe_image(data)
    if figure is None:
        return {**found, "path": data}
    figure_of_images(files[:_DRAWN], figure)
    return {**found, "path": data, "figure": figure}


def _without_classes(folder: Path) -> list[Path]:
    """Returns the images of a folder, and of those in it, where none is a class folder; none where one is."""
    from haloformer.data.finding import find_images
    from haloformer.readers.images import is_image_name
    from haloformer.vocabulary import CLASS_ALIASES, plain_name

    files = find_images(folder)
    folders = {part for file in files for part in file.relative_to(folder).parts[:-1]}
    named = any(plain_name(name) in CLASS_ALIASES for name in (folder.name, *folders))
    alone = all(is_image_name(file.name) for file in files)  # archives may each be a class
    return files if alone and not (named and folders) else []


def _check_kind(path: Path) -> None:
    """Refuses a file that is none of what can be looked into."""
    from haloformer.data.reader import DATASET_SUFFIXES
    from haloformer.readers.archives import ARCHIVE_SUFFIXES, is_archive
    from haloformer.readers.images import SUFFIXES, image_suffix

    known = (*DATASET_SUFFIXES, ".hdf", ".npz")
    if not path.is_file() or is_archive(path) or image_suffix(path.name) in known:
        return
    import h5py

    if not h5py.is_hdf5(path):
        raise InputError(
            f"{path} is neither an image ({', '.join(SUFFIXES)}) nor a dataset ({', '.join(DATASET_SUFFIXES)}), "
            f"nor an archive of images ({', '.join(ARCHIVE_SUFFIXES)})"
        )


def _print_image(found: Mapping[str, Any]) -> None:
    say(f"{found['path']}: {found['bytes'] / 1e6:.2f} MB")
    if n := found.get("n_files"):
        say(f"{n:,} image files; of each the image that is read by default")
    print_table(
        "images" if n else "images (* is read by default)",
        ["", "name", "shape", "″/pixel", "unit", "min", "median", "max", "not finite"],
        [
            [
                f"{row['number']}{'*' if row['read'] and not n else ''}",
                f"{row['name']},{row['version']}" if row.get("version", 1) > 1 else row["name"],
                "×".join(map(str, row["shape"])),
                rounded(row["pixel_scale"]),
                row["unit"],
                *(rounded(row[key]) for key in ("min", "median", "max", "not_finite")),
            ]
            for row in found["images"]
            if "error" not in row
        ],
        limit=_LIMIT,
    )
    if found.get("left_out"):
        say(f"{found['left_out']:,} further files were not looked into")
    print_warnings([row["error"] for row in found["images"] if "error" in row][:_LIMIT])
    if found["header"]:
        print_table("header", ["", ""], [(k, str(v)) for k, v in found["header"].items()], headed=False, limit=_LIMIT)  # fmt: skip
    for note in found["notes"]:
        say(note)


def _print_summary(data: str, summary: Mapping[str, Any]) -> None:
    shape = "×".join(str(size) for size in summary["image_shape"])
    size = f"{summary['bytes'] / 1e6:.1f} MB"
    say(f"{data}: {summary['n']} images of {shape} {summary['dtype']}, {size}")
    provenance = [
        [key, str(value)]
        for key, value in summary["attributes"].items()
        if value is not None and len(str(value)) < 80 and key not in ("class_names", "units")
    ]
    print_table("provenance", ["field", "value"], provenance, limit=_LIMIT)
    statistics = ("count", "mean", "std", "min", "max", "zero_fraction", "not_finite")
    print_table(
        "pixels",
        ["class", "images", "mean", "std", "min", "max", "zeros", "not finite"],
        [
            [name, *(rounded(row[key]) for key in statistics)]
            for name, row in summary["classes"].items()
        ],
        limit=_LIMIT,
    )
    print_table(
        "parameters",
        ["name", "unit", "per image", "min", "median", "max", "applies to"],
        [
            [
                row["name"],
                row["unit"],
                "×".join(map(str, row["shape"])) or "1",
                *(rounded(row[key]) for key in ("min", "median", "max")),
                f"{100 * row['applicable']:.0f} %",
            ]
            for row in summary["parameters"]
        ],
        limit=_LIMIT,
    )
