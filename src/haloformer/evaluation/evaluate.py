"""How good a trained model is on images that it has not seen: numbers with intervals, figures, and a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from haloformer.artefact.read import run_folder
from haloformer.errors import InputError
from haloformer.evaluation import report
from haloformer.evaluation.answers import answers_of, check_that_something_can_be_measured, rows_of
from haloformer.evaluation.drawing import draw, save_figures
from haloformer.evaluation.result import result_of
from haloformer.evaluation.testset import (
    class_order,
    open_test_images,
)
from haloformer.io import strict_json
from haloformer.io.folders import new_folder, refuse_existing
from haloformer.io.tables import write_csv
from haloformer.prediction.predictor import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_FILES = ("metrics.json", "report.html")  # by which an evaluation is known


def evaluate(
    run: str,
    data: str,
    *,
    out: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    noise: Literal["original", "instrument", "none"] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Tests a trained model and writes metrics, figures, predictions and a report.

    The folder ``out`` gets ``report.html`` (one self-contained page), ``report.md``, ``metrics.json``,
    ``predictions.csv`` and ``figures/`` (PNG, SVG and PDF). It appears only when all of it is written.

    Args:
        run: Run folder or artefact folder, or the name of a shipped model.
        data: A dataset (.h5), or the name of a survey, of which fresh test images are then simulated.
        out: Folder to write; ``run/evaluation/NAME`` by default, and for a shipped model ``evaluations/run/NAME``.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default the first after the seeds of the training; for a survey only.
        noise: Of the images to simulate; by default that of the training; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Replace an earlier evaluation in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``metrics.json`` (NaN where that says null), with ``out`` and ``report``, the paths of the folder
        and of the page.
        ``contaminated`` is True if the model was trained or selected on these images.

    Raises:
        InputError: The model or the data cannot be read, or do not fit each other, or ``out`` exists.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")
    predictor = load(run, device)
    images = open_test_images(data, predictor, n=n, seed=seed, noise=noise)
    # A shipped model has no folder of the user's.
    exists = Path(run).exists()
    home = run_folder(Path(run)) / "evaluation" if exists else Path("evaluations") / run
    target = Path(out) if out is not None else home / images.stem
    refuse_existing(target, overwrite, _FILES, "evaluation")

    order = class_order(images, predictor)
    answers = answers_of(predictor, images, order, batch_size, progress)
    check_that_something_can_be_measured(predictor, images, answers)

    result = result_of(predictor, Path(run), images, answers)
    drawn = draw(result, predictor, Path(run), images, answers)
    _write_folder(target, overwrite, result, drawn, rows_of(predictor, images, answers))
    return {**result, "out": str(target), "report": str(target / "report.html")}


def _write_folder(
    target: Path,
    overwrite: bool,
    result: dict[str, Any],
    drawn: dict[str, "Figure"],
    rows: list[dict[str, Any]],
) -> None:
    """Writes everything; an old evaluation goes only when the new one is whole."""
    with new_folder(target, overwrite, _FILES, "evaluation") as part:
        in_order = {name: drawn[name] for name in report.captions(result) if name in drawn}
        svgs, pngs = save_figures(part, in_order)
        (part / "report.html").write_text(report.to_html(result, svgs), encoding="utf-8")
        (part / "report.md").write_text(report.to_markdown(result, pngs), encoding="utf-8")
        (part / "metrics.json").write_text(strict_json.to_json(result), encoding="utf-8")
        with write_csv(part / "predictions.csv", list(rows[0])) as write:
            write(rows)
