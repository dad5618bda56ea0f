"""Answers as rows of a table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from haloformer.data.camera import ImageCamera
from haloformer.data.left_out import LeftOut
from haloformer.data.reader import (
    InputFile,
    ReadImage,
    Reading,
    location_columns,
    printable,
)
from haloformer.errors import InputError
from haloformer.outputs.decision import Answers
from haloformer.prediction.cameras import CameraFiles, read_with_cameras
from haloformer.prediction.resampled import also_resampled

if TYPE_CHECKING:
    from haloformer.fitting.channels import Look
    from haloformer.prediction.predictor import Predictor

_NO_NUMBER = "the model gives no number for this image: are its values extreme?"


@dataclass
class PredictionSummary:
    """What a call of `predict` did: the table's path, its rows, how many of them are errors, images per class.

    ``n_ood`` counts the images that are unlike those of the training; None if the model cannot tell. With ``raw`` they have a class all
    the same; without, they are counted as ``unknown``. ``left_out`` has the images that cannot be read and have no
    row; None if each has one.
    """

    out: Path
    n_rows: int = 0
    n_errors: int = 0
    class_counts: dict[str, int] = field(default_factory=dict)
    n_ood: int | None = None
    raw: bool = False
    left_out: LeftOut | None = None

    @property
    def notes(self) -> list[str]:
        """How many images were left out, and why."""
        return [] if self.left_out is None else self.left_out.notes

    def count(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Takes rows into account, and returns those that belong to the table."""
        if self.left_out is not None:
            for row in rows:
                if row.get("error"):
                    self.left_out.add(row["error"])
            rows = [row for row in rows if not row.get("error")]
        self.n_rows += len(rows)
        for row in rows:
            if row.get("error"):
                self.n_errors += 1
            elif row.get("class"):
                self.class_counts[row["class"]] = self.class_counts.get(row["class"], 0) + 1
            if self.n_ood is not None and row.get("ood"):
                self.n_ood += 1
        return rows

    def finish(self) -> None:
        """Raises InputError if all images were left out."""
        if self.left_out is not None:
            self.left_out.refuse_if_all(self.n_rows)


SHOWN = 12
"""Images that are kept for the figure."""

MOST_KEPT = 200_000
"""Rows of a written table that are kept in memory, too: some 200 MB."""


@dataclass
class Kept:
    """The rows of a table that is written, for who wants them in memory, too.

    Attributes:
        limit: Rows that are kept at most; of more there are none.
        names: The table's columns.
        rows: Its rows.
        images: The first images as the model got them, None where there is none.
        predictor: Who answered.
    """

    limit: int = MOST_KEPT
    names: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] | None = field(default_factory=list)
    images: list[np.ndarray | None] = field(default_factory=list)
    predictor: "Predictor | None" = None

    def watch(self, batches: Iterable[list[ReadImage]]) -> Iterator[list[ReadImage]]:
        """Passes batches on, and keeps the first images."""
        for items in batches:
            self.images += [item.image for item in items[: max(0, SHOWN - len(self.images))]]
            yield items

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Keeps rows of the table, or none any more where they are too many."""
        if self.rows is None:
            return
        self.rows += rows
        if len(self.rows) > self.limit:
            self.rows = None


def empty_summary(
    out: Path, predictor: "Predictor", raw: bool = False, on_error: str = "row"
) -> PredictionSummary:
    """Returns a summary that has counted nothing yet."""
    return PredictionSummary(
        out,
        class_counts=dict.fromkeys(predictor.class_names, 0),
        n_ood=None if predictor.detector is None else 0,
        raw=raw,
        left_out=LeftOut() if on_error == "skip" else None,
    )


def table_columns(predictor: "Predictor", sources: Sequence[InputFile], on_error: str) -> list[str]:
    """Returns the columns of a table of predictions."""
    columns = ["file", *answer_columns(predictor), *location_columns(sources)]
    if on_error == "row":
        columns.append("error")
    return columns


def answer_columns(predictor: "Predictor") -> list[str]:
    """Returns the columns of a model's answers."""
    columns = []
    if predictor.class_names:
        columns += [
            "class",
            *(f"p_{name}" for name in predictor.class_names),
            "confidence",
            "entropy",
        ]
    columns += [
        name + what
        for name in predictor.outputs.targets
        for what in ("", "_sigma", "_low", "_high")
    ]
    if predictor.detector is not None:
        columns += ["ood", "ood_score", "ood_reason"]
    return columns


def provenance_of(predictor: "Predictor", run: str) -> dict[str, object]:
    """Returns what the header of a FITS table says of the model.

    Args:
        predictor: The model.
        run: Run folder, artefact folder, or the name of a shipped model.
    """
    artefact = predictor.artefact
    training = artefact.get("training")
    training = training if isinstance(training, dict) else {}
    seed = training.get("train_seed", training.get("seed"))
    return {
        "MODEL": run,
        "NETWORK": artefact["model"].get("name"),
        "SURVEY": artefact.get("survey"),
        "NOISE": artefact.get("noise"),
        "SEED": seed if isinstance(seed, int) else None,
        "MODELVER": training.get("code_version", artefact.get("code_version")),
    }


def predicted_rows(
    predictor: "Predictor",
    sources: Sequence[InputFile],
    batch_size: int,
    *,
    reading: Reading,
    on_error: str,
    raw: bool = False,
    cameras: CameraFiles | None = None,
    kept: Kept | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Yields the table's rows, batch by batch; the options are those of `predict`.

    With ``on_error`` ``"skip"``, as with ``"row"``, images that cannot be read have rows that say so:
    `PredictionSummary.count` leaves them out.
    """
    batches = read_with_cameras(predictor, sources, reading, cameras or CameraFiles(), batch_size)
    watched = batches if kept is None else kept.watch(batches)
    yield from rows_of(predictor, watched, on_error=on_error, raw=raw)


def rows_of(
    predictor: "Predictor",
    batches: Iterable[list[ReadImage]],
    *,
    on_error: str,
    raw: bool = False,
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of images that have been read, batch by batch.

    Args:
        predictor: Answers.
        batches: Images on its grid, or errors.
        on_error: ``"row"`` and ``"skip"`` give errors a row, ``"stop"`` raises them.
        raw: Flagged images have class and estimates all the same.
    """
    for items in batches:
        rows: list[dict[str, Any]] = [{**item.row()} for item in items]
        good = [i for i, item in enumerate(items) if item.error is None]
        for i, error in _answer(predictor, items, rows, good, raw).items():
            items[i].error = error
        for item, row in zip(items, rows):
            if item.error is None:
                continue
            if on_error == "stop":
                raise InputError(item.error)
            row["error"] = printable(item.error)
        yield rows


def _answer(
    predictor: "Predictor",
    items: list[ReadImage],
    rows: list[dict[str, Any]],
    good: list[int],
    raw: bool,
) -> dict[int, str]:
    """Fills the rows of the good images in place; returns the errors of those that the model cannot answer."""
    if not good:
        return {}
    camera = items[good[0]].camera
    if apart := [i for i in good if not _go_together(items[i].camera, camera)]:
        together = [i for i in good if i not in set(apart)]
        errors = _answer(predictor, items, rows, together, raw)
        return errors | _answer(predictor, items, rows, apart, raw)
    arrays = [image for i in good if (image := items[i].image) is not None]
    images = torch.from_numpy(np.stack(arrays))
    masked = not bool(torch.isfinite(images).all())
    look = None if camera is None else _look(predictor, images, masked, [items[i] for i in good])
    try:
        numbers, verdict = predictor.numbers_and_ood(images, masked=masked, look=look)
    except InputError:
        if len(good) == 1:
            return {good[0]: f"{items[good[0]].name}: {_NO_NUMBER}"}
        # One image spoils its batch: find it by asking for each alone.
        errors = {}
        for i in good:
            errors |= _answer(predictor, items, rows, [i], raw)
        return errors
    verdict = also_resampled(verdict, predictor, [items[i].scales for i in good])
    answers = predictor.answers_of(numbers, verdict, raw=raw)
    _put_classes(predictor.class_names, answers, rows, good)
    _put_estimates(predictor.outputs.targets, answers, rows, good)
    if verdict is not None:
        for i, flag, score, reason in zip(
            good, verdict.flag.tolist(), verdict.score.tolist(), verdict.reasons
        ):
            rows[i] |= {"ood": flag, "ood_score": score, "ood_reason": reason}
    return {}


def _go_together(one: ImageCamera | None, other: ImageCamera | None) -> bool:
    return one is other or (one is not None and other is not None and one.goes_with(other))


def _look(
    predictor: "Predictor", images: torch.Tensor, masked: bool, items: Sequence[ReadImage]
) -> "Look":
    """Returns images with what the model sees beside them, of cameras of their own."""
    cameras = [item.camera for item in items if item.camera is not None]
    maps = [camera.noise_map for camera in cameras if camera.noise_map is not None]
    return predictor.look(
        images,
        masked=masked,
        psf=cameras[0].psf,
        noise_map=np.stack(maps) if maps else None,
        psf_oversampling=cameras[0].psf_oversampling,
    )


def _put_classes(
    class_names: Sequence[str], answers: Answers, rows: list[dict[str, Any]], good: list[int]
) -> None:
    if answers.probabilities is None:
        return
    for i, name, p in zip(good, answers.classes, answers.probabilities.numpy()):
        rows[i]["class"] = name
        rows[i] |= {f"p_{each}": float(value) for each, value in zip(class_names, p)}
        rows[i] |= {
            "confidence": float(p.max()),
            "entropy": float(-(p * np.log(np.maximum(p, 1e-300))).sum()),
        }


def _put_estimates(
    targets: Sequence[str], answers: Answers, rows: list[dict[str, Any]], good: list[int]
) -> None:
    for t, name in enumerate(targets):
        for key, what in (("mean", ""), ("sigma", "_sigma"), ("low", "_low"), ("high", "_high")):
            for i, value in zip(good, answers.estimates[key][:, t].tolist()):
                rows[i][name + what] = value if np.isfinite(value) else None
