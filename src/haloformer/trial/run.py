"""What `try` does: the images that come with the package are fitted, drawn and classified."""

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from haloformer.errors import InputError
from haloformer.fitting.reallens.files import LensFiles, fit_files
from haloformer.fitting.reallens.result import RealLensFit
from haloformer.fitting.reallens.run import Options
from haloformer.io.progress import tell
from haloformer.io.writing import check_parents, write_bytes
from haloformer.readers.reading import Reading
from haloformer.vocabulary import CLASS_NAMES

IMAGES = Path(__file__).parent / "images"
"""What comes with the package, made by ``python benchmarks/trial.py``."""

LENS = ("simulated_lens.fits", "psf.fits", "noise.fits")
"""The lens as HST sees it, its point-spread function and its noise map."""

CLASSES = {f"model_i_{name}.fits": name for name in CLASS_NAMES}
"""Images of Model I with their true classes."""

RADIUS = 2.1  # arcsec, of the pixels that count
NETWORK = "model_i"
OPTIONS = Options()


@dataclass(frozen=True)
class Answer:
    """What the network says of an image.

    Attributes:
        file: Its name.
        truth: Its true class; None where the network has no class for what it is.
        found: The class that is given: ``unknown`` if the image is out of distribution.
        likeliest: The class that the network would take.
        probability: That of this class, by the network.
        score: Distance from the training images; above 1 is out of distribution.
        reason: Why it is out of distribution; empty if it is not.
    """

    file: str
    truth: str | None
    found: str
    likeliest: str
    probability: float
    score: float
    reason: str


@dataclass(frozen=True)
class TrialSummary:
    """Result of a call of `try`.

    Attributes:
        out: The folder that was written.
        fit: Of the lens.
        truth: Keyword of the lens's FITS header → number.
        answers: Of the images of Model I, then of the lens.
        seconds: That it took.
    """

    out: Path
    fit: RealLensFit
    truth: Mapping[str, float]
    answers: tuple[Answer, ...]
    seconds: float


def carry_out(out: str) -> TrialSummary:
    """Does what :func:`~haloformer.trial.command.try_out` says."""
    began = time.perf_counter()
    folder = Path(out)
    _put_images(folder)
    lens, psf, noise_map = (str(folder / name) for name in LENS)
    tell(
        "[1/2] fitting a simulated HST image of a lens: its mass, its light, and the source (under a minute)"
    )
    files = LensFiles(lens, psf, noise_map, radius=RADIUS)
    fitted = fit_files(files, Reading(), OPTIONS, out=str(folder / "fit"), overwrite=True)
    tell(
        f"[2/2] classifying simulated images of Model I, and that of HST, by the network {NETWORK}"
    )
    answers = _classified(folder)
    return TrialSummary(folder, fitted.fit, _truth(lens), answers, time.perf_counter() - began)


def _put_images(folder: Path) -> None:
    """Copies the images into a folder: a new one, an empty one, or that of an earlier call."""
    contents = {name: (IMAGES / name).read_bytes() for name in (*LENS, *CLASSES)}
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}: is not a folder; choose another name by --out")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    ours = present & contents.keys()
    if (present and not ours) or any(
        (folder / name).read_bytes() != contents[name] for name in ours
    ):
        raise InputError(
            f"{folder}: holds something else than these images and is not overwritten; choose another folder by --out"
        )
    check_parents(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in contents.keys() - ours:
            write_bytes(folder / name, contents[name])
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _truth(lens: str) -> dict[str, float]:
    """Returns the numbers in the header of the lens's image."""
    from astropy.io import fits

    header = fits.getheader(lens)
    return {key: float(value) for key, value in header.items() if isinstance(value, int | float)}


def _classified(folder: Path) -> tuple[Answer, ...]:
    """Writes predictions.csv, and returns what it says."""
    from haloformer.prediction.to_table import Shards, predict_to_table

    names = (*CLASSES, LENS[0])
    table = folder / "predictions.csv"
    predict_to_table(
        NETWORK,
        [str(folder / name) for name in names],
        str(table),
        reading=Reading(),
        shards=Shards(),
        batch_size=len(names),
        device="cpu",
        overwrite=True,
        on_error="stop",
        progress=None,
        raw=False,
    )
    with table.open(encoding="utf-8", newline="") as file:
        return tuple(_answer(name, row) for name, row in zip(names, csv.DictReader(file)))


def _answer(name: str, row: Mapping[str, str]) -> Answer:
    chances = {each: float(row[f"p_{each}"]) for each in CLASS_NAMES}
    likeliest = max(chances, key=lambda each: chances[each])
    return Answer(
        name,
        CLASSES.get(name),
        row["class"],
        likeliest,
        chances[likeliest],
        float(row["ood_score"]),
        row["ood_reason"],
    )
