import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from haloformer.data.store import write_dataset
from haloformer.models import create_model
from haloformer.simulation import simulate


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder: the artefact of a small untrained transformer, and a log of two epochs."""
    run = tmp_path / "runs" / "x"
    (run / "artefact").mkdir(parents=True)
    torch.manual_seed(0)
    model = create_model("vit_nano", img_size=64, depth=1)
    save_file(model.state_dict(), run / "artefact" / "weights.safetensors")
    artefact = {
        "format": 1,
        "model": {"name": "vit_nano", "img_size": 64, "in_chans": 1, "num_classes": 3, "kwargs": {"depth": 1}},
        "class_names": ["axion", "cdm", "no_sub"],
        "normalization": {"kind": "image_max", "statistics": {}},
        "image_shape": [1, 64, 64],
        "survey": "model_ii",
        "noise": "instrument",
        "pixel_scale": 0.101,
        "training": {"data": "model_ii", "seed": 0, "train_seed": 10, "val_seed": 11, "epochs": 2, "best_epoch": 1},
    }
    (run / "artefact" / "artefact.json").write_text(json.dumps(artefact))
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
