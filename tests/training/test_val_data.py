"""Images for validation from a file: which seed chose the weights, and that they are no training images."""

import pytest

from haloformer import evaluate, train
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.simulation import simulate
from haloformer.training.config import compose
from haloformer.training.feeds import open_feed

OPTIONS = {"batch_size": 8, "val_size": 6, "epoch_size": 16, "progress": False, "loggers": []}


def made(folder, seed, n=24, start=0):
    path = folder / f"seed{seed}-{start}.h5"
    noise = "none" if n < 24 else "original"
    b = simulate("model_ii", n, seed=seed, start=start, noise=noise)
    write_dataset(path, b.images, b.labels, b.parameters, b.class_names, b.attributes)
    return str(path)


@pytest.mark.parametrize("data", ["model_ii", "file"])
def test_lenses_of_the_training_are_refused(tmp_path, data):
    training = made(tmp_path, 0) if data == "file" else data
    (tmp_path / "same").mkdir()
    same = made(tmp_path / "same", 0, 12)
    with pytest.raises(InputError, match=r"lenses of the training images.*seed 0"):
        open_feed(compose(None, {**OPTIONS, "data": training, "val_data": same, "seed": 0}))
    open_feed(compose(None, {**OPTIONS, "data": training, "val_data": made(tmp_path, 5), "seed": 0}))  # fmt: skip


def test_other_lenses_of_one_seed_are_taken(tmp_path):
    first, second = made(tmp_path, 0), made(tmp_path, 0, start=24)
    open_feed(compose(None, {**OPTIONS, "data": first, "val_data": second, "seed": 0}))


@pytest.mark.parametrize("data", ["model_ii", "file"])
def test_the_seed_that_chose_the_weights_is_known(tmp_path, data):
    training = made(tmp_path, 0) if data == "file" else data
    run = str(tmp_path / "run")
    small = {"model": "vit_nano", "model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}, "epochs": 1, "seed": 0}  # fmt: skip
    train(**{**OPTIONS, **small, "data": training, "val_data": made(tmp_path, 1), "out": run})
    by_default = evaluate(run, "model_ii", n=6, out=str(tmp_path / "e"))
    assert by_default["protocol"]["seed"] == 2
    assert not any("chose the weights" in each for each in by_default["warnings"])
    asked_for = evaluate(run, "model_ii", n=6, seed=1, out=str(tmp_path / "f"))
    assert any("chose the weights" in each for each in asked_for["warnings"])
