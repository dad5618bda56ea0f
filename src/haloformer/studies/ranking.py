"""The study that a benchmark is: many networks trained alike on the same surveys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haloformer.data.conversion import convert
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.simulation import get_any_survey
from haloformer.studies.plan import Study, parse_study, with_options
from haloformer.studies.run import write_description
from haloformer.studies.settings import command_line

EPOCH_SIZE = 4800
"""Images per epoch of a benchmark: how often it is validated."""

_SURVEY_NOISE = {
    "model_ii": "instrument",
    "model_iii": "instrument",
}  # released without any: too easy to rank networks


@dataclass(frozen=True)
class BenchmarkImages:
    """Training and test images of a benchmark.

    Attributes:
        data: Survey → the fields of an experiment that name its training images.
        test: Which images the networks are tested on, as a study's file says it.
        conversions: Folder or archive → the dataset file that is made of it.
    """

    data: dict[str, dict[str, str]]
    test: dict[str, object]
    conversions: dict[str, str] = field(default_factory=dict)


def images_of(
    surveys: str | list[str],
    noise: str,
    n_test: int,
    train_data: str | None,
    test_data: str | None,
    folder: Path,
) -> BenchmarkImages:
    """Returns what the networks are trained and tested on; arguments as in `benchmark`."""
    names = _listed(surveys)
    if train_data is not None and test_data is not None:
        return _given_images(names, train_data, test_data, folder)
    if train_data is not None or test_data is not None:
        raise InputError(
            "train_data and test_data go together: one to train on, one that is left untouched for the test"
        )
    return _simulated_images(names, noise, n_test)


def _listed(names: str | list[str]) -> list[str]:
    """Returns names that are given with commas between them, or as a list."""
    found = [part.strip() for part in (names.split(",") if isinstance(names, str) else names)]
    if not all(found) or not found:
        raise InputError(f"'{names}' must be names with commas between them")
    return found


def _simulated_images(surveys: Sequence[str], noise: str, n_test: int) -> BenchmarkImages:
    """Returns images to simulate, of several surveys.

    Args:
        surveys: Their names.
        noise: ``survey`` takes the original noise of a survey, and the instrument's where it was released without any.
        n_test: Test images of each survey.
    """
    for survey in surveys:
        get_any_survey(survey)
    names = {survey: Path(survey).stem if "/" in survey else survey for survey in surveys}
    if len({*names.values()}) < len(names):
        raise InputError(f"surveys: two of {', '.join(names)} have the same name")
    data = {
        names[name]: {
            "data": name,
            "noise": _SURVEY_NOISE.get(name, "original") if noise == "survey" else noise,
        }
        for name in surveys
    }
    return BenchmarkImages(data, {"n": n_test})


def _given_images(
    surveys: Sequence[str], train_data: str, test_data: str, folder: Path
) -> BenchmarkImages:
    """Returns images of files, folders or archives; ``surveys`` names the one that they are of."""
    if len(surveys) != 1:
        raise InputError(
            f"with train_data, surveys names the one that the images are of, not {len(surveys)}"
        )
    paths = {
        train_data: _dataset_path(train_data, folder / "data" / "train.h5"),
        test_data: _dataset_path(test_data, folder / "data" / "test.h5"),
    }
    return BenchmarkImages(
        {surveys[0]: {"data": paths[train_data]}},
        {"data": paths[test_data]},
        {given: path for given, path in paths.items() if given != path},
    )


def _dataset_path(given: str, converted: Path) -> str:
    """Returns the dataset file itself, or where a folder or an archive is converted to."""
    is_dataset = Path(given).is_file() and Path(given).suffix.lower() in DATASET_SUFFIXES
    return given if is_dataset else str(converted)


def check_numbers(**given: int) -> None:
    """Raises InputError for a budget, or numbers of test images, seeds or workers, that is too small."""
    for name, least in (("budget", 64), ("n_test", 30), ("seeds", 1), ("workers", 1)):
        if given.get(name, least) < least:
            raise InputError(f"{name} must be at least {least}, not {given[name]}")


def plan_of(
    models: str | list[str],
    images: BenchmarkImages,
    seeds: int,
    budget: int,
    preset: str | list[str] | None,
    options: Mapping[str, object] | None,
) -> Study:
    """Returns the study of all networks on all surveys.

    Args:
        models: Names or patterns of networks.
        images: What they are trained and tested on.
        seeds: Trainings of each network.
        budget: Images that each network is shown in training.
        preset: Presets for all trainings.
        options: Fields of the experiment for all trainings.
    """
    epochs = max(1, round(budget / EPOCH_SIZE))
    raw: dict[str, object] = {
        "title": "Leaderboard",
        "question": "How do the networks compare when all are trained alike?",
        "notes": f"One recipe and {budget:,} training images for all: it compares what networks learn from so much, not what each could reach.",
        "base": {
            "augment": "d4",
            "lr": 1e-3,
            "epochs": epochs,
            "epoch_size": max(1, budget // epochs),
            "val_size": 600,
            "patience": 0,
        },
        "grid": {"model": _listed(models), "data": images.data},
        "seeds": seeds,
        "test": images.test,
        "figure": {"kind": "bars", "x": "model", "by": "data"},
    }
    return with_options(parse_study(raw, "benchmark"), preset, options, None)


def command_of(given: Mapping[str, Any], usual: Mapping[str, object]) -> str:
    """Returns the command line that does the same.

    Args:
        given: The arguments of `benchmark`.
        usual: Their defaults, which are left out.
    """
    unnamed = ("options", "report_only", "progress")
    changed = {
        name: value for name, value in given.items() if name not in unnamed and value != usual[name]
    }
    return command_line("benchmark", [], changed, given["options"])


def convert_images(
    images: BenchmarkImages, folder: Path, plan: Study, command: str, progress: bool
) -> None:
    """Makes dataset files of folders and archives, in the folder of the benchmark."""
    if images.conversions:
        write_description(folder, plan, command)
    for given, path in images.conversions.items():
        if not Path(path).exists():
            if progress:
                print(f"converting {given}", flush=True)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            convert(given, path)
