"""`fit`: image files in, the best smooth lens of each out, as a table and as pictures of what it leaves unexplained."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from haloformer.data.reader import (
    PixelGrid,
    Reading,
    check_choices,
    find_inputs,
    location_columns,
    printable,
    read_images,
)
from haloformer.errors import InputError
from haloformer.fitting.figures import DRAWN, draw_fits
from haloformer.fitting.parametric import SmoothFit, SmoothFitter, describe_fit
from haloformer.io.progress import progress_bar
from haloformer.io.tables import checked_table_path, table
from haloformer.io.writing import whole_file
from haloformer.simulation.surveys import get_survey

if TYPE_CHECKING:
    pass


@dataclass
class FitSummary:
    """What a call of `fit` did: the table's path, its rows, how many are errors, how many fits did not settle, the median χ²."""

    out: Path
    figure: Path | None = None
    n_rows: int = 0
    n_errors: int = 0
    n_unsettled: int = 0
    chi2: float = float("nan")


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
) -> FitSummary:
    """Fits the best smooth lens of a survey to images: a table with its parameters, their errors, and how much it leaves unexplained.

    Free is what the survey draws anew for every image; of model_i, model_ii and model_iii the source's position, and of model_i the
    exposure time. ``chi2`` is the mean square of (image − model) / noise: 1 for a smooth lens, more where there is
    substructure, or where the survey's lens is not this one. ``converged`` is False where there is no such lens in the image.

    Args:
        images: Image files (.npy, .fits, .png, .jpg …), folders of them, glob patterns, or datasets (.h5).
        survey: The survey that they are of: a name, or a YAML file.
        out: Table to write, .csv, .parquet or .fits: file, each parameter and its _error, chi2, converged.
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
    check_choices(on_error, batch_size)
    reading = Reading(hdu, band, nan, pixel_scale, catalog, size)
    reading.check()
    target = checked_table_path(Path(out), overwrite)
    picture = None if figure is None else _checked_figure(Path(figure), overwrite)
    recipe = get_survey(survey)
    fitter = SmoothFitter(recipe, noise=noise)
    frame = PixelGrid((1, fitter.size, fitter.size), recipe.instrument.pixel_scale)
    sources = find_inputs(images, keep_errors=on_error == "row", reading=reading)
    columns = [
        "file",
        *(name + what for name in fitter.names for what in ("", "_error")),
        "chi2",
        "converged",
    ]
    columns += location_columns(sources)
    columns += ["error"] if on_error == "row" else []
    summary, chi2 = FitSummary(target, picture), []
    drawn: list[tuple[str, np.ndarray, SmoothFit]] = []
    with (
        table(target, columns, overwrite) as write,
        progress_bar("fit", sum(s.n for s in sources), progress) as advance,
    ):
        for items in read_images(sources, frame, reading, batch_size=batch_size):
            rows: list[dict[str, Any]] = [{**item.row()} for item in items]
            if on_error == "stop" and (
                errors := [item.error for item in items if item.error is not None]
            ):
                raise InputError(errors[0])
            good = [i for i, item in enumerate(items) if item.error is None]
            if good:
                pixels = np.stack([items[i].image for i in good])  # type: ignore[misc]
                stack = torch.from_numpy(pixels.astype(np.float32))
                found = fitter(stack, detail=picture is not None and len(drawn) < DRAWN)
                for name, column in describe_fit(found).items():
                    for i, value in zip(good, column.tolist()):
                        rows[i][name] = value
                chi2 += found.chi2.tolist()
                summary.n_unsettled += int((~found.converged).sum())
                for k, i in enumerate(good[: max(0, DRAWN - len(drawn))] if picture else []):
                    drawn.append(
                        (
                            items[i].label or Path(items[i].file).name,
                            stack[k, 0].numpy(),
                            _one(found, k),
                        )
                    )
            for item, row in zip(items, rows):
                if item.error is not None:
                    row["error"] = printable(item.error)
                    summary.n_errors += 1
            write(rows)
            summary.n_rows += len(rows)
            advance(len(rows))
    summary.chi2 = float(np.median(chi2)) if chi2 else float("nan")
    if picture is not None and drawn:
        drawing = draw_fits(drawn, recipe.instrument.pixel_scale)
        with whole_file(picture) as part:
            drawing.savefig(part, format=picture.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    return summary


def _one(found: SmoothFit, k: int) -> SmoothFit:
    cut: dict[str, Any] = {
        name: value[k : k + 1]
        for name, value in vars(found).items()
        if isinstance(value, torch.Tensor)
    }
    return dataclasses.replace(found, **cut)


def _checked_figure(path: Path, overwrite: bool) -> Path:
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: figures are written as .png, .svg or .pdf")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already: overwrite replaces it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    return path
