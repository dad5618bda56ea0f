"""``haloformer convert``."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from haloformer.cli.present import print_notes, say
from haloformer.cli.registry import Command
from haloformer.errors import InputError

if TYPE_CHECKING:
    from haloformer.cli.planning import Plan


def present(summary: Mapping[str, Any]) -> None:
    """Prints how many images of which class were written, and what was left out."""
    counts = ", ".join(f"{count} {name}" for name, count in summary["classes"].items())
    shape = "×".join(str(size) for size in summary["image_shape"])
    say(f"wrote {summary['n']} images of {shape} ({counts}) to {summary['path']}")
    if "good_fits" in summary:
        found = summary["good_fits"]
        own = f", of which {found['usual']} would be" if found["usual"] < found["of"] else ""
        say(f"{found['n']} of {found['of']} images are as lenses of {found['survey']} are{own}: physics can be used")  # fmt: skip
    print_notes(summary["notes"])


COMMAND = Command(
    "convert DeepLense folders, archives or labelled images to a dataset file",
    positional=("src",),
    present=present,
    dry_run=True,
    examples=(
        "haloformer convert Model_I.tgz --out model_i.h5",
        "haloformer convert Model_I.tgz --survey model_i --out model_i.h5",
        "haloformer convert dataset --subset val --out val.h5",
        "haloformer convert cutouts --class_map '{smooth: no_sub, clumpy: cdm}' --out mine.h5",
    ),
)


def convert(
    src: str,
    out: str,
    *,
    channels: int | None = None,
    hdu: int | str | None = None,
    class_map: dict[str, str] | None = None,
    subset: str | None = None,
    nan: Literal["error", "zero"] = "error",
    compression: Literal["gzip", "lzf"] | None = None,
    skip_bad: bool = False,
    survey: str | None = None,
    noise: Literal["original", "instrument", "none"] = "original",
    overwrite: bool = False,
    quiet: bool = False,
) -> Mapping[str, Any]:
    """Converts labelled images that you have to one dataset file.

    Reads DeepLense folders and .tgz or .zip archives (axion|vort, cdm|sphere, no_sub|no; plain and
    pickled .npy, the latter without ever running what a pickle asks for), folders of class folders
    with FITS, .npz, PNG, JPEG or TIFF images, and HDF5 or .npz files with images and labels.

    Args:
        src: Folder, archive (.zip, .tgz, .tar.gz, .tar ...), HDF5 or .npz file.
        out: Dataset file to write. It must not exist.
        channels: How many channels each image must have; by default as many as there are.
        hdu: Number or name of the FITS extension to read, or key of the array of a .npz file.
        class_map: Class of each folder that has a name of its own.
        subset: Which part to take where the input holds several, such as train and val: they are
            never mixed.
        nan: error: refuse images with NaN or infinite pixels; zero: put 0 there.
        compression: gzip or lzf make smaller files that are slower to read.
        skip_bad: Leave out images that cannot be read; how many, and why, is said.
        survey: The survey that the images are of, such as model_i: training then knows how to fit
            their lenses (physics). Whether its lenses describe them is tried and said.
        noise: With survey: the images' noise, as the survey was released, the instrument's own, or
            none.
        overwrite: Replace an existing file.
        quiet: Print nothing but warnings and errors.
    """
    from haloformer.data import convert as convert_images

    if survey is None and noise != "original":
        raise InputError("noise is that of a survey: give survey, too")
    with _progress("convert", quiet) as show:
        done = convert_images(
            src,
            out,
            channels=channels,
            progress=show,
            overwrite=overwrite,
            hdu=hdu,
            class_map=class_map,
            subset=subset,
            nan=nan,
            compression=compression,
            skip_bad=skip_bad,
            survey=survey,
            noise=noise,
        )
    if survey is not None:
        _try_fits(done, survey, noise)
    return done


def _try_fits(done: dict[str, Any], survey: str, noise: str) -> None:
    """Adds how well a survey's lenses describe some of the images, or a note where they do not; nothing where it has no fit."""
    from haloformer.data import LensDataset
    from haloformer.fitting.to_table import count_good_fits

    dataset = LensDataset(done["path"])
    some = dataset.images_at(range(0, len(dataset), max(1, len(dataset) // _TRIED)))[:_TRIED]
    try:
        good, usual = count_good_fits(some, survey, noise)
    except InputError:
        return
    by_chance = 2 * math.sqrt(usual * (1 - usual / len(some)))
    if good >= _FEW * usual - by_chance:
        facts = {"n": good, "of": len(some), "usual": round(usual), "survey": survey}
        done["good_fits"] = facts
        return
    done["notes"].append(
        f"only {good} of {len(some)} images are as lenses of {survey} with its {noise} noise are, of which {usual:.0f} would be: "
        "are they of another survey, noise or unit? Fits (physics) would mislead"
    )


_TRIED, _FEW = 48, 0.8


def plan(src: str, out: str, **options: Any) -> "Plan":
    """Plans the command, with its options; see :mod:`haloformer.cli.planning`."""
    from haloformer.cli.planning import Plan, by
    from haloformer.data.preview import preview_conversion

    given = {key: value for key, value in options.items() if key != "quiet"}
    found = preview_conversion(src, out, **given)
    n = found.n
    facts = {
        "images": (f"{n:,}" if n is not None else "known when all are read")
        + f", {by(found.image_shape)}",
        "classes": ", ".join(found.class_names),
    }
    n_bytes = None if n is None else n * math.prod(found.image_shape) * 4
    notes = ["Compressed, it is smaller."] if options.get("compression") else []
    return Plan(
        f"convert {src}",
        facts,
        None if n is None else n * found.seconds,
        n_bytes,
        out,
        f"{found.n_read:,} images that were read",
        notes,
    )


@contextlib.contextmanager
def _progress(label: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function of images done and in all; the bar appears when the first are done."""
    from haloformer.io.progress import progress_bar

    advance: Callable[[int], None] | None = None
    shown = 0
    with contextlib.ExitStack() as stack:

        def show(done: int, total: int | None) -> None:
            nonlocal advance, shown
            if advance is None:
                bar = progress_bar(label, total, False if quiet else None)
                advance = stack.enter_context(bar)
            advance(done - shown)
            shown = done

        yield show
