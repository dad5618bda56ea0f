"""`haloformer.predict`: a model, images of any kind, and a table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from haloformer.errors import InputError
from haloformer.files import as_name
from haloformer.io.tables import checked_table_path
from haloformer.prediction.answering import answer_images, camera_files, paths_of
from haloformer.prediction.predictor import A_MODEL, Predictor, load
from haloformer.prediction.rows import empty_summary
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from haloformer.prediction.result import Predictions
    from haloformer.prediction.rows import PredictionSummary

_OF_A_FILE = ("overwrite", "workers", "shard_size", "ray_address", "skip_bad")
"""Keywords of `haloformer.prediction.command.predict` that only a table on disk needs."""


@overload
def predict(
    model: "str | os.PathLike[str] | Predictor", images: Any, out: None = None, **options: Any
) -> "Predictions": ...


@overload
def predict(
    model: "str | os.PathLike[str] | Predictor",
    images: Any,
    out: str | os.PathLike[str],
    **options: Any,
) -> "PredictionSummary": ...


def predict(
    model: "str | os.PathLike[str] | Predictor",
    images: "Tensor | np.ndarray | str | os.PathLike[str] | Sequence[Any] | Any",
    out: str | os.PathLike[str] | None = None,
    *,
    raw: bool = False,
    nan: Literal["error", "zero", "mask"] = "error",
    pixel_scale: float | None = None,
    psf: "np.ndarray | str | os.PathLike[str] | None" = None,
    noise_map: "np.ndarray | str | os.PathLike[str] | None" = None,
    on_error: Literal["row", "stop"] | None = None,
    device: str = "auto",
    batch_size: int = 256,
    progress: bool | None = None,
    hdu: int | str | None = None,
    band: int | str | None = None,
    catalog: str | None = None,
    size: float | None = None,
    **to_file: Any,
) -> "Predictions | PredictionSummary":
    """Says what dark matter is in images of strong lenses: a table with one row for each.

    Images that are unlike those of the training have the class ``unknown`` and no estimates. Arrays
    must have the size that the model takes, unless their pixel scale is known; then they are
    resampled, their light conserved, as files are.

    Args:
        model: A shipped model's name (``"model_i"``), a run or artefact folder, or what `load`
            returned, which spares loading it again.
        images: Arrays: NumPy, torch, lists, masked arrays, astropy's Quantity, table columns,
            NDData, CCDData, Cutout2D and FITS HDUs; one image (H, W) or (C, H, W), several (N, H, W) or
            (N, C, H, W). A batch of `simulate`. Or files: a path, a pattern, a folder, an archive,
            a dataset, or a list of these.
        out: Table to write, .csv, .parquet, .fits, .ecsv or .vot (VOTable); None returns it.
        raw: Give the most probable class and all estimates of flagged images, too.
        nan: What NaN, infinite and masked pixels do: ``"error"`` refuses the image, ``"zero"`` puts
            0 there, ``"mask"`` leaves them out of the smooth fit and shows the network 0.
        pixel_scale: Of the images in arcsec; goes before what a header or a WCS says.
        psf: The images' own point-spread function, for models that were trained with the smooth fit of
            a composed survey; the survey's if None. (odd, odd) of images in memory; of files a file, a
            folder of files with the images' stems, a path in which ``*`` stands for the stem, or
            ``hdu:NAME``, an extension of each image's FITS file.
        noise_map: Their noise's standard deviation, likewise; (H, W) or (N, H, W) of images in memory.
        on_error: ``"row"``: an image that cannot be used has a row whose ``error`` says why;
            ``"stop"``: it raises. By default files have a row, and arrays raise.
        device: ``"auto"`` takes a GPU if there is one; only for a model that is loaded here.
        batch_size: Images at a time; does not change the answers.
        progress: Show a progress bar; by default when standard error is a terminal.
        hdu: FITS extension to read.
        band: The one plane of a cube to read, or the name of a band.
        catalog: Table of positions in the one FITS image given; one row each.
        size: With a catalog: side of the cutouts in arcsec.
        **to_file: With ``out``: ``overwrite``, ``workers``, ``shard_size``, ``ray_address`` and
            ``skip_bad``, as `haloformer.prediction.command.predict` has them.

    Returns:
        The table, or with ``out`` what was written.

    Raises:
        InputError: Something given cannot be used; one line says what would be right.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 3, seed=2000)
        >>> found = haloformer.predict("model_ii", lenses.images)
        >>> found.classes
        ['axion', 'cdm', 'no_sub']
        >>> haloformer.predict("model_ii", lenses.images[0, 0]).classes  # one image (H, W)
        ['axion']
        >>> table = found.to_table()  # astropy, with units
        >>> table.meta["survey"]
        'model_ii'
    """
    reading: dict[str, Any] = {
        **{"nan": nan, "pixel_scale": pixel_scale, "hdu": hdu, "band": band},
        **{"catalog": catalog, "size": size},
    }
    common: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "raw": raw, **reading}
    _check_options(to_file, out)
    paths = paths_of(images)
    if isinstance(model, Predictor):
        if device not in ("auto", str(model.device)):
            raise InputError(
                f"the model is on {model.device}: load(…, device='{device}') puts it there"
            )
    elif out is not None and paths is not None:
        from haloformer.prediction.command import predict as write_table

        cameras = camera_files(psf, noise_map)
        return write_table(
            as_name(model, "model", A_MODEL),
            paths,
            os.fspath(out),
            device=device,
            on_error=on_error or "row",
            psf=cameras.psf,
            noise_map=cameras.noise_map,
            **common,
            **to_file,
        )
    overwrite = to_file.pop("overwrite", False)
    if to_file:
        raise InputError(f"{next(iter(to_file))} needs a model by its name, and files")
    target = None if out is None else checked_table_path(Path(out), overwrite)
    predictor = model if isinstance(model, Predictor) else load(model, device)
    found = answer_images(
        predictor, images, psf=psf, noise_map=noise_map, on_error=on_error, **common
    )
    if target is None:
        return found
    summary = empty_summary(found.write(target, overwrite=overwrite), predictor, raw)
    summary.count(found.rows)
    return summary


def _check_options(to_file: dict[str, Any], out: object) -> None:
    """Refuses keywords that do not exist, and those of a table on disk where none is written."""
    for name in to_file:
        if name not in _OF_A_FILE:
            known = (*_OF_A_FILE, *(predict.__kwdefaults__ or ()))
            raise unknown_name("option", name, known)
        if out is None:
            raise InputError(f"{name} is for a table that is written: give out, such as 'a.csv'")
