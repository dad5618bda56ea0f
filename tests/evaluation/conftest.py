import shutil
from pathlib import Path

import pytest

from haloformer.data.dataset_writer import write_dataset
from haloformer.simulation import simulate


@pytest.fixture
def run(tmp_path, write_untrained_run) -> Path:
    """A run folder: the artefact of a small untrained transformer, and a log of two epochs."""
    run = write_untrained_run(
        tmp_path / "runs" / "x", 1, {"kind": "image_max", "statistics": {}}, "instrument"
    )
    log = "epoch,step,train_loss,val_loss,val_macro_auc\n0,10,1.1,,\n0,10,,1.0,0.6\n1,20,0.9,,\n1,20,,0.95,0.7\n"
    (run / "metrics.csv").write_text(log)
    return run


@pytest.fixture(scope="session")
def lenses():
    return simulate("model_ii", 60, seed=5, noise="instrument")


@pytest.fixture
def dataset(lenses, tmp_path) -> Path:
    path = tmp_path / "test.h5"
    write_dataset(
        path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes
    )
    return path


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the drawing, the slow part, where a test is not about it."""
    monkeypatch.setattr("haloformer.evaluation.drawing.draw", lambda *args: {})


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train_once):
    """A function of a task's options that gives the run folder of a tiny network after one short epoch."""
    copies: dict[Path, Path] = {}

    def run(**options) -> Path:
        small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
        result = train_once(
            data="model_ii", model="vit_nano", epochs=1, epoch_size=128, val_size=60,
            model_args=small, normalization="asinh_faint", **options,
        )  # fmt: skip
        if result.out not in copies:
            folder = tmp_path_factory.mktemp("trained") / "run"
            copies[result.out] = shutil.copytree(result.out, folder)
        return copies[result.out]

    return run
