"""Images unlike those of the training are told, in words, and never by a number that is none."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from haloformer.cli import main
from haloformer.errors import InputError
from haloformer.evaluation import calibrate
from haloformer.models import create_model
from haloformer.models.head import numbers_and_features
from haloformer.outputs.out_of_distribution import (
    IMAGE_FEATURES,
    OodDetector,
    image_features,
    ood_features,
)
from haloformer.prediction import load, predict
from haloformer.prediction.scaled import why_scaled
from haloformer.simulation import simulate


@pytest.fixture(scope="session")
def calibrated_run(original_run, tmp_path_factory):
    """The untrained network, which knows what images of model_ii look like; not to be changed."""
    run = shutil.copytree(original_run, tmp_path_factory.mktemp("calibrated") / "x")
    calibrate(str(run), n=900, device="cpu")
    return run


@pytest.fixture(scope="session")
def predictor(calibrated_run):
    return load(calibrated_run, "cpu")


@pytest.fixture
def spoilt(calibrated_run, tmp_path):
    return shutil.copytree(calibrated_run, tmp_path / "spoilt")


def test_as_many_images_of_the_trainings_kind_are_flagged_as_promised(predictor):
    verdict = predictor.ood(simulate("model_ii", 1200, seed=1000).images)
    assert predictor.detector.alarm_rate == 0.01
    assert 0 < verdict.flag.double().mean() < 0.025  # 450 images set the threshold: 1 % ± 0.5 %
    assert torch.equal(verdict.flag, verdict.score > 1)
    assert [bool(reason) for reason in verdict.reasons] == verdict.flag.tolist()


@pytest.mark.parametrize("n", [20, 30, 60, 198, 400])
def test_of_few_images_as_many_are_flagged_as_is_told(n):
    generator = torch.Generator().manual_seed(n)

    def draw(count):
        sizes = {"image": 8, "fit": 1, "features": 24}
        return {k: torch.randn(count, size, generator=generator) for k, size in sizes.items()}

    labels, flagged = torch.arange(n) % 3, []
    for _ in range(100):
        detector = OodDetector.fit(draw(n), labels)
        flagged.append(float(detector.verdict(draw(400)).flag.double().mean()))
    assert detector.alarm_rate == max(0.01, 1 / (n // 2 + 1))
    assert np.mean(flagged) == pytest.approx(detector.alarm_rate, rel=0.5)


STRANGE = {
    "blank": torch.zeros_like,
    "constant": torch.ones_like,
    "saturated": lambda x: torch.full_like(x, 65535.0),
    "negative": lambda x: -x,
    "noise": lambda x: x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
    "ten times as bright": lambda x: 10 * x,
    "blurred": lambda x: torch.nn.functional.avg_pool2d(x, 7, 1, 3),
    "shuffled": lambda x: x.flatten(2)[..., torch.randperm(64 * 64)].reshape(x.shape),
    "half missing": lambda x: x * (torch.arange(64) < 32),
    "too extreme for the model": lambda x: torch.full_like(x, 3e38),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_images_are_flagged_with_a_reason_and_a_finite_score(predictor, lenses, kind):
    verdict = predictor.ood(STRANGE[kind](lenses.images))
    assert verdict.flag.all()
    assert torch.isfinite(verdict.score).all()
    assert all(reason.count("unlike") for reason in verdict.reasons)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_images_that_are_no_numbers_are_refused(predictor, lenses, value):
    with pytest.raises(InputError, match="NaN or infinite"):
        predictor.ood(torch.full_like(lenses.images, value))


def test_the_reason_names_what_was_changed(predictor, lenses):
    assert all(
        "brightness unlike" in reason for reason in predictor.ood(1000 * lenses.images).reasons
    )


def test_images_that_look_scaled_are_said_to(predictor, lenses):
    pixels = lenses.images.flatten(1)
    low, high = pixels.amin(1)[:, None, None, None], pixels.amax(1)[:, None, None, None]
    verdict = predictor.ood((lenses.images - low) / (high - low))
    assert verdict.flag.all()
    assert all(reason.startswith("its values reach from 0 to 1") for reason in verdict.reasons)
    raw = (lenses.images - low) / (high - low)
    assert all(why_scaled({"survey": "model_i", "noise": "original"}, raw))
    assert not any(why_scaled({"survey": "common_task", "noise": "original"}, raw))
    assert not any(why_scaled({"survey": "mine", "noise": "original"}, raw))
    assert not any(why_scaled({"survey": "model_i", "noise": "original"}, raw + 0.01))


def test_features_of_an_image_do_not_depend_on_those_beside_it(lenses):
    together = image_features(lenses.images)
    assert together.shape == (12, len(IMAGE_FEATURES))
    torch.testing.assert_close(image_features(lenses.images[3:4])[0], together[3])
    two_bands = image_features(lenses.images.expand(-1, 2, -1, -1))
    torch.testing.assert_close(two_bands, together.repeat(1, 2))


def test_one_pass_gives_what_two_would(predictor, lenses):
    numbers, verdict = predictor.numbers_and_ood(lenses.images)
    assert torch.equal(numbers, predictor.numbers(lenses.images))
    assert torch.equal(verdict.score, predictor.ood(lenses.images).score)


def test_without_statistics_there_is_no_verdict(original_run, lenses):
    bare = load(original_run, "cpu")
    assert bare.ood(lenses.images) is None
    assert bare.temperature == 1


def test_a_bad_fit_is_told_by_its_chi2():
    rng = torch.Generator().manual_seed(0)

    def seen(n: int, spread: float) -> dict[str, torch.Tensor]:
        framed = torch.randn(n, 2, 16, 16, generator=rng)
        framed[:, 1] *= spread
        return ood_features(framed, framed[:, 0].flatten(1)[:, :8], True)

    detector = OodDetector.fit(seen(600, 1.0), torch.zeros(600, dtype=torch.int64))
    assert set(detector.clouds) == {"features", "image", "fit"}
    assert detector.verdict(seen(500, 1.0)).flag.double().mean() < 0.035
    for spread, words in (
        (3.0, "no smooth lens of the survey fits (chi2 = 9"),
        (0.3, "less noise than"),
    ):
        verdict = detector.verdict(seen(20, spread))
        assert verdict.flag.all()
        assert all(words[:20] in reason and "chi2 = " in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("name", "width"),
    [("vit_nano", 96), ("crossvit_nano", 160), ("levit_nano", 256), ("efficientvit_nano", 256), ("a_vit_nano", 128),
     ("botnet_nano", 512), ("hiera_nano", 160), ("equivariant_c4_nano", 64), ("haloformer_nano", 96)],
)  # fmt: skip
def test_features_are_what_the_classifier_is_given(name, width):
    """Architectures of all kinds of heads: plain, several, deep, pooled, convolutional, padded images."""
    model = create_model(name, 50).eval()
    images = torch.randn(2, 1, 50, 50)
    with torch.inference_mode():
        numbers, features = numbers_and_features(model, images)
        assert torch.equal(numbers, model(images))
    assert features.shape == (2, width)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_table_says_what_is_strange_and_the_command_warns(calibrated_run, folder, tmp_path, capsys):
    np.save(folder / "lens_03.npy", np.zeros((64, 64), np.float32))
    (folder / "lens_04.npy").write_bytes(b"garbage")
    out = tmp_path / "predictions.csv"
    assert (
        main(
            [
                "predict",
                str(calibrated_run),
                str(folder),
                "--out",
                str(out),
                "--on_error",
                "row",
                "--device",
                "cpu",
            ]
        )
        == 1
    )
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[-4:] == ["ood", "ood_score", "ood_reason", "error"]
    assert [row["ood"] for row in rows] == [
        "True" if i == 3 else "" if i == 4 else "False" for i in range(12)
    ]
    assert [row["class"] == "unknown" for row in rows] == [i == 3 for i in range(12)]
    assert float(rows[3]["ood_score"]) > 1 > float(rows[0]["ood_score"])
    assert "unlike" in rows[3]["ood_reason"]
    printed = capsys.readouterr()
    assert "1 out of distribution" in printed.out
    assert "warning: 1 of 12 images are unlike" in printed.err


def test_parquet_keeps_the_verdicts_types(calibrated_run, folder, tmp_path):
    import pyarrow.parquet

    out = tmp_path / "predictions.parquet"
    assert predict(str(calibrated_run), [str(folder)], str(out), device="cpu").n_ood == 0
    table = pyarrow.parquet.read_table(out)
    assert table.column("ood").to_pylist() == [False] * 12
    assert table.column("ood_reason").to_pylist() == [""] * 12


def test_probabilities_are_calibrated_and_logits_raw(run, folder, lenses, tmp_path):
    logits = load(run, "cpu").predict_logits(lenses.images)
    path = run / "artefact" / "artefact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": {"temperature": 3}}))
    predictor = load(run, "cpu")
    assert torch.equal(predictor.predict_logits(lenses.images), logits)
    expected = (logits.double() / 3).softmax(dim=1)
    torch.testing.assert_close(predictor.probabilities(lenses.images), expected)
    predict(str(run), [str(folder)], str(tmp_path / "p.csv"), device="cpu")
    with (tmp_path / "p.csv").open(newline="") as stream:
        found = [float(row["p_cdm"]) for row in csv.DictReader(stream)]
    np.testing.assert_allclose(found, expected[:, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "ood must"),
        ({"alarm_rate": 0}, "ood must"),
        ({"alarm_rate": "1"}, "ood must"),
        ({"n": True}, "ood must"),
        ({"thresholds": {"features": 1.0}}, "ood must"),
        ({"thresholds": {"features": 1.0, "image": float("nan")}}, "ood must"),
        ({"thresholds": {"features": 1.0, "image": -1}}, "ood must"),
        ({"thresholds": {"features": 1.0, "image": 1.0, "fit": 1.0}}, "ood must"),
    ],
)
def test_wrong_description_of_the_statistics_is_refused(spoilt, changes, message):
    path = spoilt / "artefact" / "artefact.json"
    content = json.loads(path.read_text())
    content["ood"] = changes if isinstance(changes, list) else content["ood"] | changes
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load(spoilt, "cpu")


TENSORS = {
    "absent": lambda tensors: tensors.pop("image.basis"),
    "not finite": lambda tensors: tensors["features.means"].fill_(float("nan")),
    "negative": lambda tensors: tensors["features.variances"].neg_(),
    "other shape": lambda tensors: tensors.update({"image.basis": torch.ones(2, 3)}),
    "other number of features": lambda tensors: tensors.update(
        {
            "image.means": torch.ones(1, 3),
            "image.basis": torch.eye(3),
            "image.variances": torch.ones(3),
        }
    ),
    "other features": lambda tensors: tensors.update(
        {
            "features.means": torch.ones(1, 3),
            "features.basis": torch.eye(3),
            "features.variances": torch.ones(3),
        }
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_wrong_statistics_are_refused(spoilt, kind):
    path = spoilt / "artefact" / "ood.safetensors"
    tensors = load_file(path)
    TENSORS[kind](tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"ood\.safetensors"):
        load(spoilt, "cpu")


def test_lost_or_damaged_statistics_are_named(spoilt):
    path = spoilt / "artefact" / "ood.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load(spoilt, "cpu")
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load(spoilt, "cpu")


@pytest.mark.parametrize("side", [8, 9, 11, 12])
def test_small_images_have_features_too(side):
    images = torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert image_features(images).isfinite().all()
