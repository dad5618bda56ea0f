"""Computes what `test_stored.py` compares with: images, weights and answers of this version, as ``values.json``.

Run it only when images, weights or answers are meant to change: ``python tests/stored/make.py``.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

VALUES = Path(__file__).parent / "values.json"
SURVEYS = ("model_i", "model_ii", "model_iii")
SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2}


def images(survey: str, noise: str, backend: str) -> dict:
    """Checksum, moments and some pixels of six images."""
    from haloformer.simulation import simulate

    found = simulate(survey, 6, seed=4, noise=noise, backend=backend).images.numpy()
    return {
        "sha256": hashlib.sha256(found.tobytes()).hexdigest(),
        "mean": found.mean(axis=(1, 2, 3), dtype=np.float64).tolist(),
        "std": found.std(axis=(1, 2, 3), dtype=np.float64).tolist(),
        "pixels": found[:, 0, ::37, ::41].ravel().tolist(),
    }


def answers(name: str) -> dict:
    """Probabilities, out-of-distribution verdict and estimates of a shipped model for nine images."""
    import haloformer
    from haloformer.simulation import simulate

    predictor = haloformer.load(name, device="cpu")
    lenses = simulate(predictor.artefact["survey"], 9, seed=5000, noise=predictor.artefact["noise"])
    found = {"probabilities": predictor.probabilities(lenses.images).tolist()}
    if predictor.outputs.targets:
        found |= {
            key: values.tolist()
            for key, values in predictor.estimates(lenses.images, raw=True).items()
        }
    return found


def training() -> dict:
    """Sums of the weights and the validation metrics of a short training."""
    import haloformer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums round otherwise with more, and training makes much of little
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = haloformer.train(
            "model_ii", "vit_nano", str(out), epochs=2, epoch_size=64, val_size=30, batch_size=32, model_args=SMALL,
            progress=False,
        )  # fmt: skip
        weights = haloformer.load(str(out), device="cpu").model.state_dict()
    torch.set_num_threads(threads)
    sums = {
        name: [t.double().sum().item(), t.double().abs().sum().item()]
        for name, t in weights.items()
        if t.is_floating_point()
    }
    return {"metrics": result.metrics, "weights": sums}


def values() -> dict:
    """Everything that is stored."""
    torch.manual_seed(0)
    return {
        "images": {
            f"{survey} {noise} {backend}": images(survey, noise, backend)
            for survey in SURVEYS
            for noise in ("original", "instrument", "none")
            for backend in ("numba", "torch")
        },
        "answers": {name: answers(name) for name in _shipped()},
        "training": training(),
    }


def _shipped() -> list[str]:
    import haloformer

    return sorted(
        path.name
        for path in (Path(haloformer.__file__).parent / "weights").iterdir()
        if path.is_dir()
    )


if __name__ == "__main__":
    VALUES.write_text(json.dumps(values(), indent=1) + "\n", encoding="utf-8")
