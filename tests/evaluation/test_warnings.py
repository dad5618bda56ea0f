"""What an evaluation says of doubtful test images: unlike the training's, mislabelled, there twice, or trained on."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.evaluation import calibrate, evaluate
from haloformer.evaluation.duplicates import image_hashes
from haloformer.prediction import predictor as prediction
from haloformer.simulation import simulate

pytestmark = pytest.mark.usefixtures("opened_at_once")

LENSES = simulate("model_ii", 60, seed=5, noise="instrument")


def stored(path, images=LENSES.images, labels=LENSES.labels):
    write_dataset(path, images, labels, {}, LENSES.class_names, {})
    return path


def judged(run, data, out):
    return evaluate(str(run), str(data), out=str(out), device="cpu")


def warned(result, text):
    return [warning for warning in result["warnings"] if text in warning]


@pytest.fixture
def knowing(monkeypatch):
    """Makes the network answer with logits that grow with the label which a function gives each image."""

    def answers(label_of):
        def numbers(self, images, **options):
            wanted = torch.tensor([label_of(image) for image in images])
            noise = torch.rand(len(images), 3, generator=torch.Generator().manual_seed(len(images)))
            return torch.nn.functional.one_hot(wanted, 3).float() + 0.1 * noise

        monkeypatch.setattr(prediction.Predictor, "numbers", numbers)

    return answers


def label_of(image):
    return int(LENSES.labels[int((LENSES.images == image).flatten(1).all(1).nonzero()[0])])


def test_exchanged_labels_are_noticed_and_named(run, tmp_path, undrawn, knowing):
    knowing(label_of)
    fair = judged(run, stored(tmp_path / "fair.h5"), tmp_path / "fair")
    assert fair["macro_auc"]["value"] == 1
    assert not warned(fair, "0.5")
    exchanged = torch.tensor([1, 0, 2])[LENSES.labels]
    result = judged(run, stored(tmp_path / "x.h5", labels=exchanged), tmp_path / "x")
    (warning,) = warned(result, "far below 0.5")
    assert result["per_class"]["axion"]["auc"]["value"] < 0.4
    assert "those labelled axion as cdm, those labelled cdm as axion" in warning


def test_guesses_are_not_taken_for_exchanged_labels(run, tmp_path, undrawn, knowing):
    knowing(lambda image: int(1e6 * float(image.sum())) % 3)
    assert not warned(judged(run, stored(tmp_path / "a.h5"), tmp_path / "a"), "exchanged")


def test_a_model_that_guesses_is_said_to_be_of_no_use(run, tmp_path, undrawn, knowing):
    knowing(lambda image: int(1e6 * float(image.sum())) % 3)
    guesses = judged(run, stored(tmp_path / "a.h5"), tmp_path / "a")
    (warning,) = warned(guesses, "guessing")
    assert f"{guesses['macro_auc']['value']:.3f}" in warning
    assert not warned(guesses, "whatever their class")
    many = LENSES.images.repeat(10, 1, 1, 1) * torch.linspace(1, 1.1, 600)[:, None, None, None]
    more = judged(run, stored(tmp_path / "many.h5", many, LENSES.labels.repeat(10)), tmp_path / "m")
    assert warned(more, "of no use")
    knowing(label_of)
    assert not warned(judged(run, tmp_path / "a.h5", tmp_path / "b"), "guessing")


def test_one_answer_for_all_images_is_said(run, tmp_path, undrawn, knowing):
    knowing(lambda image: 1)
    path = stored(tmp_path / "a.h5")
    result = judged(run, path, tmp_path / "a")
    assert warned(result, "It answers cdm for all images, whatever their class.")


def test_without_data_it_is_the_survey_of_the_training(run, tmp_path, undrawn):
    result = evaluate(str(run), n=9, out=str(tmp_path / "a"), device="cpu")
    assert result["protocol"]["survey"] == "model_ii"
    assert result["n_images"] == 9
    told = json.loads((run / "artefact" / "artefact.json").read_text())
    (run / "artefact" / "artefact.json").write_text(json.dumps({**told, "survey": "mine"}))
    with pytest.raises(InputError, match=r"no survey is found here: name a dataset .*--data"):
        evaluate(str(run), n=9, out=str(tmp_path / "b"), device="cpu")


def test_without_data_it_is_the_survey_of_ones_own_of_the_training(run, tmp_path, undrawn):
    path = tmp_path / "model_ii.yaml"  # the name of a shipped one, whose lens is larger
    path.write_text("base: model_ii\ndeflector: {base: sie_1e12, mass: 5.0e+11}\n")
    described = run / "artefact" / "artefact.json"
    told = json.loads(described.read_text())
    told["training"]["data"] = str(path)
    described.write_text(json.dumps(told))
    evaluate(str(run), n=9, seed=5, out=str(tmp_path / "own"), device="cpu")
    evaluate(str(run), str(path), n=9, seed=5, out=str(tmp_path / "named"), device="cpu")
    evaluate(str(run), "model_ii", n=9, seed=5, out=str(tmp_path / "shipped"), device="cpu")
    own, named, shipped = (
        (tmp_path / name / "predictions.csv").read_text() for name in ("own", "named", "shipped")
    )
    assert own == named != shipped
    path.unlink()
    with pytest.raises(InputError, match=r"model_ii\.yaml, of which no survey is found here"):
        evaluate(str(run), n=9, out=str(tmp_path / "b"), device="cpu")


def test_most_images_out_of_distribution_are_said_to_be(run, tmp_path, undrawn):
    known = shutil.copytree(run, tmp_path / "known")
    calibrate(str(known), n=300, device="cpu")
    usual = judged(known, stored(tmp_path / "usual.h5"), tmp_path / "usual")
    assert usual["n_out_of_distribution"] <= 5
    assert not warned(usual, "unlike")
    strange = LENSES.images.clone()
    strange[:40] *= 1000
    result = judged(known, stored(tmp_path / "strange.h5", strange), tmp_path / "strange")
    assert result["n_out_of_distribution"] >= 40
    assert warned(result, "Most images")
    with (tmp_path / "strange" / "predictions.csv").open(newline="") as stream:
        assert [row["ood"] for row in csv.DictReader(stream)][:40] == 40 * ["True"]
    strange[10:40] = LENSES.images[10:40]
    some = judged(known, stored(tmp_path / "some.h5", strange), tmp_path / "some")
    assert warned(some, "Many images")


def test_without_a_detector_nothing_is_said(run, tmp_path, undrawn):
    assert judged(run, stored(tmp_path / "a.h5"), tmp_path / "a")["n_out_of_distribution"] is None


def test_images_that_are_there_twice_are_counted(run, tmp_path, undrawn):
    once = judged(run, stored(tmp_path / "a.h5"), tmp_path / "a")
    assert once["duplicates"] == {"within": 0, "in_training": None}
    assert not warned(once, "more than once")
    images = LENSES.images.clone()
    images[[7, 8]] = LENSES.images[3]  # three of a kind
    images[20] = LENSES.images[50]  # and a pair
    twice = judged(run, stored(tmp_path / "b.h5", images), tmp_path / "b")
    assert twice["duplicates"]["within"] == 5
    assert warned(twice, "5 of 60 images occur more than once")
    saved = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert saved["duplicates"] == twice["duplicates"]


def test_test_images_that_were_trained_on_are_counted(run, tmp_path, undrawn):
    seen = stored(tmp_path / "train.h5", LENSES.images[:30], LENSES.labels[:30])
    path = run / "artefact" / "artefact.json"
    artefact = json.loads(path.read_text())
    artefact["training"] = {"data": str(seen)}
    path.write_text(json.dumps(artefact))
    tested = slice(18, 60)
    test = stored(tmp_path / "test.h5", LENSES.images[tested], LENSES.labels[tested])
    result = judged(run, test, tmp_path / "a")
    assert result["duplicates"] == {"within": 0, "in_training": 12}
    assert result["contaminated"]
    assert warned(result, "12 of 42 test images are also in the file")
    seen.write_bytes(b"no longer a dataset")
    unreadable = judged(run, test, tmp_path / "b")
    assert unreadable["duplicates"]["in_training"] is None
    assert not unreadable["contaminated"]


def test_images_that_are_equal_have_equal_hashes_and_others_have_not():
    zeros = torch.zeros(2, 1, 4, 4)
    zeros[1] = -0.0
    first, second = image_hashes(zeros)
    assert first == second
    almost = LENSES.images[:1].clone()
    almost[0, 0, 0, 0] = np.nextafter(almost[0, 0, 0, 0], np.float32(1))
    assert image_hashes(almost) != image_hashes(LENSES.images[:1])
