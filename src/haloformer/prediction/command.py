"""`predict`: from image files to a table of answers."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from haloformer.prediction.rows import PredictionSummary


def predict(
    run: str,
    images: list[str],
    out: str,
    *,
    batch_size: int = 256,
    device: str = "auto",
    hdu: int | str | None = None,
    band: int | str | None = None,
    pixel_scale: float | None = None,
    catalog: str | None = None,
    size: float | None = None,
    overwrite: bool = False,
    on_error: Literal["row", "stop"] = "row",
    nan: Literal["error", "zero", "mask"] = "error",
    raw: bool = False,
    progress: bool | None = None,
    workers: int = 0,
    shard_size: int = 8192,
    ray_address: str | None = None,
    skip_bad: bool = False,
    psf: str | None = None,
    noise_map: str | None = None,
) -> "PredictionSummary":
    """Writes a table with one row per image: ``file``, ``class``, ``p_CLASS`` …, ``confidence``, ``entropy``.

    A model that estimates parameters adds, for each, its value, ``_sigma``, and ``_low`` and ``_high`` of the interval. One that can tell
    images unlike those of its training adds ``ood``, ``ood_score`` and ``ood_reason``: such images have the class ``unknown`` and no estimates.
    The mass of the axion is blank for images of another class.
    Datasets (.h5) among the inputs add the columns ``index`` and ``label``, the true class; FITS files ``index`` (of a plane or position),
    ``hdu``, ``ra`` and ``dec``. Memory stays bounded: only one batch of images is held. The same call goes on where one was
    interrupted, if there were more than ``shard_size`` images.

    Args:
        run: Run folder or artefact folder of a trained model, or the name of a shipped one, such as model_i.
        images: Image files (.npy, .npz, .fits, .png, .jpg, .tif …), folders or archives (.zip, .tgz …) of them, glob patterns, or datasets
            (.h5). A FITS cube is as many images.
        out: Table to write, .csv, .parquet, .fits, .ecsv or .vot (VOTable).
        batch_size: Images per batch; does not change the answers.
        device: See `load`.
        hdu: FITS extension to read, or array of a .npz file: number, name, name and version (SCI,2), several with commas, a pattern of
            names ('NIR_*_FLUX'), or all; by default the first extension that holds an image, and all arrays of one shape.
        band: The one plane of a cube to read, counted from 0, or the name of a band (EXTNAME, FILTER or BAND of an extension; FILTER1, BAND1 …
            of a cube).
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says. Images are resampled to the model's scale, their light
            conserved, then cut or framed with zeros to its size.
        catalog: Table of positions in the one FITS image given (CSV, ECSV, VOTable or FITS): columns ra and dec in degrees (ICRS) or the
            column's unit, also under the names of surveys, or x and y in pixels counted from 0. One row each.
        size: With a catalog: side of the cutouts in arcsec; by default what the model looks at.
        overwrite: Replace ``out`` if it exists.
        on_error: What an unreadable image does: ``"row"`` gives it a row whose column ``error`` says why, ``"stop"`` ends the run and
            writes nothing.
        nan: What NaN and infinite pixels do: ``"error"`` refuses the image, ``"zero"`` puts 0 there, ``"mask"`` leaves them out of the
            smooth fit, if the model has one, and shows the network 0.
        raw: Give the most probable class and all estimates of out-of-distribution images and of other classes, too.
        progress: Show a progress bar; by default when standard error is a terminal.
        workers: Processes that share the images, one CPU (or one GPU) each; 0: this process does it alone. With workers,
            ``out`` may also be a folder, which then holds the shards.
        shard_size: Images that are kept at a time, in case the run is interrupted; rounded up to whole batches.
        ray_address: Of a running Ray cluster, or ``"auto"``: its machines share the images.
        skip_bad: Leave out images that cannot be read: no row, no column ``error``, exit code 0 if any image was read. How many, and
            why, is said.
        psf: The images' own point-spread function, for a model that sees the smooth fit of a survey whose lenses vary: a FITS file for all
            images, a folder of files with the images' stems, a path in which * stands for the stem, or hdu:NAME, an extension of each
            image's own file. By default the survey's, or what a dataset (.h5) brings along.
        noise_map: Standard deviation of the images' noise in each pixel, in their unit, given as psf is; a cube has one plane for each
            image. By default as the survey says, or what a dataset brings along.
    """
    from haloformer.prediction.cameras import CameraFiles
    from haloformer.prediction.to_table import Shards, predict_to_table
    from haloformer.readers.reading import Reading, check_choices

    check_choices(on_error, batch_size, skip_bad)
    return predict_to_table(
        run,
        images,
        out,
        reading=Reading(hdu, band, nan, pixel_scale, catalog, size),
        shards=Shards(workers, shard_size, ray_address),
        batch_size=batch_size,
        device=device,
        overwrite=overwrite,
        on_error="skip" if skip_bad else on_error,
        progress=progress,
        raw=raw,
        cameras=CameraFiles(psf, noise_map),
    )
