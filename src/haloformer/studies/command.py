"""`study` and `benchmark`: many trainings tested on the same images, and the table that compares them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from haloformer.errors import InputError

if TYPE_CHECKING:
    from haloformer.studies.results import StudyResult


def study(
    name: str,
    *,
    out: str | None = None,
    preset: str | list[str] | None = None,
    only: str | list[str] | None = None,
    seeds: int | None = None,
    workers: int = 1,
    report_only: bool = False,
    progress: bool = True,
    options: dict[str, Any] | None = None,
) -> "StudyResult":
    """Runs a study: trains every variant with every seed, tests all on the same images, writes a table and a figure.

    A study is a YAML file: what all runs share (``base``), what differs (``variants`` or ``grid``), how many seeds,
    and the test images. Calling it again goes on where it stopped: finished runs are not repeated, an interrupted one
    resumes, failed ones are tried again.

    Args:
        name: A shipped study (augmentation, regularization, data_size, transfer, zoo), or a YAML file of your own.
        out: Folder to write, or to continue; ``studies/NAME`` by default.
        preset: Presets that are put over the study's base.
        only: Run these variants only: names or patterns, such as ``d4,flips`` or ``*-1000``.
        seeds: How many seeds; by default as the study says.
        workers: Processes that train at the same time; the processor's cores are shared out among them.
        report_only: Train nothing: write table and figure anew from the results that are there, of the variants and seeds of the last call.
        progress: Say after each run how it went.
        options: Fields of the experiment, such as ``{"epochs": 5}``, that are put over the study's base and its presets. What a variant
            changes stays changed.

    Returns:
        The rows of the table, and the folder.

    Raises:
        InputError: An unknown study, key or field; test images that are trained on; a folder that holds something else; or no run at
            all succeeded. A run that fails is no error of the study: the table shows its message.
        KeyboardInterrupt: Ctrl-C; finished runs are kept.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    from haloformer.studies.plan import read_study, with_options
    from haloformer.studies.run import carry_out, report_again
    from haloformer.studies.settings import command_line

    folder = Path(out) if out is not None else Path("studies") / Path(name).stem
    if report_only:
        given = {"preset": preset, "only": only, "seeds": seeds, **(options or {})}
        if idle := [name for name, value in given.items() if value is not None and value != []]:
            raise InputError(
                f"{idle[0]} is for runs: report_only reports the study as {folder / 'study.yaml'} says it was run last"
            )
        return report_again(folder, "study")[-1]
    plan = with_options(read_study(name), preset, options, seeds)
    said: dict[str, object] = {"preset": preset, "only": only, "seeds": seeds, "out": out}
    said["workers"] = workers if workers != 1 else None
    command = command_line("study", [name], said, options)
    return carry_out(plan, folder, command, only, workers, progress, options)


def benchmark(
    *,
    models: str | list[str] = "*_nano",
    surveys: str | list[str] = "model_ii",
    seeds: int = 3,
    budget: int = 24_000,
    noise: Literal["survey", "original", "instrument", "none"] = "survey",
    train_data: str | None = None,
    test_data: str | None = None,
    n_test: int = 3000,
    out: str = "leaderboard",
    preset: str | list[str] | None = None,
    workers: int = 1,
    report_only: bool = False,
    progress: bool = True,
    options: dict[str, Any] | None = None,
) -> "StudyResult":
    """Trains many networks alike and ranks them, beside the published AUCs of the same architectures.

    Writes leaderboard.md, .csv and .html, ROC curves and a confusion matrix, with all that is needed to run it again. It can be stopped at any
    time: the same command goes on. Nothing is chosen by the test images.

    Args:
        models: Names or patterns, such as ``*_nano`` or ``resnet18,coatnet_lens_nano``.
        surveys: Names of surveys, each a table of its own; with train_data one name, for what was published of it.
        seeds: How many trainings of each network.
        budget: Images that each network is shown in training; of a survey no image twice.
        noise: Of the images: ``survey`` takes the original noise of a survey, and for Models II and III, released without any, their
            instruments'.
        train_data: A DeepLense folder or archive, or a dataset file, to train on instead of simulating; validated on a part of it.
        test_data: The same for the test images, which are not used for anything else.
        n_test: Test images to simulate.
        out: Folder to write, or to continue.
        preset: Presets for all trainings.
        workers: Processes that train at the same time.
        report_only: Train nothing: write the leaderboard anew from the results that are there.
        progress: Say after each run how it went.
        options: Fields of the experiment, such as ``{"lr": 1e-3}``, for all trainings.

    Returns:
        The study's result: folder, rows, counts.

    Raises:
        InputError: Unknown networks, surveys or fields, or data that cannot be read.
    """
    given = dict(locals())
    from haloformer.studies import ranking
    from haloformer.studies.leaderboard import write_leaderboard
    from haloformer.studies.run import carry_out, report_again

    ranking.check_numbers(budget=budget, n_test=n_test, seeds=seeds, workers=workers)
    folder = Path(out)
    if report_only:
        plan, command, result = report_again(folder, "benchmark")
    else:
        images = ranking.images_of(surveys, noise, n_test, train_data, test_data, folder)
        plan = ranking.plan_of(models, images, seeds, budget, preset, options)
        command = ranking.command_of(given, benchmark.__kwdefaults__ or {})
        ranking.convert_images(images, folder, plan, command, progress)
        result = carry_out(plan, folder, command, None, workers, progress, options)
    write_leaderboard(folder, plan, command, result)
    return result
