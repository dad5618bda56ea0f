"""The commands ``evaluate``, ``compare`` and ``calibrate``."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from haloformer.evaluation.measured import Comparison, Evaluation


_NO_ARRAYS = (
    "name a dataset file, class folders or a survey; of images in memory haloformer.predict gives the probabilities, and "
    "LensClassifier's score the accuracy"
)


def evaluate(
    run: str,
    data: str | None = None,
    *,
    out: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    noise: Literal["original", "instrument", "none"] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
    skip_bad: bool = False,
    tables: Literal["fits", "ecsv", "vot", "parquet"] | None = None,
) -> "Evaluation":
    """Tests a trained model and writes metrics, figures, predictions and a report.

    The folder ``out`` gets ``report.html`` (one self-contained page), ``report.md``, ``metrics.json``,
    ``predictions.csv`` and ``figures/`` (PNG, SVG and PDF). It appears only when all of it is written.

    Args:
        run: Run folder or artefact folder, or the name of a shipped model.
        data: A dataset (.h5); or what `convert` makes one of, such as class folders, an archive of them, or a .npz file
            with images and labels; or the name of a survey, of which fresh test images are then simulated. By default the
            survey that the model was trained on.
        out: Folder to write; ``run/evaluation/NAME`` by default, and for a shipped model ``evaluations/run/NAME``.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default the first after the seeds of the training; for a survey only.
        noise: Of the images to simulate; by default that of the training; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Replace an earlier evaluation in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.
        skip_bad: Leave out images of folders and archives that cannot be read; the warnings of the result say how
            many, and why.
        tables: Also write ``predictions`` and ``measures`` (metrics with intervals) as tables of this kind, with units
            and provenance; vot is a VOTable.

    Returns:
        The content of ``metrics.json`` (NaN where that says null), with ``out`` and ``report``, the paths of the folder
        and of the page.
        ``contaminated`` is True if the model was trained or selected on these images. It is a mapping that
        shows itself in a notebook, with ``to_table()``, ``to_pandas()`` and ``plot()``.

    Raises:
        InputError: The model or the data cannot be read, or do not fit each other, or ``out`` exists.

    Examples:
        >>> import haloformer
        >>> tested = haloformer.evaluate("model_ii", n=60, out="tested", progress=False)
        >>> tested["macro_auc"]["value"] > 0.9
        True
        >>> tested.to_table().colnames[:5]
        ['measure', 'of', 'value', 'low', 'high']
    """
    from haloformer.evaluation.evaluation import run_evaluation
    from haloformer.files import as_name

    return run_evaluation(
        run,
        None if data is None else as_name(data, "data", _NO_ARRAYS),
        out=out,
        n=n,
        seed=seed,
        noise=noise,
        batch_size=batch_size,
        device=device,
        overwrite=overwrite,
        progress=progress,
        skip_bad=skip_bad,
        tables=tables,
    )


def compare(
    runs: list[str],
    *,
    data: str | None = None,
    out: str = "comparison",
    n: int | None = None,
    seed: int | None = None,
    noise: Literal["original", "instrument", "none"] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
) -> "Comparison":
    """Compares trained models on the same test images by paired tests against the first of them.

    The folder ``out`` gets ``report.html`` (one self-contained page), ``report.md``, ``comparison.json`` and ``figures/``.
    It appears only when all of it is written.

    Args:
        runs: Two or more run folders, artefact folders or names of shipped models; or folders that evaluations of the
            same images wrote; these models are not run again. The first is the reference of the comparison.
        data: A dataset (.h5), or the name of a survey, of which fresh test images are then simulated; not with folders
            of evaluations.
        out: Folder to write.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default one that no model was trained or selected with; for a survey only.
        noise: Of the images to simulate; by default that of the first model's training; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        overwrite: Replace an earlier comparison in ``out``.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        The content of ``comparison.json`` (NaN where that says null), with ``out`` and ``report``, the paths of the folder
        and of the page; a mapping that shows itself, as that of `evaluate` does.

    Raises:
        InputError: Something cannot be read, the models tell different classes apart, or had different images.
    """
    from haloformer.evaluation.comparison import run_comparison

    return run_comparison(
        runs,
        data=data,
        out=out,
        n=n,
        seed=seed,
        noise=noise,
        batch_size=batch_size,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )


def calibrate(
    run: str,
    *,
    data: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    batch_size: int = 256,
    device: str = "auto",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Calibrates a trained model's probabilities and fits its out-of-distribution detector.

    Writes ``calibration`` and ``ood`` into ``artefact.json`` and the file ``ood.safetensors`` beside it; the weights stay as
    they are. Training does this at its end; this is for models that were trained before it did, and for more or other
    images. The images should be like those of the training, but none that it used, and the model should not be tested on
    them afterwards.

    Args:
        run: Run folder or artefact folder.
        data: A dataset (.h5) with classes, or a survey, of which images are then simulated; by default the survey of the training.
        n: Number of images to simulate, 3000 by default; for a survey only.
        seed: Of the images to simulate; by default that of the training's validation images; for a survey only.
        batch_size: Images per batch; does not change the result.
        device: ``"auto"`` takes a GPU if there is one.
        progress: Show a progress bar; by default when standard error is a terminal.

    Returns:
        ``calibration`` and ``ood``, as the artefact now holds them, ``n``, ``data`` and ``out``.

    Raises:
        InputError: The model or the data cannot be read, or do not fit each other.
    """
    from haloformer.evaluation.calibration import run_calibration

    return run_calibration(
        run, data=data, n=n, seed=seed, batch_size=batch_size, device=device, progress=progress
    )
