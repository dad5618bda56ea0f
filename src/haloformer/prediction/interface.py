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
from haloformer.prediction.result import WrittenPredictions
from haloformer.prediction.rows import MOST_KEPT, Kept, empty_summary, provenance_of
from haloformer.readers.reading import Reading, check_choices
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
) -> "WrittenPredictions | PredictionSummary": ...


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
) -> "Predictions | WrittenPredictions | PredictionSummary":
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
        out: Table to write, too: .csv, .parquet, .fits, .ecsv or .vot (VOTable).
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
        The table; with ``out`` also its path, ``n_errors`` and other counts. Of more than 200,000 images
        these alone (`PredictionSummary`): the table would fill the memory.

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
        name, cameras = as_name(model, "model", A_MODEL), camera_files(psf, noise_map)
        on_error = on_error or "row"
        common = {key: common[key] for key in ("batch_size", "progress", "raw")}
        common |= {"device": device, "on_error": on_error, "reading": Reading(**reading)}
        return _written(name, paths, os.fspath(out), cameras=cameras, **common, **to_file)
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
    return WrittenPredictions(**vars(found), done=summary)


def _written(
    run: str,
    paths: list[str],
    out: str,
    *,
    on_error: str,
    batch_size: int,
    workers: int = 0,
    shard_size: int = 8192,
    ray_address: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> "WrittenPredictions | PredictionSummary":
    """Writes the table of images in files as the command does, and returns it if it is not too long."""
    from haloformer.prediction.to_table import Shards, predict_to_table

    check_choices(on_error, batch_size, skip_bad)
    kept = Kept(MOST_KEPT)
    summary = predict_to_table(
        run,
        paths,
        out,
        shards=Shards(workers, shard_size, ray_address),
        batch_size=batch_size,
        overwrite=overwrite,
        on_error="skip" if skip_bad else on_error,
        kept=kept,
        **options,
    )
    predictor = kept.predictor
    if kept.rows is None or predictor is None:
        return summary
    left_out = summary.left_out is not None and summary.left_out.n
    return WrittenPredictions(
        names=kept.names,
        rows=kept.rows,
        class_names=predictor.class_names,
        model=dict(provenance_of(predictor, run)),
        images=[] if left_out else kept.images,  # rows and images would not go together
        pixel_scale=predictor.grid.pixel_scale,
        done=summary,
    )


def _check_options(to_file: dict[str, Any], out: object) -> None:
    """Refuses keywords that do not exist, and those of a table on disk where none is written."""
    for name in to_file:
        if name not in _OF_A_FILE:
            known = (*_OF_A_FILE, *(predict.__kwdefaults__ or ()))
            raise unknown_name("option", name, known)
        if out is None:
            raise InputError(f"{name} is for a table that is written: give out, such as 'a.csv'")
