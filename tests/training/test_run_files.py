"""Files of a run folder that are damaged or another's are refused in one line."""

import dataclasses
import json
import os

import pytest
import torch

import haloformer
from haloformer.artefact.write import write_calibration
from haloformer.errors import LONGEST, InputError
from haloformer.training import engine
from haloformer.training.callbacks import SafeCheckpointIO
from haloformer.training.config import compose
from haloformer.training.run_folder import RunFolder

EXPERIMENT = compose(None, {"data": "model_ii"})
HOSTILE = [b"", b"{", b"[" * 10**5, b"\xff", b" " * (2 << 20), b"5", b'{"epochs": 1' + b"0" * 5000]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(EXPERIMENT.to_yaml())
    return RunFolder(tmp_path)


def refused(call, path):
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert len(text) <= LONGEST


@pytest.mark.parametrize(
    "content",
    [
        *HOSTILE,
        b"{}",
        b'{"best_epoch": 1, "epochs": 2}',
        b'{"best_epoch": "x", "epochs": 2, "metrics": {}}',
        b'{"best_epoch": 1, "epochs": 2, "metrics": {"a": "b"}}',
    ],
)
def test_the_summary_of_a_run_is_checked(folder, content):
    folder.finished.write_bytes(content)
    refused(lambda: folder.result(EXPERIMENT), folder.finished)


def test_a_summary_is_read_with_metrics_that_are_not_known(folder):
    summary = {"best_epoch": 3, "epochs": 5, "metrics": {"val_mae": 0.5, "val_auc": float("nan")}}
    folder.finished.write_text(json.dumps(summary))
    found = folder.result(EXPERIMENT)
    assert (found.best_epoch, found.epochs, found.metrics["val_mae"]) == (3, 5, 0.5)


@pytest.mark.parametrize("content", [*HOSTILE, b"{}"])
def test_the_list_of_starts_is_checked(folder, content):
    folder.environment.write_bytes(content)
    refused(lambda: folder.begin(EXPERIMENT), folder.environment)


@pytest.mark.parametrize("content", HOSTILE)
def test_the_record_of_pretrained_weights_is_checked(folder, content):
    folder.checkpoints.mkdir()
    folder.last_checkpoint.touch()
    folder.pretrained.write_bytes(content)
    experiment = compose(None, {"data": "model_ii", "pretrained": True})
    refused(lambda: folder.record_pretrained(experiment), folder.pretrained)


@pytest.mark.parametrize("content", HOSTILE)
def test_calibration_is_not_added_to_what_is_no_artefact(tmp_path, content):
    (tmp_path / "artefact.json").write_bytes(content)
    refused(lambda: write_calibration(tmp_path, {}, None), tmp_path / "artefact.json")


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"state_dict": {}}, torch.zeros(3), 5, None, "x", {"state_dict": Explosive()}],
    ids=["list", "empty", "parts", "tensor", "number", "none", "text", "code"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    refused(lambda: SafeCheckpointIO().load_checkpoint(path), path)


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" + bytes(100), b"\x80\x02K\x01."])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    refused(lambda: SafeCheckpointIO().load_checkpoint(path), path)


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    path = tmp_path / "last.ckpt"
    os.mkfifo(path)
    refused(lambda: SafeCheckpointIO().load_checkpoint(path), path)


def test_a_result_is_a_table_of_epochs_with_learning_curves(train_once):
    small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    result = train_once(
        data="model_ii", model="vit_nano", epochs=2, epoch_size=64, val_size=30, model_args=small
    )
    table = result.to_table()
    assert table["epoch"].tolist() == [1, 2]
    best = table[result.best_epoch - 1]
    assert best["val_macro_auc"] == pytest.approx(result.metrics["val_macro_auc"])
    assert table.meta["model"] == "vit_nano"
    assert len(result.plot().axes) == 2
    assert f"best epoch {result.best_epoch} of 2" in result.summary()
    gone = dataclasses.replace(result, out=result.out / "nowhere")
    assert gone.columns() == []
    assert gone.picture() is None
    with pytest.raises(InputError, match="no epochs to draw"):
        gone.plot()


def test_a_folder_of_other_things_is_refused_before_images_are_made(tmp_path, monkeypatch):
    def prepare(*_):
        raise AssertionError("images were made for nothing")

    monkeypatch.setattr(engine, "_prepare", prepare)
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="is not a run folder"):
            haloformer.train("model_ii", "vit_nano", str(out), progress=False)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path}/notes: exists and is not a run folder"):
        haloformer.train("model_ii", "vit_nano", "~/notes", progress=False)
