"""What `evaluate` and `compare` return: all that was measured, as a mapping and as a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from haloformer.errors import InputError
from haloformer.evaluation.report import images_in_words
from haloformer.reporting.interval import Interval, format_interval
from haloformer.reporting.tabular import Column, Tabular, texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OF_ALL = {
    "macro_auc": "mean over classes of the one-vs-rest AUC",
    "micro_auc": "AUC of all classes' probabilities together",
    "accuracy": "share of images whose class is right",
    "balanced_accuracy": "mean over classes of the share that is right",
    "nll": "mean of −ln of the true class's probability",
    "brier": "mean squared error of the probabilities",
    "ece": "expected calibration error",
}
_OF_CLASS = {"auc": "one-vs-rest AUC", "recall": "share of the class that is found"}
_OF_TARGET = {
    "mae": "mean absolute error",
    "rmse": "root of the mean squared error",
    "bias": "mean of predicted − true",
    "coverage": "share of true values in their intervals",
}
_PROTOCOL = ("run", "model", "data", "survey", "noise", "seed", "n_images", "code_version", "date")


class Evaluation(Tabular, dict[str, Any]):
    """The content of ``metrics.json``, with ``out`` and ``report``, the paths of the folder and of the page.

    Its table has a row for each measure: of all classes, of each class, of each estimated parameter.
    """

    def columns(self) -> list[Column]:
        """Returns each measure with its confidence interval."""
        rows = list(self._measures())
        numbers = np.array([[i.value, i.low, i.high] for *_, i in rows], np.float64).reshape(-1, 3)
        confidence = f"{self.get('confidence', 0.95):.0%}"
        names, of, units, notes = (
            map(texts, zip(*(row[:4] for row in rows))) if rows else [texts([])] * 4
        )
        return [
            Column("measure", names),
            Column("of", of, description="class or estimated parameter; all: of all classes"),
            Column("value", numbers[:, 0]),
            Column("low", numbers[:, 1], "", f"lower end of the {confidence} interval"),
            Column("high", numbers[:, 2], "", f"upper end of the {confidence} interval"),
            Column("unit", units, "", "of value, low and high"),
            Column("meaning", notes),
        ]

    def provenance(self) -> dict[str, Any]:
        """Returns model, images, seed and code version."""
        return {name: self["protocol"].get(name) for name in _PROTOCOL}

    def summary(self) -> str:
        """Returns the main results in one line, and what is to be minded."""
        text = f"{self['protocol']['run']} on {images_in_words(self)}"
        if "macro_auc" in self:
            text += f": macro AUC {format_interval(Interval(**self['macro_auc']))}"
        for name, measured in self["regression"].items():
            text += f"; mean error of {name} {format_interval(Interval(**measured['mae']), 3)}"
        return _with_warnings(text, self["warnings"])

    def plot(self) -> "Figure":
        """Draws the confusion matrix; all figures are in the folder ``out``.

        Raises:
            InputError: The model has no classes.
        """
        from haloformer.evaluation.figures import confusion

        if not self["class_names"]:
            raise InputError(f"the model has no classes to be confused: see {self['out']}/figures")
        return confusion(np.array(self["confusion"]), self["class_names"])

    def picture(self) -> "Figure | None":
        """Returns the confusion matrix; None without classes."""
        return self.plot() if self["class_names"] else None

    def _measures(self) -> Iterator[tuple[str, str, str, str, Interval]]:
        """Yields name, what it is of, unit, meaning and value of each measure."""
        yield from _found(_OF_ALL, self, "all", "")
        for name, row in self.get("per_class", {}).items():
            yield from _found(_OF_CLASS, row, name, "")
        for name, row in self["regression"].items():
            yield from _found(_OF_TARGET, row, name, "dex" if "dex" in row["unit"] else row["unit"])


def _with_warnings(text: str, warnings: Sequence[str]) -> str:
    return ". ".join([text, *(f"Warning: {each.rstrip('.')}" for each in warnings)])


def _found(
    meanings: Mapping[str, str], measured: Mapping[str, Any], of: str, unit: str
) -> Iterator[tuple[str, str, str, str, Interval]]:
    for name, meaning in meanings.items():
        if isinstance(interval := measured.get(name), Mapping):
            its = "" if name == "coverage" else unit
            yield name, of, its, meaning, Interval(**interval)


class Comparison(Tabular, dict[str, Any]):
    """The content of ``comparison.json``, with ``out`` and ``report``, the paths of the folder and of the page.

    Its table has a row for each model and measure; those of the reference have no difference.
    """

    def columns(self) -> list[Column]:
        """Returns each measure with its interval, and the paired difference to the reference's."""
        differences = {row["name"]: row["differences"] for row in self["differences"]}
        rows = [
            (
                model["name"],
                measure,
                _value_of(model, measure),
                differences.get(model["name"], {}).get(measure, {}),
            )
            for model in self["models"]
            for measure in self["measures"]
        ]

        def numbers(key: str, place: int) -> np.ndarray:
            return np.array([row[place].get(key, np.nan) for row in rows], dtype=np.float64)

        confidence = f"{self['confidence']:.0%}"
        interval = {
            "low": f"lower end of the {confidence} interval",
            "high": f"upper end of the {confidence} interval",
        }
        return [
            Column("model", texts([row[0] for row in rows])),
            Column("measure", texts([row[1] for row in rows])),
            Column("value", numbers("value", 2)),
            *(Column(key, numbers(key, 2), "", text) for key, text in interval.items()),
            Column(
                "difference", numbers("value", 3), "", f"to {self['reference']}, paired by image"
            ),
            *(
                Column(f"difference_{key}", numbers(key, 3), "", text)
                for key, text in interval.items()
            ),
            Column("p", numbers("p", 3), "", "of no difference"),
            Column("p_holm", numbers("p_holm", 3), "", "corrected for the number of differences"),
        ]

    def provenance(self) -> dict[str, Any]:
        """Returns the reference, the images, seed and code version."""
        return {"reference": self["reference"], **self["protocol"]}

    def summary(self) -> str:
        """Returns which models were compared on what, and what is to be minded, in one line."""
        names = " vs ".join(model["name"] for model in self["models"])
        text = f"{names} on {images_in_words(self)}"
        return _with_warnings(text, self["warnings"])

    def plot(self) -> "Figure":
        """Draws the differences to the reference, with their intervals."""
        from haloformer.evaluation.figures import differences

        return differences(self["differences"], self["measures"], self["reference"])

    def picture(self) -> "Figure | None":
        """Returns the differences."""
        return self.plot()


def _value_of(model: Mapping[str, Any], measure: str) -> Mapping[str, float]:
    """Returns a measure of a model with its interval."""
    of_class = measure.removeprefix("auc_")
    found: Mapping[str, float] = (
        model[measure] if measure in model else model["per_class"][of_class]["auc"]
    )
    return found
