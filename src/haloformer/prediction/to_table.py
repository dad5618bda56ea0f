"""Predictions of image files as a table: in this process, or by shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haloformer.data.reader import Reading, find_inputs
from haloformer.errors import InputError
from haloformer.io.progress import progress_bar
from haloformer.io.tables import checked_table_path, table
from haloformer.prediction.cameras import CameraFiles
from haloformer.prediction.predictor import load
from haloformer.prediction.result import descriptions_of
from haloformer.prediction.rows import (
    Kept,
    PredictionSummary,
    empty_summary,
    predicted_rows,
    provenance_of,
    table_columns,
)


@dataclass(frozen=True)
class Shards:
    """Who does the work, and in what portions; see `haloformer.predict`."""

    workers: int = 0
    size: int = 8192
    ray_address: str | None = None

    @property
    def alone(self) -> bool:
        """Whether this process does it without others."""
        return not self.workers and self.ray_address is None


def predict_to_table(
    run: str,
    images: Sequence[str],
    out: str,
    *,
    reading: Reading,
    shards: Shards,
    batch_size: int,
    device: str,
    overwrite: bool,
    on_error: str,
    progress: bool | None,
    raw: bool,
    cameras: CameraFiles | None = None,
    kept: Kept | None = None,
) -> PredictionSummary:
    """Writes a table with one row per image: `haloformer.predict`, whose arguments these are.

    Args:
        run: Run folder, artefact folder, or the name of a shipped model.
        images: Files, folders, patterns, datasets.
        out: Table to write.
        reading: How the images are read.
        shards: Who does the work.
        batch_size: Images per batch.
        device: As `load` takes it.
        overwrite: Replace ``out`` if it exists.
        on_error: ``"row"``, ``"skip"`` or ``"stop"``.
        progress: Show a progress bar; by default when standard error is a terminal.
        raw: Flagged images have class and estimates all the same.
        cameras: Where the images' own point-spread functions and noise maps are.
        kept: Gets the table's rows, too.
    """
    if shards.size < 1:
        raise InputError(f"shard_size must be at least 1, not {shards.size}")
    reading.check()
    target = Path(out)
    if shards.alone or target.suffix:
        checked_table_path(target, overwrite)
    elif on_error == "skip":
        raise InputError(f"skip_bad makes one table, such as {out}.parquet, not a folder of shards")
    predictor = load(run, device if shards.alone else "cpu")
    inputs = find_inputs(
        images,
        keep_errors=on_error != "stop",
        channels=predictor.image_shape[0],
        reading=reading,
    )
    cameras = cameras or CameraFiles()
    cameras.check(predictor, inputs)
    columns = table_columns(predictor, inputs, on_error)
    total = sum(each.n for each in inputs)
    if kept is not None:
        kept.names, kept.predictor = columns, predictor
    if not shards.alone or total > shards.size:
        from haloformer.prediction.shards import predict_shards

        return predict_shards(
            predictor,
            inputs,
            target,
            columns,
            run=run,
            workers=None if shards.alone else shards.workers,
            shard_size=shards.size,
            ray_address=shards.ray_address,
            batch_size=batch_size,
            device=device,
            reading=reading,
            overwrite=overwrite,
            on_error=on_error,
            progress=progress,
            raw=raw,
            cameras=cameras,
            kept=kept,
        )
    summary = empty_summary(target, predictor, raw, on_error)
    with (
        table(
            target,
            columns,
            overwrite,
            provenance_of(predictor, run),
            descriptions_of(columns, predictor.class_names),
        ) as write,
        progress_bar("predict", total, progress) as advance,
    ):
        for rows in predicted_rows(
            predictor,
            inputs,
            batch_size,
            reading=reading,
            on_error=on_error,
            raw=raw,
            cameras=cameras,
            kept=kept,
        ):
            write(belonging := summary.count(rows))
            if kept is not None:
                kept.add(belonging)
            advance(len(rows))
        summary.finish()
    return summary
