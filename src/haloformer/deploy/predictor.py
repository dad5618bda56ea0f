"""A trained model that is ready to answer: weights, preprocessing, class names and provenance in one object.

`load` reads the *artefact* that training leaves in a run folder, ``weights.safetensors`` and ``artefact.json``. Neither
can hold code, and every field is checked before it is used. `predict` sends files through it, batch by batch, into a
CSV or Parquet table.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.data.residual import Residual, network_input
from haloformer.deploy.artefact import ModelFields, artefact_files, checked_fields, load_weights, read_json
from haloformer.deploy.inputs import (
    DATASET_SUFFIXES,
    Frame,
    Item,
    Reading,
    Source,
    find_sources,
    image_batches,
    place_columns,
    printable,
)
from haloformer.deploy.tables import checked_table_path, progress_bar, table
from haloformer.devices import resolve_device
from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.head import numbers_and_features
from haloformer.training.calibration import temperature_of
from haloformer.training.ood import OodDetector, OodVerdict, traits
from haloformer.training.outputs import Outputs
from haloformer.training.regression import Conformal, predictions

__all__ = ["DATASET_SUFFIXES", "PredictionSummary", "Predictor", "load", "predict"]


@dataclass
class Predictor:
    """A model with its preprocessing.

    Attributes:
        model: Framed and normalised images in, numbers (B, outputs.n) out; in evaluation mode on ``device``.
        framing: To the size and channels of the model.
        residual: Adds what the best smooth lens leaves unexplained, for models that want to see it.
        normalization: Framed images in, what the model was trained on out.
        outputs: What the model's numbers mean.
        conformal: Makes predicted intervals hold the wished share of true values; None without a regression.
        image_shape: (C, H, W) of the images that go in.
        artefact: All of ``artefact.json``.
        device: Where the model is.
        temperature: What the logits are divided by for calibrated probabilities; 1 where the artefact has none.
        detector: Tells images unlike those of the training; None where the artefact has no statistics of them.
    """

    model: nn.Module
    framing: Framing
    residual: Residual | None
    normalization: Normalization
    outputs: Outputs
    conformal: Conformal | None
    image_shape: tuple[int, int, int]
    artefact: dict[str, Any]
    device: torch.device
    temperature: float = 1.0
    detector: OodDetector | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes in the order of the logits; none for a regression alone."""
        return self.outputs.class_names

    @classmethod
    def from_run(cls, path: str | os.PathLike[str], device: str = "auto") -> "Predictor":
        """Reads a run folder or its artefact folder; the same as `load`."""
        where, weights = artefact_files(Path(path))
        artefact = read_json(where)
        fields = checked_fields(artefact, where)
        target = resolve_device(device)
        model = create_model(
            fields.name,
            img_size=fields.img_size,
            in_chans=fields.in_chans,
            num_classes=fields.num_classes,
            **fields.kwargs,
        )
        load_weights(model, weights)
        normalization = _normalization(artefact["normalization"], fields.in_chans - fields.n_residual, where)
        model = model.eval().to(target)
        return cls(
            model=model,
            framing=fields.framing,
            residual=fields.residual,
            normalization=normalization,
            outputs=fields.outputs,
            conformal=_conformal(artefact, fields.outputs, where),
            image_shape=fields.image_shape,
            artefact=artefact,
            device=target,
            temperature=temperature_of(artefact, str(where)),
            detector=_detector(artefact, fields, model, where.parent),
        )

    @property
    def frame(self) -> Frame:
        """Shape and pixel scale of the images that go in."""
        scale = self.artefact.get("pixel_scale")
        known = isinstance(scale, int | float) and not isinstance(scale, bool) and 1e-4 <= scale <= 1e4
        return Frame(self.image_shape, float(scale) if known else None)  # type: ignore[arg-type]

    @torch.no_grad()
    def prepared(self, images: torch.Tensor, *, masked: bool = False) -> torch.Tensor:
        """Returns what the network gets (B, C', H', W'), on its device, of raw images (B, C, H, W)."""
        return network_input(self._seen(images, masked), self.framing, self.normalization, self.residual is not None)

    def in_image(self, maps: torch.Tensor) -> torch.Tensor:
        """Puts maps (B, L, H', W') of what the network gets back on the raw images: (B, L, H, W), 0 where it does not look."""
        height, width = self.image_shape[-2:]
        if self.residual is None or self.residual.crop is None:
            return self.framing.back(maps, (height, width))
        side = self.residual.crop
        return Framing(crop=side).back(self.framing.back(maps, (side, side)), (height, width))

    @torch.inference_mode()
    def numbers(self, images: torch.Tensor, *, masked: bool = False) -> torch.Tensor:
        """Returns all that the model says, float32 (B, outputs.n) on the CPU, for raw images (B, C, H, W).

        With ``masked``, pixels that are not finite are not known: the smooth fit leaves them out, and the network sees 0 there.
        """
        return _finite(self.model(self.prepared(images, masked=masked)).float().cpu())

    def numbers_and_ood(self, images: torch.Tensor, *, masked: bool = False) -> tuple[torch.Tensor, OodVerdict | None]:
        """Returns what `numbers` and `ood` do, from one pass through the network."""
        if self.detector is None:
            return self.numbers(images, masked=masked), None
        numbers, seen = self.numbers_and_traits(images, masked=masked)
        return _finite(numbers), self.detector.verdict(seen)

    def ood(self, images: torch.Tensor) -> OodVerdict | None:
        """Returns how unlike the training images these raw images (B, C, H, W) are; None if the artefact cannot tell."""
        return None if self.detector is None else self.detector.verdict(self.numbers_and_traits(images)[1])

    @torch.inference_mode()
    def numbers_and_traits(
        self, images: torch.Tensor, *, masked: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns what the model says of raw images (B, C, H, W), finite or not, and their traits, by which strange ones are told."""
        seen = self._seen(images, masked)
        with_residual = self.residual is not None
        batch = network_input(seen, self.framing, self.normalization, with_residual)
        numbers, features = numbers_and_features(self.model, batch)
        return numbers.float().cpu(), traits(self.framing(seen), features, with_residual)

    def _seen(self, images: torch.Tensor, masked: bool) -> torch.Tensor:
        """Returns raw images on the device, with their residual where the model sees it."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise InputError(f"images have shape {tuple(images.shape)}, but the model takes B of {self.image_shape}")
        batch = images.to(self.device, torch.float32)
        batch = batch if self.residual is None else self.residual(batch)
        return batch.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) if masked else batch

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Returns float32 logits (B, K) of the classes on the CPU for raw images (B, C, H, W)."""
        logits = self.outputs.split(self.numbers(images))[0]
        if logits is None:
            raise InputError(f"this model estimates {', '.join(self.outputs.targets)}; it knows no classes")
        return logits

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Returns float64 class probabilities (B, K), calibrated where the artefact says how, on the CPU for raw images (B, C, H, W)."""
        return self.probabilities_of(self.predict_logits(images))

    def probabilities_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the same of the logits (B, K)."""
        return (logits.double() / self.temperature).softmax(dim=1)

    def estimates(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns ``mean``, ``sigma``, ``low`` and ``high`` (B, T) of the targets for raw images (B, C, H, W).

        ``low`` and ``high`` bound the calibrated interval; ``sigma`` is NaN where the loss gives none.
        """
        return self.estimates_of(self.numbers(images))

    def estimates_of(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the same of what `numbers` gave."""
        values = self.outputs.split(numbers)[1]
        if values is None:
            raise InputError("this model tells classes apart; it estimates nothing")
        assert self.outputs.scaling is not None
        answer = predictions(
            values, loss=self.outputs.loss, scaling=self.outputs.scaling, coverage=self.outputs.coverage
        )
        if self.conformal is not None:
            answer["low"], answer["high"] = self.conformal.apply(**answer)
        return answer


def load(path: str | os.PathLike[str], device: str = "auto") -> Predictor:
    """Returns the trained model of a run folder, of an artefact folder that was copied out of one, or one that comes with the package.

    Args:
        path: ``runs/x`` or ``runs/x/artefact``, or the name of a shipped model (:func:`~haloformer.deploy.artefact.shipped_models`).
        device: ``"auto"`` takes a GPU if there is one; else ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    """
    return Predictor.from_run(path, device)


def _normalization(description: dict[str, Any], channels: int, where: Path) -> Normalization:
    try:
        normalization = Normalization.from_dict(description)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    if not normalization.is_fitted:
        raise InputError(f"{where}: normalization '{normalization.kind}' lacks its statistics")
    for name, numbers in normalization.statistics.items():
        if len(numbers) != channels:
            raise InputError(f"{where}: normalization.statistics.{name} must hold {channels} numbers, one per channel")
    return normalization


def _finite(numbers: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(numbers).all():
        bad = int((~torch.isfinite(numbers)).any(dim=1).nonzero()[0])
        raise InputError(f"the model gives no number for image {bad} of the batch: are its values extreme?")
    return numbers


def _detector(artefact: dict[str, Any], fields: ModelFields, model: nn.Module, folder: Path) -> OodDetector | None:
    if artefact.get("ood") is None:
        return None
    with torch.inference_mode():  # which features a classifier is given, only the network itself can tell
        nothing = torch.zeros(1, fields.in_chans, *fields.img_size, device=next(model.parameters()).device)
        n_features = numbers_and_features(model, nothing)[1].shape[1]
    n_residual = fields.n_residual
    return OodDetector.read(
        artefact["ood"], folder / "ood.safetensors", n_features, fields.in_chans - n_residual, n_residual
    )


def _conformal(artefact: dict[str, Any], outputs: Outputs, where: Path) -> Conformal | None:
    if not outputs.targets or artefact.get("conformal") is None:
        return None
    try:
        conformal = Conformal.from_dict(artefact["conformal"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if len(conformal.factors) != len(outputs.targets) or conformal.loss != outputs.loss:
        raise InputError(f"{where}: conformal does not belong to these outputs")
    return conformal


@dataclass
class PredictionSummary:
    """What a call of `predict` did: the table's path, its rows, how many of them are errors, images per class.

    ``n_ood`` counts the images that are unlike those of the training; None if the model cannot tell.
    """

    out: Path
    n_rows: int = 0
    n_errors: int = 0
    class_counts: dict[str, int] = field(default_factory=dict)
    n_ood: int | None = None

    def count(self, rows: list[dict[str, Any]]) -> None:
        """Takes rows of the table into account."""
        self.n_rows += len(rows)
        for row in rows:
            if row.get("error"):
                self.n_errors += 1
            elif row.get("class"):
                self.class_counts[row["class"]] += 1
            if self.n_ood is not None and row.get("ood"):
                self.n_ood += 1


def empty_summary(out: Path, predictor: Predictor) -> PredictionSummary:
    """Returns a summary that has counted nothing yet."""
    counts = dict.fromkeys(predictor.class_names, 0)
    return PredictionSummary(out, class_counts=counts, n_ood=None if predictor.detector is None else 0)


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
    progress: bool | None = None,
    workers: int = 0,
    shard_size: int = 8192,
    ray_address: str | None = None,
) -> PredictionSummary:
    """Writes a table with one row per image: ``file``, ``class``, ``p_CLASS`` …, ``confidence``, ``entropy``.

    A model that estimates parameters adds, for each, its value, ``_sigma``, and ``_low`` and ``_high`` of the interval. One that can tell
    images unlike those of its training adds ``ood``, ``ood_score`` and ``ood_reason``: what it says of such images is not to be trusted.
    Datasets (.h5) among the inputs add the columns ``index`` and ``label``, the true class; FITS files ``index`` (of a plane or position),
    ``hdu``, ``ra`` and ``dec``. Memory stays bounded: only one batch of images is held. The same call goes on where one was
    interrupted, if there were more than ``shard_size`` images.

    Args:
        run: Run folder or artefact folder of a trained model, or the name of a shipped one, such as model_i.
        images: Image files (.npy, .fits, .png, .jpg …), folders of them, glob patterns, or datasets (.h5). A FITS cube is as many images.
        out: Table to write, .csv, .parquet or .fits.
        batch_size: Images per batch; does not change the answers.
        device: See `load`.
        hdu: FITS extension to read: number, name, several with commas, a pattern of names ('NIR_*_FLUX'), or all; by default the first
            that holds an image.
        band: The one plane of a cube to read, counted from 0, or the name of a band (EXTNAME, FILTER or BAND of an extension; FILTER1, BAND1 …
            of a cube).
        pixel_scale: Of the images, in arcsec; goes before what a FITS header (WCS) says. Images are resampled to the model's scale, their light
            conserved, then cut or framed with zeros to its size.
        catalog: CSV file of positions in the one FITS image given: columns ra and dec in degrees (ICRS), or x and y in pixels counted from 0.
            One row each.
        size: With a catalog: side of the cutouts in arcsec; by default what the model looks at.
        overwrite: Replace ``out`` if it exists.
        on_error: What an unreadable image does: ``"row"`` gives it a row whose column ``error`` says why, ``"stop"`` ends the run and
            writes nothing.
        nan: What NaN and infinite pixels do: ``"error"`` refuses the image, ``"zero"`` puts 0 there, ``"mask"`` leaves them out of the
            smooth fit, if the model has one, and shows the network 0.
        progress: Show a progress bar; by default when standard error is a terminal.
        workers: Processes that share the images by Ray, one CPU (or one GPU) each; 0: this process does it alone. With workers,
            ``out`` may also be a folder, which then holds the shards.
        shard_size: Images that are kept at a time, in case the run is interrupted; rounded up to whole batches.
        ray_address: Of a running Ray cluster, or ``"auto"``; by default Ray is started on this machine.
    """
    check_choices(on_error, batch_size)
    if shard_size < 1:
        raise InputError(f"shard_size must be at least 1, not {shard_size}")
    reading = Reading(hdu, band, nan, pixel_scale, catalog, size)
    reading.check()
    alone = not workers and ray_address is None
    target = Path(out)
    if alone or target.suffix:
        checked_table_path(target, overwrite)
    predictor = load(run, device if alone else "cpu")
    channels = predictor.image_shape[0]
    sources = find_sources(images, keep_errors=on_error == "row", channels=channels, reading=reading)
    columns = table_columns(predictor, sources, on_error)
    total = sum(source.n for source in sources)
    if not alone or total > shard_size:
        from haloformer.deploy.scale import predict_shards

        return predict_shards(
            predictor, sources, target, columns, run=run, workers=None if alone else workers, shard_size=shard_size,
            ray_address=ray_address, batch_size=batch_size, device=device, reading=reading, overwrite=overwrite,
            on_error=on_error, progress=progress,
        )  # fmt: skip
    summary = empty_summary(target, predictor)
    with table(target, columns, overwrite) as write, progress_bar("predict", total, progress) as advance:
        for rows in predicted_rows(predictor, sources, batch_size, reading=reading, on_error=on_error):
            write(rows)
            summary.count(rows)
            advance(len(rows))
    return summary


def check_choices(on_error: str, batch_size: int) -> None:
    """Refuses what `predict` does not know."""
    if on_error not in ("row", "stop"):
        raise InputError(f"on_error is '{on_error}': known are row, stop")
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")


def table_columns(predictor: Predictor, sources: Sequence["Source"], on_error: str) -> list[str]:
    """Returns the columns of a table of predictions."""
    columns = ["file"]
    if predictor.class_names:
        columns += ["class", *(f"p_{name}" for name in predictor.class_names), "confidence", "entropy"]
    columns += [name + what for name in predictor.outputs.targets for what in ("", "_sigma", "_low", "_high")]
    if predictor.detector is not None:
        columns += ["ood", "ood_score", "ood_reason"]
    columns += place_columns(sources)
    if on_error == "row":
        columns.append("error")
    return columns


def predicted_rows(
    predictor: Predictor,
    sources: Sequence["Source"],
    batch_size: int,
    *,
    reading: Reading,
    on_error: str,
) -> Iterator[list[dict[str, Any]]]:
    """Yields the table's rows, batch by batch; the options are those of `predict`."""
    for items in image_batches(sources, batch_size, predictor.frame, reading):
        rows = [item.row() for item in items]
        good = [i for i, item in enumerate(items) if item.error is None]
        for i, error in _answer(predictor, items, rows, good).items():
            items[i].error = error
        for item, row in zip(items, rows):
            if item.error is None:
                continue
            if on_error == "stop":
                raise InputError(item.error)
            row["error"] = printable(item.error)
        yield rows


def _answer(predictor: Predictor, items: list[Item], rows: list[dict[str, Any]], good: list[int]) -> dict[int, str]:
    """Fills the rows of the good images in place; returns the errors of those that the model cannot answer."""
    if not good:
        return {}
    arrays = [image for i in good if (image := items[i].image) is not None]
    images = torch.from_numpy(np.stack(arrays))
    try:
        numbers, verdict = predictor.numbers_and_ood(images, masked=not bool(torch.isfinite(images).all()))
    except InputError:
        if len(good) == 1:
            return {
                good[0]: f"{items[good[0]].file}: the model gives no number for this image: are its values extreme?"
            }
        # One image spoils its batch: find it by asking for each alone.
        errors: dict[int, str] = {}
        for i in good:
            errors |= _answer(predictor, items, rows, [i])
        return errors
    if predictor.class_names:
        _put_classes(predictor, numbers, rows, good)
    if predictor.outputs.targets:
        _put_estimates(predictor, numbers, rows, good)
    if verdict is not None:
        for i, flag, score, reason in zip(good, verdict.flag.tolist(), verdict.score.tolist(), verdict.reasons):
            rows[i] |= {"ood": flag, "ood_score": score, "ood_reason": reason}
    return {}


def _put_classes(predictor: Predictor, numbers: torch.Tensor, rows: list[dict[str, Any]], good: list[int]) -> None:
    logits = predictor.outputs.split(numbers)[0]
    assert logits is not None
    for i, p in zip(good, predictor.probabilities_of(logits).numpy()):
        rows[i]["class"] = predictor.class_names[int(p.argmax())]
        rows[i] |= {f"p_{name}": float(value) for name, value in zip(predictor.class_names, p)}
        rows[i] |= {"confidence": float(p.max()), "entropy": float(-(p * np.log(np.maximum(p, 1e-300))).sum())}


def _put_estimates(predictor: Predictor, numbers: torch.Tensor, rows: list[dict[str, Any]], good: list[int]) -> None:
    answer = predictor.estimates_of(numbers)
    for t, name in enumerate(predictor.outputs.targets):
        for key, what in (("mean", ""), ("sigma", "_sigma"), ("low", "_low"), ("high", "_high")):
            for i, value in zip(good, answer[key][:, t].tolist()):
                rows[i][name + what] = value if np.isfinite(value) else None
