"""The body of `evaluate`: tests a model on new images and writes the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloformer.artefact.read import run_folder
from haloformer.evaluation import drawing, report
from haloformer.evaluation.measured import Evaluation
from haloformer.evaluation.predictions import check_measurable, predictions_of, rows_of
from haloformer.evaluation.result import result_of
from haloformer.evaluation.testset import (
    class_order,
    open_test_images,
    own_survey,
)
from haloformer.io import strict_json
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.tables import table, write_csv
from haloformer.prediction.predictor import load
from haloformer.prediction.result import descriptions_of
from haloformer.readers.reading import check_batch_size
from haloformer.vocabulary import unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_KINDS = ("fits", "ecsv", "vot", "parquet")
_FILES = ("metrics.json", "report.html")  # files that mark a folder as an evaluation


def run_evaluation(
    run: str,
    data: str | None,
    *,
    out: str | None,
    n: int | None,
    seed: int | None,
    noise: str | None,
    batch_size: int,
    device: str,
    overwrite: bool,
    progress: bool | None,
    skip_bad: bool,
    tables: str | None = None,
) -> Evaluation:
    """Carries out :func:`haloformer.evaluation.evaluate` (see there for the arguments)."""
    if tables not in (None, *_KINDS):
        raise unknown_name("kind of table", str(tables), _KINDS)
    check_batch_size(batch_size)
    predictor = load(run, device)
    data = data if data is not None else own_survey(predictor, run)
    images = open_test_images(data, predictor, n=n, seed=seed, noise=noise, skip_bad=skip_bad)
    target = Path(out) if out is not None else _default_folder(run) / images.stem
    refuse_existing(target, overwrite, _FILES, "evaluation")

    order = class_order(images, predictor, some=True)
    predictions = predictions_of(predictor, images, order, batch_size, progress)
    check_measurable(predictor, images, predictions)

    result = result_of(predictor, Path(run), images, predictions)
    result["warnings"] = [*images.notes, *result["warnings"]]
    drawn = drawing.draw(result, predictor, Path(run), images, predictions)
    rows = rows_of(predictor, images, predictions)
    _write_folder(target, overwrite, result, drawn, rows, tables)
    return Evaluation({**result, "out": str(target), "report": str(target / "report.html")})


def _default_folder(run: str) -> Path:
    """Returns the folder of a run's evaluations; that of a shipped model is not in the package."""
    if Path(run).exists():
        return run_folder(Path(run)) / "evaluation"
    return Path("evaluations") / run


def _write_folder(
    target: Path,
    overwrite: bool,
    result: dict[str, Any],
    drawn: dict[str, "Figure"],
    rows: list[dict[str, Any]],
    tables: str | None,
) -> None:
    """Writes everything; an old evaluation goes only when the new one is whole."""
    with new_folder(target, overwrite, _FILES, "evaluation") as part:
        in_order = {name: drawn[name] for name in report.captions(result) if name in drawn}
        svgs, pngs = drawing.save_figures(part, in_order)
        (part / "report.html").write_text(report.to_html(result, svgs), encoding="utf-8")
        (part / "report.md").write_text(report.to_markdown(result, pngs), encoding="utf-8")
        (part / "metrics.json").write_text(strict_json.to_json(result), encoding="utf-8")
        with write_csv(part / "predictions.csv", list(rows[0])) as write:
            write(rows)
        if tables is not None:
            _write_tables(part, tables, Evaluation(result), rows)


def _write_tables(part: Path, kind: str, measured: Evaluation, rows: list[dict[str, Any]]) -> None:
    """Writes predictions and measures as tables that say units and provenance."""
    measured.write(part / f"measures.{kind}")
    names = list(rows[0])
    about = descriptions_of(names, measured["class_names"])
    path = part / f"predictions.{kind}"
    with table(path, names, False, measured.provenance(), about) as write:
        write(rows)
