"""Images that occur twice: within the test set, and in the file that training read."""

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import Tensor

from haloformer.data.dataset import LensDataset
from haloformer.data.reader import DATASET_SUFFIXES
from haloformer.errors import InputError
from haloformer.evaluation.testset import TestImages, training_of
from haloformer.prediction.predictor import Predictor

_BATCH = 256
_LARGEST = 2**32  # bytes of a training file that is read only to compare it: half a minute or so


def image_hashes(images: Tensor) -> list[bytes]:
    """Returns a hash of each image (B, C, H, W): equal images, pixel by pixel, have equal ones."""
    # Adding 0 makes −0 and 0, which are equal, the same bits.
    return [
        blake2b(image.tobytes(), digest_size=16).digest()
        for image in (images.float().cpu() + 0.0).numpy()
    ]


def count_duplicates(
    predictor: Predictor, images: TestImages, hashes: Sequence[bytes]
) -> dict[str, Any]:
    """Returns how many test images occur twice or more.

    Args:
        predictor: Whose artefact may name the file of its training.
        images: The test images.
        hashes: Of each that was tested.

    Returns:
        ``within``: images that another of the test set equals; ``in_training``: those that are also in the file that
        training read, None where that is not known, cannot be read, or is larger than 4 GiB.
    """
    counts = Counter(hashes)
    return {
        "within": sum(n for n in counts.values() if n > 1),
        "in_training": _in_training(predictor, images, hashes),
    }


def _in_training(predictor: Predictor, images: TestImages, hashes: Sequence[bytes]) -> int | None:
    source = training_of(predictor).get("data")
    if not isinstance(source, str) or Path(source).suffix.lower() not in DATASET_SUFFIXES:
        return None
    try:
        if Path(source).stat().st_size > _LARGEST:
            return None
        dataset = LensDataset(Path(source))
        if tuple(dataset.image_shape) != tuple(images.image_shape):
            return 0
        wanted, found = set(hashes), set()
        for batch, _ in dataset.batches(_BATCH):
            found |= wanted.intersection(image_hashes(batch))
    except (InputError, OSError):
        return None
    return sum(each in found for each in hashes)


def duplicates_in_words(duplicates: dict[str, Any], n: int) -> list[str]:
    """Returns a warning for each kind of duplicates that there are among n tested images."""
    warnings = []
    if shared := duplicates["in_training"]:
        warnings.append(
            f"{shared:,} of {n:,} test images are also in the file that training read: the results do not hold for "
            "new images."
        )
    if duplicates["within"]:
        warnings.append(
            f"{duplicates['within']:,} of {n:,} images occur more than once in the test set: intervals, which take "
            "images for independent, are too narrow."
        )
    return warnings
