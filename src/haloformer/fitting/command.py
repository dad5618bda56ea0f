"""`fit`: from image files to a table of their best smooth lenses, or from one real lens to all that its image says."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from haloformer.errors import InputError

if TYPE_CHECKING:
    from haloformer.fitting.reallens.files import LensFiles, LensSummary
    from haloformer.fitting.reallens.run import Options
    from haloformer.fitting.to_table import FitSummary
    from haloformer.readers.reading import Reading


def fit(
    images: list[str],
    *,
    out: str,
    survey: str | None = None,
    noise: Literal["original", "instrument", "none"] = "original",
    figure: str | None = None,
    batch_size: int = 256,
    hdu: int | str | None = None,
    band: int | str | None = None,
    pixel_scale: float | None = None,
    catalog: str | None = None,
    size: float | None = None,
    overwrite: bool = False,
    on_error: Literal["row", "stop"] = "row",
    nan: Literal["error", "zero", "mask"] = "error",
    progress: bool | None = None,
    psf: str | None = None,
    noise_map: str | None = None,
    mask: str | None = None,
    radius: float | None = None,
    perturber: bool | str = False,
    r_trunc: float | None = None,
    multipoles: bool = False,
    lens_light: bool = True,
    z_lens: float | None = None,
    z_source: float | None = None,
    like: str | None = None,
    supersampling: int = 2,
    format: Literal["lenstronomy", "autolens"] | None = None,
    start: str | None = None,
    psf_scale: float | None = None,
    sample: Literal["nested"] | None = None,
    live: int = 100,
    neighbour_correlation: float | None = None,
    source_prior: Literal["falling", "even"] = "falling",
) -> "FitSummary | LensSummary":
    """Fits lenses: images of a survey (--survey) into a table, or one real lens (--psf) into a folder.

    With --survey: the best smooth lens of the survey, with its parameters, their errors, and how much it leaves unexplained. Free is what the survey draws anew for every image; of model_i, model_ii and model_iii the source's position, and of model_i the
    exposure time. ``chi2`` is the mean square of (image − model) / noise: 1 for a smooth lens, more where there is
    substructure, or where the survey's lens is not this one. ``converged`` is False where there is no such lens in the image. ``good_fit``
    is True where it is and chi2 is one that lenses of the survey have, with the substructure of any class: from a third of the smallest to
    three times the largest of 300 simulated images. Elsewhere the parameters' errors mean nothing and are blank.

    With --psf: a power-law ellipsoid with shear, the lens's light, and a source of pixels, found from the image alone; with --perturber
    also one subhalo. The folder holds fit.json, fit.fits (model, residual, source, lens light, mask), fit.ecsv, fit.reg, fit.png and
    fit.html. A call that was ended goes on where it was.

    Args:
        images: Image files (.npy, .fits, .png, .jpg …), folders of them, glob patterns, or datasets (.h5). Of a real lens one file.
        out: Table to write, .csv, .parquet, .fits, .ecsv or .vot (VOTable): file, each parameter and its _error, chi2, converged, good_fit. Of a real lens a folder.
        survey: The survey that the images are of: a name, or a YAML file.
        noise: The images' noise, and with it their unit: as the survey was released, the instrument's own in counts/s, or none.
        figure: Picture to draw of the first images: image, best smooth lens, residual in units of the noise. .png, .svg or .pdf.
        batch_size: Images per batch; does not change the answers.
        hdu: FITS extension to read, as `haloformer.predict` takes it, and so are the four that follow; by default the first with an image.
        band: The one plane of a cube, or the name of a band.
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says, which of a real lens is told. Images of another scale than the survey's are resampled
            to it, which ties the noise of neighbouring pixels to each other: chi2 is then no longer 1 for a smooth lens.
        catalog: Table of positions in the one FITS image given: columns ra and dec, or x and y.
        size: With a catalog: side of the cutouts in arcsec.
        overwrite: Replace ``out`` and ``figure`` if they exist.
        on_error: What an unreadable image does: ``"row"`` gives it a row whose column ``error`` says why, ``"stop"`` ends the run and
            writes nothing.
        nan: What NaN and infinite pixels do: ``"error"`` refuses the image, ``"zero"`` puts 0 there, which is fitted as dark sky,
            ``"mask"`` leaves them out of the fit.
        progress: Show a progress bar; by default when standard error is a terminal.
        psf: Real lens: FITS file of the point-spread function, or hdu:NAME, an extension of the image's own file; so are the next two. Of a file of several
            images the one is taken whose name says what it is, and goes with the image's (NIR_H_PSF with NIR_H_FLUX).
        noise_map: Real lens: FITS file of the noise's standard deviation in each pixel; without it the noise is measured in the corners,
            and that of photons follows from BUNIT (electrons) and EXPTIME.
        mask: Real lens: FITS file that is not 0 in pixels that do not count, or a file of DS9 regions (.reg) about them.
        radius: Real lens: pixels farther than this from the middle do not count, in arcsec.
        perturber: Real lens: look for one, as a pseudo-Jaffe profile; or its profile, pseudo_jaffe, tnfw or point.
        r_trunc: Real lens: truncation radius of the perturber in arcsec; by default its tidal radius, or 6 scale radii of a tnfw.
        multipoles: Real lens: let the lens have multipoles of orders 1, 3 and 4.
        lens_light: Real lens: whether the lens galaxy's light is in the image; false if it has been subtracted.
        z_lens: Real lens: redshift of the lens; with z_source, masses are in M_sun.
        z_source: Real lens: redshift of the source.
        like: Real lens: take the priors of a survey's lenses, such as hst.
        supersampling: Real lens: rays per side of a pixel.
        format: Real lens: also write the model in the words of lenstronomy (lenstronomy.json) or of PyAutoLens (autolens.json).
        start: Real lens: begin with the lens of a file, and not blind: a fit.json, or a model of lenstronomy or PyAutoLens as JSON.
        psf_scale: Real lens: side of the PSF's pixels in arcsec, where they are finer than the image's; by default what its header says,
            else the image's.
        sample: Real lens: sample the posterior, too, by nested sampling (dynesty); some thousands of evaluations, from minutes to an hour.
        live: Real lens: live points of nested sampling.
        neighbour_correlation: Real lens: how much the noise of neighbouring pixels is correlated, as drizzling and resampling leave it; 0 if it is
            independent. By default it is measured in the corners, and so is whether the noise map is larger than the scatter of blank pixels to allow for it.
        source_prior: Real lens: the source's brightness varies the less the farther out (falling), as that of galaxies does, or as much
            everywhere (even).
    """
    given = dict(locals())
    if survey is not None:
        from haloformer.fitting.to_table import fit_to_table

        return fit_to_table(
            images,
            survey=survey,
            out=out,
            noise=noise,
            figure=figure,
            reading=reading_of(given),
            batch_size=batch_size,
            overwrite=overwrite,
            on_error=on_error,
            progress=progress,
        )
    from haloformer.fitting.reallens.files import fit_files

    return fit_files(
        lens_of(given),
        reading_of(given),
        options_of(given),
        out=out,
        like=like,
        format=format,
        overwrite=overwrite,
        progress=progress,
    )


def reading_of(given: Mapping[str, Any]) -> "Reading":
    """Returns how images are read, of the arguments of :func:`fit`; raises InputError for those of a real lens beside a survey."""
    from haloformer.readers.reading import Reading

    if given["survey"] is not None and (wrong := changed(given, _OF_REAL_LENSES)):
        raise InputError(
            f"{wrong[0]} is for a real lens, and survey for images of a survey: give one"
        )
    return Reading(*(given[k] for k in ("hdu", "band", "nan", "pixel_scale", "catalog", "size")))


def lens_of(given: Mapping[str, Any]) -> "LensFiles":
    """Returns what a real lens is read from, of the arguments of :func:`fit`; raises InputError for those of a survey."""
    from haloformer.fitting.reallens.files import LensFiles

    images = given["images"]
    if len(images) != 1:
        raise InputError(
            f"{len(images)} images: give --survey NAME to fit images of a survey, or one image and --psf FILE for a real lens"
        )
    if wrong := changed(given, _OF_SURVEYS):
        raise InputError(
            f"{wrong[0]} is for images of a survey, which --survey names; a real lens is fitted without it"
        )
    if given["nan"] == "zero":
        raise InputError(
            "nan is for images of a survey: of a real lens, unknown pixels do not count"
        )
    names = ("psf", "noise_map", "mask", "radius", "psf_scale", "neighbour_correlation")
    return LensFiles(images[0], *(given[k] for k in names))


def options_of(given: Mapping[str, Any]) -> "Options":
    """Returns how a real lens is fitted, of the arguments of :func:`fit`; raises InputError."""
    from haloformer.fitting.reallens.run import Options
    from haloformer.fitting.reallens.start_file import read_start

    perturber, start = given["perturber"], given["start"]
    names = ("r_trunc", "z_lens", "z_source", "supersampling", "sample", "live", "source_prior")
    return Options(
        given["lens_light"],
        given["multipoles"],
        ("pseudo_jaffe" if perturber else None) if isinstance(perturber, bool) else perturber,
        start=None if start is None else read_start(start),
        **{name: given[name] for name in names},
    )


_OF_SURVEYS = ("noise", "figure", "batch_size", "on_error", "catalog", "size")
_OF_REAL_LENSES = (
    *("psf", "noise_map", "mask", "radius", "perturber", "r_trunc", "multipoles", "lens_light", "z_lens"),
    *("z_source", "like", "supersampling", "format", "start", "psf_scale", "sample", "live"),
    *("neighbour_correlation", "source_prior"),
)  # fmt: skip


def changed(given: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Returns those of the names of arguments of :func:`fit` that are given another value than their default."""
    defaults = {name: inspect.signature(fit).parameters[name].default for name in names}
    return [name for name in names if given.get(name, defaults[name]) != defaults[name]]
