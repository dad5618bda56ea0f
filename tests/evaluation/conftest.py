from pathlib import Path

import pytest

from haloformer.data.store import write_dataset
from haloformer.simulation import simulate


@pytest.fixture
def run(tmp_path, write_untrained_run) -> Path:
    """A run folder: the artefact of a small untrained transformer, and a log of two epochs."""
    run = write_untrained_run(tmp_path / "runs" / "x", 1, {"kind": "image_max", "statistics": {}}, "instrument")
    log = "epoch,step,train_loss,val_loss,val_macro_auc\n0,10,1.1,,\n0,10,,1.0,0.6\n1,20,0.9,,\n1,20,,0.95,0.7\n"
    (run / "metrics.csv").write_text(log)
    return run


@pytest.fixture(scope="session")
def lenses():
    return simulate("model_ii", 60, seed=5, noise="instrument")


@pytest.fixture
def dataset(lenses, tmp_path) -> Path:
    path = tmp_path / "test.h5"
    write_dataset(path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes)
    return path
