from pathlib import Path

import numpy as np
import pytest

from haloformer.data.store import write_dataset
from haloformer.simulation import simulate


@pytest.fixture(scope="session")
def original_run(tmp_path_factory, write_untrained_run) -> Path:
    """A run folder with the artefact of a small untrained transformer; not to be changed."""
    normalization = {"kind": "standard", "statistics": {"mean": [0.2], "std": [0.5]}}
    return write_untrained_run(tmp_path_factory.mktemp("runs") / "x", 2, normalization, "original")


@pytest.fixture
def run(original_run, tmp_path) -> Path:
    """A copy of the run folder that a test may spoil."""
    import shutil

    return shutil.copytree(original_run, tmp_path / "run")


@pytest.fixture(scope="session")
def lenses():
    return simulate("model_ii", 12, seed=5)


@pytest.fixture
def folder(lenses, tmp_path) -> Path:
    """A folder of images as users have them."""
    path = tmp_path / "images"
    path.mkdir()
    for i, image in enumerate(lenses.images.numpy()):
        np.save(path / f"lens_{i:02d}.npy", image[0])
    return path


@pytest.fixture
def dataset(lenses, tmp_path) -> Path:
    path = tmp_path / "test.h5"
    write_dataset(path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes)
    return path
