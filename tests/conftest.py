"""Fixtures that several folders share."""

import pytest


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """A run folder of a tiny network after one short epoch: real, and bad at its job."""
    from haloformer.training import train

    out = tmp_path_factory.mktemp("trained") / "run"
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    train("model_ii", "vit_nano", str(out), epochs=1, epoch_size=64, val_size=30, model_args=small, progress=False)
    return out
