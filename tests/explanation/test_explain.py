"""Explanations: that maps lie where they belong, that they are what their papers define, and that the truth is the truth."""

import copy
import csv
import dataclasses
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from haloformer.cli import main
from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError, InputWarning
from haloformer.evaluation import calibrate
from haloformer.explanation import attention_overlay, explain, explain_images, page, pictures
from haloformer.explanation import run as explanation_run
from haloformer.explanation.layers import find_stages
from haloformer.explanation.scores import (
    Scores,
    gain,
    pixel_auc,
    randomised,
    rank_correlation,
    substructure_difference,
    substructure_region,
)
from haloformer.fitting.channels import Residual
from haloformer.models import attention, create_model
from haloformer.outputs.layout import Outputs
from haloformer.prediction.predictor import Predictor
from haloformer.simulation import Simulator, simulate

CLASSES = ("axion", "cdm", "no_sub")
SIDE = 32


def predictor_of(
    model, img_size=SIDE, image_size=None, framing=None, channels=1, outputs=None, **spec
):
    size = image_size or img_size
    artefact = {"model": {"img_size": img_size, "in_chans": channels, "num_classes": 3, **spec}}
    return Predictor(
        model.eval(), framing or Framing(), None, Normalization("none"), outputs or Outputs(CLASSES), None,
        (channels, size, size), artefact, torch.device("cpu"),
    )  # fmt: skip


def network(name, img_size=SIDE, **kwargs):
    torch.manual_seed(0)
    return predictor_of(create_model(name, img_size, **kwargs), img_size, name=name, kwargs=kwargs)


def images_of(size=SIDE, n=2):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit():
    return network("hybrid_nano_s8", depth=3)


class _Linear(nn.Module):
    """Three linear scores of the pixels, of which all is known."""

    def __init__(self, size=SIDE):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(3, size * size, generator=torch.Generator().manual_seed(2))
        )

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


class _Bright(nn.Module):
    """A convolution that looks at the pixel itself, its mean, and a class that likes it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, images):
        mean = self.conv(images).mean((1, 2, 3))
        return torch.stack([mean, torch.zeros_like(mean), torch.zeros_like(mean)], 1)


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framing", "size"),
    [
        (Framing(crop=20), 33),
        (Framing(crop=21), 32),
        (Framing(img_size=21, fit="crop"), 32),
        (Framing(img_size=41, fit="pad"), 32),
        (Framing(crop=24, img_size=31, fit="pad"), 33),
        (Framing(), 32),
    ],
)
def test_what_is_found_in_a_framed_image_goes_back_to_the_pixel_that_it_was_found_in(framing, size):
    images = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
    back = framing.back(framing(images), (size, size))
    assert back.shape == images.shape
    kept = back != 0
    assert torch.equal(back[kept], images[kept])
    assert kept.sum() == min(framing.crop or size, framing.img_size or size, size) ** 2


def test_a_resized_map_goes_back_to_the_same_place():
    images = torch.zeros(1, 1, 40, 40)
    images[0, 0, 10:14, 26:30] = 1
    framing = Framing(crop=36, img_size=18)
    back = framing.back(framing(images), (40, 40))[0, 0]
    centre = [(back.sum(1 - axis) * torch.arange(40.0)).sum() / back.sum() for axis in (0, 1)]
    assert centre == pytest.approx([11.5, 27.5], abs=0.1)


def test_maps_of_a_cropped_image_with_a_residual_lie_within_the_crop_of_both():
    definition = simulate("model_ii", 3, seed=1).attributes["survey_definition"]
    torch.manual_seed(0)
    model = create_model("hybrid_nano_s8", 32, in_chans=2, depth=1)
    predictor = dataclasses.replace(
        predictor_of(model, image_size=64, framing=Framing(crop=32)),
        residual=Residual(definition, "original", crop=48),
    )
    found = explain_images(predictor, simulate("model_ii", 3, seed=1).images)
    assert found.seen.sum() == 32 * 32
    assert found.seen[16:48, 16:48].all()
    assert found.channels == ["image", "residual"]
    for each in found.maps:
        assert each.values.shape == (3, 64, 64)
        assert (each.values >= 0).all()
        assert not each.values[:, ~found.seen].any()
        torch.testing.assert_close(each.values.sum((1, 2)), torch.ones(3))
    shares = found.of("integrated_gradients")[0].channels
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    assert (shares > 0).all()


# --- methods ----------------------------------------------------------------------------------------------------------


def test_attention_is_that_of_the_network_and_the_overlay_is_the_same(vit):
    images = images_of()
    expected = attention(vit.model, images)
    found = explain_images(vit, images, methods=["attention"]).of("attention")
    assert [each.layer for each in found] == [layer.layer for layer in expected]
    for each, layer in zip(found, expected, strict=True):
        torch.testing.assert_close(each.values, layer.maps.mean(1))
    names, maps = attention_overlay(vit, images[1, 0].numpy())
    assert names == [layer.layer for layer in expected]
    assert maps.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(maps[2], found[2].values[1], atol=1e-7)


def test_rollout_is_the_product_of_the_layers_with_the_identity():
    predictor = network("vit_nano", depth=2)  # with a class token, which is what is read
    images = images_of()
    layers = attention(predictor.model, images, keep_weights=True)
    first, second = (0.5 * layer.weights[:, 0].mean(1) + 0.5 * torch.eye(17) for layer in layers)
    expected = layers[0].in_image((second @ first)[:, 0][:, None, None])[:, 0]
    expected = expected / expected.sum((1, 2), keepdim=True)
    found = explain_images(predictor, images, methods=["rollout"]).of("rollout")
    assert len(found) == 2
    torch.testing.assert_close(found[1].values, expected)
    # Mixing spreads what is seen: with more layers, more comes from other places.
    assert not torch.allclose(found[0].values, found[1].values)


def test_rollout_is_left_out_where_layers_do_not_share_their_tokens_and_the_reason_is_told():
    found = explain_images(
        network("pvt_v2_nano", 64), images_of(64), methods=["attention", "rollout"]
    )
    assert not found.of("rollout")
    assert "spatially reduced" in found.left_out["rollout"]
    assert found.of("attention")


def test_integrated_gradients_of_a_linear_network_are_weights_times_pixels():
    model = _Linear()
    outputs = Outputs(("one",))  # a single number: no log-odds
    model.weight = nn.Parameter(model.weight[:1].detach())
    found = explain_images(
        predictor_of(model, outputs=outputs), images_of(), methods=["integrated_gradients"]
    )
    expected = (model.weight.detach() * images_of().flatten(1)).abs().reshape(2, SIDE, SIDE)
    torch.testing.assert_close(found.maps[0].values, expected / expected.sum((1, 2), keepdim=True))


def test_gradients_are_of_the_log_odds_which_do_not_care_for_what_all_logits_share():
    model = _Linear()
    shifted = copy.deepcopy(model)
    shifted.weight.data += torch.randn(SIDE * SIDE, generator=torch.Generator().manual_seed(3))
    maps = [
        explain_images(predictor_of(m), images_of(), methods=["integrated_gradients"], target="cdm")
        .maps[0]
        .values
        for m in (model, shifted)
    ]
    torch.testing.assert_close(*maps, atol=1e-6, rtol=1e-3)


def test_grad_cam_of_a_network_that_likes_bright_pixels_is_the_image():
    images = images_of()
    found = explain_images(predictor_of(_Bright()), images, methods=["gradcam"], target="axion")
    assert [each.layer for each in found.maps] == ["conv"]
    torch.testing.assert_close(
        found.maps[0].values, images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    )
    disliked = explain_images(predictor_of(_Bright()), images, methods=["gradcam"], target="cdm")
    assert not disliked.maps[0].values.any()  # what speaks against a class is not shown


@pytest.mark.parametrize(
    "name",
    ["vit_nano", "swin_nano", "hybrid_nano_s8", "resnet_nano", "equivariant_c4_nano", "tnt_nano"],
)
def test_feature_maps_are_found_in_every_layout_and_their_gradient_is_the_networks(name):
    predictor = network(name, 64)
    images = images_of(64)
    stages, _ = find_stages(predictor.model, images)
    assert len(stages) >= 3
    _, maps = predictor.model.forward_intermediates(images)
    by_grid = {stage.grid: stage for stage in stages}
    last = by_grid[tuple(maps[-1].shape[-2:])]
    taken = []

    def doubled(feature_map):
        taken.append(feature_map)
        return feature_map * 2

    with torch.no_grad(), last.passing(doubled):
        changed = predictor.model(images)
        assert torch.isfinite(changed).all()
    assert taken[0].shape[-2:] == last.grid
    with torch.no_grad(), last.passing(lambda feature_map: feature_map):
        torch.testing.assert_close(predictor.model(images), predictor.model(images))


def test_one_image_alone_is_explained_as_in_a_batch():
    torch.manual_seed(0)
    model = create_model("haloformer_nano", SIDE, in_chans=1, depth=1)
    predictor = predictor_of(model)
    batch, alone = (
        explain_images(predictor, images_of()),
        explain_images(predictor, images_of()[:1]),
    )
    for of_batch, of_one in zip(batch.maps, alone.maps, strict=True):
        torch.testing.assert_close(of_batch.values[:1], of_one.values, atol=1e-6, rtol=1e-3)


def test_the_depth_of_a_vits_tokens_is_shown_where_they_are():
    predictor = network("a_vit_nano", 64, gate_center=0.0, gate_scale=300.0, depth=4)
    images = images_of(64)
    with torch.no_grad():
        _, halting = predictor.model.forward_with_halting(images)
    assert halting.depth.unique().numel() > 1
    depth = explain_images(predictor, images, methods=["rollout"]).of("depth")[0].values
    assert depth.shape == (2, 64, 64)
    # The stem's cells of 16 pixels have their centres at 0.5, 16.5 …: the pixel there is the token's own.
    torch.testing.assert_close(depth[:, ::16, ::16], halting.depth.float())
    assert depth.min() >= halting.depth.min()
    assert depth.max() <= halting.depth.max() + 1e-5


def test_rollout_leaves_halted_tokens_as_they_are():
    predictor = network(
        "a_vit_nano", 64, gate_center=9.0, depth=3
    )  # all halt after the first block
    found = explain_images(predictor, images_of(64), methods=["rollout"]).of("rollout")
    torch.testing.assert_close(found[0].values, found[2].values)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_the_same_scene_without_substructure_differs_where_there_was_some_and_nowhere_else():
    simulator = Simulator("model_ii", seed=3)
    difference = substructure_difference(simulator, range(6))
    assert difference.shape == (6, 64, 64)
    labels = np.array(simulator.class_names)[np.arange(6) % 3]
    brightest = Simulator("model_ii", seed=3, noise="none").batch(range(6)).images.amax((1, 2, 3))
    for name, changed, peak in zip(labels, difference, brightest):
        assert (changed == 0).all() if name == "no_sub" else changed.max() > 0.01 * peak
    scenes = simulator.scenes(range(6))
    smooth = scenes.without_substructure()
    assert np.array_equal(smooth.source_x, scenes.source_x)
    assert np.isnan(smooth.parameters(3)["subhalo_mass"]).all()
    by_torch = Simulator("model_ii", seed=3, noise="none", backend="torch").images(smooth)
    torch.testing.assert_close(
        by_torch, Simulator("model_ii", seed=3, noise="none").images(smooth), atol=1e-4, rtol=1e-4
    )


def test_the_region_is_the_smallest_that_holds_half_of_the_difference():
    region = substructure_region(
        np.array([[1.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 1.0]])
    )
    assert region.tolist() == [[False, True, False, True], [False] * 4, [False, True, False, False]]


def test_gain_and_auc_of_maps_that_know_everything_nothing_and_the_opposite():
    region = np.zeros((3, 100), bool)
    region[:, :10] = True
    maps = np.stack([region[0].astype(float), np.full(100, 0.01), (~region[0]).astype(float)])
    assert gain(maps, region) == pytest.approx([10, 1, 0])
    assert pixel_auc(maps, region) == pytest.approx([1, 0.5, 0])
    empty = np.zeros((1, 100))
    assert np.isnan(gain(empty, region[:1])).all()
    assert np.isnan(pixel_auc(empty, region[:1])).all()


def test_auc_and_rank_correlation_agree_with_sklearn_and_scipy():
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, (2, 4, 300)).astype(float)
    region = rng.random((4, 300)) < 0.2
    assert pixel_auc(a, region) == pytest.approx([roc_auc_score(r, x) for r, x in zip(region, a)])
    assert rank_correlation(a, b) == pytest.approx(
        [spearmanr(x, y).statistic for x, y in zip(a, b)]
    )


def test_random_weights_are_others_and_the_same_for_a_seed(vit):
    first, again, other = randomised(vit, 1), randomised(vit, 1), randomised(vit, 2)
    state = [copy.deepcopy(p.model.state_dict()) for p in (vit, first, again, other)]
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(state[1][name], state[2][name])
    assert not torch.equal(state[1][name], state[3][name])
    assert not torch.equal(state[0][name], state[1][name])


def test_an_explanation_of_the_same_weights_has_rank_correlation_one(vit):
    found = explain_images(vit, images_of(n=3), methods=["attention", "integrated_gradients"])
    scores = Scores()
    scores.add_correlation(found, found)
    assert [row["correlation"] for row in scores.sanity()] == pytest.approx([1.0] * 4)
    other = explain_images(
        randomised(vit, 5), images_of(n=3), methods=["attention"], target=found.target_names
    )
    scores = Scores()
    scores.add_correlation(found, other)
    assert all(abs(row["correlation"]) < 0.9 for row in scores.sanity())


def test_a_map_that_is_the_truth_scores_best_and_rows_are_by_class(vit):
    found = explain_images(vit, images_of(n=4), methods=["attention"])
    truth = torch.zeros(4, SIDE, SIDE)
    truth[:, 3:6, 20:24] = 1
    found.maps = [
        dataclasses.replace(found.maps[0], values=truth / truth.sum((1, 2), keepdim=True))
    ]
    scores = Scores()
    scores.add_truth(found, truth, ["axion", "cdm", "axion", "cdm"])
    rows = {(row["method"], row["class"]): row for row in scores.table()}
    assert rows["attention", "all"]["gain"] == pytest.approx(
        SIDE * SIDE / 12
    )  # half of it on six of the pixels
    assert rows["attention", "all"]["auc"] > 0.99
    assert rows["attention", "axion"]["n"] == 2
    assert rows["brightness", "all"]["gain"] < 3


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_untrained_run):
    return write_untrained_run(
        tmp_path_factory.mktemp("runs") / "x", 2, {"kind": "image_max", "statistics": {}}, "none"
    )


@pytest.fixture(scope="module")
def explained(run, save_png, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    np.save(
        folder / "lens & friends.npy",
        simulate("model_ii", 1, seed=2, noise="none").images[0, 0].numpy(),
    )
    arguments = [
        "explain",
        str(run),
        str(folder / "lens & friends.npy"),
        "--out",
        str(folder / "why"),
    ]
    options = [
        "--survey",
        "model_ii",
        "--n",
        "5",
        "--batch-size",
        "4",
        "--methods",
        "attention,integrated_gradients",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("haloformer.reporting.style.save", save_png)
        assert main([*arguments, *options]) == 0
    return folder / "why", arguments


def test_methods_of_which_none_explains_the_model_are_refused_after_the_first_images(
    tmp_path, write_untrained_run, capsys, monkeypatch
):
    batches = []

    def explained_images(*arguments, **options):
        batches.append(arguments)
        return explain_images(*arguments, **options)

    monkeypatch.setattr(explanation_run, "explain_images", explained_images)
    normalization = {"kind": "image_max", "statistics": {}}
    run = write_untrained_run(tmp_path / "x", 2, normalization, "none", model="resnet_nano")
    image, out = tmp_path / "a.npy", tmp_path / "why"
    np.save(image, simulate("model_ii", 1, seed=2, noise="none").images[0, 0].numpy())
    images = [str(image)] * 3
    arguments = ["explain", str(run), *images, "--batch_size", "1", "--out", str(out), "--methods"]
    assert main([*arguments, "rollout,attention"]) == 2
    assert len(batches) == 2  # of one image, by the network and by an untrained one
    assert "none of the methods rollout, attention explains this model" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not out.exists()


def test_the_folder_holds_pictures_scores_and_a_page_that_needs_nothing_else(explained):
    folder, _ = explained
    told = json.loads((folder / "explanation.json").read_text())
    # The file's image, and the first simulated one of each class that has substructure.
    assert [image["label"] for image in told["images"]] == [None, "axion", "cdm"]
    assert told["images"][1]["answer"] in CLASSES
    assert told["protocol"]["seed"] not in (10, 11)  # those of its training
    for image in told["images"]:
        for path in [*image["figures"]["maps"], *image["figures"]["layers"]]:
            assert (folder / path).stat().st_size > 1000
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png"}
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["weights"]) for row in rows} >= {
        ("attention", "trained"),
        ("attention", "random"),
        ("brightness", "trained"),
    }
    counts = {
        row["class"]: int(row["n"]) for row in rows if row["method"] == "integrated_gradients"
    }
    assert counts == {"axion": 3, "cdm": 2, "all": 5}
    assert json.loads((folder / "scores.json").read_text())["scores"] == told["scores"]
    assert {(row["method"], row["n"]) for row in told["sanity"]} == {
        ("attention", 6),
        ("integrated_gradients", 6),
    }
    html = (folder / "index.html").read_text()
    assert "lens &amp; friends" in html
    pictures_apart = re.sub(r"base64,[\w+/=]+", "", html)  # whose letters may spell anything
    assert "http" not in pictures_apart.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") == 2 * 3 + 1
    assert "<script" not in html


def test_an_image_out_of_distribution_is_explained_with_a_warning(run, tmp_path, capsys, unsaved):
    known = shutil.copytree(run, tmp_path / "known")
    calibrate(str(known), n=300, device="cpu")
    usual = simulate("model_ii", 1, seed=2, noise="none").images[0, 0].numpy()
    np.save(tmp_path / "usual.npy", usual)
    np.save(tmp_path / "strange.npy", -1000 * usual)
    arguments = ["explain", str(known), str(tmp_path / "strange.npy"), str(tmp_path / "usual.npy")]
    out = ["--out", str(tmp_path / "why"), "--methods", "attention"]
    assert main([*arguments, *out]) == 0
    told = json.loads((tmp_path / "why" / "explanation.json").read_text())
    strange, fine = told["images"]
    assert (strange["answer"], strange["ood"], fine["ood"]) == ("unknown", True, False)
    assert fine["answer"] in CLASSES
    assert "unlike" in strange["ood_reason"]
    assert told["warnings"][0].startswith("1 of 2 images are unlike")
    page_text = (tmp_path / "why" / "index.html").read_text()
    assert page_text.count(strange["ood_reason"]) == 1
    assert "1 of 2 images are unlike" in page_text
    assert "warning: 1 of 2 images are unlike" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_does_not_end_the_others(
    run, tmp_path, capsys, unsaved, monkeypatch
):
    def explain_usual(predictor, images, **options):
        if images.max() > 1e37:
            raise InputError("the model gives no number: are its values extreme?")
        return explain_images(predictor, images, **options)

    monkeypatch.setattr("haloformer.explanation.run.explain_images", explain_usual)
    image = simulate("model_ii", 1, seed=2, noise="none").images[0, 0].numpy()
    np.save(tmp_path / "c.npy", image)
    (tmp_path / "b.npy").write_bytes(b"nothing")
    np.save(tmp_path / "d.npy", np.full((64, 64), 3e38, np.float32))
    files = [str(tmp_path / f"{name}.npy") for name in "bcde"]
    options = ["--methods", "attention", "--out"]
    assert main(["explain", str(run), *files, *options, str(tmp_path / "why")]) == 1
    told = capsys.readouterr()
    assert "explained 1 image, 3 errors" in " ".join(told.out.split())
    for name, why in (("b", ""), ("d", "extreme"), ("e", "does not exist")):
        assert re.search(rf"warning: .*{name}\.npy.* {why}", told.err)
    found = json.loads((tmp_path / "why/explanation.json").read_text())
    assert [each["name"] for each in found["images"]] == ["c"]
    assert found["n_errors"] == 3
    assert "b.npy" in (tmp_path / "why/index.html").read_text()
    assert main(["explain", str(run), files[0], *options, str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_names_from_outside_are_text_on_the_page(explained):
    folder, _ = explained
    hostile = "<script>alert(1)</script> {{ 7*7 }}"
    told = json.loads((folder / "explanation.json").read_text())
    told["protocol"] |= {"run": hostile, "survey": hostile}
    told["warnings"], told["left_out"] = [hostile], {hostile: hostile}
    told["scores"][0]["class"] = hostile
    image = page.ExplainedImage(hostile, hostile, [(hostile, "data:,", hostile)])
    html = page.to_html(told, [image], "data:,")
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }}") == 13


def test_an_explanation_is_replaced_only_if_told_so_and_nothing_else_ever(
    explained, tmp_path, capsys
):
    folder, arguments = explained
    before = (folder / "index.html").read_bytes()
    assert main([*arguments, "--methods", "attention"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (folder / "index.html").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert main([*arguments[:-1], str(tmp_path / "mine"), "--overwrite"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to explain"),
        ({"images": ["absent.npy"]}, "absent.npy"),
        ({"survey": "model_i"}, "150"),
        ({"survey": "model_x"}, "model_x"),
        ({"survey": "model_ii", "methods": "gradcan"}, "did you mean 'gradcam'"),
        ({"survey": "model_ii", "methods": []}, "no method"),
        ({"survey": "model_ii", "target": "wimp"}, "wimp"),
        ({"survey": "model_ii", "n": 0}, "n is 0"),
        ({"images": ["absent.npy"], "seed": 3}, "'seed' is for images simulated"),
        ({"images": ["absent.npy"], "n": 3}, "'n' is for images simulated"),
    ],
)
def test_what_cannot_be_explained_is_refused_and_leaves_nothing(options, message, run, tmp_path):
    with pytest.raises(InputError, match=message):
        explain(str(run), out=str(tmp_path / "why"), **options)
    assert list(tmp_path.iterdir()) == []


def test_without_captum_the_extra_is_named_and_attention_still_works(vit, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(InputError, match=r"pip install '\.\[explain\]'"):
        explain_images(vit, images_of())
    assert explain_images(vit, images_of(), methods=["attention", "rollout"]).of("rollout")


def test_pictures_have_axes_in_arcsec_and_a_panel_for_each_layer(vit):
    found = explain_images(vit, images_of(), methods=["attention", "rollout"])
    one = pictures.shown(found, 0, 0.05)
    figure = pictures.progression(one)
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert [bar.get_ylabel() for bar in bars] == ["relative strength"]
    panels = [axes for axes in figure.axes if axes.get_visible() and axes not in bars]
    assert len(panels) == 6
    assert panels[0].images[0].get_extent() == pytest.approx((-0.8, 0.8, -0.8, 0.8))
    assert panels[3].get_xlabel() == "x [arcsec]"
    no_layers = dataclasses.replace(one, maps=[])
    assert pictures.progression(no_layers) is None


def test_a_regression_is_explained_too():
    torch.manual_seed(0)
    model = create_model("resnet_nano", SIDE, num_classes=2)
    from haloformer.outputs.targets import Scaling

    outputs = Outputs((), ("log10_m_axion",), scaling=Scaling((-23.0,), (0.5,)))
    predictor = predictor_of(model, outputs=outputs)
    found = explain_images(predictor, images_of(), methods=["integrated_gradients"])
    assert found.target_names == ["log10_m_axion"] * 2
    assert (
        F.cosine_similarity(
            found.maps[0].values[0].flatten(), found.maps[0].values[1].flatten(), dim=0
        )
        < 0.999
    )


def test_images_in_memory_are_explained_as_a_table_and_a_figure(trained_run):
    import haloformer

    predictor = haloformer.load(trained_run, "cpu")
    lenses = simulate("model_ii", 2, seed=5)
    found = haloformer.explain(predictor, lenses, methods="attention")
    expected = explain_images(predictor, lenses.images, methods=["attention"])
    for ours, theirs in zip(found.maps, expected.maps, strict=True):
        torch.testing.assert_close(ours.values, theirs.values)
    table = found.to_table()
    assert len(table) == 2 * len(found.maps)
    assert str(table["half_area"].unit) == "arcsec2"
    row = table[0]
    values = found.maps[0].values[0].numpy()
    y, x = np.unravel_index(values.argmax(), values.shape)
    assert row["peak_x"] == pytest.approx((x - 31.5) * 0.101)
    assert row["peak_y"] == pytest.approx((y - 31.5) * 0.101)
    n = round(row["half_area"] / 0.101**2)
    brightest = np.sort(values.ravel())[::-1]
    assert brightest[:n].sum() >= values.sum() / 2 > brightest[: n - 1].sum()
    assert len(found.plot(1).axes) > 1
    assert len(found.plot(1, layers=True).axes) == len(found.maps) + 1
    assert "<img" in found._repr_html_()
    one = haloformer.explain(str(trained_run), lenses.images[0, 0].numpy(), methods=["attention"])
    torch.testing.assert_close(one.maps[0].values[0], found.maps[0].values[0])


def test_an_explanation_of_a_strange_image_says_that_it_means_nothing():
    import haloformer

    predictor = haloformer.load("model_ii", "cpu")
    images = simulate("model_ii", 2, seed=5).images * torch.tensor([1.0, 50.0])[:, None, None, None]
    found = haloformer.explain(predictor, images, methods=["gradcam"])
    assert [bool(reason) for reason in found.unusual] == [False, True]
    assert found.to_table()["ood"].tolist() == [k == 1 for k in found.to_table()["index"]]
    assert "Warning: 1 unlike those of the training" in found.summary()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "give images, or with out a survey"),
        ((np.zeros((64, 64)),), {"out": "x"}, "images in files, or a survey"),
        ((np.zeros((64, 64)),), {"survey": "model_ii"}, "survey is for a page that is written"),
        ((np.zeros((64, 64)),), {"limit": 0}, "must be at least 1"),
        ((np.zeros((9, 9)),), {"methods": "attention"}, "9 × 9"),
        ((np.zeros((64, 64)),), {"methods": "lime"}, "unknown method 'lime'"),
    ],
)
def test_what_explain_cannot_use_is_refused(trained_run, arguments, options, message):
    import haloformer

    with pytest.raises(InputError, match=message):
        haloformer.explain(str(trained_run), *arguments, **options)


def test_files_that_cannot_be_read_are_left_out_in_python_too(vit, tmp_path):
    import haloformer

    for k, image in enumerate(images_of(n=2)):
        np.save(tmp_path / f"good{k}.npy", image[0].numpy())
    np.save(tmp_path / "nan.npy", np.full((SIDE, SIDE), np.nan, np.float32))
    (tmp_path / "a_broken.fits").write_bytes(b"SIMPLE  = nonsense")
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    with pytest.warns(InputWarning, match=r"left out 2 images .*a_broken.fits.*nan.npy"):
        found = haloformer.explain(vit, files, methods="attention")
    assert len(found) == 2
    assert len(haloformer.explain(vit, files[1:2], methods="attention")) == 1
    with pytest.raises(InputError, match=r"nan\.npy"):
        haloformer.explain(vit, [str(tmp_path / "nan.npy")], methods="attention")
