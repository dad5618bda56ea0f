"""`fit`: from image files to a table of their best smooth lenses, and a picture of what they leave unexplained."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from haloformer.fitting.to_table import FitSummary


def fit(
    images: list[str],
    *,
    survey: str,
    out: str,
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
) -> "FitSummary":
    """Fits the best smooth lens of a survey to images: a table with its parameters, their errors, and how much it leaves unexplained.

    Free is what the survey draws anew for every image; of model_i, model_ii and model_iii the source's position, and of model_i the
    exposure time. ``chi2`` is the mean square of (image − model) / noise: 1 for a smooth lens, more where there is
    substructure, or where the survey's lens is not this one. ``converged`` is False where there is no such lens in the image. ``good_fit``
    is True where it is and chi2 is one that lenses of the survey have, with the substructure of any class: from a third of the smallest to
    three times the largest of 300 simulated images. Elsewhere the parameters' errors mean nothing and are blank.

    Args:
        images: Image files (.npy, .fits, .png, .jpg …), folders of them, glob patterns, or datasets (.h5).
        survey: The survey that they are of: a name, or a YAML file.
        out: Table to write, .csv, .parquet or .fits: file, each parameter and its _error, chi2, converged, good_fit.
        noise: The images' noise, and with it their unit: as the survey was released, the instrument's own in counts/s, or none.
        figure: Picture to draw of the first images: image, best smooth lens, residual in units of the noise. .png, .svg or .pdf.
        batch_size: Images per batch; does not change the answers.
        hdu: FITS extension to read, as `haloformer.predict` takes it, and so are the four that follow; by default the first with an image.
        band: The one plane of a cube, or the name of a band.
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says. Images of another scale than the survey's are resampled
            to it, which ties the noise of neighbouring pixels to each other: chi2 is then no longer 1 for a smooth lens.
        catalog: CSV file of positions in the one FITS image given: columns ra and dec, or x and y.
        size: With a catalog: side of the cutouts in arcsec.
        overwrite: Replace ``out`` and ``figure`` if they exist.
        on_error: What an unreadable image does: ``"row"`` gives it a row whose column ``error`` says why, ``"stop"`` ends the run and
            writes nothing.
        nan: What NaN and infinite pixels do: ``"error"`` refuses the image, ``"zero"`` puts 0 there, which is fitted as dark sky,
            ``"mask"`` leaves them out of the fit.
        progress: Show a progress bar; by default when standard error is a terminal.
    """
    from haloformer.fitting.to_table import fit_to_table
    from haloformer.readers.reading import Reading

    return fit_to_table(
        images,
        survey=survey,
        out=out,
        noise=noise,
        figure=figure,
        reading=Reading(hdu, band, nan, pixel_scale, catalog, size),
        batch_size=batch_size,
        overwrite=overwrite,
        on_error=on_error,
        progress=progress,
    )
