"""The fit of a real lens as files have it: image, noise map, point-spread function and mask are read, the results are written."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.reallens.given import check_not_skewed, square, told_otherwise
from haloformer.fitting.reallens.masses import Prior
from haloformer.fitting.reallens.observation import Observation, checked_observation
from haloformer.fitting.reallens.optimise import Report
from haloformer.fitting.reallens.region_mask import REGION_SUFFIX, region_mask
from haloformer.fitting.reallens.result import RealLensFit
from haloformer.fitting.reallens.run import Options, fit_observation
from haloformer.fitting.reallens.saving import Format, save
from haloformer.io.folders import refuse_existing
from haloformer.io.progress import tell
from haloformer.io.quantities import noise_factor
from haloformer.readers.extensions import (
    EXTENSION,
    check_standard_deviation,
    named_extension,
    own_extension,
)
from haloformer.readers.fits import (
    FitsImage,
    choose_hdus,
    choose_planes,
    first_image,
    fits_hdus,
)
from haloformer.readers.images import FITS_SUFFIXES, image_suffix, read_image
from haloformer.readers.reading import Reading
from haloformer.readers.sky import oversampling_of
from haloformer.simulation.psf import scale_by_oversampling


@dataclass(frozen=True)
class LensFiles:
    """What a lens is read from.

    Attributes:
        image: The image.
        psf: The point-spread function: a file, or ``hdu:NAME``, an extension of the image's; so are the next two.
        noise_map: Standard deviation of each pixel; None: estimated.
        mask: Pixels where it is not 0, or in regions of a .reg file, are left out; None: none is.
        radius: In arcsec; pixels farther from the middle are left out; None: none is.
        psf_scale: Side of the PSF's pixels in arcsec; None: as its header says, else as the image's.
        neighbour_correlation: Of the noise of neighbouring pixels; None: measured in the corners.
    """

    image: str
    psf: str | None
    noise_map: str | None = None
    mask: str | None = None
    radius: float | None = None
    psf_scale: float | None = None
    neighbour_correlation: float | None = None


@dataclass
class LensSummary:
    """Result of a call of `fit` for one lens.

    Attributes:
        out: The folder that was written.
        fit: What was found.
        format: Of the model in another package's words, if it was written.
        resumed: Whether an earlier, unfinished call was gone on with.
    """

    out: Path
    fit: RealLensFit
    format: Format | None = None
    resumed: bool = False


def read_observation(files: LensFiles, reading: Reading) -> Observation:
    """Reads and checks a lens; raises InputError."""
    reading.check()
    if files.psf is None:
        raise InputError(
            "a point-spread function is needed: give --psf FILE.fits, an image of a star at the image's pixel scale (or --survey NAME, to fit "
            "images of a simulated survey into a table)"
        )
    _check_there(files)
    read = _read(files.image, reading)
    image, scale = read.pixels, read.scale
    if scale is None:
        raise InputError(
            f"{files.image} does not say its pixel scale: give --pixel_scale, in arcsec"
        )
    psf, sides, oversampling, _ = _read_part("psf", files.psf, files.image, read.hdu)
    _check_not_image("psf", files.psf, psf, image, "that of a star")
    its_scale = files.psf_scale
    if its_scale is None and sides is not None:
        its_scale = square(sides, files.psf, "--psf_scale")
    elif its_scale is None:
        told = "--psf_scale says otherwise"
        its_scale = scale_by_oversampling(oversampling, scale, f"psf {files.psf}", told)
    noise = None
    if files.noise_map is not None:
        if files.noise_map.startswith(EXTENSION):
            check_standard_deviation(files.noise_map, files.noise_map.removeprefix(EXTENSION))
        noise, *_, unit = _read_part("noise_map", files.noise_map, files.image, read.hdu)
        _check_not_image("noise_map", files.noise_map, noise, image, "the standard deviations")
        factor = noise_factor(unit, read.unit, f"noise_map {files.noise_map}")
        noise = noise if factor == 1 else noise * np.float32(factor)
    seen = checked_observation(
        image,
        psf=psf,
        noise=noise,
        neighbour_correlation=files.neighbour_correlation,
        mask=_read_mask(files, read),
        pixel_scale=scale,
        psf_scale=its_scale,
        radius=files.radius,
        name=Path(files.image).name,
        wcs=read.wcs,
        unit=read.unit,
        electrons=read.electrons,
    )
    if read.doubt:
        seen = seen.warned(read.doubt)
    return told_otherwise(seen, read.header_scales)


def _check_not_image(
    name: str, value: str, part: np.ndarray, image: np.ndarray, wanted: str
) -> None:
    """Refuses the image in place of what belongs to it."""
    if part.shape == image.shape and np.array_equal(part, image, equal_nan=True):
        raise InputError(f"{name} {value} is the image itself: give {wanted}, or hdu:NAME")


def _check_there(files: LensFiles) -> None:
    """Refuses files that do not exist before the first is read."""
    for name in ("image", "psf", "noise_map", "mask"):
        path = getattr(files, name)
        if path is not None and not path.strip():
            raise InputError(f"{name} is empty: a file is needed")
        if path is None or path.startswith(EXTENSION) or Path(path).is_file():
            continue
        if Path(path).is_dir():
            raise InputError(f"{name} {path} is a folder: one file is needed")
        raise InputError(f"{name} {path} does not exist")


@dataclass(frozen=True)
class _Image:
    """An image as a file has it.

    Attributes:
        pixels: (H, W).
        scale: Side of its pixels in arcsec; None: not known.
        header_scales: As its header alone says, along y and x; None: it does not.
        wcs: Of astropy; None if it has none.
        hdu: Number of its extension; None in files that have none.
        unit: Of its values, as the header writes it.
        doubt: As `FitsImage.doubt`.
        electrons: As `FitsImage.electrons`.
    """

    pixels: np.ndarray
    scale: float | None
    header_scales: Sequence[float] | None = None
    wcs: Any = None
    hdu: int | None = None
    unit: str = ""
    doubt: str = ""
    electrons: float | None = None


def _read(path: str, reading: Reading) -> _Image:
    """Returns an image, and what its header says of it."""
    if image_suffix(path) not in FITS_SUFFIXES:
        pixels = read_image(path, channels=1, hdu=reading.hdu, nan="mask")[0]
        return _Image(pixels, reading.pixel_scale)
    with fits_hdus(Path(path), path) as hdus:
        planes = choose_planes(hdus, path, reading)
        if len(planes) > 1:
            raise InputError(f"hdu {reading.hdu} names {len(planes)} images of {path}: one is needed")  # fmt: skip
        number, plane = planes[0]
        found = FitsImage(hdus, number, path, reading)
        if plane is None and len(found.shape) == 3 and found.shape[0] > 1:
            raise InputError(
                f"{path} is a cube of {found.shape[0]} planes: --band says which is the image, counted from 0"
            )
        pixels = found.pixels((slice(None), slice(None)), plane, 1, path)[0]
        scale = None if found.scales is None else square(found.scales, path, "--pixel_scale")
        check_not_skewed(found.wcs, path)
        return _Image(
            pixels, scale, found.header_scales, found.wcs, number, found.unit, found.doubt, found.electrons
        )  # fmt: skip


def _read_mask(files: LensFiles, image: _Image) -> np.ndarray | None:
    """Returns what is left out, from an image or from regions."""
    if files.mask is None:
        return None
    if Path(files.mask).suffix.lower() == REGION_SUFFIX:
        height, width = image.pixels.shape
        return region_mask(files.mask, (height, width), image.wcs)
    return _read_part("mask", files.mask, files.image, image.hdu)[0]


def _read_part(
    name: str, value: str, image: str, of: int | None
) -> tuple[np.ndarray, Sequence[float] | None, float, str]:
    """Returns what belongs to an image, the sides of its pixels in arcsec where the header says them, its oversampling and its unit.

    Args:
        name: Of the option.
        value: A file, of which the image is taken whose name says what it is, else the first; or ``hdu:NAME``, an extension of the image's own file.
        image: File of the image.
        of: Number of the image's extension.
    """
    own = own_extension(name, value, Path(image), of)
    path = value if own is None else image
    if image_suffix(path) not in FITS_SUFFIXES:
        return read_image(path, channels=1, nan="mask")[0], None, 1.0, ""
    hdu: int | str | None = own
    if own is None:
        hdu = named_extension(name, Path(path), Path(image), of)
        hdu = first_image(Path(path)) if hdu is None else hdu
    pixels: np.ndarray = read_image(path, channels=1, hdu=hdu, nan="mask")[0]
    with fits_hdus(Path(path), path) as hdus:
        number = choose_hdus(hdus, path, hdu)[0]
        if name == "noise_map":
            check_standard_deviation(value, hdus[number].name)
        found = FitsImage(hdus, number, path, Reading())
        return pixels, found.scales, oversampling_of(hdus[number].header), found.unit


def asked_for(
    files: LensFiles, reading: Reading, target: Path, like: str | None, overwrite: bool
) -> tuple[Observation, Mapping[str, Prior] | None]:
    """Returns the lens and the priors, as :func:`fit_files` takes them; raises InputError."""
    refuse_existing(target, overwrite, ("fit.json",), "fit")
    priors = None
    if like is not None:
        from haloformer.fitting.reallens.like import priors_like

        priors = priors_like(like)
    return read_observation(files, reading), priors


def fit_files(
    files: LensFiles,
    reading: Reading,
    options: Options,
    *,
    out: str,
    like: str | None = None,
    format: Format | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> LensSummary:
    """Fits a lens that is read from files, and writes a folder.

    Args:
        files: What is read.
        reading: How.
        options: How it is fitted.
        out: The folder.
        like: Survey from which priors are taken.
        format: Also write the model in another package's words.
        overwrite: Replace an earlier fit.
        progress: Show what is being done and the evidence; by default when standard error is a terminal.
    """
    target = Path(out)
    seen, priors = asked_for(files, reading, target, like, overwrite)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    stages = target.with_name(f".{target.name}.unfinished.json")
    with _shown(seen.name, progress) as report, _kept_told(stages):
        found = fit_observation(seen, options, priors, stages=stages, report=report)
        save(found, target, overwrite=overwrite, format=format)
    stages.unlink(missing_ok=True)
    return LensSummary(target, found, format, found.resumed)


@contextlib.contextmanager
def _kept_told(stages: Path) -> Iterator[None]:
    """Says, where the block is ended by a key or a signal, whether a second call goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if stages.is_file():
            tell(f"what was finished is kept in {stages}: the same command goes on from there")
        else:
            tell(
                "the smooth lens, the first to be kept, was not finished: the same command begins anew"
            )
        raise


@contextlib.contextmanager
def _shown(name: str, show: bool | None) -> Iterator[Report]:
    """Yields a report that shows what is being done, and the evidence, on standard error."""
    import sys

    if not (sys.stderr.isatty() if show is None else show):
        yield lambda what, evidence: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(f"{name}: looking for arcs") as status:

        def report(what: str, evidence: float) -> None:
            status.update(f"{name}: {what}, −2 ln evidence {evidence:.1f}")

        yield report
