"""Fixtures that several folders share."""

import json
import os
import signal
from pathlib import Path

import pytest

# Workers side by side share the cores: a thread that has to wait for one which another worker's thread is on costs both. Read by torch
# when it is imported, and by what the tests start.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# A shell starts what runs in its background deaf to Ctrl-C, and children inherit that; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def write_untrained_run():
    """A function that writes a run folder with the artefact of a small untrained transformer."""
    import torch
    from safetensors.torch import save_file

    from haloformer.models import create_model

    def write(run: Path, depth: int, normalization: dict, noise: str) -> Path:
        (run / "artefact").mkdir(parents=True)
        torch.manual_seed(0)
        model = create_model("vit_nano", img_size=64, depth=depth)
        save_file(model.state_dict(), run / "artefact" / "weights.safetensors")
        artefact = {
            "format": 1,
            "model": {
                "name": "vit_nano",
                "img_size": 64,
                "in_chans": 1,
                "num_classes": 3,
                "kwargs": {"depth": depth},
            },
            "class_names": ["axion", "cdm", "no_sub"],
            "normalization": normalization,
            "image_shape": [1, 64, 64],
            "survey": "model_ii",
            "noise": noise,
            "pixel_scale": 0.101,
            "training": {
                "data": "model_ii",
                "seed": 0,
                "train_seed": 10,
                "val_seed": 11,
                "epochs": 2,
                "best_epoch": 1,
            },
        }
        (run / "artefact" / "artefact.json").write_text(json.dumps(artefact))
        return run

    return write


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A run folder of a tiny network after one short epoch: real, and bad at its job."""
    from haloformer.training import train

    out = tmp_path_factory.mktemp("trained") / "run"
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    train(
        "model_ii",
        "vit_nano",
        str(out),
        epochs=1,
        epoch_size=64,
        val_size=30,
        model_args=small,
        progress=False,
    )
    return out
