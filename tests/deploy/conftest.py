import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from haloformer.data.store import write_dataset
from haloformer.models import create_model
from haloformer.simulation import simulate


@pytest.fixture(scope="session")
def original_run(tmp_path_factory) -> Path:
    """A run folder with the artefact of a small untrained transformer; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "x"
    (run / "artefact").mkdir(parents=True)
    torch.manual_seed(0)
    model = create_model("vit_nano", img_size=64, depth=2)
    save_file(model.state_dict(), run / "artefact" / "weights.safetensors")
    artefact = {
        "format": 1,
        "model": {"name": "vit_nano", "img_size": 64, "in_chans": 1, "num_classes": 3, "kwargs": {"depth": 2}},
        "class_names": ["axion", "cdm", "no_sub"],
        "normalization": {"kind": "standard", "statistics": {"mean": [0.2], "std": [0.5]}},
        "image_shape": [1, 64, 64],
        "survey": "model_ii",
        "noise": "original",
        "pixel_scale": 0.101,
        "training": {"data": "model_ii", "seed": 0, "train_seed": 10, "val_seed": 11, "epochs": 2, "best_epoch": 1},
    }
    (run / "artefact" / "artefact.json").write_text(json.dumps(artefact))
    return run


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
