"""``haloformer inspect``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haloformer.cli.present import print_table, rounded, say
from haloformer.cli.registry import Command
from haloformer.errors import InputError

_LIMIT = 60  # rows of a table


def present(found: Mapping[str, Any]) -> None:
    """Prints what a file holds as tables."""
    if "images" in found:
        _print_image(found)
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
        "haloformer inspect cutout.fits",
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
        data: Dataset file (.h5), or what convert makes one of: class folders, archives, .npz; or one image (.fits,
            .npy, .png, .jpg, .tiff).
        figure: Of a dataset: also draw sample images of each class to this file (.png, .svg, .pdf).
        per_class: Images per class in the figure.
        seed: Seed that chooses the images of the figure.
        overwrite: Replace an existing figure.
    """
    from haloformer.data import inspect as inspection
    from haloformer.data.conversion import open_labelled
    from haloformer.readers.images import image_suffix, is_image_name

    if is_image_name(data) and image_suffix(data) != ".npz" and not Path(data).is_dir():
        if figure is not None:
            raise InputError("--figure draws images of a dataset; this is an image already")
        from haloformer.data.inspect_image import describe_image

        return {"path": data, **describe_image(data)}

    if figure is not None and Path(figure).exists() and not overwrite:
        raise InputError(f"{figure} exists: choose another name, or give --overwrite")
    with open_labelled(data)[0] as dataset:
        summary = {**inspection.summarise(dataset), "path": data}
        if figure is not None:
            name = Path(data).name
            inspection.figure(dataset, figure, per_class=per_class, seed=seed, title=name)
    return summary if figure is None else {**summary, "figure": figure}


def _print_image(found: Mapping[str, Any]) -> None:
    say(f"{found['path']}: {found['bytes'] / 1e6:.2f} MB")
    print_table(
        "images (* is read by default)",
        ["", "name", "shape", "″/pixel", "unit", "min", "median", "max", "not finite"],
        [
            [
                f"{row['number']}{'*' if row['read'] else ''}",
                row["name"],
                "×".join(map(str, row["shape"])),
                rounded(row["pixel_scale"]),
                row["unit"],
                *(rounded(row[key]) for key in ("min", "median", "max", "not_finite")),
            ]
            for row in found["images"]
        ],
        limit=_LIMIT,
    )
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
