"""The residual channel: the same in training and prediction, of untouched images, and gone where it is dropped."""

import json

import numpy as np
import pytest
import torch

import haloformer
from haloformer.data.framing import Framing, network_input
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError
from haloformer.fitting.channels import CLIP, Residual, recentred
from haloformer.fitting.parametric import fit_smooth
from haloformer.simulation import simulate
from haloformer.training import compose, train
from haloformer.training.feeds import open_feed

TINY = {
    "epochs": 1,
    "epoch_size": 96,
    "batch_size": 32,
    "val_size": 30,
    "device": "cpu",
    "progress": False,
    "model_args": {"stem_channels": [8, 8, 8, 8], "embed_dim": 32, "depth": 1},
}


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_i", 6, seed=3)


def definition(lenses):
    return lenses.attributes["survey_definition"]


def test_the_channel_is_the_residual_of_the_fit_of_the_central_part(lenses):
    seen = Residual(definition(lenses), "original", crop=96)(lenses.images)
    centre = lenses.images[:, :, 27:123, 27:123]
    assert torch.equal(seen[:, :1], centre)
    fit = fit_smooth(centre, "model_i")
    assert torch.allclose(seen[:, 1:], fit.residual.clamp(-CLIP, CLIP), atol=1e-4)
    assert fit.residual.abs().max() > 3  # there is something to be seen


def test_what_was_written_is_read_back_and_what_cannot_be_is_refused(lenses):
    residual = Residual(definition(lenses), "original", 96)
    again = Residual.from_dict(json.loads(json.dumps(residual.to_dict())))
    assert torch.equal(again(lenses.images), residual(lenses.images))
    for change in (
        {"noise": "loud"},
        {"crop": 95},
        {"crop": "96"},
        {"survey": "model_i"},
        {"survey": {"a": 1}},
    ):
        with pytest.raises(InputError):
            Residual.from_dict({**residual.to_dict(), **change})


def test_images_of_another_shape_are_refused(lenses):
    with pytest.raises(InputError, match="physics residual: images of shape"):
        Residual(definition(lenses), "original").output_shape((1, 64, 64))


def test_the_image_is_normalised_and_the_residual_is_not(lenses):
    images = torch.cat([lenses.images, torch.full_like(lenses.images, 3.0)], dim=1)
    normalize = Normalization("sqrt").fit(lenses.images)
    seen = network_input(images, Framing(crop=96), normalize, True)
    assert torch.equal(seen[:, 1], torch.full((6, 96, 96), 3.0))
    assert torch.equal(seen[:, :1], normalize(Framing(crop=96)(lenses.images)))


def test_a_trained_model_needs_the_image_alone_and_answers_as_in_validation(tmp_path):
    out = tmp_path / "x"
    result = train(
        "model_i",
        out=str(out),
        physics="residual",
        crop=96,
        val_size=60,
        **{k: v for k, v in TINY.items() if k != "val_size"},
    )
    predictor = haloformer.load(str(out), device="cpu")
    assert predictor.image_shape == (1, 150, 150)
    experiment = compose(
        None, {"data": "model_i", "physics": "residual", "crop": 96, **TINY, "val_size": 60}
    )
    raw = simulate("model_i", 60, seed=2**40)  # the validation images, as the camera gave them
    examples = next(iter(open_feed(experiment).validation((0, 1))))
    assert torch.equal(examples.labels, raw.labels)
    loss = torch.nn.functional.cross_entropy(predictor.predict_logits(raw.images), raw.labels)
    assert float(loss) == pytest.approx(result.metrics["val_loss"], rel=1e-4)


def test_a_dropped_residual_is_zero_in_that_share_of_the_images(tmp_path, monkeypatch):
    from haloformer.training.tasks import LensTask

    seen = []
    augmented = LensTask.augmented

    def watched(self, batch, batch_idx):
        images = augmented(self, batch, batch_idx)
        seen.append((images[:, 1] == 0).flatten(1).all(1))
        return images

    monkeypatch.setattr(LensTask, "augmented", watched)
    train(
        "model_ii",
        out=str(tmp_path / "x"),
        noise="instrument",
        physics="residual",
        residual_dropout=0.5,
        **TINY,
    )
    assert 0.25 < torch.cat(seen).float().mean() < 0.75


def test_a_wrong_fit_is_that_of_another_lens_and_leaves_more(lenses):
    right = Residual(definition(lenses), "original", 96)
    smooth = simulate("model_i", 8, seed=3, classes=["no_sub"]).images
    left = [r(smooth)[:, 1] for r in (right, *(right.wrong(k) for k in range(6)))]
    assert max(float(x.square().mean()) for x in left[1:]) > 1.4 * left[0].square().mean()
    for k, wrong in enumerate(left[1:]):  # nearly all pixels are sky, whatever the lens
        assert (wrong - left[0]).square().mean() > 0.02, k
    assert right.wrong(1) == right.wrong(1) != right.wrong(2)
    mixed = right.with_wrong_fits(smooth, np.array([-1, 0, 1, -1, 0, -1, -1, 1]))
    assert torch.allclose(mixed[[0, 3, 5, 6]], right(smooth)[[0, 3, 5, 6]], atol=1e-5)
    assert torch.allclose(mixed[[1, 4]], right.wrong(0)(smooth)[[1, 4]], atol=1e-5)
    assert torch.equal(mixed[:, 0], right(smooth)[:, 0])  # the image is what it was


def test_that_share_of_training_images_is_fitted_wrongly_whatever_the_batches_and_none_of_the_others():
    def source(share):
        return open_feed(
            compose(
                None,
                {
                    "data": "model_ii",
                    "noise": "instrument",
                    "physics": "residual",
                    "wrong_fits": share,
                },
                {"batch_size": 32, "epoch_size": 128, "val_size": 30},
            )
        )

    def training(source, first=0):
        return torch.cat([batch.images for batch in source.epoch(0, first, (0, 1))])

    right, wrong = source(0.0), source(0.5)
    changed = ~torch.isclose(training(right), training(wrong), atol=1e-4).flatten(1).all(1)
    assert 0.3 < changed.float().mean() < 0.7
    assert torch.equal(training(wrong, 2), training(wrong)[64:])
    checked = [next(iter(s.validation((0, 1)))).images for s in (right, wrong)]
    assert torch.equal(*checked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"physics": "none", "wrong_fits": 0.1}, "wrong_fits needs a fit"),
        ({"fresh_noise": "instrument", "noise": "none"}, "fresh_noise must be none"),
        ({"crop": 33}, "smaller by an even number"),
        ({"channels": 3}, "only one channel can be repeated"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train("model_ii", out=str(tmp_path / "x"), **{"physics": "residual", **TINY, **options})


def test_a_file_that_does_not_say_its_survey_is_refused(tmp_path):
    from haloformer.data.dataset_writer import write_dataset

    lenses = simulate("model_ii", 60, seed=1, noise="instrument")
    path = tmp_path / "a.h5"
    write_dataset(path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, {})
    with pytest.raises(InputError, match="does not say of which survey"):
        train(str(path), out=str(tmp_path / "x"), physics="residual", **TINY)
    with pytest.raises(InputError, match="wrong_fits is for images simulated"):
        train(str(path), out=str(tmp_path / "x"), physics="residual", wrong_fits=0.1, **TINY)


def test_with_the_place_fitted_a_moved_image_gives_the_same_channels(lenses):
    residual = Residual(definition(lenses), "original", 96, detail=True, fit_place=True)
    assert Residual.from_dict(json.loads(json.dumps(residual.to_dict()))) == residual
    here = residual.look(lenses.images)
    moved = residual.look(lenses.images.roll((2, -3), (2, 3)))  # two rows on, three columns back
    shift = torch.tensor([-3.0, 2.0, 0.0])
    assert (moved.places - here.places - shift).abs().max() < 0.05
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    difference = (moved.channels - here.channels)[inner]
    assert (difference[:, 1:].abs() < 0.5).float().mean() > 0.999
    assert torch.equal(moved.channels[inner][:, :1], here.channels[inner][:, :1])
    known = residual.look(lenses.images, torch.full((6,), 0.01))
    assert (known.places[:, 2] == 0.01).all()


def test_less_than_three_quarters_of_a_pixel_moves_no_image():
    images = torch.arange(2 * 36.0).reshape(2, 1, 6, 6)
    still = recentred(images, torch.tensor([[0.7, -0.7], [0.0, 0.74]]))
    assert torch.equal(still, images)
    moved = recentred(images, torch.tensor([[0.0, 0.0], [0.8, -2.1]]))
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved[1], images[1].roll((2, -1), (1, 2)))
