"""The artefact is read safely, and answers as the model that was trained."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.prediction import load


def test_predictor_applies_the_stored_normalization_and_weights(original_run, lenses):
    model = create_model("vit_nano", img_size=64, depth=2).eval()
    model.load_state_dict(load_file(original_run / "artefact" / "weights.safetensors"))
    with torch.inference_mode():
        expected = model((lenses.images - 0.2) / 0.5).softmax(dim=1)
    torch.testing.assert_close(
        load(original_run, "cpu").probabilities(lenses.images).float(), expected
    )


def test_a_copied_artefact_folder_answers_like_its_run(original_run, lenses):
    from_run, from_artefact = load(original_run, "cpu"), load(original_run / "artefact", "cpu")
    assert torch.equal(
        from_run.predict_logits(lenses.images), from_artefact.predict_logits(lenses.images)
    )


def change(run, **changes):
    """Rewrites fields of artefact.json, ``a__b`` standing for a.b."""
    path = run / "artefact" / "artefact.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format is 2"),
        ({"model": "vit"}, "model must be"),
        ({"model__name": "no_such_model"}, "no_such_model"),
        ({"model__name": None}, "model.name"),
        ({"model__img_size": 10**9}, "model.img_size"),
        ({"model__img_size": True}, "model.img_size"),
        ({"model__in_chans": -1}, "model.in_chans"),
        ({"model__num_classes": 10**8}, "model.num_classes"),
        ({"model__kwargs": {"pretrained": True}}, "pretrained"),
        ({"model__kwargs": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path"),
        ({"model__kwargs": {"num_classes": 3}}, "num_classes"),
        ({"model__kwargs": {"embed_dim": 10**9}}, "model.kwargs"),
        ({"model__kwargs": {"drop_path_rate": float("nan")}}, "model.kwargs"),
        ({"model__name": "timm:hf-hub:somebody/model"}, "hf-hub"),
        ({"model__kwargs": {"depth": {"a": 1}}}, "model.kwargs"),
        ({"model__kwargs": {"depth": 3}}, "does not fit the model"),
        ({"class_names": ["axion", "cdm"]}, "class_names"),
        ({"class_names": ["axion", "cdm", "cdm"]}, "class_names"),
        ({"image_shape": [1, 64, 65]}, "image_shape"),
        ({"normalization": None}, "normalization"),
        ({"normalization": {"kind": "standard", "statistics": {}}}, "lacks its statistics"),
        ({"normalization": {"kind": "standard", "statistics": 5}}, "artefact.json"),
        ({"normalization__statistics": {"mean": [0, 0], "std": [1, 1]}}, "one per channel"),
        ({"normalization__statistics__std": [0.0]}, "std"),
    ],
)
def test_wrong_field_of_an_artefact_is_named(run, changes, message):
    change(run, **changes)
    with pytest.raises(InputError) as caught:
        load(run, "cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)]
)
def test_artefact_that_is_no_json_object_is_refused(run, content):
    (run / "artefact" / "artefact.json").write_bytes(content)
    with pytest.raises(InputError, match=r"artefact\.json"):
        load(run, "cpu")


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickled_weights_are_never_executed(run):
    (run / "artefact" / "weights.safetensors").write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load(run, "cpu")


def test_truncated_weights_are_named(run):
    path = run / "artefact" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load(run, "cpu")


def test_weights_with_nan_are_refused(run):
    path = run / "artefact" / "weights.safetensors"
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name] = weights[name] * float("nan")
    save_file(weights, path)
    with pytest.raises(InputError, match=f"'{name}' holds NaN"):
        load(run, "cpu")


@pytest.mark.parametrize(
    ("what", "message"), [("absent", "no such run folder"), (".", "no trained model")]
)
def test_folder_without_a_model_is_refused(tmp_path, what, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path / what, "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_device_that_is_not_there_is_refused(original_run, device):
    with pytest.raises(InputError, match=device):
        load(original_run, device)
