import numpy as np
import pytest

from haloformer.data import write_dataset

CLASS_NAMES = ("axion", "cdm", "no_sub")


@pytest.fixture
def lenses():
    """Twelve small images with every kind of parameter, four of each class, in turn."""
    rng = np.random.default_rng(3)
    labels = np.arange(12) % 3
    mass = np.where(labels == 0, rng.uniform(-24, -22, 12), np.nan)
    subhalos = np.where(labels[:, None] == 1, rng.uniform(1e6, 1e10, (12, 5)), np.nan)
    return {
        "images": rng.normal(size=(12, 1, 8, 8)).astype(np.float32),
        "labels": labels,
        "parameters": {
            "source_x": rng.uniform(-0.35, 0.35, 12),
            "log10_m_axion": mass,
            "subhalo_mass": subhalos,
            "index": np.arange(12) // 3,
            "seed": np.full(12, 7),
        },
        "class_names": CLASS_NAMES,
        "attributes": {
            "survey": "model_ii",
            "noise": "original",
            "seed": 7,
            "pixel_scale": 0.101,
            "code_version": "0.1.0",
            "units": {"source_x": "arcsec", "log10_m_axion": "log10(eV)", "subhalo_mass": "M_sun"},
        },
    }


@pytest.fixture
def dataset_file(tmp_path, lenses):
    path = tmp_path / "lenses.h5"
    write_dataset(path, **lenses)
    return path
