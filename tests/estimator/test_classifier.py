"""`LensClassifier` behaves as scikit-learn expects: clones, crosses, tells labels of any kind, and refuses what is no image."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

import haloformer
from haloformer.errors import InputError

SMALL = {"model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}}


def small(**options):
    return haloformer.LensClassifier("vit_nano", epochs=1, options=SMALL, **options)


@pytest.fixture(scope="module")
def lenses():
    found = haloformer.simulate("model_ii", 60, seed=1)
    return found.images[:, 0].numpy(), np.array(found.class_names)[found.labels.numpy()]


@pytest.fixture(scope="module")
def fitted(lenses):
    return small().fit(*lenses)


def test_it_learns_what_can_be_learned():
    """Bright and faint squares: a network that learns nothing gets half of them."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 260)
    X = rng.random((260, 16, 16)).astype(np.float32)
    X[:, 4:12, 4:12] += 3 * y[:, None, None]
    classifier = haloformer.LensClassifier("vit_nano", epochs=6, options=SMALL).fit(
        X[:150], y[:150]
    )
    assert classifier.score(X[150:], y[150:]) > 0.9


def test_probabilities_are_those_of_the_classes_in_their_order(fitted, lenses):
    X, y = lenses
    assert fitted.classes_.tolist() == sorted(set(y))
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    by_name = dict(zip(fitted.predictor_.class_names, fitted.predictor_.probabilities(X).numpy().T))
    for k, name in enumerate(fitted.classes_):
        np.testing.assert_allclose(probabilities[:, k], by_name[name])
    assert fitted.predict(X).tolist() == fitted.classes_[probabilities.argmax(1)].tolist()
    with pytest.raises(InputError, match="20 of these are needed"):
        fitted.unusual(X)
    assert {"val_accuracy", "val_macro_auc"} <= fitted.metrics_.keys()
    assert fitted.predictor_(X[:2]).to_table().colnames[1] == "class"


@pytest.mark.parametrize("labels", [[0, 1], [3, 7], [True, False], ["no/sub", "cdm"], [1.0, 2.0]])
def test_labels_may_be_anything_that_sorts(lenses, labels):
    y = np.array(labels)[np.arange(60) % 2]
    classifier = small().fit(lenses[0], y)
    assert classifier.classes_.tolist() == sorted(labels)
    assert set(classifier.predict(lenses[0])) <= set(labels)


def test_the_same_state_gives_the_same_network(fitted, lenses):
    X, y = lenses
    again = clone(fitted).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    other = clone(fitted).set_params(random_state=np.random.RandomState(5)).fit(X, y)
    assert not np.array_equal(other.predict_proba(X), fitted.predict_proba(X))


def test_it_is_pickled_and_its_run_can_be_kept(fitted, lenses, tmp_path):
    X, y = lenses
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(fitted)).predict_proba(X), fitted.predict_proba(X)
    )
    kept = small(out=str(tmp_path / "run")).fit(X, y)
    np.testing.assert_allclose(
        haloformer.load(tmp_path / "run").probabilities(X), kept.predict_proba(X)
    )


def test_it_is_crossed_and_searched_flattened_or_not(lenses):
    X, y = lenses
    scores = cross_val_score(small(), X, y, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    flat = X.reshape(60, -1)
    found = GridSearchCV(small(image_shape=(64, 64)), {"lr": [1e-3, 1e-4]}, cv=2).fit(flat, y)
    assert found.best_params_["lr"] in (1e-3, 1e-4)
    assert found.best_estimator_.n_features_in_ == 64 * 64


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_mixin_order",
    ],
)
def test_what_scikit_learn_checks_of_estimators_that_are_not_fitted(check):
    function = getattr(estimator_checks, check, None)
    if function is None:
        pytest.skip(f"this scikit-learn has no {check}")
    function("LensClassifier", small())


def test_what_cannot_be_learned_from_is_refused_in_one_line(lenses, fitted):
    X, y = lenses
    for images, labels, message in (
        (X, None, "y is missing: give a label"),
        (X, y[:5], "60 images: one label each"),
        (X, np.zeros(60), "two classes or more"),
        (X[:12], y[:12], "of 10 images each at least; y has 4 of axion"),
        (X.reshape(60, -1), y, r"image_shape=\(H, W\) for flattened"),
        (np.where(X > 0, np.nan, X), y, r"NaN or infinite.*numpy\.nan_to_num"),
        (X[:0], y[:0], "there are no images"),
        (X, np.where(np.arange(60) % 2, np.nan, 1.0), r"no label for image 1 \(nan\)"),
        (X, [*y[:59], None], r"no label for image 59 \(None\)"),
        (X, [*y[:59], float("nan")], r"no label for image 59 \(nan\)"),
        (X, np.array([*y[:59], np.nan], dtype=object), r"no label for image 59 \(nan\)"),
        (X, np.ma.array(np.arange(60) % 2, mask=np.arange(60) == 7), r"for image 7 \(masked\)"),
        (X, np.arange(60) % 2 + 0.5, r"y holds 0\.5 for image 0, where a label is"),
        (X, np.where(np.arange(60) % 2, np.inf, 1), "y holds inf for image 1"),
        (X, np.array(["cdm", 1] * 30, dtype=object), r"mixes labels .* \(int, str\)"),
    ):
        with pytest.raises(InputError, match=message):
            small().fit(images, labels)
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        haloformer.LensClassifier("vit_nano", options={"epohs": 1}).fit(X, y)
    with pytest.raises(InputError, match="4096 numbers per image"):
        small(image_shape=(8, 8)).fit(X.reshape(60, -1), y)
    with pytest.raises(InputError, match="50 × 50"):
        fitted.predict(X[:, :50, :50])
    for ask in (small().predict, small().predict_proba, small().unusual):
        with pytest.raises(NotFittedError):
            ask(X)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"options": {"data": "model_ii"}}, "data cannot be 'model_ii' here: X and y are"),
        ({"options": {"data.source": "model_ii"}}, "data cannot be 'model_ii' here"),
        ({"options": {"data": {"source": "model_ii"}}}, "data cannot be 'model_ii' here"),
        ({"options": {"out": "elsewhere"}}, "out cannot be 'elsewhere' here"),
        ({"options": {"classes": "substructure"}}, "classes cannot be 'substructure' here"),
        ({"options": {"task": "both"}}, "task cannot be 'both' here"),
        ({"preset": "mass"}, "task cannot be 'regression' here"),
        ({"options": 3}, "options must be a mapping"),
        ({"options": {"preset": "quick"}}, "options cannot hold preset"),
        ({"batch_size": "a"}, "batch_size must be a whole number, not 'a'"),
        ({"out": "tests"}, "out: tests is not empty, and each fit needs a new folder"),
    ],
)
def test_no_other_training_is_done_than_of_the_images_given(lenses, options, said):
    with pytest.raises(InputError) as error:
        haloformer.LensClassifier("vit_nano", **{"epochs": 1, **options}).fit(*lenses)
    assert str(error.value).startswith(said)


def test_options_may_be_said_in_groups(lenses, tmp_path):
    options = {"data": {"batch_size": 8}, "model": "cct_nano", "schedule.epochs": 2}
    out = tmp_path / "run"
    haloformer.LensClassifier("vit_nano", epochs=1, options=options, out=out).fit(*lenses)
    config = (out / "config.yaml").read_text(encoding="utf-8")
    for said in ("batch_size: 8\n", "name: cct_nano\n", "epochs: 2\n"):
        assert said in config


@pytest.mark.parametrize("shape", [3, "64", (64,), (1, 1, 64, 64), (-64, -64), (64.0, 64)])
def test_the_shape_of_flattened_images_is_one(lenses, shape):
    X, y = lenses
    with pytest.raises(InputError, match=r"^image_shape must be "):
        small(image_shape=shape).fit(X.reshape(60, -1), y)
