"""Fits of image files as a table, and a picture of the first of them: the one part of the fit that reads and writes files.

A fit that has converged need not be good: a lens that is not the survey's has a best fit, too. What χ² a good one has is
measured on images that the simulator draws of the survey, as it depends on how much its substructure changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from haloformer.data.reader import (
    InputFile,
    PixelGrid,
    ReadImage,
    Reading,
    check_choices,
    find_inputs,
    location_columns,
    printable,
    read_images,
    stacked,
)
from haloformer.errors import InputError, exists_already
from haloformer.fitting.composed.fitter import ComposedFitter
from haloformer.fitting.figures import DRAWN, draw_fits
from haloformer.fitting.own_facts import OwnFacts
from haloformer.fitting.parametric import SmoothFitter, fit_facts, smooth_fitter
from haloformer.fitting.result import SmoothFit
from haloformer.io.progress import progress_bar
from haloformer.io.tables import checked_table_path, table
from haloformer.io.writing import figure_bytes, whole_file
from haloformer.simulation import Simulator
from haloformer.simulation.surveys import AnySurvey, get_any_survey

N_USUAL = 300
"""Simulated images, of all classes in turn, by which it is known what χ² is usual."""
_USUAL_SEED = 977_001
_ABOUT = {
    "file": "path of the image",
    "chi2": "1 for a smooth lens of the survey",
    "converged": "if not, numbers mean little",
    "good_fit": "converged, with a chi2 that lenses of the survey have",
    "error": "why there is no fit",
    "index": "number of the image, from 0",
    "label": "true class, where the images say so",
}
_MARGIN = 3.0
"""χ² beyond this many times the largest, or below the smallest divided by it, is of no lens of the survey."""


@dataclass
class FitSummary:
    """Result of a call of `fit`.

    Attributes:
        out: The table's path.
        figure: The picture's path; None if none was asked for.
        n_rows: Rows of the table.
        n_errors: How many of them are errors.
        n_unsettled: How many fits did not converge.
        n_good: How many did, with a χ² that lenses of the survey have.
        n_resampled: How many images were resampled to the survey's pixels, each of parts of others.
        notes: What datasets say of their images that was taken instead of the survey's.
        warnings: Where datasets say otherwise than what is fitted.
        usual: The least and the largest χ² of a good fit.
        usual_share: Of the survey's own images, the share whose fits converge.
        chi2: The median χ²; NaN without a fit.
    """

    out: Path
    figure: Path | None = None
    n_rows: int = 0
    n_errors: int = 0
    n_unsettled: int = 0
    n_good: int = 0
    n_resampled: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    usual: tuple[float, float] = (0.0, float("inf"))
    usual_share: float = 1.0
    chi2: float = float("nan")


@dataclass(frozen=True)
class Asked:
    """What is to be fitted, checked.

    Attributes:
        survey: What the images are of.
        fitter: Of the survey and the noise.
        inputs: The images.
        target: Table to write.
        picture: Picture to draw.
    """

    survey: AnySurvey
    fitter: SmoothFitter | ComposedFitter
    inputs: Sequence[InputFile]
    target: Path
    picture: Path | None

    @classmethod
    def of(
        cls,
        *,
        images: Sequence[str],
        survey: str,
        out: str,
        noise: str,
        figure: str | None,
        reading: Reading,
        overwrite: bool,
        on_error: str,
    ) -> "Asked":
        """Checks the arguments of :func:`fit_to_table`; raises InputError."""
        reading.check()
        target = checked_table_path(Path(out), overwrite)
        picture = None if figure is None else _checked_figure(Path(figure), overwrite)
        recipe = get_any_survey(survey)
        fitter = smooth_fitter(recipe, noise=noise)
        inputs = find_inputs(images, keep_errors=on_error == "row", reading=reading)
        return cls(recipe, fitter, inputs, target, picture)

    @property
    def n(self) -> int:
        """How many images."""
        return sum(each.n for each in self.inputs)


def fit_to_table(
    images: Sequence[str],
    *,
    survey: str,
    out: str,
    noise: str,
    figure: str | None,
    reading: Reading,
    batch_size: int,
    overwrite: bool,
    on_error: str,
    progress: bool | None,
) -> FitSummary:
    """Writes a table with one row per image: `haloformer.fit`, whose arguments these are.

    Args:
        images: Files, folders, patterns, datasets.
        survey: The survey that they are of.
        out: Table to write.
        noise: The images' noise.
        figure: Picture to draw; None draws none.
        reading: How the images are read.
        batch_size: Images per batch.
        overwrite: Replace ``out`` and ``figure`` if they exist.
        on_error: ``"row"`` or ``"stop"``.
        progress: Show a progress bar; by default when standard error is a terminal.
    """
    check_choices(on_error, batch_size)
    asked = Asked.of(
        images=images, survey=survey, out=out, noise=noise, figure=figure, reading=reading, overwrite=overwrite, on_error=on_error
    )  # fmt: skip
    recipe, fitter, inputs, target, picture = asked.survey, asked.fitter, asked.inputs, asked.target, asked.picture  # fmt: skip
    grid = PixelGrid((1, fitter.size, fitter.size), recipe.instrument.pixel_scale)
    columns = ["file"]
    columns += [name + what for name in fitter.names for what in ("", "_error")]
    columns += ["chi2", "converged", "good_fit", *location_columns(inputs)]
    columns += ["error"] if on_error == "row" else []
    facts = fit_facts(recipe, noise)
    units = {
        name + what: facts["units"].get(name, "")
        for name in fitter.names
        for what in ("", "_error")
    }
    about = {f"{name}_error": f"error of {name}" for name in fitter.names} | _ABOUT
    made_of = {"SURVEY": facts["survey"], "NOISE": noise, "PIXSCALE": facts["pixel_scale"]}
    files = {}
    for each in inputs:
        if each.is_dataset and each.error is None:
            try:
                files[each.name] = OwnFacts.of(fitter, each.path, grid, reading, noise)
                files[each.name].check(fitter)
            except InputError as error:
                if on_error == "stop":
                    raise
                files[each.name] = OwnFacts(error=str(error))
    own = {name: facts for name, facts in files.items() if facts.said or facts.error}
    notes = tuple(
        f"{name}: fitted with its own {facts.said}" for name, facts in own.items() if facts.said
    )
    warnings = [f"{name} {each}" for name, facts in files.items() for each in facts.warnings]
    usual, share = _usual(recipe, fitter, noise)
    summary = FitSummary(
        target, picture, notes=notes, warnings=tuple(warnings), usual=usual, usual_share=share
    )
    fits = _Fits(fitter, summary, grid, own)
    with (
        table(target, columns, overwrite, made_of, about, units) as write,
        progress_bar("fit", asked.n, progress) as advance,
    ):
        for batch in read_images(inputs, grid, reading, batch_size=batch_size):
            if on_error == "stop":
                stacked(batch)  # raises for the first image that cannot be read
            rows = fits.rows(batch)
            write(rows)
            advance(len(rows))
    fits.summary.chi2 = float(np.median(fits.chi2)) if fits.chi2 else float("nan")
    if picture is not None and fits.drawn:
        drawing = draw_fits(fits.drawn, recipe.instrument.pixel_scale, fits.good_drawn)
        with whole_file(picture) as part:
            kind = picture.suffix[1:].lower()
            part.write_bytes(figure_bytes(drawing, kind, dpi=150, bbox_inches="tight"))
    return fits.summary


def usual_chi2(
    survey: AnySurvey, fitter: SmoothFitter | ComposedFitter, noise: str
) -> tuple[float, float]:
    """Returns the least and the largest χ² that a fit of an image of a survey may have.

    Args:
        survey: The survey; the substructure of all its classes counts as a lens of its own.
        fitter: Of the survey and the noise.
        noise: The images' noise.
    """
    return _usual(survey, fitter, noise)[0]


def _usual(
    survey: AnySurvey, fitter: SmoothFitter | ComposedFitter, noise: str
) -> tuple[tuple[float, float], float]:
    """Returns what :func:`usual_chi2` does, and the share of the survey's own images whose fits converge."""
    lenses = Simulator(survey, seed=_USUAL_SEED, noise=noise).batch(range(N_USUAL))
    found = fitter(lenses.images)
    chi2 = float(found.chi2.min()) / _MARGIN, float(found.chi2.max()) * _MARGIN
    return chi2, float(found.converged.double().mean())


def count_good_fits(images: Tensor, survey: str, noise: str) -> tuple[int, float]:
    """Returns how many images are described by a lens of a survey as well as its own images are, and how many of its own were.

    Args:
        images: (B, 1, H, W), as large as the survey's.
        survey: Its name, or a YAML file.
        noise: The images' noise.

    Raises:
        InputError: The survey's lenses cannot be fitted.
    """
    recipe = get_any_survey(survey)
    fitter = smooth_fitter(recipe, noise=noise)
    (low, high), share = _usual(recipe, fitter, noise)
    found = fitter(images)
    good = int((found.converged & (found.chi2 >= low) & (found.chi2 <= high)).sum())
    return good, share * len(images)


@dataclass
class _Fits:
    """Fits batch after batch, and keeps what the summary and the picture need."""

    fitter: SmoothFitter | ComposedFitter
    summary: FitSummary
    grid: PixelGrid
    own: dict[str, OwnFacts] = field(default_factory=dict)
    chi2: list[float] = field(default_factory=list)
    drawn: list[tuple[str, np.ndarray, SmoothFit]] = field(default_factory=list)
    good_drawn: list[bool] = field(default_factory=list)

    def rows(self, batch: Sequence[ReadImage]) -> list[dict[str, Any]]:
        """Returns the rows of a batch of images, of which some may be errors."""
        rows: list[dict[str, Any]] = [{**image.row()} for image in batch]
        good = [i for i, image in enumerate(batch) if image.error is None]
        names = [image.file if image.file in self.own else None for image in batch]
        for name in dict.fromkeys(names[i] for i in good):
            chosen = [i for i in good if names[i] == name]
            facts = None if name is None else self.own[name]
            if facts is not None and facts.error is not None:
                for i in chosen:
                    rows[i]["error"] = printable(facts.error)
                self.summary.n_errors += len(chosen)
                continue
            self._fit([batch[i] for i in chosen], [rows[i] for i in chosen], facts)
        for image, row in zip(batch, rows):
            if image.error is not None:
                row["error"] = printable(image.error)
                self.summary.n_errors += 1
        self.summary.n_rows += len(rows)
        return rows

    def _fit(
        self,
        images: Sequence[ReadImage],
        rows: Sequence[dict[str, Any]],
        own: OwnFacts | None,
    ) -> None:
        """Fits images, all of which could be read, and completes their rows.

        Args:
            images: All of one dataset, or of files that say nothing of their camera.
            rows: Theirs.
            own: What the dataset says.
        """
        to_draw = 0 if self.summary.figure is None else DRAWN - len(self.drawn)
        batch = stacked(images)
        if own is None:
            found = self.fitter(batch, detail=to_draw > 0)
        else:
            numbers = [image.index or 0 for image in images]
            found = own.fit(self.fitter, batch, numbers, to_draw > 0)
        low, high = self.summary.usual
        good = (found.converged & (found.chi2 >= low) & (found.chi2 <= high)).tolist()
        for column in found.columns():
            for row, value in zip(rows, column.values.tolist()):
                row[column.name] = value
        for row, fine in zip(rows, good):
            row["good_fit"] = fine
            if not fine:  # an error is that of a model which describes the image
                row |= {f"{name}_error": None for name in self.fitter.names}
        self.summary.n_good += sum(good)
        self.summary.n_resampled += sum(self.grid.mixes_pixels(image.scales) for image in images)
        self.chi2 += found.chi2.tolist()
        self.summary.n_unsettled += int((~found.converged).sum())
        for k, image in enumerate(images[: max(0, to_draw)]):
            name = image.label or Path(image.file).name
            self.drawn.append((name, batch[k, 0].numpy(), found.one(k)))
            self.good_drawn.append(good[k])


def _checked_figure(path: Path, overwrite: bool) -> Path:
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: figures are written as .png, .svg or .pdf")
    if path.exists() and not overwrite:
        raise exists_already(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    return path
