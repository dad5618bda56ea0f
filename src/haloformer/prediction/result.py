"""The answers of a model as a table that shows itself: what `haloformer.predict` returns."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer._version import code_version
from haloformer.errors import InputError
from haloformer.io.tables import checked_table_path, column_kind, column_unit, table
from haloformer.outputs.targets import TARGETS
from haloformer.prediction.rows import PredictionSummary
from haloformer.reporting.interval import format_value
from haloformer.reporting.tabular import Column, Tabular, masked, texts
from haloformer.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from haloformer.data.left_out import LeftOut

_MOST_DRAWN = 12
_DESCRIPTIONS = {
    "file": "path of the image",
    "class": f"most probable class; {UNKNOWN} if the image is unlike those of the training",
    "confidence": "largest of the probabilities",
    "entropy": "of the probabilities, in nats",
    "ood": "whether the image is unlike those of the training",
    "ood_score": "how unlike; above 1 is flagged",
    "ood_reason": "what is unlike",
    "index": "number of the image, from 0",
    "label": "true class, where the images say so",
    "hdu": "number of the FITS extension",
    "ra": "right ascension of the middle (ICRS)",
    "dec": "declination of the middle (ICRS)",
    "error": "why there is no answer",
}
_PARTS = {
    "_true": "true",
    "_sigma": "standard deviation of",
    "_low": "lower bound of",
    "_high": "upper bound of",
}


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Tabular):
    """What a model says of N images, as a table with one row for each.

    ``found["class"]`` is a column, ``found[0]`` a row, ``found[:2]`` the first two, ``len(found)`` the number of images.

    Attributes:
        names: The columns' names, in order.
        rows: One mapping for each image; what is missing is None or not there.
        class_names: The K classes; none for a model that only estimates.
        model: Facts of the model: ``MODEL``, ``NETWORK``, ``SURVEY``, ``NOISE``, ``SEED``, ``MODELVER``.
        images: The first images (C, H, W) as the model got them, at most 12; None where there is none.
        pixel_scale: arcsec per pixel of these; None if it is not known.

    Examples:
        >>> import haloformer
        >>> lenses = haloformer.simulate("model_ii", 3, seed=2000)
        >>> found = haloformer.predict("model_ii", lenses.images)
        >>> found.classes
        ['axion', 'cdm', 'no_sub']
        >>> found.probabilities.shape
        (3, 3)
        >>> found.to_table().colnames[:4]
        ['index', 'class', 'p_axion', 'p_cdm']
        >>> figure = found.plot()
    """

    names: list[str]
    rows: list[dict[str, Any]]
    class_names: tuple[str, ...]
    model: dict[str, Any]
    images: list[np.ndarray | None]
    pixel_scale: float | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, slice):
            images = [*self.images, *[None] * (len(self) - len(self.images))]
            return Predictions(
                self.names, self.rows[key], self.class_names, self.model,
                images[key][:_MOST_DRAWN], self.pixel_scale,
            )  # fmt: skip
        if not isinstance(key, str):
            row = self.rows[key]
            return {name: row.get(name) for name in self.names}
        if key not in self.names:
            raise KeyError(f"no column '{key}': there are {', '.join(self.names)}")
        return _column(key, self.rows, self.class_names).values

    @property
    def classes(self) -> list[str | None]:
        """N names: the class, ``unknown`` where an image is flagged; None where there is no answer."""
        return [row.get("class") for row in self.rows]

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) calibrated probabilities of `class_names`, of flagged images, too; NaN where there is no answer."""
        rows = [[row.get(f"p_{name}", np.nan) for name in self.class_names] for row in self.rows]
        return np.array(rows, dtype=np.float64).reshape(len(self.rows), len(self.class_names))

    def columns(self) -> list[Column]:
        """Returns the columns with units and descriptions."""
        return [_column(name, self.rows, self.class_names) for name in self.names]

    def provenance(self) -> dict[str, Any]:
        """Returns which model answered, on what it was trained, and by which code."""
        return {
            "model": self.model["MODEL"],
            "network": self.model["NETWORK"],
            "survey": self.model["SURVEY"],
            "noise": self.model["NOISE"],
            "training_seed": self.model["SEED"],
            "model_code_version": self.model["MODELVER"],
            "code_version": code_version(),
        }

    def summary(self) -> str:
        """Returns how many images have which answer, in one line."""
        counts = Counter(name for name in self.classes if name is not None)
        told = [f"{counts[name]} {name}" for name in (*self.class_names, UNKNOWN) if counts[name]]
        if not self.class_names and (flagged := sum(bool(row.get("ood")) for row in self.rows)):
            told.append(f"{flagged} unlike those of the training, without estimates")
        if errors := [row["error"] for row in self.rows if row.get("error")]:
            told.append(f"{len(errors)} without an answer ({errors[0]})")
        images = "1 image" if len(self) == 1 else f"{len(self):,} images"
        return f"{images} by {self.model['MODEL'] or 'a model in memory'}" + (
            f": {', '.join(told)}" if told else ""
        )

    def plot(self, n: int = 6) -> "Figure":
        """Draws the first images with their answers, in arcsec where the pixel scale is known.

        Args:
            n: How many, at most 12.

        Raises:
            InputError: No image could be read, or n is below 1.
        """
        from haloformer.reporting.images import image_grid, shown

        n = shown(n, _MOST_DRAWN)
        seen = [(row, image) for row, image in zip(self.rows, self.images) if image is not None][:n]
        if not seen:
            raise InputError("there is no image to draw: none could be read")
        captions = [_caption(row, self.names) for row, _ in seen]
        images = np.nan_to_num(np.stack([image for _, image in seen]))
        return image_grid(images, captions, self.pixel_scale)

    def picture(self) -> "Figure | None":
        """Returns the figure of the first images; None if none could be read."""
        return self.plot() if any(image is not None for image in self.images) else None

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the table as `haloformer predict` does, and returns its path.

        Args:
            path: Its ending says what it becomes: .fits, .ecsv, and .vot or .xml (a VOTable) have
                units, descriptions and the model's facts; .csv and .parquet, too.
            overwrite: Replace a table that is there.

        Raises:
            InputError: It cannot be written, or exists.
        """
        target = Path(path)
        about = descriptions_of(self.names, self.class_names)
        checked_table_path(target, overwrite)
        with table(target, self.names, overwrite, self.model, about) as write:
            write(self.rows)
        return target


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WrittenPredictions(Predictions):
    """Predictions of which a table was written, with what `PredictionSummary` says of it.

    Attributes:
        done: The table's path, counts, and what was left out.
    """

    done: PredictionSummary

    @property
    def out(self) -> Path:
        """The table."""
        return self.done.out

    @property
    def n_rows(self) -> int:
        """Its rows."""
        return self.done.n_rows

    @property
    def n_errors(self) -> int:
        """Those without an answer."""
        return self.done.n_errors

    @property
    def n_ood(self) -> int | None:
        """Images unlike those of the training; None if the model cannot tell."""
        return self.done.n_ood

    @property
    def class_counts(self) -> dict[str, int]:
        """Images per class."""
        return self.done.class_counts

    @property
    def raw(self) -> bool:
        """Whether flagged images have a class, too."""
        return self.done.raw

    @property
    def left_out(self) -> "LeftOut | None":
        """The images that cannot be read and have no row; None if each has one."""
        return self.done.left_out

    @property
    def notes(self) -> list[str]:
        """How many images were left out, and why."""
        return self.done.notes


def descriptions_of(names: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Returns what the columns of a table of predictions are: name → one line, where there is one."""
    return {name: told for name in names if (told := _description(name, class_names))}


def _column(name: str, rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Column:
    kind, found = column_kind(name), [row.get(name) for row in rows]
    values = (
        texts(found)
        if kind == "text"
        else masked(found, int if kind == "whole" else bool)
        if kind in ("whole", "yes_no")
        else np.array([np.nan if value is None else value for value in found], dtype=np.float64)
    )
    return Column(name, values, column_unit(name), _description(name, class_names))


def _description(name: str, class_names: Sequence[str]) -> str:
    if name.startswith("p_") and name[2:] in class_names:
        return f"probability of class {name[2:]}"
    if name.startswith("logit_") and name[6:] in class_names:
        return f"logit of class {name[6:]}"
    target = next((target for target in TARGETS if name.startswith(target)), None)
    if target is None:
        return _DESCRIPTIONS.get(name, "")
    part = _PARTS.get(name.removeprefix(target), "")
    return f"{part} {TARGETS[target].label}".strip()


def _caption(row: dict[str, Any], names: Sequence[str]) -> str:
    if row.get("error"):
        return "no answer"
    parts = []
    if (name := row.get("class")) is not None:
        parts.append(name if name == UNKNOWN else f"{name} {format_value(row['confidence'], 2)}")
    for target in (target for target in TARGETS if target in names):
        if (value := row.get(target)) is not None:
            sigma = row.get(f"{target}_sigma")
            parts.append(f"{target} {value:.2f}" + (f" ± {sigma:.2f}" if sigma else ""))
    return "\n".join(parts) or UNKNOWN
