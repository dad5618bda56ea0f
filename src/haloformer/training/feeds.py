"""Opens the training data that an experiment names: a dataset file or a survey."""

from pathlib import Path

from haloformer.errors import InputError
from haloformer.io.shards import shards_hint
from haloformer.readers.reading import DATASET_SUFFIXES
from haloformer.simulation import names_survey
from haloformer.training.config import Experiment
from haloformer.training.examples import Feed
from haloformer.training.file_feed import open_file_feed
from haloformer.training.survey_feed import open_survey_feed


def open_feed(experiment: Experiment) -> Feed:
    """Opens what ``data.source`` names: a dataset file (``.h5``, ``.hdf5``), or else a survey.

    Raises:
        InputError: No data, data that cannot be used, or fewer images than a batch.
    """
    data = experiment.data
    if not data.source:
        raise InputError(
            "data is missing: name a survey (data: model_ii) or a dataset file (data: train.h5)"
        )
    path = Path(data.source)
    suffix = path.suffix.lower()
    known = suffix in DATASET_SUFFIXES or names_survey(data.source)
    if path.exists() and not known:
        if hint := shards_hint(path):
            raise InputError(hint)
        raise InputError(
            f"{path}: is neither a dataset file (.h5) nor a survey (.yaml); "
            "`haloformer convert` makes a dataset of images"
        )
    opened = open_file_feed if suffix in DATASET_SUFFIXES else open_survey_feed
    return opened(experiment)
